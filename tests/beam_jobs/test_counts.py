import functools
import operator
from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import moments as oracle

from beam_jobs import analysis, counts
from beam_jobs.config import parse_spec
from beam_jobs.counts import NumberCounts, TokenCounts
from beam_jobs.errors import DataError
from beam_jobs.summaries import Numbers, Summary

NUMBERS = st.one_of(
    st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=60),
    st.lists(st.floats(allow_nan=False, width=32, allow_infinity=False), min_size=1, max_size=60),
)


def brute_edges(values, num_buckets) -> list:
    """Edge i is the lowest v with count(<= v) >= i n / num_buckets; each once, ascending."""
    ordered = sorted(values)
    wanted = [Fraction(i * len(ordered), num_buckets) for i in range(1, num_buckets)]
    return sorted({next(v for n, v in enumerate(ordered, 1) if n >= w) for w in wanted})


@settings(max_examples=200, deadline=None)
@given(NUMBERS, st.integers(2, 20))
def test_edges_by_definition(values, num_buckets):
    found = NumberCounts.of(np.array(values)).quantile_edges(num_buckets)
    assert found.tolist() == brute_edges(values, num_buckets)


@settings(max_examples=100, deadline=None)
@given(NUMBERS)
def test_median_is_numpys(values):
    assert NumberCounts.of(np.array(values)).median == np.median(np.array(values))


@settings(max_examples=100, deadline=None)
@given(NUMBERS, NUMBERS)
def test_parts_add_up_to_the_whole(one, other):
    whole = NumberCounts.of(np.array(one + other))
    for a, b in ((one, other), (other, one)):
        added = NumberCounts.of(np.array(a)) + NumberCounts.of(np.array(b))
        assert (added.values.tolist(), added.counts.tolist()) == (
            whole.values.tolist(),
            whole.counts.tolist(),
        )
    assert dict(zip(whole.values.tolist(), whole.counts.tolist(), strict=True)) == Counter(
        one + other
    )


def test_large_ints_stay_exact():
    values = np.array([2**63 - 1, 2**63 - 2, -(2**63), 2**53 + 1])
    found = NumberCounts.of(values)
    assert found.values.dtype == np.int64
    assert found.quantile_edges(4).tolist() == [-(2**63), 2**53 + 1, 2**63 - 2]


def test_minus_zero_is_zero():
    found = NumberCounts.of(np.array([-0.0, 0.0, -0.0]))
    assert (found.values.tolist(), found.counts.tolist()) == ([0.0], [3])
    assert not np.signbit(found.values).any()


def _many() -> np.ndarray:
    rng = np.random.default_rng(3)
    many = np.concatenate([rng.normal(size=150_000), 1e30 * rng.normal(size=50_000)])
    return np.concatenate([many, np.repeat([0.0, -0.0, 7.0], 1000)])


def test_the_grid_starts_behind_its_limit():
    at = np.arange(counts.MAX_DISTINCT_NUMBERS, dtype=np.float64)
    assert at.size == 65_536
    assert not NumberCounts.of(np.repeat(at, 2)).is_grid
    assert NumberCounts.of(np.append(at, -1.0)).is_grid


def test_the_grid_knows_no_partition():
    values = _many()
    assert np.unique(values).size > counts.MAX_DISTINCT_NUMBERS
    whole = NumberCounts.of(values)
    shuffled = np.random.default_rng(4).permutation(values)
    for parts in (np.array_split(values, 7), np.array_split(shuffled, 40)):
        found = [NumberCounts.of(part) for part in parts]
        assert not all(part.is_grid for part in found)
        for order in (found, found[::-1]):
            added = functools.reduce(operator.add, order)
            assert added.is_grid
            assert added.values.tobytes() == whole.values.tobytes()
            assert added.counts.tolist() == whole.counts.tolist()
    assert whole.counts.sum() == values.size


def test_grid_quantiles_are_within_their_width():
    values = _many()
    found = NumberCounts.of(values).quantile_edges(64)
    exact = np.array(oracle.edges(values, 64))
    assert found.size == exact.size > 60
    assert (np.abs(found - exact) <= np.abs(exact) * 2.0**-11).all()
    assert (found != exact).any()
    median = NumberCounts.of(values).median
    assert abs(median - np.median(values)) <= 2.0**-11 * abs(np.median(values)) + 1e-300


def test_ints_in_a_grid():
    values = np.arange(100_000) * 10**13 - 5 * 10**17
    exact = np.array(oracle.edges(values, 10), np.float64)
    found = NumberCounts.of(values).quantile_edges(10)
    assert (np.abs(found - exact) <= np.abs(exact) * 2.0**-11).all()


def tokens(texts) -> TokenCounts:
    return TokenCounts.of(pa.array(texts, pa.string()))


def by_definition(texts, top_k=None, threshold=1) -> list[bytes]:
    found = Counter(text.encode() for text in texts if text is not None)
    kept = [(-count, token) for token, count in found.items() if count >= threshold]
    return [token for _, token in sorted(kept)][:top_k]


TEXTS = st.lists(st.none() | st.sampled_from(["", "a", "b", "B", "é", "z", "\U0001f600", "\uffff"]))


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS, st.none() | st.integers(1, 4), st.none() | st.integers(1, 3))
def test_vocabulary_by_definition(one, other, top_k, threshold):
    one, other = [*one, None, "a"], [*other, "z"]
    expected = by_definition(one + other, top_k, threshold or 1)
    for added in (tokens(one) + tokens(other), tokens(other) + tokens(one), tokens(one + other)):
        assert added.vocabulary("f", top_k, threshold) == expected


def test_columns_without_any_text_add_up():
    assert (tokens([None]) + tokens([None])).vocabulary("f", None, None) == []


def test_ties_go_by_utf8_bytes_and_not_by_utf16():
    texts = ["\U0001f600", "\uffff", "b", "B", "b", "é"]
    assert sorted(texts, key=lambda t: t.encode("utf-16-be")) != sorted(texts)
    expected = ["b", "B", "é", "\uffff", "\U0001f600"]
    assert tokens(texts).vocabulary("f", None, None) == [text.encode() for text in expected]


@pytest.mark.parametrize(
    "top_k, threshold, expected",
    [
        (None, None, [b"a", b"b", b"c", b"d"]),
        (None, 2, [b"a", b"b", b"c"]),  # Inclusive.
        (2, None, [b"a", b"b"]),  # Cuts c, which ties with b.
        (1, 3, [b"a"]),
        (9, 4, []),
    ],
)
def test_top_k_and_frequency_threshold(top_k, threshold, expected):
    assert tokens(list("cabacbad")).vocabulary("f", top_k, threshold) == expected


def test_too_many_tokens_stop_the_job_unless_top_k(monkeypatch):
    monkeypatch.setattr(counts, "MAX_DISTINCT_TOKENS", 3)
    assert len(tokens(list("abc")).vocabulary("f", None, None)) == 3
    with pytest.raises(DataError, match=r"features\.f: 4 distinct tokens are more than 3\. Set"):
        tokens(list("abcd")).vocabulary("f", None, None)
    assert tokens(list("abcdd")).vocabulary("f", 2, None) == [b"d", b"a"]


def test_the_greatest_whole_number_has_an_edge_too():
    rng = np.random.default_rng(0)
    values = np.append(rng.permutation(counts.MAX_DISTINCT_NUMBERS + 1), [2**63 - 1] * 30_000)
    assert NumberCounts.of(values).is_grid
    spec = parse_spec(
        {
            "name": "t",
            "source": {"format": "csv", "paths": ["t.csv"]},
            "split": {"fractions": {"train": 1.0}},
            "features": {"x": {"dtype": "int64", "transform": "bucketize", "num_buckets": 4}},
        },
        "t.toml",
    )
    key = ("x", ())
    summary = Summary(
        read=values.size,
        num_examples=Counter(train=values.size),
        columns={("train", "x"): Numbers.of(values)},
        numbers={key: NumberCounts.of(values)},
    )
    edges = analysis.analyze(spec, summary)["x"].learned["edges"]
    ordered = np.sort(values)
    assert ordered[-(values.size // 4)] == 2**63 - 1
    exact = [ordered[-(-i * values.size // 4) - 1] for i in (1, 2, 3)]
    assert edges.dtype == np.int64
    np.testing.assert_allclose(edges[:2], exact[:2], rtol=2e-4)
    assert edges[2] == exact[2]
