"""Ctrl-C ends the job on the engine, too, and says so."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from oracle import made, specs
from oracle.command import arguments

from engines import started

CANCELED = "headrace: interrupted, the job is canceled; run the same command again to go on.\n"


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.2)


def states(master: str) -> list[str]:
    with urllib.request.urlopen(f"http://{master}/jobs", timeout=10) as answer:
        return [job["status"] for job in json.load(answer)["jobs"]]


def spec(folder: Path) -> Path:
    """Rows for half a minute."""
    files = made.write_cut(folder / "table", made.adult_lines(400_000), 1)
    path = folder / "spec.toml"
    path.write_text(specs.with_paths(specs.ADULT, files))
    return path


def interrupted(words, folder: Path, when) -> tuple[int, str]:
    """Runs the command and interrupts it as a terminal does: all processes of its group."""
    command = arguments("run", spec(folder), "--output", folder / "out", "--quiet", *words)
    job = subprocess.Popen(
        **command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: job.poll() is not None or when())
        assert job.poll() is None, job.stdout.read()
        os.killpg(job.pid, signal.SIGINT)
        said, _ = job.communicate(timeout=90)
    finally:
        job.kill()
    assert not (folder / "out" / "dataset_info.json").exists()
    return job.returncode, said


def test_ctrl_c_cancels_the_job_on_flink(tmp_path):
    try:
        with started.flink(tmp_path) as words:
            master = next(w for w in words if w.startswith("--flink_master=")).split("=")[1]
            status, said = interrupted(words, tmp_path, lambda: "RUNNING" in states(master))
            assert states(master) == ["CANCELED"]
    except started.NotThereError as why:
        pytest.skip(str(why))
    assert (status, said) == (130, CANCELED)


def applications(folder: Path, kind: str) -> list[str]:
    """What Spark's master says of the jobs that are "active", or "completed"."""
    page = json.loads((folder / "spark" / "cluster.json").read_text())["page"]
    with urllib.request.urlopen(f"http://localhost:{page}/json/", timeout=10) as answer:
        return [job["state"] for job in json.load(answer)[f"{kind}apps"]]


def test_ctrl_c_cancels_the_job_on_spark(tmp_path):
    def is_at_work() -> bool:
        logs = (tmp_path / "spark" / "work").glob("*/*/stderr")
        return any("Running task" in log.read_text() for log in logs)

    try:
        with started.spark(tmp_path) as words:
            status, said = interrupted(words, tmp_path, is_at_work)
            wait_for(lambda: not applications(tmp_path, "active"), 20)
            assert applications(tmp_path, "completed") == ["FINISHED"]  # As its driver has said.
    except started.NotThereError as why:
        pytest.skip(str(why))
    assert (status, said) == (130, CANCELED)
