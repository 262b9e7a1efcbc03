"""Workers of other versions than the launcher's: the job ends with one line that says it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
from oracle import made
from oracle.command import ROOT, headrace

from beam_jobs import worker_boot
from engines import jobs, started

WANTED = (
    f"headrace: workers on {socket.gethostname()}: must have the launcher's pyarrow "
    f"{metadata.version('pyarrow')}, but have pyarrow 0.1. Install the same there, or name others "
    "in --environment_config.\n"
)


def old_pyarrow(folder: Path) -> Path:
    """Makes a folder where Python finds the notes of an older pyarrow, before those of ours."""
    notes = folder / "old" / "pyarrow-0.1.dist-info"
    notes.mkdir(parents=True)
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: pyarrow\nVersion: 0.1\n")
    return notes.parent


def processes(folder: Path) -> Iterator[list[str]]:
    """Workers that the engine starts: they compare before anything else."""
    boot = folder / "boot.sh"
    worker = worker_boot.script(folder / "worker.sh")
    boot.write_text(f'#!/bin/sh\nPYTHONPATH="{old_pyarrow(folder)}" exec "{worker}" "$@"\n')
    boot.chmod(0o755)
    config = json.dumps({"command": str(boot)})
    yield ["--environment_type=PROCESS", f"--environment_config={config}"]


def pool(folder: Path) -> Iterator[list[str]]:
    """Workers that are started by Beam's own program, as in containers: they compare in a task."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    service = "apache_beam.runners.worker.worker_pool_main"
    path = os.pathsep.join([str(old_pyarrow(folder)), str(ROOT)])
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # "python".
    server = subprocess.Popen(
        [sys.executable, "-m", service, f"--service_port={port}"],
        env={**os.environ, "PYTHONPATH": path, "PATH": commands},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield ["--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"]
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(
    ("engine", "workers"), [("prism", processes), ("prism", pool), ("flink", processes)]
)
def test_another_version_of_a_package(engine, workers, tmp_path):
    spec = jobs.adult_spec(tmp_path, made.adult_lines(5000))
    try:
        with started.ENGINES[engine](tmp_path) as there, contextmanager(workers)(tmp_path) as more:
            done = headrace("run", spec, "--output", there.output, "--quiet", *there.words, *more)
    except started.NotThereError as why:
        pytest.skip(str(why))
    assert (done.returncode, done.stdout) == (2, WANTED)
