"""What happens at the end of an epoch: a line for people, and the best weights so far."""

import math
import time
from typing import Any

import keras

from trainer.errors import DatasetError

_SHOWN = ("loss", "accuracy", "mae", "val_loss", "val_accuracy", "val_mae")


class EpochLog(keras.callbacks.Callback):
    """Prints a line per epoch, and ends with the weights that did best on validation.

    Best means the highest val_accuracy, then the lowest val_loss; without validation the last.

    Attributes:
      epochs: Per epoch the metrics, `seconds` with validation and `examples_per_second` without.
      best_epoch: From 1; the epoch whose weights the model has at the end.
    """

    def __init__(self, batch_size: int, *, verbose: bool):
        """Takes the number of examples in a step and whether to print."""
        super().__init__()
        self.epochs: list[dict[str, float]] = []
        self.best_epoch = 0
        self._batch_size = batch_size
        self._verbose = verbose
        self._best_score = (-math.inf, -math.inf)
        self._best_weights: list[Any] | None = None
        self._num_steps = 0
        self._began = self._trained = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        self._began, self._num_steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Counts steps; the validation comes after the last of them."""
        self._num_steps, self._trained = batch + 1, time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Notes and prints the metrics.

        Raises:
          DatasetError: The loss is no longer a number.
        """
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(metrics["loss"]):
            raise DatasetError(
                f"the loss is {metrics['loss']} after epoch {epoch + 1}. Take a lower "
                "--learning-rate, and look for extreme values in the features."
            )
        num_examples = self._num_steps * self._batch_size
        metrics["seconds"] = round(time.perf_counter() - self._began, 3)
        metrics["examples_per_second"] = round(num_examples / (self._trained - self._began), 1)
        self.epochs.append(metrics)
        self._keep_best(metrics)
        if self._verbose:
            print(_line(epoch + 1, self.params["epochs"], metrics), flush=True)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Puts the best weights back."""
        if self._best_weights is not None and self.best_epoch < len(self.epochs):
            self.model.set_weights(self._best_weights)

    def _keep_best(self, metrics: dict[str, float]) -> None:
        if "val_loss" not in metrics:
            self.best_epoch = len(self.epochs)
            return
        score = (metrics.get("val_accuracy", 0.0), -metrics["val_loss"])
        if score > self._best_score or self._best_weights is None:
            self._best_score, self.best_epoch = score, len(self.epochs)
            self._best_weights = self.model.get_weights()


def _line(epoch: int, num_epochs: int, metrics: dict[str, float]) -> str:
    width = len(str(num_epochs))
    shown = [f"{name} {_number(metrics[name])}" for name in _SHOWN if name in metrics]
    rate = f"{metrics['examples_per_second']:9,.0f} examples/s"
    return f"epoch {epoch:{width}d}/{num_epochs}  " + "  ".join([*shown, rate])


def _number(value: float) -> str:
    """Returns a metric in 6 columns or, where it is large, in a few more."""
    return f"{value:6.4f}" if abs(value) < 10 else f"{value:6.4g}"
