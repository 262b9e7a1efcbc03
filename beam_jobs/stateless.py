"""The steps of a chain that need nothing but the value; the same TF ops in every pass."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Eigen computes whole SIMD packets, of at most 8 float64, with other code than the rest of a batch,
# and the two differ in the last bit. With this many zeros behind it, no value is in the rest.
_PADDING = 16


def apply(values: tf.Tensor, steps: Sequence[str]) -> tf.Tensor:
    """Applies the steps in order to float64 of any shape."""
    for step in steps:
        values = {"log1p": _log1p}[step](values)
    return values


def apply_numpy(values: np.ndarray, steps: Sequence[str]) -> np.ndarray:
    """Does the same to a NumPy array."""
    if not steps:
        return values
    return apply(tf.constant(values, tf.float64), steps).numpy()


def _log1p(values: tf.Tensor) -> tf.Tensor:
    padded = tf.concat([tf.reshape(values, [-1]), tf.zeros([_PADDING], tf.float64)], 0)
    return tf.reshape(tf.math.log1p(padded)[:-_PADDING], tf.shape(values))
