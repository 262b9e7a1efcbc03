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
FORMAT_VERSION = 1
RUN_AGAIN = "Run `headrace run` with --overwrite."
_MAX_TEXT = 200  # Characters of one value that are shown.

Count = Annotated[int, pydantic.Field(ge=0)]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore")


class Feature(_Model):
    """How one feature stands in every record."""

    dtype: str
    shape: tuple[Count, ...]
    stored_as: Literal["float_list", "int64_list", "bytes_list", "raw"]
    normalized: bool = False
    num_categories: Count | None = None

    @pydantic.model_validator(mode="after")
    def _raw_has_a_known_dtype(self) -> Feature:
        if self.stored_as == "raw" and self.dtype not in ("uint8", "float32"):
            raise ValueError("dtype must be uint8 or float32 where stored_as is raw")
        return self

    @property
    def num_values(self) -> int:
        """Number of scalars in one record."""
        return math.prod(self.shape)

    @property
    def raw_dtype(self) -> np.dtype:
        """Type of the values of a feature that is stored as raw bytes, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")


class Label(_Model):
    """What the records are labeled with."""

    type: Literal["class", "int64", "float32"]
    classes: tuple[str, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _classes_have_names(self) -> Label:
        if (self.type == "class") != (self.classes is not None):
            raise ValueError("classes must stand where type is class, and only there")
        return self


class Split(_Model):
    """The records of one split."""

    num_examples: Count
    class_counts: dict[str, Count] | None = None
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

    def stored_features(self) -> dict[str, Feature]:
        """Returns the features of a record, the label among them, by name in sorted order."""
        stored = dict(self.features)
        if self.label:
            is_float = self.label.type == "float32"
            stored["label"] = Feature(
                dtype="float32" if is_float else "int64",
                shape=(),
                stored_as="float_list" if is_float else "int64_list",
                num_categories=None if self.label.classes is None else len(self.label.classes),
            )
        return dict(sorted(stored.items()))


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
    names = sorted(stored, key=lambda name: (name == "label", name))
    label = _label_name(example, manifest)
    images = [name for name in names if _is_image(stored[name])]
    shown = {}
    for name in names:
        if name not in example:
            shown[name] = "(missing)"
        elif name == "label" and label is not None:
            shown[name] = f"{example[name].values[0]} ({_shortened(label)})"
        elif stored[name].stored_as == "raw":
            parts = [stem]
            if name in images and len(images) > 1:  # Each file says which feature it shows.
                parts += [str(images.index(name)), _file_part(name)]
            parts += [] if label is None else [_file_part(label)]
            path = os.path.join(output, "-".join(parts) + ".png")
            shown[name] = _raw_text(name, example[name], stored[name], path)
        else:
            shown[name] = _list_text(example[name], stored[name])
    shown |= {name: "(not in the manifest)" for name in sorted(set(example) - set(stored))}
    width = max(map(len, map(printable, shown)), default=0)
    return [f"  {printable(name):{width}}  {text}" for name, text in shown.items()]


def _label_name(example: dict[str, Values], manifest: Manifest) -> str | None:
    """Returns the name of the record's class, or None if it has none."""
    if not manifest.label or manifest.label.classes is None or "label" not in example:
        return None
    kind, values = example["label"]
    if kind != "int64_list" or len(values) != 1 or not 0 <= values[0] < len(manifest.label.classes):
        return None
    return manifest.label.classes[values[0]]


def _is_image(feature: Feature) -> bool:
    """Says whether a feature's shape is (height, width) or (height, width, 1, 3 or 4 channels)."""
    is_picture = len(feature.shape) == 2 or (
        len(feature.shape) == 3 and feature.shape[2] in (1, 3, 4)
    )
    return feature.stored_as == "raw" and is_picture and feature.num_values > 0


def _list_text(found: Values, feature: Feature) -> str:
    """Returns a list of values as text, one value without brackets."""
    if found.kind == "bytes_list":
        texts = [
            f'"{_shortened(value.decode(errors="backslashreplace"))}"' for value in found.values
        ]
    elif found.kind == "float_list":
        texts = [str(np.float32(value)) for value in found.values]
    else:
        texts = [str(value) for value in found.values]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts[:10])}{', …' * (len(texts) > 10)}]"
    if feature.num_categories is not None:
        text += f" (of {feature.num_categories})"
    return text


def _raw_text(name: str, found: Values, feature: Feature, path: str) -> str:
    """Returns what an array holds as text, and writes it to the path if it is an image."""
    size = feature.num_values * feature.raw_dtype.itemsize
    sizes = [len(value) for value in found.values if isinstance(value, bytes)]
    if found.kind != "bytes_list" or sizes != [size]:
        raise DataError(
            f"feature {printable(name)!r} must be one value of {size} bytes, but is "
            f"{found.kind or 'nothing'} of {sizes or len(found.values)}"
        )
    array = np.frombuffer(found.values[0], feature.raw_dtype).reshape(feature.shape)
    text = f"{feature.dtype} {feature.shape}"
    if array.size:
        text += f", {array.min()} to {array.max()}"
    if _is_image(feature):
        _write_png(array, path)
        text += f", {printable(path)}"
        if feature.dtype == "float32":
            text += " (smallest value black, largest white)"
    return text


def _write_png(array: np.ndarray, path: str) -> None:
    """Writes uint8 pixels as they are; float32 ones stretched so that they fill 0 to 255."""
    if array.dtype != np.uint8:
        finite = array[np.isfinite(array)].astype(np.float64)
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
        array = ((values - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Image.fromarray(array).save(path)


def _file_part(name: str) -> str:
    """Returns a name as a safe part of a file name: letters, digits, `_`, `-`, at most 40."""
    return re.sub(r"[^\w-]+", "_", name[:40], flags=re.ASCII).strip("_") or "unnamed"


def _shortened(text: str) -> str:
    return printable(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…")
