"""Exact sums of products against Python's fractions and NumPy in float64."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from beam_jobs import moments, products
from beam_jobs.products import Products

LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def _vectors(num_records: int = 60) -> np.ndarray:
    """Values of float32 over all its range, of both signs, with zeros among them."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(num_records, 4)) * 10.0 ** rng.integers(-37, 37, (num_records, 4))
    values[0] = LARGEST, SMALLEST, 0, -LARGEST
    values[:, 2] = np.round(values[:, 2] % 3)
    return values.astype(np.float32).astype(np.float64)


def _exact(vectors: np.ndarray) -> list[list[float]]:
    rows = [[Fraction(value) for value in row] for row in vectors.tolist()]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    centered = [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]
    columns = [*zip(*centered, strict=True)]
    return [
        [float(sum(a * b for a, b in zip(x, y, strict=True)) / len(rows)) for y in columns]
        for x in columns
    ]


def _covariance(parts: list[np.ndarray]) -> np.ndarray:
    total, whole = Products({}), np.concatenate(parts)
    for part in parts:
        total += Products.of(part)
    return total.covariance(tuple(moments.of_floats(column) for column in whole.T))


def test_a_covariance_is_the_exact_one_rounded_once_in_any_parts_and_order():
    vectors = _vectors()
    exact = _exact(vectors)
    assert _covariance([vectors]).tolist() == exact
    for order in itertools.permutations([vectors[:7], vectors[7:8], vectors[8:]]):
        assert _covariance([*order]).tolist() == exact


def test_sums_that_cancel_are_exact():
    """Of some 10^15 on either side 10^-3 is left."""
    rng = np.random.default_rng(4)
    large = (rng.uniform(size=(500, 2)) * 2.0 ** rng.integers(0, 30, (500, 2))).astype(np.float32)
    small = rng.uniform(size=(3, 2)).astype(np.float32) / 8
    vectors = np.concatenate([large, small, large * [1, -1], -large, large * [-1, 1], -small])
    exact = _exact(vectors.astype(np.float64))
    assert 0 < abs(exact[0][1]) < 1e-4 < 1e13 < exact[0][0]
    assert _covariance([vectors.astype(np.float64)]).tolist() == exact


def test_large_blocks_are_taken_in_parts(monkeypatch):
    vectors = _vectors()
    whole = _covariance([vectors])
    monkeypatch.setattr(products, "_VALUES_AT_ONCE", 20)
    assert _covariance([vectors]).tobytes() == whole.tobytes()


def test_vectors_of_zeros_have_no_covariance():
    assert _covariance([np.zeros((3, 2))]).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("output_dim", [1, 3])
def test_components_are_those_of_numpys_svd_with_the_largest_entry_positive(output_dim):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 5))
    vectors -= vectors.mean(axis=0)
    found = products.components(vectors.T @ vectors / 200, np.ones(5), output_dim)
    _, singular, right = np.linalg.svd(vectors)
    assert found.num_directions == 3
    np.testing.assert_allclose(found.variances, singular[:output_dim] ** 2 / 200, rtol=1e-12)
    for ours, theirs in zip(found.matrix.T, right, strict=False):
        assert ours[np.argmax(np.abs(ours))] > 0
        np.testing.assert_allclose(ours, theirs * np.sign(ours @ theirs), atol=1e-12)
