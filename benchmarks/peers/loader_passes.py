"""How every loader is timed: whole passes over its images, after one batch that is not counted."""

import statistics
import time
from collections.abc import Callable, Iterable

BATCH_SIZE = 64
SIZE = 224
_LEAST_SECONDS = 4


def print_rate(
    name: str, batch_sizes: Callable[[], Iterable[int]], before: Callable[[], object] = bool
) -> None:
    """Makes passes for a few seconds, and prints the median of their rates.

    Args:
      name: Of the loader.
      batch_sizes: Starts a pass, and gives the number of images in each batch of it.
      before: What to do before each pass, not timed.
    """
    next(iter(batch_sizes()))  # Imports, traces and compiles.
    rates: list[float] = []
    end = time.perf_counter() + _LEAST_SECONDS
    while not rates or time.perf_counter() < end:
        before()
        start = time.perf_counter()
        num_images = sum(batch_sizes())
        rates.append(num_images / (time.perf_counter() - start))
    rate = statistics.median(rates)
    print(f"loader {name}: {num_images} images, {len(rates)} passes, {rate:.1f} images/s")
