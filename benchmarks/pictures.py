"""Draws a photograph under each augmentation.

python -m benchmarks.pictures docs/augmentations.jpg

Every picture is what the loader's code makes of a photograph that ships with scikit-learn: of
twenty draws one that changed more than most, since many hardly change anything.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from trainer.augmentation import Augmentation
from trainer.augmented_batches import Augmenter
from trainer.dataset_info import DatasetInfo, Feature, Label

_HEIGHT, _WIDTH = 107, 160
_COLUMNS = 5
_TEXT_HEIGHT = 14
_NUM_DRAWS, _RANK = 20, 17
_BOXES = [[0.28, 0.17, 0.60, 0.92], [0.72, 0.42, 0.99, 0.78]]  # The temple and the roofs.
_TURNED = {"rotation_range": 40, "width_shift_range": 0.4}
_SHOWN: list[tuple[str, Mapping[str, Any]]] = [
    ("the photograph", {}),
    ("rotation_range = 40", {"rotation_range": 40}),
    ("width_shift_range = 0.3", {"width_shift_range": 0.3}),
    ("height_shift_range = 0.3", {"height_shift_range": 0.3}),
    ("shear_range = 30", {"shear_range": 30}),
    ("zoom_range = 0.5", {"zoom_range": 0.5}),
    ("horizontal_flip", {"horizontal_flip": True}),
    ("vertical_flip", {"vertical_flip": True}),
    ("brightness_range", {"brightness_range": (0.3, 1.7)}),
    ("channel_shift_range = 90", {"channel_shift_range": 90}),
    ('fill_mode = "nearest"', _TURNED),
    ('fill_mode = "constant"', {**_TURNED, "fill_mode": "constant"}),
    ('fill_mode = "reflect"', {**_TURNED, "fill_mode": "reflect"}),
    ('fill_mode = "wrap"', {**_TURNED, "fill_mode": "wrap"}),
    ("interpolation_order = 0", {"zoom_range": (0.15, 0.2), "interpolation_order": 0}),
    ("rand_augment", {"rand_augment": {}}),
    ("mixup", {"mixup": {"alpha": 1.0}}),
    ("cutmix", {"cutmix": {"factor": [1, 1]}}),
    ("its mask", {**_TURNED, "fill_mode": "constant"}),
    ("its boxes", {**_TURNED, "fill_mode": "constant"}),
]


def _feature(name: str, shape: tuple[int, ...], **options: Any) -> Feature:
    stored = "float_list" if len(shape) == 2 else "raw"
    return Feature(name, "uint8", shape, stored, False, None, {}, {}, None, **options)


def _batch() -> dict[str, tf.Tensor]:
    """Returns two photographs, the first with a mask of what is not sky, and boxes."""
    files = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    photos = [Image.fromarray(file).resize((_WIDTH, _HEIGHT)) for file in files]
    photo = np.stack([np.asarray(photo) for photo in photos])
    is_ground = photo.mean(axis=-1) < 150
    return {
        "photo": tf.constant(photo),
        "mask": tf.constant(is_ground[..., None].astype(np.uint8)),
        "boxes": tf.constant([_BOXES] * 2, tf.float32),
    }


def _draws(asked: Augmentation) -> list[dict[str, np.ndarray]]:
    """Returns what becomes of the first photograph in each draw."""
    batch = _batch()
    columns = [_feature("photo", (_HEIGHT, _WIDTH, 3))]
    if not asked.mixes and asked.rand_augment is None:
        columns.append(_feature("mask", (_HEIGHT, _WIDTH, 1), kind="mask", of="photo"))
        columns.append(_feature("boxes", (2, 4), kind="boxes", of="photo"))
    features = {column.name: column for column in columns}
    label = Label("kind", "int64", "class", ("china", "flower"), {})
    info = DatasetInfo("photographs", "photographs", "", "none", {}, features, label, False)
    augmenter = Augmenter(asked, info, "train", columns, seed=1, batch_size=2, host=0, num_hosts=1)
    read = {name: batch[name] for name in features}
    draws = []
    for number in range(_NUM_DRAWS):
        found, _ = augmenter(read, tf.constant([0, 1]), tf.constant(number, tf.int64))
        draws.append({name: values[0].numpy() for name, values in found.items()})
    return draws


def _changed(asked: Augmentation) -> dict[str, np.ndarray]:
    """Returns one of the draws, of the same number for all ways of filling."""
    before = _batch()["photo"][0].numpy().astype(int)
    filled = _draws(dataclasses.replace(asked, fill_mode="constant"))
    changes = [np.abs(draw["photo"] - before).mean() for draw in filled]
    return _draws(asked)[np.argsort(changes)[_RANK]]


def _picture(title: str, changed: Mapping[str, np.ndarray]) -> Image.Image:
    photo = Image.fromarray(changed["photo"])
    if title == "its mask":
        photo = Image.fromarray(changed["mask"][..., 0] * 255).convert("RGB")
    if title == "its boxes":
        draw = ImageDraw.Draw(photo)
        for box in changed["boxes"]:
            if box[0] >= 0:
                sides = box * np.array([_WIDTH - 1, _HEIGHT - 1] * 2)
                draw.rectangle([*sides.tolist()], outline=(255, 0, 0), width=2)
    return photo


def main(path: str) -> None:
    """Writes the picture."""
    rows = -(-len(_SHOWN) // _COLUMNS)
    width, height = _WIDTH + 6, _HEIGHT + _TEXT_HEIGHT + 6
    grid = Image.new("RGB", (_COLUMNS * width, rows * height), "white")
    draw = ImageDraw.Draw(grid)
    for index, (title, asked) in enumerate(_SHOWN):
        left, top = index % _COLUMNS * width + 3, index // _COLUMNS * height
        draw.text((left, top + 2), title, fill="black")
        picture = _picture(title, _changed(Augmentation(**asked)))
        grid.paste(picture, (left, top + _TEXT_HEIGHT + 2))
    grid.save(path, quality=88, subsampling=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
