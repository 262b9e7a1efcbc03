"""Sums behind stored floats: exact, in any order, so that every machine has the same bits."""

import math
from fractions import Fraction

import numpy as np
import pytest

from beam_jobs import image_normalization, image_statistics, image_whitening
from beam_jobs.config import Image

RANDOM = np.random.default_rng(6)
PIXELS = RANDOM.integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)


def test_products_with_a_rounded_matrix_add_up_exactly_in_any_order():
    matrix = RANDOM.normal(size=(300, 7)) * 10.0 ** RANDOM.integers(-6, 6, 7)
    matrix[:, 3] = 0
    rounded = image_whitening.rounded(matrix)
    assert (np.abs(rounded - matrix) <= np.abs(matrix).max(axis=0) * 1e-10).all()
    x = RANDOM.integers(0, 256, (20, 300)).astype(np.float64)
    order = RANDOM.permutation(300)
    exact = [[math.fsum(row * column) for column in rounded.T] for row in x]
    assert np.array_equal(x @ rounded, exact)
    assert np.array_equal(x[:, order] @ rounded[order], exact)
    raw = [[math.fsum(row * column) for column in matrix.T] for row in x]
    assert not np.array_equal(x @ matrix, raw)  # Which is why.


def test_sums_of_products_are_those_of_whole_numbers():
    flat = PIXELS.reshape(50, -1)
    products, sums, count = image_whitening.sums_of_products([flat[:20], flat[20:]], 90)
    whole = flat.astype(np.int64)
    assert np.array_equal(products, whole.T @ whole)
    assert np.array_equal(sums, whole.sum(axis=0)) and count == 50


@pytest.mark.parametrize("rescale", [1, 0.1, 1e-9, 3e8])
def test_statistics_of_a_position_are_exact_fractions_rounded_once(rescale):
    parts = [image_statistics.position_sums(part) for part in (PIXELS[:7], PIXELS[7:])]
    found = image_statistics.of_positions(parts[0] + parts[1], 50, rescale)
    for place in [(0, 0, 0), (5, 4, 2), (3, 1, 1)]:
        values = [Fraction(int(image[place])) for image in PIXELS]
        mean = sum(values) / 50
        variance = sum((value - mean) ** 2 for value in values) / 50
        factor = Fraction(rescale)
        wanted = [
            float(mean),
            math.sqrt(float(variance)),
            float(mean * factor),
            math.sqrt(float(variance * factor**2)),
        ]
        assert [found[(row, *place)] for row in range(4)] == wanted


def test_a_factor_of_a_position_has_exact_products_with_all_pixels():
    image = Image(
        size=(6, 5),
        store="float32",
        statistics="pixel",
        featurewise_center=True,
        featurewise_std_normalization=True,
    )
    mean, std, *_ = image_statistics.of_positions(image_statistics.position_sums(PIXELS), 50, 1)
    factor, offset = image_normalization.per_pixel(image, mean, std)
    np.testing.assert_allclose(factor, 1 / std, rtol=1e-13)
    for one in factor.ravel().tolist():
        assert all(Fraction(level * one) == level * Fraction(one) for level in range(256))
    assert np.array_equal(offset, mean * factor)
