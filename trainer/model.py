"""A sensible Keras model for the features of a dataset, made of Keras' own layers only."""

import dataclasses
from typing import Any

import keras

from trainer import feature_names
from trainer.dataset_info import DatasetInfo, Feature, Label
from trainer.errors import UsageError
from trainer.networks import images, sequences, tables


def usable_features(info: DatasetInfo) -> list[Feature]:
    """Returns the features that `build` takes: images, numbers and vectors of them, but no text.

    Masks and boxes are what a model of somebody's own is to learn.
    """
    of_models = [f for f in info.features.values() if f.kind is None]
    return [f for f in of_models if f.is_image or _is_numeric(f)]


def build(
    info: DatasetInfo, backbone: images.Backbone | None = None, *, is_moved: bool = True
) -> keras.Model:
    """Builds a model from features, in the form in which they are stored, to the label.

    Images go through a ResNet that fits their size, what the manifest says about their
    normalization included. Vectors of indices are sequences of tokens: embeddings and 1-D
    convolutions. Indices are embedded, numbers scaled by the statistics of the manifest, and both
    go through a residual MLP. Nothing is read but the manifest.

    Args:
      info: The dataset.
      backbone: A function of `keras.applications`, for images instead of the ResNet.
      is_moved: Whether images are shifted and mirrored in training.

    Returns:
      An uncompiled model. Inputs: a dict of feature names. Output: float32, for a class label the
      probabilities (batch, classes), for a multi_label that of each class (batch, classes), for an
      int64 label of which the manifest says that it is 0 or 1 the probability (batch, 1), and the
      predicted value (batch, 1) for other labels; of several labels a dict by name.

    Raises:
      UsageError: The dataset has no label, no feature that a model can take, or none that the
        backbone takes.
    """
    labels, features = info.require_targets(), usable_features(info)
    if not features:
        raise UsageError(
            f"{info.directory}: has no image and no number among its features "
            f"({', '.join(info.features) or 'none'}). Give text a transform in the spec."
        )
    if backbone and not any(f.is_image for f in features):
        raise UsageError(
            f"--model: keras.applications:{backbone.__name__} takes images, but {info.directory} "
            f"has none among its features ({', '.join(info.features)})."
        )
    num_examples = info.split("train").num_examples
    own = feature_names.identifiers(f.name for f in features)
    called = {name: feature_names.of_input(name, own[name]) for name in own}
    inputs = {f.name: keras.Input(f.shape, name=called[f.name], dtype=f.dtype) for f in features}
    tensors = {own[name]: tensor for name, tensor in inputs.items()}
    features = [dataclasses.replace(f, name=own[f.name]) for f in features]  # Layers are called so.
    towers = []
    for feature in features:
        tensor = tensors[feature.name]
        if feature.is_image and backbone:
            towers.append(images.backbone_tower(tensor, feature, backbone, is_moved=is_moved))
        elif feature.is_image:
            towers.append(images.tower(tensor, feature, num_examples, is_moved=is_moved))
        elif _is_sequence(feature):
            towers.append(sequences.tower(tensor, feature))
    table = [f for f in features if not f.is_image and not _is_sequence(f)]
    if table:
        towers.append(tables.tower(tensors, table, num_examples))
    x = tables.concatenated(towers)
    heads: Any = (
        _head(x, info.label)
        if info.label is not None
        else {name: _head(x, label, name) for name, label in labels.items()}
    )
    with feature_names.may_differ():
        return keras.Model(inputs, heads, name="headrace")


def compile_for(
    model: keras.Model, info: DatasetInfo, optimizer: keras.Optimizer, *, is_soft: bool = False
) -> None:
    """Compiles a model whose output is that of `build` with the losses and metrics of the labels.

    A soft label of type class is the probability of each class. Of several labels, the loss is the
    sum of theirs; squares of numbers are in units of the variance of train, so that no unit decides
    which label is learnt.
    """
    # What fills up a last batch has weight 0.
    if info.label is not None:
        loss, metrics = _loss(info.label, is_soft=is_soft)
        model.compile(optimizer=optimizer, loss=loss, weighted_metrics=metrics)
        return
    found = {name: _loss(label) for name, label in info.targets.items()}
    model.compile(
        optimizer=optimizer,
        loss={name: loss for name, (loss, _) in found.items()},
        loss_weights={name: _loss_weight(label) for name, label in info.targets.items()},
        weighted_metrics={name: metrics for name, (_, metrics) in found.items()},
    )


def _loss(label: Label, *, is_soft: bool = False) -> tuple[str, list[Any]]:
    """Returns the loss of a label, and its metrics."""
    if label.type == "class":
        return f"{'' if is_soft else 'sparse_'}categorical_crossentropy", ["accuracy"]
    if label.type == "multi_label":
        auc = keras.metrics.AUC(multi_label=True, num_labels=len(label.classes), name="auc")
        return "binary_crossentropy", ["binary_accuracy", auc]
    if label.is_binary:
        return "binary_crossentropy", ["accuracy"]
    return "mean_squared_error", ["mae"]


def _loss_weight(label: Label) -> float:
    is_number = label.type in ("int64", "float32") and not label.is_binary
    return 1 / ((label.statistics.get("std") if is_number else None) or 1.0) ** 2


def _is_numeric(feature: Feature) -> bool:
    """Whether the feature is a number, an index, or a vector of these."""
    return len(feature.shape) < 2 and feature.dtype in ("float32", "int64")


def _is_sequence(feature: Feature) -> bool:
    return len(feature.shape) == 1 and feature.num_categories is not None


def _head(x: keras.KerasTensor, label: Label, name: str | None = None) -> keras.KerasTensor:
    """Turns (batch, units) into what the label's type asks for; Keras names losses by the layer."""
    name = feature_names.of_output(name)
    if label.type in ("class", "multi_label"):
        activation = "softmax" if label.type == "class" else "sigmoid"
        return keras.layers.Dense(len(label.classes), activation, name=name, dtype="float32")(x)
    if label.is_binary:
        return keras.layers.Dense(1, activation="sigmoid", name=name, dtype="float32")(x)
    x = keras.layers.Dense(1, dtype="float32")(x)
    scale, mean = label.statistics.get("std") or 1.0, label.statistics.get("mean", 0.0)
    return keras.layers.Rescaling(scale, mean, name=name, dtype="float32")(x)
