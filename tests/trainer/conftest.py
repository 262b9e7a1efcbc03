"""Dataset folders made by hand: nothing here comes from the code under test."""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf


def _feature(value) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, np.ndarray):
        return _feature(value.tobytes())
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
) -> Path:
    """Writes records (round robin over shards, an empty last shard of train) and the manifest."""
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
            with tf.io.TFRecordWriter(str(directory / file), options) as writer:
                for record in mine:
                    writer.write(_serialized(record))
            data = (directory / file).read_bytes()
            crc = f"{google_crc32c.value(data):08x}"
            shards.append(
                {"file": file, "num_examples": len(mine), "bytes": len(data), "crc32c": crc}
            )
        manifest_splits[split] = {"num_examples": len(records), "shards": shards}
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
