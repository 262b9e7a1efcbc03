"""What a model's folder keeps of the dataset: the manifest and transform_fn, but no records.

So a model can be exported, and applied to raw input, where the dataset is not.
"""

import atexit
import dataclasses
import json
import os
import shutil
import tempfile
from typing import Any

import tensorflow as tf

from trainer import dataset_info, remote
from trainer.dataset_info import DatasetInfo
from trainer.errors import DatasetError, UsageError

FOLDER = "dataset"
TRANSFORM_FN = "transform_fn"


@dataclasses.dataclass(frozen=True)
class ModelDataset:
    """A dataset, or what is kept of one.

    Attributes:
      info: Its manifest; of what is kept, one without splits.
      spec: The spec in the manifest; empty where it was made by hand.
      transform_fn: The folder of TFT's SavedModel; None where there is none.
    """

    info: DatasetInfo
    spec: dict[str, Any]
    transform_fn: str | None


def check(folder: str) -> None:
    """Checks that what a model's folder is to keep takes the place of nobody's dataset.

    Raises:
      UsageError: The folder is a dataset, or `dataset` in it is not what a training left.
    """
    if tf.io.gfile.exists(os.path.join(folder, dataset_info.FILE_NAME)):
        raise UsageError(f"{folder}: is a dataset. Give another folder for the model.")
    kept = os.path.join(folder, FOLDER)
    if not tf.io.gfile.exists(kept):
        return
    try:
        is_ours = _manifest(kept)["splits"] == {}
    except (tf.errors.OpError, ValueError, TypeError, KeyError):
        is_ours = False
    if not is_ours:
        raise UsageError(
            f"{kept}: is not what a training keeps there of its dataset, and would be replaced. "
            "Give another folder for the model."
        )


def keep(folder: str, info: DatasetInfo) -> None:
    """Copies what is kept of a dataset into a model's folder, whose `dataset` it replaces.

    Raises:
      DatasetError: It cannot be read or written.
    """
    target, partial = (os.path.join(folder, name) for name in (FOLDER, f".partial-{FOLDER}"))
    with tempfile.TemporaryDirectory() as scratch:
        fetched = remote.fetch(info, [], scratch, verbose=False)
        manifest = os.path.join(fetched, dataset_info.FILE_NAME)
        with open(manifest, encoding="utf-8") as file:
            said = json.load(file) | {"splits": {}}
        with open(manifest, "w", encoding="utf-8") as file:
            json.dump(said, file, indent=1, ensure_ascii=False)
        try:
            _remove(partial)
            for name in (TRANSFORM_FN, dataset_info.FILE_NAME, *info.statistics_files):
                _copy(os.path.join(fetched, name), os.path.join(partial, name))
            _remove(target)
            tf.io.gfile.rename(partial, target)
        except tf.errors.OpError as error:
            raise DatasetError(
                f"{target}: the dataset's transform_fn cannot be copied ({error.message})."
            ) from error


def read(folder: str, directory: str | None = None) -> ModelDataset:
    """Reads what a model's folder keeps, or the dataset itself.

    Args:
      folder: Of the model.
      directory: The dataset, where the model's folder is not to be asked.

    Raises:
      UsageError: There is nothing of a dataset.
      DatasetError: It is damaged.
    """
    kept = os.path.join(folder, FOLDER)
    if directory is None and not tf.io.gfile.exists(os.path.join(kept, dataset_info.FILE_NAME)):
        raise UsageError(
            f"{folder}: keeps nothing of the dataset it was trained on. Name it: --dataset DIR."
        )
    chosen = kept if directory is None else directory
    info = dataset_info.read(chosen)
    if remote.is_remote(chosen):
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        chosen = remote.fetch(info, [], scratch, verbose=False)
    transform_fn = os.path.join(chosen, TRANSFORM_FN)
    is_there = tf.io.gfile.exists(os.path.join(transform_fn, "saved_model.pb"))
    spec = _manifest(chosen).get("spec") or {}
    return ModelDataset(info, spec, transform_fn if is_there else None)


def _manifest(directory: str) -> dict[str, Any]:
    """Returns the manifest as it stands, of a dataset whose manifest was read before."""
    with tf.io.gfile.GFile(os.path.join(directory, dataset_info.FILE_NAME), "r") as file:
        return json.loads(file.read())


def _remove(folder: str) -> None:
    if tf.io.gfile.exists(folder):
        tf.io.gfile.rmtree(folder)


def _copy(source: str, target: str) -> None:
    """Copies a file, or a folder; or nothing where there is none."""
    if os.path.isfile(source):
        tf.io.gfile.makedirs(os.path.dirname(target))
        tf.io.gfile.copy(source, target, overwrite=True)
    elif os.path.isdir(source):
        for name in os.listdir(source):
            _copy(os.path.join(source, name), os.path.join(target, name))
