"""The preprocessing_fn of an image dataset: an encoded file to what is stored."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from beam_jobs import image_statistics, images, saved_transform
from beam_jobs.config import Spec
from beam_jobs.image_shards import policy
from beam_jobs.image_statistics import PixelStatistics
from beam_jobs.job import Job
from beam_jobs.saved_transform import SavedTransform


def feature_spec(spec: Spec) -> dict[str, Any]:
    """Returns the TF feature spec of the inputs: the encoded file and its EXIF orientation."""
    name, _ = spec.image
    return {
        name: tf.io.FixedLenFeature([], tf.string),
        f"{name}_orientation": tf.io.FixedLenFeature([], tf.int64),
    }


class _GiveLevels(beam.PTransform):
    """TFT's view of the analyzer: what each pixel value of each channel becomes."""

    def __init__(self, statistics: beam.PCollection, spec: Spec):
        super().__init__()
        self._statistics, self._spec = statistics, spec

    def expand(self, inputs: beam.PCollection) -> beam.PCollection:
        return self._statistics | "Give" >> beam.Map(_levels, self._spec)


def _levels(statistics: PixelStatistics, spec: Spec) -> np.ndarray:
    return image_statistics.normalized_levels(spec.image[1], statistics)


def preprocessing_fn(
    spec: Spec, statistics: beam.PCollection
) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Returns a preprocessing_fn for TFT.

    Its output is (batch_size, height, width, channels): the normalized float32 values where these
    are stored, else the pixels as int64, since TFT knows no uint8.

    Args:
      spec: The spec of an image dataset.
      statistics: PCollection of one PixelStatistics.
    """
    name, image = spec.image

    def preprocess(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        orientation = inputs[f"{name}_orientation"]
        pixels = images.decode_batch(policy(image))(inputs[name], orientation)
        pixels = tf.cast(pixels, tf.int64)
        if image.store == "uint8":
            return {name: pixels}
        (levels,) = tft.experimental.ptransform_analyzer(
            [orientation], _GiveLevels(statistics, spec), [tf.float32], [[image.channels, 256]]
        )
        place = pixels + 256 * tf.range(image.channels, dtype=tf.int64)
        return {name: tf.gather(tf.reshape(levels, [-1]), place)}

    return preprocess


def trace_transform(statistics: PixelStatistics, job: Job) -> SavedTransform:
    """Returns the transform_fn of the statistics."""
    make = functools.partial(preprocessing_fn, job.spec)
    return saved_transform.trace(make, feature_spec(job.spec), statistics)
