"""Shards: TFRecord framing, files that appear whole or not at all, and readers that trust nothing.

A shard is a TFRecord stream, as it is or in gzip. Its bytes depend on its records alone, never on
how they were handed over, by whom, or on the number of threads.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import files, object_stores
from beam_jobs.errors import DataError
from beam_jobs.shard_index import ShardIndex

Compression = Literal["gzip", "none"]

PROGRESS_FOLDER = ".progress"
SHARD_PATTERN = re.compile(r"(train|validation|test)-\d{5,}-of-\d{5,}\.tfrecord(\.gz)?")

# Level 3: adult's 326 B records take 1.3 us and become 27.2 B each; level 6: 3.5 us and 22.4 B;
# level 1: 1.2 us and 30.4 B. On photos the levels differ by 1 % in size.
GZIP_LEVEL = 3
# Members of 1 MiB cost 0.4 % against one member for the whole file, and keep many cores busy.
MEMBER_BYTES = 1 << 20
# A member's header: no name, no time, and "unknown" as operating system (zlib writes its own).
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
_MEMBERS_IN_FLIGHT = 16

_READ_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 20
_CRC_BATCH_RECORDS = 4096
_LARGE_RECORD_BYTES = 8192
_MAX_DIFFERING = 64  # Positions; with more, a call a record is as fast.
_PROBED_RECORDS = 64
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_OVERHEAD_BYTES = _HEADER.size + _FOOTER.size
_MAX_RECORD_BYTES = (1 << 31) - 1  # Protobuf's limit for one message.
_MASK_DELTA = 0xA282EAD8


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One shard as `dataset_info.json` lists it.

    Attributes:
      file: Name inside the dataset folder.
      num_examples: Number of its records.
      bytes: Size of the file.
      crc32c: Of the whole file, 8 lower-case hexadecimal digits.
      crc32c_uncompressed: Of the uncompressed TFRecord stream, the same with any zlib.
      index: Where it can be entered, see `shard_index`; "" if compressed.
    """

    file: str
    num_examples: int
    bytes: int
    crc32c: str
    crc32c_uncompressed: str
    index: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the shard's entry in `dataset_info.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ShardInfo:
        """Returns the shard of an entry of `dataset_info.json`; other keys are left out.

        An entry of an earlier version has no index.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in entry.items() if name in names})


def shard_name(split: str, index: int, count: int, compression: Compression) -> str:
    """Returns a shard's file name, as in `train-00003-of-00012.tfrecord.gz`."""
    suffix = ".gz" if compression == "gzip" else ""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord{suffix}"


def frame_records(examples: pa.LargeBinaryArray | pa.BinaryArray) -> memoryview:
    """Frames serialized examples as TFRecords.

    Arrow and NumPy do all but the CRC of the data: a C call per record, faster than tables in NumPy
    from 120 B a record up (0.25 us against 0.5 us at 300 B, one thread).

    Args:
      examples: Serialized examples, binary or large_binary (num_examples,), without nulls.

    Returns:
      The records one after the other: length (uint64), its masked CRC-32C, the data, its masked
      CRC-32C, little-endian.

    Raises:
      ValueError: An example is null.
    """
    if examples.null_count:
        raise ValueError(f"examples must not be null, but {examples.null_count} are.")
    if not len(examples):
        return memoryview(b"")
    examples = examples.cast(pa.large_binary())
    lengths = pc.binary_length(examples).to_numpy().astype("<u8")
    headers = np.empty(len(examples), [("length", "<u8"), ("crc", "<u4")])
    headers["length"] = lengths
    headers["crc"] = _masked(_length_crcs(lengths))
    footers = _masked(_data_crcs(examples, int(lengths.sum()))).astype("<u4")
    framed = pc.binary_join_element_wise(
        _fixed_width(headers),
        examples,
        _fixed_width(footers),
        pa.scalar(b"", pa.large_binary()),
    )
    return memoryview(framed.buffers()[2])[: int(lengths.sum()) + _OVERHEAD_BYTES * len(examples)]


def framed_sizes(examples: pa.LargeBinaryArray | pa.BinaryArray) -> np.ndarray:
    """Returns how many bytes each example takes in a shard: int64 (num_examples,)."""
    return pc.binary_length(examples).to_numpy().astype(np.int64) + _OVERHEAD_BYTES


def _length_crcs(lengths: np.ndarray) -> np.ndarray:
    """Returns the CRC-32C of each length's 8 bytes: uint32 (num_examples,)."""
    distinct, position = np.unique(lengths, return_inverse=True)
    crcs = [google_crc32c.value(struct.pack("<Q", length)) for length in distinct.tolist()]
    return np.array(crcs, np.uint32)[position]


def _data_crcs(examples: pa.LargeBinaryArray, total_bytes: int) -> np.ndarray:
    """Returns the CRC-32C of each example: uint32 (num_examples,)."""
    if total_bytes > _LARGE_RECORD_BYTES * len(examples):  # No copy; but a slice takes 0.2 us.
        data = np.frombuffer(examples.buffers()[2], np.uint8)
        offsets = np.frombuffer(examples.buffers()[1], np.int64)[examples.offset :]
        cuts = offsets[: len(examples) + 1].tolist()
        found = (google_crc32c.value(data[i:j]) for i, j in itertools.pairwise(cuts))
        return np.fromiter(found, np.uint32, len(examples))
    if (records := _of_one_width(examples)) is not None:
        columns = _differing(records[:_PROBED_RECORDS])
        if columns.size <= _MAX_DIFFERING:
            columns = _differing(records)
        if columns.size <= _MAX_DIFFERING:
            return _crcs_by_difference(records, columns)
    # Few records at a time: Python's copies of 1 MiB stay in the cache, those of a whole batch not
    # (0.55 us a record instead of 0.25).
    step = _CHUNK_BYTES * len(examples) // max(total_bytes, 1)
    step = max(1, min(step, _CRC_BATCH_RECORDS))
    crcs = np.empty(len(examples), np.uint32)
    for start in range(0, len(examples), step):
        data = examples.slice(start, step).to_numpy(zero_copy_only=False)
        crcs[start : start + step] = np.fromiter(map(google_crc32c.value, data), np.uint32)
    return crcs


def _of_one_width(examples: pa.LargeBinaryArray) -> np.ndarray | None:
    """Returns the data of examples as uint8 (num_examples, width); None where widths differ."""
    offsets = np.frombuffer(examples.buffers()[1], np.int64)[examples.offset :]
    offsets = offsets[: len(examples) + 1]
    width = offsets[1] - offsets[0]
    if width == 0 or (np.diff(offsets) != width).any():
        return None
    data = np.frombuffer(examples.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.reshape(-1, width)


def _differing(records: np.ndarray) -> np.ndarray:
    """Returns the positions at which not all records have the same byte."""
    return np.flatnonzero((records != records[0]).any(axis=0))


def _crcs_by_difference(records: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the CRC-32C of records that differ from the first at some positions only.

    A CRC is linear in the bits but for a constant: crc(a) ^ crc(b) depends on a ^ b alone, and is
    the XOR of what each byte of it adds. Most bytes of an Example are names and lengths, the same
    in each. NumPy does this without the GIL, so four threads are ten times as fast as with a call
    for each record.

    Args:
      records: uint8 (num_records, width).
      columns: The positions.

    Returns:
      uint32 (num_records,).
    """
    crcs = np.full(len(records), google_crc32c.value(records[0].tobytes()), np.uint32)
    last = records.shape[1] - 1
    for column in columns.tolist():
        difference = records[:, column] ^ records[0, column]
        crcs ^= _crc_of_byte(last - column).take(difference)
    return crcs


@functools.lru_cache(maxsize=_LARGE_RECORD_BYTES)  # 1 KiB each
def _crc_of_byte(num_behind: int) -> np.ndarray:
    """Returns what a byte adds to the CRC-32C of a record, by its value: uint32 (256,)."""
    behind = bytes(num_behind)
    nothing = google_crc32c.value(b"\0" + behind)
    values = [google_crc32c.value(bytes([value]) + behind) for value in range(256)]
    return np.array(values, np.uint32) ^ np.uint32(nothing)


def _masked(crcs: np.ndarray) -> np.ndarray:
    """Returns CRCs as TFRecord stores them, rotated and shifted: uint32, same shape."""
    return (crcs >> 15 | crcs << 17) + np.uint32(_MASK_DELTA)


def _unmasked(masked: int) -> int:
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _fixed_width(values: np.ndarray) -> pa.LargeBinaryArray:
    """Returns the bytes of each value as large_binary (num_values,), without a copy."""
    offsets = np.arange(len(values) + 1, dtype=np.int64) * values.itemsize
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.large_binary(), len(values), buffers)


def gzip_member(data: bytes | memoryview) -> bytes:
    """Returns data as one gzip member; the same data, level and zlib give the same bytes."""
    trailer = struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    return _GZIP_HEADER + zlib.compress(data, GZIP_LEVEL, wbits=-15) + trailer


class ShardWriter:
    """Writes one shard, which appears in its place when it is closed.

    As a context manager it removes what it wrote unless `close` was called. One thread uses it.
    """

    def __init__(
        self,
        directory: str,
        file: str,
        compression: Compression,
        *,
        pool: concurrent.futures.Executor | None = None,
    ):
        """Opens the file.

        Args:
          directory: The dataset folder, on any file system that Beam knows.
          file: Name of the shard, see `shard_name`.
          compression: "gzip" or "none".
          pool: Threads that compress; without it the caller's thread does. Tasks that write shards
            must not run in the same pool, or they wait for themselves.
        """
        self._file = file
        self._is_gzip = compression == "gzip"
        self._pool = pool
        self._pending = bytearray()  # The member that is filling up.
        self._members: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
        self._num_examples = self._bytes = self._crc_file = self._crc_uncompressed = 0
        self._index = ShardIndex()
        self._is_open = True
        progress = files.join(directory, PROGRESS_FOLDER)
        self._output = files.NewFile(files.join(directory, file), progress)

    def __enter__(self) -> ShardWriter:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Aborts unless closed."""
        self.abort()

    def write(self, framed: bytes | memoryview, sizes: np.ndarray) -> None:
        """Appends records. The cuts between calls leave no trace.

        Args:
          framed: See `frame_records`.
          sizes: See `framed_sizes`.
        """
        data = np.frombuffer(framed, np.uint8)  # The CRC takes slices of it without a copy.
        for start in range(0, len(data), MEMBER_BYTES):
            piece = data[start : start + MEMBER_BYTES]
            self._crc_uncompressed = google_crc32c.extend(self._crc_uncompressed, piece)
            if not self._is_gzip:
                self._put(piece)
        if self._is_gzip:
            self._fill_members(data)
        else:
            self._index.add(sizes)
        self._num_examples += len(sizes)

    def close(self) -> ShardInfo:
        """Puts the shard into its place, replacing a leftover of that name.

        Raises:
          OSError: The file system refused; nothing new stands under the shard's name.
        """
        try:
            # A reader wants at least one member, also where there is no record.
            if self._is_gzip and (self._pending or not self._bytes + len(self._members)):
                self._end_member()
            self._drain(0)
            _flush_to_disk(self._output.file)
            self._output.publish()
        except BaseException:
            self.abort()
            raise
        self._is_open = False
        crcs = (self._crc_file if self._is_gzip else self._crc_uncompressed, self._crc_uncompressed)
        in_hex = (f"{crcs[0]:08x}", f"{crcs[1]:08x}")
        index = str(self._index)
        return ShardInfo(self._file, self._num_examples, self._bytes, *in_hex, index=index)

    def abort(self) -> None:
        """Removes what was written; does nothing after `close` or a second time."""
        if not self._is_open:
            return
        self._is_open = False
        for member in self._members:
            member.cancel()
        self._output.discard()

    def _fill_members(self, data: np.ndarray) -> None:
        """Ends the member that is filling up, makes members of whole pieces, and keeps the rest."""
        start = MEMBER_BYTES - len(self._pending) if self._pending else 0
        self._pending += data[:start].tobytes()
        if len(self._pending) == MEMBER_BYTES:
            self._end_member()
        for end in range(start + MEMBER_BYTES, len(data) + 1, MEMBER_BYTES):
            self._compress(data[start:end].data)
            start = end
        self._pending += data[start:].tobytes()

    def _end_member(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        self._compress(data)

    def _compress(self, data: bytes | memoryview) -> None:
        if self._pool is None:
            self._put(gzip_member(data))
        else:
            self._members.append(self._pool.submit(gzip_member, data))
            self._drain(_MEMBERS_IN_FLIGHT)

    def _drain(self, keep: int) -> None:
        """Writes the oldest members until `keep` are left to the pool."""
        while len(self._members) > keep:
            self._put(self._members.popleft().result())

    def _put(self, data: bytes | np.ndarray) -> None:
        try:
            self._output.file.write(data)
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, self._file) from error
        self._bytes += len(data)
        if self._is_gzip:
            self._crc_file = google_crc32c.extend(self._crc_file, data)


def _flush_to_disk(output: Any) -> None:
    """Makes a local file outlive a power cut, so that the manifest never names lost bytes."""
    try:
        descriptor = output.fileno()
    except (AttributeError, OSError):  # An object store has no descriptor.
        return
    output.flush()
    os.fsync(descriptor)


class ShardReader:
    """Reads one shard record by record, and knows its size and checksums afterwards.

    Memory holds one record and some MiB, whatever the file says: a length counts only if its CRC
    is right, and memory grows only by what was read. Use it as a context manager.
    """

    def __init__(self, path: str, compression: Compression):
        """Opens the file.

        Raises:
          DataError: There is no such file, or it cannot be opened.
        """
        self.num_examples = 0
        self.path = path
        self._bytes = self._crc = self._crc_uncompressed = 0
        self._is_gzip = compression == "gzip"
        self._gzip_fault = ""  # Raised when the bytes before it are used up.
        self._offset = 0  # Of the record that is being read, in the uncompressed stream.
        self._index = ShardIndex()
        self._buffer = b""
        self._position = 0
        self._input = _open(path)
        self._chunks = self._gunzipped() if self._is_gzip else self._raw()

    def __enter__(self) -> ShardReader:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self._input.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yields the data of the records in order, see `batches`."""
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[bytes]]:
        """Yields the data of the records in order, about 1 MiB at a time, after their checksums.

        Raises:
          DataError: A record is damaged or cut; the message names it and its place, not the file.
        """
        while self._fill(_HEADER.size):
            batch, end = self._whole_records()
            if not batch:  # Longer than the buffer, or damaged.
                yield [self._checked_record()]
            elif self._is_sound(batch, end):
                self._position = end
                self._count(batch)
                yield batch
            else:  # One of these is damaged, and raises.
                for _ in batch:
                    yield [self._checked_record()]

    def info(self) -> ShardInfo:
        """Reads what is left and returns the file as it is; `num_examples` counts whole records.

        `crc32c_uncompressed` covers the stream up to the first damage in the compression.
        """
        for _ in itertools.chain(self._chunks, self._raw()):  # Also what follows damaged gzip.
            pass
        name = FileSystems.split(self.path)[1]
        crc_uncompressed = self._crc_uncompressed if self._is_gzip else self._crc
        crcs = (f"{self._crc:08x}", f"{crc_uncompressed:08x}")
        return ShardInfo(name, self.num_examples, self._bytes, *crcs, index=str(self._index))

    def _fill(self, size: int) -> bool:
        """Reads on until `size` bytes are buffered or the stream ends; says whether any byte is."""
        if self._position + size > len(self._buffer):
            parts = [self._buffer[self._position :]]
            have = len(parts[0])
            while have < max(size, _CHUNK_BYTES):
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                parts.append(chunk)
                have += len(chunk)
            self._buffer, self._position = b"".join(parts), 0
        if self._gzip_fault and self._position + size > len(self._buffer):
            raise self._error(self._gzip_fault)
        return self._position < len(self._buffer)

    def _whole_records(self) -> tuple[list[bytes], int]:
        """Returns the data of the records that the buffer holds whole, unchecked, and their end."""
        buffer, position, batch = self._buffer, self._position, []
        while position + _HEADER.size <= len(buffer):
            size, _ = _HEADER.unpack_from(buffer, position)
            end = position + size + _OVERHEAD_BYTES
            if end > len(buffer):
                break
            batch.append(buffer[position + _HEADER.size : end - _FOOTER.size])
            position = end
        return batch, position

    def _is_sound(self, batch: list[bytes], end: int) -> bool:
        """Says whether every length and checksum is right between the position and `end`."""
        # Framing the records again is the fastest check: 1 us a record, 3 us one by one.
        framed = frame_records(pa.array(batch, pa.large_binary()))
        return bytes(framed) == self._buffer[self._position : end]

    def _checked_record(self) -> bytes:
        """Returns the next record's data, after each checksum in its turn."""
        size = self._checked_size(self._take(_HEADER.size))
        data = self._take(size)
        footer = self._take(_FOOTER.size)
        if len(footer) < _FOOTER.size:
            raise self._error(f"the file ends within its data ({len(data)} of {size} bytes)")
        crc, stored = google_crc32c.value(data), _unmasked(*_FOOTER.unpack(footer))
        if crc != stored:
            raise self._error(f"crc32c of its data is {crc:08x}, but its footer says {stored:08x}")
        self._count([data])
        return data

    def _count(self, batch: list[bytes]) -> None:
        sizes = np.fromiter(map(len, batch), np.int64, len(batch)) + _OVERHEAD_BYTES
        self.num_examples += len(batch)
        self._offset += int(sizes.sum())
        if not self._is_gzip:
            self._index.add(sizes)

    def _checked_size(self, header: bytes) -> int:
        """Returns the length of a record's data, in bytes."""
        if len(header) < _HEADER.size:
            raise self._error(f"the file ends within its header ({len(header)} of 12 bytes)")
        size, masked = _HEADER.unpack(header)
        crc, stored = google_crc32c.value(header[:8]), _unmasked(masked)
        if crc != stored:
            raise self._error(
                f"crc32c of its length is {crc:08x}, but its header says {stored:08x}"
            )
        if size > _MAX_RECORD_BYTES:
            raise self._error(f"its length is {size} bytes, but an example has under 2 GiB")
        return size

    def _take(self, size: int) -> bytes:
        """Returns the next `size` bytes of the uncompressed stream, fewer only at its end."""
        self._fill(size)
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data

    def _error(self, detail: str) -> DataError:
        unit = "uncompressed byte" if self._is_gzip else "byte"
        return DataError(f"record {self.num_examples} at {unit} {self._offset}: {detail}")

    def _raw(self) -> Iterator[bytes]:
        """Yields the file, and keeps its size and checksum."""
        while data := self._input.read(_READ_BYTES):
            self._bytes += len(data)
            self._crc = google_crc32c.extend(self._crc, data)
            yield data

    def _gunzipped(self) -> Iterator[bytes]:
        """Yields the contents of the gzip members, at most 1 MiB at a time."""
        member = None
        for data in self._raw():
            while data:
                member = member or zlib.decompressobj(wbits=31)
                try:
                    chunk = member.decompress(data, _CHUNK_BYTES)
                except zlib.error as error:
                    self._gzip_fault = f"the gzip stream is corrupt ({error})"
                    return
                self._crc_uncompressed = google_crc32c.extend(self._crc_uncompressed, chunk)
                yield chunk
                data = member.unused_data if member.eof else member.unconsumed_tail
                member = None if member.eof else member
        if member is not None:
            self._gzip_fault = "the gzip stream ends too early"


def _open(path: str) -> Any:
    try:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except object_stores.ERRORS as error:
        what = object_stores.fault(error)
        raise DataError(f"{path}: cannot be opened: {what}") from error


def is_intact(directory: str, shard: ShardInfo) -> bool:
    """Says whether a shard stands in the folder with the size and checksum it was written with."""
    path = FileSystems.join(directory, shard.file)
    if not FileSystems.exists(path):
        return False
    with ShardReader(path, "none") as reader:  # The file as it is, not its records.
        found = reader.info()
    return (found.bytes, found.crc32c) == (shard.bytes, shard.crc32c)


def read_records(path: str, compression: Compression) -> Iterator[bytes]:
    """Yields the data of a shard's records in order, each after both of its checksums.

    Raises:
      DataError: The file is not there, damaged or cut: its name, the record's number (from 0), the
        byte where the record starts, and what is wrong.
    """
    with ShardReader(path, compression) as reader:
        try:
            yield from reader
        except DataError as error:
            raise DataError(
                f"{path}: {error}: the file is damaged. Run `headrace verify` on its folder."
            ) from error
