"""CSV files: scanned once for safe places to cut, then read block by block."""

import codecs
import csv
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from beam_jobs import object_stores
from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import blocks, quoting, texts
from beam_jobs.sources.blocks import Structure, Unit
from beam_jobs.sources.listing import File
from beam_jobs.sources.quoting import Dialect

_MAX_HEADER_BYTES = 16 << 20  # A hundred thousand columns have 2 MB of names.


def dialect(source: Source) -> Dialect:
    """Returns the structure bytes of a source.

    Raises:
      SpecError: A delimiter or quote that is no single ASCII character, or an encoding in which
        one byte is not one character.
    """
    for key in ("delimiter", "quote"):
        character = getattr(source, key)
        if ord(character) > 127 or character in "\0\r\n":
            raise SpecError(f"source.{key}: must be one ASCII character, but is {character!r}.")
    if source.delimiter == source.quote:
        raise SpecError(f"source.quote: must differ from delimiter, but both are {source.quote!r}.")
    texts.check_encoding(source)
    return Dialect(ord(source.delimiter), ord(source.quote))


def columns(files: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the columns of the first file that has a header, where there is one.

    Raises:
      SpecError: The source is not as `dialect` can take it.
      DataError: A file cannot be read.
    """
    for file in files:
        try:
            found = _read_header(file.path, source)[0]
        except (*object_stores.ERRORS, EOFError) as error:
            raise blocks.unreadable(file.path, error) from error
        if found:
            yield found
            return


def scan(file: File, source: Source, block_bytes: int) -> Unit | None:
    """Reads a file once and finds the blocks into which it may be cut.

    Args:
      file: The file.
      source: How it is written.
      block_bytes: The size of a block; a longer record makes a longer block.

    Returns:
      All blocks of the file; None for a file that does not even have a header.

    Raises:
      DataError: A quoted field never ends, the header is unreadable, or the file is damaged.
    """
    rules = dialect(source)
    try:
        columns, start, line = _read_header(file.path, source)
        if not columns:
            return None
        with blocks.open_plain(file.path) as text:
            text.read(start)
            cuts = texts.cuts(text, file.path, rules, start, line, block_bytes)
            return Unit((file,), columns, blocks.between([(start, line), *cuts]))
    except (*object_stores.ERRORS, EOFError) as error:
        raise blocks.unreadable(file.path, error) from error


units = blocks.units_with_one_set_of_columns


def _read_header(path: str, source: Source) -> tuple[tuple[str, ...], int, int]:
    """Returns the columns, and where the records start: the offset in bytes and the line."""
    rules = dialect(source)
    with blocks.open_plain(path) as text:
        read = text.read(len(codecs.BOM_UTF8))
        start = texts.bom_bytes(read, source.encoding)
        if not source.header:
            return source.columns or (), start, 1
        read = read[start:]
        for piece in texts.pieces(text, 1 << 16, rules.quote, growth=2):
            read += piece
            if len(read) > _MAX_HEADER_BYTES:
                raise DataError(
                    f"{path}: the header has no end in {_MAX_HEADER_BYTES >> 20} MiB. Close its "
                    "quotes, or give a text file."
                )
            array = np.frombuffer(read, np.uint8)
            ends = quoting.record_ends(array, quoting.toggles(array, rules))
            if (ends[:-1] >= _num_leading_line_ends(read)).any():
                break  # One line end more than the header's: it is whole, and so is a CRLF.
    array = np.frombuffer(read, np.uint8)
    starts, ends = quoting.record_spans(array, rules)
    toggled = quoting.toggles(array, rules)
    if toggled.size % 2 and int(ends[0]) > int(toggled[-1]):
        raise texts.never_closed(path, 1 + quoting.num_lines(array[: toggled[-1]]))
    if not starts.size:
        return (), start, 1
    end = int(ends[0])
    rest = read[end : end + 2]
    after = end + (2 if rest == b"\r\n" else min(1, len(rest)))
    columns = _column_names(read[int(starts[0]) : end], path, source)
    return columns, start + after, 1 + quoting.num_lines(array[:after])


def _num_leading_line_ends(text: bytes) -> int:
    return len(text) - len(text.lstrip(b"\r\n"))


def _column_names(header: bytes, path: str, source: Source) -> tuple[str, ...]:
    try:
        text = header.decode(source.encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: the header is not {source.encoding}: {error.reason}. Set source.encoding."
        ) from error
    reader = csv.reader([text], delimiter=source.delimiter, quotechar=source.quote)
    try:
        names = [name.strip() if source.trim else name for name in next(reader)]
    except csv.Error as error:
        raise DataError(f"{path}: header: {error}. Mend the header.") from error
    for name in names:
        if names.count(name) > 1 or "\0" in name:
            what = "stands there twice" if names.count(name) > 1 else "has a NUL byte"
            raise DataError(f"{path}: header: column {name!r} {what}. Mend the header.")
    return tuple(names)


def read(unit: Unit, source: Source) -> Iterator[Structure]:
    """Yields the records of each block of a unit.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    for block, text in blocks.texts(unit):
        yield parse(text, block.first, unit, source)


def parse(text: bytes, first_line: int, unit: Unit, source: Source) -> Structure:
    """Finds the records of a block and parses those whose structure is sound.

    Args:
      text: Whole records.
      first_line: The line of the file on which the text starts.
      unit: The file, with the names of the fields in their order there.
      source: How the text is written.
    """
    columns = unit.columns
    rules = dialect(source)
    array = np.frombuffer(text, np.uint8)
    starts, ends = quoting.record_spans(array, rules)
    broken: dict[int, tuple[str, str]] = {}
    values, num_ragged = _read_values(text, columns, source)
    is_parsed = np.ones(starts.size, bool)
    if num_ragged or values.num_rows != starts.size:
        found = quoting.num_fields(array, starts, rules)
        is_parsed = found == len(columns)
        for position in np.flatnonzero(~is_parsed).tolist():
            detail = f"{found[position]} fields, but there are {len(columns)} columns"
            broken[position] = ("ragged_row", detail)
    if values.num_rows != np.count_nonzero(is_parsed):
        raise DataError(
            f"{unit.file.path}:{first_line} and below: {starts.size} records were found, but "
            f"{values.num_rows} parsed. The text mixes its quoting; mend it."
        )
    for position, fault in texts.bad_text(text, array, starts, ends, source.encoding).items():
        broken.setdefault(position, fault)
    is_sound = np.ones(starts.size, bool)
    is_sound[list(broken)] = False
    if broken:
        values = values.filter(pa.array(is_sound[is_parsed]))
    return Structure(
        blocks.clean(values, source),
        np.flatnonzero(is_sound),
        tuple((position, *broken[position]) for position in sorted(broken)),
        unit.files,
        first_line + texts.lines_before(array, starts),
        len(text),
        lambda position: texts.raw(text[starts[position] : ends[position]], source.encoding),
    )


def _read_values(text: bytes, columns: Sequence[str], source: Source) -> tuple[pa.RecordBatch, int]:
    """Returns all fields as text, not yet known to be UTF-8, and the number of rows left out."""
    ragged: list[Any] = []

    def leave_out(row: Any) -> str:
        ragged.append(row.actual_columns)
        return "skip"

    if not texts.is_utf8(source.encoding):
        text = text.decode(source.encoding, "replace").encode()
    table = pa_csv.read_csv(
        pa.BufferReader(text),
        pa_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=list(columns)),
        pa_csv.ParseOptions(
            delimiter=source.delimiter,
            quote_char=source.quote,
            newlines_in_values=True,
            invalid_row_handler=leave_out,
        ),
        pa_csv.ConvertOptions(
            column_types={column: pa.string() for column in columns},
            check_utf8=False,  # One bad cell would fail the block; `bad_text` names the records.
            strings_can_be_null=False,
        ),
    )
    arrays = [
        pa.concat_arrays(c.chunks) if c.num_chunks != 1 else c.chunk(0) for c in table.columns
    ]
    return pa.record_batch(arrays, table.column_names), len(ragged)
