"""What says something of an image's pixels, and shares its geometry: masks and boxes."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs import image_features, image_statistics, images, png
from beam_jobs.config import Boxes, Mask, Spec
from beam_jobs.image_features import ImageFeature
from beam_jobs.image_headers import ImageHeader, UndecodableImage
from beam_jobs.image_statistics import PixelCounts
from beam_jobs.images import DecodedImages, ImagePolicy

_CLASS = "_class"  # What the classes of boxes are called, behind the name of the feature.


class WrongBoxes(ValueError):
    """A text is no list of boxes, or these do not fit their image.

    Attributes:
      reason: What the record is rejected for.
    """

    def __init__(self, reason: str, detail: str):
        """Takes the reason, and one line about it."""
        super().__init__(detail)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class MaskFeature:
    """The classes of an image's pixels: cut and resized as the image is, without new values.

    Attributes:
      name: What it is called in the spec.
      mask: What the spec says of it.
      image: The feature whose pixels it is about.
    """

    name: str
    mask: Mask
    image: ImageFeature
    needs_statistics = False

    @property
    def policy(self) -> ImagePolicy:
        """That of the image, by nearest neighbors."""
        of_image = self.image.policy
        pad_value = None if of_image.pad_value is None else self.mask.pad_value
        return dataclasses.replace(
            of_image,
            channels=1,
            method="nearest",
            antialias=False,
            pad_value=pad_value,
            store="raw",
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and 1."""
        return *self.image.shape[:2], 1

    @property
    def layout(self) -> np.dtype:
        """What one decoded value is."""
        return np.dtype((np.uint8, self.shape))

    @property
    def pixel_bytes(self) -> int:
        """How many bytes one decoded value has."""
        return self.layout.itemsize

    @property
    def stored_bytes(self) -> dict[str, int]:
        """The most bytes that each of its values takes in a record."""
        return {self.name: self.pixel_bytes}

    def is_canonical(self, _: ImageHeader) -> bool:
        """Whether TensorFlow takes a file with this header as it is: no header tells its depth."""
        return False

    def decode(
        self, files: Sequence[bytes], orientations: Sequence[int], are_canonical: Sequence[bool]
    ) -> tuple[DecodedImages, dict[int, tuple[str, str]]]:
        """Decodes files as `ImageFeature.decode` does, but for what their values mean."""
        return image_features.decode(
            files, orientations, are_canonical, self.policy, canonical_mask
        )

    def count(self, classes: np.ndarray) -> PixelCounts:
        """Returns how often each class occurs: (1, 256)."""
        return PixelCounts(image_statistics.histogram(classes))

    @property
    def no_counts(self) -> PixelCounts:
        """What `count` says of no mask."""
        return PixelCounts(np.zeros((1, 256), np.int64))

    def storing(self, _: Any = None) -> Callable[[np.ndarray], dict[str, Any]]:
        """Returns the function from decoded values to columns of `examples.encode`."""
        return lambda classes: {self.name: classes.reshape(len(classes), -1)}

    def entries(self, counts: np.ndarray) -> dict[str, Any]:
        """Returns what the manifest says of it."""
        seen = np.flatnonzero(counts[0]).tolist()
        entry = {
            "kind": "mask",
            "of": self.mask.of,
            "dtype": "uint8",
            "shape": list(self.shape),
            "stored_as": "raw",
            "normalized": False,
            "raw_statistics": {
                "count": int(counts.sum()),
                "missing": 0,
                "min": seen[0],
                "max": seen[-1],
                "counts": {str(value): int(counts[0, value]) for value in seen},
            },
        }
        return {self.name: entry}


def is_canonical(data: bytes, header: ImageHeader) -> bool:
    """Whether a mask is a PNG of 8 bits of grey: TensorFlow takes it as it is."""
    return header.format == "PNG" and header.channels == 1 and data[24] == 8


def canonical_mask(data: bytes, header: ImageHeader) -> bytes:
    """Returns a mask as a grey PNG of 8 bits that holds its samples: of a palette the indices.

    Raises:
      UndecodableImage: It is broken, has more than one channel, or values above 255.
    """
    if is_canonical(data, header):
        return data
    depth = data[24] if header.format == "PNG" else 8
    try:
        with images.opened(data, header) as image:
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # Pillow raises what it likes for hostile bytes.
        raise UndecodableImage(f"broken {header.format}: {images.reason(error)}") from error
    if values.ndim != 2:
        raise UndecodableImage(
            f"a mask has one channel, grey or a palette's indices, but this one is {mode}"
        )
    if mode == "L" and depth < 8:  # Pillow spreads them over 0 to 255.
        values = values // (255 // (2**depth - 1))
    if values.max(initial=0) > 255:
        raise UndecodableImage(f"a mask has values up to 255, but this one has {values.max()}")
    return png.stored(values.astype(np.uint8)[np.newaxis, :, :, np.newaxis]).tobytes()


@dataclasses.dataclass(frozen=True)
class BoxesFeature:
    """Where the objects of an image are: cut and moved with the image.

    Attributes:
      name: What it is called in the spec.
      boxes: What the spec says of it.
      image: The feature in whose pixels they are.
    """

    name: str
    boxes: Boxes
    image: ImageFeature
    needs_statistics = False

    @property
    def layout(self) -> np.dtype:
        """What one value is: left, top, right and bottom of each box, and its class."""
        most = self.boxes.max_boxes
        return np.dtype([("places", np.float32, (most, 4)), ("classes", np.int64, (most,))])

    @property
    def pixel_bytes(self) -> int:
        """How many bytes one decoded value has."""
        return self.layout.itemsize

    @property
    def stored_bytes(self) -> dict[str, int]:
        """The most bytes that each of its values takes in a record."""
        most = self.boxes.max_boxes
        sizes = {self.name: 16 * most}
        return sizes | {f"{self.name}{_CLASS}": 10 * most} if self.boxes.classes else sizes

    def located(self, text: str, height: int, width: int) -> list[list[float]]:
        """Returns the boxes of a text as they lie in the stored image, each with its class.

        Those that are cropped away are left out, and those that are cut are clipped.

        Args:
          text: JSON, pixels of the upright image.
          height: Of this image.
          width: Of this image.

        Raises:
          WrongBoxes: It is no list of boxes, one is outside the image, or there are too many.
        """
        left, top, across, down = region(self.image.policy, height, width)
        found = []
        for box in self._parsed(text):
            if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
                raise WrongBoxes("box_outside", f"{box[:4]} in an image of {width} x {height}")
            sides = [
                min(max((side - start) / size, 0.0), 1.0)
                for side, start, size in zip(box, (left, top) * 2, (across, down) * 2, strict=False)
            ]
            if sides[0] < sides[2] and sides[1] < sides[3]:
                found.append(sides + box[4:])
        if len(found) > self.boxes.max_boxes:
            raise WrongBoxes(
                "too_many_boxes", f"{len(found)}, but max_boxes is {self.boxes.max_boxes}"
            )
        return found

    def _parsed(self, text: str) -> list[list[float]]:
        reason = f"unparsable_{self.boxes.column or self.name}"
        try:
            boxes = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise WrongBoxes(reason, f"no JSON: {error}") from error
        if not isinstance(boxes, list):
            raise WrongBoxes(reason, "no list of boxes")
        for box in boxes:
            if fault := self._fault(box):
                raise WrongBoxes(reason, f"{json.dumps(box)[:100]}: {fault}")
        return boxes

    def _fault(self, box: Any) -> str | None:
        """Returns what is wrong with a box, if anything."""
        wanted = 5 if self.boxes.classes else 4
        if not isinstance(box, list) or len(box) != wanted:
            return f"a box has {wanted} numbers"
        if not all(type(side) in (int, float) and abs(side) < 2**63 for side in box):
            return "a side is no number"
        if not (box[0] < box[2] and box[1] < box[3]):
            return "left must be less than right, and top less than bottom"
        if self.boxes.classes and not (type(box[4]) is int and 0 <= box[4] < 2**63):
            return "a class is a whole number from 0 on"
        return None

    def columns(self, boxes: Sequence[Sequence[Sequence[float]]]) -> dict[str, pa.Array]:
        """Returns the boxes of records, as `located` gives them, as columns of what is kept."""
        places = [[side for box in of for side in box[:4]] for of in boxes]
        kept = {f"{self.name}/places": pa.array(places, pa.list_(pa.float32()))}
        if self.boxes.classes:
            classes = [[box[4] for box in of] for of in boxes]
            kept[f"{self.name}/classes"] = pa.array(classes, pa.list_(pa.int64()))
        return kept

    def read(self, table: pa.Table) -> DecodedImages:
        """Returns what `columns` made as `layout` has it; rows of -1 stand behind the last box."""
        found = np.full(table.num_rows, -1, self.layout)
        for kind in ("places", "classes") if self.boxes.classes else ("places",):
            column = table.column(f"{self.name}/{kind}").combine_chunks()
            lengths = column.value_lengths().to_numpy()
            flat = found[kind].reshape(table.num_rows, math.prod(found[kind].shape[1:]))
            flat[np.arange(flat.shape[1]) < lengths[:, None]] = column.flatten().to_numpy()
            found[kind] = flat.reshape(found[kind].shape)
        return DecodedImages(found, found)

    def count(self, values: np.ndarray) -> PixelCounts:
        """Returns how many records have 0 boxes, 1 box and so on: (1, max_boxes + 1)."""
        num_boxes = np.count_nonzero(values["places"][:, :, 0] >= 0, axis=1)
        return PixelCounts(np.bincount(num_boxes, minlength=self.boxes.max_boxes + 1)[None])

    @property
    def no_counts(self) -> PixelCounts:
        """What `count` says of no record."""
        return PixelCounts(np.zeros((1, self.boxes.max_boxes + 1), np.int64))

    def storing(self, _: Any = None) -> Callable[[np.ndarray], dict[str, Any]]:
        """Returns the function from values to columns of `examples.encode`."""
        return self._stored

    def _stored(self, values: np.ndarray) -> dict[str, Any]:
        columns = {self.name: _lists(values["places"])}
        if self.boxes.classes:
            columns[f"{self.name}{_CLASS}"] = _lists(values["classes"])
        return columns

    def entries(self, counts: np.ndarray) -> dict[str, Any]:
        """Returns what the manifest says of it."""
        most = self.boxes.max_boxes
        entry = {
            "kind": "boxes",
            "of": self.boxes.of,
            "dtype": "float32",
            "shape": [most, 4],
            "stored_as": "float_list",
            "normalized": False,
            "raw_statistics": {
                "count": int(counts[0] @ np.arange(most + 1)),
                "missing": 0,
                "most": int(np.flatnonzero(counts[0]).max(initial=0)),
            },
        }
        entries = {self.name: entry}
        if self.boxes.classes:
            entries[f"{self.name}{_CLASS}"] = {
                "kind": "classes",
                "of": self.name,
                "dtype": "int64",
                "shape": [most],
                "stored_as": "int64_list",
                "normalized": False,
            }
        return entries


def _lists(values: np.ndarray) -> pa.ListArray:
    """Returns (num_records, ...) as a list of numbers a record."""
    ends = np.arange(len(values) + 1, dtype=np.int32) * (values.size // max(len(values), 1))
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel()))


def region(policy: ImagePolicy, height: int, width: int) -> tuple[int, int, int, int]:
    """Returns what part of an image the stored one shows: left, top, width and height.

    In pixels of the upright image; where the image was padded it goes beyond it. The arithmetic is
    that of `images.decode_and_resize`.
    """
    left = top = 0
    for tall, wide in _sizes(policy, height, width):
        left, top = left + (width - wide) // 2, top + (height - tall) // 2
        height, width = tall, wide
    return left, top, width, height


def _sizes(policy: ImagePolicy, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yields height and width of an image after each step that cuts or pads it around its center.

    Half of what is padded is rounded down on either side.
    """
    if policy.crop_size is not None:
        height, width = policy.crop_size
        yield height, width
    if policy.height is None or policy.width is None:
        return
    tall, wide = width * policy.height // policy.width, height * policy.width // policy.height
    if policy.crop == "center":
        yield max(min(height, tall), 1), max(min(width, wide), 1)
    elif policy.pad_value is not None:
        yield (
            height + 2 * ((max(height, tall) - height) // 2),
            width + 2 * ((max(width, wide) - width) // 2),
        )


def of(spec: Spec) -> list[MaskFeature | BoxesFeature]:
    """Returns the features of a spec that say something of images, in its order."""
    about = {feature.name: feature for feature in image_features.of(spec)}
    found: list[MaskFeature | BoxesFeature] = []
    for name, target in spec.targets.items():
        if isinstance(target, Mask):
            found.append(MaskFeature(name, target, about[target.of]))
        else:
            found.append(BoxesFeature(name, target, about[target.of]))
    return found
