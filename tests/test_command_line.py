"""The command line: help at once, quiet when asked, errors in one line; and the layers."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oracle.command import ROOT, arguments, headrace

import headrace as package

COMMANDS = ("demo", "run", "verify", "inspect", "train", "evaluate")
HEAVY = ("tensorflow", "apache_beam", "pyarrow", "keras", "numpy", "duckdb", "pydantic")
SPEC = """\
name = "t"
[source]
format = "csv"
paths = ["t.csv"]
[split]
fractions = { train = 0.7, test = 0.3 }
[features]
x = { dtype = "float32", transform = "scale_to_z_score" }
[label]
column = "y"
[output]
num_shards = 2
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A dataset made by the command, and what it printed."""
    folder = tmp_path_factory.mktemp("command")
    rows = [f"{number},{'ab'[number % 2]}\n" for number in range(50)]
    (folder / "t.csv").write_text("x,y\n" + "".join(rows) + "one,a\n")
    (folder / "t.toml").write_text(SPEC)
    done = subprocess.run(
        **arguments("run", folder / "t.toml", "--output", folder / "out"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return folder, done


def test_a_run_says_what_it_did_and_nothing_else(finished):
    folder, done = finished
    assert (done.returncode, done.stderr) == (0, "")
    info = json.loads((folder / "out" / "dataset_info.json").read_text())
    written = {split: entry["num_examples"] for split, entry in info["splits"].items()}
    assert sum(written.values()) == 50 and min(written.values()) > 0
    assert done.stdout.splitlines() == [
        "t: 51 records read",
        f"  written   50: train {written['train']}, test {written['test']}",
        "  rejected  1: unparsable_x 1",
        "  classes   2: a, b",
        f"  shards    4, 0.0 MB in {folder}/out",
    ]


def test_a_second_run_leaves_the_dataset_as_it_is(finished):
    folder, first = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    again = headrace("run", folder / "t.toml", "--output", folder / "out")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")} == before
    quiet = headrace("run", folder / "t.toml", "--output", folder / "out", "--quiet")
    assert (quiet.returncode, quiet.stdout) == (0, "")


def test_overwrite_writes_the_same_bytes_again(finished):
    folder, _ = finished
    shard = next((folder / "out").glob("train-00000*"))
    before = shard.read_bytes()
    shard.write_bytes(before[:-1])
    done = headrace("run", folder / "t.toml", "--output", folder / "out", "--overwrite", "--quiet")
    assert (done.returncode, done.stdout) == (0, "")
    assert shard.read_bytes() == before


def test_inspect_shows_records(finished):
    folder, _ = finished
    done = headrace("inspect", folder / "out", "-n", "2")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == "train record 0 (train-00000-of-00002.tfrecord, record 0)"
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["x", "label"] * 2


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--temp-dir", "/nowhere"],
            "/nowhere: No such file or directory. Give another --temp-dir.",
        ),
        (["--workers", "0"], "--workers must be at least 1, but is 0."),
        (["--block-mb", "0"], "--block-mb must be finite and above 0, but is 0.0."),
        (["--block-mb", "inf"], "--block-mb must be finite and above 0, but is inf."),
        (
            ["--temp-dir", "a[1]"],
            "--temp-dir: 'a[1]' holds '[', which TensorFlow takes for a pattern. "
            "Give another folder.",
        ),
        (["--output", ""], "--output: must name a folder, but is empty. Give a folder."),
        (
            ["--output", "out\udcff"],
            "--output: b'out\\xff' is not UTF-8. Give another folder.",
        ),
        (
            ["--output", "nowhere://out"],
            "--output: 'nowhere://out': Unable to get filesystem from specified path, please use "
            "the correct path or ensure the required dependency is installed, e.g., pip "
            "install apache-beam[gcp]. Path specified: nowhere://out",
        ),
        (
            ["--output", "out*"],
            "--output: 'out*' holds '*', which TensorFlow takes for a pattern. "
            "Give another folder.",
        ),
        (
            ["--runner", "flnk"],
            "--runner must be local, flink, dataflow, spark, prism or the class of a Beam runner, "
            "but is 'flnk'.",
        ),
        (
            ["--runner", "no.such.Runner"],
            "--runner no.such.Runner: No module named 'no'. Install what it needs.",
        ),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(words, message, finished, tmp_path):
    folder, _ = finished
    done = headrace("run", folder / "t.toml", "--output", tmp_path / "out", *words)
    assert (done.returncode, done.stdout) == (2, f"headrace: {message}\n")


def test_version():
    done = headrace("--version")
    assert (done.returncode, done.stdout) == (0, f"headrace {package.__version__}\n")


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)])
def test_help_comes_at_once_and_imports_nothing_heavy(words):
    code = "import sys\nfrom headrace.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    code += f"    print([name for name in {HEAVY} if name in sys.modules])"
    command = arguments()
    command["args"] = [sys.executable, "-c", code, *words, "--help"]
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        done = subprocess.run(**command, capture_output=True, text=True)
        seconds.append(time.monotonic() - start)
        assert done.stdout.startswith("usage: ")
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < 0.3


def imports(package_name: str) -> set[str]:
    """The first parts of all names that a package's files import."""
    found = set()
    for path in (Path(ROOT) / package_name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found


def test_layers():
    assert "apache_beam" in imports("beam_jobs") and "tensorflow" in imports("trainer")
    assert not imports("trainer") & {"beam_jobs", "headrace", "apache_beam", "tensorflow_transform"}
    assert not imports("beam_jobs") & {"trainer", "headrace"}


def test_a_job_imports_no_keras_and_leaves_everything_as_it_was():
    code = (
        "import gc, os, sys; from headrace import console; console.import_run(); "
        "print('keras' in sys.modules, gc.isenabled(), 'TF_USE_LEGACY_KERAS' in os.environ); "
        "import keras; print(keras.__version__.startswith('3.'))"
    )
    # TFT, which other tests import, sets the variable for good.
    clean = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "True", "False", "True"], found.stderr


@pytest.mark.parametrize("is_alone", [True, False])
def test_only_code_of_the_user_and_engines_get_what_a_job_does_not_use(is_alone):
    code = (
        f"import sys; from headrace import console; console.import_run(is_alone={is_alone}); "
        "from tf_keras.src.saving.legacy import hdf5_format; "
        "print('pymongo' in sys.modules, hdf5_format.h5py is not None); "
        "import h5py, pymongo; print(pymongo.version_tuple > (3,))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    there = str(not is_alone)
    assert found.stdout.split() == [there, there, "True"], found.stderr


def test_an_answer_that_cannot_be_written_is_an_error(finished):
    folder, _ = finished
    call = arguments("verify", folder / "out")
    call["env"].pop("PYTHONUNBUFFERED", None)  # The error comes at the end, with the last flush.
    with open("/dev/full", "w") as full:
        done = subprocess.run(**call, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "headrace: [Errno 28] No space left on device\n"
