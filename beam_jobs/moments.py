"""Exact sums: of numbers and of their squares, at any size and in any order.

A float64 is an integer times a power of two, so a sum of them is a sum of integers. The mantissas
of a block are summed per exponent in NumPy, and the few sums become one Python integer. Nothing is
rounded before the end, where the mean and the variance are rounded once (the variance is an exact
fraction; the standard deviation is the root of its float64).
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np

# Sums are kept as integers in units of 2**-UNIT_BITS; squares need twice as many.
UNIT_BITS = 1074
_HALF_BITS = 26
_CHUNK = (
    1 << 24
)  # So many 27-bit halves sum to less than 2**53 in float64, where bincount is exact.


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count and exact sums.

    Attributes:
      count: Number of values.
      total: Their sum, in units of 2**-1074.
      squares: The sum of their squares, in units of 2**-2148.
    """

    count: int = 0
    total: int = 0
    squares: int = 0

    def __add__(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets of values together."""
        return Moments(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    @property
    def exact_mean(self) -> Fraction:
        """The sum over the count."""
        return Fraction(self.total, self.count << UNIT_BITS)

    @property
    def mean(self) -> float:
        """The exact mean, rounded once; NaN of nothing."""
        return float(self.exact_mean) if self.count else math.nan

    @property
    def exact_variance(self) -> Fraction:
        """The population variance."""
        above = self.count * self.squares - self.total**2
        return Fraction(above, self.count**2 << 2 * UNIT_BITS)

    @property
    def std(self) -> float:
        """The root of the exact population variance rounded once; NaN of nothing."""
        return math.sqrt(float(self.exact_variance)) if self.count else math.nan


def of_floats(values: np.ndarray) -> Moments:
    """Returns the moments of finite numbers: float64 (num_values,)."""
    mantissas, exponents = np.frexp(values)
    # x**2 = high**2 + 2 high low + low**2: halves of 26 bits make exact products (Dekker 1971).
    high = np.ldexp(np.rint(np.ldexp(mantissas, _HALF_BITS)), -_HALF_BITS)
    low = mantissas - high
    squares = _exact_sum(high * high, 2 * exponents, 2 * UNIT_BITS)
    if low.any():  # Never for what was a float32.
        squares += _exact_sum(high * low, 2 * exponents + 1, 2 * UNIT_BITS)
        squares += _exact_sum(low * low, 2 * exponents, 2 * UNIT_BITS)
    return Moments(values.size, _exact_sum(mantissas, exponents, UNIT_BITS), squares)


def _exact_sum(factors: np.ndarray, exponents: np.ndarray, unit_bits: int) -> int:
    """Returns the sum of factor * 2**exponent, in units of 2**-unit_bits.

    Args:
      factors: float64 (num_values,).
      exponents: int32 (num_values,).
      unit_bits: The sum must be a whole number of these units.
    """
    total = 0
    for start in range(0, factors.size, _CHUNK):
        mantissas, more = np.frexp(factors[start : start + _CHUNK])
        bins = exponents[start : start + _CHUNK] + more
        scaled = np.ldexp(mantissas, 2 * _HALF_BITS + 1)  # A whole number of 53 bits.
        high = np.floor(np.ldexp(scaled, -_HALF_BITS))
        low = scaled - np.ldexp(high, _HALF_BITS)
        first = int(bins.min())
        highs, lows = np.bincount(bins - first, high), np.bincount(bins - first, low)
        for position in np.flatnonzero((highs != 0) | (lows != 0)).tolist():
            mantissa = (int(highs[position]) << _HALF_BITS) + int(lows[position])
            shift = first + position - 2 * _HALF_BITS - 1 + unit_bits
            # A right shift meets only zeros: the sum is a whole number of units.
            total += mantissa << shift if shift >= 0 else mantissa >> -shift
    return total


def of_ints(values: np.ndarray) -> Moments:
    """Returns the moments of whole numbers: int64 (num_values,)."""
    limbs = [values >> 42, (values >> 21) & 0x1FFFFF, values & 0x1FFFFF]  # Of 22, 21, 21 bits.
    total, squares = 0, 0
    for start in range(0, values.size, 1 << 18):  # So many products of 43 bits fit into 63.
        parts = [limb[start : start + (1 << 18)] for limb in limbs]
        for i, a in enumerate(parts):
            total += int(a.sum()) << 21 * (2 - i)
            for j, b in enumerate(parts):
                squares += int(np.dot(a, b)) << 21 * (4 - i - j)
    return Moments(values.size, total << UNIT_BITS, squares << 2 * UNIT_BITS)


def of_copies(value: float | int, count: int) -> Moments:
    """Returns the moments of one value that stands there `count` times."""
    exact = Fraction(value)
    unit = 1 << UNIT_BITS
    return Moments(count, int(exact * unit) * count, int(exact * unit) ** 2 * count)
