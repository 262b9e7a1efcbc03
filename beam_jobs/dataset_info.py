"""The manifest, the schema and the statistics file of a finished dataset."""

import hashlib
import io
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from beam_jobs import keys, labels, splits
from beam_jobs.config import (
    LABEL,
    SPLITS,
    WEIGHT,
    Column,
    Date,
    Label,
    Spec,
    Tabular,
    Text,
    Weight,
)
from beam_jobs.config_dates import PARTS
from beam_jobs.config_text import PADDING, UNKNOWN
from beam_jobs.shards import ShardInfo
from beam_jobs.summaries import Lists, Numbers, Texts
from beam_jobs.versions import versions

FILE = "dataset_info.json"
FORMAT_VERSION = 1
# Beside the manifest: vocabularies, and statistics of many numbers.
BESIDE = (re.compile(r"vocabulary-.+\.json"), re.compile(r"statistics-[0-9a-f]{8}\.npy"))
_LONGEST_NAME = 100  # Of a feature, as its file has it.
_MOST_NUMBERS = 4096  # Of an array that stands in the manifest itself.


def manifest(
    spec: Spec,
    fingerprint: str,
    read: int,
    rejected: Mapping[str, int],
    shards: Mapping[str, list[ShardInfo]],
    class_counts: Mapping[tuple[str, str], Mapping[str, int]],
    features: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]],
    statistics: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns what `dataset_info.json` says.

    Args:
      spec: The spec.
      fingerprint: Of the input.
      read: Records read.
      rejected: Records per reason.
      shards: Of each split, in order.
      class_counts: Of each split and label, by name of class.
      features: Of each feature what is stored.
      classes: Of each label the names behind its indices.
      statistics: Over train, of labels that are numbers and of the weight.
    """
    always = [name for rule in spec.filter for name in (rule.name, f"null_in_{rule.name}")]
    info: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": spec.name,
        "spec_digest": spec.digest,
        "input_fingerprint": fingerprint,
        "read": read,
        "rejected": {reason: rejected.get(reason, 0) for reason in sorted({*always, *rejected})},
        "compression": spec.output.compression,
        "hash": keys.HASH_NAME,
        "splits": {},
        "features": dict(features),
    }
    for split in SPLITS:
        if split not in shards:
            continue
        entry: dict[str, Any] = {"num_examples": sum(s.num_examples for s in shards[split])}
        counts = {
            label: {name: class_counts[split, label].get(name, 0) for name in classes[label]}
            for label, said in spec.stored_labels.items()
            if said.has_classes
        }
        if LABEL in counts:
            entry["class_counts"] = counts[LABEL]
        elif counts:
            entry["label_class_counts"] = {_name(label): found for label, found in counts.items()}
        entry["shards"] = [shard.to_json() for shard in shards[split]]
        info["splits"][split] = entry
    if spec.split.stratified:
        info["inexact_classes"] = _inexact(spec, info["splits"], classes[LABEL])
    described = {
        name: _beside(name, said, classes, class_counts, statistics)
        for name, said in spec.beside_features.items()
    }
    if spec.labels:
        info["labels"] = {_name(name): described.pop(name) for name in spec.stored_labels}
    info |= described  # One label, and the weight.
    info["spec"] = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    info["versions"] = dict(versions())
    return info


def _inexact(
    spec: Spec, written: Mapping[str, Any], classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Returns what the fractions ask for, of classes that have other counts."""
    counts = {n: {s: entry["class_counts"][n] for s, entry in written.items()} for n in classes}
    asked = {
        name: splits.shares(sum(found.values()), spec.split.fractions or {})
        for name, found in counts.items()
    }
    return {name: shares for name, shares in asked.items() if shares != counts[name]}


def _name(label: str) -> str:
    """Returns what the spec calls a label that records hold as `label/NAME`."""
    return label.removeprefix(f"{LABEL}/")


def _beside(
    name: str,
    said: Label | Weight,
    classes: Mapping[str, Sequence[str]],
    class_counts: Mapping[tuple[str, str], Mapping[str, int]],
    statistics: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns what the manifest says of a label, or of the weight."""
    found: dict[str, Any] = {
        "name": name,
        "dtype": "float32" if said.type == "float32" else "int64",
    }
    if isinstance(said, Label):
        found["type"] = said.type
        if said.has_classes:
            found["classes"] = list(classes[name])
        if said.type == "class":
            counts = class_counts["train", name]
            found["class_weights"] = labels.class_weights([counts.get(c, 0) for c in classes[name]])
        if said.type == "multi_label":
            found["separator"] = said.between
    if name in statistics:
        found["statistics"] = dict(statistics[name])
    return found


def set_apart(features: Mapping[str, Any]) -> dict[str, bytes]:
    """Replaces arrays that would make the manifest too large by the names of files for them.

    Args:
      features: Entries of the manifest, which are changed.

    Returns:
      What each file holds: an array as np.save writes it, float64 in C order.
    """
    found = {}
    for entry in features.values():
        for part in ("statistics", "normalization"):
            for name, value in entry.get(part, {}).items():
                array = np.array(value if isinstance(value, list) else 0, "<f8")
                if array.size <= _MOST_NUMBERS:
                    continue
                data = io.BytesIO()
                np.save(data, array, allow_pickle=False)
                crc = f"{google_crc32c.value(data.getvalue()):08x}"
                file = f"statistics-{crc}.npy"
                entry[part][name] = {"file": file, "shape": list(array.shape), "crc32c": crc}
                found[file] = data.getvalue()
    return found


def to_bytes(info: Mapping[str, Any]) -> bytes:
    """Returns the manifest as a JSON file.

    Raises:
      ValueError: A value is NaN or infinite, which JSON cannot hold.
    """
    return (json.dumps(info, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def column_entry(dtype: str, num_categories: int | None, is_normalized: bool) -> dict[str, Any]:
    """Returns how the manifest describes the output of a column."""
    stored = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}
    entry: dict[str, Any] = {
        "dtype": dtype,
        "shape": [],
        "stored_as": stored[dtype],
        "normalized": is_normalized,
    }
    if num_categories is not None:
        entry["num_categories"] = num_categories
    return entry


def date_entries(name: str, feature: Date) -> dict[str, Any]:
    """Returns what the manifest says of the parts and cycles of a date."""
    entries = {}
    for ending, dtype in feature.endings.items():
        num_categories = PARTS.get(ending.removeprefix("_"))
        entries[f"{name}{ending}"] = column_entry(dtype, num_categories, dtype == "float32")
    return entries


def text_entry(feature: Text) -> dict[str, Any]:
    """Returns what the manifest says of the output of a text beside `column_entry`."""
    entry: dict[str, Any] = {"normalized": True}
    if not feature.is_sparse:
        entry["shape"] = [feature.output_sequence_length]
    return entry if feature.tokenizer is None else entry | {"tokenizer": feature.tokenizer}


def has_vocabulary(feature: Tabular) -> bool:
    """Whether a feature has a vocabulary of its own, which no tokenizer's model holds."""
    if isinstance(feature, Text):
        return feature.tokenizer is None
    return isinstance(feature, Column) and feature.last_step == "compute_and_apply_vocabulary"


def vocabulary_file(name: str) -> str:
    """Returns the file of a feature's vocabulary in the dataset folder.

    A name that a file system would not take ends with a hash.
    """
    quoted = urllib.parse.quote(name, safe="")
    if len(quoted) > _LONGEST_NAME:
        quoted = f"{quoted[:_LONGEST_NAME]}-{hashlib.md5(name.encode()).hexdigest()}"
    return f"vocabulary-{quoted}.json"


def vocabulary(feature: Tabular, tokens: Sequence[bytes], idf: Sequence[float] | None) -> bytes:
    """Returns what a vocabulary file says: tokens by index, of a text as Keras' get_vocabulary.

    The OOV buckets of a string come behind the last one, and are not in it.

    Args:
      feature: What the spec says of it.
      tokens: Those after the special ones.
      idf: The weight of each index, for tf-idf.
    """
    special: list[str] = []
    if isinstance(feature, Text):
        special = [UNKNOWN] if feature.is_sparse else [PADDING, UNKNOWN]
    said: dict[str, Any] = {"vocabulary": special + [token.decode() for token in tokens]}
    if idf is not None:
        said["idf_weights"] = list(idf)
    return to_bytes(said)


def schema(info: Mapping[str, Any]) -> bytes:
    """Returns the tensorflow-metadata Schema of the stored features, as text."""
    kinds = {
        "float_list": schema_pb2.FLOAT,
        "int64_list": schema_pb2.INT,
        "bytes_list": schema_pb2.BYTES,
        "raw": schema_pb2.BYTES,
        "jpeg": schema_pb2.BYTES,
        "png": schema_pb2.BYTES,
    }
    stored = dict(info["features"])
    beside = [*info.get("labels", {}).values(), info.get(LABEL), info.get(WEIGHT)]
    for entry in filter(None, beside):
        is_float = entry["dtype"] == "float32"
        stored[entry["name"]] = {"stored_as": "float_list" if is_float else "int64_list"}
        if entry.get("type") == "multi_label":
            stored[entry["name"]]["longest"] = len(entry["classes"])
        if "classes" in entry:
            stored[entry["name"]]["num_categories"] = len(entry["classes"])
    message = schema_pb2.Schema()
    for name in sorted(stored):
        if stored[name]["stored_as"] == "sparse":
            _add_sparse(message, name, stored[name]["shape"][0])
            continue
        feature = message.feature.add(name=name, type=kinds[stored[name]["stored_as"]])
        feature.presence.min_fraction = 1.0
        feature.presence.min_count = 1
        if "longest" in stored[name]:
            feature.value_count.min, feature.value_count.max = 0, stored[name]["longest"]
            continue
        feature.shape.SetInParent()  # A scalar; the bytes of an image are one value, too.
        if stored[name]["stored_as"] in ("float_list", "int64_list"):
            for size in stored[name].get("shape", ()):
                feature.shape.dim.add(size=size)
        if "num_categories" in stored[name]:
            feature.int_domain.min = 0
            feature.int_domain.max = max(0, stored[name]["num_categories"] - 1)
            feature.int_domain.is_categorical = True
    return text_format.MessageToString(message).encode()


def _add_sparse(message: schema_pb2.Schema, name: str, depth: int) -> None:
    indices = message.feature.add(name=f"{name}/indices", type=schema_pb2.INT)
    indices.int_domain.min, indices.int_domain.max = 0, depth - 1
    values = message.feature.add(name=f"{name}/values", type=schema_pb2.FLOAT)
    sparse = message.sparse_feature.add(name=name, is_sorted=True)
    sparse.index_feature.add(name=indices.name)
    sparse.value_feature.name = values.name


def statistics(
    num_examples: Mapping[str, int], columns: Mapping[tuple[str, str], Numbers | Texts | Lists]
) -> bytes:
    """Returns a tensorflow-metadata DatasetFeatureStatisticsList: the raw columns of each split.

    Args:
      num_examples: Records per split.
      columns: By split and column.
    """
    message = statistics_pb2.DatasetFeatureStatisticsList()
    for split in SPLITS:
        if split not in num_examples:
            continue
        dataset = message.datasets.add(name=split, num_examples=num_examples[split])
        for name in sorted(column for owner, column in columns if owner == split):
            _add_statistics(dataset, name, columns[split, name])
    return message.SerializeToString(deterministic=True)


def _add_statistics(
    dataset: statistics_pb2.DatasetFeatureStatistics, name: str, found: Numbers | Texts | Lists
) -> None:
    feature = dataset.features.add()
    feature.path.step.append(name)
    kinds = statistics_pb2.FeatureNameStatistics
    shortest = longest = 1
    if isinstance(found, Texts):
        feature.type = kinds.STRING
        common = feature.string_stats.common_stats
        count = num_values = found.count
        feature.string_stats.avg_length = found.bytes / found.count if found.count else 0.0
    else:
        told = found.numbers if isinstance(found, Lists) else found
        feature.type = kinds.INT if isinstance(told.min, int) else kinds.FLOAT
        numbers, sums = feature.num_stats, told.moments
        common = numbers.common_stats
        count = num_values = sums.count
        if isinstance(found, Lists):
            count, shortest, longest = found.count, found.shortest or 0, found.longest
        if sums.count:
            numbers.mean, numbers.std_dev = sums.mean, sums.std
            numbers.min, numbers.max = float(told.min or 0), float(told.max or 0)
            numbers.num_zeros = told.zeros
    common.num_non_missing, common.num_missing = count, found.missing
    if count:
        common.min_num_values, common.max_num_values = shortest, longest
        common.avg_num_values = num_values / count
    common.tot_num_values = num_values
