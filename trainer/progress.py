"""Where a training is, for people: a line that is drawn again and again, or one now and then."""

import sys
import time

import keras

from trainer.checkpoints import Position
from trainer.config import Config
from trainer.epoch_log import number
from trainer.meter import Meter

_SECONDS_ON_A_TERMINAL = 0.5
_SECONDS_IN_A_LOG = 10.0
_BAR = 20  # Columns.
_INPUT_BOUND = 0.2
_SECONDS_THAT_TELL = 2.0  # Of training; less says nothing about the input.


class Progress(keras.callbacks.Callback):
    """Shows on stderr step, loss, examples/s, the share of waiting for data, and the time left.

    Says once, at the end of an epoch, that the training is input-bound.
    """

    def __init__(self, meter: Meter, config: Config):
        """Takes what is measured, and what there is to do."""
        super().__init__()
        self._meter, self._config = meter, config
        self._is_terminal = sys.stderr.isatty()
        self._pause = _SECONDS_ON_A_TERMINAL if self._is_terminal else _SECONDS_IN_A_LOG
        self._shown_at, self._epoch, self._first = time.monotonic(), 0, 0
        self._has_warned = False

    def begin(self, position: Position) -> None:
        """Says where the next call of `fit` begins."""
        self._first = position.step

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Shows how far it is, if it is time to."""
        if time.monotonic() - self._shown_at >= self._pause:
            self._show(self._line(self._first + batch))

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Says what goes on after the last step."""
        if self._is_terminal:
            self._show(f"epoch {self._epoch + 1}  validation")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Makes room for the epoch's own line, and warns of slow input."""
        self._first = 0
        self.clear()
        share = self._meter.share_waited
        if share > _INPUT_BOUND and self._meter.seconds > _SECONDS_THAT_TELL:
            self._warn(share)

    def clear(self) -> None:
        """Removes the line."""
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def _line(self, step: int) -> str:
        meter, of = self._meter, self._config.steps_per_epoch
        filled = "=" * (_BAR * step // of)
        parts = [f"epoch {self._epoch + 1}", f"step {step:,}/{of:,}"]
        if self._is_terminal:
            parts.insert(1, f"[{filled:{_BAR}}]")
        if "loss" in meter.logs:
            parts.append(f"loss {number(meter.logs['loss'])}")
        if meter.seconds:
            rate = meter.num_steps / meter.seconds
            left = (self._config.steps - self._epoch * of - step) / rate
            parts.append(f"{rate * self._config.batch_size:,.0f} examples/s")
            parts.append(f"{meter.share_waited:.0%} waiting for data")
            parts.append(f"{_duration(left)} left")
        return "  ".join(parts)

    def _show(self, text: str) -> None:
        self._shown_at = time.monotonic()
        sys.stderr.write(f"\r\033[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()

    def _warn(self, share: float) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        print(
            f"input-bound: {share:.0%} of the time went into waiting for data. Larger batches, "
            "shards without compression, a local disk and more cores shorten it.",
            file=sys.stderr,
            flush=True,
        )


def _duration(seconds: float) -> str:
    """Returns hours, minutes and seconds.

    >>> _duration(3_725.4)
    '1:02:05'
    >>> _duration(59.6)
    '1:00'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
