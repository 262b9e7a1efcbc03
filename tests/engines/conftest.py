"""The closing lines: what each engine did."""

import pytest

LINES = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = {}
    if hasattr(config, "workeroutput"):  # One of pytest-xdist's processes: it is sent in the end.
        config.workeroutput["engines"] = config.stash[LINES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    for engine, line in getattr(node, "workeroutput", {}).get("engines", {}).items():
        _note(node.config.stash[LINES], engine, line)


def pytest_terminal_summary(terminalreporter) -> None:
    for engine, line in terminalreporter.config.stash[LINES].items():
        terminalreporter.write_line(f"{engine}: {line}")


@pytest.fixture
def say(request):
    """Notes what becomes of an engine."""
    lines = request.config.stash[LINES]
    return lambda engine, line: _note(lines, engine, line)


def _note(lines: dict[str, str], engine: str, line: str) -> None:
    """A difference stays, whatever comes after it."""
    if lines.get(engine) != "OTHER BYTES":
        lines[engine] = line
