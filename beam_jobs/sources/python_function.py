"""What a user's function returns, as records: arrays, a keras.utils.PyDataset, or a generator."""

import collections
import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_jobs import functions
from beam_jobs.errors import DataError
from beam_jobs.sources import arrays
from beam_jobs.sources.arrays import UnfitValue

_KERAS = ("keras", "tf_keras")
_NAMES = ("x", "y", "sample_weight")  # What Keras calls the members of a tuple.
_RECORDS_AT_ONCE = 65_536
_MAY_BE_MISSING = ("a single value", "bytes")


def batches(name: str, function: Callable[[], Any], num_threads: int) -> Iterator[pa.RecordBatch]:
    """Calls a function once and yields the records that it makes, in its order.

    Args:
      name: Of the function, for messages.
      function: Takes nothing; returns NumPy arrays by name or as (x, y), a keras.utils.PyDataset,
        whose items are asked for by threads and taken apart, or an iterable of single records, each
        a dict by column or (x, y).
      num_threads: How many items of a PyDataset are made at a time.

    Raises:
      DataError: The function raised, or gave what no table can hold; one line that says where.
    """
    with _told(name, "when it was called"):
        made = function()
    if _is_dataset(made):
        yield from _items(name, made, num_threads)
    elif _is_arrays(made):
        with _told(name, "in what it returned"):
            yield from arrays.pieces(_named(made))
    elif isinstance(made, Iterable) and not (
        isinstance(made, (str, bytes, Mapping)) or hasattr(made, "columns")  # Of a data frame.
    ):
        yield from _records(name, iter(made))
    else:
        raise DataError(
            f"{name}: returned a {type(made).__name__}. Return a generator of records, a "
            "keras.utils.PyDataset, or NumPy arrays by name."
        )


@contextlib.contextmanager
def _told(name: str, where: str) -> Iterator[None]:
    """Says in a line what a user's function raised, or what does not fit in what it gave."""
    try:
        yield
    except DataError:
        raise
    except UnfitValue as error:
        raise DataError(f"{name}: {where}: {error}.") from error
    except (Exception, SystemExit) as error:
        raise DataError(
            f"{name}: raised {functions.said(error)} {where}. Nothing is published; mend it and "
            "run again."
        ) from error


def _is_dataset(made: Any) -> bool:
    """Whether it is a PyDataset, or a Sequence as Keras called it before; nothing is imported."""
    return any(
        kind.__name__ in ("PyDataset", "Sequence") and kind.__module__.split(".")[0] in _KERAS
        for kind in type(made).__mro__
    )


def _is_arrays(made: Any) -> bool:
    """Whether it is an array, or names them as a record names its values."""
    parts = made if isinstance(made, tuple) else (made,)
    values = [v for part in parts for v in (part.values() if isinstance(part, Mapping) else [part])]
    return bool(values) and all(isinstance(value, np.ndarray) for value in values)


def _named(record: Any) -> dict[str, Any]:
    """Returns a record, or a batch of them, by name.

    Raises:
      UnfitValue: It is neither a dict nor a tuple as Keras takes it, or two values have one name.
    """
    parts = record if isinstance(record, (tuple, list)) else (record,)
    if not 1 <= len(parts) <= len(_NAMES):
        raise UnfitValue(f"a tuple is ({', '.join(_NAMES)}), but this one has {len(parts)} values")
    found: dict[str, Any] = {}
    for default, part in zip(_NAMES, parts, strict=False):
        for name, value in (part if isinstance(part, Mapping) else {default: part}).items():
            if not _is_text(name) or name in found:
                what = "is there twice" if name in found else "is no text"
                raise UnfitValue(f"the name {name!r} {what}: give each value a name of its own")
            if isinstance(value, np.ma.MaskedArray):
                raise UnfitValue(f"{name} is a masked array: fill it, or leave the records out")
            found[name] = value
    return found


@functools.lru_cache  # Each record has the same names.
def _is_text(name: Any) -> bool:
    """Whether a column can be called so: Arrow wants UTF-8, and its files no NUL."""
    is_text = isinstance(name, str) and "\0" not in name
    return is_text and name.encode(errors="ignore").decode() == name


def _plain(value: Any) -> Any:
    """Returns a tensor or a list as an array, and an array of no dimension as its value."""
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "__array__") and not isinstance(value, (np.ndarray, np.generic)):
        value = np.asarray(value)
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _items(name: str, dataset: Any, num_threads: int) -> Iterator[pa.RecordBatch]:
    """Yields the items of a PyDataset in the order of their index; threads make the next ones."""
    with _told(name, "when it was asked for its length"):
        num_items = len(dataset) if hasattr(dataset, "__len__") else dataset.num_batches
    if num_items is None:
        raise DataError(f"{name}: the PyDataset has no end. Give it a __len__.")
    shapes: dict[str, str] = {}
    waiting: collections.deque[concurrent.futures.Future[_Item]] = collections.deque()
    threads = concurrent.futures.ThreadPoolExecutor(num_threads)
    try:
        for index in range(num_items):
            while len(waiting) < min(2 * num_threads, num_items - index):
                waiting.append(threads.submit(_item, dataset, index + len(waiting)))
            with _told(name, f"in item {index:,} of {num_items:,}"):
                item = waiting.popleft().result()
                shapes = shapes or item.shapes
                _check_alike(item.shapes, shapes)
            yield from item.records
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


class _Item(NamedTuple):
    """The records of one item, and what each array holds of a record."""

    records: list[pa.RecordBatch]
    shapes: dict[str, str]


def _item(dataset: Any, index: int) -> _Item:
    found = {name: _array(name, value) for name, value in _named(dataset[index]).items()}
    records = list(arrays.pieces(found))
    return _Item(records, {name: _shape(value) for name, value in found.items()})


def _array(name: str, value: Any) -> Any:
    """Returns a batch of values as an array, or as a column: Arrow finds the type of a list."""
    value = _plain(value)
    if isinstance(value, (list, tuple)) and any(np.ndim(one) for one in value):
        try:
            return np.stack([np.asarray(one) for one in value])
        except ValueError as error:
            raise UnfitValue(f"{name} has records of several shapes in one batch") from error
    is_list = hasattr(value, "__len__") and not isinstance(value, np.ndarray)
    return arrays.columns(name, value)[name] if is_list else value


def _shape(batch: Any) -> str:
    """Returns what one record of a batch is."""
    if isinstance(batch, np.ndarray):
        return f"of shape {batch.shape[1:]}" if batch.ndim > 1 else "single values"
    return "bytes" if pa.types.is_binary(batch.type) else "single values"


def _check_alike(shapes: dict[str, str], first: dict[str, str]) -> None:
    """Raises an UnfitValue unless the arrays are those of the first item, of the same shapes."""
    if set(shapes) != set(first):
        raise UnfitValue(f"its names are {sorted(shapes)}, but those of item 0 {sorted(first)}")
    for name, shape in shapes.items():
        if shape != first[name]:
            raise UnfitValue(
                f"{name} has records {shape}, but in item 0 {first[name]}: all must be alike"
            )


def _records(name: str, records: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    """Yields the records of a generator, some megabytes at a time."""
    columns: dict[str, list[Any]] = {}
    kinds: dict[str, str] = {}
    num_bytes = num_records = 0
    end = object()
    while True:
        with _told(name, f"after {num_records:,} records"):
            record = next(records, end)
        if record is end:
            break
        with _told(name, f"in record {num_records + 1:,}"):
            found = {column: _value(value) for column, value in _named(record).items()}
            num_bytes += _note(found, kinds, is_first=not num_records)
        for column, value in found.items():
            columns.setdefault(column, []).append(value)
        num_records += 1
        if num_bytes >= arrays.PIECE_BYTES or not num_records % _RECORDS_AT_ONCE:
            yield _batch(name, columns, kinds, num_records)
            columns, num_bytes = {}, 0
    if columns:
        yield _batch(name, columns, kinds, num_records)


def _value(value: Any) -> Any:
    value = _plain(value)
    return _plain(np.asarray(value)) if isinstance(value, (list, tuple)) else value


def _note(record: Mapping[str, Any], kinds: dict[str, str], is_first: bool) -> int:
    """Notes what the columns hold, and returns about how many bytes a record takes.

    Raises:
      UnfitValue: The record holds something else than those before it.
    """
    if not is_first and record.keys() != kinds.keys():
        raise UnfitValue(f"its columns are {sorted(record)}, but those of record 1 {sorted(kinds)}")
    num_bytes = 0
    for column, value in record.items():
        kind, size = _kind(value)
        num_bytes += size
        known = kinds.setdefault(column, kind)
        if known == "missing" and kind in _MAY_BE_MISSING:
            kinds[column] = kind
        elif kind != known and not (kind == "missing" and known in _MAY_BE_MISSING):
            raise UnfitValue(
                f"{column} is {kind}, but {known} in the records before: all must be alike"
            )
    return num_bytes


def _kind(value: Any) -> tuple[str, int]:
    """Returns what a value is, and about how many bytes it takes."""
    if value is None:
        return "missing", 1
    if isinstance(value, np.ndarray):
        if value.ndim == 1:
            return f"a list of {len(value)} numbers", value.nbytes
        return "an image", value.nbytes
    if isinstance(value, bytes):
        return "bytes", len(value)
    return "a single value", len(value) if isinstance(value, str) else 8


def _batch(
    name: str, columns: Mapping[str, list[Any]], kinds: dict[str, str], num_records: int
) -> pa.RecordBatch:
    """Returns records by columns; a column without a value yet is one of texts from here on."""
    num_here = len(next(iter(columns.values())))
    found: dict[str, pa.Array] = {}
    with _told(name, f"in records {num_records - num_here + 1:,} to {num_records:,}"):
        for column, values in columns.items():
            if kinds[column] == "missing":
                kinds[column] = "a single value"
            made = _column(column, values, kinds[column])
            if twice := sorted(found.keys() & made.keys()):
                raise UnfitValue(f"two values make a column {twice[0]!r}: call one another")
            found |= made
    return pa.record_batch(found)


def _column(name: str, values: list[Any], kind: str) -> dict[str, pa.Array]:
    if kind == "bytes":
        return {name: pa.array(values, pa.binary())}
    if kind == "a single value":
        return arrays.columns(name, values)
    if len({value.shape for value in values}) == 1:
        return arrays.columns(name, np.stack(values))
    images = [arrays.columns(name, value[np.newaxis])[name] for value in values]
    return {name: pa.concat_arrays(images)}
