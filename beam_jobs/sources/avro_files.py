"""Avro files: read by their blocks, with every value as text or bytes."""

import functools
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import fastavro
import pyarrow as pa

from beam_jobs import object_stores, progress
from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import arrow_files, blocks
from beam_jobs.sources.blocks import Structure, Unit
from beam_jobs.sources.listing import File

_SYNC_BYTES = 16
_PIECE_BYTES = 1 << 20
_RECORDS_AT_ONCE = 16_384
# Strings are read as bytes: one that is no UTF-8 breaks its record, not the file. Where a column
# holds bytes, they are large_binary, so that the two differ.
_STRING, _BYTES = pa.binary(), pa.large_binary()
_PRIMITIVES = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": _BYTES,
    "fixed": _BYTES,
    "string": _STRING,
    "enum": _STRING,
}
# Of int and long: fastavro leaves them alone where the schema that it sees does not say them.
_LOGICAL = {
    "date": pa.date32(),
    "time-millis": pa.time32("ms"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "timestamp-nanos": pa.timestamp("ns", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
    "local-timestamp-nanos": pa.timestamp("ns"),
}
# Unions of these are read as the widest.
_WIDER = ({"int", "long"}, {"float", "double"}, {"enum", "string"}, {"fixed", "bytes"})


class _Header(NamedTuple):
    """What a file begins with.

    Attributes:
      written: The schema as it stands there.
      schema: What columns its fields become.
      codec: Of its blocks.
      sync: What stands behind each block.
      num_bytes: Where its first block begins.
    """

    written: dict[str, Any]
    schema: pa.Schema
    codec: str
    sync: bytes
    num_bytes: int


class _Noted:
    """A file that is read onwards, and what was read of it."""

    def __init__(self, file: BinaryIO):
        self._file, self.seen = file, bytearray()

    def read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        self.seen += data
        return data


def columns(found: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the columns of the first file.

    Raises:
      DataError: It cannot be read.
    """
    path = found[0].path
    with blocks.told(path), blocks.open_plain(path) as file:
        yield arrow_files.columns_of(path, _header(file, path).schema, source)


def scan(file: File, source: Source, block_bytes: int) -> Unit:
    """Reads how long the blocks of a file are, and gathers them; nothing is decoded.

    Args:
      file: The file.
      source: What to read of it.
      block_bytes: The size of a block of ours; a longer one of the file makes a longer block.

    Raises:
      DataError: The file is damaged or cut.
    """
    path = file.path
    with blocks.told(path), blocks.open_plain(path) as opened:
        header = _header(opened, path)
        names = arrow_files.columns_of(path, header.schema, source)
        cuts, end, number = [(header.num_bytes, 1)], header.num_bytes, 1
        for num_records, size in _sizes(opened, header.sync):
            end, number = end + size, number + num_records
            if end - cuts[-1][0] >= block_bytes:
                cuts.append((end, number))
    progress.count("scanning", file.size_bytes)
    return Unit((file,), names, blocks.between([*cuts, (end, number)]))


units = blocks.units_with_one_set_of_columns


def read(unit: Unit, source: Source) -> Iterator[Structure]:
    """Yields the records of each block of a unit, some at a time.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    path = unit.file.path
    with blocks.told(path), blocks.open_plain(path) as file:
        header = _header(file, path)
    for block, data in blocks.texts(unit):
        first = block.first
        for records in _decoded(data, header, path):
            batch = _batch(records, header.schema, path)
            yield arrow_files.structure(batch, unit, unit.file, first, source)
            first += len(records)


def _header(file: BinaryIO, path: str) -> _Header:
    """Reads what a file begins with.

    Raises:
      DataError: It is no Avro file, or its records make no columns.
    """
    noted: Any = _Noted(file)
    try:
        reader = fastavro.block_reader(noted)
    except object_stores.ERRORS:
        raise
    except Exception as error:  # Of a file that is none it may raise anything.
        raise blocks.unreadable(path, error) from error
    written: Any = reader.writer_schema
    if not isinstance(written, dict) or written.get("type") != "record":
        kind = written.get("type") if isinstance(written, dict) else written
        raise DataError(f"{path}: holds values of the type {kind!r}. Give a file of records.")
    fields = _fields(written, path, {}, ())
    codec, sync = str(reader.codec), bytes(noted.seen[-_SYNC_BYTES:])
    return _Header(written, pa.schema(fields), codec, sync, len(noted.seen))


def _fields(
    record: Mapping[str, Any], path: str, named: dict[str, Any], above: tuple[str, ...]
) -> list[pa.Field]:
    """Returns the fields of a record.

    Args:
      record: Its schema, with full names.
      path: Of the file, for messages.
      named: The schemas that have a name, as far as they are known.
      above: The records that this one is a part of.
    """
    named[record["name"]] = record
    if record["name"] in above:
        raise DataError(
            f"{path}: a record {record['name']!r} holds records of its own kind, which no columns "
            "can. Leave that field out."
        )
    of = functools.partial(_type, path=path, named=named, above=(*above, record["name"]))
    return [pa.field(field["name"], of(field["type"], field["name"])) for field in record["fields"]]


def _type(
    schema: Any, field: str, *, path: str, named: dict[str, Any], above: tuple[str, ...]
) -> pa.DataType:
    """Returns what Arrow holds the values of a schema in."""
    of = functools.partial(_type, field=field, path=path, named=named, above=above)
    if isinstance(schema, list):
        return of(_the_one(schema, field, path))
    if isinstance(schema, str):
        return of(named[schema]) if schema in named else _PRIMITIVES[schema]
    kind, logical = schema["type"], schema.get("logicalType")
    if kind == "record":
        return pa.struct(_fields(schema, path, named, above))
    if kind in ("enum", "fixed"):
        named[schema["name"]] = schema
    if logical == "decimal" and kind in ("bytes", "fixed"):
        return pa.decimal256(schema["precision"], schema.get("scale", 0))
    if logical in _LOGICAL and kind in ("int", "long"):
        return _LOGICAL[logical]
    if kind == "array":
        return pa.list_(_nested(of(schema["items"])))
    if kind == "map":
        return pa.map_(pa.string(), _nested(of(schema["values"])))
    return of(kind) if isinstance(kind, (dict, list)) else _PRIMITIVES.get(kind) or of(kind)


def _nested(kind: pa.DataType) -> pa.DataType:
    """Returns the type of values in lists: JSON needs text."""
    return pa.string() if kind == _STRING else kind


def _the_one(union: Sequence[Any], field: str, path: str) -> Any:
    """Returns the schema of a union's values that are not null."""
    others = [schema for schema in union if schema != "null"]
    if len(others) < 2:
        return others[0] if others else "null"
    kinds = [schema["type"] if isinstance(schema, dict) else schema for schema in others]
    for family in _WIDER:
        has_logical = any(isinstance(s, dict) and "logicalType" in s for s in others)
        if {*kinds} <= family and not has_logical:
            return next((kind for kind in ("long", "double", "string") if kind in kinds), "bytes")
    raise DataError(
        f"{path}: {field!r} is a union of {', '.join(map(str, kinds))}, which no column can hold. "
        "Give it one type beside null."
    )


def _sizes(file: BinaryIO, sync: bytes) -> Iterator[tuple[int, int]]:
    """Yields the records of each block, and its bytes.

    Raises:
      ValueError: A block is not as it must be.
    """
    number = 0
    while start := file.read(1):
        num_records, count_bytes = _long(file, start)
        size, size_bytes = _long(file, file.read(1))
        if num_records < 0 or size < 0:
            raise ValueError(f"block {number} has a size below zero")
        left = size
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            left -= len(piece)
        found = file.read(_SYNC_BYTES)
        if left or len(found) < _SYNC_BYTES:
            raise ValueError(f"the file ends within block {number}")
        if found != sync:
            raise ValueError(f"block {number} does not end with the file's marker")
        yield num_records, count_bytes + size_bytes + size + _SYNC_BYTES
        number += 1


def _long(file: BinaryIO, byte: bytes) -> tuple[int, int]:
    """Reads a number of variable length, from its first byte on, and how long it is in bytes."""
    value = shift = 0
    for length in itertools.count(1):
        if not byte or length > 10:
            raise ValueError("a number in it has no end")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
        byte = file.read(1)
    return (value >> 1) ^ -(value & 1), length


def _decoded(data: bytes, header: _Header, path: str) -> Iterator[list[dict[str, Any]]]:
    """Yields the records of some blocks of a file, some blocks at a time.

    Raises:
      DataError: They cannot be decoded.
    """
    records: list[Any] = []
    num_bytes = 0
    try:
        made = io.BytesIO()
        schema: Any = _plain(header.written)
        codec: Any = header.codec
        fastavro.writer(made, schema, [], codec=codec, sync_marker=header.sync)
        made = io.BytesIO(made.getvalue() + data)
        for block in fastavro.block_reader(made):
            records += block
            num_bytes += block.size
            if num_bytes >= _PIECE_BYTES or len(records) >= _RECORDS_AT_ONCE:
                yield records
                records, num_bytes = [], 0
    except Exception as error:  # Of damaged blocks fastavro may raise anything.
        raise blocks.unreadable(path, error) from error
    if records:
        yield records


def _plain(schema: Any) -> Any:
    """Returns a schema that reads the same bytes: strings as bytes, dates and times as numbers."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if isinstance(schema, str):
        return "bytes" if schema == "string" else schema
    kept = {
        name: value for name, value in schema.items() if name != "logicalType" or value == "decimal"
    }
    for name in {"type", "items", "values"} & kept.keys():
        kept[name] = _plain(kept[name])
    if "fields" in kept:
        kept["fields"] = [{**field, "type": _plain(field["type"])} for field in kept["fields"]]
    return kept


def _batch(records: Sequence[Mapping[str, Any]], schema: pa.Schema, path: str) -> pa.RecordBatch:
    """Returns records in columns; a field of a record in a record is a column of its own."""
    arrays = []
    for field in schema:
        try:
            values = [record[field.name] for record in records]
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise DataError(
                f"{path}: column {field.name!r} cannot be read: {object_stores.fault(error)}. Mend "
                "or remove the file."
            ) from error
    table = arrow_files.flattened(pa.Table.from_arrays(arrays, schema.names))
    texts = [
        column.combine_chunks().view(pa.string()) if column.type == _STRING else column
        for column in table.columns
    ]
    return pa.Table.from_arrays(texts, table.column_names).combine_chunks().to_batches()[0]
