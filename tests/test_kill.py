"""A run that is killed publishes nothing; run again, it ends with an undisturbed run's bytes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from oracle import compare
from oracle.command import LIMIT_SECONDS, arguments, headrace


def _shards_so_far(folder: Path) -> int:
    """Files anywhere under the folder that look like shards, finished or not."""
    return sum("tfrecord" in name for _, _, names in os.walk(folder) for name in names)


# When to kill: what has to be there, and how long after it.
MOMENTS = {
    "as soon as there is progress": lambda folder: (folder / ".progress").exists(),
    "at the first shard": lambda folder: _shards_so_far(folder) >= 1,
    "at the seventh shard": lambda folder: _shards_so_far(folder) >= 7,
}


def _kill(process: subprocess.Popen, has_come) -> bool:
    """Kills the process group with SIGKILL at the moment; False where the process ended before."""
    until = time.monotonic() + LIMIT_SECONDS
    while not has_come() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)  # Not waited for yet: the group still exists.
    return process.wait() == -signal.SIGKILL


@pytest.mark.runs("adult-big")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_publishes_nothing_and_the_next_one_finishes_it(runs, tmp_path, moment):
    undisturbed, folder = runs["adult-big"], tmp_path / "out"
    words = ["run", undisturbed.spec, "--output", folder, "--quiet", *undisturbed.case.arguments()]
    with open(tmp_path / "printed", "w") as printed:
        process = subprocess.Popen(
            **arguments(*words), start_new_session=True, stdout=printed, stderr=printed
        )
        is_killed = _kill(process, lambda: MOMENTS[moment](folder))
    assert is_killed, (tmp_path / "printed").read_text()
    assert (folder / ".progress").exists()
    assert not (folder / "dataset_info.json").exists()
    assert headrace("verify", folder).returncode != 0
    again = headrace(*words)
    assert again.returncode == 0, again.stdout
    assert not (folder / ".progress").exists()
    manifest = undisturbed.manifest
    wanted = compare.bytes_of_shards(undisturbed.folder, manifest)
    assert len(wanted) == 12
    found = json.loads((folder / "dataset_info.json").read_text())
    assert compare.bytes_of_shards(folder, found) == wanted
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        p.name for p in undisturbed.folder.iterdir()
    )
    assert found["features"] == manifest["features"]
