"""From a sequence of tokens to a vector: embeddings and 1-D convolutions."""

import math

import keras

from trainer.dataset_info import Feature
from trainer.networks import tables

_UNITS = 64
_LAST_LENGTH = 12  # Tokens, about, of the last stage.


def tower(tokens: keras.KerasTensor, feature: Feature) -> keras.KerasTensor:
    """Embeds tokens and looks at longer and longer runs of them: each stage halves the length.

    Args:
      tokens: int64 (batch, length), indices below `num_categories`.
      feature: What the manifest says about them.

    Returns:
      float32 (batch, units).
    """
    (length,) = feature.shape
    x = keras.layers.SpatialDropout1D(0.1)(tables.embedded(tokens, feature))
    x = keras.layers.Conv1D(_UNITS, 3, padding="same", activation="relu")(x)
    for _ in range(max(0, round(math.log2(length / _LAST_LENGTH)))):
        x = keras.layers.MaxPooling1D(2, padding="same")(_residual(x))
    x = keras.layers.GlobalMaxPooling1D()(_residual(x))
    return keras.layers.Dropout(0.3)(x)


def _residual(x: keras.KerasTensor) -> keras.KerasTensor:
    update = keras.layers.LayerNormalization()(x)
    update = keras.layers.Conv1D(_UNITS, 3, padding="same", activation="relu")(update)
    return keras.layers.Add()([x, update])
