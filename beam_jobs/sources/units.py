"""Millions of files in units of some hundred: packed columns, a fingerprint, and no file twice.

What is held of a file is a packed entry of some 20 bytes and two hashes. Ten million files take
their time on the disk; see docs/performance.md.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import keys, sql
from beam_jobs.config import Source
from beam_jobs.sources import listing
from beam_jobs.sources.listing import Branch, File, Found

FILES_PER_UNIT = 500
_FILES_AT_ONCE = 100 * FILES_PER_UNIT  # A query costs 1 ms.
_GROUPS_AT_ONCE = 2
_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "relative": pa.string(),
        "size_bytes": pa.int64(),
        "modified": pa.int64(),
        "split": pa.string(),
    }
)
# A path comes last and a relative path is the end of it: no two files say the same.
_HASHES = """
SELECT md5_number(concat(size_bytes, ' ', modified, ' ', coalesce(split, ''), ' ',
                         strlen(relative), ' ', path)) AS said,
       hash(path) AS path, hash(split, relative) AS key
FROM block
"""
CHECKS = {"path": listing.check_paths, "key": listing.check_keys}


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What tells one input from another, in whatever parts it is listed; two of them add up.

    Attributes:
      first: The sum of the first halves of each file's md5, modulo 2^64.
      last: The same of the last halves.
    """

    first: int = 0
    last: int = 0

    def __add__(self, other: "Fingerprint") -> "Fingerprint":
        """Returns the fingerprint of both parts together."""
        first, last = self.first + other.first, self.last + other.last
        return Fingerprint(first % 2**64, last % 2**64)

    def __str__(self) -> str:
        """Returns 32 hexadecimal digits."""
        return f"{self.first:016x}{self.last:016x}"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a part of a source.

    Attributes:
      units: The files in their order, `FILES_PER_UNIT` at a time: see `unpacked`.
      fingerprint: Of them all.
      size_bytes: Of them all.
      matched: How many files each path of the spec named.
      hashes: Of the files' paths, and of their splits and relative paths: uint64 (num_files,) each.
    """

    units: tuple[bytes, ...]
    fingerprint: Fingerprint
    size_bytes: int
    matched: Mapping[str, int]
    hashes: Mapping[str, np.ndarray]


def list_part(part: Sequence[Branch]) -> Listing:
    """Lists a part of a source, in columns: no object is kept for a file.

    Raises:
      SpecError: A path cannot be listed, or a name is not UTF-8.
    """
    matched = Counter({branch.said: 0 for branch in part})
    groups: list[_Group] = []
    with concurrent.futures.ThreadPoolExecutor(_GROUPS_AT_ONCE) as threads:
        threads.submit(_hashed, _SCHEMA.empty_table())  # DuckDB takes 25 ms before its first query.
        waiting: collections.deque[concurrent.futures.Future[_Group]] = collections.deque()
        for group in _groups(part):
            for found in group:
                matched[found.said] += len(found.names)
            waiting.append(threads.submit(_summed, group))
            if len(waiting) > _GROUPS_AT_ONCE:
                groups.append(waiting.popleft().result())
        groups += [future.result() for future in waiting]
    return Listing(
        tuple(itertools.chain.from_iterable(group.units for group in groups)),
        functools.reduce(
            Fingerprint.__add__, (group.fingerprint for group in groups), Fingerprint()
        ),
        sum(group.size_bytes for group in groups),
        matched,
        {
            name: np.concatenate(
                [np.empty(0, np.uint64), *(group.hashes[name] for group in groups)]
            )
            for name in CHECKS
        },
    )


def list_source(source: Source) -> Listing:
    """Lists all files of a source.

    Raises:
      SpecError: A path cannot be listed or matches nothing, a name is not UTF-8, or a file or its
        key is there twice.
    """
    found = list_part(listing.branches(source))
    check_matched([found.matched])
    for name in CHECKS:
        check_unique(name, [(found.hashes[name], lambda: b"".join(found.units))])
    return dataclasses.replace(found, hashes={})  # They are half of what is held.


def check_matched(matched: Iterable[Mapping[str, int]]) -> None:
    """Raises a SpecError if a path matches nothing in any part."""
    total: Counter[str] = Counter()
    for part in matched:
        total.update(part)
    for said, num_files in total.items():
        listing.check_matched(said, num_files)


def check_unique(name: str, parts: Sequence[tuple[np.ndarray, Callable[[], bytes]]]) -> None:
    """Raises a SpecError if a file, or a key, is there twice.

    Args:
      name: Which hashes they are.
      parts: Hashes as in `Listing`, and what returns the units in which they occur, end to end.
    """
    ordered = np.sort(np.concatenate([hashes for hashes, _ in parts]))
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if repeated.size:  # Two files, or two texts of one hash.
        found = (units() for hashes, units in parts if np.isin(hashes, repeated).any())
        CHECKS[name]([file for units in found for file in _suspects(units, name, repeated)])


def _suspects(units: bytes, name: str, repeated: np.ndarray) -> Iterator[File]:
    for table in _tables(units):
        is_repeated = np.isin(_hashed(table)[1][name], repeated)
        yield from _files(table.filter(pa.array(is_repeated)))


def _groups(part: Sequence[Branch]) -> Iterator[list[Found]]:
    """Yields the files of a part, at least `_FILES_AT_ONCE` at a time, a smaller group last."""
    group, num_files = [], 0
    for found in listing.find(part):
        if found.names:
            group.append(found)
        num_files += len(found.names)
        if num_files >= _FILES_AT_ONCE:
            yield group
            group, num_files = [], 0
    if group:
        yield group


class _Group(NamedTuple):
    """What a `Listing` says of some of its files."""

    units: list[bytes]
    fingerprint: Fingerprint
    size_bytes: int
    hashes: Mapping[str, np.ndarray]


def _summed(group: Sequence[Found]) -> _Group:
    table = _table(group)
    fingerprint, hashes = _hashed(table)
    starts = range(0, table.num_rows, FILES_PER_UNIT)
    units = [_packed(table.slice(start, FILES_PER_UNIT)) for start in starts]
    size_bytes = pc.sum(table.column("size_bytes")).as_py() or 0
    return _Group(units, fingerprint, size_bytes, hashes)


def _table(group: Sequence[Found]) -> pa.Table:
    """Returns the files of folders, those of each by name."""
    counts = [len(found.names) for found in group]
    folders = pa.array(np.repeat(np.arange(len(group)), counts))
    columns = [
        pa.array(list(itertools.chain.from_iterable(lists)), kind)
        for lists, kind in (
            ((found.names for found in group), pa.string()),
            ((found.sizes for found in group), pa.int64()),
            ((found.modified for found in group), pa.int64()),
        )
    ]
    table = pa.table([folders, *columns], ["folder", "name", "size_bytes", "modified"])
    table = table.take(pc.sort_indices(table, [("folder", "ascending"), ("name", "ascending")]))

    def of_folder(values: Iterable[str | None]) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array(list(values), pa.string())]).take(table.column("folder"))

    names = table.column("name")
    return pa.table(
        [
            pc.binary_join_element_wise(of_folder(found.folder for found in group), names, ""),
            pc.binary_join_element_wise(
                of_folder(found.relative_folder for found in group), names, ""
            ),
            table.column("size_bytes"),
            table.column("modified"),
            of_folder(found.split for found in group),
        ],
        schema=_SCHEMA,
    )


def _hashed(table: pa.Table) -> tuple[Fingerprint, dict[str, np.ndarray]]:
    """Returns the fingerprint and the hashes of files, in DuckDB without the GIL."""
    found = sql.query(_HASHES, table)
    said = keys.digests(found.column("said"))
    first, last = (int(said[half].astype(np.uint64).sum()) for half in ("first", "last"))
    return Fingerprint(first, last), {name: found.column(name).to_numpy() for name in CHECKS}


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")  # Paths are alike: a fifth is left.
    with pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpacked(units: bytes) -> list[File]:
    """Returns the files of units that stand end to end."""
    return [file for table in _tables(units) for file in _files(table)]


def _tables(units: bytes) -> Iterator[pa.Table]:
    source = pa.BufferReader(units)
    while source.tell() < len(units):
        yield pa.ipc.open_stream(source).read_all()


def of_files(files: Sequence[File]) -> Listing:
    """Returns the listing of files, all of them one unit."""
    lists = [[getattr(file, name) for file in files] for name in _SCHEMA.names]
    table = pa.table(lists, schema=_SCHEMA)
    fingerprint, hashes = _hashed(table)
    size_bytes = sum(file.size_bytes for file in files)
    return Listing((_packed(table),), fingerprint, size_bytes, {}, hashes)


def _files(table: pa.Table) -> list[File]:
    return [File(*fields) for fields in zip(*table.to_pydict().values(), strict=True)]
