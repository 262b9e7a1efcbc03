"""Which split a record falls into."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.config import SPLITS, Spec, decimal

NO_SPLIT = -1


def split_names(spec: Spec, num_examples: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the splits that the dataset has, in the order train, validation, test.

    Args:
      spec: What it is asked for.
      num_examples: Of each split that has some.
    """
    named: set[str] = set()
    if isinstance(spec.source.paths, dict):
        named |= set(spec.source.paths)
    for given in (spec.split.fractions, spec.split.values):
        named |= set(given or ())
    if spec.split.time:
        named |= {"train", *spec.split.time.starts}
    if spec.split.carve:
        named |= set(spec.split.carve.fractions) | {spec.split.carve.of}
    if spec.split.directory:  # There need not be a folder for each.
        named = {split for split, count in num_examples.items() if count}
    return tuple(split for split in SPLITS if split in named)


def cumulated(fractions: Mapping[Any, int | float]) -> dict[str, Fraction]:
    """Returns of each split its fraction and those of the splits before it, in their order."""
    names = [split for split in SPLITS if split in fractions]
    totals = itertools.accumulate(decimal(fractions[name]) for name in names)
    return dict(zip(names, totals, strict=True))


def _limits(fractions: Mapping[Any, int | float]) -> tuple[list[int], np.ndarray]:
    """Returns the splits and, for each but the last, the first hash behind it: uint64."""
    totals = cumulated(fractions)
    limits = [-(-total.numerator * 2**64 // total.denominator) for total in totals.values()]
    inner = [limit for limit in limits if limit < 2**64]
    return [SPLITS.index(name) for name in totals], np.array(inner, np.uint64)


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


def shares(num_records: int, fractions: Mapping[Any, int | float]) -> dict[str, int]:
    """Returns how many records of a class each split has: cumulated shares, rounded half up.

    None is a whole record away from its fraction, and one more record moves each limit by one at
    most: with the method of largest remainders, a split may lose a record to it.
    """
    ends = [int(total * num_records + Fraction(1, 2)) for total in cumulated(fractions).values()]
    counts = (end - start for start, end in itertools.pairwise([0, *ends]))
    return dict(zip(cumulated(fractions), counts, strict=True))


@dataclasses.dataclass(frozen=True)
class Strata:
    """Where the hashes of each class are cut into splits.

    Attributes:
      splits: The splits, in their order.
      classes: The classes.
      limits: For each class, and each split but the last, the first hash behind it: uint64
        (num_classes, num_splits - 1).
      num_examples: Of each class the records in each split: int64 (num_classes, num_splits).
    """

    splits: tuple[str, ...]
    classes: tuple[str, ...]
    limits: np.ndarray
    num_examples: np.ndarray

    @property
    def totals(self) -> dict[str, int]:
        """The records in each split."""
        return dict(zip(self.splits, self.num_examples.sum(0).tolist(), strict=True))

    def codes(self, label: pa.StringArray, hashed: np.ndarray) -> np.ndarray:
        """Returns the split of each record: int8 (num_records,), positions in SPLITS.

        Args:
          label: The class of each record. One that is unknown has no record that is kept, and
            is taken for the first: a later rule says why.
          hashed: HASH_DTYPE (num_records,), of the key.
        """
        position = np.zeros(hashed.size, np.int64)
        if self.classes:
            known = pa.array(self.classes, pa.string())
            of_class = pc.fill_null(pc.index_in(label, known), 0).to_numpy()
            for limits in self.limits.T:
                position += hashed["first"] >= limits[of_class]
        return np.array([SPLITS.index(split) for split in self.splits], np.int8)[position]


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


def by_time(column: pa.Array, starts: Mapping[Any, pa.Scalar]) -> np.ndarray:
    """Returns the split of each record by its time: int8 (num_records,).

    Args:
      column: Of any type that has an order; where it is null, the split is NO_SPLIT.
      starts: The first time that is not before a split, ascending; what is before all is train.
    """
    codes = np.where(pc.is_valid(column).to_numpy(zero_copy_only=False), 0, NO_SPLIT)
    for split, start in starts.items():
        is_later = pc.fill_null(pc.greater_equal(column, start), False)
        codes[is_later.to_numpy(zero_copy_only=False)] = SPLITS.index(split)
    return codes.astype(np.int8)


def by_names(names: Sequence[str | None]) -> np.ndarray:
    """Returns the split that is called like this, for each record: int8 (num_records,)."""
    codes = [SPLITS.index(name) if name in SPLITS else NO_SPLIT for name in names]
    return np.array(codes, np.int8)


def carved(codes: np.ndarray, hashed: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns the splits after `carve` drew its shares out of one of them."""
    carve = spec.split.carve
    if carve is None:
        return codes
    drawn = by_fractions(hashed, carve.fractions)
    return np.where((codes == SPLITS.index(carve.of)) & (drawn != NO_SPLIT), drawn, codes)
