"""The files that a source names, on any file system that Beam knows."""

import dataclasses
import hashlib
import os
import posixpath
import re
from collections.abc import Sequence

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError

_WILDCARD = re.compile(r"[*?\[{]")


@dataclasses.dataclass(frozen=True)
class File:
    """A file to read.

    Attributes:
      path: Where it is.
      relative: Its path from the root, the part of the spec's path before the first wildcard.
      size_bytes: Its size.
      modified: Seconds since 1970, 0 where the file system does not say.
      split: The split that its path decides, if `paths` is a table.
    """

    path: str
    relative: str
    size_bytes: int
    modified: float = 0.0
    split: str | None = None


def list_files(source: Source) -> list[File]:
    """Returns the files that the paths match, dot-files apart, sorted by path.

    Raises:
      SpecError: A path matches nothing, or a file is matched twice.
    """
    listed: dict[str, File] = {}
    for split, paths in source.split_paths.items():
        for path in paths:
            files = [file for file in _match(path, split) if not _is_hidden(file.relative)]
            if not files:
                raise SpecError(f"source.paths: {path!r} matches no file. Correct the path.")
            for file in files:
                if file.path in listed:
                    raise SpecError(f"source.paths: {file.path!r} is matched twice. Name it once.")
                listed[file.path] = file
    files = [listed[path] for path in sorted(listed)]
    if source.format == "images":
        _check_relative_paths(files)
    return files


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _match(path: str, split: str | None) -> list[File]:
    wildcard = _WILDCARD.search(path)
    root = path
    if wildcard:
        root = path[: path.rfind("/", 0, wildcard.start()) + 1]
    pattern = path if wildcard else posixpath.join(path, "**")
    try:
        found = FileSystems.match([path])[0].metadata_list
        if not wildcard:
            found = [file for file in found if not _is_folder(file)]
            if found:
                root = posixpath.dirname(path)
            else:
                found = FileSystems.match([pattern])[0].metadata_list
    except (BeamIOError, ValueError) as error:
        raise SpecError(f"source.paths: {path!r} cannot be listed: {error}.") from error
    found = [file for file in found if not _is_folder(file)]
    return [_file(metadata, root, split) for metadata in found]


def _is_folder(file: FileMetadata) -> bool:
    return os.path.isdir(file.path) or file.path.endswith("/")


def _file(metadata: FileMetadata, root: str, split: str | None) -> File:
    relative = metadata.path[len(root) :].lstrip("/") if root else metadata.path
    modified = metadata.last_updated_in_seconds or 0.0
    return File(metadata.path, relative, metadata.size_in_bytes, modified, split)


def _check_relative_paths(files: Sequence[File]) -> None:
    seen: dict[tuple[str | None, str], str] = {}
    for file in files:
        other = seen.setdefault((file.split, file.relative), file.path)
        if other != file.path:
            raise SpecError(
                f"source.paths: {other!r} and {file.path!r} have one relative path, "
                f"{file.relative!r}, which is their key. Move one of the roots up."
            )


def fingerprint(files: Sequence[File]) -> str:
    """Returns sha256 over the files' paths, sizes and times: another input has another one."""
    digest = hashlib.sha256()
    for file in files:
        said = (file.path, file.relative, file.size_bytes, file.modified, file.split)
        digest.update("\0".join(map(str, said)).encode() + b"\n")
    return digest.hexdigest()


def read(path: str, size_bytes: int = -1) -> bytes:
    """Returns the first bytes of a file, or all of it.

    Raises:
      DataError: It cannot be read.
    """
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return file.read(size_bytes) if size_bytes >= 0 else file.read()
    except (OSError, BeamIOError) as error:
        raise DataError(f"{path}: cannot be read: {error}. Mend or remove the file.") from error
