import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs import moments
from beam_jobs.moments import Moments

FINITE = st.floats(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(2**63), 2**63 - 1)


def exact(values) -> tuple[Fraction, Fraction]:
    """Mean and population variance as rational numbers."""
    numbers = [Fraction(value) for value in values.tolist()]
    mean = sum(numbers) / len(numbers)
    return mean, sum((x - mean) ** 2 for x in numbers) / len(numbers)


def check(found: Moments, values: np.ndarray) -> None:
    mean, variance = exact(values)
    assert found.count == values.size
    assert found.exact_mean == mean
    assert found.exact_variance == variance
    if variance < 2**1000:
        assert found.mean == float(mean)
        assert found.std == math.sqrt(float(variance))


def _floats() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], 300)
    return {
        "normal": rng.normal(size=1000),
        "float32": rng.normal(size=500).astype(np.float32).astype(np.float64) * 2.0**90,
        "all sizes": 10.0 ** rng.uniform(-300, 300, 300) * signs,
        "denormal": rng.uniform(-1e-310, 1e-310, 100),
        "extremes": np.array([5e-324, -5e-324, 2.0**-1074, 1.7976931348623157e308, 1e308]),
        "cancel": np.array([1e308, 1.0, -1e308]),
        "zeros": np.array([0.0, -0.0, 0.0]),
        "one": np.array([0.1]),
        "constant": np.full(1000, 0.1),
    }


@pytest.mark.parametrize("name", _floats())
def test_floats(name):
    values = _floats()[name]
    check(moments.of_floats(values), values)


def test_the_cases_are_beyond_float_sums():
    values = _floats()["cancel"]
    assert values.sum() == 0 != moments.of_floats(values).total
    assert moments.of_floats(values).mean == 1 / 3


def _ints() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "any": rng.integers(-(2**63), 2**63 - 1, 1000),
        "largest": np.full(5, 2**63 - 1),
        "both ends": np.array([-(2**63), 2**63 - 1, 0, -1]),
        "times": np.array([1_400_269_500] * 7 + [3]),
    }


@pytest.mark.parametrize("name", _ints())
def test_ints(name):
    values = _ints()[name]
    check(moments.of_ints(values), values)


def test_more_ints_than_one_product_holds():
    values = np.full((1 << 18) + 5, -(2**63))
    found = moments.of_ints(values)
    assert (found.count, found.exact_mean, found.exact_variance) == (values.size, -(2**63), 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(FINITE, min_size=1), st.lists(FINITE, min_size=1))
def test_parts_add_up_to_the_whole(one, other):
    whole = moments.of_floats(np.array(one + other))
    parts = [moments.of_floats(np.array(part)) for part in (one, other)]
    assert parts[0] + parts[1] == parts[1] + parts[0] == whole
    assert parts[0] + Moments() == parts[0]
    check(whole, np.array(one + other))


@settings(max_examples=100, deadline=None)
@given(st.lists(INT64, min_size=1))
def test_any_ints(values):
    check(moments.of_ints(np.array(values, np.int64)), np.array(values, np.int64))


@pytest.mark.parametrize("value", [0.1, -5e-324, 1e308, 0, -(2**63), 2**63 - 1])
def test_copies_are_as_if_written_out(value):
    written = moments.of_ints if isinstance(value, int) else moments.of_floats
    assert moments.of_copies(value, 7) == written(np.full(7, value))


def test_nothing_has_no_mean():
    assert math.isnan(Moments().mean)
    assert math.isnan(Moments().std)
    for of in (moments.of_floats, moments.of_ints):
        empty = np.empty(0, np.float64 if of is moments.of_floats else np.int64)
        assert of(empty) == Moments()
