"""The manifest, the schema and the statistics file of a finished dataset."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from beam_jobs import keys
from beam_jobs.config import SPLITS, Column, Spec
from beam_jobs.shards import ShardInfo
from beam_jobs.summaries import Numbers, Texts
from beam_jobs.versions import versions

FILE = "dataset_info.json"
FORMAT_VERSION = 1


def manifest(
    spec: Spec,
    fingerprint: str,
    read: int,
    rejected: Mapping[str, int],
    shards: Mapping[str, list[ShardInfo]],
    class_counts: Mapping[str, Mapping[str, int]],
    features: Mapping[str, Any],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Returns what `dataset_info.json` says.

    Args:
      spec: The spec.
      fingerprint: Of the input.
      read: Records read.
      rejected: Records per reason.
      shards: Of each split, in order.
      class_counts: Of each split, by name of class.
      features: Of each feature what is stored.
      classes: The names behind the label's indices.
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
        if spec.label and spec.label.type == "class":
            entry["class_counts"] = {name: class_counts[split].get(name, 0) for name in classes}
        entry["shards"] = [shard.to_json() for shard in shards[split]]
        info["splits"][split] = entry
    if spec.label:
        info["label"] = _label(spec, classes)
    info["spec"] = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    info["versions"] = dict(versions())
    return info


def _label(spec: Spec, classes: tuple[str, ...]) -> dict[str, Any]:
    kind = spec.label.type if spec.label else "class"
    label: dict[str, Any] = {
        "name": "label",
        "dtype": "float32" if kind == "float32" else "int64",
        "type": kind,
    }
    if kind == "class":
        label["classes"] = list(classes)
    return label


def to_bytes(info: Mapping[str, Any]) -> bytes:
    """Returns the manifest as a JSON file.

    Raises:
      ValueError: A value is NaN or infinite, which JSON cannot hold.
    """
    return (json.dumps(info, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def column_entry(feature: Column, dtype: str, num_categories: int | None) -> dict[str, Any]:
    """Returns how the manifest describes the output of a column."""
    stored = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}
    entry: dict[str, Any] = {
        "dtype": dtype,
        "shape": [],
        "stored_as": stored[dtype],
        "normalized": bool(feature.transforms),
    }
    if num_categories is not None:
        entry["num_categories"] = num_categories
    return entry


def schema(info: Mapping[str, Any]) -> bytes:
    """Returns the tensorflow-metadata Schema of the stored features, as text."""
    kinds = {
        "float_list": schema_pb2.FLOAT,
        "int64_list": schema_pb2.INT,
        "bytes_list": schema_pb2.BYTES,
        "raw": schema_pb2.BYTES,
    }
    stored = dict(info["features"])
    if "label" in info:
        is_float = info["label"]["dtype"] == "float32"
        stored["label"] = {"stored_as": "float_list" if is_float else "int64_list"}
        if "classes" in info["label"]:
            stored["label"]["num_categories"] = len(info["label"]["classes"])
    message = schema_pb2.Schema()
    for name in sorted(stored):
        feature = message.feature.add(name=name, type=kinds[stored[name]["stored_as"]])
        feature.presence.min_fraction = 1.0
        feature.presence.min_count = 1
        feature.shape.SetInParent()  # A scalar; the bytes of an image are one value, too.
        if "num_categories" in stored[name]:
            feature.int_domain.min = 0
            feature.int_domain.max = max(0, stored[name]["num_categories"] - 1)
            feature.int_domain.is_categorical = True
    return text_format.MessageToString(message).encode()


def statistics(
    num_examples: Mapping[str, int], columns: Mapping[tuple[str, str], Numbers | Texts]
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
    dataset: statistics_pb2.DatasetFeatureStatistics, name: str, found: Numbers | Texts
) -> None:
    feature = dataset.features.add()
    feature.path.step.append(name)
    kinds = statistics_pb2.FeatureNameStatistics
    if isinstance(found, Texts):
        feature.type = kinds.STRING
        common = feature.string_stats.common_stats
        common.num_non_missing, common.num_missing = found.count, found.missing
        feature.string_stats.avg_length = found.bytes / found.count if found.count else 0.0
    else:
        feature.type = kinds.INT if isinstance(found.min, int) else kinds.FLOAT
        numbers, sums = feature.num_stats, found.moments
        common = numbers.common_stats
        common.num_non_missing, common.num_missing = sums.count, found.missing
        if sums.count:
            numbers.mean, numbers.std_dev = sums.mean, sums.std
            numbers.min, numbers.max = float(found.min or 0), float(found.max or 0)
            numbers.num_zeros = found.zeros
    if common.num_non_missing:
        common.min_num_values = common.max_num_values = 1
        common.avg_num_values = 1.0
    common.tot_num_values = common.num_non_missing
