"""What `dataset_info.json` says: the only thing that the trainer knows about a dataset."""

import dataclasses
import io
import itertools
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

from trainer import object_stores
from trainer.errors import DatasetError, UsageError

FORMAT_VERSION = 1
FILE_NAME = "dataset_info.json"
LABEL, WEIGHT = "label", "weight"  # The names under which examples hold them.
ENCODED = ("jpeg", "png")  # Images as files, decoded when they are read.
MAX_PIXELS = 1 << 27  # 400 MB, as the job allows. A file of a few kB can claim more.

_STORED_AS = ("float_list", "int64_list", "bytes_list", "raw", "sparse", *ENCODED)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ENTRY = re.compile(r"(\d{1,18}):(\d{1,18})", re.ASCII)
_RAW_DTYPES = ("uint8", "float32", "bfloat16")
_LABEL_TYPES = ("class", "int64", "float32", "multi_label")


Statistic = tuple[Any, ...]  # Of floats, or of tuples of them.


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a split.

    Attributes:
      file: Its name in the dataset folder.
      num_examples: Its records.
      bytes: Its size.
      crc32c: Of the file, 8 hexadecimal digits.
      index: Where it can be entered, beside its beginning: (record, byte) pairs, ascending.
    """

    file: str
    num_examples: int
    bytes: int
    crc32c: str
    index: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Split:
    """One of `train`, `validation` and `test`.

    `class_counts` are those of the one label, `label_class_counts` those of several, by name.
    """

    name: str
    num_examples: int
    shards: tuple[Shard, ...]
    class_counts: Mapping[str, int]
    label_class_counts: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)

    def counts(self, label: str) -> Mapping[str, int]:
        """Returns how many examples each class of a label has, by the name in `targets`."""
        return self.label_class_counts.get(label, self.class_counts)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What is still to be done to stored values: (x * rescale - mean) / std.

    A mean or std of None is not applied; else they are a number a channel, or nested tuples of one
    for each value of an image. With `samplewise_center` the mean is each image's own, with
    `samplewise_std_normalization` so is the std.
    """

    rescale: float
    mean: Statistic | None
    std: Statistic | None
    samplewise_center: bool = False
    samplewise_std_normalization: bool = False

    @property
    def is_per_pixel(self) -> bool:
        """Whether each value of an image has a mean or a std of its own."""
        return any(isinstance(of, tuple) for of in (*(self.mean or ()), *(self.std or ())))


@dataclasses.dataclass(frozen=True)
class Feature:
    """One model input, as it is stored.

    `statistics` are those of the values that the last statistical step saw, `raw_statistics` those
    of the raw values; both are empty where the manifest has none. `transforms` are the names of the
    steps from the raw to the stored value. `kind` is "mask" or "boxes" for what goes with the image
    that `of` names, "classes" for those of the boxes that `of` names, and else None.
    `data_format` says where images have their channels. A side in `shape` of None: image files of
    different sizes. `tokenizer` names the ops of tensorflow-text that transform_fn has for it.
    With `is_ragged` records hold fewer values than `shape` says: 0 stands behind the last.
    """

    name: str
    dtype: str
    shape: tuple[Any, ...]  # Of whole numbers, or None.
    stored_as: str
    normalized: bool
    num_categories: int | None
    statistics: Mapping[str, Any]
    raw_statistics: Mapping[str, Any]
    normalization: Normalization | None
    transforms: tuple[str, ...] = ()
    kind: str | None = None
    of: str | None = None
    data_format: str = "channels_last"
    tokenizer: str | None = None
    is_ragged: bool = False

    @property
    def is_image(self) -> bool:
        """Whether one value is a (height, width, channels) array, or as `data_format` says."""
        is_array = self.stored_as == "raw" and len(self.shape) == 3
        return self.is_encoded or (is_array and self.kind is None)

    @property
    def is_encoded(self) -> bool:
        """Whether values are stored as image files."""
        return self.stored_as in ENCODED

    @property
    def image_shape(self) -> tuple[Any, ...]:
        """Height, width and channels of an image, however it is stored."""
        if self.data_format == "channels_first":
            return *self.shape[1:], self.shape[0]
        return self.shape


@dataclasses.dataclass(frozen=True)
class Label:
    """A target: `type` is `class` (an index into `classes`), `int64`, `float32` or `multi_label`.

    A multi_label has indices of any number of classes; `separator` stands between their names.
    `key` is the name under which examples hold it.
    """

    name: str
    dtype: str
    type: str
    classes: tuple[str, ...]
    statistics: Mapping[str, Any]
    separator: str = "|"
    key: str = LABEL

    @property
    def is_binary(self) -> bool:
        """Whether the manifest says of an int64 that it is 0 or 1."""
        low, high = (self.statistics.get(key) for key in ("min", "max"))
        if self.type != "int64" or low is None or high is None:
            return False
        return low >= 0 and high <= 1


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """A finished dataset folder.

    `spec_digest` is that of the spec whose statistics are in the records, which may be an earlier
    dataset's. `is_in_random_order` says whether records stand in the order of a hash, as `headrace
    run` writes them: neighbors then have nothing in common. `statistics_files` are those beside the
    manifest that hold what would make it too large. A dataset has one `label`, several `labels` by
    name, or none; `has_weight` says whether each example has a weight.
    """

    directory: str
    name: str
    spec_digest: str
    compression: str
    splits: Mapping[str, Split]
    features: Mapping[str, Feature]
    label: Label | None
    is_in_random_order: bool
    statistics_files: tuple[str, ...] = ()
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    has_weight: bool = False

    @property
    def targets(self) -> Mapping[str, Label]:
        """All labels, by name; one alone is called `label`."""
        return self.labels if self.label is None else {LABEL: self.label}

    @property
    def classes(self) -> Any:
        """The classes of the label, or of several by name: for JSON."""
        if self.labels:
            return {name: list(label.classes) for name, label in self.labels.items()}
        return list(self.label.classes) if self.label else []

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

    def require_targets(self) -> Mapping[str, Label]:
        """Returns all labels, by name.

        Raises:
          UsageError: The dataset has none.
        """
        if not self.targets:
            raise UsageError(
                f"{self.directory}: has no label to learn or to compare with. "
                "Add [label] to the spec and run `headrace run` again."
            )
        return self.targets

    def require_label(self) -> Label:
        """Returns the only label.

        Raises:
          UsageError: The dataset has none, or several.
        """
        targets = self.require_targets()
        if self.label is None:
            raise UsageError(
                f"{self.directory}: this is for one label, but it has {len(targets)}: "
                f"{', '.join(targets)}."
            )
        return self.label

    def cropped(self, crop: tuple[int, int] | None) -> "DatasetInfo":
        """Returns it as a model sees it for which boxes of this size are cut out of image files.

        Raises:
          UsageError: Images have different sizes, or no image is stored as a file; or no image
            could have this size.
        """
        encoded = {name: f for name, f in self.features.items() if f.is_encoded}
        if crop is None:
            for name, feature in encoded.items():
                if None in feature.shape:
                    raise UsageError(
                        f"{self.directory}: the images {name!r} have different sizes. Say what to "
                        "cut out of them: crop, height and width."
                    )
            return self
        if min(crop) < 1 or crop[0] * crop[1] > MAX_PIXELS:
            raise UsageError(
                f"the sides of crop must be at least 1, and at most {MAX_PIXELS} pixels together, "
                f"but are {crop[0]} and {crop[1]}."
            )
        if not encoded:
            raise UsageError(
                f"{self.directory}: crop is for images that are stored as files, but no feature "
                "is. Leave it out."
            )
        for name, feature in encoded.items():
            if feature.normalization and feature.normalization.is_per_pixel:
                raise UsageError(
                    f"{self.directory}: the images {name!r} are normalized with statistics of each "
                    "pixel, which a crop would move. Leave it out."
                )
        cut = {n: dataclasses.replace(f, shape=(*crop, f.shape[2])) for n, f in encoded.items()}
        return dataclasses.replace(self, features={**self.features, **cut})

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
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, UsageError | DatasetError):
            raise
        raise DatasetError(
            f"{path}: has not the form of a manifest ({type(error).__name__}: {error}). "
            "Run `headrace run` with --overwrite."
        ) from error


def _statistics_files(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    for feature in manifest["features"].values():
        for part in ("normalization", "statistics"):
            values = (feature.get(part) or {}).values()
            found += [value["file"] for value in values if isinstance(value, dict)]
    return tuple(sorted({name for name in found if _FILE.fullmatch(name)}))


def _bytes(directory: str, name: str) -> bytes:
    path = os.path.join(directory, name)
    try:
        if object_stores.is_remote(directory):
            return object_stores.read(path)
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, tf.errors.NotFoundError) as error:
        raise DatasetError(f"{path}: is missing. Run `headrace run` with --overwrite.") from error
    except tf.errors.OpError as error:
        raise DatasetError(f"{path}: cannot be read: {str(error.message).strip()}.") from error


def _text(directory: str, path: str) -> str:
    """Returns the text of the manifest."""
    if object_stores.is_remote(directory):
        try:
            return object_stores.read(path).decode()
        except FileNotFoundError as error:
            raise _unfinished(directory) from error
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            return file.read()
    except tf.errors.OpError as error:
        if not tf.io.gfile.exists(directory):
            raise UsageError(f"{directory}: there is no such folder.") from error
        if not tf.io.gfile.isdir(directory):
            raise UsageError(f"{directory}: must be a dataset folder, but is a file.") from error
        raise _unfinished(directory) from error


def _unfinished(directory: str) -> UsageError:
    return UsageError(
        f"{directory}: is not a finished dataset: {FILE_NAME} is written last; "
        "run `headrace run` again."
    )


def _parse(directory: str, manifest: dict[str, Any]) -> DatasetInfo:
    if manifest["compression"] not in ("none", "gzip"):
        raise DatasetError(
            f"{directory}: compression must be none or gzip, but is {manifest['compression']!r}."
        )
    features = {
        name: _feature(directory, name, feature, _transforms(manifest, name))
        for name, feature in manifest["features"].items()
    }
    for feature in features.values():
        if not _is_sound(feature, features):
            raise DatasetError(
                f"{directory}: feature {feature.name!r} has kind {feature.kind!r}, of "
                f"{feature.of!r}, data_format {feature.data_format!r} and shape {feature.shape}, "
                "which makes no sense. Run `headrace run` with --overwrite."
            )
    return DatasetInfo(
        directory=directory,
        name=manifest["name"],
        spec_digest=manifest.get("transform_from", manifest)["spec_digest"],
        compression=manifest["compression"],
        splits={name: _split(directory, name, s) for name, s in manifest["splits"].items()},
        features=features,
        label=_label(directory, manifest["label"]) if manifest.get("label") else None,
        is_in_random_order="hash" in manifest,
        statistics_files=_statistics_files(manifest),
        labels={
            name: dataclasses.replace(_label(directory, said), key=f"{LABEL}/{name}")
            for name, said in manifest.get("labels", {}).items()
        },
        has_weight="weight" in manifest,
    )


def _split(directory: str, name: str, split: dict[str, Any]) -> Split:
    shards = tuple(_shard(directory, shard) for shard in split["shards"])
    total = sum(shard.num_examples for shard in shards)
    if total != split["num_examples"]:
        raise DatasetError(
            f"{directory}: the shards of split {name!r} hold {total} examples, but the split "
            f"{split['num_examples']}; the manifest contradicts itself. "
            "Run `headrace run` with --overwrite."
        )
    counts = split.get("class_counts", {}), split.get("label_class_counts", {})
    return Split(name, total, shards, *counts)


def _shard(directory: str, shard: dict[str, Any]) -> Shard:
    file, sizes = shard["file"], (shard["num_examples"], shard["bytes"])
    if not _FILE.fullmatch(file):  # It may be written to a cache: never outside of it.
        raise DatasetError(f"{directory}: a shard must be a plain file name, but is {file!r}.")
    if not all(isinstance(size, int) and 0 <= size < 1 << 62 for size in sizes):
        raise DatasetError(f"{directory}: {file} has {sizes[0]!r} examples in {sizes[1]!r} bytes.")
    index = tuple(_entry(entry) for entry in shard.get("index", "").split())
    starts = [(0, 0), *index, (shard["num_examples"], shard["bytes"])]
    if index and not all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(starts)):
        raise DatasetError(
            f"{directory}: the index of {shard['file']} must rise within the shard, but does not. "
            "Run `headrace run` with --overwrite."
        )
    return Shard(shard["file"], shard["num_examples"], shard["bytes"], shard["crc32c"], index)


def _entry(text: str) -> tuple[int, int]:
    match = _ENTRY.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else (0, 0)  # Which does not rise.


def _transforms(manifest: dict[str, Any], name: str) -> tuple[str, ...]:
    """Returns the steps that the spec names for a feature, one or a list."""
    named = manifest.get("spec", {}).get("features", {}).get(name, {}).get("transform") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _feature(
    directory: str, name: str, feature: dict[str, Any], transforms: tuple[str, ...]
) -> Feature:
    stored_as, dtype = feature["stored_as"], feature["dtype"]
    is_readable = stored_as in _STORED_AS
    if stored_as == "raw":
        is_readable = dtype in _RAW_DTYPES
    elif stored_as == "sparse":
        is_readable = dtype == "float32" and len(feature["shape"]) == 1
    elif stored_as in ENCODED:
        is_readable = dtype == "uint8" and len(feature["shape"]) == 3
    is_ragged = feature.get("longest") is not None and stored_as in ("float_list", "int64_list")
    sides = [max(1, feature["longest"])] if is_ragged else [*feature["shape"]]
    if stored_as in ENCODED and sides[:2] == [None, None]:
        sides[:2] = 0, 0
    is_shape = all(type(side) is int and side >= 0 for side in sides)
    if not is_shape or max(sides, default=0) >= 1 << 31 or math.prod(sides) >= 1 << 31:
        raise DatasetError(f"{directory}: feature {name!r} has the shape {feature['shape']!r}.")
    if not is_readable:
        raise DatasetError(
            f"{directory}: feature {name!r} is {dtype} stored as {stored_as!r}, which this version "
            "of the trainer cannot read."
        )
    found = Feature(
        name=name,
        dtype=dtype,
        shape=tuple(sides if is_ragged else feature["shape"]),
        stored_as=stored_as,
        normalized=feature["normalized"],
        num_categories=feature.get("num_categories"),
        statistics=feature.get("statistics") or {},
        raw_statistics=feature.get("raw_statistics") or {},
        normalization=None,
        transforms=transforms,
        kind=feature.get("kind"),
        of=feature.get("of"),
        data_format=feature.get("data_format", "channels_last"),
        tokenizer=feature.get("tokenizer"),
        is_ragged=is_ragged,
    )
    normalization = _normalization(directory, found, feature.get("normalization"))
    return dataclasses.replace(found, normalization=normalization)


def _is_sound(feature: Feature, features: Mapping[str, Feature]) -> bool:
    """Whether a feature is an image, a mask, boxes or classes as it says, if it is any of these."""
    if feature.data_format not in ("channels_first", "channels_last"):
        return False
    if feature.kind is None:
        return feature.of is None and (not feature.is_encoded or feature.shape[2] in (1, 3, 4))
    leader = features.get(feature.of or "")
    if leader is None:
        return False
    if feature.kind == "classes":
        is_named = feature.name == f"{leader.name}_class" and leader.kind == "boxes"
        return is_named and (feature.stored_as, feature.shape) == ("int64_list", leader.shape[:1])
    if feature.kind == "boxes":
        is_list = feature.stored_as == "float_list" and len(feature.shape) == 2
        return leader.is_image and is_list and feature.shape[1] == 4
    is_array = feature.stored_as == "raw" and len(feature.shape) == 3
    is_alike = leader.is_image and feature.image_shape[:2] == leader.image_shape[:2]
    return feature.kind == "mask" and is_array and is_alike


def _normalization(
    directory: str, feature: Feature, said: dict[str, Any] | None
) -> Normalization | None:
    if not said:
        return None
    return Normalization(
        rescale=said.get("rescale", 1.0),
        mean=_statistic(directory, feature, said.get("mean")),
        std=_statistic(directory, feature, said.get("std")),
        samplewise_center=said.get("samplewise_center", False),
        samplewise_std_normalization=said.get("samplewise_std_normalization", False),
    )


def _statistic(directory: str, feature: Feature, said: Any) -> Statistic | None:
    """Returns numbers that stand in the manifest, or in a file beside it."""
    if said is None:
        return None
    try:
        values = _beside(directory, said) if isinstance(said, dict) else np.array(said)
        is_sound = values.dtype.kind in "fi" and bool(np.isfinite(values).all())
    except (ValueError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        is_sound = False
    if not is_sound or values.shape not in (feature.image_shape[2:], feature.image_shape):
        raise DatasetError(
            f"{directory}: the mean and the std of feature {feature.name!r} must be finite numbers "
            "of its channels or values, but are not. Run `headrace run` with --overwrite."
        )
    return _tuples(values.tolist())


def _beside(directory: str, said: dict[str, Any]) -> np.ndarray:
    """Returns the array of a file beside the manifest; np.load would trust the size it claims.

    Raises:
      DatasetError: There is no such file, or it is another one.
      ValueError: It holds no array of float64.
    """
    name = said["file"]
    if not _FILE.fullmatch(name):
        raise DatasetError(f"{directory}: statistics must be in a plain file, but are in {name!r}.")
    data = _bytes(directory, name)
    crc = f"{google_crc32c.value(data):08x}"
    if crc != said["crc32c"]:
        raise DatasetError(
            f"{os.path.join(directory, name)}: crc32c must be {said['crc32c']}, but is {crc}. Run "
            "`headrace run` with --overwrite."
        )
    file = io.BytesIO(data)
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if is_fortran or dtype != np.float64:
        raise ValueError(f"{dtype}, but must be float64 in C order")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


def _tuples(values: Any) -> Any:
    return tuple(map(_tuples, values)) if isinstance(values, list) else values


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
        separator=label.get("separator", "|"),
    )
