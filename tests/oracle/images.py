"""The records of image folders: judged, divided and decoded with Pillow alone."""

import collections
import dataclasses
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from oracle import hashing, moments, specs


@dataclasses.dataclass
class Picture:
    """One image that is written: where it lies, its split, its class, its pixels."""

    path: str
    split: str
    label: str
    pixels: np.ndarray  # uint8 (height, width, channels)
    hash: tuple[int, int]


@dataclasses.dataclass
class Folder:
    """Every file: the images that are written, and how many each reason took."""

    records: list[Picture]
    rejected: collections.Counter
    read: int
    classes: list[str]


def open_image(path: Path) -> Image.Image | None:
    """The image as people see it (EXIF orientation applied), RGB, or None where it is none."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError):  # What Pillow raises for files that are cut or no image.
        return None


def resized(image: Image.Image, size: list[int], crop: str) -> np.ndarray:
    """uint8 (height, width, 3): the centered box, or all of it, resized with antialiasing."""
    height, width = size
    if crop == "center":
        box_width = min(image.width, image.height * width // height)
        box_height = min(image.height, image.width * height // width)
        left, top = (image.width - box_width) // 2, (image.height - box_height) // 2
        image = image.crop((left, top, left + box_width, top + box_height))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _label(spec: dict, path: str) -> str | None:
    label = spec["label"]
    if label.get("from") == "directory":
        return Path(path).parent.name
    found = re.search(label["pattern"], path)
    return found["label"] if found else None


def _split(spec: dict, path: str, first: int) -> str | None:
    split = spec["split"]
    if "fractions" in split:
        return hashing.fraction_split(first, split["fractions"])
    name = path.split("/")[0]
    carved = dict(split.get("carve", {}))
    if carved.pop("of", None) == name:
        for other, fraction in carved.items():
            if hashing.below(first, fraction):
                return other
    return name if name in hashing.SPLITS else None


def _judge(spec: dict, root: Path, file: Path) -> Picture | str:
    path = file.relative_to(root).as_posix()
    label, key = _label(spec, path), hashing.halves(path.encode())
    if (image := open_image(file)) is None:
        return "undecodable_image"
    for condition in spec.get("filter", []):
        if specs.CONDITIONS[condition["name"]][1]({"label": label}) is not True:
            return condition["name"]
    if label is None:
        return "no_label"
    if (split := _split(spec, path, key[0])) is None:
        return "no_split"
    options = spec["features"]["image"]
    pixels = resized(image, options["size"], options.get("crop", "none"))
    return Picture(path, split, label, pixels, key)


def read(spec: dict, root: Path, pattern: str) -> Folder:
    """Every file under the root that the pattern matches, dot-files apart, judged."""
    files = sorted(file for file in root.glob(pattern) if file.is_file())
    folder = Folder([], collections.Counter(), 0, [])
    for file in files:
        if file.name.startswith("."):
            continue
        folder.read += 1
        judged = _judge(spec, root, file)
        if isinstance(judged, str):
            folder.rejected[judged] += 1
        else:
            folder.records.append(judged)
    folder.classes = sorted({picture.label for picture in folder.records}, key=str.encode)
    return folder


def channel_statistics(pixels: np.ndarray, rescale: float) -> dict:
    """Exact mean and population std of x * rescale per channel of uint8 (n, height, width, c).

    Each x * rescale is a float64, as NumPy computes it; their sums are exact.
    """
    found = {"count": pixels[..., 0].size, "mean": [], "std": []}
    for channel in range(pixels.shape[-1]):
        times = np.bincount(pixels[..., channel].ravel(), minlength=256).tolist()
        counts = {v * rescale: n for v, n in enumerate(times) if n}
        one = moments.moments(counts)
        found["mean"].append(one["mean"])
        found["std"].append(one["std"])
    return found
