"""Boxes whose image was changed: cut off at its edges, and those that can be seen in front."""

import tensorflow as tf

_LEAST = 1e-6  # Of a side: what rounding leaves of a box that ends where its image does.


def are_boxes(corners: tf.Tensor) -> tf.Tensor:
    """Tells boxes from the rows of -1 behind the last: (batch, boxes, 4) -> bool (batch, boxes)."""
    return corners[..., 2] > corners[..., 0]


def cut(low: tf.Tensor, high: tf.Tensor, was_box: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts boxes off at the edges of their image.

    Args:
      low: float64 (batch, boxes, 2), the top and the left as shares of the height and the width.
      high: The bottom and the right.
      was_box: bool (batch, boxes): where there was one.

    Returns:
      float32 (batch, boxes, 4), left, top, right and bottom, and whether there still is one; what
      is none is -1.
    """
    low, high = tf.clip_by_value(low, 0, 1), tf.clip_by_value(high, 0, 1)
    corners = tf.cast(tf.concat([low[..., ::-1], high[..., ::-1]], 2), tf.float32)
    is_box = was_box & tf.reduce_all(high - low > _LEAST, 2)
    return tf.where(is_box[..., None], corners, -tf.ones_like(corners)), is_box


def replace(
    features: dict[str, tf.Tensor], name: str, corners: tf.Tensor, is_box: tf.Tensor
) -> None:
    """Replaces the boxes of a batch and, where they have some, their classes.

    Those that are left keep their order, and come first.
    """
    order = tf.argsort(tf.where(is_box, 0, 1), axis=1, stable=True)
    found = {name: corners}
    classes = f"{name}_class"
    if classes in features:
        found[classes] = tf.where(is_box, features[classes], -1)
    for each, values in found.items():
        values = tf.gather(values, order, batch_dims=1)
        features[each] = tf.ensure_shape(values, features[each].shape)
