import datetime
import decimal
import uuid
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.utils.timestamp import Timestamp

from beam_jobs.sources import arrow_files, elements
from beam_jobs.sources.arrays import UnfitValue

NOON = datetime.datetime(2020, 1, 2, 12, 0, 0, 250_000)
HERE = datetime.timezone(datetime.timedelta(hours=2))
VALUES = [  # Each with its text, or its bytes.
    (None, None),
    ("é", "é"),
    ("\ud83d", b"\xed\xa0\xbd"),
    (b"\xff\0", b"\xff\0"),
    (True, "true"),
    (np.bool_(False), "false"),
    (7, "7"),
    (-(2**70), str(-(2**70))),
    (np.uint8(7), "7"),
    (0.1, "0.1"),
    (12.0, "12"),
    (1e300, "1e+300"),
    (np.float32(0.5), "0.5"),
    (float("nan"), "nan"),
    (decimal.Decimal("1.50"), "1.50"),
    (decimal.Decimal("1E+3"), "1000"),
    (NOON, "2020-01-02 12:00:00.250000"),
    (NOON.replace(tzinfo=HERE), "2020-01-02 10:00:00.250000Z"),
    (Timestamp(1.5), "1970-01-01 00:00:01.500000Z"),
    (NOON.date(), "2020-01-02"),
    (NOON.time(), "12:00:00.250000"),
    (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ([1, 2.5, None, "é"], '[1,2.5,null,"é"]'),
    ({"a": [decimal.Decimal("1.5"), NOON.date()]}, '{"a":["1.5","2020-01-02"]}'),
    (np.array([1, 2]), "[1,2]"),
    ([np.float64(0.5), np.array([1])], "[0.5,[1]]"),
]


def cells(values) -> list:
    """What they become, as bytes."""
    column = elements.batch([{"a": value} for value in values]).column("a")
    return column.cast(pa.binary()).to_pylist()


def test_a_value_becomes_the_same_whatever_stands_beside_it():
    expected = [text.encode() if isinstance(text, str) else text for _, text in VALUES]
    assert [cells([value])[0] for value, _ in VALUES] == expected
    assert cells([value for value, _ in VALUES]) == expected
    rng = np.random.default_rng(1)
    for _ in range(200):
        drawn = rng.choice(len(VALUES), 3).tolist()
        assert cells([VALUES[i][0] for i in drawn]) == [expected[i] for i in drawn]


@pytest.mark.parametrize(
    "values",
    [
        [1, -(2**63), 2**63 - 1],
        [0.1, 12.0, 1e-7, 1e22, -0.0, float("inf"), 5e-324],
        ["é", ""],
        [True, False],
        [NOON, NOON.replace(microsecond=0)],
        [NOON.date()],
        [NOON.time(), NOON.time().replace(microsecond=0)],
    ],
)
def test_texts_are_those_of_parquet(values):
    expected = arrow_files.as_text(pa.array(values)).to_pylist()
    assert [cell.decode() for cell in cells(values)] == expected
    assert [cell.decode() for cell in cells([*values, np.array([1])])][:-1] == expected


class Row(NamedTuple):
    a: int
    b: str | None


def test_all_kinds_of_records():
    found = elements.batch([{"b": "x", "a": 1}, Row(2, None), beam.Row(c=0.5), {}])
    assert found.schema.names == ["a", "b", "c"]
    assert found.to_pylist() == [
        {"a": "1", "b": "x", "c": None},
        {"a": "2", "b": None, "c": None},
        {"a": None, "b": None, "c": "0.5"},
        {"a": None, "b": None, "c": None},
    ]
    table = pa.table({"b": [b"\xff"], "a": [{"x": 1, "y": [1, 2]}]})
    expected = [{"a.x": "1", "a.y": "[1,2]", "b": b"\xff"}]
    assert elements.of_arrow(table).to_pylist() == expected
    assert elements.of_arrow(table.to_batches()[0]).to_pylist() == expected


def test_an_image_is_a_png_file():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    (data,) = elements.batch([{"image": pixels}]).column("image").to_pylist()
    assert data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "given, message",
    [
        ([3], "an element is a int: give dicts by column, NamedTuples, rows of Beam or Rec"),
        ([("x", 1)], "an element is a tuple: give dicts"),
        ([{"a": object()}], "a holds a object: give texts, numbers, bytes, dates, lists or im"),
        ([{"a": [b"x"]}], "a holds bytes in a list: give each a column of its own"),
        ([{3: 1}], "the name 3 is no column's: give each value a text as its name"),
        ([{"a\0": 1}], "is no column's"),
        ([{}], "a record has no column"),
        ([{"a": np.zeros((2, 2)) - 1}], "a holds -1.0, but the pixels of an image are whole"),
    ],
)
def test_what_fits_no_column(given, message):
    with pytest.raises(UnfitValue, match=message):
        elements.batch(given)


def test_the_fingerprint_is_that_of_records_in_any_order_and_in_any_parts():
    rng = np.random.default_rng(1)
    records = [
        {"a": int(rng.integers(9)), **({"b": "x"} if rng.integers(2) else {})} for _ in range(200)
    ]

    def of(*parts):
        total = elements.fingerprint(elements.batch(parts[0]))
        for part in parts[1:]:
            total += elements.fingerprint(elements.batch(part))
        return str(total)

    shuffled = [records[i] for i in rng.permutation(200).tolist()]
    assert of(records) == of(shuffled) == of(shuffled[:3], shuffled[3:4], shuffled[4:])
    assert of([*records, records[0]]) != of(records) != of(records[1:])
    assert of([{"a": 1, "b": None}]) == of([{"a": 1}]) != of([{"b": 1}])
