"""One affine transformation of each image of a batch, and of masks and boxes with it.

Places are those of `scipy.ndimage.affine_transform` with order 0 and 1, which ImageDataGenerator
calls: computed in float64, with what is outside of an image as SciPy's four modes have it.
TensorFlow's own ImageProjectiveTransformV3 has places of float32, a rim of its own where the
filling is constant, and takes three times as long as what XLA makes of this.
"""

from typing import NamedTuple

import tensorflow as tf

from trainer import boxes

_LUMINANCES = 3  # Of RGBA; what comes fourth is no color.


class Parameters(NamedTuple):
    """What happens to each image of a batch; all are (batch,), float64 but for the flips, bool.

    They have the names of `ImageDataGenerator.apply_transform`, where x is to the right and y
    down: `theta` and `shear` in degrees, `tx` and `ty` in pixels.
    """

    theta: tf.Tensor
    tx: tf.Tensor
    ty: tf.Tensor
    shear: tf.Tensor
    zx: tf.Tensor
    zy: tf.Tensor
    flip_horizontal: tf.Tensor
    flip_vertical: tf.Tensor
    channel_shift_intensity: tf.Tensor
    brightness: tf.Tensor


def matrices(parameters: Parameters, height: int, width: int) -> tf.Tensor:
    """Returns what takes a place of the result to one of the image, without flips.

    Args:
      parameters: Of each image.
      height: Of the images, in pixels.
      width: The same.

    Returns:
      float64 (batch, 2, 3): row = m[0, 0] * row + m[0, 1] * column + m[0, 2], and the column.
    """
    theta, shear = (tf.experimental.numpy.deg2rad(p) for p in (parameters.theta, parameters.shear))
    sin, cos = tf.sin(theta), tf.cos(theta)
    rows = [(cos * tf.cos(shear) - sin * tf.sin(shear)) * parameters.zy, sin * parameters.zx]
    columns = [-(sin * tf.cos(shear) + cos * tf.sin(shear)) * parameters.zy, cos * parameters.zx]
    row, column = (height - 1) / 2, (width - 1) / 2  # The center, which stays where it is.
    down = row + cos * parameters.ty + sin * parameters.tx
    right = column - sin * parameters.ty + cos * parameters.tx
    rows.append(down - (rows[0] * row + rows[1] * column))
    columns.append(right - (columns[0] * row + columns[1] * column))
    return tf.stack([tf.stack(rows, 1), tf.stack(columns, 1)], 1)


@tf.function(jit_compile=True, autograph=False)
def images(
    values: tf.Tensor,
    parameters: Parameters,
    fill_mode: str,
    cval: float,
    order: int,
    *,
    has_channel_shift: bool = False,
    has_brightness: bool = False,
) -> tf.Tensor:
    """Transforms images as `ImageDataGenerator.apply_transform` does.

    Args:
      values: (batch, height, width, channels), integers or floats.
      parameters: Of each image.
      fill_mode: `constant`, `nearest`, `reflect` or `wrap`.
      cval: What `constant` fills in.
      order: 0 takes the nearest pixel, 1 interpolates.
      has_channel_shift: Whether parameters say by what to raise all channels.
      has_brightness: Whether they say by what to multiply; values must be from 0 to 255.

    Returns:
      The same shape and type; for integers, each value is rounded once, at the end.
    """
    x = _sampled(values, parameters, fill_mode, cval, order)
    if has_channel_shift:
        x = tf.cast(x, tf.float32)
        low, high = (f(x, (1, 2, 3), keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
        shift = tf.cast(parameters.channel_shift_intensity, tf.float32)[:, None, None, None]
        x = tf.clip_by_value(x + shift, low, high)
    if has_brightness:  # As Pillow: whole numbers before and after.
        factor = tf.cast(parameters.brightness, tf.float32)[:, None, None, None]
        if values.shape[3] == _LUMINANCES + 1:
            factor = tf.concat([tf.tile(factor, (1, 1, 1, _LUMINANCES)), tf.ones_like(factor)], 3)
        x = tf.floor(tf.minimum(tf.floor(tf.cast(x, tf.float32)) * factor, 255.0))
    if values.dtype.is_integer and x.dtype.is_floating:
        x = tf.round(x)
    return tf.cast(x, values.dtype)


def moved_boxes(
    corners: tf.Tensor, parameters: Parameters, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves boxes with their image: each becomes the smallest upright one around it.

    Args:
      corners: float32 (batch, boxes, 4): left, top, right and bottom as shares of width and height,
        and -1 where there is no box.
      parameters: Of each image.
      height: Of the images, in pixels.
      width: The same.

    Returns:
      The same, cut off at the image's edges, and whether each box still is one, bool (batch,
      boxes); what is none is -1.
    """
    matrix = matrices(parameters, height, width)
    size = tf.constant([height, width], tf.float64)
    left, top, right, bottom = tf.unstack(tf.cast(corners, tf.float64), axis=2)
    sides = tf.stack([tf.stack([top, top, bottom, bottom], 2), tf.stack([left, right] * 2, 2)], 3)
    # A pixel's own place is its middle, and half a pixel off its edge.
    found = sides * size - 0.5 - matrix[:, None, None, :, 2]
    inverse = tf.linalg.inv(matrix[:, :, :2])
    found = (tf.einsum("bij,bncj->bnci", inverse, found) + 0.5) / size
    flips = tf.stack([parameters.flip_vertical, parameters.flip_horizontal], 1)
    found = tf.where(flips[:, None, None, :], 1 - found, found)
    low, high = tf.reduce_min(found, 2), tf.reduce_max(found, 2)
    return boxes.cut(low, high, boxes.are_boxes(corners))


def _sampled(
    values: tf.Tensor, parameters: Parameters, fill_mode: str, cval: float, order: int
) -> tf.Tensor:
    """Returns the transformed and flipped images; float32 if they are interpolated."""
    _, height, width, channels = values.shape
    rows, columns = _places(parameters, height, width)
    is_outside = (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
    rows, columns = _inside(rows, height, fill_mode), _inside(columns, width, fill_mode)
    first = tf.range(tf.shape(values)[0])[:, None, None] * (height * width)
    pixels = tf.reshape(values, (-1, channels))

    def at(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.gather(pixels, first + row * width + column)

    if order == 0:
        x = at(_whole(rows + 0.5), _whole(columns + 0.5))
    else:
        row, column = _whole(rows), _whole(columns)
        below, right = tf.minimum(row + 1, height - 1), tf.minimum(column + 1, width - 1)
        downward, rightward = _share(rows), _share(columns)
        upper = _between(at(row, column), at(row, right), rightward)
        lower = _between(at(below, column), at(below, right), rightward)
        x = _between(upper, lower, downward)
    if fill_mode == "constant":
        x = tf.where(is_outside[..., None], tf.cast(cval, x.dtype), x)
    return x


def _places(parameters: Parameters, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where the pixels of the result come from: rows and columns, (batch, height, width).

    A flip comes last, and so the matrix is asked for the place on the other side.
    """
    row, column = tf.range(height, dtype=tf.float64), tf.range(width, dtype=tf.float64)
    row = tf.where(parameters.flip_vertical[:, None], height - 1 - row, row)[:, :, None]
    column = tf.where(parameters.flip_horizontal[:, None], width - 1 - column, column)[:, None, :]
    m = matrices(parameters, height, width)[..., None, None]
    rows = m[:, 0, 2] + m[:, 0, 0] * row + m[:, 0, 1] * column
    return rows, m[:, 1, 2] + m[:, 1, 0] * row + m[:, 1, 1] * column


def _inside(places: tf.Tensor, size: int, fill_mode: str) -> tf.Tensor:
    """Maps places outside of 0 to size - 1 into it, as SciPy's modes do."""
    last = size - 1.0
    if fill_mode == "reflect":  # dcba abcd dcba
        places = tf.math.floormod(places + 0.5, 2.0 * size)
        places = tf.minimum(places, 2 * size - places) - 0.5
    elif fill_mode == "wrap":  # The first pixel and the last are one: bcd abcd abc has d for a.
        period = max(last, 1)
        before = last - tf.math.floormod(-places, period)
        behind = tf.math.floormod(places, period)
        places = tf.where(places < 0, before, tf.where(places > last, behind, places))
    return tf.clip_by_value(places, 0, last)


def _whole(places: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.floor(places), tf.int32)


def _share(places: tf.Tensor) -> tf.Tensor:
    """Returns how far a place is behind the whole one before it: float32 (..., 1)."""
    return tf.cast(places - tf.floor(places), tf.float32)[..., None]


def _between(first: tf.Tensor, second: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    first, second = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
    return first + (second - first) * share
