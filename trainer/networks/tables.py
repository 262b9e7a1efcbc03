"""From the numbers and indices of a table to a vector: embeddings and a residual MLP."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np

from trainer.dataset_info import Feature

_MAX_SMALL_RANGE = 64  # Plain integers from 0 to this are embedded like categories.
_FEW_EXAMPLES = 5_000  # Below, a wide or periodic network only learns by heart.
_NUM_FREQUENCIES = 16


def tower(
    inputs: dict[str, keras.KerasTensor], features: Sequence[Feature], num_examples: int
) -> keras.KerasTensor:
    """Embeds indices, scales numbers and mixes both in a residual MLP.

    Args:
      inputs: By name of the feature: (batch,) or (batch, n).
      features: Numbers and scalar indices.
      num_examples: How many there are to learn from.

    Returns:
      float32 (batch, units).
    """
    numbers = [f for f in features if num_categories(f) is None]
    parts = [embedded(inputs[f.name], f) for f in features if num_categories(f) is not None]
    scaled = {f.name: _scaled(inputs[f.name], f) for f in numbers}
    parts += scaled.values()
    is_small = num_examples < _FEW_EXAMPLES
    scalars = [scaled[f.name] for f in numbers if not f.shape]
    if scalars and not is_small:
        parts.append(_periodic(concatenated(scalars), len(scalars)))
    units, rate = (64, 0.0) if is_small else (256, 0.3)
    x = keras.layers.Dense(units, activation="relu")(concatenated(parts))
    for _ in range(2):
        update = keras.layers.Dense(units, activation="relu")(keras.layers.Dropout(rate)(x))
        x = keras.layers.Add()([x, update])
    return keras.layers.Dropout(rate)(x)


_STATELESS = ("log", "log1p", "sqrt", "clip")  # Before a step that learns; clip also behind it.


def num_categories(feature: Feature) -> int | None:
    """Returns how many values an index takes; None for quantities."""
    if feature.num_categories is not None:
        return feature.num_categories
    low, high = (feature.raw_statistics.get(key) for key in ("min", "max"))
    if feature.dtype != "int64" or feature.shape or feature.normalized:
        return None
    if low is None or high is None or low < 0 or not 1 < high < _MAX_SMALL_RANGE:
        return None
    return int(high) + 1


def embedded(index: keras.KerasTensor, feature: Feature) -> keras.KerasTensor:
    """Embeds indices: int64 (...) -> (..., width). All that is out of range shares one vector."""
    size = num_categories(feature) or 0
    index = keras.ops.clip(index + 1, 0, size + 1) % (size + 1)
    width = max(1, min(32, math.ceil(1.6 * size**0.56)))
    return keras.layers.Embedding(size + 1, width, name=f"{feature.name}_embedding")(index)


def stored_scale(feature: Feature) -> tuple[float, float]:
    """Returns mean and standard deviation of a number as it is stored, as the manifest tells them.

    Of logarithms alone, and of years, the manifest only tells the ends: their middle, and a quarter
    of what is between them. Where it tells nothing (0 or 1 for what was missing), and of steps that
    give numbers about 1 wide, they are 0 and 1, and the number is taken as it is. What never varies
    has the standard deviation 1. `feature` is a number, or a list whose numbers have their
    statistics in common.
    """
    step = next((name for name in feature.transforms if name not in _STATELESS), None)
    found = feature.statistics or feature.raw_statistics
    if not feature.transforms and "mean" not in found and {"min", "max"} <= found.keys():
        low, high = found["min"], found["max"]
        return (low + high) / 2, (high - low) / 4 or 1.0
    of_logarithm = step is None and bool(feature.transforms) and not feature.statistics
    by_ends = step == "scale_to_0_1" or of_logarithm
    needed = {"mean", "std", "min", "max"} if by_ends else {"mean", "std"}
    if step not in (None, "center", "scale_to_0_1") or not needed <= found.keys():
        return 0.0, 1.0
    mean, std = found["mean"], found["std"]
    low, high = found.get("min", 0.0), found.get("max", 0.0)
    if step == "center":
        mean = 0.0
    elif step == "scale_to_0_1":
        unit = (high - low) or 1.0
        mean, std = (mean - low) / unit, std / unit
    elif of_logarithm:
        low, high = math.log1p(low), math.log1p(high)
        mean, std = (low + high) / 2, (high - low) / 4
    return mean, std or 1.0


def vector_scale(feature: Feature) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and variance of each element of a vector as it is stored: float64 (n,)."""
    (size,) = feature.shape
    if feature.transforms[-1:] == ("pca",):
        return np.zeros(size), np.array(feature.statistics["explained_variance"])
    told = {key: feature.statistics[key] for key in ("mean", "std", "min", "max")}
    each = [{key: value[i] for key, value in told.items()} for i in range(size)]
    found = [stored_scale(dataclasses.replace(feature, statistics=of)) for of in each]
    mean, std = np.array(found, np.float64).T
    return mean, np.square(std)


def concatenated(parts: list[keras.KerasTensor]) -> keras.KerasTensor:
    """Puts vectors side by side; one alone stays as it is."""
    return keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]


def _scaled(number: keras.KerasTensor, feature: Feature) -> keras.KerasTensor:
    """Scales quantities to mean 0 and std 1: (batch,) or (batch, n) -> float32 (batch, 1 or n)."""
    told = feature.statistics.get("mean")
    if isinstance(told, list):
        mean, variance = (of.tolist() for of in vector_scale(feature))
        return keras.layers.Normalization(mean=mean, variance=variance, dtype="float32")(number)
    # Those of a vector of thousands are in a file: it is taken as it is.
    mean, std = (0.0, 1.0) if isinstance(told, dict) else stored_scale(feature)
    x = keras.layers.Rescaling(1 / std, -mean / std, dtype="float32")(number)
    return x if feature.shape else keras.layers.Reshape((1,))(x)


def _periodic(x: keras.KerasTensor, num_numbers: int) -> keras.KerasTensor:
    """Unfolds each number into learned sines: float32 (batch, numbers) -> (batch, units)."""
    x = keras.layers.Reshape((num_numbers, 1))(x)
    init = keras.initializers.RandomNormal(stddev=1.0)
    x = keras.layers.EinsumDense(
        "bnk,nkf->bnf", (num_numbers, _NUM_FREQUENCIES), kernel_initializer=init
    )(x)
    x = keras.layers.Concatenate()([keras.ops.sin(x), keras.ops.cos(x)])
    x = keras.layers.EinsumDense("bnf,nfo->bno", (num_numbers, 8), activation="relu")(x)
    return keras.layers.Flatten()(x)
