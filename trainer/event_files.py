"""Event files for TensorBoard, which is needed to look at them and not to write them."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import checkpoints
from trainer.config import Config

_MAX_IMAGES = 16


class EventFiles(keras.callbacks.Callback):
    """Writes the metrics of each epoch, and the images of a batch as the network sees them.

    The axis is the number of steps; validation has the names of the training's metrics.
    """

    def __init__(self, folder: str, batch: Any, config: Config):
        """Takes where to write.

        Args:
          folder: For the event files, one for each process.
          batch: (features, label): one of those that the network is trained on.
          config: How it is trained.
        """
        super().__init__()
        self._writers = {
            "": tf.summary.create_file_writer(f"{folder}/train"),
            "val_": tf.summary.create_file_writer(f"{folder}/validation"),
        }
        self._features, self._has_images = batch[0], False
        self._config = config

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Writes the images, before the first step."""
        if self._has_images:
            return
        self._has_images = True
        with self._writers[""].as_default():
            read = "stored" if self._config.augmentation is None else "augmented"
            for name, values in _images(self.model, self._features, read).items():
                _write_images(name, values)
            self._writers[""].flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the metrics and the learning rate."""
        step = min((epoch + 1) * self._config.steps_per_epoch, self._config.steps)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        for name, value in {**(logs or {}), "learning_rate": rate}.items():
            prefix = "val_" if name.startswith("val_") else ""
            with self._writers[prefix].as_default():
                _write_scalar(name.removeprefix("val_"), float(value), step)
        for writer in self._writers.values():
            writer.flush()


def _images(network: keras.Model, features: Any, read: str) -> dict[str, np.ndarray]:
    """Returns the images of a batch as read, and as they are where the network still has them.

    That is the last operation with the shape of an image: behind normalization and augmentation.
    """
    if not isinstance(features, dict):
        return {}
    images = {name: np.asarray(v) for name, v in features.items() if len(v.shape) == 4}
    found = {f"{name}/{read}": values for name, values in images.items()}
    for name, values in images.items():
        shape = (None, *values.shape[1:])
        alike = [each for each in getattr(network, "operations", []) if _shape(each) == shape]
        if not alike or not isinstance(network.input, dict):
            continue
        part = keras.Model(network.input, alike[-1].output)
        states = [keras.ops.convert_to_numpy(v) for v in part.variables]
        given = {each: np.asarray(features[each])[:_MAX_IMAGES] for each in network.input}
        found[f"{name}/in_training"] = keras.ops.convert_to_numpy(part(given, training=True))
        checkpoints.assign(part.variables, states)  # As if nobody had looked.
    return found


def _shape(operation: keras.Operation) -> Any:
    """Returns the shape of an operation's output; None where it has several or none."""
    try:
        return tuple(operation.output.shape)
    except (AttributeError, ValueError):
        return None


def _write_images(name: str, values: np.ndarray) -> None:
    """Writes (batch, height, width, channels) as PNG; floats are stretched to 0 to 255."""
    values = values[:_MAX_IMAGES]
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = ((values - low) * (255 / ((high - low) or 1.0))).round().astype(np.uint8)
    height, width, channels = values.shape[1:]
    if channels not in (1, 3, 4):
        values = values[..., :1]
    files = [tf.io.encode_png(value).numpy() for value in values]
    content = [str(width).encode(), str(height).encode(), *files]
    tf.summary.write(name, tf.constant(content), step=0, metadata=_metadata("images", 3))


def _write_scalar(name: str, value: float, step: int) -> None:
    if math.isfinite(value):
        tf.summary.write(name, value, step=step, metadata=_metadata("scalars", 1))


def _metadata(plugin: str, data_class: int) -> Any:
    """Says how TensorBoard is to show it: 1 is a scalar, 3 a sequence of files."""
    metadata = tf.compat.v1.SummaryMetadata(data_class=data_class)
    metadata.plugin_data.plugin_name = plugin
    return metadata
