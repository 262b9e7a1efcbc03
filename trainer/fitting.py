"""The steps of a training, from wherever it was left to its end."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from trainer import checkpoints
from trainer.checkpoints import Checkpoint, Position
from trainer.epoch_log import EpochLog
from trainer.event_files import EventFiles
from trainer.meter import Meter
from trainer.progress import Progress
from trainer.saver import Saver
from trainer.stopping import StopRequest
from trainer.training_data import TrainingData


@dataclasses.dataclass(frozen=True)
class Pass:
    """One call of `fit`: it reads one stream of batches, through epochs of equal length."""

    begin: Position
    num_epochs: int
    steps_per_epoch: int


def passes(begin: Position, steps_per_epoch: int, num_steps: int) -> Iterator[Pass]:
    """Yields the rest of the epoch that is begun, whole epochs, and what is left of the last one.

    Args:
      begin: Where to go on.
      steps_per_epoch: Batches of a whole epoch.
      num_steps: Batches of the whole training.
    """
    left = max(0, num_steps - begin.epoch * steps_per_epoch - begin.step)
    if begin.step and left:
        rest = min(left, steps_per_epoch - begin.step)
        yield Pass(begin, 1, rest)
        begin, left = Position(begin.epoch + 1), left - rest
    if left >= steps_per_epoch:
        yield Pass(begin, left // steps_per_epoch, steps_per_epoch)
        begin = Position(begin.epoch + left // steps_per_epoch)
    if left % steps_per_epoch > 0:
        yield Pass(begin, 1, left % steps_per_epoch)


def restore(network: keras.Model, data: TrainingData, checkpoint: Checkpoint | None) -> None:
    """Gives a compiled network the state of a checkpoint, where there is one.

    Raises:
      UsageError: The checkpoint is of a network with other variables.
    """
    if checkpoint:
        with data.spread.scope():
            spec = data.training(checkpoint.position, 1).element_spec
            checkpoints.restore(network, spec, checkpoint)


def fit(
    network: keras.Model,
    data: TrainingData,
    folder: str,
    run: Mapping[str, Any],
    checkpoint: Checkpoint | None,
    request: StopRequest,
    *,
    checkpoint_every: int | None,
    tensorboard: bool,
    verbose: bool,
) -> EpochLog:
    """Trains a compiled network, which has the state of the checkpoint if there is one.

    Args:
      network: Gets the weights of the last epoch.
      data: What it is trained on, and how.
      folder: The model's, for checkpoints and event files.
      run: What tells the training from others; goes into checkpoints.
      checkpoint: Where to go on.
      request: Whether to stop.
      checkpoint_every: Steps between two checkpoints; None: by time.
      tensorboard: Whether to write event files.
      verbose: Whether to show what goes on.

    Returns:
      The metrics of all epochs, and the best weights.
    """
    config, spread = data.config, data.spread
    meter = Meter(deterministic=config.deterministic)
    epoch_log = EpochLog(meter, config, verbose=verbose)
    progress = Progress(meter, config)
    begin = Position()
    if checkpoint:
        epoch_log.resume(checkpoint)
        begin = checkpoint.position
    saver = Saver(folder, run, config, spread, epoch_log, request, checkpoint_every)
    saver.resume(checkpoint)
    callbacks = [meter, *([progress] if verbose else []), epoch_log, saver]
    if tensorboard and spread.is_chief:
        batch = next(iter(data.training(begin, 1)))
        callbacks.append(EventFiles(os.path.join(folder, "tensorboard"), batch, config))
    for each in passes(begin, config.steps_per_epoch, config.steps):
        if epoch_log.is_over:
            break
        for callback in (progress, saver):
            callback.begin(each.begin)
        validation, validation_steps = data.validation()
        network.fit(
            spread.batches(meter.watch(data.training(each.begin, each.num_epochs))),
            validation_data=validation and spread.batches(validation),
            validation_steps=validation_steps,
            initial_epoch=each.begin.epoch,
            epochs=each.begin.epoch + each.num_epochs,
            steps_per_epoch=each.steps_per_epoch,
            shuffle=False,  # The batches are shuffled already.
            callbacks=callbacks,
            verbose=0,
        )
    return epoch_log
