"""Dataset folders made by hand: nothing here comes from the code under test."""

import collections
import itertools
import json
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf


def _feature(value) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, np.ndarray):
        return _feature(value.tobytes())
    if isinstance(value, list) and isinstance(value[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    if isinstance(value, list):
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    if isinstance(value, int | np.integer):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[float(value)]))


def _serialized(record: dict) -> bytes:
    features = tf.train.Features(feature={name: _feature(v) for name, v in record.items()})
    return tf.train.Example(features=features).SerializeToString()


def write_dataset_folder(
    directory: Path,
    splits: dict[str, list[dict]],
    features: dict[str, dict],
    label: dict | None,
    *,
    compression: str = "none",
    num_shards: int = 2,
    name: str = "handmade",
    index_every: int | None = None,
) -> Path:
    """Writes records (round robin over shards, an empty last shard of train) and the manifest.

    With `index_every`, every so many records of a shard are one that can be read at once.
    """
    directory.mkdir(parents=True, exist_ok=True)
    options = tf.io.TFRecordOptions("GZIP" if compression == "gzip" else "")
    suffix = ".gz" if compression == "gzip" else ""
    manifest_splits = {}
    for split, records in splits.items():
        shards = []
        total = num_shards + (split == "train")
        for index in range(total):
            file = f"{split}-{index:05d}-of-{total:05d}.tfrecord{suffix}"
            mine = records[index::num_shards] if index < num_shards else []
            serialized = [_serialized(record) for record in mine]
            with tf.io.TFRecordWriter(str(directory / file), options) as writer:
                for example in serialized:
                    writer.write(example)
            data = (directory / file).read_bytes()
            crc = f"{google_crc32c.value(data):08x}"
            shard = {"file": file, "num_examples": len(mine), "bytes": len(data), "crc32c": crc}
            if index_every:
                starts = [0, *itertools.accumulate(len(example) + 16 for example in serialized)]
                places = range(index_every, len(mine), index_every)
                shard["index"] = " ".join(f"{place}:{starts[place]}" for place in places)
            shards.append(shard)
        manifest_splits[split] = {"num_examples": len(records), "shards": shards}
        if label and label["type"] == "class":
            counts = collections.Counter(record["label"] for record in records)
            manifest_splits[split]["class_counts"] = {
                name: counts[index] for index, name in enumerate(label["classes"])
            }
    manifest = {
        "format_version": 1,
        "name": name,
        "spec_digest": "00ff",
        "compression": compression,
        "splits": manifest_splits,
        "features": features,
    }
    if label:
        manifest["label"] = label
    (directory / "dataset_info.json").write_text(json.dumps(manifest))
    return directory


@pytest.fixture(name="write_dataset", scope="session")
def fixture_write_dataset():
    return write_dataset_folder
