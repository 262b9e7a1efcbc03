"""Arrays of .npz files, read some megabytes at a time and never unpickled."""

import contextlib
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from beam_jobs import files, object_stores
from beam_jobs.errors import DataError
from beam_jobs.sources import arrays
from beam_jobs.sources.arrays import UnfitValue

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

# What zipfile and NumPy raise for hostile bytes.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    ArithmeticError,
    RuntimeError,
)


def batches(path: str) -> Iterator[pa.RecordBatch]:
    """Yields the records of a file.

    Args:
      path: Of a .npz file, on any file system that Beam knows.

    Raises:
      DataError: The file is none, is damaged, or holds what no table can; one line.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(contextlib.closing(files.opened(path)))
            archive = stack.enter_context(zipfile.ZipFile(file))
            members = {
                name.removesuffix(".npy"): stack.enter_context(_Member(archive, name))
                for name in archive.namelist()
            }
            num_records = arrays.common_length(members)
            size = arrays.records_of_a_piece(sum(one.record_bytes for one in members.values()))
            for start in range(0, num_records, size):
                stop = min(start + size, num_records)
                yield arrays.batch({name: one.read(start, stop) for name, one in members.items()})
    except UnfitValue as error:
        raise DataError(f"{path}: {error}.") from error
    except (*object_stores.ERRORS, *_DAMAGED) as error:
        raise DataError(
            f"{path}: cannot be read: {object_stores.fault(error)}. Give a file of numpy.savez."
        ) from error


class _Member(contextlib.AbstractContextManager["_Member"]):
    """An array of an archive, which is read from its beginning to its end.

    Attributes:
      record_bytes: What one record takes.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str):
        """Reads the header.

        Raises:
          UnfitValue: It is no array, or one of Python's objects, which would have to be unpickled.
        """
        self._file = archive.open(name)
        try:
            version = npy.read_magic(self._file)
            self._shape, is_fortran, self._dtype = _HEADERS[version](self._file)
        except (ValueError, LookupError) as error:
            raise UnfitValue(f"{name} is no array of numpy.savez") from error
        name = name.removesuffix(".npy")
        if self._dtype.hasobject:
            raise UnfitValue(
                f"{name} holds Python objects, which are not unpickled: save numbers or texts"
            )
        self.record_bytes = self._dtype.itemsize * math.prod(self._shape[1:])
        self._all: np.ndarray | None = None
        if is_fortran and len(self._shape) > 1:  # The records lie across each other.
            self._all = self._array(self._shape[::-1]).T

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self._file.close()

    def __len__(self) -> int:
        """Returns the number of records."""
        if not self._shape:
            raise TypeError("one value")
        return self._shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the next records: those from start to stop."""
        if self._all is not None:
            return self._all[start:stop]
        return self._array((stop - start, *self._shape[1:]))

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        wanted = self._dtype.itemsize * math.prod(shape)
        data = self._file.read(wanted)
        if len(data) != wanted:
            raise EOFError("it ends too early")
        return np.frombuffer(data, self._dtype).reshape(shape)
