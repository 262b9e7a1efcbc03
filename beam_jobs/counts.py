"""How often each value occurs: for quantiles and for vocabularies."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.errors import DataError
from beam_jobs.moments import UNIT_BITS

MAX_DISTINCT_NUMBERS = 65_536  # Beyond it, quantiles come from a grid.
MAX_DISTINCT_TOKENS = 10_000_000
_GRID_SHIFT = 52 - 11  # Cells of 11 bits of mantissa: a relative width of 2**-11.
_BETWEEN = "\0"  # Between a class and a text, which hold none.
_SIGN_FLIP = np.int64(0x7FFFFFFFFFFFFFFF)


@dataclasses.dataclass(frozen=True)
class NumberCounts:
    """Counts of numbers, exact up to so many distinct ones, else per cell of a fixed grid.

    The grid cuts the bits of float64, ordered as integers, after 11 bits of mantissa. Whether it is
    used, and what it holds, depends on the set of values alone and not on how it was cut.

    Attributes:
      values: Ascending float64 or int64; in a grid, float64, the lowest of each cell.
      counts: int64, as many.
      is_grid: Whether these are cells.
      most: How many distinct numbers are kept exact.
    """

    values: np.ndarray
    counts: np.ndarray
    is_grid: bool = False
    most: int = MAX_DISTINCT_NUMBERS

    @classmethod
    def of(cls, values: np.ndarray, most: int = MAX_DISTINCT_NUMBERS) -> "NumberCounts":
        """Counts float64 or int64 (num_values,)."""
        if values.dtype == np.float64:
            values = values + 0.0  # Makes -0 a 0.
        distinct, counts = np.unique(values, return_counts=True)
        return cls(distinct, counts, most=most)._shrunk()

    def __add__(self, other: "NumberCounts") -> "NumberCounts":
        """Returns the counts of both sets of values together."""
        if self.is_grid != other.is_grid:
            return self._grid() + other._grid()
        values = np.concatenate([self.values, other.values])
        counts = np.concatenate([self.counts, other.counts])
        return NumberCounts(*_sum_equal(values, counts), self.is_grid, self.most)._shrunk()

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

    def mode(self, column: str) -> float | int:
        """Returns the number that occurs most often, of several the smallest.

        Raises:
          DataError: There are too many distinct ones to count each.
        """
        if self.is_grid:
            raise DataError(
                f"column {column!r}: more than {self.most} distinct numbers, too many to find the "
                'mode. Take missing = "median", or a constant.'
            )
        return self.values[np.argmax(self.counts)].item()

    def percentile(self, percent: int) -> Fraction:
        """Returns a percentile as numpy.percentile interpolates it, but exact."""
        total = np.cumsum(self.counts)
        place = Fraction((int(total[-1]) - 1) * percent, 100)
        found = np.searchsorted(total, [math.floor(place) + 1, math.ceil(place) + 1])
        low, high = (Fraction(self.values[position].item()) for position in found)
        return low + (high - low) * (place - math.floor(place))

    @property
    def middles(self) -> np.ndarray:
        """The values as float64; of a cell of the grid its middle."""
        if not self.is_grid:
            return self.values.astype(np.float64)
        bits = self.values.view(np.int64)
        ends = np.where(bits < 0, bits ^ _SIGN_FLIP, bits) + (1 << _GRID_SHIFT) - 1
        highest = np.where(ends < 0, ends ^ _SIGN_FLIP, ends).view(np.float64)
        return self.values + (highest - self.values) / 2

    def l_moments(self) -> list[float]:
        """Returns the first four L-moments of the sample, unbiased; nothing is rounded before.

        Those for which there are too few values are 0.
        """
        n, below = int(self.counts.sum()), 0
        sums = [0] * 4
        units = [int(Fraction(v) * (1 << UNIT_BITS)) for v in self.middles.tolist()]
        for unit, count in zip(units, self.counts.tolist(), strict=True):
            # The sum of comb(place, r) over the places of a value, from 0.
            for r in range(4):
                sums[r] += unit * (math.comb(below + count, r + 1) - math.comb(below, r + 1))
            below += count
        b = [
            Fraction(total, n * math.comb(n - 1, r) << UNIT_BITS) if n > r else Fraction(0)
            for r, total in enumerate(sums)
        ]
        found = [b[0], 2 * b[1] - b[0], 6 * b[2] - 6 * b[1] + b[0]]
        found.append(20 * b[3] - 30 * b[2] + 12 * b[1] - b[0])
        return [float(moment) if n > r else 0.0 for r, moment in enumerate(found)]

    def _shrunk(self) -> "NumberCounts":
        return self._grid() if self.values.size > self.most else self

    def _grid(self) -> "NumberCounts":
        if self.is_grid:
            return self
        lowest = _cells(self.values)
        return NumberCounts(*_sum_equal(lowest, self.counts), True, self.most)


def _cells(values: np.ndarray) -> np.ndarray:
    """Returns the lowest float64 of the cell that each number is in: (num_values,)."""
    bits = values.astype(np.float64).view(np.int64)
    cells = np.where(bits < 0, bits ^ _SIGN_FLIP, bits) >> _GRID_SHIFT << _GRID_SHIFT
    return np.where(cells < 0, cells ^ _SIGN_FLIP, cells).view(np.float64)


def lowest_of_cells(values: np.ndarray) -> np.ndarray:
    """Returns the lowest number of each one's cell that its dtype has: float64 or int64."""
    lowest = _cells(values)
    return whole(lowest) if values.dtype == np.int64 else lowest


def whole(numbers: np.ndarray) -> np.ndarray:
    """Returns the next whole number of each float64, within int64: (num_values,)."""
    up = np.ceil(numbers)
    is_above, is_below = up >= 2.0**63, up < -(2.0**63)
    inside = np.where(is_above | is_below, 0, up).astype(np.int64)
    return np.where(is_above, 2**63 - 1, np.where(is_below, -(2**63), inside))


def _sum_equal(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distinct, inverse = np.unique(values, return_inverse=True)
    sums = np.zeros(distinct.size, np.int64)
    np.add.at(sums, inverse, counts)
    return distinct, sums


def by_information(pairs: "TokenCounts", fill: str) -> tuple["TokenCounts", np.ndarray]:
    """Returns the tokens of pairs, and what each tells of the class of a record.

    It is a token's part of the mutual information with the class in bits, times the number of
    records, as tft.vocabulary has it. Tokens whose counts are alike have the same to the bit, and
    what tells nothing has 0.

    Args:
      pairs: What `of_pairs` counted.
      fill: The text that stands in for missing ones.

    Returns:
      The counts of tokens in all classes, and float64 (num_tokens,).
    """
    is_missing = pc.invert(pc.match_substring(pairs.tokens, _BETWEEN))
    filled = pc.binary_join_element_wise(pairs.tokens, fill, _BETWEEN)
    joined = TokenCounts(pc.if_else(is_missing, filled, pairs.tokens), pairs.counts)
    found = TokenCounts.sum([joined])
    halves = pc.split_pattern(found.tokens, _BETWEEN, max_splits=1)
    classes, tokens = (pc.list_element(halves, i).dictionary_encode() for i in range(2))
    together = found.counts.to_numpy()
    of_class, of_token = (
        np.bincount(of.indices, together, len(of.dictionary)).astype(np.int64)
        for of in (classes, tokens)
    )
    num_records = int(together.sum())
    parts: list[list[float]] = [[] for _ in range(of_token.size)]
    for token, both, in_class in zip(
        tokens.indices.to_pylist(),
        together.tolist(),
        of_class[classes.indices.to_numpy()].tolist(),
        strict=True,
    ):
        # Whole numbers divide with one rounding: of what is independent the logarithm is 0.
        ratio = both * num_records / (int(of_token[token]) * in_class)
        parts[token].append(both * math.log2(ratio))
    counts = TokenCounts(tokens.dictionary, pa.array(of_token))
    return counts, np.array([math.fsum(part) for part in parts])


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """Counts of texts.

    Attributes:
      tokens: Distinct texts: string.
      counts: int64, as many.
      documents: int64, as many: in how many documents each is; None where nobody asks.
      num_others: How many more distinct texts there are, which no vocabulary takes.
    """

    tokens: pa.StringArray
    counts: pa.Int64Array
    documents: pa.Int64Array | None = None
    num_others: int = 0

    @classmethod
    def of(cls, column: pa.StringArray, owners: np.ndarray | None = None) -> "TokenCounts":
        """Counts the texts of a column; nulls do not count.

        Args:
          column: string (num_texts,).
          owners: The document that each text is in, int64 (num_texts,), where documents count.
        """
        if owners is None:
            found = pc.value_counts(column.drop_null())
            return cls(found.field("values"), found.field("counts"))
        encoded = column.dictionary_encode()
        size, codes = len(encoded.dictionary), encoded.indices.to_numpy()
        # With their counts, NumPy sorts them; without, it hashes them, and takes six times as long.
        pairs, _ = np.unique(owners * max(size, 1) + codes, return_counts=True)
        counts, documents = (np.bincount(c, minlength=size) for c in (codes, pairs % max(size, 1)))
        return cls(encoded.dictionary, pa.array(counts), pa.array(documents))

    @classmethod
    def of_pairs(cls, classes: pa.StringArray, column: pa.StringArray) -> "TokenCounts":
        """Counts pairs of a record's class and its text, as `by_information` takes them.

        Args:
          classes: string (num_records,).
          column: As many; null where the text is missing.
        """
        return cls.of(pc.coalesce(pc.binary_join_element_wise(classes, column, _BETWEEN), classes))

    @classmethod
    def none(cls) -> "TokenCounts":
        """Returns the counts of no text."""
        return cls.of(pa.array([], pa.string()))

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        """Returns the counts of both columns together."""
        return TokenCounts.sum([self, other])

    @classmethod
    def sum(cls, parts: Sequence["TokenCounts"]) -> "TokenCounts":
        """Returns the counts of all columns together; of at least one."""
        names = ["token", "count"] + ["documents"] * (parts[0].documents is not None)
        chunks = zip(*(part._arrays for part in parts), strict=True)
        table = pa.table({n: pa.chunked_array(of) for n, of in zip(names, chunks, strict=True)})
        sums = [(name, "sum") for name in names[1:]]
        merged = table.group_by("token", use_threads=False).aggregate(sums)
        found = cls(*map(_one_array, merged.select(["token", *map("_".join, sums)])))
        return dataclasses.replace(found, num_others=sum(part.num_others for part in parts))

    @property
    def num_distinct(self) -> int:
        """How many distinct texts there are."""
        return len(self.tokens) + self.num_others

    def candidates(
        self, wanted: Sequence[tuple[int, int | None]], always: Sequence[str]
    ) -> "TokenCounts":
        """Returns what can be in vocabularies of these texts and others; the rest is a number.

        Documents are not counted.

        Args:
          wanted: Of each vocabulary the least count that is kept, and how many; None for all.
          always: Texts that are kept in any case.
        """
        table = pa.table({"token": self.tokens.cast(pa.binary()), "count": self.counts})
        best = [("count", "descending"), ("token", "ascending")]
        is_kept = pc.is_in(self.tokens, pa.array(always, pa.string())).to_numpy(False).copy()
        for least, most in wanted:
            found = np.arange(len(self.tokens))
            if most is not None:
                found = pc.select_k_unstable(table, most, best).to_numpy()
            is_kept[found[self.counts.to_numpy()[found] >= least]] = True
        tokens, counts = (array.filter(pa.array(is_kept)) for array in (self.tokens, self.counts))
        return TokenCounts(tokens, counts, num_others=self.num_distinct - len(tokens))

    @property
    def _arrays(self) -> list[pa.Array]:
        arrays = [self.tokens, self.counts, self.documents]
        return [array for array in arrays if array is not None]

    def vocabulary(
        self,
        name: str,
        top_k: int | None,
        frequency_threshold: int | None,
        advice: str = "Set top_k, or use hash_strings.",
        ranks: np.ndarray | None = None,
    ) -> list[bytes]:
        """Returns the tokens by descending count, ties by ascending UTF-8 bytes.

        Args:
          name: The feature, for messages.
          top_k: How many to keep; None for all.
          frequency_threshold: The least count that is kept.
          advice: What to do where there are too many.
          ranks: What comes in the place of counts for the order: (num_tokens,).

        Raises:
          DataError: More than 10 million distinct tokens, and no top_k.
        """
        if top_k is None and self.num_distinct > MAX_DISTINCT_TOKENS:
            raise DataError(
                f"features.{name}: {self.num_distinct} distinct tokens are more than "
                f"{MAX_DISTINCT_TOKENS}. {advice}"
            )
        rank = self.counts if ranks is None else pa.array(ranks)
        table = pa.table({"token": self.tokens.cast(pa.binary()), "rank": rank})
        if frequency_threshold is not None:
            table = table.filter(pc.greater_equal(self.counts, frequency_threshold))
        table = table.sort_by([("rank", "descending"), ("token", "ascending")])
        return table["token"].slice(0, top_k).to_pylist()

    def without(self, tokens: list[str]) -> "TokenCounts":
        """Returns the counts of all other tokens."""
        kept = pc.invert(pc.is_in(self.tokens, pa.array(tokens, pa.string())))
        return TokenCounts(*(array.filter(kept) for array in self._arrays))

    def documents_of(self, tokens: list[bytes]) -> np.ndarray:
        """Returns in how many documents each of these is: int64 (num_tokens,), 0 where in none."""
        wanted = pa.array(tokens, pa.binary())
        position = pc.index_in(wanted, self.tokens.cast(pa.binary()))
        documents = pa.nulls(0, pa.int64()) if self.documents is None else self.documents
        return pc.fill_null(documents.take(position), 0).to_numpy()
