"""Writes examples in the forms that the loaders read; nothing of this is timed.

    python -m benchmarks.peers.loader_forms SOURCE FOLDER

SOURCE is a dataset folder, of which `train` is taken, or class folders of JPEG files. FOLDER gets
an ArrayRecord for grain and tar files for WebDataset, where these are installed; from a dataset a
NumPy file of each column for PyDataset, and from a table CSV files for tf.data; from JPEG files
`dataset`, a dataset folder that holds them as they are.
"""

import importlib.util
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

from trainer import dataset_info
from trainer.dataset_info import LABEL, DatasetInfo, Feature

_NUM_FILES = 8  # CSV and tar files: two for each of four readers.
_NUM_SHARDS = 4

Columns = Mapping[str, np.ndarray]


def _read(info: DatasetInfo) -> Columns:
    """Returns the values of train: arrays (num_examples, *shape) by name."""
    files = [info.path(shard) for shard in info.split("train").shards]
    compression = "GZIP" if info.compression == "gzip" else ""
    serialized = list(tf.data.TFRecordDataset(files, compression).as_numpy_iterator())
    stored: dict[str, Any] = {name: _stored(feature) for name, feature in info.features.items()}
    stored[LABEL] = tf.io.FixedLenFeature([], tf.int64)
    values = {name: v.numpy() for name, v in tf.io.parse_example(serialized, stored).items()}
    for name, feature in info.features.items():
        if feature.stored_as == "raw":
            pixels = np.frombuffer(b"".join(values[name]), feature.dtype)
            values[name] = pixels.reshape(-1, *feature.shape)
    return values


def _stored(feature: Feature) -> tf.io.FixedLenFeature:
    dtypes = {"raw": tf.string, "float_list": tf.float32, "int64_list": tf.int64}
    shape = () if feature.stored_as == "raw" else feature.shape
    return tf.io.FixedLenFeature(shape, dtypes[feature.stored_as])


def _read_files(paths: Sequence[Path]) -> Columns:
    """Returns the bytes of files, objects (num_files,), and the indices of their folders."""
    classes = _classes(paths)
    files = np.empty(len(paths), object)
    files[:] = [path.read_bytes() for path in paths]
    labels = np.array([classes.index(path.parent.name) for path in paths], np.int64)
    return {"image": files, LABEL: labels}


def _classes(paths: Sequence[Path]) -> list[str]:
    return sorted({path.parent.name for path in paths})


def _write_columns(columns: Columns, folder: Path) -> None:
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)


def _write_csv(columns: Columns, folder: Path) -> None:
    rows = list(zip(*(column.tolist() for column in columns.values()), strict=True))
    for index in range(_NUM_FILES):
        lines = [",".join(columns), *(",".join(map(str, row)) for row in rows[index::_NUM_FILES])]
        (folder / f"train-{index:05d}.csv").write_text("\n".join(lines) + "\n")


def _write_array_record(columns: Columns, folder: Path) -> None:
    """Writes the bytes of images and their labels, or of rows, and their dtype into `row.npy`."""
    from array_record.python import array_record_module

    # A record a group, as grain's documents advise for reading in a random order.
    path = str(folder / "train.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1,uncompressed")
    for record in _images(columns) if "image" in columns else _rows(columns, folder):
        writer.write(record)
    writer.close()


def _images(columns: Columns) -> Iterator[bytes]:
    for image, label in zip(columns["image"], columns[LABEL], strict=True):
        yield bytes(image) + label.tobytes()


def _rows(columns: Columns, folder: Path) -> Iterator[bytes]:
    dtype = np.dtype([(name, column.dtype) for name, column in columns.items()])
    np.save(folder / "row.npy", np.empty(0, dtype))
    rows = np.empty(len(columns[LABEL]), dtype)
    for name, column in columns.items():
        rows[name] = column
    return (row.tobytes() for row in rows)


def _write_tars(columns: Columns, folder: Path) -> None:
    import webdataset

    num_examples = len(columns[LABEL])
    for index in range(_NUM_FILES):
        with webdataset.TarWriter(str(folder / f"train-{index:05d}.tar")) as tar:
            for number in range(index, num_examples, _NUM_FILES):
                tar.write({"__key__": f"{number:08d}", **_files(columns, number)})


def _files(columns: Columns, number: int) -> dict[str, bytes]:
    """Returns an example as a user of WebDataset puts it into a tar file: bytes by suffix."""
    if "image" in columns:
        image, label = columns["image"][number], columns[LABEL][number]
        return {"jpg" if isinstance(image, bytes) else "raw": bytes(image), "cls": b"%d" % label}
    row = {name: column[number].item() for name, column in columns.items()}
    return {"json": json.dumps(row).encode()}


def _write_dataset(columns: Columns, classes: Sequence[str], dataset: Path) -> None:
    """Writes a dataset folder of JPEG files of one size."""
    dataset.mkdir(exist_ok=True)
    shards = []
    for index in range(_NUM_SHARDS):
        file = dataset / f"train-{index:05d}-of-{_NUM_SHARDS:05d}.tfrecord"
        images, labels = (columns[name][index::_NUM_SHARDS] for name in ("image", LABEL))
        with tf.io.TFRecordWriter(str(file)) as writer:
            for image, label in zip(images, labels, strict=True):
                writer.write(_example(image, label))
        data = file.read_bytes()
        crc = f"{google_crc32c.value(data):08x}"
        shards.append(
            {"file": file.name, "num_examples": len(images), "bytes": len(data), "crc32c": crc}
        )
    shape = tf.io.decode_jpeg(columns["image"][0]).shape
    feature = {"dtype": "uint8", "shape": list(shape), "stored_as": "jpeg", "normalized": False}
    manifest = {
        "format_version": 1,
        "name": "jpegs",
        "spec_digest": "",
        "compression": "none",
        "splits": {"train": {"num_examples": len(columns[LABEL]), "shards": shards}},
        "features": {"image": feature},
        "label": {"name": LABEL, "dtype": "int64", "type": "class", "classes": classes},
    }
    (dataset / "dataset_info.json").write_text(json.dumps(manifest))


def _example(image: bytes, label: int) -> bytes:
    values = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


def write(source: Path, folder: Path) -> None:
    """Writes every form that can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    if (source / dataset_info.FILE_NAME).exists():
        columns = _read(dataset_info.read(source))
        _write_columns(columns, folder)
        if "image" not in columns:
            _write_csv(columns, folder)
    else:
        paths = sorted(source.glob("*/*"))
        random.Random(0).shuffle(paths)  # `headrace run` writes in a random order, too.
        columns = _read_files(paths)
        _write_dataset(columns, _classes(paths), folder / "dataset")
    if importlib.util.find_spec("array_record"):
        _write_array_record(columns, folder)
    if importlib.util.find_spec("webdataset"):
        _write_tars(columns, folder)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
