"""Text files: a record is a line, or a whole file."""

import codecs
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from beam_jobs import object_stores, progress
from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import blocks, listing, quoting, texts
from beam_jobs.sources.blocks import Block, Structure, Unit
from beam_jobs.sources.listing import File
from beam_jobs.sources.quoting import Dialect

COLUMNS = ("text", "path")
_LIMIT_BYTES = 2**31 - 1  # Of the lines of a block: Arrow counts them in 32 bits.
_NO_QUOTES = Dialect(-1, -1)  # No byte of a line is more than text.


def columns(files: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the columns that any text has.

    Raises:
      SpecError: The encoding is one whose lines cannot be found.
    """
    texts.check_encoding(source)
    yield COLUMNS


def scan(file: File, source: Source, block_bytes: int) -> Unit:
    """Reads a file once and finds the blocks of lines into which it may be cut.

    Args:
      file: The file.
      source: How it is written.
      block_bytes: The size of a block; a longer line makes a longer block.

    Raises:
      DataError: The file cannot be read.
    """
    try:
        with blocks.open_plain(file.path) as text:
            start = texts.bom_bytes(text.read(len(codecs.BOM_UTF8)), source.encoding)
        with blocks.open_plain(file.path) as text:
            text.read(start)
            cuts = texts.cuts(text, file.path, _NO_QUOTES, start, 1, block_bytes)
            return Unit((file,), COLUMNS, blocks.between([(start, 1), *cuts]))
    except (*object_stores.ERRORS, EOFError) as error:
        raise blocks.unreadable(file.path, error) from error


def grouped(files: Sequence[File], block_bytes: int) -> list[Unit]:
    """Returns units of whole files, each a record: as many together as a block holds."""
    groups: list[list[File]] = []
    num_bytes = 0
    for file in files:
        num_bytes += file.size_bytes
        if not groups or num_bytes > block_bytes:
            groups.append([])
            num_bytes = file.size_bytes
        groups[-1].append(file)
        progress.count("scanning", file.size_bytes)
    return [Unit(tuple(group), COLUMNS, (Block(0, len(group), 1),)) for group in groups]


def units(scanned: Sequence[Unit]) -> list[Unit]:
    """Returns the units of all files that workers may read apart."""
    return [part for unit in scanned for part in blocks.apart(unit)]


def read(unit: Unit, source: Source) -> Iterator[Structure]:
    """Yields the records of each block of a unit.

    Raises:
      DataError: A file changed since it was scanned, or cannot be read.
    """
    if source.is_file_a_record:
        yield _of_files(unit.files, source)
        return
    for block, text in blocks.texts(unit):
        yield _of_lines(text, block.first, unit, source)


def _of_lines(text: bytes, first_line: int, unit: Unit, source: Source) -> Structure:
    array = np.frombuffer(text, np.uint8)
    starts, ends = quoting.record_spans(array, _NO_QUOTES)
    broken = texts.bad_text(text, array, starts, ends, source.encoding)
    values = _lines(text, source.encoding)
    if values is None:
        where = f"{unit.file.path}:{first_line}"
        raise DataError(f"{where}: a line here is longer than 2 GiB. Cut it in pieces.")
    return blocks.structure(
        _batch(values, pa.repeat(pa.scalar(unit.file.relative), len(values))),
        broken,
        source,
        files=unit.files,
        places=first_line + texts.lines_before(array, starts),
        num_bytes=len(text),
        raw=lambda position: texts.raw(text[starts[position] : ends[position]], source.encoding),
    )


def _batch(text: pa.StringArray, path: pa.StringArray) -> pa.RecordBatch:
    return pa.record_batch([text, path], [*COLUMNS])


def _lines(text: bytes, encoding: str) -> pa.StringArray | None:
    """Returns the lines that are not empty, be they UTF-8 or not; None if too long."""
    if not texts.is_utf8(encoding):
        text = text.decode(encoding, "replace").encode()
    array = np.frombuffer(text, np.uint8)
    starts, ends = quoting.record_spans(array, _NO_QUOTES)
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    if offsets[-1] > _LIMIT_BYTES:
        return None
    data = array[(array != quoting.NEWLINE) & (array != quoting.RETURN)]
    ends_32 = pa.py_buffer(offsets.astype(np.int32))
    return pa.StringArray.from_buffers(starts.size, ends_32, pa.py_buffer(data))


def _of_files(files: Sequence[File], source: Source) -> Structure:
    """Returns a record for each file."""
    read = list(object_stores.read_each(_read, [file.path for file in files]))
    contents = [text[texts.bom_bytes(text, source.encoding) :] for text in read]
    broken = {}
    for position, text in enumerate(contents):
        fault = texts.encoding_fault(text, source.encoding)
        if fault or b"\0" in text:
            broken[position] = fault or texts.NUL_FAULT
    if texts.is_utf8(source.encoding):
        values = pa.array(contents, pa.binary()).view(pa.string())
    else:
        values = pa.array([text.decode(source.encoding, "replace") for text in contents])
    return blocks.structure(
        _batch(values, pa.array([file.relative for file in files], pa.string())),
        broken,
        source,
        files=tuple(files),
        places=np.ones(len(files), np.int64),
        num_bytes=sum(map(len, read)),
        raw=lambda position: texts.raw(contents[position], source.encoding),
    )


def _read(path: str) -> bytes:
    if not blocks.is_compressed(path):
        return listing.read(path)
    try:
        with blocks.open_plain(path) as text:
            return text.read()
    except (*object_stores.ERRORS, EOFError) as error:
        raise blocks.unreadable(path, error) from error
