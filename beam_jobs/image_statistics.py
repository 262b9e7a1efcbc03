"""Exact statistics of pixels, from how often each of the 256 values occurs, or from sums."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import PIL.Image

from beam_jobs import moments
from beam_jobs.config import Image
from beam_jobs.moments import Moments
from beam_jobs.saved_arrays import SavedArray

_LEVELS = 256
_SUMMED_TOGETHER = 1 << 15  # Images, of which uint32 holds the sum of the squares of a position.


def histogram(pixels: np.ndarray) -> np.ndarray:
    """Counts each value in each channel.

    Args:
      pixels: uint8 (num_images, height, width, channels), 1, 3 or 4 channels.

    Returns:
      int64 (channels, 256).
    """
    *_, width, channels = pixels.shape
    if not pixels.size:
        return np.zeros((channels, _LEVELS), np.int64)
    rows = pixels.reshape((-1, width) if channels == 1 else (-1, width, channels))
    counts = PIL.Image.fromarray(rows).histogram()  # In threads, six times as fast as np.bincount.
    return np.array(counts, np.int64).reshape(channels, _LEVELS)


def position_sums(pixels: np.ndarray) -> np.ndarray:
    """Sums up x and x**2 at each position.

    Args:
      pixels: uint8 (num_images, height, width, channels).

    Returns:
      int64 (2, height, width, channels).
    """
    total = np.zeros((2, *pixels.shape[1:]), np.int64)
    for start in range(0, len(pixels), _SUMMED_TOGETHER):
        x = pixels[start : start + _SUMMED_TOGETHER]
        total[0] += x.sum(axis=0, dtype=np.uint32)
        total[1] += np.square(x, dtype=np.uint16).sum(axis=0, dtype=np.uint32)
    return total


def of_positions(sums: np.ndarray, count: int, rescale: float) -> np.ndarray:
    """Returns mean and std of x, and mean and std of x * rescale, at each position.

    A mean is the exact one rounded once, a std the root of the exact population variance rounded
    once.

    Args:
      sums: What `position_sums` returns.
      count: Of how many images.
      rescale: The factor, as an exact number.

    Returns:
      float64 (4, height, width, channels).
    """
    factor = Fraction(rescale)
    up, down = factor.numerator, factor.denominator * count
    totals, squares = sums[0].ravel().tolist(), sums[1].ravel().tolist()
    # Python divides whole numbers of any size, and rounds once.
    above = [count * square - total * total for total, square in zip(totals, squares, strict=True)]
    found = [
        [total / count for total in totals],
        [math.sqrt(variance / count**2) for variance in above],
        [total * up / down for total in totals],
        [math.sqrt(variance * up**2 / down**2) for variance in above],
    ]
    return np.array(found, np.float64).reshape(4, *sums.shape[1:])


@dataclasses.dataclass(frozen=True)
class PixelCounts:
    """What statistics need of pixels; two of them add up.

    Attributes:
      levels: What `histogram` returns.
      positions: What `position_sums` returns, where statistics are per pixel.
    """

    levels: np.ndarray
    positions: np.ndarray | None = None

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        """Returns the counts of both sets of images."""
        positions = self.positions
        if positions is None or other.positions is None:
            positions = other.positions if positions is None else positions
        else:
            positions = positions + other.positions
        return PixelCounts(self.levels + other.levels, positions)


@dataclasses.dataclass(frozen=True)
class PixelStatistics:
    """Per channel, of x * rescale and of x, over train.

    Attributes:
      scaled: Moments of x * rescale, each product rounded to float64.
      raw: Moments of x.
      low: The smallest pixel.
      high: The largest pixel.
      positions: What `of_positions` returns, where statistics are per pixel.
      affine: What turns pixels into stored values, see `image_normalization.per_pixel` and
        `image_whitening.affine`; None where a table of `normalized_levels` does.
    """

    scaled: tuple[Moments, ...]
    raw: tuple[Moments, ...]
    low: int
    high: int
    positions: SavedArray | None = None
    affine: SavedArray | None = None

    @classmethod
    def of(cls, counts: np.ndarray, rescale: float) -> "PixelStatistics":
        """Takes int64 (channels, 256)."""
        seen = np.flatnonzero(counts.sum(axis=0))
        raw = tuple(_moments(channel, range(_LEVELS)) for channel in counts)
        scaled = tuple(_moments(channel, scaled_levels(rescale).tolist()) for channel in counts)
        return cls(scaled, raw, int(seen[0]), int(seen[-1]))

    @property
    def mean(self) -> list[float]:
        """Of x * rescale: one float64 a channel."""
        return [channel.mean for channel in self.scaled]

    @property
    def std(self) -> list[float]:
        """Of x * rescale: one float64 a channel."""
        return [channel.std for channel in self.scaled]


def scaled_levels(rescale: float) -> np.ndarray:
    """Returns x * rescale for each pixel value x: float64 (256,)."""
    return np.arange(_LEVELS, dtype=np.float64) * np.float64(rescale)


def _moments(counts: np.ndarray, values: Sequence[float]) -> Moments:
    total = Moments()
    for value, count in zip(values, counts.tolist(), strict=True):
        if count:
            total += moments.of_copies(value, count)
    return total


def normalization(image: Image, statistics: PixelStatistics) -> dict[str, Any]:
    """Returns how x becomes (x * rescale - mean) / std; an absent part is not applied."""
    steps: dict[str, Any] = {"rescale": float(image.rescale)}
    mean, std = scaled(statistics)
    if image.featurewise_center:
        steps["mean"] = mean.tolist()
    if image.featurewise_std_normalization:
        steps["std"] = np.where(std == 0, 1.0, std).tolist()
    for step in ("samplewise_center", "samplewise_std_normalization"):
        if getattr(image, step):
            steps[step] = True
    return steps


def scaled(statistics: PixelStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std of x * rescale: float64 (channels,), or (height, width, channels)."""
    if statistics.positions is None:
        return np.array(statistics.mean), np.array(statistics.std)
    _, _, mean, std = statistics.positions.load()
    return mean, std


def normalized_levels(image: Image, statistics: PixelStatistics) -> np.ndarray:
    """Returns what each pixel value becomes: float32 (channels, 256), computed in float64."""
    steps = normalization(image, statistics)
    channels = len(statistics.scaled)
    levels = np.broadcast_to(scaled_levels(image.rescale), (channels, _LEVELS))
    if "mean" in steps:
        levels = levels - np.array(steps["mean"])[:, None]
    if "std" in steps:
        levels = levels / np.array(steps["std"])[:, None]
    return levels.astype(np.float32)
