"""The steps of a chain that need nothing but the value; the same TF ops in every pass."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from beam_jobs.config_steps import Stateless

# Eigen computes whole SIMD packets, of at most 8 float64, with other code than the rest of a batch,
# and the two differ in the last bit. With this many zeros behind it, no value is in the rest.
_PADDING = 16


def apply(values: tf.Tensor, steps: Sequence[Stateless]) -> tf.Tensor:
    """Applies the steps in order to float64 of any shape."""
    for name, *options in steps:
        values = _STEPS[name](values, *options)
    return values


def apply_numpy(values: np.ndarray, steps: Sequence[Stateless]) -> np.ndarray:
    """Does the same to a NumPy array."""
    if not steps:
        return values
    return apply(tf.constant(values, tf.float64), steps).numpy()


def padded(op: Callable[[tf.Tensor], tf.Tensor], values: tf.Tensor) -> tf.Tensor:
    """Applies an op that is not exact so that a value has one result wherever it stands."""
    behind = tf.concat([tf.reshape(values, [-1]), tf.zeros([_PADDING], tf.float64)], 0)
    return tf.reshape(op(behind)[:-_PADDING], tf.shape(values))


def _clip(values: tf.Tensor, least: float | None, most: float | None) -> tf.Tensor:
    """Does what np.clip does; by comparing, for -0 has two results in maximum and minimum."""
    if least is not None:
        values = tf.where(values < least, tf.constant(least, tf.float64), values)
    if most is not None:
        values = tf.where(values > most, tf.constant(most, tf.float64), values)
    return values


_STEPS: dict[str, Callable[..., tf.Tensor]] = {
    "clip": _clip,
    "log": functools.partial(padded, tf.math.log),
    "log1p": functools.partial(padded, tf.math.log1p),
    "sqrt": tf.sqrt,  # Correctly rounded, in packets too.
}
