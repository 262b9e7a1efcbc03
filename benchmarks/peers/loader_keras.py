"""What a user of Keras writes today: JPEG files in class folders, decoded in every pass.

    python -m benchmarks.peers.loader_keras WHAT FOLDER

WHAT is `directory` (image_dataset_from_directory), `generator` (ImageDataGenerator) or `pydataset`
(a PyDataset with a thread a core). All give shuffled batches of normalized float32 images.
Prints one line: images, passes, images/s.
"""

import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.peers.loader_passes import BATCH_SIZE, SIZE, print_rate

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def _directory(folder: Path) -> Callable[[], Iterator[int]]:
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIZE, SIZE), batch_size=BATCH_SIZE, seed=0, verbose=False
    )
    layer = keras.layers.Rescaling((1 / 255 / _STD).tolist(), (-_MEAN / _STD).tolist())
    batches = dataset.map(
        lambda image, label: (layer(image), label), num_parallel_calls=tf.data.AUTOTUNE
    ).prefetch(tf.data.AUTOTUNE)
    return lambda: (len(label) for _, label in batches)


def _generator(folder: Path) -> Callable[[], Iterator[int]]:
    """Reads with one thread: the generator has no other way."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        preprocessing_function=lambda image: (image / 255 - _MEAN) / _STD
    )
    batches = generator.flow_from_directory(
        str(folder), target_size=(SIZE, SIZE), batch_size=BATCH_SIZE, interpolation="bilinear"
    )
    return lambda: (len(batches[index][1]) for index in range(len(batches)))


class _Photos(keras.utils.PyDataset):
    """Batches of photos, in another order in every pass."""

    def __init__(self, folder: Path, **options: Any):
        super().__init__(**options)
        self._paths = sorted(folder.glob("*/*"))
        classes = sorted({path.parent.name for path in self._paths})
        self._labels = {name: index for index, name in enumerate(classes)}

    def __len__(self) -> int:
        return math.ceil(len(self._paths) / BATCH_SIZE)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        paths = self._paths[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        labels = np.array([self._labels[path.parent.name] for path in paths])
        return np.stack([_photo(path) for path in paths]), labels

    def on_epoch_end(self) -> None:
        """Shuffles."""
        random.shuffle(self._paths)


def _photo(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return (np.asarray(resized, np.float32) / 255 - _MEAN) / _STD


class _Nothing(keras.Model):
    """A model that takes a batch and learns nothing: only `fit` starts a PyDataset's workers."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Returns the last label."""
        return {"label": data[1][-1]}


def _pydataset(folder: Path) -> Callable[[], Iterator[int]]:
    workers = len(os.sched_getaffinity(0))
    # Threads: Pillow decodes and resizes without the interpreter's lock, and processes are slower.
    photos = _Photos(folder, workers=workers, max_queue_size=2 * workers)
    model = _Nothing()
    model.built = True
    model.compile(run_eagerly=True)

    def one_pass() -> Iterator[int]:
        model.fit(photos, verbose=0)
        yield sum(1 for _ in folder.glob("*/*"))

    return one_pass


def main(what: str, folder: str) -> None:
    """Times the passes."""
    start = {"directory": _directory, "generator": _generator, "pydataset": _pydataset}
    print_rate(what, start[what](Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
