"""The files that a source names, on any file system that Beam knows."""

import dataclasses
import glob
import hashlib
import os
import posixpath
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import object_stores
from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError

_PATTERN = re.compile(r"\[!?\]?[^\]]*\]|[*?]")
_WILDCARDS = re.compile(r"\*\*|" + _PATTERN.pattern)
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
    """Returns the files that the paths match, dot-files apart that are not named, sorted by path.

    Raises:
      SpecError: A path matches nothing, or a file is matched twice.
    """
    listed: dict[str, File] = {}
    for split, paths in source.split_paths.items():
        for path in paths:
            files = _match(path, split)
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
    """Returns the files that a path names: itself, all below it, or all that it is a pattern of."""
    literal = _unquoted(path)
    try:
        if FileSystems.exists(literal):  # A file may be called `part[1].csv`.
            path = glob.escape(literal)
        wildcard = _wildcard(path)
        found = _files(path)
        if wildcard is not None:
            root = _unquoted(path[: path.rfind("/", 0, wildcard) + 1])
        elif found:  # Named outright: it counts, whatever it is called.
            return [_file(file, posixpath.dirname(literal), split) for file in found]
        else:
            root = literal
            found = _files(posixpath.join(path, "**"))
    except (*object_stores.ERRORS, ValueError) as error:
        what = object_stores.fault(error)
        raise SpecError(f"source.paths: {literal!r} cannot be listed: {what}.") from error
    files = [_file(file, root, split) for file in found]
    return [file for file in files if not _is_hidden(file.relative)]


def _files(pattern: str) -> list[tuple[str, int, float]]:
    """Returns path, size in bytes and time of each regular file that a pattern matches."""
    if FileSystems.get_scheme(pattern) is not None:
        return [
            (file.path, file.size_in_bytes, file.last_updated_in_seconds or 0.0)
            for file in FileSystems.match([pattern])[0].metadata_list
            if not file.path.endswith("/")
        ]
    wildcard = _wildcard(pattern)
    if wildcard is None:
        path = _unquoted(pattern)
        status = os.stat(path) if os.path.isfile(path) else None
        return [(path, status.st_size, status.st_mtime)] if status else []
    root = _unquoted(pattern[: pattern.rfind("/", 0, wildcard) + 1])
    if not os.path.isdir(root or "."):
        return []
    matches = _regex(pattern).fullmatch
    return [file for file in _walk(root, frozenset()) if matches(file[0])]


def _walk(folder: str, above: frozenset[str]) -> Iterator[tuple[str, int, float]]:
    """Yields path, size and time of all regular files below a folder, "" or ending in "/".

    Links are followed, but not back to a folder that leads here.
    """
    real = os.path.realpath(folder or ".")
    if real in above:
        return
    with os.scandir(folder or ".") as entries:
        for entry in entries:
            path = folder + entry.name
            if entry.is_dir():
                yield from _walk(f"{path}/", above | {real})
            elif entry.is_file():
                status = entry.stat()
                yield path, status.st_size, status.st_mtime


def _regex(pattern: str) -> re.Pattern[str]:
    """Returns a pattern as a regular expression; Beam's own `*` stops at a backslash."""
    parts, position = [], 0
    for match in _WILDCARDS.finditer(pattern):
        parts.append(re.escape(pattern[position : match.start()]))
        parts.append({"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(match[0]) or _one_of(match[0]))
        position = match.end()
    return re.compile("".join(parts) + re.escape(pattern[position:]), re.DOTALL)


def _one_of(characters: str) -> str:
    """Returns `[abc]` or `[!abc]` as a regular expression."""
    inside = re.sub(r"([\\\[&~|^])", r"\\\1", characters[1:-1].removeprefix("!"))
    return f"[{'^' if characters.startswith('[!') else ''}{inside}]"


def _file(found: tuple[str, int, float], root: str, split: str | None) -> File:
    path, size_bytes, modified = found
    if not _is_text(path):
        raise SpecError(
            f"source.paths: the file name {os.fsencode(path)!r} is not UTF-8. Rename it."
        )
    relative = path[len(root) :].lstrip("/") if root else path
    return File(path, relative, size_bytes, modified, split)


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
    except object_stores.ERRORS as error:
        what = object_stores.fault(error)
        raise DataError(f"{path}: cannot be read: {what}. Mend or remove the file.") from error


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
