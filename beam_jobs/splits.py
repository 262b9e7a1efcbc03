"""Which split a record falls into."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.config import SPLITS, Spec, decimal

NO_SPLIT = -1


def split_names(spec: Spec) -> tuple[str, ...]:
    """Returns the splits that the dataset has, in the order train, validation, test."""
    named: set[str] = set()
    if isinstance(spec.source.paths, dict):
        named |= set(spec.source.paths)
    for given in (spec.split.fractions, spec.split.values):
        named |= set(given or ())
    if spec.split.carve:
        named |= set(spec.split.carve.fractions) | {spec.split.carve.of}
    if spec.split.directory:
        named |= set(SPLITS)  # Those without a folder are left out of the dataset.
    return tuple(split for split in SPLITS if split in named)


def _limits(fractions: Mapping[Any, int | float]) -> tuple[list[int], np.ndarray]:
    """Returns the splits and, for each but the last, the first hash behind it: uint64."""
    names = [split for split in SPLITS if split in fractions]
    total, limits = decimal(0), []
    for name in names:
        total += decimal(fractions[name])
        limits.append(-(-total.numerator * 2**64 // total.denominator))
    inner = [limit for limit in limits if limit < 2**64]
    return [SPLITS.index(name) for name in names], np.array(inner, np.uint64)


def by_fractions(hashed: np.ndarray, fractions: Mapping[Any, int | float]) -> np.ndarray:
    """Returns the split of each record by the first half of its hash.

    Args:
      hashed: HASH_DTYPE (num_records,).
      fractions: By split; what they leave of 1 is NO_SPLIT.

    Returns:
      int8 (num_records,), positions in SPLITS.
    """
    codes, limits = _limits(fractions)
    position = np.searchsorted(limits, hashed["first"].astype(np.uint64), side="right")
    return np.array([*codes, NO_SPLIT], np.int8)[position]


def by_values(column: pa.Array, values: Mapping[Any, Sequence[Any]]) -> np.ndarray:
    """Returns the split that lists the value of each record: int8 (num_records,).

    Raises:
      pa.ArrowInvalid: A listed value is not of the column's type.
    """
    codes = np.full(len(column), NO_SPLIT, np.int8)
    for split, listed in values.items():
        is_listed = pc.is_in(column, pa.array(list(listed)).cast(column.type))
        codes[is_listed.to_numpy(zero_copy_only=False)] = SPLITS.index(split)
    return codes


def carved(codes: np.ndarray, hashed: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns the splits after `carve` drew its shares out of one of them."""
    carve = spec.split.carve
    if carve is None:
        return codes
    drawn = by_fractions(hashed, carve.fractions)
    return np.where((codes == SPLITS.index(carve.of)) & (drawn != NO_SPLIT), drawn, codes)
