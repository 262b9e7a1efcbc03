"""Texts that are cut where lines end, and bytes of them that are no text."""

import codecs
import functools
import itertools
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from beam_jobs import progress
from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import quoting
from beam_jobs.sources.blocks import RAW_RECORD_LIMIT
from beam_jobs.sources.quoting import Dialect, State

NUL_FAULT = ("nul_byte", "the record holds a NUL byte")


def is_utf8(encoding: str) -> bool:
    """Whether this is a name of UTF-8."""
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


def bom_bytes(text: bytes, encoding: str) -> int:
    """Returns how long the mark is that a text in UTF-8 may begin with."""
    is_there = is_utf8(encoding) and text.startswith(codecs.BOM_UTF8)
    return len(codecs.BOM_UTF8) if is_there else 0


def check_encoding(source: Source) -> None:
    """Raises a SpecError for an encoding in which one byte is not one character, UTF-8 apart."""
    if not is_utf8(source.encoding) and not _is_single_byte(source.encoding):
        raise SpecError(
            "source.encoding: must be utf-8 or an encoding of one byte a character such as "
            f"latin-1, but is {source.encoding!r}. Convert the files to UTF-8."
        )


def pieces(text: BinaryIO, size_bytes: int, quote: int, growth: int = 1) -> Iterator[bytes]:
    """Yields a text in pieces; none but the last ends with a quote, which may be half of two."""
    while piece := text.read(size_bytes):
        while piece[-1] == quote and (more := text.read(1)):
            piece += more
        yield piece
        size_bytes *= growth


def cuts(
    text: BinaryIO, path: str, rules: Dialect, offset: int, line: int, block_bytes: int
) -> Iterator[tuple[int, int]]:
    """Yields where blocks may end and the line there, the end of the file last.

    Args:
      text: The file, from the offset on.
      path: Its name, for messages.
      rules: How its records are told apart.
      offset: In bytes of the uncompressed file.
      line: The line there.
      block_bytes: The size of a block; a longer record makes a longer block.

    Raises:
      DataError: A quoted field never ends.
    """
    state, quote_line = State(), 0
    for piece in pieces(text, block_bytes, rules.quote):
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
        raise never_closed(path, quote_line)
    yield offset, line


def never_closed(path: str, line: int) -> DataError:
    """Returns what is to be raised for a quote."""
    return DataError(
        f"{path}:{line}: the quote that opens here is never closed, so the rest of the file cannot "
        "be read. Close it, or set source.quote."
    )


def lines_before(array: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns how many lines end before each position: int64 (num_records,)."""
    ends = quoting.line_ends(array)
    follows = np.flatnonzero(np.diff(ends) == 1)
    is_pair = (array[ends[follows]] == quoting.RETURN) & (
        array[ends[follows] + 1] == quoting.NEWLINE
    )
    return np.searchsorted(np.delete(ends, follows[is_pair] + 1), starts)


def bad_text(
    text: bytes, array: np.ndarray, starts: np.ndarray, ends: np.ndarray, encoding: str
) -> dict[int, tuple[str, str]]:
    """Returns reason and detail of the records with bytes that are no text, by position."""
    faults: dict[int, tuple[str, str]] = {}
    if not is_valid(text, encoding):
        for position, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if fault := encoding_fault(text[start:end], encoding):
                faults[position] = fault
    if b"\0" in text:
        for position in np.searchsorted(starts, np.flatnonzero(array == 0), "right") - 1:
            faults.setdefault(int(position), NUL_FAULT)
    return faults


def encoding_fault(text: bytes, encoding: str) -> tuple[str, str] | None:
    """Returns reason and detail for bytes that are no text; None for those that are."""
    try:
        text.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"byte 0x{text[error.start]:02x} at {error.start}"
        return "bad_encoding", f"{where} is not {encoding}"
    return None


def is_valid(text: bytes, encoding: str) -> bool:
    """Whether all of a text is in an encoding."""
    try:
        if is_utf8(encoding):
            ends = pa.py_buffer(np.array([0, len(text)], np.int64))
            buffers = [None, ends, pa.py_buffer(text)]  # Without a copy, which holds the GIL.
            pa.Array.from_buffers(pa.large_binary(), 1, buffers).cast(pa.large_string())
        else:
            text.decode(encoding)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return False
    return True


def raw(text: bytes, encoding: str) -> str:
    """Returns a raw record as it is set aside: at most so much of it, whatever it holds."""
    return text[:RAW_RECORD_LIMIT].decode(encoding, "backslashreplace")
