"""Flink for real: a cluster of three processes on this machine, Python workers without containers.

$HEADRACE_FLINK chooses the versions, "1.20:2.77.0"; by default the first that can be had.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle.command import ROOT

from beam_jobs import worker_boot
from engines import started, sums
from engines.started import cluster

PARALLELISM = 4


@dataclasses.dataclass(frozen=True)
class Cluster:
    port: int
    jar: str
    folder: Path

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://localhost:{self.port}{path}", timeout=10) as response:
            return json.load(response)

    def flags(self, temp: Path) -> list[str]:
        """What FlinkRunner must be told."""
        command = str(worker_boot.script(temp / "boot.sh"))
        return [
            "--runner=FlinkRunner",
            f"--flink_master=localhost:{self.port}",
            f"--flink_job_server_jar={self.jar}",
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': command})}",
            f"--parallelism={PARALLELISM}",
        ]


@pytest.fixture(scope="module")
def jar() -> tuple[str, str]:
    """Flink's version and the path of a job server."""
    try:
        return started.job_server("flink", started.FLINK)
    except started.NotThereError as why:
        pytest.skip(str(why))


@pytest.fixture
def flink(jar, tmp_path) -> Iterator[Cluster]:
    """Two TaskManagers with four slots each, so that one of them can take the whole job."""
    version, path = jar
    folder = tmp_path / "flink"
    done = cluster("flink", "start", "--version", version, "--folder", folder)
    if done.returncode and "cannot be reached" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    port = int(done.stdout.strip().rsplit(":", 1)[1])
    try:
        yield Cluster(port, path, folder)
    finally:
        assert cluster("flink", "stop", "--folder", folder).returncode == 0


@pytest.fixture
def job(flink, tmp_path) -> Iterator[subprocess.Popen]:
    """The pipeline, submitted; it takes some ten seconds of sleep in each of two steps."""
    (tmp_path / "marks").mkdir()
    command = [sys.executable, str(ROOT / "tests" / "engines" / "sums.py")]
    command += ["--output", str(tmp_path / "out" / "sums"), "--marks", str(tmp_path / "marks")]
    command += ["--seconds", "0.5", *flink.flags(tmp_path)]
    with open(tmp_path / "job.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def marks(tmp_path: Path, step: str) -> Counter:
    """How often the slow work of a step was done, by key."""
    return Counter(int(path.name.split("-")[1]) for path in tmp_path.glob(f"marks/{step}-*"))


def workers(tmp_path: Path) -> set[str]:
    return {path.name.split("-")[2] for path in tmp_path.glob("marks/*")}


def check_output(tmp_path: Path) -> None:
    # A step that makes Beam's temporary folder and is run again forgets the first one.
    shards = sorted((tmp_path / "out").glob("sums*"))
    assert [path.name for path in shards] == [f"sums-0000{i}-of-00003" for i in range(3)]
    assert sorted("".join(path.read_text() for path in shards).splitlines()) == sums.expected()


def wait_for(job: subprocess.Popen, condition, tmp_path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        log = (tmp_path / "job.log").read_text()[-3000:]
        assert job.poll() is None, f"the job has ended:\n{log}"
        assert time.monotonic() < end, f"too late:\n{log}"
        time.sleep(0.05)


def finish(job: subprocess.Popen, tmp_path: Path) -> None:
    status = job.wait(timeout=240)
    assert status == 0, (tmp_path / "job.log").read_text()[-3000:]


def alive(pid: str) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
    return bool(found.stdout.strip()) and not found.stdout.startswith("Z")


def test_a_job_writes_what_plain_python_does(flink, job, tmp_path):
    finish(job, tmp_path)
    check_output(tmp_path)
    assert len(workers(tmp_path)) == 2, "both TaskManagers must have worked"
    assert set(marks(tmp_path, "total")) == set(range(sums.KEYS))


@pytest.mark.parametrize("step", ["square", "total"])
def test_a_lost_task_manager_changes_nothing(flink, job, tmp_path, step):
    wait_for(job, lambda: marks(tmp_path, step).total() >= 8, tmp_path)
    assert len(workers(tmp_path)) == 2, "both TaskManagers must be at work"
    os.kill(int((flink.folder / "taskmanager-0.pid").read_text()), signal.SIGKILL)
    finish(job, tmp_path)
    check_output(tmp_path)
    assert max(marks(tmp_path, step).values()) > 1, "some work must have been done again"
    assert flink.get("/overview")["taskmanagers"] == 1


def test_no_process_is_left(flink, job, tmp_path):
    wait_for(job, lambda: len(workers(tmp_path)) == 2, tmp_path)
    pids = [path.read_text() for path in flink.folder.glob("*.pid")]
    assert len(pids) == 3
    assert cluster("flink", "stop", "--folder", flink.folder).returncode == 0
    left = [pid for pid in [*pids, *workers(tmp_path)] if alive(pid)]
    assert left == []
