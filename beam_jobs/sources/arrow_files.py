"""Parquet files, and Arrow's own: read by row group or batch, with every value as text."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs import files, object_stores, progress, sql, utf8
from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import blocks
from beam_jobs.sources.blocks import Block, Structure, Unit
from beam_jobs.sources.listing import File

# What the schema of an ingested file says: whence its records come, and the first one's number
# there, if they have an order.
SOURCE, FIRST = b"headrace.source", b"headrace.first"
_CELLS_AT_ONCE = 1 << 22  # As text they take some 50 MB.
_ERRORS = (pa.ArrowException, *object_stores.ERRORS)


class _Group(NamedTuple):
    """Rows that are stored together: a row group of a Parquet file, a batch of an Arrow file."""

    num_rows: int
    num_bytes: int


class _Parquet:
    def __init__(self, file: Any):
        self._file = pq.ParquetFile(file)
        # Arrow casts their indices to those that were written, and takes no text but UTF-8 then.
        coded = [field.name for field in self._file.schema_arrow if _is_coded_text(field.type)]
        if coded:
            whole = self._file.metadata
            self._file = pq.ParquetFile(file, metadata=whole, read_dictionary=coded)
        self.schema = self._file.schema_arrow

    @property
    def groups(self) -> list[_Group]:
        found = self._file.metadata
        groups = map(found.row_group, range(found.num_row_groups))
        return [_Group(group.num_rows, group.total_byte_size) for group in groups]

    def batches(self, group: int, num_rows: int, fields: list[str]) -> Iterator[pa.RecordBatch]:
        return self._file.iter_batches(num_rows, [group], fields, use_threads=False)


def _is_coded_text(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) and kind.value_type in (pa.string(), pa.large_string())


class _Arrow:
    def __init__(self, file: Any):
        self._file = pa.ipc.open_file(file)
        self.schema = self._file.schema

    @property
    def groups(self) -> list[_Group]:
        found = map(self._file.get_batch, range(self._file.num_record_batches))
        return [_Group(batch.num_rows, batch.nbytes) for batch in found]

    def batches(self, group: int, num_rows: int, fields: list[str]) -> Iterator[pa.RecordBatch]:
        batch = self._file.get_batch(group).select(fields)
        for start in range(0, batch.num_rows, num_rows):
            yield batch.slice(start, num_rows)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[_Parquet | _Arrow]:
    """Opens a file of either format, which its first bytes tell.

    Raises:
      DataError: It cannot be read, or what is done with it fails.
    """
    try:
        with contextlib.ExitStack() as stack:
            if files.is_local(path):
                file = stack.enter_context(pa.memory_map(path))
            else:
                file = pa.PythonFile(stack.enter_context(files.opened(path)), mode="r")
            is_arrow = file.read(6) == b"ARROW1"
            file.seek(0)
            yield _Arrow(file) if is_arrow else _Parquet(file)
    except _ERRORS as error:
        raise blocks.unreadable(path, error) from error


def columns(found: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the columns of the first file.

    Raises:
      DataError: It cannot be read.
    """
    with _opened(found[0].path) as table:
        yield columns_of(found[0].path, table.schema, source)


def columns_of(path: str, schema: pa.Schema, source: Source) -> tuple[str, ...]:
    """Returns the columns that are read of what the values of a schema become.

    Raises:
      DataError: Two have one name, or there is none of a name that the source gives.
    """
    names = flattened(schema.empty_table()).schema.names
    for name in names:
        if names.count(name) > 1 or "\0" in name:
            what = "stands there twice" if names.count(name) > 1 else "has a NUL byte"
            raise DataError(f"{path}: column {name!r} {what}. Rename it.")
    for name in source.columns or ():
        if name not in names:
            raise DataError(f"{path}: there is no column {name!r}. Correct source.columns.")
    return source.columns or tuple(names)


def scan(file: File, source: Source, block_bytes: int) -> Unit:
    """Returns what a file says of its row groups: nothing else of it is read.

    A block is a part of a row group, from row to row.

    Raises:
      DataError: It cannot be read.
    """
    with _opened(file.path) as table:
        names, groups = columns_of(file.path, table.schema, source), table.groups
    found, first = [], _origin(file, table.schema)[1]
    for number, group in enumerate(groups):
        rows = block_bytes * group.num_rows // max(group.num_bytes, 1)
        rows = max(1, min(rows, _CELLS_AT_ONCE // max(len(names), 1)))
        for start in range(0, group.num_rows, rows):
            end = min(start + rows, group.num_rows)
            found.append(Block(start, end, first + start, number))
        first += group.num_rows
    progress.count("scanning", file.size_bytes)
    return Unit((file,), names, tuple(found))


def units(scanned: Sequence[Unit]) -> list[Unit]:
    """Returns a unit for each row group of all files.

    Raises:
      DataError: Two files have not the same columns, in whatever order.
    """
    blocks.check_columns(scanned)
    return by_group(scanned)


def by_group(scanned: Sequence[Unit]) -> list[Unit]:
    """Returns a unit for each row group of all files."""
    return [
        dataclasses.replace(unit, blocks=tuple(group))
        for unit in scanned
        for _, group in itertools.groupby(unit.blocks, lambda block: block.group)
    ]


def read(unit: Unit, source: Source) -> Iterator[Structure]:
    """Yields the records of a row group.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    start, end = unit.blocks[0], unit.blocks[-1]
    first = start.first
    with _opened(unit.file.path) as table:
        fields = [field.name for field in table.schema if _is_read(field, unit.columns)]
        file, said = _origin(unit.file, table.schema)[0], table.schema.metadata or {}
        for batch in table.batches(start.group, start.end, fields):
            found = structure(batch, unit, file, first, source)
            if SOURCE in said and FIRST not in said:
                found = dataclasses.replace(found, places=np.zeros_like(found.places))
            yield found
            first += batch.num_rows
    if first - start.first != end.end:
        raise DataError(f"{unit.file.path}: changed while it was read. Run again.")


def _is_read(field: pa.Field, names: Sequence[str]) -> bool:
    return any(name == field.name or name.startswith(f"{field.name}.") for name in names)


def _origin(file: File, schema: pa.Schema) -> tuple[File, int]:
    """Returns whence the records of a file come, and the number of the first one there."""
    said = schema.metadata or {}
    if SOURCE not in said:
        return file, 1
    return dataclasses.replace(file, path=said[SOURCE].decode()), int(said.get(FIRST, 1))


def structure(
    batch: pa.RecordBatch, unit: Unit, file: File, first: int, source: Source
) -> Structure:
    """Returns the structure of records of any types.

    Args:
      batch: The records.
      unit: Which columns are read; one that is not there is missing in each.
      file: Whence the records come.
      first: The number of the first one there.
      source: What stands for a missing value.
    """
    flat = flattened(pa.Table.from_batches([batch]))
    for name in {*unit.columns} - {*flat.column_names}:
        flat = flat.append_column(name, pa.nulls(batch.num_rows, pa.string()))
    flat = flat.select(unit.columns)
    broken: dict[int, tuple[str, str]] = {}
    columns = []
    for name, column in zip(flat.schema.names, flat.columns, strict=True):
        array = as_text(column.combine_chunks())
        if pa.types.is_string(array.type) and not pa.types.is_primitive(column.type):
            array, faults = utf8.as_text(array.view(pa.binary()))
            for where, reason in faults:
                for position in np.flatnonzero(where).tolist():
                    broken.setdefault(position, (reason, f"column {name!r}"))
        columns.append(array)
    values = pa.record_batch(columns, flat.schema.names)
    return blocks.structure(
        values,
        broken,
        source,
        files=(file,),
        places=np.arange(first, first + batch.num_rows),
        num_bytes=batch.nbytes,
        raw=functools.partial(blocks.raw_row, values),
    )


def flattened(table: pa.Table) -> pa.Table:
    """Returns a table with a column for each field of a struct, called `column.field`."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def as_text(values: pa.Array) -> pa.Array:
    """Returns values as text that parses back to them, or as bytes if they are bytes.

    A list or map is JSON, a time with an offset is in UTC.

    Args:
      values: Of any type but a struct.

    Returns:
      string or binary, null where missing; a string is as it came, be it UTF-8 or not.
    """
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return as_text(values.storage)
    if pa.types.is_dictionary(kind):
        return as_text(values.dictionary_decode())
    if any(is_bytes(kind) for is_bytes in _IS_BYTES):
        return values.cast(pa.binary())
    if pa.types.is_nested(kind):
        found = sql.query("SELECT CAST(to_json(v) AS VARCHAR) FROM block", pa.table({"v": values}))
        return found.column(0).combine_chunks().cast(pa.string())
    if pa.types.is_timestamp(kind) and kind.tz:
        values = values.cast(pa.timestamp(kind.unit, "UTC"))
    return values.cast(pa.string())


_IS_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
