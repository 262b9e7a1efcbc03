"""The files that a source names, on any file system that Beam knows."""

import concurrent.futures
import contextlib
import dataclasses
import glob
import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow.fs
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import object_stores
from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError

_PATTERN = re.compile(r"\[!?\]?[^\]]*\]|[*?]")
_WILDCARDS = re.compile(r"\*\*|" + _PATTERN.pattern)
_FEW_FILES = 20_000  # Threads take longer to hand over small folders than one to visit them.
_FOLDERS_AT_ONCE = 4
_FOLDERS_AHEAD = 16  # What is listed and not yet taken stays small.
_DISK = pyarrow.fs.LocalFileSystem()
_NOTHING: tuple[list[Any], ...] = ([], [], [])
_QUOTED = re.compile(r"\[([*?[])\]")  # What glob.escape writes.


@dataclasses.dataclass(frozen=True)
class File:
    """A file to read.

    Attributes:
      path: Where it is.
      relative: Its path from the root, the part of the spec's path before the first wildcard.
      size_bytes: Its size.
      modified: Nanoseconds since 1970, 0 where the file system does not say.
      split: The split that its path decides, if `paths` is a table.
    """

    path: str
    relative: str
    size_bytes: int
    modified: int = 0
    split: str | None = None


def list_files(source: Source) -> list[File]:
    """Returns the files that the paths match, dot-files apart that are not named, sorted by path.

    It is for thousands of files; `units` has the columns of millions.

    Raises:
      SpecError: A path matches nothing, or a file is matched twice.
    """
    files = []
    for branch in branches(source):
        found = [file for found in find([branch]) for file in found.files]
        check_matched(branch.said, len(found))
        files += found
    check_paths(files)
    return sorted(files, key=lambda file: file.path)


def check_matched(said: str, num_files: int) -> None:
    """Raises a SpecError for a path that no file matches."""
    if not num_files:
        raise SpecError(f"source.paths: {said!r} matches no file. Correct the path.")


def check_paths(files: Sequence[File]) -> None:
    """Raises a SpecError if a file is there twice."""
    seen: set[str] = set()
    for file in files:
        if file.path in seen:
            raise SpecError(f"source.paths: {file.path!r} is matched twice. Name it once.")
        seen.add(file.path)


def check_keys(files: Sequence[File]) -> None:
    """Raises a SpecError if two files of a split have one relative path."""
    seen: dict[tuple[str | None, str], str] = {}
    for file in sorted(files, key=lambda file: file.path):
        other = seen.setdefault((file.split, file.relative), file.path)
        if other != file.path:
            raise SpecError(
                f"source.paths: {other!r} and {file.path!r} have one relative path, "
                f"{file.relative!r}, which is their key. Move one of the roots up."
            )


class Found(NamedTuple):
    """Files of one folder, whose own two paths end in "/" or are "".

    A name has its size in bytes and its time, as in `File`, at the same place of their lists.
    """

    said: str
    split: str | None
    folder: str
    relative_folder: str
    names: list[str]
    sizes: list[int]
    modified: list[int]

    @property
    def files(self) -> list[File]:
        """The files one by one."""
        here, below = self.folder, self.relative_folder
        rows = zip(self.names, self.sizes, self.modified, strict=True)
        return [
            File(f"{here}{name}", f"{below}{name}", size_bytes, modified, self.split)
            for name, size_bytes, modified in rows
        ]


@dataclasses.dataclass(frozen=True)
class Branch:
    """Where to look for files: what a path of the spec names, or a part of that.

    Attributes:
      said: The path, as the spec has it.
      split: The split that it decides.
      pattern: What files have to match, with characters quoted that are no wildcards.
      root: What the relative paths leave out.
      folder: The local folder to walk, "" or ending in "/"; None where there is none.
      above: The real paths of the folders that led here: a link back to one is not followed.
      is_deep: Whether the folders in it count, too.
    """

    said: str
    split: str | None
    pattern: str
    root: str
    folder: str | None
    above: frozenset[str] = frozenset()
    is_deep: bool = True


def branches(source: Source) -> list[Branch]:
    """Returns a branch for each path of a source.

    Raises:
      SpecError: A path cannot be listed.
    """
    found = []
    for split, paths in source.split_paths.items():
        for path in paths:
            with _told(_unquoted(path)):
                found.append(_branch(path, split))
    return found


def parts(source: Source, wanted: int) -> list[list[Branch]]:
    """Returns up to so many parts of a source, cut at folders; one after the other they are it.

    Raises:
      SpecError: A path cannot be listed.
    """
    found, before = branches(source), 0
    while before < len(found) < wanted:
        before, rest, found = len(found), found, []
        while rest and len(found) + len(rest) < wanted:  # A folder may hold very many.
            found += _cut(rest.pop(0))
        found += rest
    wanted = min(wanted, len(found))
    limits = [len(found) * number // wanted for number in range(wanted + 1)]
    return [found[start:end] for start, end in itertools.pairwise(limits)]


def _cut(branch: Branch) -> list[Branch]:
    """Returns the files right in a folder, and each folder in it."""
    if branch.folder is None or not branch.is_deep:
        return [branch]
    real = os.path.realpath(branch.folder or ".")
    with _told(branch.said), os.scandir(branch.folder or ".") as entries:
        names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    folders = [f"{branch.folder}{name}/" for name in names if real not in branch.above]
    above = branch.above | {real}
    return [
        dataclasses.replace(branch, is_deep=False),
        *(dataclasses.replace(branch, folder=folder, above=above) for folder in folders),
    ]


def find(part: Sequence[Branch]) -> Iterator[Found]:
    """Yields the files of branches, in a folder before those in its folders; names are not sorted.

    Raises:
      SpecError: A path cannot be listed, or a name is not UTF-8.
    """
    with concurrent.futures.ThreadPoolExecutor(_FOLDERS_AT_ONCE) as threads:
        for branch in part:
            with _told(branch.said):
                yield from _named(branch) if branch.folder is None else _walk(branch, threads)


@contextlib.contextmanager
def _told(said: str) -> Iterator[None]:
    try:
        yield
    except SpecError:
        raise
    except (*object_stores.ERRORS, ValueError) as error:
        what = object_stores.fault(error)
        raise SpecError(f"source.paths: {said!r} cannot be listed: {what}.") from error


def _unquoted(pattern: str) -> str:
    return _QUOTED.sub(r"\1", pattern)


def _wildcard(pattern: str) -> int | None:
    """Returns where the first wildcard stands that is not quoted."""
    found = (match for match in _PATTERN.finditer(pattern) if not _QUOTED.fullmatch(match[0]))
    return next((match.start() for match in found), None)


def _branch(path: str, split: str | None) -> Branch:
    """Returns where a path leads: to itself, to all below it, or to all that it is a pattern of."""
    said = _unquoted(path)
    is_local = FileSystems.get_scheme(said) is None
    if FileSystems.exists(said):  # A file may be called `part[1].csv`.
        path = glob.escape(said)
    wildcard = _wildcard(path)
    if wildcard is not None:
        root = _unquoted(path[: path.rfind("/", 0, wildcard) + 1])
        return Branch(said, split, path, root, root if is_local else None)
    if is_local and os.path.isdir(said):
        root = posixpath.join(said, "")
        return Branch(said, split, _all_below(root), root, root)
    if is_local or _match(path):  # Named outright: it counts, whatever it is called.
        return Branch(said, split, path, posixpath.dirname(said), None)
    return Branch(said, split, posixpath.join(path, "**"), said, None)


def _all_below(folder: str) -> str:
    return f"{glob.escape(folder)}**"


def _named(branch: Branch) -> Iterator[Found]:
    """Yields the file that a branch names, or what an object store has of its pattern."""
    is_named = _wildcard(branch.pattern) is None
    for folder, group in itertools.groupby(
        _match(branch.pattern), lambda file: file[0][: file[0].rfind("/") + 1]
    ):
        relative = folder[len(branch.root) :].lstrip("/")
        files = [(path[len(folder) :], *of) for path, *of in group]
        if not is_named:
            files = [file for file in files if not _is_hidden(f"{relative}{file[0]}")]
        yield _found(branch, folder, relative, files)


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _match(pattern: str) -> list[tuple[str, int, int]]:
    """Returns path, size in bytes and time of a local file, or of a pattern's remote ones."""
    if FileSystems.get_scheme(pattern) is not None:
        return [
            (
                file.path,
                file.size_in_bytes,
                round((file.last_updated_in_seconds or 0.0) * 1_000_000_000),
            )
            for file in FileSystems.match([pattern])[0].metadata_list
            if not file.path.endswith("/")
        ]
    path = _unquoted(pattern)
    status = os.stat(path) if os.path.isfile(path) else None
    return [(path, status.st_size, status.st_mtime_ns)] if status else []


def _walk(branch: Branch, threads: concurrent.futures.Executor) -> Iterator[Found]:
    """Yields the files of each folder of a branch; threads look into the next ones meanwhile."""
    folder = branch.folder or ""
    waiting = [(folder, branch.above)] if os.path.isdir(folder or ".") else []  # The next one last.
    matches = None if branch.pattern == _all_below(branch.root) else _regex(branch.pattern)
    visits: dict[str, concurrent.futures.Future[Any]] = {}
    num_files = 0
    while waiting:
        if num_files >= _FEW_FILES:
            for folder, above in reversed(waiting[-_FOLDERS_AHEAD:]):
                if folder not in visits:
                    visits[folder] = threads.submit(_visit, folder, above, branch, matches)
        folder, above = waiting.pop()
        visit = visits.pop(folder, None)
        found, folders = visit.result() if visit else _visit(folder, above, branch, matches)
        num_files += len(found.names)
        yield found
        if branch.is_deep:
            waiting += reversed(folders)


def _visit(
    folder: str, above: frozenset[str], branch: Branch, matches: re.Pattern[str] | None
) -> tuple[Found, list[tuple[str, frozenset[str]]]]:
    """Returns the files of a folder that match, and the folders in it with what leads to them.

    Links are followed, but not back to a folder that leads here.
    """
    real = os.path.realpath(folder or ".")
    files, names = ([], []) if real in above else _entries(folder)
    if matches:
        files = [file for file in files if matches.fullmatch(f"{folder}{file[0]}")]
    below = above | {real}
    folders = [(f"{folder}{name}/", below) for name in sorted(names)]
    return _found(branch, folder, folder[len(branch.root) :], files), folders


def _entries(folder: str) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Returns name, size and time of a folder's files, and its folders, dot-files left out.

    Arrow asks the disk without the GIL: four threads are three times as fast as Python's are.
    """
    files, folders = [], []
    try:
        for entry in _DISK.get_file_info(pyarrow.fs.FileSelector(folder or ".")):
            name, size = entry.base_name, entry.size
            if name.startswith("."):
                continue
            if size is not None:
                files.append((name, size, entry.mtime_ns))
            elif entry.type == pyarrow.fs.FileType.Directory:
                folders.append(name)
        return files, folders
    except (OSError, UnicodeError):  # Python knows names that are no text, and has better words.
        return _entries_by_python(folder)


def _entries_by_python(folder: str) -> tuple[list[tuple[str, int, int]], list[str]]:
    files, folders = [], []
    with os.scandir(folder or ".") as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                status = entry.stat()
                files.append((entry.name, status.st_size, status.st_mtime_ns))
    return files, folders


def _found(
    branch: Branch, folder: str, relative_folder: str, files: Sequence[tuple[Any, ...]]
) -> Found:
    """Returns files by columns.

    Raises:
      SpecError: A name is not UTF-8.
    """
    names, sizes, modified = map(list, zip(*files, strict=True)) if files else _NOTHING
    if not _is_text("".join([folder, *names])):
        name = next(f"{folder}{name}" for name in names if not _is_text(f"{folder}{name}"))
        raise SpecError(
            f"source.paths: the file name {os.fsencode(name)!r} is not UTF-8. Rename it."
        )
    return Found(branch.said, branch.split, folder, relative_folder, names, sizes, modified)


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


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read(path: str, size_bytes: int = -1, start: int = 0) -> bytes:
    """Returns the bytes of a file from a place on, so many or all of them.

    Raises:
      DataError: It cannot be read.
    """
    try:
        if FileSystems.get_scheme(path) is None:
            return _read_local(path, size_bytes, start)
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            if start:
                file.seek(start)
            return file.read(size_bytes) if size_bytes >= 0 else file.read()
    except (*object_stores.ERRORS, ValueError) as error:  # Beam's, of a path that it cannot take.
        what = object_stores.fault(error)
        raise DataError(f"{path}: cannot be read: {what}. Mend or remove the file.") from error


def _read_local(path: str, size_bytes: int, start: int) -> bytes:
    """Reads with as few system calls as there can be.

    Each gives the GIL away and waits for it: four threads read small files with open() five times
    slower than one does.
    """
    # A named pipe, which a table may name, would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if start:
            os.lseek(descriptor, start, os.SEEK_SET)
        wanted = size_bytes if size_bytes >= 0 else os.fstat(descriptor).st_size - start
        parts = [os.read(descriptor, wanted)]
        while parts[-1] and sum(map(len, parts)) < wanted:
            parts.append(os.read(descriptor, wanted - sum(map(len, parts))))
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)
