"""Everything that a training needs in order to go on as if it had never stopped."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import model_folder
from trainer.errors import UsageError

_FOLDER = "checkpoints"
_KEPT = 2  # Should the last one turn out to be damaged, there is one before it.


@dataclasses.dataclass(frozen=True)
class Position:
    """A place in the stream of batches: `step` batches of `epoch` (from 0) are done."""

    epoch: int = 0
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two steps.

    Attributes:
      position: Where the stream of batches goes on.
      run: What the training is: its config and dataset, as in history.json.
      epochs: The metrics of the epochs that are over.
      best_epoch: From 1; 0 if there is none yet.
      variables: By kind: `model` (the states of random layers included, which Keras' own files
        leave out), `optimizer`, `metrics` (of the epoch that goes on), and `best`, the weights of
        the best epoch, empty where these are not kept.
    """

    position: Position
    run: Mapping[str, Any]
    epochs: list[dict[str, float]]
    best_epoch: int
    variables: Mapping[str, list[np.ndarray]]


def save(folder: str, num_steps: int, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, and removes all but the last two.

    Args:
      folder: The model's folder.
      num_steps: Those that are done; names the file.
      checkpoint: What to write.

    Raises:
      DatasetError: It cannot be written. The ones before it stay.
    """
    header = {
        "position": dataclasses.asdict(checkpoint.position),
        "run": checkpoint.run,
        "epochs": checkpoint.epochs,
        "best_epoch": checkpoint.best_epoch,
        "kinds": {kind: len(values) for kind, values in checkpoint.variables.items()},
    }
    arrays = [np.frombuffer(json.dumps(header).encode(), np.uint8)]
    for values in checkpoint.variables.values():
        # NumPy's file format does not know bfloat16, of which all values are float32, too.
        arrays += [v.astype(np.float32) if v.dtype.kind == "V" else v for v in values]

    def write(path: str) -> None:
        with open(path, "wb") as file:
            np.savez(file, *arrays)

    ours = os.path.join(folder, _FOLDER)
    with model_folder.write_errors(ours):
        tf.io.gfile.makedirs(ours)
        model_folder.publish(ours, {f"step-{num_steps:012d}.npz": write})
        for path in _paths(folder)[:-_KEPT]:
            tf.io.gfile.remove(path)


def last(folder: str) -> Checkpoint | None:
    """Returns the last checkpoint that is whole; None if there is none. Names those that are not.

    Raises:
      UsageError: There are checkpoints, but none is whole.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            return _read(path)
        except Exception as error:  # Damage shows in many ways: zip, NumPy, JSON, missing keys.
            print(f"note: {path}: is damaged ({error}); it is left out.", file=sys.stderr)
    if paths:
        raise UsageError(f"{folder}: no checkpoint is whole. Give --overwrite to begin anew.")
    return None


def remove(folder: str) -> None:
    """Removes all checkpoints: the training is over, or begins anew."""
    path = os.path.join(folder, _FOLDER)
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)


def variables(network: keras.Model) -> dict[str, list[np.ndarray]]:
    """Returns the values of all that changes in a step."""
    return {kind: [_value(v) for v in found] for kind, found in _variables(network).items()}


def restore(network: keras.Model, element_spec: Any, checkpoint: Checkpoint) -> None:
    """Gives a compiled network the state of a checkpoint, but for that of the metrics.

    Args:
      network: The network.
      element_spec: Of the batches that it will be trained on.
      checkpoint: Its state.

    Raises:
      UsageError: The checkpoint is of a network with other variables.
    """
    # Builds what Keras would build in the first step, by shapes alone and on any backend.
    network._symbolic_build(data_batch=tf.nest.map_structure(_zeros, element_spec))
    found = _variables(network)
    for kind, saved in checkpoint.variables.items():
        ours = found.get(kind, saved)
        if [tuple(v.shape) for v in ours] != [value.shape for value in saved]:
            raise UsageError(
                f"the checkpoint's {kind} has other variables than the network that was built. "
                "Give --overwrite to begin anew."
            )
    for kind in ("model", "optimizer"):
        assign(found[kind], checkpoint.variables[kind])


def assign(targets: list[Any], values: list[np.ndarray]) -> None:
    """Assigns values to Keras' variables, in their order."""
    for target, value in zip(targets, values, strict=True):
        target.assign(value)


def _variables(network: keras.Model) -> dict[str, list[Any]]:
    return {
        "model": network.variables,
        "optimizer": network.optimizer.variables,
        "metrics": network.metrics_variables,
    }


def _zeros(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.zeros([size or 1 for size in spec.shape], spec.dtype)


def _value(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def _paths(folder: str) -> list[str]:
    """Returns the checkpoints of a model's folder, the last one last."""
    return sorted(tf.io.gfile.glob(os.path.join(folder, _FOLDER, "step-*.npz")))


def _read(path: str) -> Checkpoint:
    with tf.io.gfile.GFile(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        # Reading an array to its end compares it with its CRC.
        header, *values = (arrays[f"arr_{index}"] for index in range(len(arrays.files)))
    content = json.loads(header.tobytes())
    remaining = iter(values)
    kinds = {
        kind: [next(remaining) for _ in range(count)]
        for kind, count in content.pop("kinds").items()
    }
    position = Position(**content.pop("position"))
    return Checkpoint(position=position, variables=kinds, **content)
