"""grain over array_record: decoded images, read by grain's own threads.

    python -m benchmarks.peers.loader_grain DATASET FILE

Writes the images of `train` into FILE first, not timed; a pass reads them in a random order and
normalizes with NumPy. Threads are faster here than processes (`mp_prefetch`): those hand float32
images over. Prints one line: images, passes, images/s.
"""

import sys
from collections.abc import Iterator

import grain
import numpy as np
import tensorflow as tf
from array_record.python import array_record_module

from benchmarks.peers.loader_passes import BATCH_SIZE, SIZE, print_rate
from trainer import dataset_info
from trainer.dataset_info import DatasetInfo

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def write(info: DatasetInfo, path: str) -> None:
    """Writes images as uint8 pixels and one byte of label, uncompressed."""
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1,uncompressed")
    files = [info.path(shard) for shard in info.split("train").shards]
    for serialized in tf.data.TFRecordDataset(files).as_numpy_iterator():
        values = tf.train.Example.FromString(serialized).features.feature
        label = values["label"].int64_list.value[0] % 256
        writer.write(values["image"].bytes_list.value[0] + bytes([label]))
    writer.close()


def _parse(record: bytes) -> tuple[np.ndarray, int]:
    image = np.frombuffer(record, np.uint8, count=SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
    return (image / np.float32(255) - _MEAN) / _STD, record[-1]


def main(dataset: str, path: str) -> None:
    """Times the passes."""
    write(dataset_info.read(dataset), path)
    source = grain.sources.ArrayRecordDataSource(path)
    epochs = grain.MapDataset.source(source).seed(0).shuffle().repeat().map(_parse)
    # One iterator for all passes: starting the threads is not timed.
    batches = iter(epochs.batch(BATCH_SIZE).to_iter_dataset())

    def one_pass() -> Iterator[int]:
        return (len(next(batches)[1]) for _ in range(len(source) // BATCH_SIZE))

    print_rate("grain", one_pass)


if __name__ == "__main__":
    main(*sys.argv[1:])
