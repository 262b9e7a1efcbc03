"""Serialized examples to tensors."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer import boxes
from trainer.dataset_info import MAX_PIXELS, WEIGHT, DatasetInfo, Feature, Label


def parse(
    serialized: tf.Tensor,
    columns: Sequence[Feature],
    info: DatasetInfo,
    crop: tuple[int, int] | None = None,
    seeds: tf.Tensor | None = None,
) -> tuple[dict[str, tf.Tensor], Any, tf.Tensor | None]:
    """Parses a batch.

    Args:
      serialized: string (batch,).
      columns: The features to return.
      info: The dataset.
      crop: Height and width to cut out of encoded images; None takes them whole.
      seeds: int64 (batch, 2), which decide where; None: in the middle.

    Returns:
      The features by name, each (batch, *shape) in its dtype; the label, (batch,), or float32
      (batch, classes) of a multi_label, or a dict of several by name, or None; and the weight,
      float32 (batch,), or None.
    """
    spec: dict[str, Any] = {column.name: _spec(column) for column in columns}
    spec |= {label.key: _label_spec(label) for label in info.targets.values()}
    if info.has_weight:
        spec[WEIGHT] = tf.io.FixedLenFeature([], tf.float32)
    values = tf.io.parse_example(serialized, spec)
    features = {}
    for column in columns:
        if column.is_encoded:
            features[column.name] = _decoded(values[column.name], column, crop, seeds)
        else:
            features[column.name] = _tensor(values[column.name], column)
    if crop is not None:
        for image in columns:
            followers = [column for column in columns if column.of == image.name]
            if followers and image.is_encoded:
                regions = _regions(values[image.name], image, crop, seeds)
                for column in followers:
                    _follow(features, column, crop, *regions)
    size = serialized.shape[0]
    found = {name: _target(values[label.key], label, size) for name, label in info.targets.items()}
    target = found if info.labels else next(iter(found.values()), None)
    return features, target, values[WEIGHT] if info.has_weight else None


def images(files: tf.Tensor, feature: Feature, crop: tuple[int, int] | None) -> tf.Tensor:
    """Returns the pixels of image files, string (batch,), as `parse` does outside of training."""
    return _decoded(files, feature, crop, None)


def known_classes(target: tf.Tensor, label: Label, split: str) -> tf.Tensor:
    """Returns indices of classes as they are; running it fails where one is of no class."""
    num_classes = len(label.classes)
    wrong = tf.boolean_mask(target, (target < 0) | (target >= num_classes))
    text = tf.strings.format(
        f"{split} holds the label {{}}, but there are {num_classes} classes, from 0 on.",
        tf.reduce_max(wrong),
    )
    is_right = tf.equal(tf.size(wrong), 0)
    with tf.control_dependencies([tf.debugging.Assert(is_right, [text])]):
        return tf.identity(target)


def _label_spec(label: Label) -> tf.io.FixedLenFeature | tf.io.RaggedFeature:
    if label.type == "multi_label":
        return tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    return tf.io.FixedLenFeature([], label.dtype)


def _target(values: tf.Tensor | tf.RaggedTensor, label: Label, size: int | None) -> tf.Tensor:
    """Returns a label as (batch,), or a multi_label as 0 and 1, float32 (batch, classes).

    Args:
      values: As parsed.
      label: What they are.
      size: Of the batch, where it is one for all: a TPU needs to know.
    """
    if label.type != "multi_label":
        return values
    indices = known_classes(values.flat_values, label, f"a list under {label.key}")
    places = tf.stack([values.value_rowids(), indices], 1)
    ones = tf.ones_like(indices, tf.float32)
    shape = tf.stack([values.nrows(), len(label.classes)])
    hot = tf.tensor_scatter_nd_max(tf.zeros(shape), places, ones)
    return tf.ensure_shape(hot, (size, len(label.classes)))


def _spec(
    feature: Feature,
) -> tf.io.FixedLenFeature | tf.io.SparseFeature | tf.io.RaggedFeature:
    if feature.stored_as == "sparse":
        keys = f"{feature.name}/indices", f"{feature.name}/values"
        return tf.io.SparseFeature(*keys, tf.float32, feature.shape[0], already_sorted=True)
    if feature.stored_as == "raw" or feature.is_encoded:
        return tf.io.FixedLenFeature((), tf.string)
    if feature.stored_as == "bytes_list":
        return tf.io.FixedLenFeature(feature.shape, tf.string)
    stored = tf.float32 if feature.stored_as == "float_list" else tf.int64
    if feature.is_ragged:
        return tf.io.RaggedFeature(stored)
    return tf.io.FixedLenFeature(feature.shape, stored)


def _tensor(values: tf.Tensor | tf.SparseTensor | tf.RaggedTensor, feature: Feature) -> tf.Tensor:
    """Returns stored values as (batch, *shape) in the feature's dtype."""
    if feature.stored_as == "sparse":
        return tf.ensure_shape(tf.sparse.to_dense(values), (None, *feature.shape))
    if feature.is_ragged:
        padded = values.to_tensor(0, shape=(None, *feature.shape))
        return tf.ensure_shape(padded, (None, *feature.shape))
    if feature.stored_as != "raw":
        return values
    flat = tf.io.decode_raw(values, tf.dtypes.as_dtype(feature.dtype))
    flat = tf.ensure_shape(flat, (None, math.prod(feature.shape)))
    return tf.reshape(flat, (values.shape[0] or -1, *feature.shape))


def _decoded(
    files: tf.Tensor,
    feature: Feature,
    crop: tuple[int, int] | None,
    seeds: tf.Tensor | None,
) -> tf.Tensor:
    """Decodes image files: string (batch,) -> uint8 (batch, height, width, channels)."""
    shape = (*(crop or feature.shape[:2]), feature.shape[2])
    if seeds is None:
        seeds = tf.zeros((tf.shape(files)[0], 0), tf.int64)

    def decoded(arguments: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        file, seed = arguments
        size = _size(file, feature)
        if crop is not None:
            return tf.ensure_shape(_cropped(file, size, feature, crop, seed), shape)
        is_right = tf.reduce_all(size == feature.shape[:2])
        text = tf.strings.format(
            "an image must be {} pixels high and wide, but is {}.", (feature.shape[:2], size)
        )
        with tf.control_dependencies([tf.debugging.Assert(is_right, [text])]):
            return tf.ensure_shape(_image(tf.identity(file), feature), shape)

    signature = tf.TensorSpec(shape, tf.uint8)
    images = tf.map_fn(decoded, (files, seeds), fn_output_signature=signature)
    return tf.reshape(images, (files.shape[0] or -1, *shape))


def _size(file: tf.Tensor, feature: Feature) -> tf.Tensor:
    """Returns height and width from an image's header, int32 (2,): nothing is decoded."""
    if feature.stored_as == "jpeg":
        size = tf.io.extract_jpeg_shape(file)[:2]
    else:
        header = tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.int32, little_endian=False)
        size = tf.reverse(tf.ensure_shape(header, (2,)), [0])
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    text = tf.strings.format(
        "an image has {} pixels, but must have 1 to {}: it is not decoded.", (pixels, MAX_PIXELS)
    )
    is_right = (pixels > 0) & (pixels <= MAX_PIXELS)
    with tf.control_dependencies([tf.debugging.Assert(is_right, [text])]):
        return tf.identity(size)


def _image(file: tf.Tensor, feature: Feature) -> tf.Tensor:
    if feature.stored_as == "jpeg":
        return tf.io.decode_jpeg(file, channels=feature.shape[2], dct_method="INTEGER_ACCURATE")
    return tf.io.decode_png(file, channels=feature.shape[2])


def _cropped(
    file: tf.Tensor,
    size: tf.Tensor,
    feature: Feature,
    crop: tuple[int, int],
    seed: tf.Tensor,
) -> tf.Tensor:
    """Cuts a box out of an image; decodes little more than that of a JPEG.

    Of an image that is smaller than the box, the largest part of the box's form is enlarged.
    """
    corner, box = _region(size, crop, seed)
    if feature.stored_as == "jpeg":
        part = tf.image.decode_and_crop_jpeg(
            file,
            tf.concat([corner, box], 0),
            channels=feature.shape[2],
            dct_method="INTEGER_ACCURATE",
        )
    else:
        begin, sides = (tf.concat([two, [last]], 0) for two, last in ((corner, 0), (box, -1)))
        part = tf.slice(_image(file, feature), begin, sides)

    def enlarged() -> tf.Tensor:
        return tf.cast(tf.round(tf.image.resize(part, crop)), tf.uint8)

    return tf.cond(tf.reduce_all(box == crop), lambda: part, enlarged)


def _region(size: tf.Tensor, crop: tuple[int, int], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the corner and the size of the box to cut out, each int32 (2,)."""
    wanted = tf.constant(crop, tf.int32)
    scale = tf.reduce_max(tf.cast(wanted, tf.float64) / tf.cast(size, tf.float64))
    box = tf.cast(tf.math.ceil(tf.cast(wanted, tf.float64) / scale), tf.int32)
    box = tf.where(scale > 1, tf.minimum(box, size), wanted)
    if seed.shape[0] == 0:
        return (size - box) // 2, box
    chance = tf.random.stateless_uniform((2,), seed, dtype=tf.float64)
    return tf.cast(chance * tf.cast(size - box + 1, tf.float64), tf.int32), box


def _regions(
    files: tf.Tensor, feature: Feature, crop: tuple[int, int], seeds: tf.Tensor | None
) -> tuple[tf.Tensor, ...]:
    """Returns what is cut out of each image: corner, size, and size of the whole, (batch, 2)."""
    if seeds is None:
        seeds = tf.zeros((tf.shape(files)[0], 0), tf.int64)

    def region(arguments: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        file, seed = arguments
        size = _size(file, feature)
        return (*_region(size, crop, seed), size)

    signature = tf.TensorSpec((2,), tf.int32)
    return tf.map_fn(region, (files, seeds), fn_output_signature=(signature,) * 3)


def _follow(
    features: dict[str, tf.Tensor],
    column: Feature,
    crop: tuple[int, int],
    corners: tf.Tensor,
    sizes: tf.Tensor,
    wholes: tf.Tensor,
) -> None:
    """Cuts masks and boxes as their images were cut."""
    values = features[column.name]
    if column.kind == "boxes":
        corner, size, whole = (
            tf.cast(each, tf.float64)[:, None] for each in (corners, sizes, wholes)
        )
        shares = tf.cast(values, tf.float64)
        low = (shares[..., 1::-1] * whole - corner) / size
        high = (shares[..., :1:-1] * whole - corner) / size
        boxes.replace(features, column.name, *boxes.cut(low, high, boxes.are_boxes(values)))
        return
    shape = (*crop, column.shape[2])

    def cut(arguments: tuple[tf.Tensor, ...]) -> tf.Tensor:
        mask, corner, size = arguments
        part = tf.slice(mask, tf.concat([corner, [0]], 0), tf.concat([size, [-1]], 0))
        enlarged = tf.image.resize(part, crop, "nearest")
        return tf.ensure_shape(enlarged, shape)

    signature = tf.TensorSpec(shape, values.dtype)
    cropped = tf.map_fn(cut, (values, corners, sizes), fn_output_signature=signature)
    features[column.name] = tf.reshape(cropped, (values.shape[0] or -1, *shape))
