"""JSON lines: a record is an object on a line, and its keys are columns."""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import object_stores, sql, utf8
from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import blocks, quoting, texts
from beam_jobs.sources.blocks import Structure, Unit
from beam_jobs.sources.listing import File
from beam_jobs.sources.quoting import Dialect

_BROKEN = "broken_json"
_OTHER_FAULT = "an escape in it is no character, or it is nested too deeply"
_LIMIT_BYTES = 2**31 - 1  # Of the lines of a block: Arrow counts them in 32 bits.
_LOOKED_AT_BYTES = 1 << 20  # At a time, for columns.
_NO_QUOTES = Dialect(-1, -1)  # No line end is inside a string: JSON escapes them there.
_NAMES = "SELECT DISTINCT unnest(json_keys(line)) FROM block WHERE json_valid(line)"
# Keys and values in their order: what a path asks for by name is looked for key by key. DuckDB's
# parser takes a comma behind the last value, which JSON does not.
_FIELDS = r"""
SELECT CASE WHEN json_valid(line) THEN json_keys(line) END AS names,
       CASE WHEN json_valid(line) THEN json_extract_string(line, '$.*') END AS cells,
       coalesce(regexp_matches(line, ',[ \t]*[\]}]'), false) AS is_suspect
FROM block
"""


def columns(files: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the keys of the first records, and then of more of them.

    Raises:
      DataError: A file cannot be read.
    """
    found = (seen for file in files for seen in _seen(file, _LOOKED_AT_BYTES))
    return blocks.columns_so_far(((names, size) for names, size, _ in found), files, source)


def scan(file: File, source: Source, block_bytes: int) -> Unit:
    """Reads a file once and finds the blocks of lines into which it may be cut.

    Args:
      file: The file.
      source: What to read of it: without `columns` these are all keys of all records.
      block_bytes: The size of a block; a longer line makes a longer block.

    Raises:
      DataError: The file cannot be read, or a line of it is too long.
    """
    names, cuts = {*(source.columns or ())}, []
    for more, _, cut in _seen(file, block_bytes, looks_at_keys=not source.columns):
        names |= more
        cuts.append(cut)
    return Unit((file,), blocks.ordered(names), blocks.between(cuts))


units = blocks.units_with_all_columns


def read(unit: Unit, source: Source) -> Iterator[Structure]:
    """Yields the records of each block of a unit.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    for block, text in blocks.texts(unit):
        yield _structure(text, block.first, unit, source)


class _Kept:
    """A file that is read onwards, and what was read of it and not taken yet."""

    def __init__(self, file: BinaryIO):
        self._file, self._kept = file, bytearray()

    def read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        self._kept += data
        return data

    def take(self, size_bytes: int) -> bytes:
        taken = bytes(self._kept[:size_bytes])
        del self._kept[:size_bytes]
        return taken


def _seen(
    file: File, block_bytes: int, looks_at_keys: bool = True
) -> Iterator[tuple[set[str], int, tuple[int, int]]]:
    """Yields the keys of the records up to a cut, their size in bytes, and the cut.

    Raises:
      DataError: The file cannot be read.
    """
    try:
        with blocks.open_plain(file.path) as opened:
            start = texts.bom_bytes(opened.read(len(codecs.BOM_UTF8)), "utf-8")
        with blocks.open_plain(file.path) as opened:
            opened.read(start)
            yield set(), 0, (start, 1)
            text: Any = _Kept(opened)
            for end, line in texts.cuts(text, file.path, _NO_QUOTES, start, 1, block_bytes):
                taken = text.take(end - start)
                yield _keys(taken, file) if looks_at_keys else set(), end - start, (end, line)
                start = end
    except (*object_stores.ERRORS, EOFError) as error:
        raise blocks.unreadable(file.path, error) from error


def _keys(text: bytes, file: File) -> set[str]:
    """Returns the keys of some lines; one with a NUL byte is no column's name."""
    starts, ends = _spans(text)
    lines = _lines(text, starts, _unreadable(text, starts, ends), f"{file.path}")
    found = sql.query(_NAMES, pa.table({"line": lines})).column(0).to_pylist()
    return {name for name in found if "\0" not in name}


def _spans(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the starts and the ends of the lines that hold more than white space: int64."""
    array = np.frombuffer(text, np.uint8)
    starts, ends = quoting.record_spans(array, _NO_QUOTES)
    is_record = np.ones(starts.size, bool)
    for position in np.flatnonzero(np.isin(array[starts], [0x20, 0x09])).tolist():
        is_record[position] = bool(text[starts[position] : ends[position]].strip(b" \t"))
    return starts[is_record], ends[is_record]


def _unreadable(text: bytes, starts: np.ndarray, ends: np.ndarray) -> dict[int, tuple[str, str]]:
    return texts.bad_text(text, np.frombuffer(text, np.uint8), starts, ends, "utf-8")


def _lines(
    text: bytes, starts: np.ndarray, left_out: Mapping[int, tuple[str, str]], where: str
) -> pa.StringArray:
    """Returns lines with the white space behind them, without a copy: string (num_lines,).

    Args:
      text: All of them.
      starts: Where each begins.
      left_out: Those that are no text, which become null.
      where: Their place, for messages.

    Raises:
      DataError: They are too long for a column.
    """
    if len(text) > _LIMIT_BYTES:
        raise DataError(f"{where}: a line here is longer than 2 GiB. Cut it in pieces.")
    offsets = np.append(starts, len(text)).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    lines = pa.Array.from_buffers(pa.binary(), starts.size, buffers)
    if left_out:
        is_text = np.ones(starts.size, bool)
        is_text[list(left_out)] = False
        lines = pc.if_else(pa.array(is_text), lines, pa.scalar(None, pa.binary()))
    return lines.view(pa.string())


def _structure(text: bytes, first_line: int, unit: Unit, source: Source) -> Structure:
    starts, ends = _spans(text)
    broken = _unreadable(text, starts, ends)
    where = f"{unit.file.path}:{first_line}"
    lines = _lines(text, starts, broken, where)
    found = sql.query(_FIELDS, pa.table({"line": lines}))
    num_keys = pc.fill_null(pc.list_value_length(found.column("names")), -1).to_numpy()
    is_suspect = found.column("is_suspect").to_numpy() | (num_keys < 1)  # Also `[]` has no key.
    for position in np.flatnonzero(is_suspect).tolist():
        if position not in broken:
            fault = _fault(text[starts[position] : ends[position]])
            if fault or num_keys[position] < 0:
                broken[position] = _BROKEN, fault or _OTHER_FAULT
    array = np.frombuffer(text, np.uint8)
    values = _values(found, unit.columns, broken)
    if b"\\u0000" in text:
        values = _without_nul(values, broken)
    return blocks.structure(
        values,
        broken,
        source,
        files=unit.files,
        places=first_line + texts.lines_before(array, starts),
        num_bytes=len(text),
        raw=lambda position: texts.raw(text[starts[position] : ends[position]], "utf-8"),
    )


def _fault(line: bytes) -> str:
    """Returns why a line is no JSON object, as Python's parser says it; "" if it is one."""
    try:
        found = json.loads(line.decode())
    except json.JSONDecodeError as error:
        return f"{error.msg} at character {error.colno}"
    except (ValueError, RecursionError):  # An integer of too many digits, or too many brackets.
        return ""
    return "" if isinstance(found, dict) else f"{_KINDS[type(found)]}, but must be an object"


_KINDS = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _values(
    found: pa.Table, columns: Sequence[str], broken: dict[int, tuple[str, str]]
) -> pa.RecordBatch:
    """Returns the columns of a block, and adds to the broken records.

    Args:
      found: For each record the lists `names` and `cells`, which are null if it is no JSON.
      columns: The keys whose values are asked for.
      broken: Reason and detail by position.
    """
    names, cells = (found.column(name).combine_chunks() for name in ("names", "cells"))
    lengths = pc.fill_null(pc.list_value_length(names), 0).to_numpy()
    records = np.repeat(np.arange(found.num_rows), lengths)
    keys = names.flatten().dictionary_encode()
    codes, flat = keys.indices.to_numpy(), cells.flatten()
    if len(keys.dictionary) < 1 << 16:
        codes = codes.astype(np.uint16)  # Which NumPy sorts by radix.
    order = np.argsort(codes, kind="stable")  # By key, and then by record.
    bounds = np.searchsorted(codes[order], np.arange(len(keys.dictionary) + 1))
    arrays, wanted = {}, {*columns}
    for code, name in enumerate(keys.dictionary.to_pylist()):
        places = order[bounds[code] : bounds[code + 1]]
        of = records[places]
        for position in of[1:][of[1:] == of[:-1]].tolist():
            broken.setdefault(position, (_BROKEN, f"the key {name!r} is there twice"))
        if "\0" in name:
            for position in of.tolist():
                broken.setdefault(position, texts.NUL_FAULT)
        if name in wanted:
            where = np.full(found.num_rows, -1)
            where[of] = places
            arrays[name] = flat.take(pa.array(where, mask=where < 0))
    missing = pa.nulls(found.num_rows, pa.string())
    return pa.record_batch([arrays.get(name, missing) for name in columns], [*columns])


def _without_nul(values: pa.RecordBatch, broken: dict[int, tuple[str, str]]) -> pa.RecordBatch:
    """Returns columns with null for a text with a NUL byte, and adds to the broken records."""
    checked = []
    for name, column in zip(values.schema.names, values.columns, strict=True):
        text, faults = utf8.as_text(column.view(pa.binary()))
        for is_bad, reason in faults:
            for position in np.flatnonzero(is_bad).tolist():
                broken.setdefault(position, (reason, f"column {name!r}"))
        checked.append(text)
    return pa.record_batch(checked, values.schema.names)
