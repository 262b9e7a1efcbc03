"""Batches whose images are changed at random, by what their records' places decide."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer import boxes, parsing, resampling
from trainer.augmentation import Augmentation, Shift
from trainer.dataset_info import DatasetInfo, Feature
from trainer.errors import UsageError
from trainer.resampling import Parameters

_CHANCES = 16  # Random numbers of a record, though fewer are used: others may follow.
_NUMBERS_A_STEP = 2  # Of float64, which Philox makes of one state of its counter.
_PHILOX = 1  # As TensorFlow numbers its generators.
_MOST_SEED = 2**31 - 2**10  # Keras counts on from it, and takes seeds as int32.
_STREAM = -1  # Places are not negative, and seed crops.

Features = dict[str, tf.Tensor]


class _Group(NamedTuple):
    """An image, and what goes the same way."""

    image: Feature
    masks: list[Feature]
    boxes: list[Feature]


class Augmenter:
    """Changes batches; the same for any number of hosts and threads, but for what mixes."""

    def __init__(
        self,
        augmentation: Augmentation,
        info: DatasetInfo,
        split: str,
        columns: Sequence[Feature],
        *,
        seed: int,
        batch_size: int,
        host: int,
        num_hosts: int,
    ):
        """Takes what decides how.

        Args:
          augmentation: What to do.
          info: The dataset.
          split: Which part of it.
          columns: The features that are read.
          seed: As int64.
          batch_size: Of all hosts.
          host: Which part of each batch this is.
          num_hosts: How many share a batch.
        """
        self._augmentation = augmentation
        self._groups = _groups(info, columns)
        self._label = info.label
        self._split = split
        self._seed = seed
        self._batch_size = batch_size
        self._host = host
        self._num_hosts = num_hosts
        self._layers = _layers(augmentation)

    def __call__(
        self, features: Features, label: tf.Tensor | None, number: tf.Tensor
    ) -> tuple[Features, tf.Tensor | None]:
        """Changes a batch.

        Args:
          features: By name, each (batch, *shape).
          label: int64 or float32 (batch,), or None.
          number: Of the batch over all epochs, int64.

        Returns:
          The same shapes and types, but for the label where records are mixed: float32 (batch,
          classes).
        """
        features = dict(features)
        chances = self._chances(number)
        first = [group.image.name for group in self._groups if _is_channels_first(group.image)]
        for name in first:
            features[name] = tf.transpose(features[name], (0, 2, 3, 1))
        for group in self._groups:
            self._transform(features, group, chances)
        label = self._through_layers(features, label, number)
        for name in first:
            features[name] = tf.transpose(features[name], (0, 3, 1, 2))
        return features, label

    def _chances(self, number: tf.Tensor) -> tf.Tensor:
        """Returns the random numbers of this host's records: float64 (batch, _CHANCES).

        Philox counts: what it makes of a counter does not depend on where it began.
        """
        key, _ = tf.raw_ops.StatelessRandomGetKeyCounter(seed=[self._seed, _STREAM])
        first = number * (self._batch_size * _CHANCES // _NUMBERS_A_STEP)
        chances = tf.raw_ops.StatelessRandomUniformV2(
            shape=[self._batch_size, _CHANCES],
            key=key,
            counter=tf.stack([tf.cast(first, tf.uint64), tf.constant(0, tf.uint64)]),
            alg=_PHILOX,
            dtype=tf.float64,
        )
        return chances[self._host :: self._num_hosts]

    def _transform(self, features: Features, group: _Group, chances: tf.Tensor) -> None:
        """Replaces an image, its masks and its boxes."""
        asked, image = self._augmentation, features[group.image.name]
        _, height, width, _ = image.shape
        parameters = drawn(asked, chances[: tf.shape(image)[0]], height, width)
        if asked.moves or asked.channel_shift_range or asked.brightness_range is not None:
            features[group.image.name] = _kept(
                image,
                resampling.images(
                    image,
                    parameters,
                    asked.fill_mode,
                    float(asked.cval),
                    asked.interpolation_order if asked.is_affine else 0,
                    has_channel_shift=bool(asked.channel_shift_range),
                    has_brightness=asked.brightness_range is not None,
                ),
            )
        if not asked.moves:
            return
        for mask in group.masks:
            moved = resampling.images(features[mask.name], parameters, asked.fill_mode, 0.0, 0)
            features[mask.name] = _kept(features[mask.name], moved)
        for each in group.boxes:
            moved = resampling.moved_boxes(features[each.name], parameters, height, width)
            boxes.replace(features, each.name, *moved)

    def _through_layers(
        self, features: Features, label: tf.Tensor | None, number: tf.Tensor
    ) -> tf.Tensor | None:
        """Sends the images through Keras' layers, and returns the label as it comes out."""
        if self._augmentation.mixes and self._label:
            label = parsing.known_classes(label, self._label, self._split)
            label = tf.one_hot(label, len(self._label.classes))
        place = _STREAM - 1 - number * self._num_hosts - self._host
        for index, layer in enumerate(self._layers):
            seed = _layer_seed(self._seed, place, index)
            is_mixed = not isinstance(layer, keras.layers.RandAugment)
            for group in self._groups:
                # The same seeds, and so the same that happens to all images of a record.
                seeds = _Seeds(seed)
                layer._get_seed_generator = lambda backend=None, seeds=seeds: seeds
                image = features[group.image.name]
                changed, mixed = _through(layer, image, label if is_mixed else None)
                features[group.image.name] = changed
            label = mixed if is_mixed else label
        return label


def _is_channels_first(image: Feature) -> bool:
    return image.data_format == "channels_first"


def drawn(asked: Augmentation, chances: tf.Tensor, height: int, width: int) -> Parameters:
    """Draws as `ImageDataGenerator.get_random_transform` does.

    Args:
      asked: From what to draw.
      chances: float64 (batch, at least 12), from 0 to below 1.
      height: Of the images, in pixels.
      width: The same.
    """
    chance = iter(tf.unstack(chances, axis=1))
    lowest, highest = asked.zoom
    dimmest, brightest = asked.brightness_range or (1, 1)
    return Parameters(
        theta=_between(-asked.rotation_range, asked.rotation_range, next(chance)),
        tx=_shift(asked.width_shift_range, width, next(chance), next(chance)),
        ty=_shift(asked.height_shift_range, height, next(chance), next(chance)),
        shear=_between(-asked.shear_range, asked.shear_range, next(chance)),
        zx=_between(lowest, highest, next(chance)),
        zy=_between(lowest, highest, next(chance)),
        flip_horizontal=(next(chance) < 0.5) & asked.horizontal_flip,
        flip_vertical=(next(chance) < 0.5) & asked.vertical_flip,
        channel_shift_intensity=_between(
            -asked.channel_shift_range, asked.channel_shift_range, next(chance)
        ),
        brightness=_between(dimmest, brightest, next(chance)),
    )


def _between(low: float, high: float, chance: tf.Tensor) -> tf.Tensor:
    return low + (high - low) * chance


def _shift(asked: Shift, size: int, chance: tf.Tensor, of_sign: tf.Tensor) -> tf.Tensor:
    """Returns pixels."""
    if isinstance(asked, float):
        return _between(-asked, asked, chance) * (size if asked < 1 else 1)
    sign = tf.where(of_sign < 0.5, tf.constant(-1, tf.float64), 1)
    if isinstance(asked, int):
        return tf.floor(chance * float(max(1, asked))) * sign
    index = tf.cast(tf.floor(chance * len(asked)), tf.int32)
    choices = tf.constant(asked, tf.float64)
    return tf.gather(choices, index) * sign * (size if max(asked) < 1 else 1)


def _kept(before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Returns what came out with the static shape of what went in."""
    return tf.ensure_shape(after, before.shape)


def _through(
    layer: keras.Layer, image: tf.Tensor, label: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Sends images, and with what mixes them labels, through one of Keras' layers."""
    if label is None:
        changed = layer(image)
    else:
        found = layer({"images": image, "labels": label})
        # Of a small alpha, both parts of a weight may be 0, and the weight 0 / 0: nothing is mixed.
        is_sound = tf.reduce_all(tf.math.is_finite(found["labels"]), 1)
        changed = tf.where(
            is_sound[:, None, None, None], found["images"], tf.cast(image, tf.float32)
        )
        label = _kept(label, tf.where(is_sound[:, None], found["labels"], label))
    if image.dtype.is_integer:
        changed = tf.clip_by_value(tf.round(changed), image.dtype.min, image.dtype.max)
    return _kept(image, tf.cast(changed, image.dtype)), label


def _layers(asked: Augmentation) -> list[keras.Layer]:
    # float32, whatever the model computes in.
    kinds = {
        keras.layers.RandAugment: asked.rand_augment,
        keras.layers.MixUp: asked.mixup,
        keras.layers.CutMix: asked.cutmix,
    }
    return [
        kind(**arguments, data_format="channels_last", dtype="float32")
        for kind, arguments in kinds.items()
        if arguments is not None
    ]


def _layer_seed(seed: int, place: tf.Tensor, index: int) -> tf.Tensor:
    """Returns the seed of a layer for a batch: int32 (2,)."""
    seeds = tf.stack([tf.constant(seed, tf.int64), place])
    both = tf.random.stateless_uniform((2 * index + 2,), seeds, 0, _MOST_SEED, tf.int32)
    return both[2 * index :]


class _Seeds(keras.random.SeedGenerator):
    """Counts from a seed, and keeps no state as Keras' own do: batches are made in any order."""

    def __init__(self, seed: tf.Tensor):
        self._seed, self._count = seed, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Returns the next seed."""
        self._count += 1
        return self._seed + tf.constant([0, self._count])


def _groups(info: DatasetInfo, columns: Sequence[Feature]) -> list[_Group]:
    """Returns the images that are read, and what follows each."""

    def followers(image: Feature, kind: str) -> list[Feature]:
        return [c for c in columns if c.kind == kind and c.of == image.name]

    images = [column for column in columns if column.is_image]
    return [_Group(i, followers(i, "mask"), followers(i, "boxes")) for i in images]


def check(asked: Augmentation, info: DatasetInfo, columns: Sequence[Feature]) -> None:
    """Raises a UsageError where the features that are read have not what an argument needs."""
    where, groups = info.directory, _groups(info, columns)
    if not groups:
        raise UsageError(
            f"{where}: augmentation is for images, but no feature that is read is one."
        )
    for group in groups:
        _check_image(asked, where, group)
    if asked.mixes:
        _check_mixing(asked.mixes[0], info, columns)


def _check_image(asked: Augmentation, where: str, group: _Group) -> None:
    image, followers = group.image, [*group.masks, *group.boxes]
    if image.dtype == "uint8" and asked.fill_mode == "constant" and not 0 <= asked.cval <= 255:
        raise UsageError(
            f"{where}: {image.name!r} has values from 0 to 255, but cval is {asked.cval}."
        )
    if image.dtype != "uint8" and asked.needs_pixels:
        raise UsageError(
            f"{where}: {asked.needs_pixels[0]} needs pixels from 0 to 255, but {image.name!r} is "
            f'stored as {image.dtype}. Leave it out, or write the dataset with store = "uint8".'
        )
    channels = image.image_shape[2]
    if asked.rand_augment is not None and channels != 3:
        raise UsageError(
            f"{where}: rand_augment needs 3 channels, but {image.name!r} has {channels}."
        )
    if followers and (asked.mixes or asked.rand_augment is not None):
        name = (asked.mixes or ["rand_augment"])[0]
        raise UsageError(
            f"{where}: {name} leaves masks and boxes where they are, but {followers[0].name!r} "
            f"belongs to {image.name!r}. Leave it out."
        )


def _check_mixing(name: str, info: DatasetInfo, columns: Sequence[Feature]) -> None:
    if info.label is None or info.label.type != "class":
        raise UsageError(
            f"{info.directory}: {name} mixes the classes of records, but its label is none."
        )
    others = [column.name for column in columns if not column.is_image]
    if others:
        raise UsageError(
            f"{info.directory}: {name} mixes images and classes, but {others[0]!r} is read, too. "
            "Leave one of them out."
        )
