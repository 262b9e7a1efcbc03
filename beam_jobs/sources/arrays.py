"""NumPy arrays and Python's values as columns of a table: texts, and images as files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs import png

PIECE_BYTES = 8_000_000  # What is held of a column at a time, before it is text.
_LIMIT = 255
_NUMBERS = "biufMSU"  # Kinds of dtypes that Arrow can write as text.


class UnfitValue(ValueError):
    """A value that no column can hold; its text says of which column and why."""


def pieces(arrays: Mapping[str, np.ndarray | pa.Array]) -> Iterator[pa.RecordBatch]:
    """Yields the records of arrays that lie in memory, some megabytes at a time.

    Args:
      arrays: By name: (num_records, ...), or a column already.

    Raises:
      UnfitValue: They have no common length, or hold what no column can.
    """
    num_records = common_length(arrays)
    size = records_of_a_piece(sum(_bytes_a_record(array) for array in arrays.values()))
    for start in range(0, num_records, size):
        yield batch({name: array[start : start + size] for name, array in arrays.items()})


def records_of_a_piece(record_bytes: int) -> int:
    """Returns how many records of a size are taken at a time."""
    return max(1, PIECE_BYTES // max(1, record_bytes))


def _bytes_a_record(array: np.ndarray | pa.Array) -> int:
    return array.nbytes // max(1, len(array))


def common_length(arrays: Mapping[str, Any]) -> int:
    """Returns the number of records of arrays, or of anything else that has a length.

    Raises:
      UnfitValue: One has another length than the first, or none.
    """
    lengths = {name: _length(name, array) for name, array in arrays.items()}
    if not lengths:
        raise UnfitValue("there is no array")
    (first, num_records), *others = lengths.items()
    for name, length in others:
        if length != num_records:
            raise UnfitValue(
                f"{name} has {length:,} records, but {first} has {num_records:,}: arrays must have "
                "one length"
            )
    return num_records


def _length(name: str, array: Any) -> int:
    try:
        return len(array)
    except TypeError as error:
        raise UnfitValue(f"{name} is one value, but must have one a record") from error


def batch(arrays: Mapping[str, np.ndarray | pa.Array | Sequence[Any]]) -> pa.RecordBatch:
    """Returns records by columns.

    Raises:
      UnfitValue: No column can hold a value, or two arrays make columns of one name.
    """
    found: dict[str, pa.Array] = {}
    for name, values in arrays.items():
        for column, array in columns(name, values).items():
            if column in found:
                raise UnfitValue(f"two arrays make a column {column!r}: call one of them another")
            found[column] = array
    return pa.record_batch(found)


def columns(name: str, values: np.ndarray | pa.Array | Sequence[Any]) -> dict[str, pa.Array]:
    """Returns the columns that an array makes, one value a record.

    Args:
      name: Of the array.
      values: (num_records,) becomes one column; (num_records, k) becomes NAME_0 to NAME_(k - 1), or
        NAME where k is 1; (num_records, height, width) and (num_records, height, width, channels)
        become PNG files. A list has str, numbers, bytes or None; a column stays.

    Raises:
      UnfitValue: No column can hold a value.
    """
    if isinstance(values, pa.Array):
        return {name: values}
    if not isinstance(values, np.ndarray) or values.dtype.kind == "O":
        return {name: _of_values(name, list(values))}
    if values.ndim == 1:
        return {name: _texts(name, values)}
    if values.ndim == 2:
        names = [name] if values.shape[1] == 1 else [f"{name}_{i}" for i in range(values.shape[1])]
        return {name: _texts(name, values[:, i]) for i, name in enumerate(names)}
    return {name: _images(name, values)}


def _texts(name: str, values: np.ndarray) -> pa.StringArray:
    """Writes numbers with as many digits as it takes to read the same ones: string (n,)."""
    if values.dtype.kind not in _NUMBERS or values.dtype == np.longdouble:
        raise UnfitValue(f"{name} has the dtype {values.dtype}: give numbers, texts or images")
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    try:
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        return pa.array(values).cast(pa.string())
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise UnfitValue(f"{name} holds a text that is no UTF-8") from error


def _of_values(name: str, values: list[Any]) -> pa.Array:
    """Returns Python's values as a column: binary where they are bytes, else string."""
    try:
        array = pa.array(values, from_pandas=False)
    except (pa.ArrowException, UnicodeError, OverflowError, ValueError, TypeError):
        return pa.array([_text(name, value) for value in values], pa.string())  # Of several types.
    kind = array.type
    if pa.types.is_binary(kind):
        return array
    if pa.types.is_nested(kind) or pa.types.is_large_unicode(kind):
        raise UnfitValue(f"{name} holds a {_a_kind(values)}: give numbers, texts, bytes or images")
    return (array.cast(pa.float32()) if pa.types.is_float16(kind) else array).cast(pa.string())


def _text(name: str, value: Any) -> str | None:
    """Returns one value as the column of many would have it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # It may be longer than 64 bits.
    try:
        return pa.array([value]).cast(pa.string())[0].as_py()
    except (pa.ArrowException, UnicodeError, OverflowError, ValueError, TypeError) as error:
        raise UnfitValue(
            f"{name} holds a {type(value).__name__}: give numbers, texts in UTF-8, bytes or images"
        ) from error


def _a_kind(values: list[Any]) -> str:
    return next(type(value).__name__ for value in values if value is not None)


def _images(name: str, values: np.ndarray) -> pa.BinaryArray:
    """Writes images as PNG files without compression: binary (num_records,)."""
    pixels = values[..., np.newaxis] if values.ndim == 3 else values
    if pixels.ndim != 4 or pixels.shape[-1] not in png.CHANNELS or 0 in pixels.shape[1:]:
        raise UnfitValue(
            f"{name} has records of shape {values.shape[1:]}: an image is (height, width) or "
            "(height, width, channels) with 1 to 4 channels"
        )
    files = png.stored(_whole(name, pixels))
    num_files, size = files.shape
    offsets = np.arange(num_files + 1, dtype=np.int32) * np.int32(size)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(files.reshape(-1))]
    return pa.Array.from_buffers(pa.binary(), num_files, buffers)


def _whole(name: str, pixels: np.ndarray) -> np.ndarray:
    """Returns pixels as uint8, if they are whole numbers from 0 to 255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iuf":
        raise UnfitValue(f"{name} has the dtype {pixels.dtype}: an image has whole numbers")
    is_pixel = (pixels >= 0) & (pixels <= _LIMIT)
    with np.errstate(invalid="ignore"):
        whole = pixels.astype(np.uint8)
    wrong = ~is_pixel | (whole != pixels)
    if wrong.any():
        raise UnfitValue(
            f"{name} holds {pixels[wrong][0]!s}, but the pixels of an image are whole numbers from "
            "0 to 255: leave scaling to [features]"
        )
    return whole
