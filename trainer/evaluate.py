"""Measures a trained model on a split: every example exactly once, sums in float64."""

import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from trainer import dataset_info, input_pipeline, model_folder, predictions
from trainer.dataset_info import LABEL, DatasetInfo, Label
from trainer.errors import DatasetError, UsageError
from trainer.input_pipeline import Options
from trainer.reading import dataset_errors

_BATCH_SIZE = 256
_EPSILON = 1e-7  # Probabilities are kept this far from 0 and 1, as in Keras' losses.
_OURS = {  # Loss and metrics that are measured here, as Keras calls them.
    "sparse_categorical_crossentropy": ("accuracy",),
    "categorical_crossentropy": ("accuracy",),
    "binary_crossentropy": ("accuracy",),
    "mean_squared_error": ("mae", "mean_absolute_error"),
}
_OF_LISTS = ("binary_accuracy",)  # Of a multi_label, instead of accuracy.


def evaluate(
    model_dir: str | os.PathLike,
    directory: str | os.PathLike,
    split: str = "test",
    *,
    batch_size: int | None = None,
    cache: str | None = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Measures a trained model on every example of a split, each exactly once.

    Where examples have weights, the loss is the sum of weighted losses by the number of examples,
    as in Keras, and every other number is a weighted mean or sum.

    Args:
      model_dir: The folder that `train` made.
      directory: The dataset folder, a path or URL.
      split: One of its splits.
      batch_size: Examples a step; has no influence on the result beyond rounding.
      cache: The folder to which the shards are copied first; s3:// needs one.
      verbose: Whether to say on stderr that the dataset was written by another spec.

    Returns:
      `num_examples` and `loss`. For classes, and for int64 labels where the loss is
      binary_crossentropy, `accuracy`, `classes` (of each precision, recall, f1 and support),
      `macro` (the mean of each over the classes) and `confusion_matrix` (a row for each true class,
      a column for each predicted one); for a multi_label `binary_accuracy` of all classes of all
      examples, `subset_accuracy` of examples whose classes are all right, `classes` and `macro`;
      for other labels `mae`. Of several labels, all that but `num_examples` stands under
      `labels`, by name. A ratio without cases is 0. A model that was compiled with another loss or
      other metrics, weighted or not, also has Keras' values of them.

    Raises:
      UsageError: There is no such model or split, or the model does not fit the dataset.
      DatasetError: The dataset is damaged, or the split is empty.
    """
    info, model_dir = dataset_info.read(directory), os.fspath(model_dir)
    info.require_targets()
    num_examples = info.split(split).num_examples
    if not num_examples:
        raise DatasetError(f"{info.directory}: split {split!r} holds no examples to evaluate on.")
    note = model_folder.check_fits(model_dir, info)
    if note and verbose:
        print(f"note: {note}", file=sys.stderr)
    network, crop = model_folder.load(model_dir), model_folder.read_crop(model_dir)
    _check_features(network, info.cropped(crop), model_dir)
    batch_size = _BATCH_SIZE if batch_size is None else batch_size
    examples = _examples(network, info, split, batch_size, cache, crop)
    with dataset_errors(info), warnings.catch_warnings():
        # JAX has no int64, and would say so for each index.
        warnings.filterwarnings("ignore", "Explicitly requested dtype int64")
        found = _measured(network, examples, info)
        result = found[LABEL] if info.label else {"labels": found}
        return {"num_examples": num_examples, **result, **_of_keras(network, examples, found)}


def _check_features(network: keras.Model, info: DatasetInfo, model_dir: str) -> None:
    """Raises a UsageError unless the dataset has what the model takes."""
    for name in predictions.input_names(network) or ():
        wanted = network.input[name]
        shape, dtype = tuple(wanted.shape[1:]), tf.as_dtype(wanted.dtype)
        feature = info.features.get(name)
        has = feature and f"it is {feature.dtype} {feature.shape}"
        if (
            feature is None
            or (None not in shape and shape != feature.shape)
            or not _takes(dtype, tf.as_dtype(feature.dtype))
        ):
            raise UsageError(
                f"{model_dir}: the model takes a feature {name!r}, {dtype.name} of shape {shape}, "
                f"but in {info.directory} {has or 'there is none'}."
            )


def _takes(wanted: tf.DType, given: tf.DType) -> bool:
    """Tells whether Keras turns values into the wanted ones without loss of what they mean."""
    if wanted == tf.string or given == tf.string:
        return wanted == given
    return wanted.is_floating or not given.is_floating


def _examples(
    network: keras.Model,
    info: DatasetInfo,
    split: str,
    batch_size: int,
    cache: str | None,
    crop: tuple[int, int] | None,
) -> tf.data.Dataset:
    """Returns the examples of a split, none left out, with the features that a model takes."""
    names = predictions.input_names(network)
    options = Options(training=False, features=names, crop=crop, cache=cache)
    return input_pipeline.load(info, split, batch_size, options)


def _measured(
    network: keras.Model, examples: tf.data.Dataset, info: DatasetInfo
) -> dict[str, dict[str, Any]]:
    """Returns what is measured of each label."""
    targets = info.require_targets()
    losses = {name: predictions.loss_of(network, name) for name in targets}
    measures = {
        name: _measure(label, predictions.loss_name(network, name), info)
        for name, label in targets.items()
    }
    for features, target, *weight in examples:
        given = {name: values.numpy() for name, values in features.items()}
        outputs = network.predict_on_batch(given)
        if isinstance(outputs, list | tuple) or (info.label and isinstance(outputs, dict)):
            raise UsageError("only a model with one output can be evaluated; this one has several.")
        outputs = predictions.of_labels(outputs, info)
        found = target if info.labels else {LABEL: target}
        weights = weight[0].numpy().astype(np.float64) if weight else None
        for name, measure in measures.items():
            named = predictions.of_label(tf.constant(outputs[name]), losses[name], targets[name])
            predicted = named["probabilities" if "probabilities" in named else "value"]
            measure.add(found[name].numpy(), predicted.numpy().astype(np.float64), weights)
    return {name: measure.result() for name, measure in measures.items()}


class _Measure(Protocol):
    """What is summed up over the examples of a split for one label."""

    def add(self, target: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> None:
        """Takes the labels of a batch, probabilities or values, and float64 (batch,) or None."""

    def result(self) -> dict[str, Any]:
        """Returns what `evaluate` says of it."""


def _measure(label: Label, loss: str | None, info: DatasetInfo) -> _Measure:
    if label.type == "multi_label":
        return _OfLists(label.classes)
    if label.type == "class":
        return _OfClasses(label.classes, info)
    if label.type == "int64" and loss == "binary_crossentropy":
        return _OfClasses(("0", "1"), info)
    return _OfNumbers()


class _OfClasses:
    """Of a label that is one class."""

    def __init__(self, names: Sequence[str], info: DatasetInfo):
        self._names, self._info = names, info
        self._confusion = np.zeros((len(names), len(names)), np.float64 if info.has_weight else int)
        self._loss, self._count = 0.0, 0

    def add(self, target: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> None:
        probabilities = predicted
        if predicted.ndim == 1:  # That of 1.
            probabilities = np.stack([1 - predicted, predicted], axis=1)
        wrong = target[(target < 0) | (target >= len(self._names))]
        if wrong.size:
            raise DatasetError(
                f"{self._info.directory}: a label must be 0 to {len(self._names) - 1} like the "
                f"classes of the model, but is {wrong[0]}."
            )
        counted = 1 if weights is None else weights
        np.add.at(self._confusion, (target, probabilities.argmax(axis=1)), counted)
        of_target = probabilities[np.arange(target.size), target]
        self._loss += float((counted * _log_loss(of_target)).sum())
        self._count += target.size

    def result(self) -> dict[str, Any]:
        return {"loss": self._loss / self._count, **of_confusion(self._confusion, self._names)}


def _log_loss(probabilities: np.ndarray) -> np.ndarray:
    return -np.log(np.clip(probabilities, _EPSILON, 1 - _EPSILON))


class _OfLists:
    """Of a multi_label: each class is there or not."""

    def __init__(self, names: Sequence[str]):
        self._names = names
        self._hits, self._support, self._predicted = np.zeros((3, len(names)))
        self._loss = self._weight = self._right = self._all_right = 0.0
        self._count = 0

    def add(self, target: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> None:
        weights = np.ones(len(target)) if weights is None else weights
        is_there, is_predicted = target > 0.5, predicted > 0.5
        is_right = is_there == is_predicted
        losses = _log_loss(np.where(is_there, predicted, 1 - predicted)).mean(axis=1)
        self._hits += weights @ (is_there & is_predicted)
        self._support += weights @ is_there
        self._predicted += weights @ is_predicted
        self._right += float(weights @ is_right.mean(axis=1))
        self._all_right += float(weights @ is_right.all(axis=1))
        self._loss += float(weights @ losses)
        self._weight += float(weights.sum())
        self._count += len(target)

    def result(self) -> dict[str, Any]:
        right = np.array([self._right, self._all_right])
        binary_accuracy, subset_accuracy = _ratio(right, np.full(2, self._weight)).tolist()
        return {
            "loss": self._loss / self._count,
            "binary_accuracy": binary_accuracy,
            "subset_accuracy": subset_accuracy,
            **_of_each(self._hits, self._support, self._predicted, self._names),
        }


class _OfNumbers:
    """Of a label that is a number."""

    def __init__(self) -> None:
        self._squares = self._distances = self._weight = 0.0
        self._count = 0

    def add(self, target: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> None:
        if predicted.shape != target.shape:
            raise UsageError(
                f"the model must give one value an example, but gives {predicted.shape}."
            )
        weights = np.ones(len(target)) if weights is None else weights
        apart = predicted - target.astype(np.float64)
        self._count += apart.size
        self._weight += float(weights.sum())
        self._squares += float((weights * apart**2).sum())
        self._distances += float((weights * np.abs(apart)).sum())

    def result(self) -> dict[str, Any]:
        mae = self._distances / self._weight if self._weight else 0.0
        return {"loss": self._squares / self._count, "mae": mae}


def of_confusion(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Returns what follows from a confusion matrix.

    Args:
      confusion: int64 or, weighted, float64 (classes, classes): of each true class how many were
        predicted as which.
      names: Of the classes.
    """
    hits, whole = confusion.diagonal(), confusion.sum()
    return {
        "accuracy": float(hits.sum() / whole) if whole else 0.0,
        **_of_each(hits, confusion.sum(axis=1), confusion.sum(axis=0), names),
        "confusion_matrix": confusion.tolist(),
    }


def _of_each(
    hits: np.ndarray, support: np.ndarray, predicted: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Returns `macro` and `classes`, of how many each class has, was predicted as, and both."""
    measures = {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predicted),
    }
    classes = {
        name: {key: float(values[i]) for key, values in measures.items()}
        | {"support": support[i].item()}
        for i, name in enumerate(names)
    }
    macro = {key: float(values.mean()) for key, values in measures.items()}
    return {"macro": macro, "classes": classes}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _of_keras(
    network: keras.Model, examples: tf.data.Dataset, measured: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Returns Keras' values where a model was compiled for what is not measured here."""
    compiled = network.get_compile_config() or {}
    if not compiled:
        return {}
    ours: list[str] = []  # What Keras calls a metric that is measured here, too.
    are_all_ours = True
    for label, found in measured.items():
        known = _OURS.get(predictions.loss_name(network, label) or "", ())
        known = _OF_LISTS if "binary_accuracy" in found else known
        if not any(name in found for name in known):
            return network.evaluate(examples, verbose=0, return_dict=True)
        prefix = f"{label}_" if len(measured) > 1 else ""
        ours += [f"{prefix}{name}" for name in (*known, *(["loss"] if prefix else []))]
        are_all_ours &= all(metric in known for metric in _metrics(compiled, label))
    if are_all_ours:
        return {}
    found = network.evaluate(examples, verbose=0, return_dict=True)
    # What is measured here, too, is the same with sums in float64.
    return {name: value for name, value in found.items() if name not in ("loss", *ours)}


def _metrics(compiled: Mapping[str, Any], label: str) -> list[Any]:
    """Returns the metrics with which a model, or its output for a label, was compiled."""
    both = (compiled.get("metrics") or (), compiled.get("weighted_metrics") or ())
    of_label = (each.get(label, ()) if isinstance(each, Mapping) else each for each in both)
    return [metric for each in of_label for metric in each]


def write(folder: str, results: dict[str, dict[str, Any]]) -> None:
    """Writes evaluation.json, and of each split with classes the picture of its confusion matrix.

    Args:
      folder: Made if need be.
      results: By split, as `evaluate` returns them.

    Raises:
      UsageError: It cannot be written.
    """
    from trainer import confusion_matrix  # Pillow is needed for this alone.

    try:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "evaluation.json"), "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1, ensure_ascii=False)
            file.write("\n")
        for split, whole in results.items():
            for name, result in {"": whole, **whole.get("labels", {})}.items():
                if "confusion_matrix" not in result:
                    continue
                where = f"{split}-{name}" if name else split
                counts = np.array(result["confusion_matrix"])
                numbers = f"{whole['num_examples']:,} examples, accuracy {result['accuracy']:.4f}"
                picture = confusion_matrix.draw(counts, [*result["classes"]], f"{where}: {numbers}")
                picture.save(os.path.join(folder, f"confusion-{where}.png"))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror or error}).") from error
