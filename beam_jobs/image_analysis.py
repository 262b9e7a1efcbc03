"""The statistics of train, from what its decoded shards left; no Beam in here."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from beam_jobs import (
    files,
    image_features,
    image_normalization,
    image_shards,
    image_statistics,
    image_targets,
    image_whitening,
    saved_arrays,
)
from beam_jobs.errors import DataError
from beam_jobs.image_features import ImageFeature
from beam_jobs.image_statistics import PixelStatistics
from beam_jobs.job import Job, ShardResult
from beam_jobs.saved_arrays import SavedArray
from beam_jobs.shards import PROGRESS_FOLDER
from beam_jobs.shuffle import Place

_EPSILON = 1e-6  # As in keras' ImageDataGenerator.


def statistics(results: Sequence[ShardResult], job: Job) -> dict[str, Any]:
    """Returns the statistics of train, by feature: of an image PixelStatistics, else its counts.

    There are none where an earlier dataset's are applied.

    Args:
      results: Of all shards, decoded.
      job: The job.

    Raises:
      DataError: No image of train is left.
    """
    if job.earlier is not None:
        return {}
    of_train = sorted((r for r in results if r.place.split == "train"), key=lambda r: r.place)
    found: dict[str, Any] = {}
    for target in image_targets.of(job.spec):
        counts = (result.pixels[target.name] for result in of_train)
        found[target.name] = sum(counts, target.no_counts.levels)
    for feature in image_features.of(job.spec):
        levels = sum((result.pixels[feature.name] for result in of_train), feature.no_counts.levels)
        if not levels.any():
            raise DataError("no image of train is left. See the rejected files.")
        of_channels = PixelStatistics.of(levels, feature.image.rescale)
        places = [result.place for result in of_train]
        found[feature.name] = _with_arrays(of_channels, feature, places, job)
    return found


def _with_arrays(
    found: PixelStatistics, feature: ImageFeature, places: Sequence[Place], job: Job
) -> PixelStatistics:
    """Adds what is as large as an image, or larger."""
    image = feature.image
    positions = affine = None
    if image.statistics == "pixel":
        positions = _positions(found, feature, places, job)
    if image.zca_whitening:
        affine = _whitening(found, positions, feature, places, job)
    elif positions is not None and feature.needs_statistics:
        mean, std, *_ = positions.load()
        affine = _save(image_normalization.per_pixel(image, mean, std), "affine", feature, job)
    return dataclasses.replace(found, positions=positions, affine=affine)


def _positions(
    found: PixelStatistics, feature: ImageFeature, places: Sequence[Place], job: Job
) -> SavedArray:
    """Adds up what the shards left of each position."""
    shape = (2, *feature.shape)
    total = np.zeros(shape, np.int64)
    for place in places:
        path = image_shards.positions_file(place, feature, job)
        left = saved_arrays.find(path, "<i8", shape)
        if left is None:
            raise DataError(f"{path}: is gone or damaged. Run again with --overwrite.")
        total += left.load()
    count = found.raw[0].count // math.prod(feature.shape[:2])
    of_positions = image_statistics.of_positions(total, count, feature.image.rescale)
    return _save(of_positions, "positions", feature, job)


def _whitening(
    found: PixelStatistics,
    positions: SavedArray | None,
    feature: ImageFeature,
    places: Sequence[Place],
    job: Job,
) -> SavedArray:
    """Returns what whitens, from the pixels of train; an earlier try may have left it."""
    image, size = feature.image, feature.image.num_values
    left = saved_arrays.find(_path("affine", feature, job), "<f8", (size + 1, size))
    if left is not None:  # And some of the pixels may be gone.
        return left
    if positions is None:
        mean = np.array([channel.mean for channel in found.raw])
        std = np.array([channel.std for channel in found.raw])
    else:
        mean, std, *_ = positions.load()
    scale = np.full(std.shape, float(image.rescale))
    if image.featurewise_std_normalization:
        scale = np.where(std == 0, scale, 1 / np.where(std == 0, 1, std))
    products, sums, count = image_whitening.sums_of_products(_pixels(feature, places, job), size)
    affine = image_whitening.affine(
        products,
        sums,
        count,
        np.broadcast_to(mean, feature.shape).ravel(),
        np.broadcast_to(scale, feature.shape).ravel(),
        _EPSILON if image.zca_epsilon is None else float(image.zca_epsilon),
    )
    return _save(affine, "affine", feature, job)


def _pixels(feature: ImageFeature, places: Sequence[Place], job: Job) -> Iterator[np.ndarray]:
    """Yields the decoded images of train: uint8 (num_images, num_values)."""
    features = image_features.of(job.spec)
    for place in places:
        path = image_shards.pixel_file(place, job)
        for values, _ in image_shards.left_aside(path, features):
            pixels = values[feature.name]
            yield pixels.reshape(len(pixels), -1)


def _save(array: np.ndarray, name: str, feature: ImageFeature, job: Job) -> SavedArray:
    return saved_arrays.save(_path(name, feature, job), array)


def _path(name: str, feature: ImageFeature, job: Job) -> str:
    file = f"{name}-{feature.number:02d}{saved_arrays.SUFFIX}"
    return files.join(job.output, PROGRESS_FOLDER, file)
