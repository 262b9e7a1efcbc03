"""Stored images against Pillow's, and their statistics against exact sums."""

import collections
from pathlib import Path

import numpy as np

from oracle import compare, images, records
from oracle.expected import Expected


def stored(folder: Path, manifest: dict, expected: Expected) -> tuple[np.ndarray, list[str]]:
    """Every image as it is stored, in the order of expected.records, and what differs on the way.

    Returns:
      The values (num_records, height, width, channels) in the manifest's dtype, and a line for
      every shard whose labels or number of examples are not those of its records.
    """
    image = manifest["features"]["image"]
    dtype = np.dtype(image["dtype"]).newbyteorder("<")
    found = np.zeros((len(expected.records), *image["shape"]), dtype)
    differences = []
    for file, rows in compare.placed(manifest, expected):
        columns = records.parsed(folder / file, {"image": "string", "label": "int64"})
        if columns["label"].tolist() != expected.label.values[rows].tolist():
            differences.append(f"{file}: labels {columns['label']}")
            continue
        for row, data in zip(rows, columns["image"], strict=True):
            found[row] = np.frombuffer(data, dtype).reshape(image["shape"])
        raw = records.frames(records.stream(folder / file))
        kinds = {"image": "bytes_list", "label": "int64_list"}
        if any(records.names(record) != kinds for record in raw):
            differences.append(f"{file}: an example has other features than {kinds}")
    return found, differences


def reference(expected: Expected) -> np.ndarray:
    """Pillow's pixels: uint8 (num_records, height, width, channels)."""
    return np.stack([record.pixels for record in expected.records])


def statistics(manifest: dict, expected: Expected, pixels: np.ndarray) -> list[str]:
    """The image's statistics in the manifest against exact ones of these train pixels."""
    rescale = float(expected.spec["features"]["image"].get("rescale", 1))
    wanted = images.channel_statistics(pixels[expected.in_train()], rescale)
    found = manifest["features"]["image"]["statistics"]
    return [
        f"image.statistics.{name}: {found.get(name)!r}, not {value!r}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]


def set_aside(folder: Path) -> dict[str, int]:
    """Reason -> number of lines under rejected/."""
    return dict(collections.Counter(line["reason"] for line in compare.set_aside(folder)))
