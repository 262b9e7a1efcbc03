"""Engines as users have them: each is started by the test, and yields words for `headrace run`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from oracle.command import ROOT

# Engine:Beam. The one to use, and the newest that a smaller copy of Maven Central was seen to hold.
FLINK = os.environ.get("HEADRACE_FLINK", "1.20:2.77.0 1.19:2.62.0").split()
SPARK = os.environ.get("HEADRACE_SPARK", "3.5:2.77.0 3.5:2.62.0").split()
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


def cluster(engine: str, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "deploy" / engine / "cluster.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def job_server(engine: str, wanted: Sequence[str]) -> tuple[str, str]:
    """Returns an engine's version and the path of a job server: the first that can be had."""
    for versions in wanted:
        version, beam = versions.split(":")
        jar = cluster(engine, "jar", "--version", version, "--beam", beam)
        if jar.returncode == 0:
            return version, jar.stdout.strip()
    raise NotThereError(jar.stderr.strip().splitlines()[-1])


@contextmanager
def _cluster(engine: str, version: str, folder: Path) -> Iterator[str]:
    """Starts one and yields its address."""
    done = cluster(engine, "start", "--version", version, "--folder", folder / engine)
    if done.returncode:
        raise NotThereError(done.stderr.strip())
    try:
        yield done.stdout.strip().splitlines()[-1]
    finally:
        cluster(engine, "stop", "--folder", folder / engine)


@contextmanager
def flink(folder: Path) -> Iterator[list[str]]:
    """A JobManager and two TaskManagers."""
    version, jar = job_server("flink", FLINK)
    with _cluster("flink", version, folder) as url:
        master = url.removeprefix("http://")
        yield [
            *("--runner", "flink", "--", f"--flink_master={master}", "--parallelism=4"),
            f"--flink_job_server_jar={jar}",
        ]


@contextmanager
def spark(folder: Path) -> Iterator[list[str]]:
    """A master and two workers."""
    version, jar = job_server("spark", SPARK)
    with _cluster("spark", version, folder) as url:
        yield [
            *("--runner", "spark", "--", f"--spark_master_url={url}"),
            f"--spark_job_server_jar={jar}",
        ]


ENGINES = {"local as a cluster": local, "prism": prism, "flink": flink, "spark": spark}
