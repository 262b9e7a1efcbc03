"""A run that is killed publishes nothing; run again, it ends with an undisturbed run's bytes."""

import functools
import hashlib
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


def _noted(folder: Path) -> set[str]:
    """The shards that the progress says are finished; one is noted after it stands in place."""
    return {path.name.removesuffix(".json") for path in folder.glob(".progress/*.tfrecord*.json")}


# When to kill: what has to be there.
MOMENTS = {
    "as soon as there is progress": lambda folder: (folder / ".progress").exists(),
    "at the first shard": lambda folder: _shards_so_far(folder) >= 1,
    "at the third finished shard": lambda folder: len(_noted(folder)) >= 3,
}


def _is_killed(words: list, has_come, printed: Path) -> bool:
    """Starts the command and kills its process group at the moment; False where it ended before."""
    until = time.monotonic() + LIMIT_SECONDS
    with open(printed, "w") as output:
        process = subprocess.Popen(
            **arguments(*words), start_new_session=True, stdout=output, stderr=output
        )
    while not has_come() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)  # Not waited for yet: the group still exists.
    return process.wait() == -signal.SIGKILL


def _finished(folder: Path, wanted: dict) -> dict[str, int]:
    """The shards that stand under their last name with their last bytes: when each was written."""
    files = {path.name: path for path in folder.glob("*.tfrecord*") if path.name in wanted}
    return {
        name: path.stat().st_mtime_ns
        for name, path in files.items()
        if hashlib.sha256(path.read_bytes()).hexdigest() == wanted[name][-1]
    }


@pytest.mark.runs("adult-big")
@pytest.mark.parametrize(
    "moments",
    [("as soon as there is progress", "at the first shard"), ("at the third finished shard",)],
    ids=" and then ".join,
)
def test_a_killed_run_publishes_nothing_and_the_next_one_finishes_it(runs, tmp_path, moments):
    undisturbed, folder = runs["adult-big"], tmp_path / "out"
    wanted = compare.bytes_of_shards(undisturbed.folder, undisturbed.manifest)
    assert len(wanted) == 12
    words = ["run", undisturbed.spec, "--output", folder, "--quiet", *undisturbed.case.arguments()]
    for moment in moments:
        printed = tmp_path / "printed"
        assert _is_killed(words, functools.partial(MOMENTS[moment], folder), printed), (
            printed.read_text()
        )
        assert (folder / ".progress").exists()
        assert not (folder / "dataset_info.json").exists()
    noted = _noted(folder)
    before = {name: when for name, when in _finished(folder, wanted).items() if name in noted}
    assert len(before) >= 3 or "finished" not in moments[-1]
    again = headrace(*words)
    assert again.returncode == 0, again.stdout
    found = json.loads((folder / "dataset_info.json").read_text())
    assert compare.bytes_of_shards(folder, found) == wanted
    assert found["features"] == undisturbed.manifest["features"]
    after = _finished(folder, wanted)
    assert {name: after[name] for name in before} == before  # Kept, not written once more.
    names = [sorted(path.name for path in run.iterdir()) for run in (folder, undisturbed.folder)]
    assert names[0] == names[1] and ".progress" not in names[0]
