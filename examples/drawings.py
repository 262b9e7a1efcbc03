"""A Keras generator as many have one: it makes its batches in Python, each time anew."""

import keras
import numpy as np


class Drawings(keras.utils.PyDataset):
    """Batches of discs: uint8 (32, 64, 64, 3), and 1 for one that is more red than blue."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        random = np.random.default_rng(index)
        colors = random.integers(0, 256, (32, 3))
        images = [self.draw(color, random) for color in colors]
        return np.stack(images), (colors[:, 0] > colors[:, 2]).astype(int)

    def draw(self, color, random):
        """Returns a disc of a random place and size."""
        y, x = np.mgrid[:64, :64] - random.integers(20, 44, (2, 1, 1))
        inside = np.hypot(x, y) < random.integers(10, 20)
        return np.where(inside[..., None], color, 128).astype(np.uint8)
