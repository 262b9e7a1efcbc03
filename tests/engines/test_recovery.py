"""A TaskManager that is killed in the middle of a job changes nothing."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from oracle import compare, made, specs
from oracle.command import arguments, headrace

from engines import started

_SHARED = ("read", "rejected", "features", "label", "splits")


def spec(folder: Path, lines: list[bytes]) -> Path:
    path = folder / "spec.toml"
    path.write_text(specs.with_paths(specs.ADULT, made.write_cut(folder / "table", lines, 1)))
    return path


def manifest(folder: Path) -> dict:
    return json.loads((folder / "dataset_info.json").read_text())


def wait_until(job: subprocess.Popen, condition) -> None:
    while not condition():
        assert job.poll() is None, "the job has ended too early"
        time.sleep(0.05)


def test_a_task_manager_is_killed_in_the_middle(tmp_path):
    lines = made.adult_lines(400_000)  # For half a minute.
    path = spec(tmp_path, lines)
    assert headrace("run", path, "--output", tmp_path / "local", "--quiet").returncode == 0
    wanted = manifest(tmp_path / "local")
    out = tmp_path / "out"
    try:
        with started.flink(tmp_path) as there:
            options = ("--output", out, "--quiet", "--block-mb", "1", "--workers", "1")
            job = subprocess.Popen(
                **arguments("run", path, *options, *there.words),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:  # Rejected records are written while the input is read for the first time.
                wait_until(job, lambda: any((out / "rejected").glob("*.jsonl")))
                os.kill(int((tmp_path / "flink/taskmanager-0.pid").read_text()), signal.SIGKILL)
                said, _ = job.communicate(timeout=240)
            finally:
                job.kill()
            log = (tmp_path / "flink/jobmanager.log").read_text()
    except started.NotThereError as why:
        pytest.skip(str(why))
    assert job.returncode == 0, said
    assert "switched from state RUNNING to RESTARTING" in log, "the job must have noticed"
    found = manifest(out)
    assert {name: found[name] for name in _SHARED} == {name: wanted[name] for name in _SHARED}
    shards = compare.bytes_of_shards(out, found)
    assert shards == compare.bytes_of_shards(tmp_path / "local", wanted)
    written = sum(split["num_examples"] for split in found["splits"].values())
    assert found["read"] == written + sum(found["rejected"].values())
    assert found["read"] == sum(bool(line.strip()) for line in lines)  # A blank line is no record.
