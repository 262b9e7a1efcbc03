"""What `dataset_info.json` says: the only thing that the trainer knows about a dataset."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.errors import DatasetError, UsageError

FORMAT_VERSION = 1
FILE_NAME = "dataset_info.json"
LABEL = "label"  # The name under which examples hold the label.

_STORED_AS = ("float_list", "int64_list", "bytes_list", "raw")
_RAW_DTYPES = ("uint8", "float32")
_LABEL_TYPES = ("class", "int64", "float32")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a split."""

    file: str
    num_examples: int
    bytes: int
    crc32c: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One of `train`, `validation` and `test`."""

    name: str
    num_examples: int
    shards: tuple[Shard, ...]
    class_counts: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What is still to be done to stored values: (x * rescale - mean) / std, per channel.

    A mean or std of None is not applied.
    """

    rescale: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class Feature:
    """One model input, as it is stored.

    `statistics` are those of the values that the last statistical step saw, `raw_statistics` those
    of the raw values; both are empty where the manifest has none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored_as: str
    normalized: bool
    num_categories: int | None
    statistics: Mapping[str, Any]
    raw_statistics: Mapping[str, Any]
    normalization: Normalization | None

    @property
    def is_image(self) -> bool:
        """Whether one value is a (height, width, channels) array."""
        return self.stored_as == "raw" and len(self.shape) == 3


@dataclasses.dataclass(frozen=True)
class Label:
    """The target: `type` is `class` (an index into `classes`), `int64` or `float32`."""

    name: str
    dtype: str
    type: str
    classes: tuple[str, ...]
    statistics: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """A finished dataset folder."""

    directory: str
    name: str
    spec_digest: str
    compression: str
    splits: Mapping[str, Split]
    features: Mapping[str, Feature]
    label: Label | None

    def split(self, name: str) -> Split:
        """Returns the split of that name.

        Raises:
          UsageError: The dataset has no such split; names those that it has.
        """
        if name not in self.splits:
            raise UsageError(
                f"{self.directory}: there is no split {name!r}; the splits are "
                f"{', '.join(self.splits)}."
            )
        return self.splits[name]

    def require_label(self) -> Label:
        """Returns the label.

        Raises:
          UsageError: The dataset has none.
        """
        if self.label is None:
            raise UsageError(
                f"{self.directory}: has no label to learn or to compare with. "
                "Add [label] to the spec and run `headrace run` again."
            )
        return self.label

    def path(self, shard: Shard) -> str:
        """Returns the path or URL of a shard."""
        return os.path.join(self.directory, shard.file)


def read(directory: str | os.PathLike) -> DatasetInfo:
    """Reads the manifest of a finished dataset.

    Args:
      directory: The dataset folder: a path, or a URL that TensorFlow can read.

    Raises:
      UsageError: There is no such folder, or it holds no finished dataset.
      DatasetError: The dataset is damaged, or one that this version cannot read.
    """
    directory = os.fspath(directory)
    path = os.path.join(directory, FILE_NAME)
    try:
        manifest = json.loads(_text(directory, path))
    except ValueError as error:
        if isinstance(error, UsageError | DatasetError):
            raise
        raise DatasetError(
            f"{path}: is not JSON ({error}). Run `headrace run` with --overwrite."
        ) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{path}: format_version must be {FORMAT_VERSION}, but is {version!r}. "
            "Use the version of headrace that wrote the dataset, or write it again."
        )
    try:
        return _parse(directory, manifest)
    except (AttributeError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: has not the form of a manifest ({type(error).__name__}: {error}). "
            "Run `headrace run` with --overwrite."
        ) from error


def _text(directory: str, path: str) -> str:
    """Returns the text of the manifest."""
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            return file.read()
    except tf.errors.OpError as error:
        if not tf.io.gfile.exists(directory):
            raise UsageError(f"{directory}: there is no such folder.") from error
        if not tf.io.gfile.isdir(directory):
            raise UsageError(f"{directory}: must be a dataset folder, but is a file.") from error
        raise UsageError(
            f"{directory}: is not a finished dataset: {FILE_NAME} is written last; "
            "run `headrace run` again."
        ) from error


def _parse(directory: str, manifest: dict[str, Any]) -> DatasetInfo:
    if manifest["compression"] not in ("none", "gzip"):
        raise DatasetError(
            f"{directory}: compression must be none or gzip, but is {manifest['compression']!r}."
        )
    return DatasetInfo(
        directory=directory,
        name=manifest["name"],
        spec_digest=manifest["spec_digest"],
        compression=manifest["compression"],
        splits={name: _split(directory, name, s) for name, s in manifest["splits"].items()},
        features={name: _feature(directory, name, f) for name, f in manifest["features"].items()},
        label=_label(directory, manifest["label"]) if manifest.get("label") else None,
    )


def _split(directory: str, name: str, split: dict[str, Any]) -> Split:
    shards = tuple(
        Shard(s["file"], s["num_examples"], s["bytes"], s["crc32c"]) for s in split["shards"]
    )
    total = sum(shard.num_examples for shard in shards)
    if total != split["num_examples"]:
        raise DatasetError(
            f"{directory}: the shards of split {name!r} hold {total} examples, but the split "
            f"{split['num_examples']}; the manifest contradicts itself. "
            "Run `headrace run` with --overwrite."
        )
    return Split(name, total, shards, split.get("class_counts", {}))


def _feature(directory: str, name: str, feature: dict[str, Any]) -> Feature:
    stored_as, dtype = feature["stored_as"], feature["dtype"]
    if stored_as not in _STORED_AS or (stored_as == "raw" and dtype not in _RAW_DTYPES):
        raise DatasetError(
            f"{directory}: feature {name!r} is {dtype} stored as {stored_as!r}, which this version "
            "of the trainer cannot read."
        )
    return Feature(
        name=name,
        dtype=dtype,
        shape=tuple(feature["shape"]),
        stored_as=stored_as,
        normalized=feature["normalized"],
        num_categories=feature.get("num_categories"),
        statistics=feature.get("statistics") or {},
        raw_statistics=feature.get("raw_statistics") or {},
        normalization=_normalization(feature.get("normalization")),
    )


def _normalization(normalization: dict[str, Any] | None) -> Normalization | None:
    if not normalization:
        return None
    mean, std = (normalization.get(key) for key in ("mean", "std"))
    return Normalization(
        rescale=normalization.get("rescale", 1.0),
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
    )


def _label(directory: str, label: dict[str, Any]) -> Label:
    if label["type"] not in _LABEL_TYPES:
        raise DatasetError(
            f"{directory}: the label's type must be one of {', '.join(_LABEL_TYPES)}, "
            f"but is {label['type']!r}."
        )
    return Label(
        name=label["name"],
        dtype=label["dtype"],
        type=label["type"],
        classes=tuple(label.get("classes", ())),
        statistics=label.get("statistics") or {},
    )
