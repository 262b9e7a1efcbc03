"""Arrays that one stage leaves for another in a file: too large to be part of an element."""

import dataclasses
import functools
import math
import struct
import threading

import google_crc32c
import numpy as np

from beam_jobs import files
from beam_jobs.errors import DataError

SUFFIX = ".array"  # Of every such file.
_LOADING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class SavedArray:
    """An array in a file: its bytes in C order, little-endian, and their CRC-32C.

    Attributes:
      path: The file.
      dtype: Of the array, as NumPy calls it.
      shape: Of the array.
      crc32c: Of its bytes.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    crc32c: int

    def load(self) -> np.ndarray:
        """Reads it, once in a process.

        Raises:
          DataError: It is gone or damaged.
        """
        with _LOADING:
            return _load(self)


def save(path: str, array: np.ndarray) -> SavedArray:
    """Writes an array to a file that appears whole or not at all."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    crc = google_crc32c.value(array.reshape(-1).view(np.uint8))
    with files.created(path) as file:
        file.write(array.data.cast("B"))
        file.write(struct.pack("<I", crc))
    return SavedArray(path, array.dtype.str, array.shape, crc)


def find(path: str, dtype: str, shape: tuple[int, ...]) -> SavedArray | None:
    """Returns what `save` left at a path; None where there is nothing sound of this shape."""
    data = files.read(path)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if data is None or len(data) != size + 4:
        return None
    crc = google_crc32c.value(np.frombuffer(data, np.uint8, size))
    is_sound = crc == struct.unpack("<I", data[size:])[0]
    return SavedArray(path, np.dtype(dtype).str, shape, crc) if is_sound else None


@functools.lru_cache(maxsize=4)
def _load(saved: SavedArray) -> np.ndarray:
    data = files.read(saved.path)
    size = math.prod(saved.shape) * np.dtype(saved.dtype).itemsize
    if (
        data is None
        or len(data) < size
        or google_crc32c.value(np.frombuffer(data, np.uint8, size)) != saved.crc32c
    ):
        raise DataError(
            f"{saved.path}: is gone or damaged. Run one job at a time in a folder, and give one "
            "that all workers share."
        )
    return np.frombuffer(memoryview(data)[:size], saved.dtype).reshape(saved.shape)
