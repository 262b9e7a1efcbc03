"""Exact sums of products of float32 values, in any order, and what follows from them.

A float32 is a whole number of units of 2**-149, so a sum of products is one of 2**-298. Each value
is cut into digits of 12 bits, at places that do not depend on the data; a matrix of digits times
another one has whole numbers below 2**53, which float64 adds exactly, so any BLAS gives the same.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import threadpoolctl

from beam_jobs.moments import UNIT_BITS, Moments

_DIGIT_BITS = 12
_LOWEST_BIT = -149
_HIGHEST_BIT = 128
_VALUES_AT_ONCE = 1 << 20  # Of 2**24 products of two digits float64 would hold the sum.


@dataclasses.dataclass(frozen=True)
class Products:
    """The sum of x x^T over vectors x.

    Attributes:
      parts: By exponent e whole numbers, int64 (num_elements, num_elements): the sum is that of
        part * 2**e. At most 2**36 records fit.
    """

    parts: Mapping[int, np.ndarray]

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Products":
        """Takes float64 (num_records, num_elements) that hold values of float32."""
        total = cls({})
        step = max(1, _VALUES_AT_ONCE // max(vectors.shape[1], 1))
        for start in range(0, len(vectors), step):
            total += cls(_products(_digits(vectors[start : start + step])))
        return total

    def __add__(self, other: "Products") -> "Products":
        """Returns the sum over both sets of vectors."""
        both = dict(self.parts)
        for exponent, part in other.parts.items():
            both[exponent] = both[exponent] + part if exponent in both else part
        return Products(both)

    def covariance(self, moments: tuple[Moments, ...]) -> np.ndarray:
        """Returns the population covariance, each exact one rounded once.

        Args:
          moments: Of each element.

        Returns:
          float64 (num_elements, num_elements).
        """
        size, count = len(moments), moments[0].count
        unit = 2 * _LOWEST_BIT
        sums = np.zeros((size, size), object)
        for exponent, part in self.parts.items():
            sums += part.astype(object) << (exponent - unit)
        # The sum of values that are float32 has no bit below their lowest one.
        totals = np.array([of.total >> (UNIT_BITS + _LOWEST_BIT) for of in moments], object)
        above = count * sums - np.outer(totals, totals)
        # Python divides whole numbers of any size, and rounds once.
        below = count**2 << -unit
        return np.array([[one / below for one in row] for row in above.tolist()], np.float64)


def _products(digits: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Returns the sums of products of digits by exponent: int64 (num_elements, num_elements)."""
    if not digits:
        return {}
    joined = np.concatenate([*digits.values()], axis=1)
    sums = (joined.T @ joined).astype(np.int64)
    size = sums.shape[0] // len(digits)
    parts: dict[int, np.ndarray] = {}
    for row, low in enumerate(digits):
        for column, high in enumerate(digits):
            part = sums[row * size :, column * size :][:size, :size]
            parts[low + high] = parts[low + high] + part if low + high in parts else part.copy()
    return parts


def _digits(vectors: np.ndarray) -> dict[int, np.ndarray]:
    """Returns whole numbers below 2**12 by exponent e: a value is the sum of digit * 2**e."""
    rest, digits = vectors, {}
    largest = np.abs(vectors).max(initial=0.0)
    bits = range(_LOWEST_BIT, _HIGHEST_BIT, _DIGIT_BITS)
    for exponent in reversed(bits):
        if largest < 2.0**exponent:
            continue
        if not rest.any():
            break
        digit = np.trunc(np.ldexp(rest, -exponent))
        if digit.any():
            rest = rest - np.ldexp(digit, exponent)
            digits[exponent] = digit
    return digits


@dataclasses.dataclass(frozen=True)
class Components:
    """The principal components of vectors.

    Attributes:
      matrix: float64 (num_elements, output_dim): y = (x - mean) * scale @ matrix. Of each column,
        which has length 1, the entry of the largest magnitude is positive, as in scikit-learn.
      variances: Of y, descending: float64 (output_dim,).
      num_directions: In how many directions the vectors differ.
    """

    matrix: np.ndarray
    variances: np.ndarray
    num_directions: int


def components(covariance: np.ndarray, scale: np.ndarray, output_dim: int) -> Components:
    """Returns the principal components, the same bits on one kind of processor.

    Args:
      covariance: float64 (num_elements, num_elements).
      scale: What each element is multiplied with before: float64 (num_elements,).
      output_dim: How many.
    """
    with threadpoolctl.threadpool_limits(1):  # With more, the last bits depend on their number.
        variances, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    noise = max(variances[-1], 0.0) * len(scale) * np.finfo(np.float64).eps
    num_directions = int(np.count_nonzero(variances > noise))
    variances, vectors = variances[::-1][:output_dim], vectors[:, ::-1][:, :output_dim]
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(output_dim)]
    return Components(vectors * np.where(largest < 0, -1.0, 1.0), variances, num_directions)
