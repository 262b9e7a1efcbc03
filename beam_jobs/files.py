"""Small files, on any file system that Beam knows, that appear whole or not at all."""

import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import object_stores

TEMPORARY = ".tmp"  # How the name of a file ends that is not whole.


def is_local(path: str) -> bool:
    """Whether a path is on a disk of this machine."""
    return FileSystems.get_scheme(path) is None


def join(folder: str, *names: str) -> str:
    """Returns the path of a file inside a folder."""
    return posixpath.join(folder, *names)


def make_folder(path: str) -> None:
    """Makes a folder unless it is there; object stores have none."""
    if not FileSystems.exists(path):
        FileSystems.mkdirs(path)


class NewFile:
    """A file that appears whole when it is published, or not at all.

    Until then it has another name; in an object store, which shows nothing before, it needs none.

    Attributes:
      file: To write to.
    """

    def __init__(self, path: str, folder: str | None = None):
        """Opens it.

        Args:
          path: What it will be called.
          folder: Where it lies until then; None for where it will be.
        """
        self._path = self._temporary = path
        if not object_stores.is_in(path):
            # Retried tasks write one file at the same time: every attempt has its own name.
            name = f"{posixpath.basename(path)}.{uuid.uuid4().hex}{TEMPORARY}"
            self._temporary = join(folder or posixpath.dirname(path), name)
        self.file = FileSystems.create(
            self._temporary, compression_type=CompressionTypes.UNCOMPRESSED
        )

    def publish(self) -> None:
        """Puts the file into its place, onto what stands there."""
        try:
            self.file.close()
            if self._temporary != self._path:
                rename(self._temporary, self._path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Removes what was written."""
        with suppress(*object_stores.ERRORS):
            object_stores.abandon(self.file)
        if self._temporary != self._path:
            with suppress(*object_stores.ERRORS):
                remove_file(self._temporary)


@contextmanager
def created(path: str) -> Iterator[Any]:
    """Opens a file to write that appears in the end, unless an error is raised before."""
    new = NewFile(path)
    try:
        yield new.file
    except BaseException:
        new.discard()
        raise
    new.publish()


def opened(path: str) -> Any:
    """Opens a file to read its bytes, whatever its name ends with."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def write(path: str, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    with created(path) as file:
        file.write(data)


def rename(source: str, target: str) -> None:
    """Moves a file into place, onto what stands there."""
    try:
        FileSystems.rename([source], [target])
    except BeamIOError:
        # HDFS does not rename onto a file that exists. On a local disk that is no reason to fail.
        if is_local(target) or not FileSystems.exists(target):
            raise
        FileSystems.delete([target])
        FileSystems.rename([source], [target])


def read(path: str) -> bytes | None:
    """Returns what a file holds; None if it is not there."""
    if not FileSystems.exists(path):
        return None
    with opened(path) as file:
        return file.read()


def read_range(path: str, start: int, end: int) -> bytes | None:
    """Returns a part of a file, from byte to byte; None if it is not there."""
    if not FileSystems.exists(path):
        return None
    with opened(path) as file:
        file.seek(start)
        return file.read(end - start)


def names(folder: str) -> list[str]:
    """Returns the names of the files and folders in a folder, sorted; none if it is not there."""
    if is_local(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    try:
        found = FileSystems.match([posixpath.join(folder, "**")])[0].metadata_list
    except BeamIOError:
        if object_stores.is_in(
            folder
        ):  # Which have an empty answer for a folder that is not there.
            raise
        return []
    start = len(folder.rstrip("/")) + 1
    return sorted({file.path[start:].split("/")[0] for file in found})


def below(folder: str) -> list[str]:
    """Returns the paths of all files below a folder, relative to it, sorted."""
    if is_local(folder):
        found = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
        return sorted(os.path.relpath(path, folder) for path in found)
    matched = FileSystems.match([posixpath.join(folder, "**")])[0].metadata_list
    start = len(folder.rstrip("/")) + 1
    return sorted(file.path[start:] for file in matched)


def remove_file(path: str) -> None:
    """Removes one file that is there."""
    if is_local(path):  # FileSystems.delete takes a pattern: it fails in a folder `run[1]`.
        os.remove(path)
    else:
        FileSystems.delete([path])


def remove(path: str) -> None:
    """Removes a file or a whole folder, if it is there."""
    if not is_local(path):
        found = FileSystems.match([path, posixpath.join(path, "**")])
        paths = [file.path for match in found for file in match.metadata_list]
        if paths:
            FileSystems.delete(paths)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        remove_file(path)
