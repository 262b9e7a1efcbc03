"""What a user writes today to resize images and keep them as JPEG files in TFRecords.

    python -m benchmarks.peers.canonical_files FORM 'photos/*/*' 224 OUT

FORM is `loop`, one file after the other as tutorials do it, or `map`, the same ops in a
`tf.data` pipeline with AUTOTUNE. `OUT/examples-*.tfrecord` holds image and label. Prints one line:
images, seconds without imports, images/s.
"""

import glob
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

_QUALITY = 95


def encode(path: Any, size: int) -> Any:
    """Reads a file, resizes it to `size` pixels a side, and encodes it again."""
    image = tf.io.decode_jpeg(tf.io.read_file(path), 3)
    image = tf.image.resize(image, [size, size])
    return tf.io.encode_jpeg(tf.saturate_cast(tf.round(image), tf.uint8), quality=_QUALITY)


def example(data: bytes, label: int) -> bytes:
    """Returns a serialized tf.train.Example."""
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _loop(paths: list[str], labels: list[int], size: int) -> Iterator[tuple[bytes, int]]:
    for path, label in zip(paths, labels, strict=True):
        yield encode(path, size).numpy(), label


def _map(paths: list[str], labels: list[int], size: int) -> Iterable[tuple[bytes, int]]:
    encoded = tf.data.Dataset.from_tensor_slices((paths, labels)).map(
        lambda path, label: (encode(path, size), label), num_parallel_calls=tf.data.AUTOTUNE
    )
    return encoded.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def main(form: str, pattern: str, size: str, folder: str) -> None:
    """Times the writing of all files."""
    output = Path(folder)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    start = time.perf_counter()
    paths = sorted(glob.glob(pattern))
    names = [Path(path).parent.name for path in paths]
    classes = sorted(set(names))
    labels = [classes.index(name) for name in names]
    images = {"loop": _loop, "map": _map}[form](paths, labels, int(size))
    with tf.io.TFRecordWriter(str(output / "examples-00000.tfrecord")) as writer:
        for data, label in images:
            writer.write(example(data, int(label)))
    seconds = time.perf_counter() - start
    rate = len(paths) / seconds
    print(f"canonical files {form}: {len(paths)} images, {seconds:.1f} s, {rate:.1f} images/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
