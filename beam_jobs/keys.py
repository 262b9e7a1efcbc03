"""The hash of a record: md5 of its values, computed by DuckDB for a whole block at once."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import sql, utf8

MISSING = b"\xff"  # No UTF-8 text holds this byte.
NO_TEXT = pa.scalar(b"\xfe")  # Nor this one.
HASH_DTYPE = np.dtype([("first", ">u8"), ("last", ">u8")])
HASH_NAME = "md5"
HASH_COLUMNS = ("\0first", "\0last")  # No feature has a name like these.
KEY_COLUMNS = ("\0key first", "\0key last")  # Of the key of a stratified split.


def row_keys(
    values: pa.RecordBatch,
    columns: Sequence[str] | None = None,
    clean: Callable[[pa.StringArray], pa.StringArray] = lambda text: text,
) -> pa.BinaryArray:
    """Returns one unambiguous byte string a record: its values, columns sorted by name.

    NUL joins them: a record that holds one was set aside before. The md5 of the names comes first.

    Args:
      values: string and binary columns, null where missing.
      columns: Those that count; None for all.
      clean: What was done to string columns, and is done to the texts of binary ones.
    """
    names = sorted(columns or values.schema.names, key=str.encode)
    digest = hashlib.md5(b"\0".join(map(str.encode, names)), usedforsecurity=False).hexdigest()
    cells = [pc.fill_null(_cells(values.column(name), clean), MISSING) for name in names]
    return pc.binary_join_element_wise(pa.scalar(digest.encode()), *cells, b"\0")


def _cells(column: pa.Array, clean: Callable[[pa.StringArray], pa.StringArray]) -> pa.BinaryArray:
    """Returns what stands for each value: a text for itself, for other bytes their md5."""
    if pa.types.is_string(column.type):
        return column.view(pa.binary())
    text, faults = utf8.as_text(column)
    cells = clean(text).view(pa.binary())
    if not faults:
        return cells
    block = pa.table({"value": column})
    digests = sql.query("SELECT md5(value) FROM block", block).column(0).combine_chunks()
    marked = pc.binary_join_element_wise(NO_TEXT, digests.cast(pa.binary()), b"")
    return pc.if_else(pc.is_valid(text), cells, marked)


def hashes(keys: pa.BinaryArray) -> np.ndarray:
    """Returns the md5 of each key as two big-endian halves: HASH_DTYPE (num_records,)."""
    found = sql.query("SELECT md5_number(key) FROM block", pa.table({"key": keys}))
    return digests(found.column(0))


def digests(numbers: pa.ChunkedArray) -> np.ndarray:
    """Returns what DuckDB's md5_number found: HASH_DTYPE (num_records,)."""
    # A decimal128 of 16 bytes each, in the order of the digest.
    pieces = [
        np.frombuffer(c.buffers()[1], HASH_DTYPE)[c.offset :][: len(c)] for c in numbers.chunks
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, HASH_DTYPE)


def with_hashes(
    batch: pa.RecordBatch, hashed: np.ndarray, names: Sequence[str] = HASH_COLUMNS
) -> pa.RecordBatch:
    """Returns the batch with two more columns, the halves of each record's hash."""
    for name, half in zip(names, ("first", "last"), strict=True):
        batch = batch.append_column(name, pa.array(hashed[half].astype(np.uint64)))
    return batch


def hashes_of(batch: pa.RecordBatch | pa.Table, names: Sequence[str] = HASH_COLUMNS) -> np.ndarray:
    """Returns the hashes that `with_hashes` put there: HASH_DTYPE (num_records,)."""
    hashed = np.empty(batch.num_rows, HASH_DTYPE)
    for name, half in zip(names, ("first", "last"), strict=True):
        hashed[half] = batch.column(name).to_numpy()
    return hashed


def shard_indices(hashed: np.ndarray, num_shards: int) -> np.ndarray:
    """Returns last * num_shards / 2**64 rounded down: the shard of each record, int64.

    Computed in two halves of 32 bits, exactly.
    """
    last = hashed["last"].astype(np.uint64)
    high, low = last >> np.uint64(32), last & np.uint64(0xFFFFFFFF)
    count = np.uint64(num_shards)
    return ((high * count + ((low * count) >> np.uint64(32))) >> np.uint64(32)).astype(np.int64)


def order_keys(hashed: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    """Returns what orders the records of a shard: splitmix64 seeded by the hash, uint64.

    Equal records would stand side by side if their hash alone ordered them (Steele, Lea and Flood,
    Fast splittable pseudorandom number generators, OOPSLA 2014).
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = (
            hashed["first"].astype(np.uint64)
            + (occurrences.astype(np.uint64) + np.uint64(1)) * step
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
