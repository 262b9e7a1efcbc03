"""The closing lines: what each engine did."""

import pytest

LINES = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = {}


def pytest_terminal_summary(terminalreporter) -> None:
    for engine, line in terminalreporter.config.stash[LINES].items():
        terminalreporter.write_line(f"{engine}: {line}")


@pytest.fixture
def say(request):
    """Notes what becomes of an engine; a difference stays, whatever comes after it."""
    lines = request.config.stash[LINES]

    def note(engine: str, line: str) -> None:
        if lines.get(engine) != "OTHER BYTES":
            lines[engine] = line

    return note
