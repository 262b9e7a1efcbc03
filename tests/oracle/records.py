"""Stored shards read back: framing by struct, CRCs by google_crc32c, values by TensorFlow."""

import gzip
import json
import struct
from pathlib import Path

import google_crc32c
import numpy as np


def stream(path: Path) -> bytes:
    """The uncompressed TFRecord stream of a shard."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frames(data: bytes) -> list[bytes]:
    """The records of a TFRecord stream.

    Raises:
      ValueError: a length, a CRC or the end of the stream is wrong.
    """
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        header, record = data[at : at + 8], data[at + 12 : at + 12 + length]
        (header_crc,) = struct.unpack_from("<I", data, at + 8)
        (record_crc,) = struct.unpack_from("<I", data, at + 12 + length)
        if header_crc != _masked_crc(header) or record_crc != _masked_crc(record):
            raise ValueError(f"wrong CRC in the frame at byte {at}")
        found.append(record)
        at += 16 + length
    if at != len(data):
        raise ValueError(f"{at - len(data)} bytes of the last frame are missing")
    return found


def parsed(path: Path, dtypes: dict[str, str]) -> dict[str, np.ndarray]:
    """The columns of a shard, by tf.data.TFRecordDataset and tf.io.parse_example alone."""
    import tensorflow as tf

    compression = "GZIP" if path.suffix == ".gz" else ""
    dataset = tf.data.TFRecordDataset(str(path), compression_type=compression)
    batches = [batch.numpy() for batch in dataset.batch(4096)]
    serialized = np.concatenate(batches) if batches else np.array([], object)
    spec = {name: tf.io.FixedLenFeature([], tf.as_dtype(dtypes[name])) for name in dtypes}
    values = tf.io.parse_example(tf.constant(serialized, tf.string), spec)
    return {name: value.numpy() for name, value in values.items()}


def names(record: bytes) -> dict[str, str]:
    """Feature name -> the kind of its list, of one serialized example."""
    import tensorflow as tf

    features = tf.train.Example.FromString(record).features.feature
    return {name: feature.WhichOneof("kind") for name, feature in features.items()}


def numbers(folder: Path) -> tuple[list[str], np.ndarray]:
    """The names of the shards of a folder, and the feature `number` of their records, in order."""
    shards = sorted(folder.glob("*.tfrecord"))
    parts = [parsed(shard, {"number": "int64"})["number"] for shard in shards]
    return [shard.name for shard in shards], np.concatenate(parts)


def described(folder: Path) -> dict:
    """How TensorFlow parses each feature of a dataset, as its manifest says."""
    import tensorflow as tf

    columns = {}
    for name, entry in json.loads((folder / "dataset_info.json").read_text())["features"].items():
        columns[name] = tf.io.FixedLenFeature(entry["shape"], tf.as_dtype(entry["dtype"]))
        if entry["stored_as"] == "sparse":
            keys, (size,) = (f"{name}/indices", f"{name}/values"), entry["shape"]
            columns[name] = tf.io.SparseFeature(*keys, tf.float32, size, already_sorted=True)
    return columns


def dense(value) -> np.ndarray:
    """A tensor, or a sparse one with its zeros."""
    import tensorflow as tf

    return (tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value).numpy()


def by_id(folder: Path, columns: dict | None = None) -> dict[str, np.ndarray]:
    """All records of a folder of shards, in the order of the feature `id`.

    Args:
      folder: The dataset.
      columns: Name -> how tf.io.parse_example parses it, or the dtype of a single value; without
        them, what the manifest describes.
    """
    import tensorflow as tf

    given = {"id": "int64"} | (described(folder) if columns is None else columns)
    spec = {n: tf.io.FixedLenFeature([], c) if isinstance(c, str) else c for n, c in given.items()}
    shards = sorted(folder.glob("*.tfrecord"))
    serialized = [record for shard in shards for record in frames(stream(shard))]
    found = {n: dense(v) for n, v in tf.io.parse_example(tf.constant(serialized), spec).items()}
    order = np.argsort(found["id"])
    return {name: column[order] for name, column in found.items()}
