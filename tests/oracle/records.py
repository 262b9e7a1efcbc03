"""Stored shards read back: framing by struct, CRCs by google_crc32c, values by TensorFlow."""

import gzip
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
