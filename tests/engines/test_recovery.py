"""A TaskManager that is killed in the middle of a job changes nothing."""

import os
import signal

import pytest
from oracle import compare, made
from oracle.command import headrace

from engines import jobs, started

_SHARED = ("read", "rejected", "features", "label", "splits")


def test_a_task_manager_is_killed_in_the_middle(tmp_path):
    lines = made.adult_lines(400_000)
    path = jobs.adult_spec(tmp_path, lines)
    assert headrace("run", path, "--output", tmp_path / "local", "--quiet").returncode == 0
    wanted = jobs.manifest(tmp_path / "local")
    out = tmp_path / "out"
    try:
        with started.flink(tmp_path) as there:
            job = jobs.started(path, there, "--quiet", "--block-mb", "1", "--workers", "1")
            try:  # Rejected records are written while the input is read for the first time.
                jobs.wait_for(job, lambda: any((out / "rejected").glob("*.jsonl")))
                os.kill(int((tmp_path / "flink/taskmanager-0.pid").read_text()), signal.SIGKILL)
                said, _ = job.communicate(timeout=240)
            finally:
                job.kill()
            log = (tmp_path / "flink/jobmanager.log").read_text()
    except started.NotThereError as why:
        pytest.skip(str(why))
    assert job.returncode == 0, said
    assert "switched from state RUNNING to RESTARTING" in log, "the job must have noticed"
    found = jobs.manifest(out)
    assert {name: found[name] for name in _SHARED} == {name: wanted[name] for name in _SHARED}
    shards = compare.bytes_of_shards(out, found)
    assert shards == compare.bytes_of_shards(tmp_path / "local", wanted)
    written = sum(split["num_examples"] for split in found["splits"].values())
    assert found["read"] == written + sum(found["rejected"].values())
    assert found["read"] == sum(bool(line.strip()) for line in lines)  # A blank line is no record.
