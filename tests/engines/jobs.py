"""Jobs that take a while, and what tests do to them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from oracle import made, specs
from oracle.command import arguments

from engines.started import Engine


def adult_spec(folder: Path, lines: list[bytes]) -> Path:
    """A spec of these lines as one file; 400,000 of them last half a minute."""
    path = folder / "spec.toml"
    path.write_text(specs.with_paths(specs.ADULT, made.write_cut(folder / "table", lines, 1)))
    return path


def manifest(folder: Path) -> dict:
    return json.loads((folder / "dataset_info.json").read_text())


def wait_for(job: subprocess.Popen, condition, seconds: float = 120) -> None:
    """Waits for something that happens while the job runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, f"the job has ended too early: {job.stdout.read()}"
        assert time.monotonic() < end, "too late"
        time.sleep(0.1)


def started(spec: Path, there: Engine, *options) -> subprocess.Popen:
    """Starts `headrace run`, in a group of its own as a shell does."""
    return subprocess.Popen(
        **arguments("run", spec, "--output", there.output, *options, *there.words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def interrupted(job: subprocess.Popen, when) -> tuple[int, str]:
    """Interrupts a job as a terminal does: all processes of its group."""
    try:
        wait_for(job, when)
        os.killpg(job.pid, signal.SIGINT)
        said, _ = job.communicate(timeout=90)
    finally:
        job.kill()
    return job.returncode, said
