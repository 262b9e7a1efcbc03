"""What a table is read in, whatever its format: units of blocks, and the records of a block."""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import files, object_stores
from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources.listing import File

RAW_RECORD_LIMIT = 4096  # Characters of a raw record that are set aside with its reason.
_RECORDS = {
    "tfrecord": "of tf.train.Examples",
    "jsonl": "with a JSON object on each line, in UTF-8",
}
_LOOKED_AT_BYTES = 64 << 20  # For columns, before the job begins.
_CODECS = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


@dataclasses.dataclass(frozen=True)
class Block:
    """A range of whole records of a unit.

    Attributes:
      start, end: In bytes of the uncompressed file, or whatever the format counts in.
      first: The line on which it starts, or the number of its first record; both count from 1.
      group: The row group of the file that it is a part of.
    """

    start: int
    end: int
    first: int
    group: int = 0


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one worker reads in one go.

    Attributes:
      files: One file; hundreds where each is a record.
      columns: What its records have.
      blocks: One of them, or all of a file that cannot be seeked.
      index: The position among all units, for names of files.
    """

    files: tuple[File, ...]
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    index: int = 0

    @property
    def file(self) -> File:
        """The only file, or the first one."""
        return self.files[0]


@dataclasses.dataclass(frozen=True)
class Structure:
    """The records of a block.

    Attributes:
      values: All columns of the records whose structure is sound: string, null where missing, or
        binary, as it was found.
      sound: Which records these are: int64 (num_sound,), positions in the block.
      broken: For each other record its position, reason and detail.
      files: The file of them all, or that of each.
      places: The line on which each record starts, or its number, from 1; 0 where records have no
        order: int64 (num_records,).
      num_bytes: What the block takes in its file.
      raw: Returns the raw record at a position of the block as text.
    """

    values: pa.RecordBatch
    sound: np.ndarray
    broken: tuple[tuple[int, str, str], ...]
    files: tuple[File, ...]
    places: np.ndarray
    num_bytes: int
    raw: Callable[[int], str]

    def file(self, position: int) -> File:
        """Returns the file of a record."""
        return self.files[position if len(self.files) > 1 else 0]

    def said_places(self, positions: Sequence[int] | np.ndarray) -> pa.Array:
        """Returns the places of some records, null where they have none: int64."""
        places = self.places[positions]
        return pa.array(places, pa.int64(), mask=places == 0)


def structure(
    values: pa.RecordBatch,
    broken: Mapping[int, tuple[str, str]],
    source: Source,
    **others: Any,
) -> Structure:
    """Returns the structure of a block of which all records have values.

    Args:
      values: All columns of all records; what a broken record holds does not matter.
      broken: Reason and detail of the records whose structure is not sound, by position.
      source: What stands for a missing value.
      **others: The other attributes.
    """
    is_sound = np.ones(values.num_rows, bool)
    is_sound[list(broken)] = False
    if broken:
        values = values.filter(pa.array(is_sound))
    ordered = tuple((position, *broken[position]) for position in sorted(broken))
    return Structure(clean(values, source), np.flatnonzero(is_sound), ordered, **others)


def is_compressed(path: str) -> bool:
    """Whether a file has to be read from its start, by its name."""
    return os.path.splitext(path)[1].lower() in _CODECS


def open_plain(path: str) -> BinaryIO:
    """Opens a file of any file system that Beam knows; .gz, .bz2 and .zst are uncompressed.

    Arrow's decompressors raise on a file that was cut; Beam's end silently.
    """
    raw = files.opened(path)
    codec = _CODECS.get(os.path.splitext(path)[1].lower())
    return raw if codec is None else pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)


def texts(unit: Unit) -> Iterator[tuple[Block, bytes]]:
    """Yields the blocks of a unit of one file with their bytes, uncompressed.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    path = unit.file.path
    try:
        with open_plain(path) as text:
            position = 0
            for block in unit.blocks:
                if position != block.start and len(unit.blocks) == 1 and text.seekable():
                    text.seek(block.start)
                else:
                    text.read(block.start - position)
                read = text.read(block.end - block.start)
                position = block.end
                if len(read) != block.end - block.start:
                    raise DataError(f"{path}: became shorter while it was read. Run again.")
                yield block, read
    except (*object_stores.ERRORS, EOFError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: Exception) -> DataError:
    """Returns what is to be raised where a file cannot be read."""
    what = object_stores.fault(error)
    return DataError(f"{path}: cannot be read: {what}. Mend or remove the file.")


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Says in a line, as a DataError, why a file cannot be read."""
    try:
        yield
    except DataError:
        raise
    except (*object_stores.ERRORS, EOFError, ValueError) as error:
        raise unreadable(path, error) from error


def check_columns(scanned: Sequence[Unit]) -> None:
    """Raises a DataError unless all files have the same columns, in whatever order."""
    for unit in scanned[1:]:
        if set(unit.columns) != set(scanned[0].columns):
            raise DataError(
                f"{unit.file.path}: the columns are {sorted(unit.columns)}, but those of "
                f"{scanned[0].file.path} are {sorted(scanned[0].columns)}. "
                "Give files with one set of columns."
            )


def units_with_one_set_of_columns(scanned: Sequence[Unit]) -> list[Unit]:
    """Returns the units that workers may read apart.

    Raises:
      DataError: Two files have not the same columns, in whatever order.
    """
    check_columns(scanned)
    return [part for unit in scanned for part in apart(unit)]


def units_with_all_columns(scanned: Sequence[Unit]) -> list[Unit]:
    """Returns the units that workers may read apart, with the columns of all: records lack any."""
    names = ordered(name for unit in scanned for name in unit.columns)
    return [part for unit in scanned for part in apart(dataclasses.replace(unit, columns=names))]


def columns_so_far(
    found: Iterable[tuple[Iterable[str], int]], listed: Sequence[File], source: Source
) -> Iterator[tuple[str, ...]]:
    """Yields the columns that are known after some records, and whenever there are more.

    Args:
      found: The columns of some records and their size in bytes, time after time.
      listed: The files that hold them.
      source: What to read.

    Raises:
      DataError: There is none.
    """
    if source.columns:
        yield source.columns
        return
    names: set[str] = set()
    num_bytes = 0
    for more, size_bytes in found:
        if not names.issuperset(more):
            names.update(more)
            yield ordered(names)
        num_bytes += size_bytes
        if num_bytes > _LOOKED_AT_BYTES:  # A name that is nowhere is a mistake of the spec.
            break
    if not names:
        what = _RECORDS.get(source.format, "with records")
        raise DataError(f"{listed[0].path}: no record here has a column. Give files {what}.")


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Returns different names in an order of their own."""
    return tuple(sorted(set(names), key=str.encode))


def apart(scanned: Unit) -> list[Unit]:
    """Returns the units of a file that workers may read apart: one for each block it has."""
    if is_compressed(scanned.file.path):
        return [scanned] if scanned.blocks else []
    return [dataclasses.replace(scanned, blocks=(block,)) for block in scanned.blocks]


def between(cuts: Sequence[tuple[int, int]]) -> tuple[Block, ...]:
    """Returns the blocks between cuts, each an offset and the line there; empty ones are none."""
    pairs = itertools.pairwise(cuts)
    return tuple(Block(start, end, first) for (start, first), (end, _) in pairs if end > start)


def raw_row(values: pa.RecordBatch, row: int) -> str:
    """Returns a row as JSON, at most so much of it: of binary values only how long they are."""
    shown = {
        name: _shown(column[row].as_py())
        for name, column in zip(values.schema.names, values.columns, strict=True)
    }
    return json.dumps(shown, ensure_ascii=False)[:RAW_RECORD_LIMIT]


def _shown(value: str | bytes | None) -> str | None:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"<{len(value)} bytes>"


def clean(values: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """Trims texts and makes those that stand for a missing value null; binary columns stay."""
    columns = [
        clean_column(column, source) if pa.types.is_string(column.type) else column
        for column in values.columns
    ]
    return pa.record_batch(columns, values.schema.names)


def clean_column(column: pa.StringArray, source: Source) -> pa.StringArray:
    """Does for one column what `clean` does."""
    if source.trim:
        column = pc.utf8_trim_whitespace(column)
    is_missing = pc.is_in(column, pa.array(source.null_values, pa.string()))
    if pc.any(is_missing).as_py():
        column = pc.if_else(is_missing, pa.scalar(None, pa.string()), column)
    return column
