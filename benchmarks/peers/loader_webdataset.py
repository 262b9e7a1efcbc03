"""WebDataset over tar files of decoded images, read by this one process.

    python -m benchmarks.peers.loader_webdataset DATASET FOLDER

Writes the images of `train` into FOLDER first, a tar file for each shard, not timed; a pass reads
them in a random order, shuffles in a buffer and normalizes with NumPy. More processes need
PyTorch's DataLoader. Prints one line: images, passes, images/s.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import webdataset

from benchmarks.peers.loader_passes import BATCH_SIZE, SIZE, print_rate
from trainer import dataset_info
from trainer.dataset_info import DatasetInfo

_BUFFER = 1_000  # Images: WebDataset's own documents advise as many.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def write(info: DatasetInfo, folder: Path) -> list[str]:
    """Writes images as uint8 pixels, and returns the tar files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, shard in enumerate(info.split("train").shards):
        paths.append(str(folder / f"train-{index:05d}.tar"))
        with webdataset.TarWriter(paths[-1]) as tar:
            examples = tf.data.TFRecordDataset(info.path(shard)).as_numpy_iterator()
            for number, serialized in enumerate(examples):
                values = tf.train.Example.FromString(serialized).features.feature
                tar.write(
                    {
                        "__key__": f"{index:05d}-{number:08d}",
                        "raw": values["image"].bytes_list.value[0],
                        "cls": str(values["label"].int64_list.value[0]),
                    }
                )
    return paths


def _parse(sample: dict[str, Any]) -> tuple[np.ndarray, int]:
    image = np.frombuffer(sample["raw"], np.uint8).reshape(SIZE, SIZE, 3)
    return (image / np.float32(255) - _MEAN) / _STD, int(sample["cls"])


def main(dataset: str, folder: str) -> None:
    """Times the passes."""
    paths = write(dataset_info.read(dataset), Path(folder))
    batches = (
        webdataset.WebDataset(paths, shardshuffle=len(paths))
        .shuffle(_BUFFER)
        .map(_parse)
        .batched(BATCH_SIZE)
    )

    def one_pass() -> Iterator[int]:
        return (len(label) for _, label in batches)

    print_rate("webdataset", one_pass)


if __name__ == "__main__":
    main(*sys.argv[1:])
