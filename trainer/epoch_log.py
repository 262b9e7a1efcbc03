"""What happens at the end of an epoch: a line for people, and the best weights so far."""

import math
import time

import keras
import numpy as np

from trainer.checkpoints import Checkpoint
from trainer.config import Config
from trainer.errors import DatasetError
from trainer.meter import Meter

_SHOWN = ("accuracy", "mae", "auc")  # Of each label; and the loss of all.


class EpochLog(keras.callbacks.Callback):
    """Notes metrics and prints a line per epoch, keeps the best weights and stops early.

    Best means the highest val_accuracy, then the lowest val_loss; without validation the last.

    Attributes:
      epochs: Per epoch the metrics, `seconds` with validation, `examples_per_second` without, and
        `waited`, the share of the time that went into waiting for data. The last three are those
        of the process that finished the epoch.
      best_epoch: From 1; the epoch whose weights the model has in the end.
      best_weights: Those of the best epoch; empty without validation.
    """

    async_safe = True  # On JAX, Keras then calls on_train_batch_end in a thread, after the step.

    def __init__(self, meter: Meter, config: Config, *, verbose: bool = True):
        """Takes what was measured, how it is trained, and whether to print."""
        super().__init__()
        self.epochs: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_weights: list[np.ndarray] = []
        self._meter, self._config, self._verbose = meter, config, verbose
        self._epoch, self._began = 0, 0.0

    @property
    def is_over(self) -> bool:
        """Whether the training ends early: so many epochs were not better than the best one."""
        patience = self._config.patience
        return patience is not None and len(self.epochs) - self.best_epoch >= patience

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on after the epochs of a checkpoint."""
        self.epochs, self.best_epoch = list(checkpoint.epochs), checkpoint.best_epoch
        self.best_weights = checkpoint.variables["best"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        self._epoch, self._began = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the loss, which is the mean over the epoch so far.

        Raises:
          DatasetError: The loss is no longer a number.
        """
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise DatasetError(
                f"the loss is {loss} in epoch {self._epoch + 1}. Take a lower --learning-rate, "
                "and look for extreme values in the features."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Notes and prints the metrics."""
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        meter = self._meter
        metrics["seconds"] = round(time.perf_counter() - self._began, 3)
        steps_per_second = meter.num_steps / meter.seconds if meter.seconds else 0.0
        metrics["examples_per_second"] = round(steps_per_second * self._config.batch_size, 1)
        metrics["waited"] = round(meter.share_waited, 4)
        self.epochs.append(metrics)
        self._keep_best()
        if self.is_over:
            self.model.stop_training = True
        if self._verbose:
            print(_line(epoch + 1, self._config.epochs, metrics), flush=True)

    def restore_best(self, network: keras.Model) -> None:
        """Puts the best weights back."""
        if self.best_weights and self.best_epoch < len(self.epochs):
            network.set_weights(self.best_weights)

    def _keep_best(self) -> None:
        last = len(self.epochs)
        if "val_loss" not in self.epochs[-1]:
            self.best_epoch = last
        elif not self.best_epoch or _score(self.epochs[-1]) > _score(
            self.epochs[self.best_epoch - 1]
        ):
            self.best_epoch, self.best_weights = last, self.model.get_weights()


def _score(metrics: dict[str, float]) -> tuple[float, float]:
    loss = metrics["val_loss"]  # Any number is better than none.
    return metrics.get("val_accuracy", 0.0), -math.inf if math.isnan(loss) else -loss


def _line(epoch: int, num_epochs: int, metrics: dict[str, float]) -> str:
    width = len(str(num_epochs))
    told = [n for n in metrics if n in ("loss", "val_loss") or n.endswith(_SHOWN)]
    told.sort(key=lambda name: (name.startswith("val_"), not name.endswith("loss")))
    shown = [f"{name} {number(metrics[name])}" for name in told]
    rate = f"{metrics['examples_per_second']:9,.0f} examples/s"
    return f"epoch {epoch:{width}d}/{num_epochs}  " + "  ".join([*shown, rate])


def number(value: float) -> str:
    """Returns a metric in 6 columns or, where it is large, in a few more."""
    return f"{value:6.4f}" if abs(value) < 10 else f"{value:6.4g}"
