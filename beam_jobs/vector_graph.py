"""What transform_fn makes of vectors: elementwise in float64, rounded to float32 once, last."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from beam_jobs.analysis import VectorStatistics, nonzero, pca_scale
from beam_jobs.config import Sparse, Vector

Slots = dict[str, tuple[tf.DType, tuple[int | None, ...], Callable[[VectorStatistics], Any]]]
Known = Mapping[str, tf.Tensor]

LENGTH = "_length"  # Behind the name of a ragged feature: how many numbers a record has.


def slots(feature: Vector) -> Slots:
    """Returns dtype, shape and value of what the graph needs of the statistics."""
    needed: dict[str, Callable[[VectorStatistics], Any]] = {}
    match feature.transforms:
        case ["scale_to_0_1"]:
            needed["min"] = lambda s: s.each("min")
            needed["range"] = lambda s: s.each("max") - s.each("min")
        case ["center"]:
            needed["mean"] = lambda s: s.each("mean")
        case ["scale_to_z_score"]:
            needed["mean"] = lambda s: s.each("mean")
            needed["std"] = lambda s: nonzero(s.each("std"))
        case [*_, "pca"]:
            needed["mean"] = lambda s: s.each("mean")
            needed["components"] = lambda s: (
                pca_scale(feature, s)[:, None] * s.components.matrix  # type: ignore[union-attr]
            )
    return {key: (tf.float64, (None,), value) for key, value in needed.items()}


def transformed(given: Sequence[Any], feature: Vector, known: Known) -> dict[str, Any]:
    """Returns what is stored of a vector, by the endings of the names that it gets.

    Args:
      given: The raw columns: each (batch,), or lists (batch, size); sparse ones where numbers may
        be missing.
      feature: What the spec says of it.
      known: The statistics.

    Returns:
      float32 or int64 (batch, num_stored). Of a ragged one a SparseTensor and its lengths.
    """
    if feature.is_ragged:
        (lists,) = given
        numbers = tf.SparseTensor(
            lists.indices, _scaled(lists.values, feature, known), lists.dense_shape
        )
        return {"": numbers, LENGTH: _lengths(lists)}
    if feature.columns is None:
        dense = _filled(given[0], feature)
    else:
        dense = tf.concat([_filled(column, feature) for column in given], 1)
    return {"": tf.ensure_shape(_scaled(dense, feature, known), [None, feature.num_stored])}


def entries(texts: tf.Tensor, feature: Sparse) -> tf.SparseTensor:
    """Returns the elements that pairs of index and value name: float32 (batch, size), in order.

    Args:
      texts: string (batch,), without a fault.
      feature: What the spec says of them.
    """
    pairs = tf.strings.split(texts).with_row_splits_dtype(tf.int64)
    parts = tf.reshape(tf.strings.split(pairs.flat_values, ":").flat_values, [-1, 2])
    first = 0 if feature.zero_based else 1
    columns = tf.strings.to_number(parts[:, 0], tf.int64) - first
    numbers = tf.cast(tf.strings.to_number(parts[:, 1], tf.float64), tf.float32)
    is_tiny = tf.abs(numbers) < tf.constant(np.finfo(np.float32).tiny)  # As `values.to_float32`.
    numbers = tf.where(is_tiny, tf.zeros_like(numbers), numbers)
    shape = tf.stack([pairs.nrows(), feature.size])
    indices = tf.stack([pairs.value_rowids(), columns], axis=1)
    return tf.sparse.reorder(tf.SparseTensor(indices, numbers, shape))


def _lengths(lists: tf.SparseTensor) -> tf.Tensor:
    num_records = lists.dense_shape[0]
    ones = tf.ones_like(lists.indices[:, 0])
    return tf.math.unsorted_segment_sum(ones, lists.indices[:, 0], num_records)


def _filled(column: Any, feature: Vector) -> tf.Tensor:
    """Returns (batch, size); of a column of single numbers (batch, 1)."""
    if not isinstance(column, tf.SparseTensor):
        return column if column.shape.rank == 2 else tf.expand_dims(column, 1)
    shape = tf.stack([column.dense_shape[0], feature.size or 1])
    whole = tf.SparseTensor(column.indices, column.values, shape)
    return tf.sparse.to_dense(whole, tf.constant(feature.fill, column.dtype))


def _scaled(numbers: tf.Tensor, feature: Vector, known: Known) -> tf.Tensor:
    """Applies the steps to (batch, num_elements), or to (num_numbers,) of a ragged vector."""
    if not feature.transforms:
        return numbers
    values = tf.cast(numbers, tf.float64)
    match feature.transforms:
        case ["scale_to_0_1"]:
            is_constant = tf.equal(known["range"], 0)
            scaled = (values - known["min"]) / tf.where(
                is_constant, tf.ones_like(known["range"]), known["range"]
            )
            values = tf.where(is_constant, tf.zeros_like(scaled), scaled)
        case ["center"]:
            values = values - known["mean"]
        case ["scale_to_z_score"]:
            values = (values - known["mean"]) / known["std"]
        case [*_, "pca"]:
            values = _projected(values - known["mean"], known["components"], feature)
    return tf.cast(values, tf.float32)


def _projected(values: tf.Tensor, components: tf.Tensor, feature: Vector) -> tf.Tensor:
    """Multiplies by a matrix, element by element in their order: (batch, output_dim).

    A matmul adds up in an order of its own for each size of a batch.
    """
    matrix = tf.reshape(components, [feature.num_elements, feature.output_dim])

    def add(total: tf.Tensor, element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        numbers, weights = element
        return total + tf.expand_dims(numbers, 1) * weights

    start = tf.zeros([tf.shape(values)[0], feature.output_dim], tf.float64)
    return tf.foldl(add, (tf.transpose(values), matrix), start)
