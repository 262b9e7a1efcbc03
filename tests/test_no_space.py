"""A disk that is full: one line says which, nothing is left of the try, and the next goes on.

On a disk that fills up, as far as that can be had without one: no file may be larger than a limit.
"""

import subprocess
import sys

import pytest
from oracle.command import arguments

from beam_jobs.verify import verify

SPEC = """\
name = "made"
[source]
format = "csv"
paths = ["in.csv"]
[split]
key = "*"
fractions = {{ train = 1.0 }}
[features]
{name} = {{ column = "word", dtype = "string"{options} }}
[output]
num_shards = 1
"""
LIMITED = """\
import resource, signal, sys
from headrace.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""
VOCABULARY = ', transform = "compute_and_apply_vocabulary", frequency_threshold = 2'


def limited(folder, num_bytes):
    words = ["run", "made.toml", "--output", "out", "--temp-dir", "temp", "--quiet"]
    command = [sys.executable, "-c", LIMITED, str(num_bytes), *words]
    return subprocess.run(
        command, cwd=folder, env=arguments()["env"], capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "temp").mkdir()
    words = "".join(f"word {index // 2}\n" for index in range(60_000))
    (tmp_path / "in.csv").write_text("word\n" + words)
    return tmp_path


@pytest.mark.parametrize(
    "limit, options, name",
    [(30_000, VOCABULARY, "word"), (400_000, "", "word")],
    ids=["counting", "shuffle"],
)
def test_no_room_for_temporary_files(limit, options, name, folder):
    (folder / "made.toml").write_text(SPEC.format(name=name, options=options))
    done = limited(folder, limit)
    start, _, end = done.stderr.partition("temp/headrace-")
    assert start == "headrace: "
    assert end[8:] == ": File too large. Make room, or give another folder with --temp-dir.\n"
    assert done.returncode == 1 and not list((folder / "temp").iterdir())


def test_no_room_for_a_shard(folder):
    """A name of 200 letters makes records larger than what is spilled of them."""
    (folder / "made.toml").write_text(SPEC.format(name="w" * 200, options=VOCABULARY))
    done = limited(folder, 4_000_000)
    shard = "train-00000-of-00001.tfrecord"
    assert done.stderr == (
        f"headrace: [Errno 27] File too large: '{shard}'. Mend that, and run the same command "
        "again to go on.\n"
    )
    assert done.returncode == 1 and not list((folder / "temp").iterdir())
    assert not list((folder / "out").glob("*.tfrecord"))
    assert limited(folder, 1 << 40).returncode == 0
    assert (folder / "out" / shard).stat().st_size > 4_000_000 and verify(str(folder / "out")) == []
