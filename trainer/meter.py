"""How fast a training is, and how long it waits for its input."""

import math
import time
from typing import Any

import keras
import tensorflow as tf

_REMEMBERED = 64  # Batches; more are never under way at once.


class Meter(keras.callbacks.Callback):
    """Measures steps, from the second one on: the first is traced and compiled.

    A step waits while the loop has asked for it, every step before it is done, and its batch is not
    there. A device that still computes does not wait, whatever its host does.

    Attributes:
      num_steps: Steps of this epoch that were measured.
      seconds: How long they took.
      waited: Seconds of them that went into waiting for data.
      logs: The metrics after the last step.
    """

    async_safe = True  # On JAX, Keras then calls on_train_batch_end in a thread, after the step.

    def __init__(self, *, deterministic: bool = False):
        """Nothing is measured yet.

        Args:
          deterministic: Whether TensorFlow was told to be; it forbids its own clock then.
        """
        super().__init__()
        self._clock = _slow_clock if deterministic else tf.timestamp
        self.logs: dict[str, float] = {}
        with tf.device("CPU:0"):
            self._arrivals = tf.Variable(tf.zeros([_REMEMBERED], tf.float64), trainable=False)
        is_ahead = keras.backend.backend() == "jax" and _has_accelerator()
        self._num_ahead = 1 if is_ahead else 0  # Keras fetches one more batch before a step.
        self._num_fetched = 0  # Of the stream that is read.
        self._asked: dict[int, tuple[float, int]] = {}  # By step of the epoch: when, and which.
        self._done, self._measured_from = 0.0, math.inf
        self.num_steps, self.seconds, self.waited = 0, 0.0, 0.0

    def watch(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the batches, and notes when each of them is there."""

        def note(index: tf.Tensor, batch: Any) -> Any:
            place = tf.IndexedSlices(self._clock(), index % _REMEMBERED)
            with tf.control_dependencies([self._arrivals.scatter_update(place)]):
                return tf.nest.map_structure(tf.identity, batch)

        self._num_fetched = 0
        return batches.enumerate().map(note)

    @property
    def share_waited(self) -> float:
        """The share of the time that went into waiting for data."""
        return self.waited / self.seconds if self.seconds else 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts anew."""
        self._asked.clear()
        self._done, self._measured_from = 0.0, math.inf
        self.num_steps, self.seconds, self.waited = 0, 0.0, 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Notes when a batch is asked for."""
        self._asked[batch] = time.time(), self._num_fetched
        self._num_fetched += 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Notes when a step is done, and adds up how long it waited."""
        now = time.time()
        self.logs = logs or {}
        asked, index = self._asked.pop(batch)
        since = max(asked, self._done)
        self._done = max(self._done, now)
        if index == 0:
            return
        self._measured_from = min(self._measured_from, since)
        self.num_steps += 1
        self.seconds = self._done - self._measured_from
        arrived = self._arrivals.numpy()[(index + self._num_ahead) % _REMEMBERED]
        if since < arrived < now:
            self.waited += arrived - since


def _slow_clock() -> tf.Tensor:
    return tf.numpy_function(time.time, [], tf.float64)


def _has_accelerator() -> bool:
    return any(not name.startswith("cpu") for name in keras.distribution.list_devices())
