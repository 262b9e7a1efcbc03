"""Every file against `dataset_info.json`: sizes, checksums, counts, every record's features."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import io
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import google_crc32c
import numpy as np
import pydantic
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import image_headers, labels, object_stores
from beam_jobs.errors import DataError
from beam_jobs.image_headers import TooLargeImage, UndecodableImage
from beam_jobs.inspection import (
    LABEL,
    MANIFEST,
    RUN_AGAIN,
    ArrayFile,
    Feature,
    Manifest,
    Values,
    Vocabulary,
    decode_example,
    feature_entries,
    printable,
    read_manifest,
)
from beam_jobs.shards import SHARD_PATTERN, ShardInfo, ShardReader, shard_name

Progress = Callable[[int, int], None]
_Counts = collections.Counter[tuple[str, int]]  # Records by label and index of a class.

_MAX_THREADS = 4
_OVERHEAD_BYTES = 16  # Of a record in its shard: empty records count, too.
_BATCH_BYTES = 4 << 20  # Times 12 in memory at worst, see `_num_entries`.


def verify(directory: str, *, on_progress: Progress | None = None) -> list[str]:
    """Checks a finished dataset and returns one line per problem, none if it is sound.

    Memory holds some batches of 4 MiB, whatever the size of the dataset.

    Args:
      directory: The dataset folder, on any file system that Beam knows.
      on_progress: Called from the threads that read, with the number of examples and of bytes (as
        uncompressed) that were checked since the last call.

    Returns:
      Problems: file, rule, what was found, what to do.

    Raises:
      SpecError: There is no finished dataset.
      DataError: The manifest is not readable.
    """
    manifest = read_manifest(directory)
    problems = _misnamed(manifest) + _unlisted(directory, manifest) + _unaccounted(manifest)
    problems += _unsound_beside(directory, manifest) + _wrong_weights(manifest)
    report = _serialized(on_progress or (lambda num_examples, num_bytes: None))
    workers = min(_MAX_THREADS, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        checks = {
            split: [
                pool.submit(_check_shard, directory, shard, manifest, report)
                for shard in info.shards
                if SHARD_PATTERN.fullmatch(shard.file)
            ]
            for split, info in manifest.splits.items()
        }
        for split, futures in checks.items():
            found = [future.result() for future in futures]
            problems += [line for shard in found for line in shard.problems]
            if not any(shard.problems for shard in found):  # Else they follow from those.
                counts = sum((shard.label_counts for shard in found), collections.Counter())
                problems += _miscounted_classes(split, counts, manifest)
    return problems


def _serialized(report: Progress) -> Progress:
    """Returns a function that lets one thread at a time report."""
    lock = threading.Lock()

    def report_alone(num_examples: int, num_bytes: int) -> None:
        with lock:
            report(num_examples, num_bytes)

    return report_alone


def _misnamed(manifest: Manifest) -> list[str]:
    """Names listed files that are called otherwise than the position in the list demands."""
    problems = []
    for split, info in manifest.splits.items():
        for index, shard in enumerate(info.shards):
            name = shard_name(split, index, len(info.shards), manifest.compression)
            if shard.file != name:
                problems.append(
                    f"{MANIFEST}: splits.{split}.shards[{index}].file must be {name}, "
                    f"but is {printable(shard.file)}. {RUN_AGAIN}"
                )
    return problems


def _unlisted(directory: str, manifest: Manifest) -> list[str]:
    """Names files that look like shards and are not listed."""
    listed = {shard.file for info in manifest.splits.values() for shard in info.shards}
    return [
        f"{name}: is not listed in {MANIFEST}, so that no reader opens it. Delete it."
        for name in sorted(_file_names(directory))
        if SHARD_PATTERN.fullmatch(name) and name not in listed
    ]


def _file_names(directory: str) -> list[str]:
    if FileSystems.get_scheme(directory) is None:  # A folder `run[1]` is no pattern.
        return os.listdir(directory)
    (matched,) = FileSystems.match([FileSystems.join(directory, "*")])
    return [FileSystems.split(file.path)[1] for file in matched.metadata_list]


def _unsound_beside(directory: str, manifest: Manifest) -> list[str]:
    """Says what is wrong with the files that features have beside the shards."""
    faults: dict[str, str | None] = {}
    for feature in manifest.features.values():
        for array in feature.array_files:
            faults[array.file] = _beside_fault(directory, array.file, _array_fault, array)
        if (name := feature.vocabulary_file) is not None:
            faults[name] = _beside_fault(directory, name, _vocabulary_fault, feature)
    return [f"{printable(name)}: {what}. {RUN_AGAIN}" for name, what in faults.items() if what]


def _beside_fault(
    directory: str, name: str, fault: Callable[[bytes, Any], str | None], said: Any
) -> str | None:
    """Returns what is wrong with a file, beginning with whether it is there, or None."""
    if os.path.basename(name) != name:
        return f"stands in {MANIFEST}, but is no name of a file beside it"
    path = FileSystems.join(directory, name)
    try:
        if not FileSystems.exists(path):
            return f"is listed in {MANIFEST}, but is missing"
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return fault(file.read(), said)
    except object_stores.ERRORS as error:
        return f"cannot be read: {object_stores.fault(error)}"


def _array_fault(data: bytes, listed: ArrayFile) -> str | None:
    """Returns what is wrong with statistics, or None."""
    crc = f"{google_crc32c.value(data):08x}"
    if crc != listed.crc32c:
        said = printable(listed.crc32c)
        return f"crc32c is {crc}, but {MANIFEST} says {said}: the file is damaged"
    file = io.BytesIO(data)
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return "crc32c is right, but it is no array as np.save writes it"
    if (shape, dtype) != (listed.shape, np.dtype("<f8")):
        says = f"but {MANIFEST} says float64 {list(listed.shape)}"
        return f"holds {printable(str(dtype))} {list(shape)}, {says}"
    # Lengths first: what a header claims may not fit into memory.
    if len(data) - file.tell() != 8 * math.prod(shape):
        return f"holds {len(data) - file.tell()} bytes for float64 {list(shape)}"
    if not np.isfinite(np.frombuffer(data, "<f8", offset=file.tell())).all():
        return "holds a value that is not finite"
    return None


def _vocabulary_fault(data: bytes, feature: Feature) -> str | None:
    """Returns what is wrong with a vocabulary, or None."""
    try:
        found = Vocabulary.model_validate_json(data)
    except pydantic.ValidationError:
        return "is no vocabulary: a JSON object that has a list of tokens, and perhaps of weights"
    is_sparse = feature.stored_as == "sparse"
    size = (feature.shape[0] if is_sparse else feature.num_categories) or 0
    # Sparse texts may be padded, and a string has OOV buckets.
    may_be_less = is_sparse or not feature.shape
    num_tokens, weights = len(found.vocabulary), found.idf_weights
    if num_tokens > size or (num_tokens < size and not may_be_less):
        return f"holds {num_tokens} tokens, but {MANIFEST} says {size}"
    if weights is not None and len(weights) != size:
        return f"holds {len(weights)} weights, but {MANIFEST} says {size}"
    return None


def _unaccounted(manifest: Manifest) -> list[str]:
    """Says where the manifest's own counts do not meet."""
    problems = []
    for split, info in manifest.splits.items():
        total = sum(shard.num_examples for shard in info.shards)
        if total != info.num_examples:
            problems.append(
                f"{MANIFEST}: splits.{split}.num_examples must be the sum over its shards, "
                f"{total}, but is {info.num_examples}. {RUN_AGAIN}"
            )
    written = sum(info.num_examples for info in manifest.splits.values())
    rejected = sum(manifest.rejected.values())
    if manifest.read != written + rejected:
        problems.append(
            f"{MANIFEST}: read must be written + rejected, {written} + {rejected} = "
            f"{written + rejected}, but is {manifest.read}. {RUN_AGAIN}"
        )
    return problems


def _miscounted_classes(split: str, counts: _Counts, manifest: Manifest) -> list[str]:
    """Compares the labels of a split's records with its class_counts."""
    problems = []
    said = manifest.class_counts(split)
    for label, of in manifest.stored_labels.items():
        if of.classes is None:
            continue
        where = "class_counts"
        if label != LABEL:
            where = f"label_class_counts.{label.removeprefix(f'{LABEL}/')}"
        expected = said.get(label, {})
        found = {name: counts[label, index] for index, name in enumerate(of.classes)}
        problems += [
            f"{MANIFEST}: splits.{split}.{where} of {printable(repr(name))} must be "
            f"{found.get(name, 0)}, as in the records, but is {expected.get(name, 0)}. {RUN_AGAIN}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name, 0) != expected.get(name, 0)
        ]
    return problems


def _wrong_weights(manifest: Manifest) -> list[str]:
    """Says where class_weights are not those of the class_counts of train."""
    problems: list[str] = []
    if manifest.transform_from is not None:  # They are those of another dataset's train.
        return problems
    said = manifest.class_counts("train") if "train" in manifest.splits else {}
    for name, label in manifest.stored_labels.items():
        if label.class_weights is None or label.classes is None:
            continue
        counts = [said.get(name, {}).get(each, 0) for each in label.classes]
        expected = labels.class_weights(counts)
        if list(label.class_weights) != expected:
            problems.append(
                f"{MANIFEST}: class_weights of {name} must be {expected}, as class_counts of train "
                f"say, but are {list(label.class_weights)}. {RUN_AGAIN}"
            )
    return problems


@dataclasses.dataclass
class _Checked:
    """What one shard held."""

    problems: list[str] = dataclasses.field(default_factory=list)
    label_counts: _Counts = dataclasses.field(default_factory=collections.Counter)


def _check_shard(
    directory: str, shard: ShardInfo, manifest: Manifest, report: Progress
) -> _Checked:
    """Reads one shard to its end and checks everything that it holds."""
    checked = _Checked()
    path = FileSystems.join(directory, shard.file)
    if not FileSystems.exists(path):
        checked.problems = [f"{shard.file}: is listed in {MANIFEST}, but is missing. {RUN_AGAIN}"]
        return checked
    try:
        reader = ShardReader(path, manifest.compression)
    except DataError as error:
        checked.problems = [f"{error}. {RUN_AGAIN}"]
        return checked
    faults = _Faults(manifest)
    damage = ""
    with reader:
        try:
            for batch in _batches(reader):
                faults.check(batch)
                report(len(batch), sum(map(len, batch)))
        except DataError as error:
            damage = f" ({error})"
        problem = _difference(shard, reader.info(), damage)
    checked.problems = [problem] if problem else faults.lines(shard.file)
    checked.label_counts = faults.label_counts
    return checked


def _batches(reader: ShardReader) -> Iterator[list[bytes]]:
    """Cuts the records into batches of at most 4 MiB were all as long as the longest, or of one."""
    batch: list[bytes] = []
    longest = 0
    for data in reader:
        longest = max(longest, len(data) + _OVERHEAD_BYTES)
        if batch and (len(batch) + 1) * longest > _BATCH_BYTES:
            yield batch
            batch, longest = [], len(data) + _OVERHEAD_BYTES
        batch.append(data)
    if batch:
        yield batch


def _difference(listed: ShardInfo, found: ShardInfo, damage: str) -> str | None:
    """Returns the first difference between a shard and its entry in the manifest, or None."""
    says = f"but {MANIFEST} says"
    if found.bytes != listed.bytes:
        what = f"has {found.bytes} bytes, {says} {listed.bytes}: the file is cut or was replaced"
    elif found.crc32c != listed.crc32c:
        what = f"crc32c is {found.crc32c}, {says} {printable(listed.crc32c)}: the file is damaged"
    elif damage:
        what = "crc32c is right, but its records are damaged"
    elif found.crc32c_uncompressed != listed.crc32c_uncompressed:
        what = (
            f"crc32c_uncompressed is {found.crc32c_uncompressed}, "
            f"{says} {printable(listed.crc32c_uncompressed)}"
        )
    elif found.num_examples != listed.num_examples:
        what = f"has {found.num_examples} records, {says} {listed.num_examples}"
    elif listed.index not in (found.index, ""):
        what = f"its index in {MANIFEST} is not that of its records"
    else:
        return None
    colon = "" if what.startswith("has") else ":"
    return f"{listed.file}{colon} {what}{damage}. {RUN_AGAIN}"


class _Faults:
    """Checks records against the manifest's features and keeps the first fault of each kind."""

    def __init__(self, manifest: Manifest):
        self.label_counts: _Counts = collections.Counter()
        self._stored = manifest.stored_features()
        named = manifest.stored_labels.items()
        self._of_classes = [name for name, label in named if label.classes is not None]
        self._num_records = 0
        self._first: dict[str, tuple[int, str]] = {}  # Rule -> first record, what was found.
        self._counts: collections.Counter[str] = collections.Counter()

    def check(self, batch: list[bytes]) -> None:
        """Checks the next records of the shard: all at once, one by one only if that fails."""
        columns = _parsed(batch, self._stored)
        if columns is None or not _all_meet(columns, self._stored):
            for position, data in enumerate(batch, self._num_records):
                self._check_record(position, data)
        else:
            for name in self._of_classes:
                indices, counts = np.unique(columns[name], return_counts=True)
                pairs = zip(indices.tolist(), counts.tolist(), strict=True)
                self.label_counts.update({(name, index): count for index, count in pairs})
        self._num_records += len(batch)

    def lines(self, file: str) -> list[str]:
        """Returns one line for each rule that some record breaks."""
        problems = []
        for rule, (record, found) in self._first.items():
            others = self._counts[rule] - 1
            more = f" (and {others} more records)" if others else ""
            problems.append(f"{file}: record {record}: {rule}, but {found}{more}. {RUN_AGAIN}")
        return problems

    def _check_record(self, position: int, data: bytes) -> None:
        faults = list(_record_faults(data, self._stored))
        for rule, found in faults:
            self._first.setdefault(rule, (position, found))
            self._counts[rule] += 1
        if self._of_classes and not faults:
            example = decode_example(data)
            for name in self._of_classes:
                self.label_counts.update((name, index) for index in example[name].values)


def _parsed(batch: list[bytes], stored: Mapping[str, Feature]) -> dict[str, np.ndarray] | None:
    """Parses records with TensorFlow; None if one does not hold exactly the stored features."""
    if len(batch[0]) > _BATCH_BYTES:  # One long record: Python is as fast, and needs less memory.
        return None
    types = {"float_list": tf.float32, "int64_list": tf.int64}
    spec: dict[str, Any] = {}
    for name, feature in stored.items():
        dtype = types.get(feature.stored_as, tf.string)
        if feature.is_ragged:
            spec[name] = tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
        else:
            shape = () if feature.is_bytes else feature.shape
            spec[name] = tf.io.FixedLenFeature(shape, dtype)
    try:
        with tf.device("CPU:0"):  # On a GPU's machine, leave its memory to those who train.
            records = tf.constant(batch)
            if not np.all(_num_entries(records) == len(stored)):
                return None
            columns = tf.io.parse_example(records, spec) if spec else {}
    except tf.errors.OpError:
        return None
    for name, feature in stored.items():
        if feature.is_ragged and columns[name].bounding_shape()[1] > feature.longest:
            return None
    for name in _sparse_names(stored):
        if not _are_entries(columns[f"{name}/indices"], columns[f"{name}/values"]):
            return None
    for name in _lists_of_classes(stored):
        if not _are_rising(columns[name]):
            return None
    return {
        name: (column.flat_values if stored[name].is_ragged else column).numpy()
        for name, column in columns.items()
    }


def _sparse_names(stored: Mapping[str, Feature]) -> list[str]:
    """Returns the features of which a record has indices and values."""
    ragged = {name for name, feature in stored.items() if feature.is_ragged}
    names = [name.removesuffix("/indices") for name in ragged if name.endswith("/indices")]
    return sorted(name for name in names if f"{name}/values" in ragged)


def _lists_of_classes(stored: Mapping[str, Feature]) -> list[str]:
    """Returns the labels of which a record has several indices."""
    ragged = [name for name, feature in stored.items() if feature.is_ragged]
    return [name for name in ragged if name == LABEL or name.startswith(f"{LABEL}/")]


def _are_entries(indices: tf.RaggedTensor, values: tf.RaggedTensor) -> bool:
    """Says whether the records of a sparse feature meet the rules of `_entries_fault`."""
    starts = indices.row_splits.numpy()
    return np.array_equal(starts, values.row_splits.numpy()) and _are_rising(indices)


def _are_rising(indices: tf.RaggedTensor) -> bool:
    """Says whether the indices of each record are ascending and distinct."""
    starts = indices.row_splits.numpy()
    rises = np.diff(indices.flat_values.numpy(), prepend=-1) > 0
    rises[starts[starts < rises.size]] = True
    return bool(rises.all())


def _num_entries(records: tf.Tensor) -> np.ndarray:
    """Counts the features of each serialized Example: int32 (num_records,).

    `parse_example` passes over features that it was not asked for. An Example is a message that has
    messages (Features) as field 1, and these have one per feature as field 1: read as
    a BytesList, `repeated bytes value = 1`, each gives up its parts. The result of an op is dense:
    24 bytes times the records times the parts of the one that has most, one per 2 bytes at worst.
    """
    num_parts, parts = _parts(records)
    is_part = tf.sequence_mask(num_parts, parts.shape[1])
    num_entries, _ = _parts(tf.boolean_mask(parts, is_part))
    record = np.repeat(np.arange(len(num_parts)), num_parts)
    return np.bincount(record, num_entries, minlength=len(num_parts))


def _parts(messages: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns how many values field 1 of each message has, and the values, padded."""
    sizes, (values,) = tf.raw_ops.DecodeProtoV2(
        bytes=messages,
        message_type="tensorflow.BytesList",
        field_names=["value"],
        output_types=[tf.string],
        descriptor_source="local://",
    )
    return sizes[:, 0], values


def _all_meet(columns: Mapping[str, np.ndarray], stored: Mapping[str, Feature]) -> bool:
    """Says whether the values of parsed records meet the rules of `_value_fault`."""
    for name, column in columns.items():
        feature = stored[name]
        if feature.is_encoded:
            if any(_file_fault(value, feature) for value in column.tolist()):
                return False
            continue
        if feature.stored_as == "raw":
            if any(len(value) != feature.raw_bytes for value in column.tolist()):
                return False
            if feature.dtype == "uint8":
                continue
            column = feature.raw_values(b"".join(column.tolist()))
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            return False
        if feature.is_weight and (column < 0).any():
            return False
        if feature.num_categories is not None and column.dtype.kind == "i":
            if ((column < 0) | (column >= feature.num_categories)).any():
                return False
    return True


def _record_faults(data: bytes, stored: Mapping[str, Feature]) -> Iterator[tuple[str, str]]:
    """Yields each rule that a record breaks and what it holds instead."""
    try:
        example = decode_example(data)
        names = collections.Counter(name for name, _ in feature_entries(data))
    except DataError as error:
        what = str(error).removeprefix("is no tf.train.Example: ")
        yield "must be a tf.train.Example", what
        return
    for name in sorted(names.keys() | stored.keys()):
        quoted = printable(repr(name))
        if name not in stored:
            yield f"features must be those of {MANIFEST}", f"{quoted} is none of them"
        elif names[name] != 1:
            what = f"is there {names[name]} times" if names[name] else "is missing"
            yield f"feature {quoted} must be there once", what
        elif fault := _value_fault(example[name], stored[name]):
            yield f"feature {quoted} must {fault[0]}", fault[1]
    for name in _sparse_names(stored):
        indices, values = (example.get(f"{name}/{part}") for part in ("indices", "values"))
        if indices and values and (fault := _entries_fault(indices.values, values.values)):
            yield f"feature {printable(repr(name))} must {fault[0]}", fault[1]
    for name in _lists_of_classes(stored):
        if name in example and (fault := _rising_fault(example[name].values)):
            yield f"feature {printable(repr(name))} must {fault[0]}", fault[1]


def _entries_fault(indices: list[Any], values: list[Any]) -> tuple[str, str] | None:
    """Returns the rule that indices and values break together, and what they are, or None."""
    if len(indices) != len(values):
        return "have as many values as indices", f"has {len(values)} and {len(indices)}"
    return _rising_fault(indices)


def _rising_fault(indices: list[Any]) -> tuple[str, str] | None:
    for before, after in itertools.pairwise(indices):
        if after <= before:
            return "have rising indices", f"{after} follows {before}"
    return None


def _file_fault(data: bytes, feature: Feature) -> tuple[str, str] | None:
    """Returns the rule that the header of an image file breaks, and what it is, or None."""
    rule = f"be a {feature.stored_as} of {list(feature.shape)} pixels"
    try:
        header = image_headers.read_header(data)
    except (UndecodableImage, TooLargeImage) as error:
        return rule, f"is none: {error}"
    sides = zip((header.height, header.width), feature.shape, strict=False)
    if header.format != feature.stored_as.upper() or any(b not in (a, None) for a, b in sides):
        return rule, f"is a {header.format} of {header.height} x {header.width}"
    return None


def _value_fault(found: Values, feature: Feature) -> tuple[str, str] | None:
    """Returns the rule that one feature of one record breaks, and what it is, or None."""
    kind = "bytes_list" if feature.is_bytes else feature.stored_as
    num_values = 1 if feature.is_bytes else feature.num_values
    num_values = len(found.values) if feature.is_ragged else num_values
    if (found.kind, len(found.values)) != (kind, num_values):
        what = f"is {found.kind} of {len(found.values)}" if found.kind else "is empty"
        return f"be {kind} of {num_values}", what
    if feature.longest is not None and num_values > feature.longest:
        return f"have at most {feature.longest} values", f"has {num_values}"
    if feature.is_encoded:
        return _file_fault(found.values[0], feature)
    values = np.array(found.values)
    if feature.stored_as == "raw":
        if len(found.values[0]) != feature.raw_bytes:
            what = f"{feature.dtype} {list(feature.shape)}"
            return f"have {feature.raw_bytes} bytes ({what})", f"has {len(found.values[0])}"
        values = feature.raw_values(found.values[0])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "be finite", f"holds {values[~np.isfinite(values)][0]}"
    if feature.is_weight and values.min() < 0:
        return "be at least 0", f"is {values.min()}"
    if feature.num_categories is not None and values.dtype.kind == "i":
        wrong = values[(values < 0) | (values >= feature.num_categories)]
        if wrong.size:
            return f"be from 0 to {feature.num_categories - 1}", f"is {wrong[0]}"
    return None
