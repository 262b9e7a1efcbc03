"""Engines as users have them: each is started by the test, and stopped behind it."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from oracle.command import ROOT

from engines import dataflow_service

# Engine:Beam. The one to use, and the newest that a smaller copy of Maven Central was seen to hold.
FLINK = os.environ.get("HEADRACE_FLINK", "1.20:2.77.0 1.19:2.62.0").split()
SPARK = os.environ.get("HEADRACE_SPARK", "3.5:2.77.0 3.5:2.62.0").split()
CACHE = Path.home() / ".cache" / "headrace"
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"


class NotThereError(Exception):
    """An engine cannot be had on this machine; why."""


@dataclasses.dataclass
class Engine:
    """An engine that is up.

    Attributes:
      words: What sends a job of `headrace run` there.
      output: Where a job may write.
      states: Returns what became of its jobs, in its own words.
      version: Its version.
    """

    words: list[str]
    output: str
    states: Callable[[], list[str]] = list
    version: str = ""

    def spec(self, path: Path) -> Path:
        """Returns a spec of the same input, at a place that the workers reach."""
        return path

    def fetched(self) -> Path:
        """Returns the folder with what a job wrote."""
        return Path(self.output)


@contextmanager
def local(folder: Path) -> Iterator[Engine]:
    """Beam's local runner as a cluster: no disk is shared, and the engine shuffles."""
    yield Engine(["--runner", "FnApiRunner"], str(folder / "out"))


@contextmanager
def prism(folder: Path) -> Iterator[Engine]:
    """Beam's own engine in Go, a process of its own; built once."""
    path = CACHE / PRISM.rsplit("@")[1] / "prism"
    if not path.exists():
        if shutil.which("go") is None:
            raise NotThereError("go is missing, which builds it")
        place = {**os.environ, "GOBIN": str(path.parent)}
        done = subprocess.run(["go", "install", PRISM], env=place, capture_output=True, text=True)
        if done.returncode:
            raise NotThereError(f"go install: {done.stderr.strip().splitlines()[-1]}")
    words = ["--runner", "prism", "--", f"--prism_location={path}"]
    yield Engine(words, str(folder / "out"), version=PRISM.rsplit("@v")[1])


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
def flink(folder: Path) -> Iterator[Engine]:
    """A JobManager and two TaskManagers."""
    version, jar = job_server("flink", FLINK)
    with _cluster("flink", version, folder) as url:
        master = url.removeprefix("http://")
        words = [
            *("--runner", "flink", "--", f"--flink_master={master}", "--parallelism=4"),
            f"--flink_job_server_jar={jar}",
        ]
        states = functools.partial(_flink_states, master)
        yield Engine(words, str(folder / "out"), states, version)


@contextmanager
def spark(folder: Path) -> Iterator[Engine]:
    """A master and two workers."""
    version, jar = job_server("spark", SPARK)
    with _cluster("spark", version, folder) as url:
        words = [
            *("--runner", "spark", "--", f"--spark_master_url={url}"),
            f"--spark_job_server_jar={jar}",
        ]
        states = functools.partial(_spark_states, folder / "spark")
        yield Engine(words, str(folder / "out"), states, version)


def _spark_states(folder: Path) -> list[str]:
    """A job that has executors counts as running once one of them has a task."""
    page = json.loads((folder / "cluster.json").read_text())["page"]
    with urllib.request.urlopen(f"http://localhost:{page}/json/", timeout=10) as answer:
        found = json.load(answer)
    logs = (folder / "work").glob("*/*/stderr")
    is_at_work = any("Running task" in log.read_text() for log in logs)
    active = ["RUNNING" if is_at_work else "WAITING"] * len(found["activeapps"])
    return active + [job["state"] for job in found["completedapps"]]


def _flink_states(master: str) -> list[str]:
    with urllib.request.urlopen(f"http://{master}/jobs", timeout=10) as answer:
        return [job["status"] for job in json.load(answer)["jobs"]]


@dataclasses.dataclass
class Dataflow(Engine):
    """The stand-in for Dataflow, which has nothing but its bucket."""

    cloud: dataflow_service.Cloud = dataclasses.field(kw_only=True)
    folder: Path = dataclasses.field(kw_only=True)

    def spec(self, path: Path) -> Path:
        """Every file lies in the bucket as it did on the disk, modules beside the spec."""
        text = path.read_text()
        paths = tomllib.loads(text)["source"]["paths"]
        for pattern in paths if isinstance(paths, list) else sum(paths.values(), []):
            root = Path(pattern.split("*")[0])
            found = [root] if root.is_file() else root.rglob("*")
            for file in filter(Path.is_file, found):
                self.cloud.storage.write(f"gs://bucket{file}", file.read_bytes())
            text = text.replace(json.dumps(pattern), json.dumps(f"gs://bucket{pattern}"))
        moved = self.folder / "cloud.toml"
        moved.write_text(text)
        for module in path.parent.glob("*.py"):
            shutil.copy(module, self.folder)
        return moved

    def fetched(self) -> Path:
        names = self.cloud.storage.names("bucket")
        for name in names:
            if name.startswith("out/"):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(self.cloud.storage.read(f"gs://bucket/{name}"))
        return self.folder / "out"


@contextmanager
def dataflow(folder: Path) -> Iterator[Dataflow]:
    """The stock DataflowRunner, with all that it asks Google for answered on this machine."""
    with dataflow_service.start(folder / "cloud") as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment().items():
            patch.setenv(name, value)
        cloud.storage.create_bucket("bucket")
        flags = [flag for flag in cloud.flags("bucket") if not flag.startswith("--runner")]
        yield Dataflow(
            ["--runner", "dataflow", "--", *flags],
            "gs://bucket/out",
            lambda: [job.state.name for job in cloud.service.jobs.values()],
            cloud=cloud,
            folder=folder,
        )


ENGINES = {
    "local as a cluster": local,
    "prism": prism,
    "flink": flink,
    "spark": spark,
    "dataflow stand-in": dataflow,
}
