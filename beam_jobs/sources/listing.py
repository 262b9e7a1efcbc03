"""The files that a source names, on any file system that Beam knows."""

import dataclasses
import glob
import hashlib
import os
import posixpath
import re
import warnings
from collections.abc import Sequence

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError

_PATTERN = re.compile(r"\[!?\]?[^\]]*\]|[*?]")
_QUOTED = re.compile(r"\[([*?[])\]")  # What glob.escape writes.


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
                said = _unquoted(path)
                raise SpecError(f"source.paths: {said!r} matches no file. Correct the path.")
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


def _unquoted(pattern: str) -> str:
    return _QUOTED.sub(r"\1", pattern)


def _wildcard(pattern: str) -> int | None:
    """Returns where the first wildcard stands that is not quoted."""
    found = (match for match in _PATTERN.finditer(pattern) if not _QUOTED.fullmatch(match[0]))
    return next((match.start() for match in found), None)


def _match(path: str, split: str | None) -> list[File]:
    literal = _unquoted(path)
    try:
        if FileSystems.exists(literal):  # A file may be called `part[1].csv`.
            path = glob.escape(literal)
        wildcard = _wildcard(path)
        found = _files(path)
        root = literal
        if wildcard is not None:
            root = _unquoted(path[: path.rfind("/", 0, wildcard) + 1])
        elif found:
            root = posixpath.dirname(literal)
        else:
            found = _files(posixpath.join(path, "**"))
    except (BeamIOError, ValueError) as error:
        raise SpecError(f"source.paths: {literal!r} cannot be listed: {error}.") from error
    return [_file(metadata, root, split) for metadata in found]


def _files(pattern: str) -> list[FileMetadata]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Beam's regular expression for "[[]".
        found = FileSystems.match([pattern])[0].metadata_list
    return [file for file in found if not _is_folder(file)]


def _is_folder(file: FileMetadata) -> bool:
    return os.path.isdir(file.path) or file.path.endswith("/")


def _file(metadata: FileMetadata, root: str, split: str | None) -> File:
    if not _is_text(metadata.path):
        raise SpecError(
            f"source.paths: the file name {os.fsencode(metadata.path)!r} is not UTF-8. Rename it."
        )
    relative = metadata.path[len(root) :].lstrip("/") if root else metadata.path
    modified = metadata.last_updated_in_seconds or 0.0
    return File(metadata.path, relative, metadata.size_in_bytes, modified, split)


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _check_relative_paths(files: Sequence[File]) -> None:
    seen: dict[tuple[str | None, str], str] = {}
    for file in files:
        other = seen.setdefault((file.split, file.relative), file.path)
        if other != file.path:
            raise SpecError(
                f"source.paths: {other!r} and {file.path!r} have one relative path, "
                f"{file.relative!r}, which is their key. Move one of the roots up."
            )


def packed(files: Sequence[File]) -> bytes:
    """Returns files in Arrow's IPC format."""
    fields = [field.name for field in dataclasses.fields(File)]
    table = pa.table({name: [getattr(file, name) for file in files] for name in fields})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpacked(data: bytes) -> list[File]:
    """Returns what was packed."""
    columns = pa.ipc.open_stream(data).read_all().to_pydict()
    return [File(*fields) for fields in zip(*columns.values(), strict=True)]


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
        if FileSystems.get_scheme(path) is None:
            return _read_local(path, size_bytes)
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return file.read(size_bytes) if size_bytes >= 0 else file.read()
    except (OSError, BeamIOError) as error:
        raise DataError(f"{path}: cannot be read: {error}. Mend or remove the file.") from error


def _read_local(path: str, size_bytes: int) -> bytes:
    """Reads with as few system calls as there can be.

    Each gives the GIL away and waits for it: four threads read small files with open() five times
    slower than one does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wanted = size_bytes if size_bytes >= 0 else os.fstat(descriptor).st_size
        parts = [os.read(descriptor, wanted)]
        while parts[-1] and sum(map(len, parts)) < wanted:
            parts.append(os.read(descriptor, wanted - sum(map(len, parts))))
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)
