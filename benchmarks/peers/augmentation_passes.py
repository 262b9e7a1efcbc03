"""One side of `benchmarks.augmentation`.

    python -m benchmarks.peers.augmentation_passes WHAT DATASET

WHAT is `headrace` (the loader, with an augmentation), `plain` (the loader without), `generator`
(ImageDataGenerator with the same arguments, over an array of the same images in memory) or `layers`
(Keras' layers behind the plain loader). Prints one line: examples of `train` in a pass, passes,
examples/s.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.peers.loader_keras import _CORES, _fitted
from benchmarks.peers.loader_passes import batch_size, print_rate
from trainer import input_pipeline
from trainer.augmentation import Augmentation
from trainer.input_pipeline import Options

ASKED: dict[str, Any] = {
    "rotation_range": 20,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
    "shear_range": 10,
    "zoom_range": 0.1,
    "horizontal_flip": True,
}


def _loaded(dataset: str, augmentation: Augmentation | None = None) -> tf.data.Dataset:
    options = Options(augmentation=augmentation)
    return input_pipeline.load(dataset, "train", batch_size("uint8"), options)


def _layers(dataset: str) -> tf.data.Dataset:
    """Returns what Keras' layers make of float32; there is one for each argument."""
    layers = [
        keras.layers.RandomRotation(20 / 360, "nearest"),
        keras.layers.RandomTranslation(0.1, 0.1, "nearest"),
        keras.layers.RandomShear(0.1, 0.1, fill_mode="nearest"),
        keras.layers.RandomZoom(0.1, 0.1, "nearest"),
        keras.layers.RandomFlip("horizontal"),
    ]

    def through(features: dict[str, tf.Tensor], label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cast(features["image"], tf.float32)
        for layer in layers:
            image = layer(image, training=True)
        return image, label

    batches = _loaded(dataset).map(through, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def _generator(dataset: str) -> Callable[[], Iterator[int]]:
    read = list(_loaded(dataset).as_numpy_iterator())
    images = np.concatenate([features["image"] for features, _ in read])
    labels = np.concatenate([label for _, label in read])
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(**ASKED)
    batches = generator.flow(images, labels, batch_size("uint8"))
    batches.workers = _CORES
    return _fitted(batches, len(images))


def _passes(what: str, dataset: str) -> Callable[[], Iterator[int]]:
    if what == "generator":
        return _generator(dataset)
    if what == "layers":
        batches = _layers(dataset)
    else:
        asked = Augmentation(**ASKED) if what == "headrace" else None
        batches = _loaded(dataset, asked)
    return lambda: (len(label) for _, label in batches)


if __name__ == "__main__":
    print_rate(sys.argv[1], _passes(*sys.argv[1:]))
