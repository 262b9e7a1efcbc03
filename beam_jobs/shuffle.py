"""The global shuffle on one machine: batches spill by shard, and come back in their final order.

Memory holds a bucket of a shard or two for each thread. A shard that is larger is read twice: equal
records meet in a bucket by their hash and are numbered there, then they spread over the buckets of
the order, which even one record that stands there a million times fills evenly.
"""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_jobs import keys
from beam_jobs.errors import DataError

BUCKET_BYTES = 32 << 20
# Records of a shard that go on together: with few thousand, threads wait for the GIL most of the
# time, and many take memory, since Examples are several times as large as columns.
_PART_BYTES = 8 << 20
_PART_RECORDS = 1 << 15
_WHAT_TO_DO = "Make room, or give another folder with --temp-dir."
_OCCURRENCE = "\0occurrence"
_LOCKS = [threading.Lock() for _ in range(64)]  # The threads of a process write the same files.


class Place(NamedTuple):
    """A shard of a split."""

    split: str
    shard: int


def check_space(folder: str, needed_bytes: int) -> None:
    """Raises a DataError unless the disk of a folder has that much left."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DataError(
            f"{folder}: the shuffle needs {needed_bytes / 1e9:.2f} GB of disk, but only "
            f"{free / 1e9:.2f} GB are free. {_WHAT_TO_DO}"
        )


class Spill:
    """Batches in files of a folder, by shard and bucket; several threads may write them."""

    def __init__(self, folder: str):
        """Takes a folder that is there."""
        self._folder = folder

    def write(self, place: Place, batch: pa.RecordBatch, buckets: np.ndarray) -> None:
        """Appends the records to their buckets.

        Args:
          place: The shard that all of them belong to, or what else they have in common.
          batch: Any columns; `ordered` wants those of `keys.with_hashes`.
          buckets: int64 (num_records,).

        Raises:
          DataError: The disk is full, or fails.
        """
        try:
            for bucket, part in groups(batch, buckets):
                path = self.path(place, bucket)
                with _LOCKS[hash(path) % len(_LOCKS)], pa.OSFile(path, "ab") as file:
                    with pa.ipc.new_stream(file, part.schema) as stream:
                        stream.write_batch(part)
        except OSError as error:
            raise DataError(
                f"{self._folder}: {os.strerror(error.errno or errno.EIO)}. {_WHAT_TO_DO}"
            ) from error

    def path(self, place: Place, bucket: int) -> str:
        """Returns the file of a bucket."""
        return os.path.join(self._folder, f"{place.split}-{place.shard:05d}-{bucket:05d}.arrow")

    def read(self, place: Place, bucket: int) -> Iterator[pa.RecordBatch]:
        """Yields the batches of a bucket in the order of writing; none if it has none."""
        path = self.path(place, bucket)
        if not os.path.exists(path):
            return
        with pa.OSFile(path) as file:
            size = file.size()
            while file.tell() < size:
                with pa.ipc.open_stream(file) as stream:
                    yield from stream

    def size_bytes(self, place: Place, count: int) -> int:
        """Returns the size of all `count` buckets of a shard."""
        paths = [self.path(place, bucket) for bucket in range(count)]
        return sum(os.path.getsize(path) for path in paths if os.path.exists(path))

    def remove(self, place: Place, bucket: int) -> None:
        """Removes a bucket that is no longer needed."""
        path = self.path(place, bucket)
        if os.path.exists(path):
            os.remove(path)


def packed(batch: pa.RecordBatch) -> bytes:
    """Returns a batch in Arrow's IPC format: pickled, a part of one carries the whole along."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def unpacked(data: bytes) -> pa.RecordBatch:
    """Returns what was packed."""
    return pa.ipc.open_stream(data).read_next_batch()


def groups(batch: pa.RecordBatch, group: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields the records of each group: slices, which IPC writes compact, but pickle does not."""
    order = np.argsort(group, kind="stable")
    found, starts = np.unique(group[order], return_index=True)
    ends = np.append(starts, group.size)[1:]
    batch = batch.take(pa.array(order))
    for number, start, end in zip(found.tolist(), starts, ends, strict=True):
        yield number, batch.slice(start, end - start)


def num_buckets(num_records: int, num_shards: int, record_bytes: int) -> int:
    """Returns how many buckets a shard of usual size needs."""
    return max(1, -(-num_records * record_bytes // (num_shards * BUCKET_BYTES)))


def hash_buckets(hashed: np.ndarray, count: int) -> np.ndarray:
    """Returns the bucket in which records of one hash meet, by bits that decide no shard."""
    low = hashed["last"].astype(np.uint64) & np.uint64(0xFFFFFFFF)
    return (low * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def ordered(spill: Spill, place: Place, count: int) -> Iterator[pa.RecordBatch]:
    """Yields the records of a shard in order, without the columns of `keys.with_hashes`.

    Args:
      spill: Holds the shard in `count` hash buckets; its files are removed on the way.
      place: The shard.
      count: The number of buckets.
    """
    num_spread = -(-spill.size_bytes(place, count) // BUCKET_BYTES)
    if count == 1 and num_spread <= 2:
        if (batch := _read(spill, place, 0)) is not None:
            yield from _sorted(_numbered(batch, _Seen.none())[0])
        return
    order = Place(f"{place.split}-order", place.shard)
    for bucket in range(count):
        seen = _Seen.none()
        for piece in _pieces(spill.read(place, bucket)):
            seen = _spread(piece, seen, spill, order, num_spread)
            del piece  # Before the next one is read.
        spill.remove(place, bucket)
    for bucket in range(num_spread):
        if (batch := _read(spill, order, bucket)) is not None:
            yield from _sorted(batch)
            del batch


def _read(spill: Spill, place: Place, bucket: int) -> pa.RecordBatch | None:
    """Returns all records of a bucket, which is removed; None if there are none."""
    batches = list(spill.read(place, bucket))
    spill.remove(place, bucket)
    return _joined(batches) if batches else None


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    [batch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return batch


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields batches together once they are as large as a bucket, and keeps nothing of them."""
    piece: list[pa.RecordBatch] = []
    num_bytes = 0
    for batch in batches:
        piece.append(batch)
        num_bytes += batch.nbytes
        if num_bytes >= BUCKET_BYTES:
            whole, piece, num_bytes = _joined(piece), [], 0
            del batch
            yield whole
            del whole
    if piece:
        yield _joined(piece)


def _spread(
    batch: pa.RecordBatch, seen: "_Seen", spill: Spill, order: Place, num_spread: int
) -> "_Seen":
    """Numbers records and writes them into the buckets of their order."""
    numbered, seen = _numbered(batch, seen)
    positions = _order(numbered) >> np.uint64(32)
    spread = positions * np.uint64(num_spread) >> np.uint64(32)
    spill.write(order, numbered, spread.astype(np.int64))
    return seen


class _Seen(NamedTuple):
    """Distinct hashes, and how often each was seen."""

    hashed: np.ndarray
    counts: np.ndarray

    @classmethod
    def none(cls) -> "_Seen":
        return cls(np.empty(0, keys.HASH_DTYPE), np.empty(0, np.int64))


def _numbered(batch: pa.RecordBatch, seen: _Seen) -> tuple[pa.RecordBatch, _Seen]:
    """Returns the records with their occurrence numbers, counting on from those seen before."""
    hashed = np.concatenate([seen.hashed, keys.hashes_of(batch)])
    weights = np.concatenate([seen.counts, np.ones(batch.num_rows, np.int64)])
    # Stable, so that in a run of equal hashes the one that was seen before comes first.
    order = np.lexsort([hashed["last"], hashed["first"]])
    runs, weights = hashed[order], weights[order]
    is_first = np.ones(runs.size, bool)
    is_first[1:] = runs[1:] != runs[:-1]
    before = np.cumsum(weights) - weights
    starts = np.flatnonzero(is_first)
    occurrences = np.empty(runs.size, np.int64)
    occurrences[order] = before - np.repeat(before[starts], np.diff(np.append(starts, runs.size)))
    column = pa.array(occurrences[seen.counts.size :])
    now_seen = _Seen(runs[starts], np.add.reduceat(weights, starts))
    return batch.append_column(_OCCURRENCE, column), now_seen


def _order(batch: pa.RecordBatch) -> np.ndarray:
    return keys.order_keys(keys.hashes_of(batch), batch.column(_OCCURRENCE).to_numpy())


def _sorted(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yields numbered records in the order of the shard, some MB at a time."""
    hashed, occurrences = keys.hashes_of(batch), batch.column(_OCCURRENCE).to_numpy()
    first, last = hashed["first"].astype(np.uint64), hashed["last"].astype(np.uint64)
    order = np.lexsort([occurrences, last, first, _order(batch)])
    del hashed, first, last
    batch = batch.drop_columns([*keys.HASH_COLUMNS, _OCCURRENCE])
    step = _PART_BYTES * batch.num_rows // max(batch.nbytes, 1)
    step = max(1, min(step, _PART_RECORDS))
    for start in range(0, batch.num_rows, step):
        yield batch.take(pa.array(order[start : start + step]))
