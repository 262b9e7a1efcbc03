"""A sensible Keras model for the features of a dataset, made of Keras' own layers only."""

import math

import keras
import numpy as np

from trainer import input_pipeline
from trainer.dataset_info import LABEL, DatasetInfo, Feature, Label, Normalization
from trainer.errors import UsageError

_SAMPLE_EXAMPLES = 16_384
_MAX_SMALL_RANGE = 64  # Plain integers from 0 to this are embedded like categories.
_MANY_IMAGES = 10_000  # From here on a deeper network pays for its time.
_FEW_EXAMPLES = 5_000  # Below, a wide or periodic table model only learns by heart.


def usable_features(info: DatasetInfo) -> list[Feature]:
    """Returns the features that `build` takes: images and scalar numbers, but no text."""
    return [f for f in info.features.values() if f.is_image or _is_scalar_number(f)]


def build(info: DatasetInfo) -> keras.Model:
    """Builds a model from features, in the form in which they are stored, to the label.

    Images go through a convolutional network whose depth fits their size; what the manifest says
    about their normalization is part of the model. Indices are embedded, numbers scaled by their
    mean and standard deviation over the first train examples, and both go through an MLP.

    Args:
      info: The dataset. The first train examples are read, for the scale of numbers.

    Returns:
      An uncompiled model. Inputs: a dict of feature names. Output: float32, for a class label the
      probabilities (batch, classes), for an int64 label of which the manifest says that it is 0
      or 1 the probability (batch, 1), and the predicted value (batch, 1) for other labels.

    Raises:
      UsageError: The dataset has no label, or no feature that a model can take.
    """
    label, features = info.require_label(), usable_features(info)
    if not features:
        raise UsageError(
            f"{info.directory}: has no image and no number among its features "
            f"({', '.join(info.features) or 'none'}). Give text a transform in the spec."
        )
    num_examples = info.split("train").num_examples
    scales = _scales(info, label, [f for f in features if _is_number(f)])
    inputs = {f.name: keras.Input(f.shape, name=f.name, dtype=f.dtype) for f in features}
    images = [f for f in features if f.is_image]
    towers = [_image_tower(inputs[f.name], f, num_examples) for f in images]
    table = [f for f in features if not f.is_image]
    if table:
        towers.append(_table_tower(inputs, table, scales, num_examples))
    hidden = keras.layers.Concatenate()(towers) if len(towers) > 1 else towers[0]
    return keras.Model(inputs, _head(hidden, label, scales), name="headrace")


def compile_for(model: keras.Model, label: Label, optimizer: keras.Optimizer) -> None:
    """Compiles a model whose output is that of `build` with the loss and metrics of the label."""
    if label.type == "class":
        loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    elif _is_binary(label):
        loss, metrics = "binary_crossentropy", ["accuracy"]
    else:
        loss, metrics = "mean_squared_error", ["mae"]
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)


def _is_scalar_number(feature: Feature) -> bool:
    return feature.shape == () and feature.stored_as in ("float_list", "int64_list")


def _is_number(feature: Feature) -> bool:
    """Whether the feature is a quantity and not an index."""
    return _is_scalar_number(feature) and _num_categories(feature) is None


def _num_categories(feature: Feature) -> int | None:
    """Returns how many values an index takes; None for quantities."""
    if feature.num_categories is not None:
        return feature.num_categories
    low, high = (feature.raw_statistics.get(key) for key in ("min", "max"))
    if feature.dtype != "int64" or feature.normalized or low is None or high is None:
        return None
    return int(high) + 1 if low >= 0 and 1 < high < _MAX_SMALL_RANGE else None


def _is_binary(label: Label) -> bool:
    low, high = (label.statistics.get(key) for key in ("min", "max"))
    if label.type != "int64" or low is None or high is None:
        return False
    return low >= 0 and high <= 1


def _scales(
    info: DatasetInfo, label: Label, numbers: list[Feature]
) -> dict[str, tuple[float, float]]:
    """Returns mean and population standard deviation of each number and of the label.

    They are those of the first train examples as stored, in float64; a constant has std 1.
    """
    names = [f.name for f in numbers]
    if not names and label.type == "class":
        return {}
    batches = input_pipeline.load(info, "train", 1024, training=False, features=names)
    columns: dict[str, list[np.ndarray]] = {}
    for features, target in batches.take(_SAMPLE_EXAMPLES // 1024):
        for name, values in {**features, LABEL: target}.items():
            columns.setdefault(name, []).append(values.numpy())
    return {name: _scale(np.concatenate(values)) for name, values in columns.items()}


def _scale(values: np.ndarray) -> tuple[float, float]:
    wide = values.astype(np.float64)
    return float(wide.mean()), float(wide.std()) or 1.0


def _image_tower(image: keras.KerasTensor, feature: Feature, num_examples: int):
    """Normalizes, augments (in training) and convolves an image: (batch, filters)."""
    height, width, channels = feature.shape
    x = _normalize_image(image, feature)
    if num_examples < 100_000:
        x = _augment(x, flip=channels == 3, shift=1 / 8)
    num_stages = max(1, min(5, int(math.log2(max(1, min(height, width) / 4)))))
    is_deep = num_examples >= _MANY_IMAGES
    filters = max(32 if is_deep else 24, 96 >> num_stages)  # Small images afford more.
    for stage in range(num_stages):
        x = _conv(x, filters)
        if stage and is_deep:
            x = _residual(x, filters)
        x = keras.layers.MaxPooling2D(2, padding="same")(x)
        filters = min(2 * filters, 256)
    x = _conv(x, filters)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.layers.Dropout(0.3)(x)


def _normalize_image(image: keras.KerasTensor, feature: Feature) -> keras.KerasTensor:
    """Returns (x * rescale - mean) / std as float32, as the manifest says it."""
    steps = feature.normalization
    if steps is None:
        if feature.dtype != "uint8":
            return image
        steps = Normalization(1 / 127.5, (1.0,) * feature.shape[-1], None)
    std = np.array(steps.std or (1.0,), np.float64)
    std = np.where(std == 0, 1.0, std)
    scale = np.broadcast_to(steps.rescale / std, feature.shape[-1:])
    offset = np.broadcast_to(-np.array(steps.mean or (0.0,), np.float64) / std, scale.shape)
    return keras.layers.Rescaling(
        scale.tolist(), offset.tolist(), dtype="float32", name=f"{feature.name}_normalized"
    )(image)


def _augment(x: keras.KerasTensor, *, flip: bool, shift: float) -> keras.KerasTensor:
    """Moves images a little, in training only."""
    if flip:
        x = keras.layers.RandomFlip("horizontal")(x)
    return keras.layers.RandomTranslation(
        shift, shift, fill_mode="constant", interpolation="nearest"
    )(x)


def _conv(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.layers.ReLU()(x)


def _residual(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    return keras.layers.Add()([x, _conv(x, filters)])


def _table_tower(
    inputs: dict[str, keras.KerasTensor],
    features: list[Feature],
    scales: dict[str, tuple[float, float]],
    num_examples: int,
) -> keras.KerasTensor:
    """Embeds indices, scales numbers and mixes both: (batch, units)."""
    parts = [_embedded(inputs[f.name], f) for f in features if not _is_number(f)]
    numbers = [_scaled(inputs[f.name], *scales[f.name]) for f in features if _is_number(f)]
    if numbers:
        x = keras.layers.Concatenate()(numbers) if len(numbers) > 1 else numbers[0]
        parts.append(x)
        if num_examples >= _FEW_EXAMPLES:
            parts.append(_periodic(x, len(numbers)))
    x = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    is_small = num_examples < _FEW_EXAMPLES
    for _ in range(2):
        x = keras.layers.Dense(64 if is_small else 256, activation="relu")(x)
        if not is_small:  # Too few steps are taken on few examples for dropout to pay.
            x = keras.layers.Dropout(0.3)(x)
    return x


def _embedded(index: keras.KerasTensor, feature: Feature) -> keras.KerasTensor:
    """Embeds an index: (batch,) -> (batch, width). All that is out of range shares one vector."""
    size = _num_categories(feature) or 0
    index = keras.ops.clip(index + 1, 0, size + 1) % (size + 1)
    width = max(1, min(32, math.ceil(1.6 * size**0.56)))
    return keras.layers.Embedding(size + 1, width, name=f"{feature.name}_embedding")(index)


def _scaled(number: keras.KerasTensor, mean: float, std: float) -> keras.KerasTensor:
    """Scales a quantity to mean 0 and std 1: (batch,) -> float32 (batch, 1)."""
    x = keras.layers.Rescaling(1 / std, -mean / std, dtype="float32")(number)
    return keras.layers.Reshape((1,))(x)


def _periodic(x: keras.KerasTensor, num_numbers: int) -> keras.KerasTensor:
    """Unfolds each number into learned sines: float32 (batch, numbers) -> (batch, units)."""
    x = keras.layers.Reshape((num_numbers, 1))(x)
    frequencies = 16
    init = keras.initializers.RandomNormal(stddev=1.0)
    x = keras.layers.EinsumDense(
        "bnk,nkf->bnf", (num_numbers, frequencies), kernel_initializer=init
    )(x)
    x = keras.layers.Concatenate()([keras.ops.sin(x), keras.ops.cos(x)])
    x = keras.layers.EinsumDense("bnf,nfo->bno", (num_numbers, 8), activation="relu")(x)
    return keras.layers.Flatten()(x)


def _head(x: keras.KerasTensor, label: Label, scales) -> keras.KerasTensor:
    """Turns (batch, units) into what the label's type asks for."""
    if label.type == "class":
        return keras.layers.Dense(len(label.classes), activation="softmax", dtype="float32")(x)
    if _is_binary(label):
        return keras.layers.Dense(1, activation="sigmoid", dtype="float32")(x)
    mean, std = scales[LABEL]
    x = keras.layers.Dense(1, dtype="float32")(x)
    return keras.layers.Rescaling(std, mean, dtype="float32")(x)
