"""Arrow files that a job of Beam's has written: their records may lack columns."""

import dataclasses
from collections.abc import Iterator, Sequence

from beam_jobs.config import Source
from beam_jobs.sources import arrow_files, blocks
from beam_jobs.sources.blocks import Unit
from beam_jobs.sources.listing import File

scan = arrow_files.scan
read = arrow_files.read


def columns(found: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the columns of the first file, and then of more of them.

    Raises:
      DataError: One cannot be read.
    """
    names: set[str] = set()
    for file in found:
        for more in arrow_files.columns([file], source):
            if not names.issuperset(more):
                names.update(more)
                yield blocks.ordered(names)


def units(scanned: Sequence[Unit]) -> list[Unit]:
    """Returns a unit for each batch of all files, with the columns of all."""
    names = blocks.ordered(name for unit in scanned for name in unit.columns)
    return arrow_files.by_group([dataclasses.replace(unit, columns=names) for unit in scanned])
