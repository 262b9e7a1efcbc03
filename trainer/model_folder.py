"""The folder that training leaves: model.keras, and history.json beside it."""

import fcntl
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from trainer import feature_names
from trainer.dataset_info import DatasetInfo
from trainer.errors import DatasetError, UsageError

MODEL_FILE = "model.keras"
HISTORY_FILE = "history.json"


def make(folder: str) -> None:
    """Makes the folder before the training, not after it, turns out to be in vain.

    Raises:
      UsageError: It cannot be made.
    """
    if not folder:
        raise UsageError("the output must be a folder for the model, but is empty.")
    try:
        tf.io.gfile.makedirs(folder)
        if not tf.io.gfile.isdir(folder):
            raise UsageError(f"{folder}: must be a folder for the model, but is a file.")
    except tf.errors.OpError as error:
        raise UsageError(f"{folder}: cannot be made ({error.message}).") from error


def save(folder: str, model: keras.Model, history: dict[str, Any]) -> None:
    """Writes both files, and only then gives both their names: they belong together.

    Raises:
      DatasetError: There is no space.
    """

    def write_history(path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(_with_null(history), file, indent=1, allow_nan=False)

    publish(folder, {HISTORY_FILE: write_history, MODEL_FILE: model.save})


def _with_null(value: Any) -> Any:
    """Replaces what is no number, for which JSON has no word."""
    if isinstance(value, dict):
        return {name: _with_null(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_null(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Lets one training at a time write to a folder of this machine; the system ends it with it.

    Raises:
      UsageError: Another training writes there, or nothing can be written there.
    """
    if "://" in folder:
        yield
        return
    try:
        lock = open(os.path.join(folder, ".lock"), "w")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}).") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{folder}: another training writes there.") from error
        except OSError:  # A file system without locks.
            pass
        yield


def load(folder: str) -> keras.Model:
    """Reads the model.

    Raises:
      UsageError: There is none, or it needs code that is not imported.
    """
    path = os.path.join(folder, MODEL_FILE)
    if not tf.io.gfile.exists(path):
        raise UsageError(f"{folder}: holds no {MODEL_FILE}. Make one with `headrace train`.")
    try:
        with feature_names.may_differ():
            return keras.models.load_model(path)
    except Exception as error:  # Keras raises many kinds, for damage and for unknown classes.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UsageError(f"{path}: cannot be loaded ({reason}).") from error


def read_history(folder: str) -> dict[str, Any] | None:
    """Returns what history.json holds; None where there is no finished model beside it.

    Raises:
      UsageError: It is damaged.
    """
    if not tf.io.gfile.exists(os.path.join(folder, MODEL_FILE)):
        return None
    return _history(folder)


def read_crop(folder: str) -> tuple[int, int] | None:
    """Returns height and width of what a model takes of images that are stored as files, if less.

    Raises:
      UsageError: history.json is damaged.
    """
    if not tf.io.gfile.exists(os.path.join(folder, HISTORY_FILE)):
        return None
    crop = _history(folder)["config"].get("crop")
    return None if crop is None else (int(crop[0]), int(crop[1]))


def check_fits(folder: str, info: DatasetInfo) -> str | None:
    """Compares the dataset with the one that the model was trained on.

    Returns:
      A remark if another spec wrote the dataset (its indices may mean other things), else None.
      None also where the folder has no history.json.

    Raises:
      UsageError: The model was trained for other classes, or for these in another order; or
        history.json is damaged.
    """
    if not tf.io.gfile.exists(os.path.join(folder, HISTORY_FILE)):
        return None
    trained_on = _history(folder)["dataset"]
    if trained_on["classes"] != info.classes:
        raise UsageError(
            f"{folder}: the model was trained for the classes {trained_on['classes']}, but "
            f"{info.directory} has {info.classes}."
        )
    if trained_on["spec_digest"] == info.spec_digest:
        return None
    return (
        f"{info.directory} was written by another spec than {trained_on['name']!r}, on which "
        "the model was trained: vocabularies and scales may differ."
    )


def _history(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, HISTORY_FILE)
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            history = json.load(file)
        is_whole = (
            isinstance(history["epochs"], list)
            and isinstance(history["config"], dict)
            and {"name", "spec_digest", "classes"} <= history["dataset"].keys()
        )
    except (tf.errors.OpError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path) from error
    if not is_whole:
        raise _damaged(path)
    return history


def _damaged(path: str) -> UsageError:
    return UsageError(
        f"{path}: is missing or damaged. Give another folder, or train anew with --overwrite."
    )


def publish(folder: str, writers: Mapping[str, Callable[[str], None]]) -> None:
    """Has files written under other names, then renames them: each appears whole or not at all.

    None is renamed before all are written.

    Args:
      folder: A path or URL.
      writers: By the file's name; each writes the local file whose path it is given. That ends as
        the name does.

    Raises:
      DatasetError: One cannot be written. What stood in the folder still does.
    """
    if "://" in folder:
        with tempfile.TemporaryDirectory() as scratch:
            for name, write in writers.items():
                with write_errors(os.path.join(folder, name)):
                    write(os.path.join(scratch, name))
            for name in writers:
                target = os.path.join(folder, name)
                with write_errors(target):  # An object appears whole.
                    tf.io.gfile.copy(os.path.join(scratch, name), target, overwrite=True)
        return
    partial = {name: os.path.join(folder, f".partial-{name}") for name in writers}
    try:
        for name, write in writers.items():
            with write_errors(os.path.join(folder, name)):
                write(partial[name])
                _sync(partial[name])
        with write_errors(folder):
            for name in writers:
                os.replace(partial[name], os.path.join(folder, name))
            _sync(folder)
    finally:
        for path in partial.values():
            if os.path.lexists(path):
                os.remove(path)


@contextmanager
def write_errors(target: str) -> Iterator[None]:
    """Turns the errors of writing into one line.

    Raises:
      DatasetError: The target cannot be written.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise DatasetError(
            f"{target}: cannot be written ({reason}). Make room, and run the same command again: "
            "it goes on from the last checkpoint."
        ) from error


def _sync(path: str) -> None:
    """Has a file, or the names in a folder, on disk before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
