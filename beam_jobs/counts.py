"""How often each value occurs: for quantiles and for vocabularies."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.errors import DataError

MAX_DISTINCT_NUMBERS = 65_536  # Beyond it, quantiles come from a grid.
MAX_DISTINCT_TOKENS = 10_000_000
_GRID_SHIFT = 52 - 11  # Cells of 11 bits of mantissa: a relative width of 2**-11.
_SIGN_FLIP = np.int64(0x7FFFFFFFFFFFFFFF)


@dataclasses.dataclass(frozen=True)
class NumberCounts:
    """Counts of numbers, exact up to MAX_DISTINCT_NUMBERS, else per cell of a fixed grid.

    The grid cuts the bits of float64, ordered as integers, after 11 bits of mantissa. Whether it is
    used, and what it holds, depends on the set of values alone and not on how it was cut.

    Attributes:
      values: Ascending float64 or int64; in a grid, float64, the lowest of each cell.
      counts: int64, as many.
      is_grid: Whether these are cells.
    """

    values: np.ndarray
    counts: np.ndarray
    is_grid: bool = False

    @classmethod
    def of(cls, values: np.ndarray) -> "NumberCounts":
        """Counts float64 or int64 (num_values,)."""
        if values.dtype == np.float64:
            values = values + 0.0  # Makes -0 a 0.
        distinct, counts = np.unique(values, return_counts=True)
        return cls(distinct, counts)._shrunk()

    def __add__(self, other: "NumberCounts") -> "NumberCounts":
        """Returns the counts of both sets of values together."""
        if self.is_grid != other.is_grid:
            return self._grid() + other._grid()
        values = np.concatenate([self.values, other.values])
        counts = np.concatenate([self.counts, other.counts])
        return NumberCounts(*_sum_equal(values, counts), self.is_grid)._shrunk()

    def quantile_edges(self, num_buckets: int) -> np.ndarray:
        """Returns the distinct edges: edge i is the lowest v with count(<= v) >= i n / buckets."""
        total = np.cumsum(self.counts)
        wanted = [-(-i * int(total[-1]) // num_buckets) for i in range(1, num_buckets)]
        return np.unique(self.values[np.searchsorted(total, wanted)])

    @property
    def median(self) -> float:
        """The mean of the middle two, as NumPy has it."""
        total = np.cumsum(self.counts)
        n = int(total[-1])
        low, high = self.values[np.searchsorted(total, [(n - 1) // 2 + 1, n // 2 + 1])]
        return (float(low) + float(high)) / 2

    def _shrunk(self) -> "NumberCounts":
        return self._grid() if self.values.size > MAX_DISTINCT_NUMBERS else self

    def _grid(self) -> "NumberCounts":
        if self.is_grid:
            return self
        bits = self.values.astype(np.float64).view(np.int64)
        cells = np.where(bits < 0, bits ^ _SIGN_FLIP, bits) >> _GRID_SHIFT << _GRID_SHIFT
        lowest = np.where(cells < 0, cells ^ _SIGN_FLIP, cells).view(np.float64)
        return NumberCounts(*_sum_equal(lowest, self.counts), True)


def _sum_equal(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distinct, inverse = np.unique(values, return_inverse=True)
    sums = np.zeros(distinct.size, np.int64)
    np.add.at(sums, inverse, counts)
    return distinct, sums


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """Counts of texts.

    Attributes:
      tokens: Distinct texts: string.
      counts: int64, as many.
    """

    tokens: pa.StringArray
    counts: pa.Int64Array

    @classmethod
    def of(cls, column: pa.StringArray) -> "TokenCounts":
        """Counts the texts of a column; nulls do not count."""
        found = pc.value_counts(column.drop_null())
        return cls(found.field("values"), found.field("counts"))

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        """Returns the counts of both columns together."""
        table = pa.table(
            {
                "token": pa.chunked_array([self.tokens, other.tokens]),
                "count": pa.chunked_array([self.counts, other.counts]),
            }
        )
        merged = table.group_by("token", use_threads=False).aggregate([("count", "sum")])
        return TokenCounts(_one_array(merged["token"]), _one_array(merged["count_sum"]))

    def vocabulary(
        self, name: str, top_k: int | None, frequency_threshold: int | None
    ) -> list[bytes]:
        """Returns the tokens by descending count, ties by ascending UTF-8 bytes.

        Args:
          name: The feature, for messages.
          top_k: How many to keep; None for all.
          frequency_threshold: The least count that is kept.

        Raises:
          DataError: More than 10 million distinct tokens, and no top_k.
        """
        if top_k is None and len(self.tokens) > MAX_DISTINCT_TOKENS:
            raise DataError(
                f"features.{name}: {len(self.tokens)} distinct tokens are more than "
                f"{MAX_DISTINCT_TOKENS}. Set top_k, or use hash_strings."
            )
        table = pa.table({"token": self.tokens.cast(pa.binary()), "count": self.counts})
        if frequency_threshold is not None:
            table = table.filter(pc.greater_equal(table["count"], frequency_threshold))
        table = table.sort_by([("count", "descending"), ("token", "ascending")])
        return table["token"].slice(0, top_k).to_pylist()
