import importlib
import io
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image

from beam_jobs.errors import DataError
from beam_jobs.sources import arrays, python_function

PyDataset = importlib.import_module("keras").utils.PyDataset
image = importlib.import_module("keras.src.legacy.preprocessing.image")
ImageDataGenerator = image.ImageDataGenerator


def batches(function, num_threads: int = 2) -> list[pa.RecordBatch]:
    return list(python_function.batches("m:f", function, num_threads))


def read(function, num_threads: int = 2) -> dict[str, list]:
    return pa.Table.from_batches(batches(function, num_threads)).to_pydict()


def message(function) -> str:
    with pytest.raises(DataError) as error:
        batches(function)
    assert "\n" not in str(error.value)
    return str(error.value)


def pixels(data: bytes) -> list:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).tolist()


class Items(PyDataset):
    """Items from a list of functions, or of items."""

    def __init__(self, items):
        super().__init__()
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        return item() if callable(item) else item


def test_a_generator_is_called_once_and_gives_single_records():
    calls = []

    def records():
        calls.append(1)
        yield {"a": 1, "b": "x", "c": b"\xff", "d": 0.5, "e": None}
        yield {"e": 3, "d": None, "c": None, "b": np.str_("é"), "a": np.int64(2)}

    assert read(records) == {
        "a": ["1", "2"],
        "b": ["x", "é"],
        "c": [b"\xff", None],
        "d": ["0.5", None],
        "e": [None, "3"],
    }
    assert calls == [1]


@pytest.mark.parametrize(
    "record, expected",
    [
        ((1, 2), {"x": "1", "y": "2"}),
        ((1, 2, 0.5), {"x": "1", "y": "2", "sample_weight": "0.5"}),
        (({"a": 1, "b": 2}, 3), {"a": "1", "b": "2", "y": "3"}),
        ("text", {"x": "text"}),
        ((np.array([5, 6]), 1), {"x_0": "5", "x_1": "6", "y": "1"}),
        (([5, 6], 1), {"x_0": "5", "x_1": "6", "y": "1"}),
        ((tf.constant([5.5, 6]), tf.constant(1)), {"x_0": "5.5", "x_1": "6", "y": "1"}),
        ({"x": np.array(7, np.uint8)}, {"x": "7"}),
        ({"x": bytearray(b"a")}, {"x": b"a"}),
    ],
    ids=str,
)
def test_columns_of_a_record(record, expected):
    assert read(lambda: iter([record])) == {name: [value] for name, value in expected.items()}


def test_images_of_a_generator_may_differ_in_size():
    images = [np.full((2, 3 + i % 2, 3), i) for i in range(4)]

    found = read(lambda: ((image, 1) for image in images))

    assert [pixels(data) for data in found["x"]] == [image.tolist() for image in images]


def test_a_generator_is_read_piece_by_piece(monkeypatch):
    monkeypatch.setattr(arrays, "PIECE_BYTES", 100)
    given = []

    def records():
        for i in range(1000):
            given.append(i)
            yield {"a": i, "v": [i, -i]}

    found = python_function.batches("m:f", records, 1)

    assert next(found).num_rows == len(given) == 5  # Of 8 and 16 bytes a record.
    assert sum(batch.num_rows for batch in found) == 995


@pytest.mark.parametrize("num_threads", [1, 3])
def test_items_come_by_index_and_are_taken_apart(num_threads):
    later = threading.Event()

    def first():
        if num_threads > 1:
            assert later.wait(30)  # Until a later item is made.
        return np.array([[[0]], [[1]]]), ["a", b"a".decode()]

    def second():
        later.set()
        return np.array([[[2]]]), ["b"]

    items = [first, second, *((np.array([[[i]]]), [str(i)]) for i in range(3, 60))]

    found = read(lambda: Items(items), num_threads)

    assert [pixels(data) for data in found["x"]] == [[[i]] for i in range(60)]
    assert found["y"] == ["a", "a", "b", *map(str, range(3, 60))]


def test_an_item_is_cut_in_pieces(monkeypatch):
    monkeypatch.setattr(arrays, "PIECE_BYTES", 100)
    images = np.arange(1000).astype(np.uint8).reshape(250, 2, 2)
    raw = [None] * 200 + [b"\xff"] * 50  # In most pieces there are no bytes to tell the type by.

    found = batches(lambda: Items([{"image": images, "raw": raw, "n": [*range(250)]}]))

    assert len(found) > 10
    table = pa.Table.from_batches(found).to_pydict()
    assert [pixels(data) for data in table["image"]] == images.tolist()
    assert (table["raw"], table["n"]) == (raw, [str(i) for i in range(250)])


def test_items_may_be_of_lists_and_by_name():
    item = {"image": [np.zeros((2, 2)), np.ones((2, 2))], "raw": [b"\xff", None], "n": (1, 2)}
    found = read(lambda: Items([item]))
    assert [pixels(data)[0] for data in found.pop("image")] == [[0, 0], [1, 1]]
    assert found == {"raw": [b"\xff", None], "n": ["1", "2"]}


@pytest.mark.parametrize(
    "made, expected",
    [
        ({"a": np.arange(2), "b": np.array(["x", "y"])}, {"a": ["0", "1"], "b": ["x", "y"]}),
        ((np.arange(2), np.arange(2) / 2), {"x": ["0", "1"], "y": ["0", "0.5"]}),
        (({"a": np.arange(2)}, np.arange(2)), {"a": ["0", "1"], "y": ["0", "1"]}),
        (np.arange(2), {"x": ["0", "1"]}),
        ([{"a": 1}, {"a": 2}], {"a": ["1", "2"]}),
    ],
    ids=str,
)
def test_arrays_and_lists(made, expected):
    assert read(lambda: made) == expected


def test_what_flow_returns_is_a_dataset():
    images = np.random.default_rng(6).integers(0, 256, (20, 4, 5, 3), np.uint8)
    kwargs = {"batch_size": 7, "shuffle": False}

    found = read(lambda: ImageDataGenerator().flow(images, np.arange(20), **kwargs), 3)

    assert [pixels(data) for data in found["x"]] == images.tolist()
    assert found["y"] == [str(i) for i in range(20)]


def test_a_dataset_of_tensors_is_an_iterable_of_records():
    tensors = {"a": [1, 2], "b": [b"x", b"\xff"], "c": [[0.5, 1], [2, 3]]}
    found = read(lambda: tf.data.Dataset.from_tensor_slices((tensors, [3, 4])))
    wanted = {"a": ["1", "2"], "b": [b"x", b"\xff"], "c_0": ["0.5", "2"], "c_1": ["1", "3"]}
    assert found == {**wanted, "y": ["3", "4"]}


def raising(after: int):
    def records():
        yield from range(after)
        raise RuntimeError("no\nmore")

    return records


@pytest.mark.parametrize(
    "function, expected",
    [
        (raising(3), "raised RuntimeError: no more after 3 records. Nothing is published; mend it"),
        (lambda: 1 / 0, "raised ZeroDivisionError: division by zero when it was called. Nothing"),
        (lambda: 7, "returned a int. Return a generator of records, a keras.utils.PyDataset, or"),
        (lambda: "ab", "returned a str. Return"),
        (
            lambda: Items([(np.zeros(2), np.zeros(2)), lambda: 1 / 0]),
            "raised ZeroDivisionError: division by zero in item 1 of 2. Nothing",
        ),
        (
            lambda: Items([(np.zeros((2, 8, 8)),), (np.zeros((2, 8, 9)),)]),
            "in item 1 of 2: x has records of shape (8, 9), but in item 0 of shape (8, 8): all",
        ),
        (
            lambda: Items([{"a": [1], "b": [2]}, {"a": [1], "c": [2]}]),
            "in item 1 of 2: its names are ['a', 'c'], but those of item 0 ['a', 'b'].",
        ),
        (
            lambda: Items([(np.zeros(2), np.zeros(3))]),
            "in item 0 of 1: y has 3 records, but x has 2: arrays must have one length.",
        ),
        (
            lambda: Items([{"x": [np.zeros((2, 2)), np.zeros((3, 2))]}]),
            "in item 0 of 1: x has records of several shapes in one batch.",
        ),
        (
            lambda: Items([{"x": [b"a"]}, {"x": ["a"]}]),
            "in item 1 of 2: x has records single values, but in item 0 bytes: all must",
        ),
        (
            lambda: Items([np.full((1, 2, 2), 0.5)]),
            "in item 0 of 1: x holds 0.5, but the pixels of an image are whole numbers from 0 to",
        ),
        (
            lambda: iter([{"a": 1}, {"b": 1}]),
            "in record 2: its columns are ['b'], but those of record 1 ['a'].",
        ),
        (
            lambda: iter([([1, 2], 1), ([1], 1)]),
            "in record 2: x is a list of 1 numbers, but a list of 2 numbers in the records before",
        ),
        (
            lambda: iter([{"a": "b"}, {"a": b"b"}]),
            "in record 2: a is bytes, but a single value in the records before: all must be alike.",
        ),
        (
            lambda: iter([{"a": np.zeros((2, 2))}, {"a": None}]),
            "in record 2: a is missing, but an image in the records before: all must be alike.",
        ),
        (lambda: iter([{"a": 1}, {"a": {1}}]), "in records 1 to 2: a holds a set: give"),
        (
            lambda: iter([np.zeros((32, 8, 8, 3))]),
            "in records 1 to 1: x has records of shape (32, 8, 8, 3): an image is",
        ),
        (lambda: iter([(1, 2, 3, 4)]), "in record 1: a tuple is (x, y, sample_weight), but this"),
        (lambda: iter([{1: 2}]), "in record 1: the name 1 is no text: give"),
        (lambda: iter([({"y": 1}, 2)]), "in record 1: the name 'y' is there twice: give"),
        (
            lambda: iter([{"a": [1, 2], "a_1": 3}]),
            "in records 1 to 1: two values make a column 'a_1': call",
        ),
    ],
)
def test_one_line_says_what_a_function_did_wrong(function, expected):
    assert message(function).startswith(f"m:f: {expected}")


def test_items_without_end():
    class Endless(PyDataset):
        @property
        def num_batches(self):
            return None

    assert message(Endless) == "m:f: the PyDataset has no end. Give it a __len__."


def test_a_function_that_wants_to_leave():
    with pytest.raises(DataError, match=r"m:f: raised SystemExit: 0 when it was called\. Nothing"):
        read(lambda: sys.exit(0))


@pytest.mark.parametrize("name", ["x\ud800", "x\0"])
def test_a_name_that_is_no_text(name):
    made = [lambda: iter([{name: 1}]), lambda: {name: np.arange(3)}]
    for function in made:
        with pytest.raises(DataError, match="is no text: give each value a name"):
            read(function)


def test_a_data_frame_is_no_iterable_of_records():
    with pytest.raises(DataError, match="m:f: returned a DataFrame. Return a generator of records"):
        read(lambda: pd.DataFrame({"x": [1, 2]}))


@pytest.mark.parametrize("is_record", [True, False])
def test_a_masked_array_is_refused(is_record):
    values = np.ma.masked_equal([1, 2], 2)
    with pytest.raises(DataError, match="x is a masked array: fill"):
        read(lambda: iter([{"x": values}]) if is_record else {"x": values})
