import io
import math

import numpy as np
import pytest
from PIL import Image

from beam_jobs.sources import arrays
from beam_jobs.sources.arrays import UnfitValue


def texts(values) -> list:
    return arrays.columns("x", values)["x"].to_pylist()


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f8"])
def test_the_text_of_a_float_is_that_float(dtype):
    rng = np.random.default_rng(3)
    with np.errstate(over="ignore"):
        values = (rng.standard_normal(100_000) * 10.0 ** rng.integers(-30, 30, 100_000)).astype(
            dtype
        )
    values = values[np.isfinite(values)]

    read = np.array([float(text) for text in texts(values)]).astype(dtype)

    assert read.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([0.1, 1, -0.0]), ["0.1", "1", "-0"]),
        (np.array([0.1], "f4"), ["0.1"]),
        (np.array([math.nan, math.inf]), ["nan", "inf"]),
        (np.array([2**64 - 1], "u8"), ["18446744073709551615"]),
        (np.array([-(2**63)], ">i8"), ["-9223372036854775808"]),
        (np.array([True, False]), ["true", "false"]),
        (np.array(["é", ""]), ["é", ""]),
        (np.array(["é".encode(), b"b"]), ["é", "b"]),
        (np.array(["2020-01-02T03:04:05"], "M8[s]"), ["2020-01-02 03:04:05"]),
        (np.array([[5], [6]]), ["5", "6"]),
        (["a", None], ["a", None]),
        ([1, 2.5, None], ["1", "2.5", None]),
        ([True, 1, "x", None], ["true", "1", "x", None]),
        ([2**70, 1], [str(2**70), "1"]),
        ([b"\xff\x00", None], [b"\xff\x00", None]),
        (np.array(["a", None, 3], object), ["a", None, "3"]),
    ],
    ids=str,
)
def test_values_as_texts(values, expected):
    assert texts(values) == expected


def test_an_array_of_two_dimensions_is_a_column_for_each_number():
    values = np.arange(6).reshape(2, 3)
    found = {name: column.to_pylist() for name, column in arrays.columns("x", values).items()}
    assert found == {"x_0": ["0", "3"], "x_1": ["1", "4"], "x_2": ["2", "5"]}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1), (4, 6, 5, 3), (4, 6, 5, 4)])
def test_images_are_png_files(dtype, shape):
    images = np.random.default_rng(4).integers(0, 256, shape).astype(dtype)

    files = arrays.columns("x", images)["x"].to_pylist()

    assert len(files) == 4
    for file, image in zip(files, images, strict=True):
        with Image.open(io.BytesIO(file)) as read:
            assert read.format == "PNG"
            assert (np.asarray(read).reshape(image.shape) == image).all()


@pytest.mark.parametrize(
    "values, message",
    [
        (np.full((1, 2, 2), 0.5), r"^x holds 0\.5, but the pixels of an image are whole numbers"),
        (np.full((1, 2, 2), 256), "^x holds 256, but"),
        (np.full((1, 2, 2), -1), "^x holds -1, but"),
        (np.full((1, 2, 2), math.nan), "^x holds nan, but"),
        (np.zeros((1, 2, 2, 5)), r"shape \(2, 2, 5\): an image is"),
        (np.zeros((1, 2, 0, 3)), r"shape \(2, 0, 3\): an image is"),
        (np.zeros((1, 2, 2, 3, 1)), r"shape \(2, 2, 3, 1\): an image is"),
        (np.zeros((1, 2, 2), bool), "dtype bool: an image has whole numbers"),
        (np.zeros(1, "c8"), "dtype complex64: give"),
        (np.zeros(1, "m8[s]"), r"dtype timedelta64\[s\]: give"),
        (np.zeros(1, "f4, i4"), "the dtype .*: give"),
        (np.array([b"\xff"]), "no UTF-8"),
        (["\ud800"], "x holds a str: give"),
        ([{"a": 1}], "x holds a dict: give"),
        ([{1}, "a"], "x holds a set: give"),
    ],
    ids=str,
)
def test_what_no_column_holds(values, message):
    with pytest.raises(UnfitValue, match=message):
        arrays.columns("x", values)


def test_arrays_of_several_lengths():
    with pytest.raises(UnfitValue, match="^y has 3 records, but x has 2: arrays must have one len"):
        list(arrays.pieces({"x": np.zeros(2), "y": np.zeros(3)}))


def test_one_value_is_no_array():
    with pytest.raises(UnfitValue, match="^y is one value"):
        list(arrays.pieces({"x": np.zeros(2), "y": np.array(3)}))


def test_columns_of_one_name():
    with pytest.raises(UnfitValue, match="two arrays make a column 'x_1'"):
        arrays.batch({"x": np.zeros((2, 2)), "x_1": np.zeros(2)})
