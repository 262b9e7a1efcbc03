import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from beam_jobs import png

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
BLOCK = 65_535  # Of deflate, uncompressed.


@pytest.mark.parametrize(
    "shape",
    [
        (3, 1, 1, 1),
        (5, 32, 32, 3),
        (2, 5, 4, 2),
        (2, 7, 3, 4),
        (1, 1, BLOCK - 1, 1),  # With the filter's byte, one block, and one more.
        (1, 1, BLOCK, 1),
        (2, 257, 300, 3),
        (0, 4, 4, 3),
    ],
)
def test_pillow_reads_the_same_pixels(shape):
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)

    files = png.stored(images)

    assert len(files) == len(images)
    for image, file in zip(images, files, strict=True):
        with Image.open(io.BytesIO(file.tobytes())) as read:
            read.load()  # Pillow checks the sums.
            assert read.mode == MODES[shape[-1]]
            assert (np.asarray(read).reshape(shape[1:]) == image).all()


def test_tensorflow_reads_the_same_pixels():
    image = np.random.default_rng(2).integers(0, 256, (90, 300, 3), np.uint8)
    assert (tf.io.decode_png(png.stored(image[np.newaxis]).tobytes()).numpy() == image).all()
