"""Elements of a PCollection as columns of texts and bytes.

What a value becomes depends on that value alone: an engine decides which elements come together.
"""

import datetime
import decimal
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import keys
from beam_jobs.sources import arrays, arrow_files
from beam_jobs.sources.arrays import UnfitValue
from beam_jobs.sources.blocks import ordered
from beam_jobs.sources.units import Fingerprint

_ARROW_TYPES = {str: pa.string(), bytes: pa.binary(), float: pa.float64(), int: pa.int64()}


def batch(elements: Sequence[Any]) -> pa.RecordBatch:
    """Returns single records by columns, each string or binary.

    Args:
      elements: dicts by column, NamedTuples or `beam.Row`s; what one of them lacks is null there.

    Raises:
      UnfitValue: One is something else, or a value fits no column.
    """
    records = [_named(element) for element in elements]
    names = {name for record in records for name in record}
    for name in names:
        if not isinstance(name, str) or "\0" in name or name.encode(errors="ignore") == b"":
            raise UnfitValue(
                f"the name {name!r} is no column's: give each value a text as its name"
            )
    columns = {
        name: _column(name, [record.get(name) for record in records]) for name in ordered(names)
    }
    if not columns:
        raise UnfitValue("a record has no column")
    return pa.record_batch(columns)


def of_arrow(table: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
    """Returns Arrow's records by columns, each string or binary.

    Raises:
      UnfitValue: Two columns have one name.
    """
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    flat = arrow_files.flattened(table)
    if len({*flat.column_names}) < flat.num_columns:
        raise UnfitValue(f"two columns have one name: {flat.column_names}")
    columns = {
        name: arrow_files.as_text(column.combine_chunks())
        for name, column in zip(flat.column_names, flat.columns, strict=True)
    }
    return pa.record_batch({name: columns[name] for name in ordered(columns)})


def size_bytes(element: Any) -> int:
    """Returns about how much an element holds."""
    if hasattr(element, "nbytes"):
        return element.nbytes
    values = element.values() if isinstance(element, Mapping) else element
    if not isinstance(values, (list, tuple, type({}.values()))):
        return 64
    return sum(
        len(value) if isinstance(value, (str, bytes)) else getattr(value, "nbytes", 8)
        for value in values
    )


def fingerprint(found: pa.RecordBatch) -> Fingerprint:
    """Returns the sum of a hash of each record's values: of records in any order and in any parts.

    Args:
      found: What `batch` or `of_arrow` returned.
    """
    cells = [
        pc.binary_join_element_wise(pa.scalar(name.encode()), column.cast(pa.binary()), b"\0")
        for name, column in zip(found.schema.names, found.columns, strict=True)
    ]
    joined = pc.binary_join_element_wise(*cells, b"\0", null_handling="skip")
    hashed = keys.hashes(joined)
    first, last = (int(hashed[half].astype(np.uint64).sum()) for half in ("first", "last"))
    return Fingerprint(first, last)


def _named(element: Any) -> Mapping[str, Any]:
    if isinstance(element, Mapping):
        return element
    if hasattr(element, "_asdict"):
        return element._asdict()
    raise UnfitValue(
        f"an element is a {type(element).__name__}: give dicts by column, NamedTuples, rows of "
        "Beam or RecordBatches"
    )


def _column(name: str, values: list[Any]) -> pa.Array:
    """Returns values as a column, as fast as Arrow where they are of one plain type."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) == 1 and (kind := _ARROW_TYPES.get(*kinds)):
        try:
            found = pa.array(values, kind, from_pandas=False)
            return found if pa.types.is_binary(kind) else found.cast(pa.string())
        except (pa.ArrowException, OverflowError, UnicodeError):
            pass  # Too large for 64 bits, or no UTF-8.
    cells = [None if value is None else _cell(name, value) for value in values]
    if any(isinstance(cell, bytes) for cell in cells):
        return pa.array([c.encode() if isinstance(c, str) else c for c in cells], pa.binary())
    return pa.array(cells, pa.string())


def _cell(name: str, value: Any) -> str | bytes | None:
    """Returns what a value becomes.

    Raises:
      UnfitValue: No column can hold it.
    """
    for kinds, text in _TEXTS:
        if isinstance(value, kinds):
            return text(value)
    if hasattr(value, "to_utc_datetime"):  # Of Beam.
        return _moment(value.to_utc_datetime(has_tz=True))
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return arrays.columns(name, value[np.newaxis])[name][0].as_py()
    if isinstance(value, (np.ndarray, list, tuple, Mapping)):
        return json.dumps(
            value.tolist() if isinstance(value, np.ndarray) else value,
            ensure_ascii=False,
            separators=(",", ":"),
            default=lambda inner: _inner(name, inner),
        )
    raise UnfitValue(
        f"{name} holds a {type(value).__name__}: give texts, numbers, bytes, dates, lists or images"
    )


def _inner(name: str, value: Any) -> Any:
    """Returns what JSON says of a value that it has no word for."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    found = _cell(name, value)
    if isinstance(found, bytes):
        raise UnfitValue(f"{name} holds bytes in a list: give each a column of its own")
    return found


def _string(value: str) -> str | bytes:
    """Returns a text; bytes where it has half of a surrogate pair, so that it is told as such."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return str(value)


def _moment(value: datetime.datetime) -> str:
    """Returns a time as Arrow writes it: in UTC where it has an offset."""
    if value.tzinfo is None:
        return value.isoformat(" ", "microseconds")
    plain = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return plain.isoformat(" ", "microseconds") + "Z"


_TEXTS: tuple[tuple[tuple[type, ...], Callable[[Any], str | bytes]], ...] = (
    ((bool, np.bool_), lambda value: "true" if value else "false"),
    ((str,), _string),
    ((bytes, bytearray, memoryview), bytes),
    ((int, np.integer), lambda value: str(int(value))),
    ((float, np.floating), lambda value: pa.array([float(value)]).cast(pa.string())[0].as_py()),
    ((decimal.Decimal,), lambda value: format(value, "f")),
    ((datetime.datetime,), _moment),
    ((datetime.date,), lambda value: value.isoformat()),
    ((datetime.time,), lambda value: value.isoformat("microseconds")),
    ((uuid.UUID,), str),
)
