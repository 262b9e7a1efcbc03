"""How every loader is timed: whole passes over its examples, after one batch that is not counted.

KIND says what they are: `uint8` and `normalized` images, which were decoded and resized to
224x224x3 before, the second with mean and standard deviation applied to float32; `jpeg`, files
of 256x256 pixels, decoded and cropped to 224x224 at random places; `table`, rows of 14 numbers.
"""

import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np

SIZE = 224
STORED_SIZE = 256  # Of the files of kind `jpeg`.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
KINDS = ("uint8", "normalized", "jpeg", "table")
_LEAST_SECONDS = 4
_MOST_PASSES = 20


def batch_size(kind: str) -> int:
    """Returns how many examples every loader puts into a batch of this kind."""
    return 1_024 if kind == "table" else 64


def normalize(image: np.ndarray) -> np.ndarray:
    """Returns float32 of the same shape, from pixels of 0 to 255."""
    return (image / np.float32(255) - MEAN) / STD


def random_crop(image: np.ndarray) -> np.ndarray:
    """Cuts (SIZE, SIZE, channels) out of a larger image, at a random place."""
    height, width = (np.random.randint(side - SIZE + 1) for side in image.shape[:2])
    return image[height : height + SIZE, width : width + SIZE]


def print_rate(
    name: str, batch_sizes: Callable[[], Iterable[int]], before: Callable[[], object] = bool
) -> None:
    """Makes passes for a few seconds, 20 at most, and prints the median of their rates.

    Args:
      name: Of the loader.
      batch_sizes: Starts a pass, and gives the number of examples in each batch of it.
      before: What to do before each pass, not timed.
    """
    next(iter(batch_sizes()))  # Imports, traces and compiles.
    rates: list[float] = []
    end = time.perf_counter() + _LEAST_SECONDS
    while not rates or (len(rates) < _MOST_PASSES and time.perf_counter() < end):
        before()
        start = time.perf_counter()
        num_examples = sum(batch_sizes())
        rates.append(num_examples / (time.perf_counter() - start))
    rate = statistics.median(rates)
    print(f"loader {name}: {num_examples} examples, {len(rates)} passes, {rate:.1f} examples/s")
