"""The formats that a table may have: one way to read them all."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from beam_jobs.config import Source
from beam_jobs.sources import (
    arrow_files,
    avro_files,
    beam_files,
    csv_files,
    jsonl_files,
    text_files,
    tfrecord_files,
    webdataset_files,
)
from beam_jobs.sources.blocks import Structure, Unit
from beam_jobs.sources.listing import File


class Format(Protocol):
    """What the module of a format knows."""

    def columns(self, files: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
        """Yields the columns of the files, and more if they are not known without reading on.

        Raises a SpecError for options that do not fit.
        """

    def scan(self, file: File, source: Source, block_bytes: int) -> Unit | None:
        """Returns all blocks of a file; None where it has not even columns."""

    def units(self, scanned: Sequence[Unit]) -> list[Unit]:
        """Returns the units of all files, in their order, that workers may read apart."""

    def read(self, unit: Unit, source: Source) -> Iterator[Structure]:
        """Yields the records of a unit block by block."""


_FORMATS: dict[str, Format] = {
    "avro": avro_files,
    "csv": csv_files,
    "jsonl": jsonl_files,
    "text": text_files,
    "tfrecord": tfrecord_files,
    "webdataset": webdataset_files,
    **dict.fromkeys(("parquet", "numpy", "keras", "python"), arrow_files),
    **dict.fromkeys(("beam", "bigquery"), beam_files),
}


def of(source: Source) -> Format:
    """Returns how the tables of a source are read."""
    return _FORMATS[source.format]


def scan(files: Sequence[File], source: Source, block_bytes: int) -> list[Unit]:
    """Returns files with the blocks into which they may be cut.

    Raises:
      DataError: A file cannot be read.
    """
    if source.is_file_a_record:
        return text_files.grouped(files, block_bytes)
    scanned = (of(source).scan(file, source, block_bytes) for file in files)
    return [unit for unit in scanned if unit is not None]
