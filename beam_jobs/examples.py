"""Columns to serialized `tf.train.Example`s, a whole batch at once and always the same bytes.

The features stand in the order of their names' UTF-8 bytes, which protobuf's maps do not promise.
Wire format: https://protobuf.dev/programming-guides/encoding/.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A column is one of: float32 (n,), int64 (n,), uint8 (n, num_bytes) for one bytes value of fixed
# size each, an Arrow string or binary array of n texts, or one of n lists of float32 or int64.
Column = Any
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = b"\x0a", b"\x12", b"\x1a"
_FIRST, _SECOND = b"\x0a", b"\x12"  # Fields 1 and 2, each with a length.


def encode(columns: Mapping[str, Column]) -> pa.LargeBinaryArray:
    """Returns one serialized Example a row: binary (n,).

    Args:
      columns: At least one feature; all of n rows, without nulls.
    """
    num_rows = len(next(iter(columns.values())))
    if not num_rows:
        return pa.array([], pa.large_binary())
    entries = [_entry(name, columns[name]) for name in sorted(columns, key=str.encode)]
    features = _Row(num_rows)
    for entry in entries:
        features.field(_FIRST, entry)
    example = _Row(num_rows)
    example.field(_FIRST, features)
    return example.to_arrow()


def _entry(name: str, column: Column) -> "_Row":
    """Returns the map entry of one feature of each row."""
    feature, values = _Row(len(column)), _Row(len(column))
    if isinstance(column, pa.ListArray):
        values.field(_FIRST, _Row(len(column)).texts(_packed(column)))
        is_empty = pc.equal(pc.list_value_length(column), 0)
        if pc.any(is_empty).as_py():  # An empty list has no field of values.
            nothing = pa.scalar(b"", pa.large_binary())
            values = _Row(len(column)).texts(pc.if_else(is_empty, nothing, values.to_arrow()))
        is_float = column.type.value_type == pa.float32()
        feature.field(_FLOAT_LIST if is_float else _INT64_LIST, values)
    elif isinstance(column, pa.Array):
        values.field(_FIRST, _Row(len(column)).texts(column))
        feature.field(_BYTES_LIST, values)
    elif column.dtype == np.uint8:
        values.field(_FIRST, _Row(len(column)).fixed(column))
        feature.field(_BYTES_LIST, values)
    elif column.dtype == np.float32:
        little_endian = np.ascontiguousarray(column, "<f4").view(np.uint8).reshape(-1, 4)
        values.field(_FIRST, _Row(len(column)).fixed(little_endian))
        feature.field(_FLOAT_LIST, values)
    else:
        packed = _Row(len(column)).varint(column.astype(np.int64).view(np.uint64))
        values.field(_FIRST, packed)
        feature.field(_INT64_LIST, values)
    entry = _Row(len(column)).field(_FIRST, _Row(len(column)).constant(name.encode()))
    return entry.field(_SECOND, feature)


def _packed(lists: pa.ListArray) -> pa.LargeBinaryArray:
    """Returns the values of each list as a packed field holds them."""
    values = lists.flatten().to_numpy()
    ends = np.append(0, np.cumsum(pc.list_value_length(lists).to_numpy(), dtype=np.int64))
    if values.dtype == np.float32:
        data, ends = np.ascontiguousarray(values, "<f4").view(np.uint8), 4 * ends
    else:
        encoded = _varint_texts(values.view(np.uint64))
        bounds, data = (
            np.frombuffer(b, t) for b, t in zip(encoded.buffers()[1:], "lB", strict=True)
        )
        ends = bounds[ends]
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lists), buffers)


def _varint_texts(values: np.ndarray) -> pa.LargeBinaryArray:
    """Returns uint64 (n,) in base 128, each a text; small ones are taken from a table.

    Arrow takes them without the GIL.
    """
    limit = int(values.max(initial=0)) + 1
    if limit < values.size:
        return _varint_texts(np.arange(limit, dtype=np.uint64)).take(pa.array(values))
    digits, lengths = _varints(values)
    data = digits[np.arange(digits.shape[1]) < lengths[:, None]]
    buffers = [None, pa.py_buffer(np.append(0, np.cumsum(lengths))), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), values.size, buffers)


def _varints(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint64 (n,) in base 128: uint8 (n, width), and how many bytes of each count."""
    digits = np.empty((values.size, varint_bytes(int(values.max(initial=0)))), np.uint8)
    lengths = np.ones(values.size, np.int64)
    for position in range(digits.shape[1]):
        is_longer = values > 0x7F
        digits[:, position] = values & np.uint64(0x7F) | is_longer.astype(np.uint64) << np.uint64(7)
        lengths += is_longer
        values = values >> np.uint64(7)
    return digits, lengths


class _Row:
    """The same message for n rows, as a list of parts that follow one another.

    A part is uint8 (1 or n, width) with the number of bytes that count in each row, or texts.
    """

    def __init__(self, num_rows: int):
        self._num_rows = num_rows
        self._parts: list[tuple[np.ndarray, np.ndarray | None] | pa.Array] = []
        self.size: int | np.ndarray = 0  # In bytes: of every row, or int64 (n,).

    def constant(self, data: bytes) -> "_Row":
        """Appends the same bytes to every row."""
        return self.fixed(np.frombuffer(data, np.uint8)[None, :])

    def fixed(self, data: np.ndarray) -> "_Row":
        """Appends uint8 (1 or n, width)."""
        self._parts.append((data, None))
        self.size = self.size + data.shape[1]
        return self

    def varint(self, values: np.ndarray) -> "_Row":
        """Appends uint64 (n,) in base 128."""
        if values.max() <= 0x7F:
            return self.fixed(values.astype(np.uint8)[:, None])
        data, lengths = _varints(values)
        if int(lengths.min()) == data.shape[1]:
            return self.fixed(data)
        self._parts.append((data, lengths))
        self.size = self.size + lengths
        return self

    def texts(self, column: pa.Array) -> "_Row":
        """Appends a text to each row."""
        data = column.cast(pa.large_binary())
        self._parts.append(data)
        self.size = self.size + pc.binary_length(data).to_numpy(zero_copy_only=False)
        return self

    def field(self, tag: bytes, message: "_Row") -> "_Row":
        """Appends a field with a length: tag, size, content."""
        self.constant(tag)
        if isinstance(message.size, int):
            self.varint_constant(message.size)
        else:
            self.varint(message.size.astype(np.uint64))
        self._parts += message._parts
        self.size = self.size + message.size
        return self

    def varint_constant(self, value: int) -> "_Row":
        """Appends one number in base 128 to every row."""
        digits = bytearray()
        while value >= 128:
            digits.append(value & 0x7F | 0x80)
            value >>= 7
        return self.constant(bytes([*digits, value]))

    def to_arrow(self) -> pa.LargeBinaryArray:
        """Returns the rows."""
        pieces, pending = [], []
        for part in self._parts:
            if isinstance(part, tuple):
                pending.append(part)
                continue
            pieces += [self._flush(pending), part]
            pending = []
        if pending:
            pieces.append(self._flush(pending))
        if len(pieces) == 1:
            return pieces[0]
        return pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))

    def _flush(self, parts: list[tuple[np.ndarray, np.ndarray | None]]) -> pa.LargeBinaryArray:
        """Puts the parts side by side and drops the bytes that do not count."""
        n = self._num_rows
        ends = list(itertools.accumulate(part.shape[1] for part, _ in parts))
        data = np.empty((n, ends[-1]), np.uint8)
        lengths = np.full(n, ends[-1], np.int64)
        # Of a table most bytes are the same in all rows, and copied together; not so of pixels.
        is_template = 2 * sum(part.shape[1] for part, _ in parts if len(part) == 1) > ends[-1]
        if is_template:
            data[:] = np.concatenate([part[0] for part, _ in parts])
        counts = None
        for (part, length), end in zip(parts, ends, strict=True):
            start = end - part.shape[1]
            if len(part) > 1 or not is_template:
                data[:, start:end] = part
            if length is not None:
                counts = np.ones(data.shape, bool) if counts is None else counts
                counts[:, start:end] = np.arange(end - start) < length[:, None]
                lengths += length - (end - start)
        data = data if counts is None else data[counts]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), n, buffers)


def max_bytes(columns: Mapping[str, int]) -> int:
    """Returns the most bytes that an Example takes in a shard, framing included.

    Args:
      columns: For each feature the most bytes of its value as it is stored: 4 for a float32, up to
        10 for an int64 (`varint_bytes`), the length of a text.
    """
    total = 0
    for name, value in columns.items():
        size = value
        for _ in ("list", "Feature", "entry"):
            size += 1 + varint_bytes(size)
        size += 1 + varint_bytes(len(name.encode())) + len(name.encode())
        total += size + 1 + varint_bytes(size)
    return 16 + total + 1 + varint_bytes(total)


def varint_bytes(value: int) -> int:
    """Returns how many bytes a number takes in base 128; a negative one takes 10."""
    return 10 if value < 0 else max(1, -(-value.bit_length() // 7))
