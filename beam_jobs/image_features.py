"""One image feature of a dataset: its files to pixels, and these to counts and to stored values."""

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from beam_jobs import image_normalization, image_statistics, image_whitening, images
from beam_jobs.config import Image, Spec
from beam_jobs.image_headers import ImageHeader, UndecodableImage, read_header
from beam_jobs.image_statistics import PixelCounts, PixelStatistics
from beam_jobs.images import DecodedImages, Decoder, ImagePolicy
from beam_jobs.saved_transform import SavedTransform

_LOADING = threading.Lock()
_QUALITY = 95  # Of a JPEG, where the spec names none.
_GUESSED_PIXELS = 500 * 375  # Of a photograph of its own size, as most of ImageNet's are.
_GUESSED_SHARES = {"jpeg": 0.15, "png": 0.6}  # Of a photograph's bytes, beside its pixels.


@dataclasses.dataclass(frozen=True)
class ImageFeature:
    """What happens to the pixels of one feature.

    Attributes:
      name: What it is called in the spec.
      image: What the spec says of it.
      number: Which of the spec's image features it is, from 0.
      folder: That of the spec.
      transform: An earlier dataset's, which gives the normalized values; None without one.
    """

    name: str
    image: Image
    number: int = 0
    folder: str = ""
    transform: SavedTransform | None = None

    @property
    def policy(self) -> ImagePolicy:
        """What decoding needs of the spec."""
        image = self.image
        height, width, channels = image.shape
        return ImagePolicy(
            height,
            width,
            channels,
            image.method,
            image.antialias,
            image.crop,
            image.crop_size,
            (image.pad_value or 0) if image.pad_to_aspect_ratio else None,
            image.store if image.is_encoded else "raw",
            image.quality or _QUALITY,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels; 0 where images keep their own size."""
        height, width, channels = self.image.shape
        return height or 0, width or 0, channels

    @property
    def pixel_bytes(self) -> int:
        """How many bytes the pixels of an image have; a guess where images keep their own size."""
        return self.image.num_values or _GUESSED_PIXELS * self.image.channels

    @property
    def layout(self) -> np.dtype:
        """What one decoded value of fixed size is."""
        return np.dtype((np.float32 if self.image.preprocessing_function else np.uint8, self.shape))

    @property
    def stored_bytes(self) -> dict[str, int]:
        """The most bytes that each of its values takes in a record; of an image file a guess."""
        if self.image.is_encoded:
            return {self.name: int(self.pixel_bytes * _GUESSED_SHARES[self.image.store])}
        itemsize = image_normalization.DTYPES[self.image.store].itemsize
        return {self.name: self.image.num_values * itemsize}

    @property
    def needs_statistics(self) -> bool:
        """Whether what is stored depends on all images of train."""
        image = self.image
        is_alone = image.is_samplewise or image.preprocessing_function is not None
        return image.is_normalized and not is_alone

    def is_canonical(self, header: ImageHeader) -> bool:
        """Whether TensorFlow takes a file with this header as it is."""
        return images.is_canonical(header)

    def decode(
        self, files: Sequence[bytes], orientations: Sequence[int], are_canonical: Sequence[bool]
    ) -> tuple[DecodedImages, dict[int, tuple[str, str]]]:
        """Decodes files.

        Args:
          files: num_files encoded images.
          orientations: Their EXIF orientations, 1 to 8.
          are_canonical: Which of them TensorFlow takes as they are, see `images.canonical`.

        Returns:
          The files that could be decoded, in their order, and for the position of each other file
          the reason and what is wrong with it, in one line.
        """
        make = None if self.transform is None else self._transformed
        decoded, broken = decode(
            files, orientations, are_canonical, self.policy, images.canonical, make
        )
        if self.image.preprocessing_function is None:
            return decoded, broken
        values = decoded.stored if make else self._applied(decoded.pixels)
        is_finite = np.isfinite(values).all(axis=(1, 2, 3))
        places = [position for position in range(len(files)) if position not in broken]
        for place in np.flatnonzero(~is_finite).tolist():
            detail = f"{self.image.preprocessing_function} returns a value that is not finite"
            broken[places[place]] = f"non_finite_{self.name}", detail
        return DecodedImages(values, decoded.pixels).where(is_finite), broken

    def _transformed(self, files: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor:
        """Returns what the earlier transform_fn makes of files: float32, as records hold them."""
        transform_fn = self.transform.load().transform_fn  # type: ignore[union-attr]
        ((specs,), _) = transform_fn.structured_input_signature
        inputs = {name: tf.zeros([0], of.dtype) for name, of in specs.items()}  # Of others none.
        given = {self.name: files, f"{self.name}_orientation": orientations}
        return transform_fn(inputs | given)[self.name]

    def _applied(self, pixels: np.ndarray) -> np.ndarray:
        """Returns what the user's function makes of pixels: float32, in their shape."""
        with _LOADING:
            function = self.function()
        return function(tf.constant(pixels)).numpy()

    def function(self) -> Callable[..., Any]:
        """Returns `preprocessing_function` for batches, see `image_normalization`."""
        name = str(self.image.preprocessing_function)
        return image_normalization.function_batch(name, self.folder, self.shape)

    def count(self, pixels: np.ndarray) -> PixelCounts:
        """Returns what statistics need of the pixels of images; two of them add up."""
        if self.transform is not None:
            return self.no_counts
        if pixels.dtype == object:
            flat = [np.zeros((0, self.image.channels), np.uint8), *pixels]
            pixels = np.concatenate(flat)[None, None]
        levels = image_statistics.histogram(pixels)
        if self.image.statistics == "channel":
            return PixelCounts(levels)
        return PixelCounts(levels, image_statistics.position_sums(pixels))

    @property
    def no_counts(self) -> PixelCounts:
        """What `count` says of no image."""
        levels = np.zeros((self.image.channels, 256), np.int64)
        if self.image.statistics == "channel":
            return PixelCounts(levels)
        return PixelCounts(levels, np.zeros((2, *self.shape), np.int64))

    def storing(
        self, statistics: PixelStatistics | None = None
    ) -> Callable[[np.ndarray], dict[str, Any]]:
        """Returns the function from what was decoded to columns of `examples.encode`.

        Args:
          statistics: Of train, where `needs_statistics`.
        """
        image = self.image
        if image.is_encoded:
            return lambda files: {self.name: pa.array(files, pa.binary())}
        if self.transform is not None:
            dtype = image_normalization.DTYPES[image.store]
            return lambda values: self._bytes(values.astype(dtype, copy=False))
        if image.is_samplewise and image.is_normalized:
            return lambda pixels: self._columns(image_normalization.samplewise(pixels, image))
        if statistics is None:
            return self._columns
        if statistics.affine is None:
            levels = image_statistics.normalized_levels(image, statistics)
            levels = levels.astype(image_normalization.DTYPES[image.store])
            return lambda pixels: self._columns(_looked_up(pixels, levels))
        affine = statistics.affine.load()
        if image.zca_whitening:
            return lambda pixels: self._columns(_whitened(pixels, affine))
        return lambda pixels: self._columns(image_normalization.by_position(pixels, affine))

    def _columns(self, values: np.ndarray) -> dict[str, Any]:
        return self._bytes(image_normalization.to_stored(values, self.image))

    def _bytes(self, stored: np.ndarray) -> dict[str, Any]:
        raw = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
        return {self.name: raw.view(np.uint8).reshape(len(raw), -1)}

    def entries(self, found: PixelStatistics) -> dict[str, Any]:
        """Returns what the manifest says of it."""
        image, count = self.image, found.raw[0].count
        steps = image_statistics.normalization(image, found)
        is_plain = len(steps) == 1 and image.rescale == 1  # Then there is nothing left to do.
        mean, std = image_statistics.scaled(found)
        decode: dict[str, Any] = {
            "method": image.method,
            "antialias": image.antialias,
            "crop": image.crop,
            "exif_orientation": "applied",
        }
        if image.crop_size is not None:
            decode["crop_size"] = list(image.crop_size)
        if image.pad_to_aspect_ratio:
            decode["pad_value"] = image.pad_value or 0
        entry: dict[str, Any] = {
            "dtype": "uint8" if image.is_encoded else image.store,
            "shape": list(image.stored_shape),
            "stored_as": image.store if image.is_encoded else "raw",
            "normalized": image.is_normalized,
            "decode": decode,
            "raw_statistics": {
                "count": count,
                "missing": 0,
                "min": found.low,
                "max": found.high,
                "mean": [channel.mean for channel in found.raw],
                "std": [channel.std for channel in found.raw],
            },
            "statistics": {"count": count, "mean": mean.tolist(), "std": std.tolist()},
        }
        if image.data_format == "channels_first":
            entry["data_format"] = image.data_format
        if found.positions is not None:
            entry["statistics"]["count"] = count // math.prod(self.shape[:2])  # Of a position.
        if not image.is_normalized and not is_plain:
            entry["normalization"] = steps
        return {self.name: entry}


def decode(
    files: Sequence[bytes],
    orientations: Sequence[int],
    are_canonical: Sequence[bool],
    policy: ImagePolicy,
    canonical: Callable[[bytes, ImageHeader], bytes],
    make: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tuple[DecodedImages, dict[int, tuple[str, str]]]:
    """Decodes files as `ImageFeature.decode` does.

    Args:
      files: num_files encoded images.
      orientations: Their EXIF orientations, 1 to 8.
      are_canonical: Which of them TensorFlow takes as they are.
      policy: What they are turned into.
      canonical: Brings the others into a form that TensorFlow decodes right.
      make: What makes values of files and orientations; None for what the policy says.
    """
    broken: dict[int, tuple[str, str]] = {}
    sound, encoded = [], []
    for position, (data, is_canonical) in enumerate(zip(files, are_canonical, strict=True)):
        try:
            encoded.append(data if is_canonical else canonical(data, read_header(data)))
            sound.append(position)
        except UndecodableImage as error:
            broken[position] = "undecodable_image", str(error)
    with _LOADING:  # Only one thread traces the graph.
        decoder = Decoder(policy, make)
    decoded, failed = decoder.decode(encoded, [orientations[position] for position in sound])
    for place, detail in failed.items():
        broken[sound[place]] = "undecodable_image", detail
    return decoded, broken


def trace(spec: Spec) -> None:
    """Traces the functions that a spec names: what they compute is in its digest from here on.

    Raises:
      SpecError: One cannot be imported or traced, or does not fit.
    """
    for feature in of(spec):
        if feature.image.preprocessing_function is not None:
            spec.traced[feature.name] = image_normalization.function_digest(feature.function())


def of(spec: Spec, transform: SavedTransform | None = None) -> list[ImageFeature]:
    """Returns the image features of a spec, in its order.

    Args:
      spec: The spec.
      transform: An earlier dataset's, for those that are normalized.
    """
    return [
        ImageFeature(name, image, number, spec.folder, transform if image.is_normalized else None)
        for number, (name, image) in enumerate(spec.images.items())
    ]


def _looked_up(pixels: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Returns what each pixel becomes: as `levels`, in the shape of the pixels.

    Args:
      pixels: uint8 (num_images, height, width, channels).
      levels: float32 or bfloat16 (channels, 256).
    """
    # NumPy adds long rows 15 times as fast as rows of 3, and gathers only by indices of 8 bytes,
    # which takes twice as long as Arrow by these.
    width = pixels.shape[2]
    channels = (256 * np.arange(len(levels))).astype(np.uint16)
    rows = pixels.reshape(-1, width * len(levels)) + np.tile(channels, width)
    indices = pa.array(rows.ravel())
    bits = levels.view(f"u{levels.itemsize}").ravel()
    normalized = pc.take(pa.array(bits), indices, boundscheck=False).to_numpy()
    return normalized.view(levels.dtype).reshape(pixels.shape)


def _whitened(pixels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    flat = image_whitening.whitened(pixels.reshape(len(pixels), -1), affine)
    return flat.reshape(pixels.shape)
