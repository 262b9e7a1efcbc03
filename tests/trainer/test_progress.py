import concurrent.futures
import contextlib
import os
import pty
import re
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.checkpoints import Position
from trainer.config import Config
from trainer.meter import Meter
from trainer.progress import Progress, _duration

_BATCH_SIZE = 4


class _Slow(keras.Model):
    """A step takes as long as it is told to, and longer on a busy machine; it notes how long."""

    def __init__(self, seconds):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.seconds = seconds
        self.times = []

    def call(self, x):
        return self.dense(x)

    def train_step(self, *arguments):
        began = time.perf_counter()
        time.sleep(self.seconds)
        result = super().train_step(*arguments)
        self.times.append((began, time.perf_counter()))
        return result

    def share_between_steps(self):
        """Returns the share of the time that passed between steps, after the first one."""
        steps = sum(end - began for began, end in self.times[1:])
        return 1 - steps / (self.times[-1][1] - self.times[0][1])


def _config(epochs, steps_per_epoch):
    return Config(
        epochs=epochs,
        steps=epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        batch_size=_BATCH_SIZE,
        learning_rate=0.1,
        schedule="constant",
        class_weights="none",
        accumulate=1,
        patience=None,
        crop=None,
        augmentation=None,
        mixed_precision="none",
        seed=0,
        deterministic=False,
        model="m:f",
        backend="tensorflow",
    )


def _fit(seconds_of_a_batch, seconds_of_a_step, num_steps, epochs=1, show=False):
    """Trains on batches that take their time, and are made while a step goes on."""

    def batch(index):
        def sleep():
            time.sleep(seconds_of_a_batch)
            return np.ones((_BATCH_SIZE, 2), np.float32)

        values = tf.ensure_shape(tf.numpy_function(sleep, [], tf.float32), (_BATCH_SIZE, 2))
        return values, tf.zeros([_BATCH_SIZE, 1])

    meter = Meter()
    progress = Progress(meter, _config(epochs, num_steps))
    progress.begin(Position())
    network = _Slow(seconds_of_a_step)
    network.compile("sgd", "mse", run_eagerly=True)
    batches = tf.data.Dataset.range(epochs * num_steps).map(batch).prefetch(1)
    network.fit(
        meter.watch(batches),
        epochs=epochs,
        steps_per_epoch=num_steps,
        shuffle=False,
        verbose=0,
        callbacks=[meter, progress] if show else [meter],
    )
    return meter, network.share_between_steps()


@pytest.mark.parametrize("batch, step", [(0.1, 0.02), (0.02, 0.1)])
def test_a_step_waits_for_what_takes_longer_than_it_does(batch, step):
    meter, wanted = _fit(batch, step, 30)
    assert meter.num_steps == 29  # The first one is traced, and does not count.
    assert meter.seconds > 27 * max(batch, step)  # Two batches may be there before.
    assert (wanted > 0.3) == (batch > step)
    assert -0.15 < meter.share_waited - wanted < 0.05  # Keras itself needs a little, too.


_ON_JAX = """
import runpy, sys
tests = runpy.run_path(sys.argv[1])
for batch, step in ((0.1, 0.02), (0.02, 0.1)):
    meter, wanted = tests["_fit"](batch, step, 30)
    print(meter.share_waited, wanted)
"""


def test_jax_waits_as_well():
    """Its steps go on while the next batch is asked for, and are noted in another thread."""
    done = subprocess.run(
        [sys.executable, "-c", _ON_JAX, __file__],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    slow, fast = ([float(each) for each in line.split()] for line in done.stdout.splitlines())
    assert slow[1] > 0.3
    for measured, wanted in (slow, fast):
        assert -0.15 < measured - wanted < 0.05


def _on_a_terminal(monkeypatch, call):
    """Returns what a call writes on stderr where that is a terminal."""
    ours, theirs = pty.openpty()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        written = pool.submit(_read_all, ours)
        with os.fdopen(theirs, "w") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            call()
        return written.result().decode()


def _read_all(terminal):
    """Returns what is written there until the other side is closed; a read gives 4 kB at most."""
    found = b""
    with contextlib.suppress(OSError):  # Linux says so.
        while data := os.read(terminal, 1 << 16):
            found += data
    os.close(terminal)
    return found


def test_a_terminal_has_a_line_that_is_drawn_again(monkeypatch):
    written = _on_a_terminal(monkeypatch, lambda: _fit(0.0, 0.05, 20, epochs=2, show=True))
    *lines, last = written.split("\r\033[K")
    assert last == "" and "\n" not in written
    shown = [line for line in lines if line]
    assert len(shown) >= 3 and sum("examples/s" in line for line in shown) >= 2
    pattern = (
        r"epoch [12]  \[=* *\]  step \d+/20  loss [\d.]+"
        r"(  \d+ examples/s  \d+% waiting for data  0:0\d left)?"  # Not at an epoch's beginning.
    )
    for line in shown:
        assert re.fullmatch(pattern, line), line
        done, width = int(re.search(r"step (\d+)", line)[1]), len(re.search(r"\[.*\]", line)[0])
        assert (line.count("="), width) == (done, 22)


def test_a_log_has_a_line_now_and_then_and_one_warning(monkeypatch, capsys):
    monkeypatch.setattr("trainer.progress._SECONDS_IN_A_LOG", 1.0)
    _fit(0.2, 0.0, 12, epochs=2, show=True)
    lines = capsys.readouterr().err.splitlines()
    warnings = [line for line in lines if not line.startswith("epoch ")]
    assert 3 <= len(lines) - len(warnings) <= 9
    (warning,) = warnings
    assert re.fullmatch(
        r"input-bound: [4-9]\d% of the time went into waiting for data\. .+", warning
    )


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (59.6, "1:00"), (3_725.4, "1:02:05")])
def test_time_is_hours_minutes_and_seconds(seconds, text):
    assert _duration(seconds) == text
