"""Shared by the tests: where real data lies, and the runs that many tests look at, made once."""

import concurrent.futures
import dataclasses
import fcntl
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

# Before anything imports TensorFlow: that imports JAX where it is installed, which sets it to 1.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from oracle import cases, expected
from oracle.command import ROOT, headrace

NEEDED = pytest.StashKey[list[str]]()
RUNS_AT_ONCE = 2  # Most of a small run is imports, on one core.


def _data_folder() -> Path | None:
    """Real data: $HEADRACE_DATA, or ../shared/data beside the checkout, or none."""
    named = os.environ.get("HEADRACE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder.resolve() if folder.is_dir() else None


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished dataset and what it was made from."""

    name: str
    case: cases.Case
    spec: Path
    folder: Path

    @property
    def manifest(self) -> dict:
        return json.loads((self.folder / "dataset_info.json").read_text())


class Runs:
    """Every run that the chosen tests need: started together, each made once a session."""

    def __init__(self, base: Path, data: Path | None, names: list[str]):
        self.base, self.data = base, data
        self.pool = concurrent.futures.ThreadPoolExecutor(RUNS_AT_ONCE)
        self.found = {name: self.pool.submit(self._made, name) for name in names}
        self.oracles: dict[str, expected.Expected] = {}

    def __getitem__(self, name: str) -> Run:
        if name not in self.found:
            self.found[name] = self.pool.submit(self._made, name)
        made = self.found[name].result()
        if made is None:
            pytest.skip("no real data: set HEADRACE_DATA")
        if isinstance(made, str):
            pytest.fail(made, pytrace=False)
        return made

    def best(self, spec: str) -> Run:
        """The run of a spec over real data, or over made data where there is none."""
        real = f"{spec}-real"
        return self[real if self.data and real in cases.NAMES else f"{spec}-made"]

    def expected(self, name: str) -> expected.Expected:
        """What the run of this name must write."""
        if name not in self.oracles:
            self.oracles[name] = self[name].case.expected()
        return self.oracles[name]

    def _made(self, name: str) -> Run | str | None:
        """The run, or what the command printed where it failed, or None without real data.

        The first process that asks makes it: pytest-xdist starts many.
        """
        home = self.base / name.replace(" ", "-")
        home.mkdir(exist_ok=True)
        with open(home / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = home / "made.pickle"
            if not made.exists():
                made.write_bytes(pickle.dumps(self._make(name, home)))
            case = pickle.loads(made.read_bytes())
        is_case = isinstance(case, cases.Case)
        return Run(name, case, home / "spec.toml", home / "out") if is_case else case

    def _make(self, name: str, home: Path) -> cases.Case | str | None:
        """Makes the data and runs the command."""
        case, spec = cases.build(name, home, self.data), home / "spec.toml"
        if case is None:
            return None
        spec.write_text(case.text)
        done = headrace("run", spec, "--output", home / "out", "--quiet", *case.arguments())
        if done.returncode:
            return f"headrace run of {name} ended with {done.returncode}:\n{done.stdout[-3000:]}"
        return case


def _needed(items: list[pytest.Item]) -> list[str]:
    """The names of the runs in the tests' parameters and `runs` marks, in the tests' order."""
    named: list = []
    for item in items:
        named += getattr(item, "callspec", None) and item.callspec.params.values() or []
        named += [name for mark in item.iter_markers("runs") for name in mark.args]
    return [name for name in dict.fromkeys(map(str, named)) if name in cases.NAMES]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "runs(*names): runs that a test needs, made beforehand")


def pytest_collection_finish(session: pytest.Session) -> None:
    is_alone = "PYTEST_XDIST_WORKER" not in os.environ  # A worker runs few of what it collects.
    session.config.stash[NEEDED] = _needed(session.items) if is_alone else []


@pytest.fixture(scope="session")
def runs(request, tmp_path_factory) -> Iterator[Runs]:
    """Finished runs by name, `runs["adult-made"]`; real ones skip the test without their data."""
    own = tmp_path_factory.getbasetemp()
    base = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "runs"
    base.mkdir(exist_ok=True)
    made = Runs(base, _data_folder(), request.config.stash[NEEDED])
    yield made
    made.pool.shutdown(cancel_futures=True)


@pytest.fixture
def run(request, runs) -> Run:
    """The run that the test's parameter names."""
    return runs[request.param]


@pytest.fixture
def wanted(run, runs) -> expected.Expected:
    """What the test's run must have written."""
    return runs.expected(run.name)
