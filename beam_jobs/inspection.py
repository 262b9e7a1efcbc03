"""Records back as text and pictures, without TensorFlow: an answer in a second.

Nothing here trusts the dataset: names and texts are escaped, lengths checked before they count.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from PIL import Image

from beam_jobs import object_stores
from beam_jobs.errors import DataError, SpecError
from beam_jobs.shards import ShardInfo, read_records

MANIFEST = "dataset_info.json"
LABEL, WEIGHT = "label", "weight"  # The names under which records hold them.
FORMAT_VERSION = 1
RUN_AGAIN = "Run `headrace run` with --overwrite."
# The bits of a class, from the lowest, are the highest ones of red, green, blue, red and so on.
_PALETTE = [
    sum(((index >> (3 * bit + color)) & 1) << (7 - bit) for bit in range(3))
    for index in range(256)
    for color in range(3)
]
_RAW_BYTES = {"uint8": 1, "bfloat16": 2, "float32": 4}
_MAX_TEXT = 200  # Characters of one value that are shown.

Count = Annotated[int, pydantic.Field(ge=0)]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore")


class ArrayFile(_Model):
    """A file beside the manifest that holds statistics, as np.save writes them."""

    file: str
    shape: tuple[Count, ...]
    crc32c: str


class Vocabulary(_Model):
    """What the file of a text's vocabulary says."""

    vocabulary: list[str]
    idf_weights: list[float] | None = None


Statistics = dict[str, ArrayFile | list[Any] | float | bool | str | None]


class Feature(_Model):
    """How one feature stands in every record."""

    dtype: str
    shape: tuple[Count | None, ...]
    stored_as: Literal["float_list", "int64_list", "bytes_list", "raw", "sparse", "jpeg", "png"]
    data_format: Literal["channels_last", "channels_first"] = "channels_last"
    normalized: bool = False
    num_categories: Count | None = None
    kind: str | None = None  # "mask", "boxes" or "classes" of what says something of an image.
    longest: Count | None = None  # Each record has as many values as it likes, up to so many.
    is_weight: bool = False  # None of its values is below 0.
    statistics: Statistics = {}
    normalization: Statistics = {}
    vocabulary_file: str | None = None

    @pydantic.model_validator(mode="after")
    def _raw_has_a_known_dtype(self) -> Feature:
        if self.stored_as == "raw" and self.dtype not in _RAW_BYTES:
            raise ValueError("dtype must be uint8, bfloat16 or float32 where stored_as is raw")
        if self.is_encoded and (self.dtype, len(self.shape)) != ("uint8", 3):
            raise ValueError("an image file must be uint8, and its shape have 3 sides")
        if None in self.shape and not self.is_encoded and not self.is_ragged:
            raise ValueError("shape must be whole numbers but for image files")
        return self

    @pydantic.model_validator(mode="after")
    def _sparse_has_one_axis(self) -> Feature:
        if self.stored_as == "sparse" and (self.dtype != "float32" or len(self.shape) != 1):
            raise ValueError("dtype must be float32, and shape (n,), where stored_as is sparse")
        return self

    @property
    def array_files(self) -> list[ArrayFile]:
        """The files that hold its statistics."""
        said = (*self.statistics.values(), *self.normalization.values())
        return list(dict.fromkeys(value for value in said if isinstance(value, ArrayFile)))

    @property
    def is_ragged(self) -> bool:
        """Whether a record has a list of any length."""
        return self.longest is not None

    @property
    def num_values(self) -> int:
        """Number of scalars in one record; of an image file 1."""
        return 1 if self.is_encoded else math.prod(side or 0 for side in self.shape)

    @property
    def is_encoded(self) -> bool:
        """Whether it is an image file."""
        return self.stored_as in ("jpeg", "png")

    @property
    def is_bytes(self) -> bool:
        """Whether it is one value of bytes: a file, or an array."""
        return self.stored_as == "raw" or self.is_encoded

    @property
    def raw_bytes(self) -> int:
        """How many bytes an array has that is stored as raw bytes."""
        return self.num_values * _RAW_BYTES[self.dtype]

    def raw_values(self, data: bytes) -> np.ndarray:
        """Returns the values that raw bytes hold, one or many records: bfloat16 as float32."""
        if self.dtype == "bfloat16":  # The upper half of a float32.
            return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        return np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<"))


class Label(_Model):
    """What the records are labeled with."""

    type: Literal["class", "int64", "float32", "multi_label"]
    classes: tuple[str, ...] | None = None
    class_weights: tuple[float, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _classes_have_names(self) -> Label:
        if (self.type in ("class", "multi_label")) != (self.classes is not None):
            raise ValueError(
                "classes must stand where type is class or multi_label, and only there"
            )
        return self

    @property
    def stored(self) -> Feature:
        """How it stands in every record."""
        is_float = self.type == "float32"
        return Feature(
            dtype="float32" if is_float else "int64",
            shape=(),
            stored_as="float_list" if is_float else "int64_list",
            num_categories=None if self.classes is None else len(self.classes),
            longest=len(self.classes or ()) if self.type == "multi_label" else None,
        )


class Split(_Model):
    """The records of one split."""

    num_examples: Count
    class_counts: dict[str, Count] | None = None
    label_class_counts: dict[str, dict[str, Count]] = {}
    shards: tuple[ShardInfo, ...]


class Manifest(_Model):
    """The part of `dataset_info.json` that says what the shards hold."""

    name: str
    read: Count
    rejected: dict[str, Count]
    compression: Literal["gzip", "none"]
    splits: dict[Literal["train", "validation", "test"], Split]
    features: dict[str, Feature]
    label: Label | None = None
    labels: dict[str, Label] = {}
    weight: dict[str, Any] | None = None
    transform_from: dict[str, Any] | None = None

    @property
    def stored_labels(self) -> dict[str, Label]:
        """Its labels, by the name under which records hold them."""
        one = {} if self.label is None else {LABEL: self.label}
        return one | {f"{LABEL}/{name}": label for name, label in self.labels.items()}

    def class_counts(self, split: str) -> dict[str, dict[str, Count]]:
        """Returns what is said of a split's classes, by label as `stored_labels`."""
        said = self.splits[split]  # type: ignore[index]
        one = {} if said.class_counts is None else {LABEL: said.class_counts}
        return one | {f"{LABEL}/{name}": counts for name, counts in said.label_class_counts.items()}

    def stored_features(self) -> dict[str, Feature]:
        """Returns the features of a record, labels and weight among them, by name in sorted order.

        A sparse one is two: its indices and its values.
        """
        stored: dict[str, Feature] = {}
        for name, feature in self.features.items():
            stored |= _parts(name, feature) if feature.stored_as == "sparse" else {name: feature}
        stored |= {name: label.stored for name, label in self.stored_labels.items()}
        if self.weight is not None:
            stored[WEIGHT] = Feature(
                dtype="float32", shape=(), stored_as="float_list", is_weight=True
            )
        if self.transform_from is not None:  # Another dataset's lists are the longest that fit.
            stored = {name: _without_longest(feature) for name, feature in stored.items()}
        return dict(sorted(stored.items()))


def _without_longest(feature: Feature) -> Feature:
    is_list = feature.is_ragged and feature.shape == (None,)
    return feature.model_copy(update={"longest": 2**31}) if is_list else feature


def _parts(name: str, sparse: Feature) -> dict[str, Feature]:
    indices: dict[str, Any] = {
        "dtype": "int64",
        "stored_as": "int64_list",
        "num_categories": sparse.shape[0],
    }
    values: dict[str, Any] = {"dtype": "float32", "stored_as": "float_list"}
    return {
        f"{name}/{part}": Feature(**said, shape=(), longest=sparse.shape[0])
        for part, said in (("indices", indices), ("values", values))
    }


def read_manifest(directory: str) -> Manifest:
    """Returns the manifest of a dataset folder, on any file system that Beam knows.

    Raises:
      SpecError: There is no finished dataset.
      DataError: The manifest is damaged, or of another format version.
    """
    object_stores.check(directory)
    path = FileSystems.join(directory, MANIFEST)
    try:
        is_there = FileSystems.exists(path)
    except object_stores.ERRORS as error:
        what = object_stores.fault(error)
        raise SpecError(f"{printable(path)}: cannot be read: {what}. Check your access.") from error
    if not is_there:
        raise SpecError(
            f"{printable(directory)}: is no dataset: it holds no {MANIFEST}, which comes last. "
            "Name the --output of a `headrace run` that has finished."
        )
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            text = file.read()
        version = json.loads(text).get("format_version")
        if version == FORMAT_VERSION:
            return Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise DataError(f"{printable(path)}: {_first_error(error)}. {RUN_AGAIN}") from error
    except (*object_stores.ERRORS, ValueError, AttributeError, RecursionError) as error:
        what = object_stores.fault(error)
        raise DataError(f"{printable(path)}: is not readable: {what}. {RUN_AGAIN}") from error
    raise DataError(
        f"{printable(path)}: format_version must be {FORMAT_VERSION}, but is {version!r}. "
        "Read the dataset with the headrace that wrote it."
    )


def _first_error(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = printable(".".join(map(str, first["loc"])))
    if first["type"] == "missing":
        return f"{where}: must be there, but is missing"
    rule = first["msg"].removeprefix("Value error, ")
    return f"{where}: {rule}, but is {printable(repr(first['input']))[:80]}"


class Values(NamedTuple):
    """One feature of a record."""

    kind: str  # "float_list", "int64_list", "bytes_list", or "" where the record names no list.
    values: list[Any]


def decode_example(data: bytes) -> dict[str, Values]:
    """Decodes a serialized `tf.train.Example` without TensorFlow or protobuf.

    Later parts win over earlier ones or extend them as in protobuf, so that Examples may have been
    concatenated. float32 values come as Python floats.

    Raises:
      DataError: data is no Example.
    """
    return {name: _decode_feature(feature) for name, feature in feature_entries(data)}


def feature_entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields name and serialized `tf.train.Feature` of each entry; a name may come repeatedly.

    Raises:
      DataError: data is no Example.
    """
    for _, features in _fields(data, {1: 2}):
        for _, entry in _fields(features, {1: 2}):
            parts = list(_fields(entry, {1: 2, 2: 2}))
            name = ([b""] + [value for field, value in parts if field == 1])[-1]
            # The parts of a message merge by concatenation.
            feature = b"".join(value for field, value in parts if field == 2)
            try:
                yield name.decode(), feature
            except UnicodeDecodeError:
                raise DataError(f"is no tf.train.Example: a feature is called {name!r}") from None


def _decode_feature(data: bytes) -> Values:
    """Decodes a `tf.train.Feature`: the last kind of list that it names, all its parts."""
    kind = ""
    values: list[Any] = []
    for field, part in _fields(data, {1: 2, 2: 2, 3: 2}):
        found = ("bytes_list", "float_list", "int64_list")[field - 1]
        kind, values = found, values if found == kind else []
        values += _LIST_DECODERS[kind](part)
    return Values(kind, values)


def _decode_bytes(data: bytes) -> list[bytes]:
    return [value for _, value in _fields(data, {1: 2})]


def _decode_floats(data: bytes) -> list[float]:
    values: list[float] = []
    for _, part in _fields(data, {1: (2, 5)}):
        if len(part) % 4:
            raise DataError(f"is no tf.train.Example: a float_list of {len(part)} bytes")
        values += np.frombuffer(part, "<f4").tolist()
    return values


def _decode_ints(data: bytes) -> list[int]:
    values: list[int] = []
    for _, part in _fields(data, {1: (2, 0)}):
        position = 0
        while position < len(part):
            value, position = _varint(part, position)
            values.append(value - (1 << 64) if value >> 63 else value)
    return values


_LIST_DECODERS: dict[str, Any] = {
    "bytes_list": _decode_bytes,
    "float_list": _decode_floats,
    "int64_list": _decode_ints,
}


def _fields(data: bytes, wanted: dict[int, int | tuple[int, ...]]) -> Iterator[tuple[int, bytes]]:
    """Yields number and bytes of the message's fields that are wanted with this wire type."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, wire_type = tag >> 3, tag & 7
        if not 0 < field < 1 << 29 or wire_type not in (0, 1, 2, 5):
            raise DataError(f"is no tf.train.Example: tag {tag} before byte {position}")
        if wire_type == 0:
            end = _varint(data, position)[1]
        elif wire_type == 2:
            size, position = _varint(data, position)
            end = position + size
        else:
            end = position + (8 if wire_type == 1 else 4)
        if end > len(data):
            raise DataError(f"is no tf.train.Example: a field ends at byte {end} of {len(data)}")
        expected = wanted.get(field, ())
        if wire_type == expected or (isinstance(expected, tuple) and wire_type in expected):
            yield field, data[position:end]
        position = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns the unsigned 64-bit number at the position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise DataError("is no tf.train.Example: it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise DataError(f"is no tf.train.Example: a number is too long before byte {position}")


def printable(text: str) -> str:
    """Returns text for a terminal: control characters and the like as escapes, one line."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.encode("utf-8", "backslashreplace").decode()
    )


def inspect(
    directory: str, split: str = "train", count: int = 5, output: str = "inspect"
) -> Iterator[str]:
    """Yields the first records of a split as text, and writes their images as PNG files.

    Args:
      directory: The dataset folder.
      split: "train", "validation" or "test".
      count: Number of records.
      output: Local folder for the images; made when the first one comes.

    Yields:
      One block of lines per record, or one line where the split has no records.

    Raises:
      SpecError: There is no finished dataset, no such split, or count is not positive.
      DataError: The dataset is damaged.
    """
    if count < 1:
        raise SpecError(f"-n must be at least 1, but is {count}.")
    manifest = read_manifest(directory)
    if split not in manifest.splits:
        raise SpecError(
            f"--split must be one of {', '.join(manifest.splits)}, but is {printable(split)!r}."
        )
    records = itertools.islice(_records(directory, manifest, split), count)
    record = -1
    for record, (where, data) in enumerate(records):
        try:
            lines = _lines(decode_example(data), manifest, f"{split}-{record:05d}", output)
        except DataError as error:
            raise DataError(f"{where}: {error}. Run `headrace verify` on its folder.") from error
        yield "\n".join([f"{split} record {record} ({where})", *lines])
    if record < 0:
        yield f"{split} has no records."


def _records(directory: str, manifest: Manifest, split: str) -> Iterator[tuple[str, bytes]]:
    """Yields where a record is and its data."""
    for shard in manifest.splits[split].shards:  # type: ignore[index]
        if os.path.basename(shard.file) != shard.file:
            raise DataError(f"{MANIFEST}: a shard is called {shard.file!r}: no name of a file.")
        path = FileSystems.join(directory, shard.file)
        for position, data in enumerate(read_records(path, manifest.compression)):
            yield f"{printable(shard.file)}, record {position}", data


def _lines(example: dict[str, Values], manifest: Manifest, stem: str, output: str) -> list[str]:
    """Returns one aligned line per feature, the label last, and writes the images."""
    stored = manifest.stored_features()
    beside = [*manifest.stored_labels, *([WEIGHT] if manifest.weight is not None else [])]
    names = [*(name for name in stored if name not in beside), *beside]
    classes = {
        name: _class_names(example.get(name), of) for name, of in manifest.stored_labels.items()
    }
    label = ", ".join(classes.get(LABEL) or ()) or None
    images = [name for name in names if _is_image(stored[name])]
    shown = {}
    for name in names:
        if name not in example:
            shown[name] = "(missing)"
        elif classes.get(name):
            indices = " ".join(map(str, example[name].values))
            shown[name] = f"{indices} ({_shortened(', '.join(classes[name] or ()))})"
        elif stored[name].is_bytes:
            parts = [stem]
            if name in images and len(images) > 1:  # Each file says which feature it shows.
                parts += [str(images.index(name)), _file_part(name)]
            parts += [] if label is None else [_file_part(label)]
            suffix = ".jpg" if stored[name].stored_as == "jpeg" else ".png"
            path = os.path.join(output, "-".join(parts) + suffix)
            shown[name] = _bytes_text(name, example[name], stored[name], path)
        else:
            shown[name] = _list_text(example[name], stored[name])
    shown |= {name: "(not in the manifest)" for name in sorted(set(example) - set(stored))}
    width = max(map(len, map(printable, shown)), default=0)
    return [f"  {printable(name):{width}}  {text}" for name, text in shown.items()]


def _class_names(found: Values | None, label: Label) -> list[str] | None:
    """Returns the names of a record's classes, or None if it says none."""
    if found is None or label.classes is None or found.kind != "int64_list":
        return None
    is_number = label.type == "multi_label" or len(found.values) == 1
    if not is_number or not all(0 <= value < len(label.classes) for value in found.values):
        return None
    return [label.classes[value] for value in found.values]


def _is_image(feature: Feature) -> bool:
    """Says whether a feature's shape is (height, width) or that with 1, 3 or 4 channels."""
    channels = 0 if feature.data_format == "channels_first" else 2
    is_picture = len(feature.shape) == 2 or (
        len(feature.shape) == 3 and feature.shape[channels] in (1, 3, 4)
    )
    return feature.is_bytes and is_picture and feature.num_values > 0


def _list_text(found: Values, feature: Feature) -> str:
    """Returns a list of values as text, one value without brackets."""
    if feature.kind in ("boxes", "classes"):
        return _boxes_text(found, feature)
    if found.kind == "bytes_list":
        texts = [
            f'"{_shortened(value.decode(errors="backslashreplace"))}"' for value in found.values
        ]
    elif found.kind == "float_list":
        texts = [str(np.float32(value)) for value in found.values]
    else:
        texts = [str(value) for value in found.values]
    is_one = len(texts) == 1 and not feature.is_ragged
    text = texts[0] if is_one else f"[{', '.join(texts[:10])}{', …' * (len(texts) > 10)}]"
    if feature.num_categories is not None:
        text += f" (of {feature.num_categories})"
    return text


def _boxes_text(found: Values, feature: Feature) -> str:
    """Returns the sides of each box, or its class; those that stand for no box are left out."""
    sides = (feature.shape[-1] or 1) if len(feature.shape) == 2 else 1
    values = [f"{value:.4g}" for value in found.values]
    boxes = [values[start : start + sides] for start in range(0, len(values), sides)]
    there = [" ".join(box) for box in boxes if box[0] != "-1"]
    more = ", …" * (len(there) > 10)
    return f"{len(there)} of at most {len(boxes)}: {', '.join(there[:10])}{more}"


def _bytes_text(name: str, found: Values, feature: Feature, path: str) -> str:
    """Returns what an image or an array is as text, and writes it to the path if it is one."""
    if not feature.is_encoded:
        return _raw_text(name, found, feature, path)
    if found.kind != "bytes_list" or len(found.values) != 1:
        raise DataError(
            f"feature {printable(name)!r} must be one image file, but is "
            f"{found.kind or 'nothing'} of {len(found.values)}"
        )
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(found.values[0])
    return f"{feature.stored_as}, {len(found.values[0]):,} bytes, {printable(path)}"


def _raw_text(name: str, found: Values, feature: Feature, path: str) -> str:
    """Returns what an array holds as text, and writes it to the path if it is an image."""
    size = feature.raw_bytes
    sizes = [len(value) for value in found.values if isinstance(value, bytes)]
    if found.kind != "bytes_list" or sizes != [size]:
        raise DataError(
            f"feature {printable(name)!r} must be one value of {size} bytes, but is "
            f"{found.kind or 'nothing'} of {sizes or len(found.values)}"
        )
    shape = [side or 0 for side in feature.shape]
    array = feature.raw_values(found.values[0]).reshape(shape)
    text = f"{feature.dtype} {feature.shape}"
    if array.size:
        text += f", {array.min()} to {array.max()}"
    if _is_image(feature):
        is_first = feature.data_format == "channels_first"
        _write_png(np.moveaxis(array, 0, 2) if is_first else array, path, feature.kind == "mask")
        text += f", {printable(path)}"
        if feature.dtype != "uint8":
            text += " (smallest value black, largest white)"
    return text


def _write_png(array: np.ndarray, path: str, is_mask: bool = False) -> None:
    """Writes uint8 pixels as they are; float32 ones stretched so that they fill 0 to 255.

    The values of a mask are indices of a palette that tells them apart.
    """
    if array.dtype != np.uint8:
        finite = array[np.isfinite(array)].astype(np.float64)
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
        array = ((values - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    image = Image.fromarray(array)
    if is_mask:
        image.putpalette(_PALETTE)
    image.save(path)


def _file_part(name: str) -> str:
    """Returns a name as a safe part of a file name: letters, digits, `_`, `-`, at most 40."""
    return re.sub(r"[^\w-]+", "_", name[:40], flags=re.ASCII).strip("_") or "unnamed"


def _shortened(text: str) -> str:
    return printable(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…")
