"""The product's loader, and what it is measured against: reading the same files.

    python -m benchmarks.peers.loader_headrace WHAT DATASET [--cold]

WHAT is `read` (the bytes in pieces of 1 MB and nothing else: the limit), `tfrecord` (tf.data's
reader alone), `uint8` or `table` (shuffled batches as they are stored), `jpeg` (the same, decoded
and cropped), `normalized` (each batch through the model's own first layer, compiled as Keras
compiles a training step) or `normalized_in_map` (that layer in the pipeline, as a user may have
it). --cold has the system forget the files before each pass. Prints one line: examples of `train`
in a pass, passes, examples/s.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from benchmarks.peers.loader_passes import KINDS, SIZE, batch_size, print_rate
from trainer import dataset_info, input_pipeline, model
from trainer.dataset_info import DatasetInfo

_PIECE_BYTES = 1 << 20


def normalizer(info: DatasetInfo) -> keras.Layer:
    """Returns the layer with which the default model normalizes the feature `image`."""
    return model.build(info).get_layer("image_normalized")


def _read(info: DatasetInfo) -> Iterator[int]:
    for shard in info.split("train").shards:
        with open(info.path(shard), "rb", buffering=0) as file:
            while file.read(_PIECE_BYTES):
                pass
        yield shard.num_examples


def _tfrecord(info: DatasetInfo) -> Iterator[int]:
    for batch in tf.data.TFRecordDataset(_files(info)).batch(batch_size("uint8")):
        yield len(batch)


def _batches(what: str, info: DatasetInfo) -> tf.data.Dataset:
    options = input_pipeline.Options(crop=(SIZE, SIZE) if what == "jpeg" else None)
    return input_pipeline.load(info, "train", batch_size(what), options)


def _normalized(batches: tf.data.Dataset, normalize: Callable[[Any], Any]) -> Iterator[int]:
    for features, label in batches:
        normalize(features["image"])
        yield len(label)


def _files(info: DatasetInfo) -> Sequence[str]:
    return [info.path(shard) for shard in info.split("train").shards]


def _forget(info: DatasetInfo) -> None:
    """Has the system drop the files from its page cache."""
    for path in _files(info):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _passes(what: str, info: DatasetInfo) -> Callable[[], Iterator[int]]:
    """Returns what starts a pass."""
    if what == "read":
        return lambda: _read(info)
    if what == "tfrecord":
        return lambda: _tfrecord(info)
    batches = _batches(what, info)
    if not what.startswith("normalized"):
        return lambda: (len(label) for _, label in batches)
    layer = normalizer(info)
    if what == "normalized":
        normalize = tf.function(layer, jit_compile=True)
        return lambda: _normalized(batches, normalize)
    mapped = batches.map(
        lambda features, label: (layer(features["image"]), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(2)
    return lambda: (len(label) for _, label in mapped)


def main() -> None:
    """Reads the command line, and times the passes."""
    parser = argparse.ArgumentParser()
    what = ["read", "tfrecord", "normalized_in_map", *KINDS]
    parser.add_argument("what", choices=what)
    parser.add_argument("dataset")
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    info = dataset_info.read(args.dataset)
    before = (lambda: _forget(info)) if args.cold else bool
    print_rate(args.what, _passes(args.what, info), before)


if __name__ == "__main__":
    main()
