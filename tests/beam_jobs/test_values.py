import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs import values

MISSING, NON_FINITE, UNPARSABLE = "missing", "non_finite", "unparsable"
NEITHER = ["0x1F", "0X1f", "+0x1", "0x", "1_0", " 1", "1 ", "1,0", "", "+", "-", ".", "e5", "--1"]
NEITHER += [
    "1e",
    "1e+",
    "1f",
    "1d",
    "NaN(1)",
    "true",
    "\u0663",
    "\ufeff1",
    "1\n",
    "1\0",
    "½",
    "1 2",
]
BOTH = {"nan": MISSING, "-NaN": MISSING, "inf": NON_FINITE, "-Infinity": NON_FINITE}
FLOATS = {
    **BOTH,
    **dict.fromkeys(NEITHER, UNPARSABLE),
    "1": 1.0,
    "+1": 1.0,
    "-1": -1.0,
    "007": 7.0,
    "1.": 1.0,
    ".5": 0.5,
    "+.5": 0.5,
    "-.5e+3": -500.0,
    "1E-5": 1e-5,
    "0.1": 0.1,
    "-0": -0.0,
    "5e-324": 5e-324,
    "1e-400": 0.0,
    "1.7976931348623157e308": 1.7976931348623157e308,
    "9007199254740993": 9007199254740992.0,
    "9223372036854775808": 2.0**63,
    "1e39": 1e39,
    "1e999": NON_FINITE,
    "-1e999": NON_FINITE,
}
INTS = {
    **BOTH,
    **dict.fromkeys(NEITHER, UNPARSABLE),
    "1": 1,
    "+1": 1,
    "-0": 0,
    "007": 7,
    "9007199254740993": 9007199254740993,
    "9223372036854775807": 2**63 - 1,
    "+9223372036854775807": 2**63 - 1,
    "-9223372036854775808": -(2**63),
    "9223372036854775808": NON_FINITE,
    "-9223372036854775809": NON_FINITE,
    "1" * 30: NON_FINITE,
    "1.": UNPARSABLE,
    "1.0": UNPARSABLE,
    ".5": UNPARSABLE,
    "1e5": UNPARSABLE,
    "1e999": UNPARSABLE,
}


def fates(texts, dtype) -> list:
    """What became of each text: its value, or the word for what else it is."""
    parsed, faults = values.parse(pa.array(texts, pa.string()), dtype)
    assert parsed.type == values.ARROW_TYPES[dtype]
    found = [MISSING if value is None else value for value in parsed.to_pylist()]
    for where, cause in faults:
        for position in np.flatnonzero(where.to_numpy(zero_copy_only=False)):
            assert found[position] == MISSING
            found[position] = cause
    return found


def same(found, expected) -> bool:
    """Equal, and of one type and one sign of zero."""
    return repr(found) == repr(expected)


@pytest.mark.parametrize("text", FLOATS)
def test_float_alone(text):
    assert same(fates([text], "float64"), [FLOATS[text]])


@pytest.mark.parametrize("text", INTS)
def test_int_alone(text):
    assert same(fates([text], "int64"), [INTS[text]])


@pytest.mark.parametrize("dtype, table", [("float64", FLOATS), ("int64", INTS)])
def test_a_text_means_the_same_whatever_stands_beside_it(dtype, table):
    texts = [*table, None]
    assert same(fates(texts, dtype), [*table.values(), MISSING])


@pytest.mark.parametrize("dtype", ["float64", "int64", "string", "bool", "date", "timestamp"])
@pytest.mark.parametrize("texts", [[], [None, None]])
def test_nothing_is_no_fault(dtype, texts):
    assert fates(texts, dtype) == [MISSING] * len(texts)


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_thousands_of_digits_is_out_of_range(sign):
    assert fates([sign + "9" * 5000, "1"], "int64") == [NON_FINITE, 1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_are_the_nearest_to_their_text(numbers):
    texts = [repr(number) for number in numbers]
    assert same(fates(texts, "float64"), numbers)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**64), 2**64)))
def test_ints_are_exact_in_range(numbers):
    expected = [n if -(2**63) <= n < 2**63 else NON_FINITE for n in numbers]
    assert same(fates([f"{n:+d}" for n in numbers], "int64"), expected)


def test_float32_rounds_to_nearest_and_overflow_is_non_finite():
    largest = float(np.finfo(np.float32).max)
    halfway = largest + 2.0**103  # Rounds to even, which is infinity.
    given_ = [0.1, 16777217.0, 1e-46, -0.0, largest, np.nextafter(halfway, 0), halfway, 1e39, None]
    narrowed, faults = values.to_float32(pa.array(given_, pa.float64()))
    with np.errstate(over="ignore"):
        expected = [None if x is None else float(np.float32(x)) for x in given_]
    assert expected.count(float("inf")) == 2
    assert narrowed.type == pa.float32()
    assert same(narrowed.to_pylist(), [None if x == float("inf") else x for x in expected])
    [(where, cause)] = faults
    assert cause == NON_FINITE
    assert where.to_pylist() == [x == float("inf") for x in expected]


def test_string_is_the_text_itself():
    assert fates([" a ", "nan", "", None], "string") == [" a ", "nan", "", MISSING]


@pytest.mark.parametrize(
    "dtype, text, fate",
    [
        ("bool", "true", True),
        ("bool", "0", False),
        ("bool", "x", UNPARSABLE),
        ("date", "2020-02-29", datetime.date(2020, 2, 29)),
        ("date", "2021-02-29", UNPARSABLE),
        ("date", "infinity", UNPARSABLE),
        ("date", "-inf", UNPARSABLE),
        ("timestamp", "Infinity", UNPARSABLE),
        ("timestamp", "2020-01-01 01:02:03", datetime.datetime(2020, 1, 1, 1, 2, 3)),
        ("timestamp", "1999-12-31T00:00:00.5", datetime.datetime(1999, 12, 31, 0, 0, 0, 500000)),
        ("timestamp", "soon", UNPARSABLE),
    ],
)
def test_what_sql_sees_of_other_types(dtype, text, fate):
    assert fates([text, None], dtype) == [fate, MISSING]


def test_a_time_with_an_offset_is_the_same_moment_in_utc():
    moment = datetime.datetime(2019, 12, 31, 22)
    texts = ["2020-01-01 00:00:00+02:00", "2019-12-31T22:00:00Z", "2019-12-31 22:00:00"]
    assert fates([*texts, "2019-12-31 22:00:00 later"], "timestamp") == [moment] * 3 + [UNPARSABLE]


@pytest.mark.parametrize("sign", [1, -1])
def test_float32_has_no_numbers_below_the_normal_ones(sign):
    lowest = 2.0**-126
    numbers = [sign * lowest, sign * lowest * (1 - 2**-10), sign * 1e-45, sign * 1e-60, None, 1.0]
    found, faults = values.to_float32(pa.array(numbers, pa.float64()))
    zero = sign * 0.0
    assert faults == []
    assert same(found.to_pylist(), [sign * lowest, zero, zero, zero, None, 1.0])
