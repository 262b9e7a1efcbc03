"""The folder that training leaves: model.keras, and history.json beside it."""

import json
import os
import tempfile
from typing import Any

import keras
import tensorflow as tf

from trainer.dataset_info import DatasetInfo
from trainer.errors import UsageError

MODEL_FILE = "model.keras"
HISTORY_FILE = "history.json"


def make(folder: str) -> None:
    """Makes the folder before the training, not after it, turns out to be in vain.

    Raises:
      UsageError: It cannot be made.
    """
    try:
        tf.io.gfile.makedirs(folder)
        if not tf.io.gfile.isdir(folder):
            raise UsageError(f"{folder}: must be a folder for the model, but is a file.")
    except tf.errors.OpError as error:
        raise UsageError(f"{folder}: cannot be made ({error.message}).") from error


def save(folder: str, model: keras.Model, history: dict[str, Any]) -> None:
    """Writes both files, each under another name first, the model last."""
    with tempfile.TemporaryDirectory() as scratch:
        history_path = os.path.join(scratch, HISTORY_FILE)
        with open(history_path, "w", encoding="utf-8") as file:
            json.dump(history, file, indent=1)
        model_path = os.path.join(scratch, MODEL_FILE)
        model.save(model_path)
        for path in (history_path, model_path):
            _publish(path, os.path.join(folder, os.path.basename(path)))


def load(folder: str) -> keras.Model:
    """Reads the model.

    Raises:
      UsageError: There is none, or it needs code that is not imported.
    """
    path = os.path.join(folder, MODEL_FILE)
    if not tf.io.gfile.exists(path):
        raise UsageError(f"{folder}: holds no {MODEL_FILE}. Make one with `headrace train`.")
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras raises many kinds, for damage and for unknown classes.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UsageError(f"{path}: cannot be loaded ({reason}).") from error


def check_fits(folder: str, info: DatasetInfo) -> str | None:
    """Compares the dataset with the one that the model was trained on.

    Returns:
      A remark if another spec wrote the dataset (its indices may mean other things), else None.
      None also where the folder has no history.json.

    Raises:
      UsageError: The model was trained for other classes, or for these in another order.
    """
    path = os.path.join(folder, HISTORY_FILE)
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "r") as file:
        trained_on = json.load(file)["dataset"]
    classes = list(info.label.classes) if info.label else []
    if trained_on["classes"] != classes:
        raise UsageError(
            f"{folder}: the model was trained for the classes {trained_on['classes']}, but "
            f"{info.directory} has {classes}."
        )
    if trained_on["spec_digest"] == info.spec_digest:
        return None
    return (
        f"{info.directory} was written by another spec than {trained_on['name']!r}, on which "
        "the model was trained: vocabularies and scales may differ."
    )


def _publish(path: str, target: str) -> None:
    """Copies a local file to a path or URL, where it appears whole or not at all."""
    temporary = f"{target}.tmp"
    tf.io.gfile.copy(path, temporary, overwrite=True)
    tf.io.gfile.rename(temporary, target, overwrite=True)
