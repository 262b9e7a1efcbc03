"""Many small files become a few TFRecords of 100 MB. What does it save?

    python make_data.py cifar10 3000
    headrace run files.toml --output out/files
    python files.py

Takes about 60 s without the drawing. Prints, of 30,000 files of 1 KB on a local disk, while other
programs shared the 4 cores:

    30,000 files became 1 of 94 MB
    images/s         from disk   from memory
    single files         9,661        23,504
    TFRecords           27,871        31,937
    load()              71,338        87,121
"""

import os
import time
from pathlib import Path

import tensorflow as tf

from trainer.input_pipeline import load

AUTOTUNE = tf.data.AUTOTUNE
BATCH_SIZE = 256
PASSES = 3


def decode(path):
    """Reads one small file, as tutorials do."""
    return tf.io.decode_jpeg(tf.io.read_file(path), 3)


def parse(record):
    """Takes an image out of a record."""
    example = tf.io.parse_single_example(record, {"image": tf.io.FixedLenFeature([], tf.string)})
    return tf.reshape(tf.io.decode_raw(example["image"], tf.uint8), [32, 32, 3])


def forget(paths):
    """Has Linux drop files from memory, as if there were more of them than it has room for."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_of(batches, paths=()):
    """Returns the seconds of the fastest of a few passes; `paths` are forgotten before each."""
    seconds = []
    for _ in range(PASSES):
        forget(paths)
        start = time.perf_counter()
        for _ in batches:
            pass
        seconds.append(time.perf_counter() - start)
    return min(seconds)


files = sorted(map(str, Path("data/cifar10/train").glob("*/*.jpg")))
shards = sorted(map(str, Path("out/files").glob("train-*")))
megabytes = sum(os.path.getsize(shard) for shard in shards) / 1e6
print(f"{len(files):,} files became {len(shards)} of {megabytes / len(shards):.0f} MB")

images = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).map(decode, AUTOTUNE)
records = tf.data.TFRecordDataset(shards, num_parallel_reads=AUTOTUNE).map(parse, AUTOTUNE)
ways = {
    "single files": (images.batch(BATCH_SIZE).prefetch(AUTOTUNE), files),
    "TFRecords": (records.batch(BATCH_SIZE).prefetch(AUTOTUNE), shards),
    "load()": (load("out/files", "train", BATCH_SIZE), shards),  # Shuffled, labeled, checked.
}
print(f"{'images/s':14}{'from disk':>12}{'from memory':>14}")
for name, (batches, paths) in ways.items():
    disk, memory = (len(files) / seconds_of(batches, forgotten) for forgotten in (paths, ()))
    print(f"{name:14}{disk:12,.0f}{memory:14,.0f}")
