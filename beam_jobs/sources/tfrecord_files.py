"""TFRecord files of `tf.train.Example`s: a feature is a column."""

import functools
import json
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import progress
from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.shards import ShardReader
from beam_jobs.sources import arrow_files, blocks, texts
from beam_jobs.sources.blocks import Structure, Unit
from beam_jobs.sources.listing import File

_LENGTH = struct.Struct("<Q")
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_DECODED_AT_ONCE = 4096  # More take a fifth longer.


def columns(files: Sequence[File], source: Source) -> Iterator[tuple[str, ...]]:
    """Yields the features of the first Examples, and then of more of them.

    Raises:
      DataError: A file cannot be read.
    """
    batches = (batch for file in files for batch in _batches(file))
    found = ((_names(batch), sum(map(len, batch))) for batch in batches)
    return blocks.columns_so_far(found, files, source)


def scan(file: File, source: Source, block_bytes: int) -> Unit:
    """Reads a file once, with every checksum, and finds the blocks into which it may be cut.

    Args:
      file: The file.
      source: What to read of it.
      block_bytes: The size of a block; a longer record makes a longer block.

    Raises:
      DataError: The file is damaged or cut.
    """
    names: set[str] = set(source.columns or ())
    cuts, end, num_records = [(0, 1)], 0, 0
    for batch in _batches(file):
        if not source.columns:
            names |= _names(batch)
        lengths = np.fromiter(map(len, batch), np.int64, len(batch))
        ends = end + np.cumsum(lengths + _HEADER_BYTES + _FOOTER_BYTES)
        while (last := int(np.searchsorted(ends, cuts[-1][0] + block_bytes))) < len(batch):
            cuts.append((int(ends[last]), num_records + last + 2))
        end, num_records = int(ends[-1]), num_records + len(batch)
        progress.count("scanning", sum(map(len, batch)))
    cuts.append((end, num_records + 1))
    return Unit((file,), blocks.ordered(names), blocks.between(cuts))


units = blocks.units_with_all_columns


def read(unit: Unit, source: Source) -> Iterator[Structure]:
    """Yields the records of each block of a unit.

    Raises:
      DataError: The file changed since it was scanned, or cannot be read.
    """
    for block, data in blocks.texts(unit):
        yield _structure(_records(data), block.first, unit, source)


def _batches(file: File) -> Iterator[list[bytes]]:
    """Yields the records of a file, about 1 MiB at a time, after their checksums."""
    ending = os.path.splitext(file.path)[1].lower()
    is_gzip = ending in (".gz", ".tgz")
    if not is_gzip and blocks.is_compressed(file.path):
        raise DataError(
            f"{file.path}: a TFRecord file is plain or .gz, not {ending}. Uncompress it."
        )
    try:
        with ShardReader(file.path, "gzip" if is_gzip else "none") as reader:
            yield from reader.batches()
    except DataError as error:
        raise DataError(f"{file.path}: {error}. Mend or remove the file.") from error


def _records(data: bytes) -> list[bytes]:
    """Returns the records of a block, whose checksums the scan has seen."""
    records, position = [], 0
    while position < len(data):
        start = position + _HEADER_BYTES
        end = start + _LENGTH.unpack_from(data, position)[0]
        records.append(data[start:end])
        position = end + _FOOTER_BYTES
    return records


@functools.cache
def _decoder() -> Any:
    """Returns what decodes Examples; TFX is only imported for them."""
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    return ExamplesToRecordBatchDecoder()


def _decoded(records: Sequence[bytes]) -> list[tuple[int, pa.RecordBatch | None]]:
    """Returns Examples as lists by feature, some at a time.

    The decoder wants a feature to be of one type in all Examples that it sees; where it is not,
    they go in smaller parts. Part by part the result is the same.

    Returns:
      The number of records of each part, and their lists; None for one record that is no Example.
    """
    if len(records) <= _DECODED_AT_ONCE:
        try:
            return [(len(records), _decoder().DecodeBatch(records))]
        except RuntimeError:
            if len(records) == 1:
                return [(1, None)]
    half = len(records) // 2
    return [*_decoded(records[:half]), *_decoded(records[half:])]


def _names(records: Sequence[bytes]) -> set[str]:
    return {name for _, batch in _decoded(records) if batch for name in batch.schema.names}


def _structure(records: list[bytes], first: int, unit: Unit, source: Source) -> Structure:
    broken: dict[int, tuple[str, str]] = {}
    parts, position = [], 0
    for num_records, batch in _decoded(records):
        if batch is None:
            broken[position] = ("undecodable_example", "it is no tf.train.Example")
        parts.append(_columns(batch, num_records, unit.columns))
        position += num_records
    table = pa.Table.from_batches(parts).combine_chunks()
    values = table.to_batches()[0]

    def raw(position: int) -> str:
        if position in broken:
            return texts.raw(records[position], "utf-8")
        return blocks.raw_row(values, position)

    return blocks.structure(
        values,
        broken,
        source,
        files=unit.files,
        places=np.arange(first, first + len(records)),
        num_bytes=sum(map(len, records)),
        raw=raw,
    )


def _columns(
    batch: pa.RecordBatch | None, num_records: int, names: Sequence[str]
) -> pa.RecordBatch:
    """Returns the features with these names: binary (num_records,), missing where they are not."""
    found = dict(zip(batch.schema.names, batch.columns, strict=True)) if batch else {}
    arrays = [
        _scalars(found[name]) if name in found else pa.nulls(num_records, pa.binary())
        for name in names
    ]
    return pa.record_batch(arrays, [*names])


def _scalars(lists: pa.LargeListArray) -> pa.BinaryArray:
    """Returns the value of each list as text or as the bytes that it is.

    Several values are their list as JSON; none are a missing value.
    """
    if pa.types.is_null(lists.type):
        return pa.nulls(len(lists), pa.binary())
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    values = arrow_files.as_text(lists.flatten()).cast(pa.binary())
    first = np.cumsum(lengths) - lengths
    scalars = values.take(pa.array(first, mask=lengths == 0))
    has_several = pa.array(lengths > 1)
    if not pc.any(has_several).as_py():
        return scalars
    return pc.replace_with_mask(scalars, has_several, _as_json(lists.filter(has_several)))


def _as_json(lists: pa.LargeListArray) -> pa.BinaryArray:
    if not pa.types.is_large_binary(lists.type.value_type):
        return arrow_files.as_text(lists).cast(pa.binary())
    # Bytes that are no text stay in it, so that it is none, either.
    texts = ([value.decode("utf-8", "surrogateescape") for value in of] for of in lists.to_pylist())
    return pa.array(
        [
            json.dumps(of, ensure_ascii=False, separators=(",", ":")).encode(
                "utf-8", "surrogateescape"
            )
            for of in texts
        ],
        pa.binary(),
    )
