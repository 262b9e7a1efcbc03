from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import hashing

from beam_jobs import keys, splits
from beam_jobs.config import SPLITS, parse_spec

TRAIN, VALIDATION, TEST = range(3)
TENTHS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def spec(split: dict, paths=("a.csv",)):
    said = {"name": "s", "source": {"format": "csv", "paths": paths}, "split": split}
    return parse_spec(said | {"features": {"a": {"dtype": "int64"}}}, "s.toml")


def hashed(firsts) -> np.ndarray:
    return np.array([(first, 0) for first in firsts], keys.HASH_DTYPE)


def by_fractions(firsts, fractions) -> list[int]:
    codes = splits.by_fractions(hashed(firsts), fractions)
    assert codes.dtype == np.int8
    return codes.tolist()


def test_boundaries_are_exact():
    # 0.8 * 2**64 and 0.9 * 2**64 are no whole numbers: the limit is the next one.
    limits = [-(-8 * 2**64 // 10), -(-9 * 2**64 // 10)]
    assert Fraction(limits[0], 2**64) > Fraction(8, 10) > Fraction(limits[0] - 1, 2**64)
    firsts = [0, limits[0] - 1, limits[0], limits[1] - 1, limits[1], 2**64 - 1]
    assert by_fractions(firsts, TENTHS) == [TRAIN, TRAIN, VALIDATION, VALIDATION, TEST, TEST]


def test_a_limit_that_is_a_whole_number_belongs_above():
    halves = {"train": 0.5, "test": 0.5}
    assert by_fractions([2**63 - 1, 2**63], halves) == [TRAIN, TEST]


def test_tenths_reach_the_end_though_their_float_sum_does_not():
    assert 0.7 + 0.2 + 0.1 < 1
    last = 2**64 - 1
    assert by_fractions([last], {"train": 0.7, "validation": 0.2, "test": 0.1}) == [TEST]
    assert by_fractions([0, last], {"train": 1}) == [TRAIN, TRAIN]


def test_the_order_is_that_of_the_splits_not_of_the_spec():
    turned = dict(reversed(TENTHS.items()))
    assert list(turned)[0] == "test"
    assert by_fractions([0, 2**64 - 1], turned) == [TRAIN, TEST]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 998), st.integers(1, 998), st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_any_fractions_against_rationals(one, two, firsts):
    one, two = min(one, 998), min(two, 999 - min(one, 998))
    numerators = {"train": one, "validation": two, "test": 1000 - one - two}
    exact = {name: Fraction(n, 1000) for name, n in numerators.items()}
    for limit in (exact["train"], exact["train"] + exact["validation"]):
        near = int(limit * 2**64)
        firsts = [*firsts, near - 1, near, near + 1]
    given_ = {name: n / 1000 for name, n in numerators.items()}
    expected = [SPLITS.index(hashing.fraction_split(first, exact)) for first in firsts]
    assert by_fractions(firsts, given_) == expected


@pytest.mark.feature(
    "What chance decides",
    "keras.utils.image_dataset_from_directory: validation_split",
    "`[split] carve`: by hash",
)
@pytest.mark.feature(
    "What chance decides",
    "keras.utils.text_dataset_from_directory: validation_split",
    "`[split] carve`: by hash",
)
def test_carve_draws_by_hash_within_one_split():
    rules = spec(
        {
            "column": "a",
            "values": {"train": ["x"], "test": ["y"]},
            "carve": {"validation": 0.25, "of": "train"},
        }
    )
    quarter = 2**62
    firsts = [0, quarter - 1, quarter, 2**64 - 1] * 3
    codes = np.repeat([TRAIN, TEST, splits.NO_SPLIT], 4).astype(np.int8)
    found = splits.carved(codes, hashed(firsts), rules)
    assert found.tolist() == [VALIDATION] * 2 + [TRAIN] * 2 + [TEST] * 4 + [splits.NO_SPLIT] * 4


def test_carve_of_two_splits_cumulates():
    rules = spec({"carve": {"validation": 0.25, "test": 0.25}}, {"train": ["a.csv"]})
    firsts = [2**62 - 1, 2**62, 2**63 - 1, 2**63]
    found = splits.carved(np.full(4, TRAIN, np.int8), hashed(firsts), rules)
    assert found.tolist() == [VALIDATION, TEST, TEST, TRAIN]


def test_without_carve_nothing_changes():
    codes = np.array([TRAIN, TEST], np.int8)
    found = splits.carved(codes, hashed([0, 0]), spec({"fractions": {"train": 1}}))
    assert found.tolist() == [TRAIN, TEST]


@pytest.mark.parametrize(
    "column, values, expected",
    [
        (["a", "b", "c", None, ""], {"train": ["a", "c"], "test": ["b"]}, [0, 2, 0, -1, -1]),
        ([1, 2, 3, None], {"train": [3], "validation": [1]}, [1, -1, 0, -1]),
        ([True, False, None], {"train": [True], "test": [False]}, [0, 2, -1]),
    ],
)
def test_a_column_decides_by_listed_values(column, values, expected):
    assert splits.NO_SPLIT == -1
    assert splits.by_values(pa.array(column), values).tolist() == expected


@pytest.mark.parametrize(
    "split, paths, names",
    [
        ({"fractions": {"test": 0.5, "train": 0.5}}, ["a"], ("train", "test")),
        ({"fractions": {"train": 1}}, ["a"], ("train",)),
        ({"carve": {"validation": 0.1}}, {"test": ["a"], "train": ["b"]}, SPLITS),
        ({"column": "a", "values": {"train": ["1"]}}, ["a"], ("train",)),
    ],
)
def test_split_names(split, paths, names):
    assert splits.split_names(spec(split, paths), {"train": 5}) == names


def test_directories_give_the_splits_that_have_records():
    said = {
        "name": "x",
        "source": {"format": "text", "paths": ["a"]},
        "split": {"directory": True, "carve": {"validation": 0.1}},
        "features": {"text": {"dtype": "string"}},
    }
    counts = {"test": 1, "train": 5, "validation": 0}
    assert splits.split_names(parse_spec(said, "a.toml"), counts) == ("train", "test")
