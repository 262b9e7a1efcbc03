"""Sums and counts of numbers for each key of another column: exact, and in columns throughout.

A number is a whole one times a power of two. Those of a key and a power are summed in limbs that
hold so few bits that int64 holds the sums of 2**39 of them.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.counts import MAX_DISTINCT_NUMBERS, NumberCounts, lowest_of_cells
from beam_jobs.errors import DataError
from beam_jobs.moments import UNIT_BITS, Moments

MAX_KEYS = 1_000_000
MAX_PAIRS = 10_000_000  # Of a key and a number.
_LIMB_BITS, _HALF_BITS = 22, 23
_TOTALS = [(f"s{i}", _LIMB_BITS * i) for i in range(3)]  # Each with the bits that it stands above.
_SQUARES = [
    (f"q{i}{half}", _LIMB_BITS * i + _HALF_BITS * half) for i in range(5) for half in (0, 1)
]
_DIGITS = [name for name, _ in (*_TOTALS, *_SQUARES)]


@dataclasses.dataclass(frozen=True)
class KeyedNumbers:
    """What is known of the numbers of each key.

    Attributes:
      ends: key, count, missing, min and max; these two are null where there is no number.
      sums: key, exponent and, of the whole numbers that it multiplies, sums in limbs.
    """

    ends: pa.Table
    sums: pa.Table

    @classmethod
    def of(cls, keys: pa.StringArray, values: np.ndarray, is_there: np.ndarray) -> "KeyedNumbers":
        """Summarizes the numbers of records.

        Args:
          keys: string (num_records,), without nulls.
          values: Those that are there: float64 or int64 (num_values,).
          is_there: bool (num_records,).
        """
        position = np.cumsum(is_there) - 1
        found = pa.array(values).take(pa.array(position, mask=~is_there))
        present = pa.array(is_there).cast(pa.int64())
        missing = pa.array(~is_there).cast(pa.int64())
        ends = pa.table([keys, present, missing, found, found], _ENDS)
        kept = keys.filter(pa.array(is_there))
        return cls(_ends(ends), _sums(pa.table({"key": kept, **_digits(values)})))

    def __add__(self, other: "KeyedNumbers") -> "KeyedNumbers":
        """Returns what is known of both sets together.

        Raises:
          DataError: There are too many keys.
        """
        ends = _ends(pa.concat_tables([self.ends, other.ends]))
        if ends.num_rows > MAX_KEYS:
            raise DataError(
                f"a transform per key has more than {MAX_KEYS} keys. Take a key with fewer values, "
                "or the transform of the whole column."
            )
        return KeyedNumbers(ends, _sums(pa.concat_tables([self.sums, other.sums])))

    def moments(self) -> Iterator[tuple[str, Moments, int, float | int, float | int]]:
        """Yields each key with its moments, missing, min and max, by ascending UTF-8."""
        sums: dict[str, tuple[int, int]] = {}
        columns = (self.sums.column(name).to_pylist() for name in _DIGITS)
        keys, exponents = (self.sums.column(name).to_pylist() for name in ("key", "exponent"))
        for key, exponent, *digits in zip(keys, exponents, *columns, strict=True):
            total = _joined(digits[: len(_TOTALS)], _TOTALS)
            squares = _joined(digits[len(_TOTALS) :], _SQUARES)
            before = sums.get(key, (0, 0))
            sums[key] = (
                before[0] + _shifted(total, exponent + UNIT_BITS),
                before[1] + _shifted(squares, 2 * (exponent + UNIT_BITS)),
            )
        ends = self.ends.sort_by("key")
        rows = zip(*(ends.column(name).to_pylist() for name in _ENDS), strict=True)
        for key, count, missing, low, high in rows:
            yield key, Moments(count, *sums.get(key, (0, 0))), missing, low, high


_ENDS = ["key", "count", "missing", "min", "max"]


def _ends(table: pa.Table) -> pa.Table:
    ways = [("count", "sum"), ("missing", "sum"), ("min", "min"), ("max", "max")]
    found = table.group_by("key", use_threads=False).aggregate(ways)
    return found.select(["key", *map("_".join, ways)]).rename_columns(_ENDS)


def _sums(table: pa.Table) -> pa.Table:
    by = ["key", "exponent"]
    found = table.group_by(by, use_threads=False).aggregate([(name, "sum") for name in _DIGITS])
    return found.select([*by, *(f"{n}_sum" for n in _DIGITS)]).rename_columns([*by, *_DIGITS])


def _digits(values: np.ndarray) -> dict[str, np.ndarray]:
    """Returns exponents, and limbs of whole numbers and their squares: each (num_values,)."""
    if values.dtype == np.float64:
        mantissas, exponents = np.frexp(values)
        whole, exponents = np.ldexp(mantissas, 53).astype(np.int64), exponents - 53
    else:
        whole, exponents = values, np.zeros(values.size, np.int32)
    size = np.abs(whole).view(np.uint64)  # Of -2**63, too.
    mask = np.uint64((1 << _LIMB_BITS) - 1)
    a, b, c = ((size >> np.uint64(_LIMB_BITS * i) & mask).astype(np.int64) for i in range(3))
    sign = np.where(whole < 0, -1, 1)
    found = {"exponent": exponents.astype(np.int32), "s0": sign * a, "s1": sign * b, "s2": sign * c}
    for i, product in enumerate((a * a, 2 * a * b, 2 * a * c + b * b, 2 * b * c, c * c)):
        found |= {f"q{i}0": product & ((1 << _HALF_BITS) - 1), f"q{i}1": product >> _HALF_BITS}
    return found


def _joined(digits: list[int], places: list[tuple[str, int]]) -> int:
    return sum(digit << bits for digit, (_, bits) in zip(digits, places, strict=True))


def _shifted(number: int, bits: int) -> int:
    return number << bits if bits >= 0 else number >> -bits  # To the right, it meets only zeros.


@dataclasses.dataclass(frozen=True)
class KeyedCounts:
    """How often each number of a key occurs, as `NumberCounts` has it, for each key by itself.

    Attributes:
      table: key, value, count, and whether the value is a cell of the grid.
    """

    table: pa.Table

    @classmethod
    def of(cls, keys: pa.StringArray, values: np.ndarray, counts: np.ndarray) -> "KeyedCounts":
        """Counts numbers.

        Args:
          keys: string (num_values,).
          values: float64 or int64 (num_values,).
          counts: How often each stands there: int64 (num_values,).
        """
        values = values + 0.0 if values.dtype == np.float64 else values  # Makes -0 a 0.
        is_grid = np.zeros(values.size, bool)
        return cls(_shrunk(pa.table([keys, values, is_grid, counts], _COUNTS)))

    def __add__(self, other: "KeyedCounts") -> "KeyedCounts":
        """Returns the counts of both sets together.

        Raises:
          DataError: There are too many pairs of a key and a number.
        """
        table = _shrunk(pa.concat_tables([self.table, other.table]))
        if table.num_rows > MAX_PAIRS:
            raise DataError(
                f"bucketize_per_key: more than {MAX_PAIRS} distinct pairs of a key and a number. "
                "Take a key with fewer values, or bucketize the whole column."
            )
        return KeyedCounts(table)

    def counts(self) -> Iterator[tuple[str, NumberCounts]]:
        """Yields the counts of each key, by ascending UTF-8."""
        table = self.table.sort_by([("key", "ascending"), ("value", "ascending")])
        encoded = table.column("key").combine_chunks().dictionary_encode()
        starts = np.flatnonzero(np.diff(encoded.indices.to_numpy(), prepend=-1))
        values, is_grid, counts = (table.column(name).to_numpy() for name in _COUNTS[1:])
        ends = [*starts[1:], table.num_rows]
        for key, start, end in zip(encoded.dictionary.to_pylist(), starts, ends, strict=True):
            yield key, NumberCounts(values[start:end], counts[start:end], bool(is_grid[start]))


_COUNTS = ["key", "value", "is_grid", "count"]


def _shrunk(table: pa.Table) -> pa.Table:
    """Sums up equal pairs; a key of too many numbers, or with a cell, has cells only."""
    table = _counted(table)
    of_key = table.group_by("key", use_threads=False).aggregate(
        [("value", "count"), ("is_grid", "max")]
    )
    is_large = np.logical_or(
        of_key.column("value_count").to_numpy() > MAX_DISTINCT_NUMBERS,
        of_key.column("is_grid_max").to_numpy(),
    )
    if not is_large.any():
        return table
    large = of_key.column("key").combine_chunks().filter(pa.array(is_large))
    wants = pc.is_in(table.column("key"), large).to_numpy()
    values, is_grid, counts = (table.column(name).to_numpy() for name in _COUNTS[1:])
    values = np.where(wants, lowest_of_cells(values), values)
    return _counted(pa.table([table.column("key"), values, is_grid | wants, counts], _COUNTS))


def _counted(table: pa.Table) -> pa.Table:
    by = ["key", "value"]
    found = table.group_by(by, use_threads=False).aggregate([("is_grid", "max"), ("count", "sum")])
    return found.select([*by, "is_grid_max", "count_sum"]).rename_columns(_COUNTS)
