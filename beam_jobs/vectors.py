"""Vectors of numbers: from text, and what is known of each of their elements."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import values
from beam_jobs.config import Sparse, Vector
from beam_jobs.values import Fault

_PAIR = r"^(?P<index>\d{1,18}):(?P<value>.+)$"
_WIDE = {"float32": np.float64, "int64": np.int64}


def parse(text: pa.StringArray, feature: Vector) -> tuple[pa.ListArray, list[Fault]]:
    """Parses lists of numbers: `1.5,2` or, as JSON, `[1.5, 2]`.

    Args:
      text: string (num_records,), null where missing.
      feature: What the spec says of it.

    Returns:
      Lists of float32 or int64, null where missing or at fault, and the records of each cause.
    """
    numbers, lengths = _numbers(text, feature.separator)
    dtype = "float64" if feature.dtype == "float32" else feature.dtype
    parsed, faults = values.parse(numbers, dtype)
    known = [where for where, _ in faults]
    is_nan = pc.is_null(parsed)
    for where in known:
        is_nan = pc.and_(is_nan, pc.invert(where))
    faults = [*faults, (is_nan, "non_finite")]
    if feature.dtype == "float32":
        parsed, overflow = values.to_float32(parsed)
        faults += overflow
    owners = np.repeat(np.arange(len(text)), lengths)
    found = [(_records(where, owners, len(text)), cause) for where, cause in faults]
    if feature.size is not None:
        found.append((text.is_valid().to_numpy(False) & (lengths != feature.size), "wrong_size"))
    is_absent = text.is_null().to_numpy(False)
    for where, _ in found:
        is_absent = is_absent | where
    kept = parsed.filter(pa.array(~is_absent[owners]))
    made = lists(kept, np.where(is_absent, 0, lengths), is_absent)
    return made, [(pa.array(where), cause) for where, cause in found if where.any()]


def sparse_faults(text: pa.StringArray, feature: Sparse) -> list[Fault]:
    """Returns what is wrong with pairs of index and value, `3:0.5 7:1`: the records of each cause.

    Args:
      text: string (num_records,), null where missing.
      feature: What the spec says of it.
    """
    pairs, lengths = _split(pc.ascii_trim_whitespace(text), " ")
    owners = np.repeat(np.arange(len(text)), lengths)
    parts = pc.extract_regex(pairs, _PAIR)
    parsed, faults = values.parse(pc.struct_field(parts, "value"), "float64")
    number, overflow = values.to_float32(parsed)
    is_other = pc.is_null(number)
    is_pair = parts.is_valid()
    for where in (is_pair, *(pc.invert(where) for where, _ in (*faults, *overflow))):
        is_other = pc.and_(is_other, where)
    faults = [(pc.invert(is_pair), "unparsable"), *faults, *overflow, (is_other, "non_finite")]
    first = 0 if feature.zero_based else 1
    indices = pc.struct_field(parts, "index").cast(pa.int64()).fill_null(first).to_numpy() - first
    is_wrong = (indices < 0) | (indices >= feature.size)
    order = np.lexsort([indices, owners])
    is_same = (np.diff(indices[order]) == 0) & (np.diff(owners[order]) == 0)
    is_wrong[order[1:]] |= is_same & is_pair.to_numpy(False)[order[1:]]
    faults.append((pa.array(is_wrong), "wrong_index"))
    found = [(_records(where, owners, len(text)), cause) for where, cause in faults]
    return [(pa.array(where), cause) for where, cause in found if where.any()]


def _numbers(text: pa.StringArray, separator: str) -> tuple[pa.StringArray, np.ndarray]:
    """Returns the texts between separators, and how many each record has: int64 (num_records,)."""
    inner = pc.ascii_trim_whitespace(text)
    is_json = pc.and_(pc.starts_with(inner, "["), pc.ends_with(inner, "]"))
    if pc.any(is_json).as_py():
        inner = pc.if_else(is_json, pc.utf8_slice_codeunits(inner, 1, -1), inner)
        inner = pc.ascii_trim_whitespace(inner)
    numbers, lengths = _split(inner, separator)
    return pc.ascii_trim_whitespace(numbers), lengths


def _split(trimmed: pa.StringArray, separator: str) -> tuple[pa.StringArray, np.ndarray]:
    """Returns the parts of texts, of an empty one none, and how many each has."""
    if not separator.strip():
        found = pc.ascii_split_whitespace(trimmed)
    else:
        found = pc.split_pattern(trimmed, separator)
    lengths, parts = lengths_of(found), found.flatten()
    is_empty = pc.fill_null(pc.equal(trimmed, ""), False).to_numpy(False)
    if is_empty.any():
        parts = parts.filter(pa.array(~np.repeat(is_empty, lengths)))
        lengths = np.where(is_empty, 0, lengths)
    return parts, lengths


def _records(where: pa.BooleanArray, owners: np.ndarray, num_records: int) -> np.ndarray:
    found = np.zeros(num_records, bool)
    found[owners[where.to_numpy(False)]] = True
    return found


def lists(
    numbers: pa.Array, lengths: np.ndarray, is_null: np.ndarray | None = None
) -> pa.ListArray:
    """Returns lists of so many numbers each; null where told."""
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    mask = None if is_null is None or not is_null.any() else pa.array(is_null)
    return pa.ListArray.from_arrays(offsets, numbers, mask=mask)


def lists_of(matrix: np.ndarray) -> pa.ListArray:
    """Returns the rows of a matrix as lists."""
    return lists(pa.array(matrix.ravel()), np.full(len(matrix), matrix.shape[1]))


def flat(column: pa.ListArray) -> np.ndarray:
    """Returns the numbers of all lists, one behind the other; float32 as float64."""
    found = column.flatten().to_numpy(zero_copy_only=False)
    return found.astype(np.float64) if found.dtype == np.float32 else found


def lengths_of(column: pa.ListArray) -> np.ndarray:
    """Returns how many numbers each list has, 0 where it is missing: int64 (num_records,)."""
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)


def padded(column: pa.ListArray, size: int | None, padding: object) -> np.ndarray:
    """Returns lists as the rows of a matrix: (num_records, size).

    Args:
      column: The lists.
      size: At least that of the longest; None for its own.
      padding: What stands behind the last number of a list.
    """
    lengths = lengths_of(column)
    width = int(lengths.max(initial=0)) if size is None else size
    found = np.full((len(column), width), padding, column.type.value_type.to_pandas_dtype())
    found[np.arange(width) < lengths[:, None]] = column.flatten().to_numpy(zero_copy_only=False)
    return found


def matrix(batch: pa.RecordBatch, column: str, feature: Vector) -> np.ndarray:
    """Returns vectors by record, what is missing filled in: (num_records, num_elements).

    Of ragged ones it is all numbers one below the other. Float32 comes as float64, int64 as it is.

    Args:
      batch: Raw columns.
      column: The one that holds lists, if the feature is made of lists.
      feature: What the spec says of it.
    """
    if feature.columns is not None:
        columns = [_filled(batch.column(name), feature) for name in feature.columns]
        return np.stack(columns, axis=1)
    numbers = flat(batch.column(column))
    if feature.size is None:
        return numbers[:, None]
    is_there = batch.column(column).is_valid().to_numpy(False)
    found = np.full((len(is_there), feature.size), feature.fill, _WIDE[feature.dtype])
    found[is_there] = numbers.reshape(-1, feature.size)
    return found


def _filled(column: pa.Array, feature: Vector) -> np.ndarray:
    fill = pa.scalar(feature.fill, column.type)
    return column.fill_null(fill).to_numpy().astype(_WIDE[feature.dtype])
