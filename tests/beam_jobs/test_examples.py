import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from google.protobuf.internal import encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs import examples

NUM_ROWS = 200


def columns() -> dict:
    """Every kind of column, with names and values of all lengths."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-(2**63), 2**63 - 1, NUM_ROWS) >> rng.integers(0, 63, NUM_ROWS)
    whole[:4] = [0, -1, -(2**63), 2**63 - 1]
    floats = rng.normal(size=NUM_ROWS).astype(np.float32)
    floats[:4] = [-0.0, np.inf, np.nan, 1e-45]
    texts = ["é" * int(k) for k in rng.integers(0, 9000, NUM_ROWS)]
    lengths = rng.integers(0, 9, NUM_ROWS) * (rng.random(NUM_ROWS) < 0.8)  # Many empty ones.
    ends = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    values = [rng.integers(0, k, lengths.sum()) for k in (200, 2**63 - 1)]
    return {
        "b": floats,
        "a": whole,
        "t": pa.array(texts),
        "image": rng.integers(0, 256, (NUM_ROWS, 300)).astype(np.uint8),
        "x" * 200: rng.integers(0, 3, NUM_ROWS),
        "é": pa.array([text.encode() + b"\xff\0" for text in texts], pa.binary()),
        "c": np.zeros(NUM_ROWS, np.int64),
        "ids": pa.ListArray.from_arrays(ends, pa.array(values[0])),
        "whole": pa.ListArray.from_arrays(ends, pa.array(-values[1])),
        "weights": pa.ListArray.from_arrays(ends, pa.array(rng.random(lengths.sum()), "float32")),
    }


def example(chosen: dict, row: int) -> tf.train.Example:
    """One row by protobuf."""
    message = tf.train.Example()
    for name, column in chosen.items():
        feature = message.features.feature[name]
        if isinstance(column, pa.ListArray):
            is_float = column.type.value_type == pa.float32()
            values = column[row].as_py()
            (feature.float_list if is_float else feature.int64_list).value.extend(values)
            if not values:  # It says which kind of list is empty, as we do.
                (feature.float_list if is_float else feature.int64_list).SetInParent()
        elif isinstance(column, pa.Array):
            value = column[row].as_py()
            value = value.encode() if isinstance(value, str) else value
            feature.bytes_list.value.append(value)
        elif column.dtype == np.uint8:
            feature.bytes_list.value.append(column[row].tobytes())
        elif column.dtype == np.float32:
            feature.float_list.value.append(column[row])
        else:
            feature.int64_list.value.append(int(column[row]))
    return message


SCALARS = ("b", "a", "t", "image", "x" * 200, "é", "c")
CHOICES = [("a",), ("b",), ("t",), ("image",), ("é",), ("image", "c"), ("c", "b"), SCALARS]
LISTS = [("ids",), ("whole",), ("weights",), tuple(columns())]


@pytest.mark.parametrize("names", CHOICES + LISTS, ids="-".join)
def test_examples_are_protobufs(names):
    chosen = {name: columns()[name] for name in names}
    found = examples.encode(chosen).to_pylist()
    assert len(found) == NUM_ROWS
    for row, serialized in enumerate(found):
        expected = example(chosen, row).SerializeToString(deterministic=True)
        assert len(serialized) == len(expected)
        parsed = tf.train.Example.FromString(serialized)
        assert parsed.SerializeToString(deterministic=True) == expected
        if len(names) == 1:
            assert serialized == expected


def test_features_stand_in_the_order_of_their_utf8_bytes():
    names = ["é", "b", "\U0001f600", "\uffff", "B"]
    [serialized] = examples.encode({name: np.array([1]) for name in names}).to_pylist()
    places = {name: serialized.index(name.encode()) for name in names}
    assert sorted(names, key=places.get) == ["B", "b", "é", "\uffff", "\U0001f600"]


def test_a_column_of_a_slice_and_of_other_strides():
    numbers = np.arange(10, dtype=np.float32)[::-2]
    texts = pa.array(list("abcdefgh")).slice(2, 5)
    lists = pa.array([[k] * k for k in range(9)]).slice(3, 5)
    chosen = {"n": numbers, "t": texts, "l": lists}
    found = examples.encode(chosen).to_pylist()
    expected = [example(chosen, row) for row in range(5)]
    assert [tf.train.Example.FromString(s) for s in found] == expected


def test_no_rows():
    chosen = {"a": np.empty(0, np.int64), "b": np.empty(0, np.float32), "t": pa.array([], "string")}
    assert examples.encode(chosen).to_pylist() == []


@pytest.mark.parametrize("names", CHOICES, ids="-".join)
def test_max_bytes_is_a_bound_and_close(names):
    chosen = {name: columns()[name] for name in names}
    framed = [16 + len(text) for text in examples.encode(chosen).to_pylist()]
    sizes = {}
    for name, column in chosen.items():
        if isinstance(column, pa.Array):
            values = column.to_pylist()
            sizes[name] = max(len(v.encode() if isinstance(v, str) else v) for v in values)
        elif column.dtype == np.uint8:
            sizes[name] = column.shape[1]
        else:
            sizes[name] = 4 if column.dtype == np.float32 else 10
    bound = examples.max_bytes(sizes)
    assert bound >= max(framed)
    wide_ints = sum(1 for name in names if name in ("c", "x" * 200))
    assert bound <= max(framed) + 9 * wide_ints + 100 * ("t" in names)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64 - 1) | st.integers(0, 300))
def test_varint_bytes(value):
    assert examples.varint_bytes(value) == encoder._VarintSize(value)


def test_a_negative_number_takes_ten_bytes():
    assert examples.varint_bytes(-1) == len(encoder._VarintBytes(2**64 - 1)) == 10
