"""When a training is saved, and that it ends where it was told to."""

import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from trainer import checkpoints
from trainer.checkpoints import Checkpoint, Position
from trainer.config import Config
from trainer.distribution import Spread
from trainer.epoch_log import EpochLog
from trainer.errors import DatasetError
from trainer.stopping import StopRequest

_SECONDS = 60.0
_SECONDS_AT_THE_END_OF_AN_EPOCH = 10.0
_TIMES_AS_LONG_AS_SAVING = 20  # Between two checkpoints: large ones take at most 5 % of the time.


class Saver(keras.callbacks.Callback):
    """Writes checkpoints between steps, and stops after a step when it is asked to.

    Several hosts save after the same step, since TensorFlow adds up their metrics for that: every
    so many steps, or at the ends of epochs. Asked to stop, each of them stops at once.
    """

    def __init__(
        self,
        folder: str,
        run: Mapping[str, Any],
        config: Config,
        spread: Spread,
        epoch_log: EpochLog,
        request: StopRequest,
        every: int | None = None,
    ):
        """Takes what goes into a checkpoint.

        Args:
          folder: The model's.
          run: What the training is.
          config: How long it is.
          spread: Who takes part.
          epoch_log: Where the metrics and the best weights are.
          request: Whether to stop.
          every: Save after each so many steps; None: by time.
        """
        super().__init__()
        self._folder, self._run, self._config, self._spread = folder, run, config, spread
        self._epoch_log, self._request, self._every = epoch_log, request, every
        self._first: Position | None = None  # Where this process began.
        self._begun = Position()  # Where the call of `fit` began that goes on.
        self._metrics: list[np.ndarray] | None = None
        self._epoch = self._num_saved = 0
        self._saved_at, self._saving_seconds = time.monotonic(), 0.0

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Goes on from a checkpoint, with the metrics of its epoch if that is not over."""
        if checkpoint:
            if checkpoint.position.step:
                self._metrics = checkpoint.variables["metrics"]
            self._num_saved = self._steps_until(checkpoint.position)

    def begin(self, position: Position) -> None:
        """Says where the next call of `fit` begins."""
        self._first, self._begun = self._first or position, position

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Goes on with the metrics of an epoch: `fit` has just reset them."""
        self._epoch = epoch
        if self._metrics is not None:
            checkpoints.assign(self.model.metrics_variables, self._metrics)
            self._metrics = None

    # Not on_train_batch_end: Keras waits for the device before it calls that.
    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Saves before a step what the steps before it made.

        Raises:
          DatasetError: It cannot be saved, or the weights are no longer numbers.
          KeyboardInterrupt: There was Ctrl-C.
          Terminated: There was SIGTERM.
        """
        first = self._begun.step if self._epoch == self._begun.epoch else 0
        position = Position(self._epoch, first + batch)
        if self._request or (batch and self._is_due(position, _SECONDS)):
            self._save(position)

    def on_test_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stops without saving: the validation would be in vain anyway, and has lost the metrics.

        Raises:
          KeyboardInterrupt: There was Ctrl-C.
          Terminated: There was SIGTERM.
        """
        if self._request:
            self._request.stop(self._saved())

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves between two epochs, and after the last one, since saving the model may fail.

        A wish to stop that comes with the last one is met by the end.

        Raises:
          DatasetError: It cannot be saved, or the weights are no longer numbers.
          KeyboardInterrupt: There was Ctrl-C.
          Terminated: There was SIGTERM.
        """
        position = Position(epoch + 1, 0)
        is_last = self._steps_until(position) >= self._config.steps or self.model.stop_training
        if is_last:
            self._write(position)
        elif self._request or self._is_due(position, _SECONDS_AT_THE_END_OF_AN_EPOCH):
            self._save(position)

    def _steps_until(self, position: Position) -> int:
        return position.epoch * self._config.steps_per_epoch + position.step

    def _is_due(self, position: Position, seconds: float) -> bool:
        if self._every is not None:
            return self._steps_until(position) % self._every == 0
        if self._spread.num_hosts > 1:
            return position.step == 0
        pause = max(seconds, _TIMES_AS_LONG_AS_SAVING * self._saving_seconds)
        return time.monotonic() - self._saved_at > pause

    def _save(self, position: Position) -> None:
        """Saves where that makes sense, and stops where it was asked to."""
        if not self._request or (self._spread.num_hosts == 1 and position != self._first):
            self._write(position)
        if self._request:
            self._request.stop(self._saved())

    def _write(self, position: Position) -> None:
        began = time.monotonic()
        variables = checkpoints.variables(self.model)
        self._check_finite(variables["model"], self._steps_until(position))
        variables["best"] = self._epoch_log.best_weights
        checkpoint = Checkpoint(
            position,
            self._run,
            self._epoch_log.epochs,
            self._epoch_log.best_epoch,
            variables,
        )
        if self._spread.is_chief:
            checkpoints.save(self._folder, self._steps_until(position), checkpoint)
        self._num_saved = self._steps_until(position)
        self._saved_at = time.monotonic()
        self._saving_seconds = self._saved_at - began

    def _check_finite(self, values: list[np.ndarray], num_steps: int) -> None:
        """A good checkpoint is never replaced by one from which nothing can be learned."""
        for variable, value in zip(self.model.variables, values, strict=True):
            if variable.trainable and not np.isfinite(value).all():
                raise DatasetError(
                    f"weights are no longer numbers after step {num_steps}. Take a lower "
                    "--learning-rate, and look for extreme values in the features."
                )

    def _saved(self) -> str:
        if not self._num_saved:
            return "nothing is saved yet"
        return f"step {self._num_saved:,} of {self._config.steps:,} is saved"
