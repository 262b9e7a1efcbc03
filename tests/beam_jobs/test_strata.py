"""Cuts of classes against arithmetic on whole sorted lists."""

import itertools
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs import keys, splits, strata
from beam_jobs.config import SPLITS, parse_spec
from beam_jobs.errors import DataError

SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


def spec(fractions=None, key="*"):
    split = {"fractions": fractions or SHARES, "stratified": True, "key": key}
    said = {"name": "s", "source": {"format": "csv", "paths": ["a.csv"]}, "split": split}
    said |= {"features": {"a": {"dtype": "int64"}}, "label": {"column": "c"}}
    return parse_spec(said, "s.toml")


def hashed(records) -> np.ndarray:
    """Hashes of (class, first half): the other half follows from it, in another order."""
    pairs = [(first, first * 0x9E3779B97F4A7C15 % 2**64) for _, first in records]
    return np.array(pairs, keys.HASH_DTYPE)


def found(records, folder, rule, cut=()):
    """The strata of (class, first half of the hash), divided over files before these places."""
    pieces = strata.Keys()
    for start, end in itertools.pairwise([0, *sorted(cut), len(records)]):
        label = pa.array([name for name, _ in records[start:end]], pa.string())
        pieces += strata.save(label, hashed(records[start:end]), str(folder))
    return strata.find(pieces, rule, str(folder))


def codes(of: splits.Strata, records) -> list[int]:
    label = pa.array([name for name, _ in records], pa.string())
    return of.codes(label, hashed(records)).tolist()


def cumulated(fractions) -> list[Fraction]:
    named = [Fraction(str(fractions[name])) for name in SPLITS if name in fractions]
    return list(itertools.accumulate(named))


def nearest(firsts, fractions) -> list[int]:
    """The records before each cut: of all cuts that part no equal hashes, the nearest one."""
    ordered = sorted(firsts)
    allowed = [n for n in range(len(ordered) + 1) if ordered[n - 1 : n] != ordered[n : n + 1]]
    ends = []
    for total in cumulated(fractions):
        away = [(abs(count - total * len(ordered)), -count) for count in allowed]
        ends.append(-min(away)[1])
    return ends


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 998), st.integers(1, 998))
def test_shares_are_less_than_a_record_away_and_one_more_moves_a_limit_by_one(count, one, two):
    one, two = min(one, 998), min(two, 999 - min(one, 998))
    numerators = {"train": one, "validation": two, "test": 1000 - one - two}
    fractions = {name: n / 1000 for name, n in numerators.items()}
    shares, more = (splits.shares(n, fractions) for n in (count, count + 1))
    assert list(shares) == list(SPLITS) and sum(shares.values()) == count
    assert all(abs(shares[n] * 1000 - numerators[n] * count) < 1000 for n in SPLITS)
    ends, later = (list(itertools.accumulate(found.values())) for found in (shares, more))
    assert all(b - a in (0, 1) for a, b in zip(ends, later, strict=True))


@pytest.mark.parametrize(
    "count, wanted",
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 1, 0)), (3, (2, 1, 0)), (4, (3, 1, 0)), (5, (4, 1, 0)),
     (6, (4, 1, 1)), (7, (5, 1, 1)), (10, (7, 2, 1)), (1005, (704, 201, 100))],
)  # fmt: skip
def test_halves_are_rounded_up(count, wanted):
    assert tuple(splits.shares(count, SHARES).values()) == wanted


drawn = st.lists(
    st.tuples(st.sampled_from("äab"), st.integers(0, 40) | st.integers(0, 2**64 - 2)), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(drawn, st.lists(st.integers(0, 60), max_size=3), st.randoms(use_true_random=False))
def test_cuts_are_the_nearest_that_part_no_equal_records(tmp_path_factory, records, cut, shuffle):
    folder = tmp_path_factory.mktemp("strata")
    of = found(records, folder, spec(), [min(at, len(records)) for at in cut])
    split = codes(of, records)
    for name in {name for name, _ in records}:
        ours = sorted(
            (first, code) for (n, first), code in zip(records, split, strict=True) if n == name
        )
        assert [code for _, code in ours] == sorted(code for _, code in ours)
        assert len({first: code for first, code in ours}) == len({first for first, _ in ours})
        counts = Counter(code for _, code in ours)
        ends = list(itertools.accumulate(counts[code] for code in range(3)))
        assert ends == nearest([first for first, _ in ours], SHARES)
        if len({first for first, _ in ours}) == len(ours):
            assert [counts[code] for code in range(3)] == [
                *splits.shares(len(ours), SHARES).values()
            ]
    assert of.totals == {s: split.count(code) for code, s in enumerate(SPLITS)}
    shuffled = records[:]
    shuffle.shuffle(shuffled)
    other = found(shuffled, folder, spec())
    assert other.classes == of.classes == tuple(sorted({n for n, _ in records}, key=str.encode))
    np.testing.assert_array_equal(other.limits, of.limits)
    np.testing.assert_array_equal(other.num_examples, of.num_examples)


def test_many_pieces_of_the_range_of_hashes_give_what_one_gives(tmp_path, monkeypatch):
    rng = random.Random(3)
    records = [(rng.choice("aaaabbc"), rng.randrange(2**64)) for _ in range(3000)]
    records += records[:500] * 3
    whole = found(records, tmp_path, spec(), range(0, len(records), 700))
    monkeypatch.setattr(strata, "_PIECE_RECORDS", 100)
    parts = found(records, tmp_path, spec(), range(0, len(records), 333))
    np.testing.assert_array_equal(parts.limits, whole.limits)
    np.testing.assert_array_equal(parts.num_examples, whole.num_examples)
    assert [*whole.totals.values()] == [codes(whole, records).count(code) for code in range(3)]


def test_one_record_more_moves_one_at_each_limit_of_its_class_at_most(tmp_path):
    rng = random.Random(5)
    records = [(rng.choice("aab"), rng.randrange(2**64)) for _ in range(97)]
    moved = []
    for _ in range(150):
        before = codes(found(records, tmp_path, spec()), records)
        added = (rng.choice("aab"), rng.randrange(2**64))
        after = codes(found([*records, added], tmp_path, spec()), records)
        ours = [(n, a, b) for (n, _), a, b in zip(records, before, after, strict=True) if a != b]
        assert {name for name, *_ in ours} <= {added[0]}
        assert all(abs(a - b) == 1 for _, a, b in ours)  # Over one limit, and each has its own.
        assert len({a + b for _, a, b in ours}) == len(ours) <= 2
        moved.append(len(ours))
        records.append(added)
    assert set(moved) == {0, 1, 2}


def test_a_key_with_two_classes_is_told_wherever_its_records_lie(tmp_path):
    records = [("a", 5), ("b", 2**63), ("a", 2**63 + 1), ("b", 5)]
    assert found(records, tmp_path, spec()).totals == {"train": 2, "validation": 2, "test": 0}
    with pytest.raises(DataError) as told:
        found(records, tmp_path, spec(key=["id", "day"]), [1, 3])
    assert str(told.value) == (
        "split.stratified: records with one id and day are 'a' and 'b', but stand in one split, so "
        "no count per class can be kept. Give a key whose records are of one class, or leave "
        "stratified out."
    )


def test_a_class_of_which_no_record_is_kept_meets_a_later_rule(tmp_path):
    of = found([("b", 3), ("b", 9)], tmp_path, spec({"train": 0.5, "test": 0.5}))
    assert codes(of, [("b", 3), ("b", 9), ("x", 4), (None, 1)])[:2] == [0, 2]
    assert splits.NO_SPLIT not in codes(of, [("x", 4), (None, 1)])
    none = found([], tmp_path, spec())
    assert codes(none, [("x", 4)]) == [0] and none.totals == dict.fromkeys(SPLITS, 0)


def test_one_split_takes_every_class_whole(tmp_path):
    records = [("a", 5), ("b", 2**64 - 2), ("a", 7)]
    cut = found(records, tmp_path, spec({"train": 1.0}))
    assert codes(cut, records) == [SPLITS.index("train")] * 3
    assert cut.classes == ("a", "b") and cut.num_examples.tolist() == [[2], [1]]
