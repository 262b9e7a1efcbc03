"""Engines as users have them: each is started by the test, and yields words for `headrace run`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oracle.command import ROOT

# The one to use, and the newest whose parts a smaller copy of Maven Central was seen to hold.
FLINK = os.environ.get("HEADRACE_FLINK", "1.20:2.77.0 1.19:2.62.0").split()
CACHE = Path.home() / ".cache" / "headrace"
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"


class NotThereError(Exception):
    """An engine cannot be had on this machine; why."""


@contextmanager
def local(_: Path) -> Iterator[list[str]]:
    """Beam's local runner as a cluster: no disk is shared, and the engine shuffles."""
    yield ["--runner", "FnApiRunner"]


@contextmanager
def prism(_: Path) -> Iterator[list[str]]:
    """Beam's own engine in Go, a process of its own; built once."""
    path = CACHE / PRISM.rsplit("@")[1] / "prism"
    if not path.exists():
        if shutil.which("go") is None:
            raise NotThereError("go is missing, which builds it")
        place = {**os.environ, "GOBIN": str(path.parent)}
        done = subprocess.run(["go", "install", PRISM], env=place, capture_output=True, text=True)
        if done.returncode:
            raise NotThereError(f"go install: {done.stderr.strip().splitlines()[-1]}")
    yield ["--runner", "prism", "--", f"--prism_location={path}"]


def cluster(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "deploy" / "flink" / "cluster.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def job_server() -> tuple[str, str]:
    """Returns Flink's version and the path of a job server: the first of FLINK that can be had."""
    for versions in FLINK:
        version, beam = versions.split(":")
        jar = cluster("jar", "--version", version, "--beam", beam)
        if jar.returncode == 0:
            return version, jar.stdout.strip()
    raise NotThereError(jar.stderr.strip().splitlines()[-1])


@contextmanager
def flink(folder: Path) -> Iterator[list[str]]:
    """A JobManager and two TaskManagers."""
    version, jar = job_server()
    started = cluster("start", "--version", version, "--folder", folder / "flink")
    if started.returncode:
        raise NotThereError(started.stderr.strip())
    port = started.stdout.strip().rsplit(":", 1)[1]
    try:
        yield [
            *("--runner", "flink", "--", f"--flink_master=localhost:{port}", "--parallelism=4"),
            f"--flink_job_server_jar={jar}",
        ]
    finally:
        cluster("stop", "--folder", folder / "flink")


ENGINES = {"local as a cluster": local, "prism": prism, "flink": flink}
