"""Tar files as WebDataset writes them: members side by side that share a stem are a record."""

import contextlib
import io
import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from beam_jobs import files, object_stores, progress
from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import blocks
from beam_jobs.sources.blocks import Structure, Unit
from beam_jobs.sources.listing import File

KEY = "__key__"
_STEM = re.compile(r"((?:.*/)?[^/.]*)(?:\.([^/]*))?", re.DOTALL)
_PIECE_BYTES = 1 << 20

# What tarfile raises for hostile headers: RecursionError is a RuntimeError.
_DAMAGED = (tarfile.TarError, EOFError, ValueError, ArithmeticError, RuntimeError)


class _Member(NamedTuple):
    """A file in an archive.

    Attributes:
      stem: Its name up to the first dot behind the last slash.
      column: What comes behind that dot, in lower case; "" where there is none.
      end: Behind its last byte, in bytes of the archive.
      data: What it holds, if that was asked for.
    """

    stem: str
    column: str
    end: int
    data: bytes


def columns(found: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the columns of the first records, and then of more of them.

    Raises:
      DataError: A file cannot be read.
    """
    return blocks.columns_so_far(_seen(found), found, source)


def _seen(found: Sequence[File]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yields the columns of each record, and its size in bytes."""
    for file in found:
        start = 0
        for record in _scanned(file):
            yield _names(record), record[-1].end - start
            start = record[-1].end


def _names(record: Sequence[_Member]) -> tuple[str, ...]:
    return KEY, *(member.column for member in record if member.column)


def scan(file: File, source: Source, block_bytes: int) -> Unit:
    """Reads the headers in a file, and finds the blocks of records into which it may be cut.

    Args:
      file: The file.
      source: What to read of it.
      block_bytes: The size of a block; a longer record makes a longer block.

    Raises:
      DataError: The file is damaged or cut.
    """
    names, cuts, end, number = set(source.columns or ()), [(0, 1)], 0, 1
    for number, record in enumerate(_scanned(file), 2):  # The number of the next one.
        if not source.columns:
            names.update(_names(record))
        end = record[-1].end
        if end - cuts[-1][0] >= block_bytes:
            cuts.append((end, number))
    progress.count("scanning", file.size_bytes)
    return Unit((file,), blocks.ordered(names), blocks.between([*cuts, (end, number)]))


units = blocks.units_with_all_columns


def read(unit: Unit, source: Source) -> Iterator[Structure]:
    """Yields the records of each block of a unit.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    for block, data in blocks.texts(unit):
        with _told(unit.file.path), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            records = list(_records(_members(archive, has_data=True), unit.file.path))
        yield _structure(records, block.first, len(data), unit, source)


def _structure(
    records: Sequence[Sequence[_Member]], first: int, num_bytes: int, unit: Unit, source: Source
) -> Structure:
    rows = [{member.column: member.data for member in record} for record in records]
    for row, (member, *_) in zip(rows, records, strict=True):
        row[KEY] = member.stem.encode("utf-8", "surrogateescape")
    arrays = [pa.array([row.get(name) for row in rows], pa.binary()) for name in unit.columns]
    values = pa.record_batch(arrays, [*unit.columns])
    return blocks.structure(
        values,
        {},
        source,
        files=unit.files,
        places=np.arange(first, first + len(rows)),
        num_bytes=num_bytes,
        raw=lambda position: blocks.raw_row(values, position),
    )


class _Tape:
    """A file that is only read onwards, and what was read last."""

    def __init__(self, file: BinaryIO, can_seek: bool):
        self._file, self._can_seek = file, can_seek
        self._position, self.last = 0, b""

    def read(self, size_bytes: int) -> bytes:
        self.last = self._file.read(size_bytes)
        self._position += len(self.last)
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if self._can_seek:
            self._file.seek(position)
            self._position = position
        while self._position < position and self.read(min(position - self._position, _PIECE_BYTES)):
            pass


def _scanned(file: File) -> Iterator[list[_Member]]:
    """Yields the records of a file without what their members hold.

    Raises:
      DataError: The file is damaged or cut.
    """
    path = file.path
    # Of an object store every jump would be a question of its own.
    can_seek = files.is_local(path) and not blocks.is_compressed(path)
    with _told(path), blocks.open_plain(path) as opened:
        tape: Any = _Tape(opened, can_seek)
        with tarfile.open(fileobj=tape, mode="r:") as archive:
            yield from _records(_members(archive), path)
        # The module takes a damaged header, or none, for the end.
        if tape.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no header, and no end, at byte {archive.offset}")
        while more := tape.read(_PIECE_BYTES):
            if more.count(0) < len(more):
                raise tarfile.ReadError(f"there is more behind its end at byte {archive.offset}")


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Says in a line, as a DataError, why an archive cannot be read."""
    try:
        yield
    except DataError:
        raise
    except (*object_stores.ERRORS, *_DAMAGED) as error:
        raise blocks.unreadable(path, error) from error


def _members(archive: Any, has_data: bool = False) -> Iterator[_Member]:
    """Yields the files of an archive; folders, symbolic links and dot-files are none.

    Raises:
      ReadError: One is not there as it is, or leads back to where others were read.
    """
    while member := archive.next():
        archive.members.clear()  # Else it remembers them all.
        match = _STEM.fullmatch(member.name)
        if member.size < 0 or archive.offset < member.offset_data:
            raise tarfile.ReadError(f"{member.name!r} has a size below zero")
        if not match or _is_hidden(member.name):
            continue
        if member.islnk() or member.issparse():
            kind = "hard link" if member.islnk() else "sparse file"
            raise tarfile.ReadError(f"{member.name!r} is a {kind}, but must be a file of its own")
        if member.isreg():
            data = archive.extractfile(member).read() if has_data else b""
            yield _Member(match[1], _column(match[2] or ""), archive.offset, data)


def _column(extension: str) -> str:
    """Returns the name of a column; bytes of it that are no UTF-8 in hexadecimal."""
    found = extension.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return found.lower()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))


def _records(members: Iterator[_Member], path: str) -> Iterator[list[_Member]]:
    """Yields the members of each record.

    Raises:
      DataError: A record has two members of one kind.
    """
    for stem, group in itertools.groupby(members, lambda member: member.stem):
        record = list(group)
        if len({member.column for member in record}) < len(record):
            raise DataError(f"{path}: {stem!r} has two files of one extension. Rename one of them.")
        yield record
