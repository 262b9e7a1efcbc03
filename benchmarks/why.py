"""One model under the statistics of headrace, of NumPy and of Keras: the table of docs/why.md.

    python -m benchmarks.why [--data DIR] [--work DIR]

50,000 images of 32x32 pixels, the size of CIFAR-10: those below DIR/cifar10/train/<class>, over and
over, or made ones. `headrace run` sums up all of them; so do NumPy, in float64, and Keras, each in
its ways. Then the same model is trained with each mean and standard deviation on the first 2,048
records: one dense layer that begins at 0, without anything random, in deterministic operations. It
is as small as that because in a deeper one the last bit of a mean changes the loss of the tenth
epoch, and no two curves can be compared.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks import inputs
from trainer import dataset_info, input_pipeline
from trainer.dataset_info import Feature, Normalization
from trainer.networks import images

NUM_IMAGES = 50_000
_NUM_TRAINED = 2_048
_BATCH_SIZE = 64
_LEARNING_RATE = 0.001
_EPOCHS = 10

_SPEC = """\
name = "why"

[source]
format = "images"
paths = [$path]

[split]
fractions = { train = 1.0 }

[features.image]
size = [32, 32]
channels = 3
featurewise_center = true
featurewise_std_normalization = true
store = "uint8"

[label]
from = "directory"
type = "class"

[output]
num_shards = 4
compression = "none"
"""

Moments = tuple[np.ndarray, np.ndarray]  # Mean and standard deviation: float64 (channels,).


def dataset(data: Path, work: Path) -> Path:
    """Repeats the images and runs headrace over them; returns the dataset folder."""
    files = len(list((data / "cifar10" / "train").glob("*/*.jpg")))
    source = inputs.cifar(data, work, NUM_IMAGES // files)
    spec = inputs.write_spec(_SPEC, source, "-why.toml")
    folder = spec.with_suffix("")
    command = [sys.executable, "-m", "headrace", "run", str(spec), "--output", str(folder)]
    subprocess.run([*command, "--quiet", "--overwrite"], check=True)
    return folder


def numpy_float64(pixels: np.ndarray) -> Moments:
    """Sums up in float64, for which 50,000 images are few."""
    axes = (0, 1, 2)
    return pixels.mean(axes, dtype=np.float64), pixels.std(axes, dtype=np.float64)


def adapt_to_array(pixels: np.ndarray) -> Moments:
    """`Normalization.adapt` of a float32 array."""
    return _adapted(pixels.astype(np.float32))


def adapt_to_dataset(pixels: np.ndarray) -> Moments:
    """`Normalization.adapt` of a tf.data.Dataset of batches."""
    batches = tf.data.Dataset.from_generator(
        lambda: iter(np.array_split(pixels, len(pixels) // 128)),
        output_signature=tf.TensorSpec((None, *pixels.shape[1:]), tf.uint8),
    )
    return _adapted(batches)


def image_data_generator(pixels: np.ndarray) -> Moments:
    """`ImageDataGenerator.fit`, which makes float32 of what it is given."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        featurewise_center=True, featurewise_std_normalization=True
    )
    generator.fit(pixels)
    return generator.mean.ravel().astype(np.float64), generator.std.ravel().astype(np.float64)


def _adapted(data: np.ndarray | tf.data.Dataset) -> Moments:
    layer = keras.layers.Normalization(axis=-1)
    layer.adapt(data)
    variance = np.asarray(layer.variance, np.float64)
    return np.asarray(layer.mean, np.float64).ravel(), np.sqrt(variance).ravel()


WAYS: dict[str, Callable[[np.ndarray], Moments]] = {
    "NumPy, float64": numpy_float64,
    "`Normalization.adapt(dataset)`": adapt_to_dataset,
    "`Normalization.adapt(float32 array)`": adapt_to_array,
    "`ImageDataGenerator.fit(array)`": image_data_generator,
}


def losses(
    pixels: np.ndarray, labels: np.ndarray, feature: Feature, moments: Moments
) -> list[float]:
    """Trains one dense layer on images that are normalized by these moments.

    Args:
      pixels: uint8 (examples, height, width, channels).
      labels: int64 (examples,).
      feature: The images in the manifest.
      moments: Of the pixels, from 0 to 255.

    Returns:
      The mean loss of each epoch.
    """
    mean, std = (tuple(map(float, values)) for values in moments)
    normalized = dataclasses.replace(feature, normalization=Normalization(1.0, mean, std))
    image = keras.Input(feature.shape, dtype="uint8")
    x = keras.layers.Flatten()(images.normalized(image, normalized))
    classes = int(labels.max()) + 1
    x = keras.layers.Dense(classes, activation="softmax", kernel_initializer="zeros")(x)
    model = keras.Model(image, x)
    model.compile(keras.optimizers.SGD(_LEARNING_RATE), "sparse_categorical_crossentropy")
    batches = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(_BATCH_SIZE)
    return model.fit(batches, epochs=_EPOCHS, shuffle=False, verbose=0).history["loss"]


def rows(folder: Path) -> Iterator[list[str]]:
    """Returns the table of a dataset: a title, and a row for each way to its statistics."""
    info = dataset_info.read(folder)
    feature = info.features["image"]
    options = input_pipeline.Options(training=False)
    (batch, labels), *_ = input_pipeline.load(info, "train", NUM_IMAGES, options)
    pixels, labels = batch["image"].numpy(), labels.numpy()
    ways = {"headrace": (feature.statistics["mean"], feature.statistics["std"])}
    ways |= {name: way(pixels) for name, way in WAYS.items()}
    yield ["statistics from", "mean", "std", "loss, epoch 1", "epoch 3", f"epoch {_EPOCHS}"]
    for name, (mean, std) in ways.items():
        curve = losses(pixels[:_NUM_TRAINED], labels[:_NUM_TRAINED], feature, (mean, std))
        moments = [" ".join(f"{value:.3f}" for value in values) for values in (mean, std)]
        yield [name, *moments, *(f"{curve[epoch - 1]:.6f}" for epoch in (1, 3, _EPOCHS))]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.why", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="cifar10/; made images without")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for inputs (default: temporary)")
    args = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        folder = dataset(args.data or inputs.made(work), work)
        for index, row in enumerate(rows(folder)):
            print(f"| {' | '.join(row)} |", flush=True)
            if not index:
                print("|---" * len(row) + "|")


if __name__ == "__main__":
    main()
