"""From an image as it is stored to a vector: a ResNet, or a backbone of `keras.applications`."""

import inspect
import math
from collections.abc import Callable

import keras
import numpy as np

from trainer.dataset_info import Feature, Normalization
from trainer.errors import UsageError

Backbone = Callable[..., keras.Model]

_SHIFT = 1 / 8  # Of height and width: 4 pixels of 32, as is usual for CIFAR-10.
_LARGEST_SIDE = 64  # Pixels; what is larger is halved first, by a convolution with a stride.
_LAST_SIDE = 5  # Pixels of the last stage, about.


def tower(
    image: keras.KerasTensor, feature: Feature, num_examples: int, *, is_moved: bool = True
) -> keras.KerasTensor:
    """Normalizes an image, moves it (in training) and sends it through a ResNet.

    Each stage doubles the filters and halves the side, down to 4 to 7 pixels; the last has 512
    filters where there are examples enough for so many. 32x32 pixels are the network with which
    CIFAR-10 is learned in minutes: https://myrtle.ai/learn/how-to-train-your-resnet.

    Args:
      image: (batch, height, width, channels) in the stored dtype.
      feature: What the manifest says about it.
      num_examples: How many there are to learn from.
      is_moved: Whether training shifts and mirrors it.

    Returns:
      float32 (batch, filters).
    """
    x = prepared(image, feature, is_moved=is_moved)
    side = min(feature.image_shape[:2])
    num_halvings = max(0, math.ceil(math.log2(side / _LARGEST_SIDE)))
    num_stages = max(0, round(math.log2((side >> num_halvings) / _LAST_SIDE)))
    filters = min(64, _last_filters(num_examples) >> num_stages)
    x = _conv(x, filters, strides=2 if num_halvings else 1)
    for _ in range(num_halvings - 1):
        x = keras.layers.MaxPooling2D(2, padding="same")(x)
    for _ in range(num_stages):
        filters *= 2
        x = keras.layers.MaxPooling2D(2, padding="same")(_conv(x, filters))
        x = keras.layers.Add()([x, _conv(_conv(x, filters), filters)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.layers.Dropout(0.3)(x)


def backbone_tower(
    image: keras.KerasTensor, feature: Feature, backbone: Backbone, *, is_moved: bool = True
) -> keras.KerasTensor:
    """Sends an image, normalized and moved as for `tower`, through a new network.

    Args:
      image: (batch, height, width, channels) in the stored dtype.
      feature: What the manifest says about it.
      backbone: A function of `keras.applications`; its weights start at random.
      is_moved: Whether training shifts and mirrors it.

    Returns:
      float32 (batch, filters).

    Raises:
      UsageError: The function does not take images of this shape.
    """
    options = {}
    if "include_preprocessing" in inspect.signature(backbone).parameters:
        options["include_preprocessing"] = False  # Of numbers from 0 to 255; ours are normalized.
    try:
        network = backbone(
            include_top=False,
            weights=None,
            input_shape=feature.image_shape,
            pooling="avg",
            **options,
        )
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UsageError(
            f"--model: keras.applications:{backbone.__name__} does not take the images "
            f"{feature.name!r} of shape {feature.shape}: {reason}"
        ) from error
    network.name = f"{feature.name}_backbone"  # Two images may go through one kind.
    x = prepared(image, feature, is_moved=is_moved)
    for layer in network.layers[:2]:
        if isinstance(layer, keras.layers.Rescaling):  # EfficientNetB0 to B7 always have it.
            x = keras.layers.Rescaling(1 / layer.scale)(x)
    return network(x)


def prepared(
    image: keras.KerasTensor, feature: Feature, *, is_moved: bool = True
) -> keras.KerasTensor:
    """Normalizes an image and, in training, may move it: float32, channels last."""
    x = normalized(image, feature)
    # A mirrored digit is another digit: what is gray is not mirrored.
    return _moved(x, is_mirrored=feature.image_shape[2] == 3) if is_moved else x


def _last_filters(num_examples: int) -> int:
    if num_examples < 5_000:
        return 128
    return 256 if num_examples < 20_000 else 512


def normalized(image: keras.KerasTensor, feature: Feature) -> keras.KerasTensor:
    """Returns (x * rescale - mean) / std as float32, channels last, as the manifest says it."""
    steps, name = feature.normalization, f"{feature.name}_normalized"
    if feature.data_format == "channels_first":
        image = keras.layers.Permute((2, 3, 1))(image)
    if steps is None:
        if feature.dtype != "uint8":
            return keras.ops.cast(image, "float32") if feature.dtype == "bfloat16" else image
        steps = Normalization(1 / 127.5, (1.0,) * feature.image_shape[2], None)
    if steps.samplewise_center or steps.samplewise_std_normalization:
        return _by_itself(image, steps)
    std = np.array(steps.std or (1.0,), np.float64)
    std = np.where(std == 0, 1.0, std)
    mean = np.array(steps.mean or (0.0,), np.float64)
    if steps.is_per_pixel:
        return _by_position(name, feature.image_shape, mean / steps.rescale, std / steps.rescale)(
            image
        )
    scale = np.broadcast_to(steps.rescale / std, feature.image_shape[2:])
    offset = np.broadcast_to(-mean / std, scale.shape)
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name=name)(
        image
    )


def _by_position(
    name: str, shape: tuple[int, ...], mean: np.ndarray, std: np.ndarray
) -> keras.layers.Layer:
    """Returns a layer for a mean and a std of each pixel, which it holds as weights."""
    layer = keras.layers.Normalization(axis=(1, 2, 3), dtype="float32", name=name)
    layer.build((None, *shape))
    layer.adapt_mean.assign(np.broadcast_to(mean, shape))
    layer.adapt_variance.assign(np.broadcast_to(std**2, shape))
    layer.finalize_state()
    return layer


def _by_itself(image: keras.KerasTensor, steps: Normalization) -> keras.KerasTensor:
    """Normalizes each image with its own mean and std, where a std of 0 divides by 1."""
    x = keras.ops.cast(image, "float32")
    from_first = x - x[:, :1, :1, :1]  # Of a constant image this is 0, and so is what follows.
    centered = from_first - keras.ops.mean(from_first, axis=(1, 2, 3), keepdims=True)
    values = centered if steps.samplewise_center else x
    if not steps.samplewise_std_normalization:
        return values * steps.rescale
    variance = keras.ops.mean(keras.ops.square(centered), axis=(1, 2, 3), keepdims=True)
    is_constant = keras.ops.equal(variance, 0)
    std = keras.ops.sqrt(keras.ops.where(is_constant, 1.0, variance))
    return values / std * keras.ops.where(is_constant, steps.rescale, 1.0)


def _moved(x: keras.KerasTensor, *, is_mirrored: bool) -> keras.KerasTensor:
    """Shifts and mirrors each image by itself, in training only; 0 comes in from outside.

    XLA cannot compile Keras' RandomTranslation, and so not one step of a model that has it: JAX
    would run it op by op, and a TPU not at all. Here the noise of a layer, which is silent outside
    training, becomes two matrices that pick rows and columns.
    """
    height, width, _ = x.shape[1:]
    noise = keras.layers.GaussianNoise(1.0, dtype="float32")(
        keras.ops.tile(keras.ops.zeros_like(x[:, 0, 0, :1]), (1, 3))
    )
    uniform = keras.ops.erf(noise / math.sqrt(2))  # Between -1 and 1; 0 outside training.
    rows = keras.ops.add(_offsets(uniform[:, :1], height), np.arange(height, dtype="int32"))
    columns = keras.ops.add(_offsets(uniform[:, 1:2], width), np.arange(width, dtype="int32"))
    if is_mirrored:
        columns = keras.ops.where(uniform[:, 2:] > 0, width - 1 - columns, columns)
    # Where an index is outside the image, one_hot is 0.
    x = keras.ops.einsum("bij,bjwc->biwc", keras.ops.one_hot(rows, height), x)
    return keras.ops.einsum("bkw,bhwc->bhkc", keras.ops.one_hot(columns, width), x)


def _offsets(uniform: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Turns numbers between -1 and 1 into int32 pixels, up to an eighth of the size."""
    pixels = round(size * _SHIFT)
    return keras.ops.cast(keras.ops.round(uniform * (pixels + 0.5)), "int32")


def _conv(x: keras.KerasTensor, filters: int, strides: int = 1) -> keras.KerasTensor:
    x = keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.layers.ReLU()(x)
