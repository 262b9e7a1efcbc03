"""Tukey's HH distribution, a normal one with heavier tails, for scale_to_gaussian."""

import numpy as np
import tensorflow as tf
from tensorflow_transform import gaussianization

from beam_jobs import stateless

_NUM_NEWTON = 8  # As in TFT; float64 has converged by then.


def parameters(l_moments: list[float]) -> tuple[float, float, float, float]:
    """Returns location, scale and the parameters of the left and of the right tail.

    TFT's search for them, from the first four L-moments.
    """
    mean, scale, third, fourth = l_moments
    if not scale > 0:
        return mean, 0.0, 0.0, 0.0
    tails = gaussianization.compute_tukey_hh_params(np.array([third / scale, fourth / scale]))
    unit_mean, unit_scale = gaussianization.tukey_hh_l_mean_and_scale(tails)
    scale /= float(unit_scale)
    return mean - scale * float(unit_mean), scale, float(tails[0]), float(tails[1])


def inverse(values: tf.Tensor, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns the u of x = u * exp(h * u**2 / 2), where h is left of 0 another than right of it.

    By Lambert's W, which is W(z) * exp(W(z)) = z, it is x * exp(-W(h * x**2) / 2).
    """
    tails = tf.where(values < 0, left, right)
    return values * stateless.padded(_shrinkage, tails * values * values)


def _shrinkage(z: tf.Tensor) -> tf.Tensor:
    """Returns exp(-W(z) / 2) of z >= 0: float64 (num_values,)."""
    slope = (np.e - 1) / (np.e**2 - 1)
    log = tf.math.log(tf.maximum(z, 1.0))
    far = log + (1 / tf.maximum(log, 1.0) - 1) * tf.math.log(tf.maximum(log, 1.0))
    middle = slope * z + (1 - slope) / np.e
    w = tf.where(z < 1 / np.e, z, tf.where(z < np.e, middle, far))
    for _ in range(_NUM_NEWTON):
        grown = tf.exp(w)
        w -= (w * grown - z) / (grown + w * grown)
    return tf.exp(w / -2)
