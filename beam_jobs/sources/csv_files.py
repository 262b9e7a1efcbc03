"""CSV files: scanned once for safe places to cut, then read block by block."""

import codecs
import csv
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import object_stores, progress
from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import quoting
from beam_jobs.sources.listing import File
from beam_jobs.sources.quoting import Dialect, State

_MAX_HEADER_BYTES = 16 << 20  # A hundred thousand columns have 2 MB of names.
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


@dataclasses.dataclass(frozen=True)
class Block:
    """A range of whole records of one file, in bytes of the uncompressed text."""

    start: int
    end: int
    first_line: int


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one worker reads in one go: one block, or all blocks of a file that cannot be seeked."""

    file: File
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    index: int = 0  # The position among all units, for names of files.


@dataclasses.dataclass(frozen=True)
class Structure:
    """The records of a block of text.

    Attributes:
      values: All columns of the records whose structure is sound: string, null where missing.
      sound: Which records these are: int64 (num_sound,), positions in the block.
      broken: For each other record its position, reason and detail.
      starts, ends: Where each record lies in the text: int64 (num_records,).
      lines: The line on which each record starts: int64 (num_records,).
    """

    values: pa.RecordBatch
    sound: np.ndarray
    broken: tuple[tuple[int, str, str], ...]
    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray


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
    if not _is_utf8(source.encoding) and not _is_single_byte(source.encoding):
        raise SpecError(
            "source.encoding: must be utf-8 or an encoding of one byte a character such as "
            f"latin-1, but is {source.encoding!r}. Convert the files to UTF-8."
        )
    return Dialect(ord(source.delimiter), ord(source.quote))


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    except LookupError:
        return False


@functools.lru_cache
def _is_single_byte(encoding: str) -> bool:
    """Whether each byte is a character, whatever stands before it, and ASCII is as it is."""
    ascii_bytes = bytes(range(128))
    pairs = (bytes(pair) for pair in itertools.product(range(256), repeat=2))
    try:
        if ascii_bytes.decode(encoding) != ascii_bytes.decode("ascii"):
            return False
        return all(len(pair.decode(encoding, "replace")) == 2 for pair in pairs)
    except (LookupError, UnicodeError):
        return False


def open_text(path: str) -> BinaryIO:
    """Opens a file of any file system that Beam knows; .gz, .bz2 and .zst are uncompressed.

    Arrow's decompressors raise on a file that was cut; Beam's end silently.
    """
    raw = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    codec = _CODECS.get(os.path.splitext(path)[1].lower())
    if codec is None:
        return raw
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)


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
    try:
        columns, start, line = _read_header(file.path, source)
        if not columns:
            return None
        with open_text(file.path) as text:
            text.read(start)
            boundaries = [(start, line), *_cuts(text, file.path, source, start, line, block_bytes)]
    except (*object_stores.ERRORS, EOFError) as error:
        raise _unreadable(file.path, error) from error
    pairs = zip(boundaries, boundaries[1:], strict=False)
    return Unit(file, columns, tuple(Block(a, b, line) for (a, line), (b, _) in pairs if b > a))


def read_columns(file: File, source: Source) -> tuple[str, ...]:
    """Returns the columns of a file; none where it does not even have a header.

    Raises:
      DataError: The file cannot be read.
    """
    try:
        return _read_header(file.path, source)[0]
    except (*object_stores.ERRORS, EOFError) as error:
        raise _unreadable(file.path, error) from error


def units(scanned: Unit) -> list[Unit]:
    """Returns the units of a file that workers may read apart."""
    if os.path.splitext(scanned.file.path)[1].lower() in _CODECS:
        return [scanned] if scanned.blocks else []
    return [dataclasses.replace(scanned, blocks=(block,)) for block in scanned.blocks]


def check_columns(scanned: Sequence[Unit]) -> None:
    """Raises a DataError unless all files have the same columns, in whatever order."""
    for unit in scanned[1:]:
        if set(unit.columns) != set(scanned[0].columns):
            raise DataError(
                f"{unit.file.path}: the columns are {sorted(unit.columns)}, but those of "
                f"{scanned[0].file.path} are {sorted(scanned[0].columns)}. "
                "Give files with one set of columns."
            )


def _pieces(text: BinaryIO, size_bytes: int, quote: int, growth: int = 1) -> Iterator[bytes]:
    """Yields a text in pieces; none but the last ends with a quote, which may be half of two."""
    while piece := text.read(size_bytes):
        while piece[-1] == quote and (more := text.read(1)):
            piece += more
        yield piece
        size_bytes *= growth


def _read_header(path: str, source: Source) -> tuple[tuple[str, ...], int, int]:
    """Returns the columns, and where the records start: the offset in bytes and the line."""
    rules = dialect(source)
    with open_text(path) as text:
        read = text.read(len(codecs.BOM_UTF8))
        start = len(codecs.BOM_UTF8) if read == codecs.BOM_UTF8 and _is_utf8(source.encoding) else 0
        if not source.header:
            return source.columns or (), start, 1
        read = read[start:]
        for piece in _pieces(text, 1 << 16, rules.quote, growth=2):
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
        raise _never_closed(path, 1 + quoting.num_lines(array[: toggled[-1]]))
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


def _cuts(
    text: BinaryIO, path: str, source: Source, offset: int, line: int, block_bytes: int
) -> Iterator[tuple[int, int]]:
    """Yields where blocks may end and the line there, the end of the file last."""
    rules = dialect(source)
    state, quote_line = State(), 0
    for piece in _pieces(text, block_bytes, rules.quote):
        array = np.frombuffer(piece, np.uint8)
        toggled = quoting.toggles(array, rules, state)
        is_quoted = bool((toggled.size + state.is_quoted) % 2)
        if is_quoted and toggled.size:
            quote_line = line + quoting.num_lines(array[: toggled[-1]], state.last_byte)
        end = quoting.last_cut(array, toggled, state)
        last_byte = state.last_byte
        if end is not None:
            line += quoting.num_lines(array[:end], last_byte)
            yield offset + end, line
            last_byte = int(array[end - 1])
        line += quoting.num_lines(array[end or 0 :], last_byte)
        offset += array.size
        state = State(is_quoted, int(array[-1]))
        progress.count("scanning", len(piece))
    if state.is_quoted:
        raise _never_closed(path, quote_line)
    yield offset, line


def _never_closed(path: str, line: int) -> DataError:
    return DataError(
        f"{path}:{line}: the quote that opens here is never closed, so the rest of the file cannot "
        "be read. Close it, or set source.quote."
    )


def texts(unit: Unit) -> Iterator[tuple[Block, bytes]]:
    """Yields the blocks of a unit with their text, uncompressed.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    path = unit.file.path
    try:
        with open_text(path) as text:
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
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> DataError:
    what = object_stores.fault(error)
    return DataError(f"{path}: cannot be read: {what}. Mend or remove the file.")


def parse(text: bytes, columns: Sequence[str], first_line: int, source: Source) -> Structure:
    """Finds the records of a block and parses those whose structure is sound.

    Args:
      text: Whole records.
      columns: The names of the fields, in the order of this file.
      first_line: The line of the file on which the text starts.
      source: How the text is written.
    """
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
            f"line {first_line} and below: {starts.size} records were found, but "
            f"{values.num_rows} parsed. The text mixes its quoting; mend it."
        )
    for position, fault in _bad_text(text, array, starts, ends, source).items():
        broken.setdefault(position, fault)
    is_sound = np.ones(starts.size, bool)
    is_sound[list(broken)] = False
    if broken:
        values = values.filter(pa.array(is_sound[is_parsed]))
    lines = first_line + _lines_before(array, starts)
    ordered = tuple((position, *broken[position]) for position in sorted(broken))
    return Structure(_clean(values, source), np.flatnonzero(is_sound), ordered, starts, ends, lines)


def _lines_before(array: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns how many lines end before each position: int64 (num_records,)."""
    is_newline, is_return = array == quoting.NEWLINE, array == quoting.RETURN
    is_newline[1:] &= ~is_return[:-1]  # The CR of a CRLF counts for both.
    return np.searchsorted(np.flatnonzero(is_newline | is_return), starts)


def _read_values(text: bytes, columns: Sequence[str], source: Source) -> tuple[pa.RecordBatch, int]:
    """Returns all fields as text, not yet known to be UTF-8, and the number of rows left out."""
    ragged: list[Any] = []

    def leave_out(row: Any) -> str:
        ragged.append(row.actual_columns)
        return "skip"

    if not _is_utf8(source.encoding):
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
            check_utf8=False,  # One bad cell would fail the block; `_bad_text` names the records.
            strings_can_be_null=False,
        ),
    )
    arrays = [
        pa.concat_arrays(c.chunks) if c.num_chunks != 1 else c.chunk(0) for c in table.columns
    ]
    return pa.record_batch(arrays, table.column_names), len(ragged)


def _bad_text(
    text: bytes, array: np.ndarray, starts: np.ndarray, ends: np.ndarray, source: Source
) -> dict[int, tuple[str, str]]:
    """Returns reason and detail of the records with bytes that are no text, by position."""
    faults: dict[int, tuple[str, str]] = {}
    if not _is_valid(text, source.encoding):
        for position, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            try:
                text[start:end].decode(source.encoding)
            except UnicodeDecodeError as error:
                byte = text[start + error.start]
                detail = f"byte 0x{byte:02x} at {error.start} is not {source.encoding}"
                faults[position] = ("bad_encoding", detail)
    if b"\0" in text:
        for position in np.searchsorted(starts, np.flatnonzero(array == 0), "right") - 1:
            faults.setdefault(int(position), ("nul_byte", "the record holds a NUL byte"))
    return faults


def _is_valid(text: bytes, encoding: str) -> bool:
    try:
        if _is_utf8(encoding):
            ends = pa.py_buffer(np.array([0, len(text)], np.int64))
            buffers = [None, ends, pa.py_buffer(text)]  # Without a copy, which holds the GIL.
            pa.Array.from_buffers(pa.large_binary(), 1, buffers).cast(pa.large_string())
        else:
            text.decode(encoding)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return False
    return True


def _clean(values: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """Trims the fields and makes those that stand for a missing value null."""
    nulls = pa.array(source.null_values, pa.string())

    def clean(column: pa.Array) -> pa.Array:
        if source.trim:
            column = pc.utf8_trim_whitespace(column)
        is_missing = pc.is_in(column, nulls)
        if pc.any(is_missing).as_py():
            column = pc.if_else(is_missing, pa.scalar(None, pa.string()), column)
        return column

    return pa.record_batch([clean(column) for column in values.columns], values.schema.names)
