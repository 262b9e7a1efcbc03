"""A model that remembers which records it was trained on, and everything that a checkpoint needs.

For `headrace train --model oracle.recording:build`.
"""

import os
import signal

import keras
import numpy as np

MAX_STEPS = 1_000


@keras.saving.register_keras_serializable("headrace_tests")
class Seen(keras.layers.Layer):
    """Notes the keys of each training batch in a weight: int32 (steps, batch), in their order."""

    def build(self, shape):
        size = (MAX_STEPS, shape[0])
        self.rows = self.add_weight(size, "zeros", "int32", trainable=False, name="rows")
        self.count = self.add_weight((), "zeros", "int32", trainable=False, name="count")

    def call(self, keys, training=False):
        keys = keras.ops.cast(keys, "int32")
        if training:
            rows, count = map(keras.ops.convert_to_tensor, (self.rows, self.count))
            is_next = keras.ops.equal(keras.ops.arange(MAX_STEPS), count)[:, None]
            self.rows.assign(keras.ops.where(is_next, keys[None], rows))
            self.count.assign(count + 1)
        return keras.ops.zeros_like(keras.ops.cast(keys, "float32"))[:, None]


class ToldToEnd(keras.layers.Dense):
    """Gets SIGTERM while it is saved."""

    def save_own_variables(self, store):
        os.kill(os.getpid(), signal.SIGTERM)
        super().save_own_variables(store)


def told_to_end(info):
    """A model that is told to end while it is saved."""
    size = keras.Input((), name="size")
    x = keras.layers.Reshape((1,))(size)
    return keras.Model({"size": size}, ToldToEnd(len(info.label.classes), "softmax")(x))


def build(info):
    """Dropout and batch normalization, whose state Keras keeps beside the weights."""
    return _network(info, batch_size=16)


def diverging(info):
    """A learning rate with which the loss is soon no number."""
    network = _network(info, batch_size=16)
    network.compile(keras.optimizers.SGD(1e30), "sparse_categorical_crossentropy")
    return network


def _network(info, batch_size):
    key = keras.Input((), batch_size=batch_size, name="key", dtype="int64")
    size = keras.Input((), batch_size=batch_size, name="size")
    x = keras.layers.Concatenate()([keras.layers.Reshape((1,))(size), Seen(name="seen")(key)])
    x = keras.layers.Dense(32, activation="relu")(x)
    x = keras.layers.Dropout(0.3)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(len(info.label.classes), activation="softmax")(x)
    return keras.Model({"key": key, "size": size}, x)


def keys_seen(model_path):
    """Returns the keys of each step of a saved model: int32 (steps, batch)."""
    rows, count = keras.models.load_model(model_path).get_layer("seen").get_weights()
    return np.array(rows[: int(count)])
