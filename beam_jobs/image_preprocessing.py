"""The preprocessing_fn of an image dataset: encoded files to what is stored."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from beam_jobs import (
    image_features,
    image_normalization,
    image_statistics,
    images,
    saved_transform,
)
from beam_jobs.config import Image, Spec
from beam_jobs.image_features import ImageFeature
from beam_jobs.image_statistics import PixelStatistics
from beam_jobs.job import Job
from beam_jobs.saved_transform import SavedTransform


def feature_spec(spec: Spec) -> dict[str, Any]:
    """Returns the TF feature spec of the inputs: encoded files and their EXIF orientations."""
    found = {}
    for name in spec.images:
        found[name] = tf.io.FixedLenFeature([], tf.string)
        found[f"{name}_orientation"] = tf.io.FixedLenFeature([], tf.int64)
    return found


class _Give(beam.PTransform):
    """TFT's view of the analyzer: an array that follows from the statistics of a feature."""

    def __init__(self, statistics: beam.PCollection, feature: ImageFeature, take: Any):
        super().__init__()
        self._statistics, self._feature, self._take = statistics, feature, take

    def expand(self, inputs: beam.PCollection) -> beam.PCollection:
        return self._statistics | "Give" >> beam.Map(self._given)

    def _given(self, statistics: Mapping[str, Any]) -> np.ndarray:
        return self._take(statistics[self._feature.name], self._feature)


def _levels(statistics: PixelStatistics, feature: ImageFeature) -> np.ndarray:
    return image_statistics.normalized_levels(feature.image, statistics)


def _affine(statistics: PixelStatistics, _: ImageFeature) -> np.ndarray:
    """Returns float64 (num_rows, num_values)."""
    affine = statistics.affine.load()  # type: ignore[union-attr]
    return affine.reshape(len(affine), -1)


def preprocessing_fn(
    spec: Spec, statistics: beam.PCollection
) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Returns a preprocessing_fn for TFT.

    Of each feature its output is what the records hold: the file where these are stored, else
    (batch_size, height, width, channels) or in `data_format`'s order: normalized values as float32,
    which those of a bfloat16 dataset fit into, else the pixels as int64. TFT knows no other types.

    Args:
      spec: The spec of an image dataset.
      statistics: PCollection of one mapping of features to PixelStatistics.
    """

    def preprocess(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            feature.name: _stored(inputs, feature, statistics)
            for feature in image_features.of(spec)
        }

    return preprocess


def _stored(
    inputs: Mapping[str, tf.Tensor], feature: ImageFeature, statistics: beam.PCollection
) -> tf.Tensor:
    """Returns what the records hold of one feature."""

    def given(take: Any, dtype: tf.DType, shape: list[int]) -> tf.Tensor:
        (array,) = tft.experimental.ptransform_analyzer(
            [orientation], _Give(statistics, feature, take), [dtype], [shape]
        )
        return array

    image = feature.image
    orientation = inputs[f"{feature.name}_orientation"]
    made = images.decode_batch(feature.policy)(inputs[feature.name], orientation)
    if image.is_encoded:
        return made[0]
    pixels = tf.cast(made, tf.int64)
    if image.preprocessing_function is not None:
        values = feature.function()(made)
    elif image.is_samplewise and image.is_normalized:
        values = image_normalization.samplewise_op(pixels, image)
    elif not feature.needs_statistics:
        values = pixels
    elif image.statistics == "channel" and not image.zca_whitening:
        levels = given(_levels, tf.float32, [image.channels, 256])
        place = pixels + 256 * tf.range(image.channels, dtype=tf.int64)
        values = tf.gather(tf.reshape(levels, [-1]), place)
    else:
        rows = image.num_values + 1 if image.zca_whitening else 2
        affine = given(_affine, tf.float64, [rows, image.num_values])
        values = _of_affine(pixels, affine, image)
    return image_normalization.to_stored_op(values, image)


def _of_affine(pixels: tf.Tensor, affine: tf.Tensor, image: Image) -> tf.Tensor:
    """Returns what `image_normalization.by_position` or `image_whitening.whitened` does."""
    flat = tf.cast(tf.reshape(pixels, [-1, image.num_values]), tf.float64)
    with tf.device("/CPU:0"):
        flat = flat @ affine[:-1] if image.zca_whitening else flat * affine[0]
    values = tf.cast(flat - affine[-1], tf.float32)
    return tf.reshape(values, [-1, *image.shape])


def trace_transform(statistics: Mapping[str, Any], job: Job) -> SavedTransform:
    """Returns the transform_fn of the statistics, or that of an earlier dataset."""
    if job.earlier is not None:
        return job.earlier.transform
    make = functools.partial(preprocessing_fn, job.spec)
    return saved_transform.trace(make, feature_spec(job.spec), statistics)
