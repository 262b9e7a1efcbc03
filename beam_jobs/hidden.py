"""Packages that others import wherever they are installed, and that a job has no use for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


class _Hidden(MetaPathFinder):
    """Says that there are no such packages."""

    def __init__(self, names: tuple[str, ...]):
        self._names = frozenset(names)

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Finds nothing, but for these names forbids others to look, too."""
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Inside it, packages that nothing has imported yet are as good as not installed."""
    finder = _Hidden(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
