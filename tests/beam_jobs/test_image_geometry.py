"""Resize, crop and padding against tf.image and Keras, which keep the floats that we round."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle.stored_images import smooth
from PIL import Image

from beam_jobs.images import METHODS, Decoder, ImagePolicy

SIZES = [(23, 31), (40, 17), (64, 64)]


def decoded(pixels, **policy):
    """What the job makes of an image: uint8 (height, width, channels)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    images, broken = Decoder(ImagePolicy(**policy)).decode([file.getvalue()], [1])
    assert broken == {}
    return images.pixels[0]


def rounded(values):
    """As the job stores floats: half to even, within 0 to 255."""
    return np.clip(np.rint(np.asarray(values)), 0, 255).astype(np.uint8)


@pytest.fixture(params=SIZES, ids=str)
def pixels(request):
    return smooth(np.random.default_rng(1), *request.param)


def marked(original, *pairs):
    def mark(test):
        for argument, here in pairs:
            test = pytest.mark.feature(original, argument, here)(test)
        return test

    return mark


@marked("tf.image.resize", *((method, f'`method = "{method}"`') for method in METHODS))
@marked("tf.image.resize", ("antialias", "`antialias`"))
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_tf_image_resize(method, antialias, pixels):
    found = decoded(pixels, height=29, width=22, method=method, antialias=antialias)
    expected = tf.image.resize(pixels, (29, 22), method, antialias=antialias)
    assert np.array_equal(found, rounded(expected))


@marked("keras.layers", ("CenterCrop", "`crop_size`"))
def test_crop_size_is_center_crop(pixels):
    height, width = 16, 13
    layer = keras.layers.CenterCrop(height, width)
    expected = np.asarray(layer(pixels[None]))[0]
    found = decoded(pixels, height=height, width=width, crop_size=(height, width))
    assert np.array_equal(found, expected)
    resized = decoded(pixels, height=8, width=30, crop_size=(height, width))
    assert np.array_equal(resized, rounded(tf.image.resize(expected, (8, 30), antialias=True)))


@marked("keras.layers", ("Resizing", "`pad_to_aspect_ratio`, `pad_value`"))
@pytest.mark.parametrize("size", [(20, 30), (30, 20), (24, 24)])
@pytest.mark.parametrize("value", [0, 77])
def test_pad_to_aspect_ratio(value, size, pixels):
    found = decoded(pixels, height=size[0], width=size[1], antialias=False, pad_value=value)
    layer = keras.ops.image.resize  # What keras.layers.Resizing calls.
    expected = layer(
        tf.constant(pixels, tf.float32), size, pad_to_aspect_ratio=True, fill_value=float(value)
    )
    assert np.array_equal(found, rounded(expected))


@marked(
    "keras.utils.image_dataset_from_directory",
    ("crop_to_aspect_ratio", '`crop = "center"`'),
    ("interpolation", "`method`"),
    ("image_size", "`size`"),
)
@pytest.mark.parametrize("size", [(20, 30), (30, 20), (24, 24)])
def test_crop_to_aspect_ratio(size, pixels):
    found = decoded(pixels, height=size[0], width=size[1], antialias=False, crop="center")
    given = tf.constant(pixels, tf.float32)
    expected = keras.ops.image.resize(given, size, crop_to_aspect_ratio=True)
    assert np.array_equal(found, rounded(expected))


def test_an_odd_number_of_missing_pixels_is_rounded_down_on_both_sides():
    white = np.full((10, 5, 3), 255, np.uint8)
    found = decoded(white, height=10, width=10, pad_value=9, method="nearest", antialias=False)
    padded = np.pad(white, ((0, 0), (2, 2), (0, 0)), constant_values=9)  # 9 pixels wide, not 10.
    assert np.array_equal(found, tf.image.resize(padded, (10, 10), "nearest"))
