"""Exact statistics: every sum is a rational number, rounded to float64 once."""

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np


def moments(counts: Mapping[float, int]) -> dict:
    """Count, min, max, mean and population std of the values with these multiplicities."""
    count = sum(counts.values())
    if not count:
        return {"count": 0}
    total = sum((Fraction(value) * times for value, times in counts.items()), Fraction(0))
    squares = sum((Fraction(value) ** 2 * times for value, times in counts.items()), Fraction(0))
    variance = squares / count - (total / count) ** 2
    return {
        "count": count,
        "min": min(counts),
        "max": max(counts),
        "mean": float(total / count),
        "std": math.sqrt(float(variance)),
    }


def counted(values: np.ndarray) -> dict:
    """Distinct values with how often each occurs, as Python numbers."""
    distinct, times = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), times.tolist(), strict=True))


def edges(values: np.ndarray, num_buckets: int) -> list:
    """Distinct bucket edges: edge i is the smallest v with count(<= v) >= i * n / num_buckets."""
    found: list = []
    distinct, times = np.unique(values, return_counts=True)
    cumulated = np.cumsum(times).tolist()
    for i in range(1, num_buckets):
        at = next(k for k, count in enumerate(cumulated) if count * num_buckets >= i * len(values))
        found.append(distinct[at].item())
    return sorted(set(found))
