"""The power transforms of Box and Cox and of Yeo and Johnson.

Both are `sign * expm1(p * a) / p`, where a is log(x), or log(1 + |x|), and p is lambda, or for a
negative x of Yeo and Johnson 2 - lambda.
"""

import numpy as np
import tensorflow as tf

from beam_jobs import stateless

_MOST = 230.0  # p * a, so that no value of train gets larger than 1e100.
_SERIES = [0.5, 1 / 3, 1 / 8, 1 / 30, 1 / 144, 1 / 840, 1 / 5760, 1 / 45360]
_SMALL = 0.05  # Below it, the series is exact in float64.


def learn(values: np.ndarray, counts: np.ndarray, of_positive: bool) -> dict[str, float]:
    """Returns the `lambda` of maximum likelihood, and `center`, `mean` and `std` for a z-score.

    The likelihood is concave in lambda (Kouider & Chen 1995, Marchand et al. 2022), so that the
    sign of its derivative is enough to find its top to the last bits. A constant has lambda 1.

    Where all values have one sign, the mean of a is taken from a, which moves and scales what comes
    out, but not its z-scores: years, raised to a power, would else differ in the last bits only.

    Args:
      values: float64 (num_values,), distinct.
      counts: How often each occurs: int64 (num_values,).
      of_positive: Whether it is Box and Cox's, for positive values.
    """
    size, sign = _size_and_sign(values, of_positive)
    weights = counts / counts.sum()
    low, high = _range(size, sign)
    is_moved = values.size > 1 and bool((sign == sign[0]).all())
    center = float((weights * size).sum()) if is_moved else 0.0
    size = size - center
    power = 1.0
    if values.size > 1:
        while low < (power := (low + high) / 2) < high:
            is_below = _slope(power, size, sign, weights) > 0
            low, high = (power, high) if is_below else (low, power)
    if values.size == 1:  # As the graph has it, whose log is not NumPy's: less itself it is 0.
        given, one, zero = (tf.constant(number, tf.float64) for number in (values, 1, 0))
        mean, std = float(apply(given, one, zero, of_positive)[0]), 1.0
    else:
        y, _ = _transformed(power, size, sign)
        mean = float((weights * y).sum())
        std = float(np.sqrt((weights * (y - mean) ** 2).sum())) or 1.0
    return {"lambda": power, "center": float(sign[0]) * center, "mean": mean, "std": std}


def apply(values: tf.Tensor, power: tf.Tensor, center: tf.Tensor, of_positive: bool) -> tf.Tensor:
    """Returns the transformed values, moved and scaled by the center: float64 of their shape."""
    if of_positive:
        return _expm1_over(power, stateless.padded(tf.math.log, values) - center)
    is_negative, of_center = values < 0, center < 0
    is_same = tf.equal(is_negative, of_center)
    size = stateless.padded(tf.math.log1p, tf.abs(values))
    moved = tf.where(is_same, size - tf.abs(center), size)
    scaled = _expm1_over(tf.where(is_negative, 2 - power, power), moved)
    scaled = tf.where(is_negative, -scaled, scaled)
    # Behind 0 there is another power, and nothing to be moved: it is seen from the center.
    power_there = tf.where(of_center, 2 - power, power)
    there = _expm1_over(power_there, tf.abs(center))
    there = tf.where(of_center, -there, there)
    unit = stateless.padded(tf.exp, -power_there * tf.abs(center))
    return tf.where(is_same, scaled, (scaled - there) * unit)


def _expm1_over(power: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    is_log = tf.equal(power, 0)
    divisor = tf.where(is_log, tf.ones_like(power), power)
    return tf.where(is_log, size, stateless.padded(tf.math.expm1, power * size) / divisor)


def _size_and_sign(values: np.ndarray, of_positive: bool) -> tuple[np.ndarray, np.ndarray]:
    if of_positive:
        return np.log(values), np.ones_like(values)
    return np.log1p(np.abs(values)), np.where(values < 0, -1.0, 1.0)


def _range(size: np.ndarray, sign: np.ndarray) -> tuple[float, float]:
    """Returns between which powers no value of train grows beyond bounds."""
    above = _MOST / np.abs(size[sign > 0]).max(initial=1e-300)
    below = _MOST / size[sign < 0].max(initial=1e-300)
    return float(max(-above, 2 - below)), float(min(above, 2 + below))


def _transformed(power: float, size: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the transformed values, and their derivatives by lambda: float64 (num_values,)."""
    p = np.where(sign < 0, 2 - power, power)
    u = p * size
    is_small = np.abs(u) < _SMALL
    divisor = np.where(is_small, 1.0, u)
    grown = np.expm1(u)
    ratio = np.where(u == 0, 1.0, grown / np.where(u == 0, 1.0, u))
    slope = ((u - 1) * grown + u) / divisor**2
    return sign * size * ratio, size**2 * np.where(is_small, np.polyval(_SERIES[::-1], u), slope)


def _slope(power: float, size: np.ndarray, sign: np.ndarray, weights: np.ndarray) -> float:
    """Returns the derivative of the mean log-likelihood."""
    y, dy = _transformed(power, size, sign)
    centered = y - (weights * y).sum()
    variance = (weights * centered**2).sum()
    if variance == 0:  # All values have become one: too far from 1.
        return 1 - power
    covariance = (weights * centered * dy).sum()
    return float((weights * sign * size).sum() - covariance / variance)
