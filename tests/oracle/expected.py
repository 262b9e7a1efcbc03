"""What one run must write: every record with its place, every value, every count."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oracle import features, hashing, images, specs, table
from oracle.features import Feature


@dataclasses.dataclass
class Expected:
    """The records of a run in any order, their features as columns, and the counts."""

    spec: dict
    read: int
    rejected: collections.Counter
    records: Sequence  # table.Record or images.Picture: text or path, split, label, hash
    features: dict[str, Feature]  # Without the label.
    label: Feature
    classes: list[str] | None

    def shards(self, split: str, num_shards: int) -> list[list[int]]:
        """The records (indices) of every shard of a split, in order."""
        members = [i for i, record in enumerate(self.records) if record.split == split]
        return hashing.shards([record.hash for record in self.records], members, num_shards)

    def splits(self) -> list[str]:
        """The splits that the spec names, in their order."""
        split = self.spec["split"]
        if split.get("directory"):
            named = {record.split for record in self.records} | set(split.get("carve", {}))
        else:
            named = set(split.get("fractions", split.get("values", {})))
        return [name for name in hashing.SPLITS if name in named]

    def class_counts(self, split: str) -> dict[str, int]:
        """Class name -> number of records of the split, classes without any left out."""
        return dict(collections.Counter(r.label for r in self.records if r.split == split))

    def in_train(self) -> np.ndarray:
        return np.array([record.split == "train" for record in self.records])


def _labels(spec: dict, records: Sequence) -> tuple[Feature, list[str] | None]:
    labels = [record.label for record in records]
    if spec["label"]["type"] != "class":
        return Feature(np.array(labels, np.int64), "int64"), None
    classes = sorted(set(labels), key=str.encode)
    index = {name: i for i, name in enumerate(classes)}
    return Feature(np.array([index[label] for label in labels], np.int64), "int64"), classes


def of_table(text: str, files: Sequence[Path]) -> Expected:
    """What a run over CSV files must write."""
    spec = specs.parse(text)
    found = table.read(spec, files)
    label, classes = _labels(spec, found.records)
    columns = features.compute(spec, found)
    return Expected(spec, found.read, found.rejected, found.records, columns, label, classes)


def of_images(text: str, root: Path, pattern: str) -> Expected:
    """What a run over image files must write; the pixels stay with the records."""
    spec = specs.parse(text)
    found = images.read(spec, root, pattern)
    label, classes = _labels(spec, found.records)
    return Expected(spec, found.read, found.rejected, found.records, {}, label, classes)
