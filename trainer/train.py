"""Trains a model on a dataset folder, and evaluates one."""

import dataclasses
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from trainer import dataset_info, input_pipeline, model_folder
from trainer import model as default_model
from trainer.dataset_info import DatasetInfo
from trainer.epoch_log import EpochLog
from trainer.errors import DatasetError, UsageError

BuildModel = Callable[[DatasetInfo], keras.Model]

_EVALUATION_BATCH_SIZE = 256
_FEW_EXAMPLES = 1_000  # A table below this is learnt by heart when it is trained for long.
_LEARNING_RATE = 0.003
_WEIGHT_DECAY = 0.01
_WARMUP = 0.1  # Share of the steps in which the learning rate rises.


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train: what the user asked for, and the rest as it follows from the dataset."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    deterministic: bool
    model: str


def train(
    directory: str | os.PathLike,
    output: str | os.PathLike,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    model: str | BuildModel | None = None,
    deterministic: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Trains a model on the split `train` and saves it as OUTPUT/model.keras.

    AdamW with a warm-up and a cosine decay of the learning rate. Where there is a split
    `validation`, the weights of the epoch that did best on it are kept, else the last ones.

    Args:
      directory: The dataset folder, a path or URL.
      output: The folder for model.keras and history.json; made if need be.
      epochs: Passes over train; None chooses by its size, like batch_size and learning_rate.
      batch_size: Examples a step.
      seed: Of the first weights, of dropout and of the order of the examples.
      learning_rate: The highest one of the schedule.
      model: A function from DatasetInfo to a keras.Model, or its name `package.module:function`.
        A model that comes compiled keeps its optimizer, loss and metrics. None: `model.build`.
      deterministic: Whether to use only operations that give the same bits in every run.
      verbose: Whether to print a line per epoch.

    Returns:
      What history.json holds: `epochs`, a list with the metrics of each; `best_epoch` (from 1);
      `config`; and `dataset` (name, spec_digest, classes).

    Raises:
      UsageError: An argument is wrong, or the dataset has nothing to learn from.
      DatasetError: The dataset is damaged, or the loss is no longer a number.
    """
    info, output = dataset_info.read(directory), os.fspath(output)
    label = info.require_label()
    if not info.split("train").num_examples:
        raise DatasetError(f"{info.directory}: split 'train' holds no examples to learn from.")
    config = _config(info, epochs, batch_size, learning_rate, seed, deterministic, _name(model))
    build_model = _resolve(model)
    model_folder.make(output)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    epoch_log = EpochLog(config.batch_size, verbose=verbose)
    with _dataset_errors(info):
        network = _built(build_model, info, config.model)
        if verbose:
            _print_plan(info, network, config)
        _fit(network, info, config, epoch_log)
    history = {
        "epochs": epoch_log.epochs,
        "best_epoch": epoch_log.best_epoch,
        "config": dataclasses.asdict(config),
        "dataset": {
            "name": info.name,
            "spec_digest": info.spec_digest,
            "classes": list(label.classes),
        },
    }
    model_folder.save(output, network, history)
    return history


def evaluate(
    model_dir: str | os.PathLike,
    directory: str | os.PathLike,
    split: str = "test",
    *,
    batch_size: int | None = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Measures a trained model on every example of a split, each exactly once.

    Args:
      model_dir: The folder that `train` made.
      directory: The dataset folder, a path or URL.
      split: One of its splits.
      batch_size: Examples a step; has no influence on the result beyond rounding.
      verbose: Whether to say on stderr that the dataset was written by another spec.

    Returns:
      `num_examples`, `loss`, and the metrics with which the model was compiled.

    Raises:
      UsageError: There is no such model or split, or the model does not fit the dataset.
      DatasetError: The dataset is damaged, or the split is empty.
    """
    info, model_dir = dataset_info.read(directory), os.fspath(model_dir)
    info.require_label()
    num_examples = info.split(split).num_examples
    if not num_examples:
        raise DatasetError(f"{info.directory}: split {split!r} holds no examples to evaluate on.")
    note = model_folder.check_fits(model_dir, info)
    if note and verbose:
        print(f"note: {note}", file=sys.stderr)
    network = model_folder.load(model_dir)
    batches = input_pipeline.load(
        info,
        split,
        _EVALUATION_BATCH_SIZE if batch_size is None else batch_size,
        training=False,
        features=_input_names(network),
    )
    with _dataset_errors(info):
        metrics = network.evaluate(batches, verbose=0, return_dict=True)
    return {"num_examples": num_examples, "loss": metrics.pop("loss"), **metrics}


def _name(model: str | BuildModel | None) -> str:
    if model is None:
        return "trainer.model:build"
    if isinstance(model, str):
        return model
    return f"{model.__module__}:{getattr(model, '__qualname__', model)}"


def _resolve(model: str | BuildModel | None) -> BuildModel:
    """Returns the function that builds the model.

    Raises:
      UsageError: The name is not package.module:function, or cannot be imported.
    """
    if model is None:
        return default_model.build
    if not isinstance(model, str):
        return model
    module_name, _, function_name = model.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"--model: must be package.module:function, but is {model!r}.")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # A user's module may raise anything while it is imported.
        raise UsageError(f"--model: cannot import {model!r}: {error}.") from error
    if not callable(function):
        raise UsageError(f"--model: {model!r} is not a function.")
    return function


def _built(build_model: BuildModel, info: DatasetInfo, name: str) -> keras.Model:
    network = build_model(info)
    if not isinstance(network, keras.Model):
        raise UsageError(f"--model: {name} must return a keras.Model, but returned {network!r}.")
    return network


def _config(
    info: DatasetInfo,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int,
    deterministic: bool,
    model: str,
) -> Config:
    """Checks what the user asked for, and fills in the rest from the size and kind of train."""
    for name, value in (("number of epochs", epochs), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"the {name} must be at least 1, but is {value}.")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise UsageError(f"the learning rate must be above 0, but is {learning_rate}.")
    num_examples = info.split("train").num_examples
    has_images = any(feature.is_image for feature in info.features.values())
    batch_size = batch_size or _default_batch_size(num_examples, has_images)
    return Config(
        epochs=epochs or _default_epochs(num_examples, batch_size, has_images),
        batch_size=batch_size,
        learning_rate=learning_rate or _LEARNING_RATE,
        seed=seed,
        deterministic=deterministic,
        model=model,
    )


def _default_batch_size(num_examples: int, has_images: bool) -> int:
    """Returns a power of two, up to 512, with which an epoch of a large dataset has 100 steps.

    Of a small one fewer, of a table as few as 4: large batches hold off learning by heart.
    """
    smallest = 32 if has_images else min(128, max(8, num_examples / 4))
    return 2 ** min(9, round(math.log2(max(smallest, num_examples / 100))))


def _default_epochs(num_examples: int, batch_size: int, has_images: bool) -> int:
    """Returns the number of epochs that make enough steps; images need more of both."""
    wanted_steps, fewest = (1_200, 10) if has_images else (1_000, 3)
    if num_examples < _FEW_EXAMPLES and not has_images:
        wanted_steps = 300
    return min(100, max(fewest, round(wanted_steps / max(1, num_examples // batch_size))))


def _fit(network: keras.Model, info: DatasetInfo, config: Config, epoch_log: EpochLog) -> None:
    names = _input_names(network)
    batches = input_pipeline.load(
        info, "train", config.batch_size, seed=config.seed, features=names
    )
    validation = None
    if "validation" in info.splits and info.splits["validation"].num_examples:
        validation = input_pipeline.load(
            info, "validation", _EVALUATION_BATCH_SIZE, training=False, features=names
        )
    if not network.compiled:
        optimizer = _optimizer(config.learning_rate, config.epochs * int(batches.cardinality()))
        default_model.compile_for(network, info.require_label(), optimizer)
    network.fit(
        batches,
        validation_data=validation,
        epochs=config.epochs,
        shuffle=False,  # The batches are shuffled already.
        callbacks=[epoch_log],
        verbose=0,
    )


def _optimizer(learning_rate: float, num_steps: int) -> keras.Optimizer:
    warmup_steps = math.ceil(_WARMUP * num_steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate / 100,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(1, num_steps - warmup_steps),
    )
    return keras.optimizers.AdamW(schedule, weight_decay=_WEIGHT_DECAY)


def _input_names(network: keras.Model) -> list[str] | None:
    """Returns the features that a model takes, or None where it does not say: all of them."""
    try:
        inputs = network.input
    except (AttributeError, ValueError):  # A subclassed model that was not called yet.
        return None
    return list(inputs) if isinstance(inputs, dict) else None


def _print_plan(info: DatasetInfo, network: keras.Model, config: Config) -> None:
    counts = ", ".join(f"{s.num_examples:,} {s.name}" for s in info.splits.values())
    print(f"{info.name}: {counts} examples; a model of {network.count_params():,} weights")
    names = _input_names(network)
    left_out = [name for name in info.features if names is not None and name not in names]
    if left_out:
        print(f"not used by the model: {', '.join(left_out)}")
    print(f"{config.epochs} epochs, {config.batch_size} examples a step", flush=True)


@contextmanager
def _dataset_errors(info: DatasetInfo) -> Iterator[None]:
    """Turns TensorFlow's errors about what was read into one line that names the dataset."""
    try:
        yield
    except tf.errors.OpError as error:
        message = str(error.message).partition("\n\t [[")[0].strip().splitlines()
        raise DatasetError(
            f"{info.directory}: {message[-1] if message else error}. "
            "`headrace verify` says whether a shard is damaged."
        ) from error
