"""Trains a model on a dataset folder."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from trainer import augmentation as augmentations
from trainer import (
    checkpoints,
    dataset_info,
    distribution,
    fitting,
    model_dataset,
    model_folder,
)
from trainer import model as default_model
from trainer.augmentation import Augmentation
from trainer.checkpoints import Checkpoint
from trainer.config import Config, resolve
from trainer.dataset_info import DatasetInfo
from trainer.distribution import Spread
from trainer.errors import DatasetError, UsageError
from trainer.network_digest import digest
from trainer.predictions import input_names, loss_name
from trainer.reading import dataset_errors
from trainer.stopping import stop_request
from trainer.training_data import TrainingData

BuildModel = Callable[[DatasetInfo], keras.Model]

_WEIGHT_DECAY = 0.01
_WARMUP = 0.1  # Share of the steps in which the learning rate rises.


def train(
    directory: str | os.PathLike,
    output: str | os.PathLike,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    schedule: str = "cosine",
    class_weights: str = "none",
    accumulate: int = 1,
    patience: int | None = None,
    crop: tuple[int, int] | None = None,
    augmentation: Augmentation | str | os.PathLike | None = None,
    mixed_precision: str = "none",
    seed: int = 0,
    deterministic: bool = False,
    model: str | BuildModel | None = None,
    cache: str | None = None,
    checkpoint_every: int | None = None,
    tensorboard: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Trains a model on the split `train` and saves it as OUTPUT/model.keras.

    AdamW with a warm-up and a cosine decay of the learning rate. Where there is a split
    `validation`, the weights of the epoch that did best on it are kept, else the last ones.

    Checkpoints are written to OUTPUT/checkpoints on the way, and removed in the end. The same call
    goes on from the last one, with the same steps as if it had never stopped. Ctrl-C and SIGTERM
    are met after a step, and a checkpoint; during validation, where the checkpoint before stands,
    at once; and once all steps are done, the model is saved all the same.

    Args:
      directory: The dataset folder, a path or URL.
      output: The folder for model.keras and history.json; made if need be.
      epochs: Passes over train; None chooses by its size, like batch_size and learning_rate.
      steps: Batches, instead of epochs.
      batch_size: Examples a step; at most those of train.
      learning_rate: The highest one of the schedule.
      schedule: `cosine`, or `constant`.
      class_weights: `balanced` gives all classes of the label the same weight in the loss.
      accumulate: Steps whose gradients make one change of the weights; what remains of the steps at
        the end changes nothing.
      patience: Ends after so many epochs without a better one on validation.
      crop: Height and width of what is cut out of images that are stored as files: another part of
        an image each time, on validation and afterwards the middle. Images of different sizes need
        it.
      augmentation: How images are changed at random, or the TOML file that says so. The network
        that follows from the features then moves none by itself.
      mixed_precision: `bfloat16` computes in it, and keeps weights as float32.
      seed: Of the first weights, of dropout and of the order of the examples; below 2**32.
      deterministic: Whether to use only operations that give the same bits in every run.
      model: A function from DatasetInfo to a keras.Model, or its name `package.module:function`.
        A model that comes compiled keeps its optimizer, loss and metrics. None: `model.build`.
      cache: A folder of this machine to which the shards are copied before the first is read.
      checkpoint_every: Steps between two checkpoints; None: a minute, and the ends of epochs.
      tensorboard: Whether to write event files to OUTPUT/tensorboard.
      overwrite: Whether a finished model is trained anew, and one of another dataset or of other
        options is replaced.
      verbose: Whether to print a line per epoch, and on stderr how far it is.

    Returns:
      What history.json holds: `epochs`, a list with the metrics of each; `best_epoch` (from 1);
      `config`; and `dataset` (name, spec_digest, examples, classes).

    Raises:
      UsageError: An argument is wrong, the dataset has nothing to learn from, or the output holds
        something else.
      DatasetError: The dataset is damaged, the loss is no longer a number, or there is no space.
      KeyboardInterrupt: There was Ctrl-C; its text says what is saved.
      Terminated: There was SIGTERM.
    """
    info, output = dataset_info.read(directory), os.fspath(output)
    info.require_targets()
    spread = distribution.start()
    verbose = verbose and spread.is_chief
    if not info.split("train").num_examples:
        raise DatasetError(f"{info.directory}: split 'train' holds no examples to learn from.")
    if isinstance(augmentation, str | os.PathLike):
        augmentation = augmentations.read(augmentation)
    config = resolve(
        info,
        spread,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        class_weights=class_weights,
        accumulate=accumulate,
        patience=patience,
        crop=crop,
        augmentation=augmentation,
        mixed_precision=mixed_precision,
        seed=seed,
        deterministic=deterministic,
        model=_name(model),
    )
    if checkpoint_every is not None and checkpoint_every < 1:
        raise UsageError(f"checkpoints must be at least 1 step apart, but are {checkpoint_every}.")
    build_model = _resolve(model, is_moved=augmentation is None)
    model_dataset.check(output)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    with spread.scope(), _precision(config.mixed_precision):
        network = _built(build_model, info.cropped(crop), config.model)
        run = {
            "config": dataclasses.asdict(config),
            "dataset": _identity(info),
            "network": digest(network),
        }
        _compile(network, info, config, has_rate=learning_rate is not None)
    data = TrainingData(info, config, spread, input_names(network), cache)
    data.check()
    model_folder.make(output)
    with model_folder.alone_in(output) if spread.is_chief else contextlib.nullcontext():
        checkpoint, finished = _earlier(output, run, overwrite=overwrite, is_chief=spread.is_chief)
        if finished:
            if verbose:
                print(f"{output}: is trained already, {len(finished['epochs'])} epochs.")
            return finished
        with stop_request() as request:  # Until the model is saved.
            with dataset_errors(info), warnings.catch_warnings():
                # JAX has no int64, and would say so for each index.
                warnings.filterwarnings("ignore", "Explicitly requested dtype int64")
                try:
                    fitting.restore(network, data, checkpoint)
                except UsageError:
                    if not overwrite:
                        raise
                    checkpoint = None
                    if spread.is_chief:
                        checkpoints.remove(output)
                if verbose:
                    _print_plan(info, network, config, spread, checkpoint)
                epoch_log = fitting.fit(
                    network,
                    data,
                    output,
                    run,
                    checkpoint,
                    request,
                    checkpoint_every=checkpoint_every,
                    tensorboard=tensorboard,
                    verbose=verbose,
                )
            epoch_log.restore_best(network)
            history = {"epochs": epoch_log.epochs, "best_epoch": epoch_log.best_epoch, **run}
            if spread.is_chief:
                with spread.alone():
                    model_dataset.keep(output, info)
                    model_folder.save(output, network, history)
                checkpoints.remove(output)
        return history


def _name(model: str | BuildModel | None) -> str:
    if model is None:
        return "trainer.model:build"
    if isinstance(model, str):
        return model
    return f"{model.__module__}:{getattr(model, '__qualname__', type(model).__name__)}"


def _resolve(model: str | BuildModel | None, *, is_moved: bool = True) -> BuildModel:
    """Returns the function that builds the model; one of ours may move images in training.

    Raises:
      UsageError: The name is not package.module:function, or cannot be imported.
    """
    if model is None:
        return functools.partial(default_model.build, is_moved=is_moved)
    if not isinstance(model, str):
        return model
    module_name, _, function_name = model.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"--model: must be package.module:function, but is {model!r}.")
    if os.getcwd() not in sys.path:  # An installed script's own folder stands there instead.
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # A user's module may raise anything while it is imported.
        raise UsageError(f"--model: cannot import {model!r}: {error}.") from error
    if not callable(function):
        raise UsageError(f"--model: {model!r} is not a function.")
    if module_name == "keras.applications":
        return functools.partial(default_model.build, backbone=function, is_moved=is_moved)
    return function


def _built(build_model: BuildModel, info: DatasetInfo, name: str) -> keras.Model:
    try:
        network = build_model(info)
    except (UsageError, DatasetError):
        raise
    except Exception as error:  # A user's function may raise anything.
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"--model: {name} cannot build a network ({reason}).") from error
    if not isinstance(network, keras.Model):
        raise UsageError(f"--model: {name} must return a keras.Model, but returned {network!r}.")
    if info.labels:
        _check_outputs(network, info, name)
        return network
    num_outputs = len(getattr(network, "outputs", None) or [None])
    if num_outputs != 1:
        raise UsageError(f"--model: {name} must have one output, but has {num_outputs}.")
    return network


def _check_outputs(network: keras.Model, info: DatasetInfo, name: str) -> None:
    """Raises a UsageError where a network of several labels does not say which output is which."""
    if getattr(network, "outputs", None) is None:  # A subclassed model that was not called yet.
        return
    outputs = network.output
    if not isinstance(outputs, dict) or set(outputs) != set(info.labels):
        labels = ", ".join(info.labels)
        raise UsageError(f"--model: {name} must return a model whose output is a dict of {labels}.")


def _identity(info: DatasetInfo) -> dict[str, Any]:
    """Returns what tells a dataset from another one; `examples` is a hash of those that count."""
    shards = [
        (name, [(shard.num_examples, shard.crc32c) for shard in info.splits[name].shards])
        for name in ("train", "validation")
        if name in info.splits
    ]
    return {
        "name": info.name,
        "spec_digest": info.spec_digest,
        "examples": hashlib.sha256(json.dumps(shards).encode()).hexdigest(),
        "classes": info.classes,
    }


def _earlier(
    output: str, run: dict[str, Any], *, overwrite: bool, is_chief: bool
) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """Returns the checkpoint from which to go on, and the history of a training that is over.

    Raises:
      UsageError: The folder holds the model of another dataset or of other options.
    """
    if overwrite:
        with contextlib.suppress(UsageError):
            checkpoint = checkpoints.last(output)
            if checkpoint and not _difference(checkpoint.run, run):
                return checkpoint, None
        if is_chief:
            checkpoints.remove(output)
        return None, None
    checkpoint = checkpoints.last(output)
    finished = None if checkpoint else model_folder.read_history(output)
    earlier = checkpoint.run if checkpoint else finished
    difference = _difference(earlier, run) if earlier else None
    if difference:
        begun = "a training that was begun" if checkpoint else "a model that was trained"
        raise UsageError(
            f"{output}: holds {begun} {difference}. Give another folder, or --overwrite to train "
            "anew."
        )
    return checkpoint, finished


def _difference(earlier: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    """Says in what an earlier training was another one, or returns None."""
    if earlier.get("dataset") != run["dataset"]:
        name = (earlier.get("dataset") or {}).get("name")
        same = name == run["dataset"]["name"]
        return f"on {'an earlier version of ' if same else 'the dataset '}{name!r}"
    before = earlier.get("config") or {}
    for name, value in run["config"].items():
        if name not in before or before[name] != value:
            return f"with {name} {before.get(name)!r} and not {value!r}"
    if earlier.get("network") != run["network"]:
        return f"with another network, which {before['model']} returned then"
    return None


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Layers made inside it compute in this type."""
    before = keras.config.dtype_policy()
    if name != "none":
        keras.config.set_dtype_policy(f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _compile(network: keras.Model, info: DatasetInfo, config: Config, *, has_rate: bool) -> None:
    """Compiles a network that is not, and checks that it has an output for each class.

    Raises:
      UsageError: It has not, or its own optimizer makes an option void.
    """
    if not network.compiled:
        optimizer = _optimizer(config)
        default_model.compile_for(network, info, optimizer, is_soft=config.has_soft_labels)
    elif has_rate or config.schedule != "cosine" or config.accumulate > 1:
        raise UsageError(
            f"--model: {config.model} comes compiled, with an optimizer of its own. Leave out "
            "--learning-rate, --schedule and --accumulate."
        )
    if config.has_soft_labels and (loss_name(network) or "").startswith("sparse_"):
        raise UsageError(
            f"--model: {config.model} comes compiled with {loss_name(network)}, which takes one "
            "class, but mixup and cutmix make several. Compile it with categorical_crossentropy."
        )
    shapes = getattr(network, "output_shape", None)
    for name, label in info.targets.items():
        loss = loss_name(network, name)
        shape = shapes.get(name) if isinstance(shapes, dict) else shapes
        if loss not in ("sparse_categorical_crossentropy", "categorical_crossentropy"):
            continue
        if isinstance(shape, tuple) and shape and (shape[-1] or math.inf) < len(label.classes):
            raise UsageError(
                f"--model: {config.model} has {shape[-1]} outputs, but {info.directory} has "
                f"{len(label.classes)} classes."
            )


def _optimizer(config: Config) -> keras.Optimizer:
    return keras.optimizers.AdamW(
        _schedule(config) if config.schedule == "cosine" else config.learning_rate,
        weight_decay=_WEIGHT_DECAY,
        gradient_accumulation_steps=config.accumulate if config.accumulate > 1 else None,
    )


def _schedule(config: Config) -> keras.optimizers.schedules.LearningRateSchedule:
    warmup_steps = math.ceil(_WARMUP * config.steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.learning_rate / 100,
        warmup_target=config.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(1, config.steps - warmup_steps),
    )


def _print_plan(
    info: DatasetInfo,
    network: keras.Model,
    config: Config,
    spread: Spread,
    checkpoint: Checkpoint | None,
) -> None:
    counts = ", ".join(f"{s.num_examples:,} {s.name}" for s in info.splits.values())
    size = f"; a model of {network.count_params():,} weights" if network.built else ""
    print(f"{info.name}: {counts} examples{size}")
    names = input_names(network)
    left_out = [name for name in info.features if names is not None and name not in names]
    if left_out:
        print(f"not used by the model: {', '.join(left_out)}")
    devices = f", {spread}" if spread.num_devices > 1 else ""
    print(f"{config.epochs} epochs, {config.batch_size} examples a step{devices}", flush=True)
    if checkpoint and len(checkpoint.epochs) < config.epochs:
        epoch, step = checkpoint.position.epoch + 1, checkpoint.position.step
        print(f"goes on in epoch {epoch}, after {step:,} of {config.steps_per_epoch:,} steps")
