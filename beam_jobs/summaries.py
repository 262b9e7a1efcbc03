"""What a block contributes to the statistics, and the sum of such contributions."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import moments, stateless
from beam_jobs.config import SPLITS, Spec
from beam_jobs.counts import NumberCounts, TokenCounts
from beam_jobs.moments import Moments
from beam_jobs.rows import Outcome, Records

Chain = tuple[
    str, tuple[str, ...]
]  # A column, and the stateless steps that its values went through.


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What is known of a set of numbers; `missing` counts those that are not there."""

    moments: Moments = Moments()
    missing: int = 0
    zeros: int = 0
    min: float | int | None = None
    max: float | int | None = None

    @classmethod
    def of(cls, values: np.ndarray, missing: int = 0) -> "Numbers":
        """Summarizes float64 or int64 (num_values,)."""
        if not values.size:
            return cls(missing=missing)
        is_int = values.dtype == np.int64
        sums = moments.of_ints(values) if is_int else moments.of_floats(values)
        zeros = int(np.count_nonzero(values == 0))
        low, high = values.min().item() + 0, values.max().item() + 0
        return cls(sums, missing, zeros, low, high)

    @classmethod
    def of_copies(cls, value: float | int, count: int) -> "Numbers":
        """Summarizes one value that stands there `count` times."""
        if not count:
            return cls()
        zeros = count if value == 0 else 0
        return cls(moments.of_copies(value, count), 0, zeros, value, value)

    def __add__(self, other: "Numbers") -> "Numbers":
        """Returns the summary of both sets together."""
        lows = [low for low in (self.min, other.min) if low is not None]
        highs = [high for high in (self.max, other.max) if high is not None]
        return Numbers(
            self.moments + other.moments,
            self.missing + other.missing,
            self.zeros + other.zeros,
            min(lows, default=None),
            max(highs, default=None),
        )


@dataclasses.dataclass(frozen=True)
class Texts:
    """How many texts, how many missing, and their bytes in all."""

    count: int = 0
    missing: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, column: pa.StringArray) -> "Texts":
        """Summarizes a column."""
        length = pc.sum(pc.binary_length(column)).as_py() or 0
        return cls(len(column) - column.null_count, column.null_count, length)

    def __add__(self, other: "Texts") -> "Texts":
        """Returns the summary of both columns together."""
        return Texts(
            self.count + other.count, self.missing + other.missing, self.bytes + other.bytes
        )


@dataclasses.dataclass(frozen=True)
class Summary:
    """Everything that the first pass learns; two of them add up in any order.

    Attributes:
      read: Records read.
      rejected: Records per reason.
      num_examples: Records that are left, per split.
      classes: Labels after the filters.
      columns: Per split and column what its raw values are.
      labels: Per split what its labels are, where these are numbers.
      chains: Over train, what the statistical step of a chain sees.
      numbers: Over train, counts of the values of a chain.
      tokens: Over train, counts of the texts of a column.
    """

    read: int = 0
    rejected: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    num_examples: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    classes: frozenset[str] = frozenset()
    columns: Mapping[tuple[str, str], Numbers | Texts] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Numbers] = dataclasses.field(default_factory=dict)
    chains: Mapping[Chain, Numbers] = dataclasses.field(default_factory=dict)
    numbers: Mapping[Chain, NumberCounts] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, TokenCounts] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Summary") -> "Summary":
        """Returns what both know together."""
        return Summary(
            self.read + other.read,
            Counter(self.rejected) + Counter(other.rejected),
            Counter(self.num_examples) + Counter(other.num_examples),
            self.classes | other.classes,
            _added(self.columns, other.columns),
            _added(self.labels, other.labels),
            _added(self.chains, other.chains),
            _added(self.numbers, other.numbers),
            _added(self.tokens, other.tokens),
        )


def _added(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    return dict(one) | {k: one[k] + value if k in one else value for k, value in other.items()}


def add(summaries: Iterable[Summary]) -> Summary:
    """Returns the sum of all, adding halves so that large counts are not merged again and again."""
    pending: list[tuple[int, Summary]] = []
    for summary in summaries:
        level = 0
        while pending and pending[-1][0] == level:
            summary = pending.pop()[1] + summary
            level += 1
        pending.append((level, summary))
    total = Summary()
    for _, summary in reversed(pending):
        total = summary + total
    return total


def counted_chains(spec: Spec) -> set[Chain]:
    """Returns the chains whose values must be counted one by one."""
    chains: set[Chain] = set()
    for feature in spec.columns.values():
        if feature.last_step == "bucketize":
            chains.add((str(feature.column), feature.stateless_steps))
        if feature.missing == "median":
            chains.add((str(feature.column), ()))
    return chains


def summarize(outcome: Outcome, spec: Spec) -> Summary:
    """Returns what one block contributes."""
    kept = outcome.kept
    reasons = Counter(outcome.rejected.column("reason").to_pylist())
    by_split = {}
    for code in np.unique(kept.splits).tolist():
        by_split[SPLITS[code]] = kept.raw.filter(pa.array(kept.splits == code))
    columns = {
        (split, name): _column(batch.column(name))
        for split, batch in by_split.items()
        for name in batch.schema.names
    }
    examples = Counter({split: batch.num_rows for split, batch in by_split.items()})
    chains, numbers, tokens = (
        _train(by_split["train"], spec) if "train" in by_split else ({}, {}, {})
    )
    return Summary(
        outcome.num_read,
        reasons,
        examples,
        frozenset(outcome.classes),
        columns,
        _labels(kept),
        chains,
        numbers,
        tokens,
    )


def _column(column: pa.Array) -> Numbers | Texts:
    if pa.types.is_string(column.type):
        return Texts.of(column)
    return Numbers.of(_present(column), column.null_count)


def _labels(kept: Records) -> dict[str, Numbers]:
    if kept.label is None or pa.types.is_string(kept.label.type):
        return {}
    return {
        SPLITS[code]: Numbers.of(_present(kept.label.filter(pa.array(kept.splits == code))))
        for code in np.unique(kept.splits).tolist()
    }


def _present(column: pa.Array) -> np.ndarray:
    """Returns the values that are there, float32 widened: float64 or int64 (num_values,)."""
    values = column.drop_null().to_numpy(zero_copy_only=False)
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _train(
    batch: pa.RecordBatch, spec: Spec
) -> tuple[dict[Chain, Numbers], dict[Chain, NumberCounts], dict[str, TokenCounts]]:
    """Returns what only train contributes: chains with steps, counts of numbers and of tokens."""
    counted = counted_chains(spec)
    chains: dict[Chain, Numbers] = {}
    numbers: dict[Chain, NumberCounts] = {}
    tokens: dict[str, TokenCounts] = {}
    for feature in spec.columns.values():
        column = str(feature.column)
        if feature.last_step == "compute_and_apply_vocabulary" and column not in tokens:
            tokens[column] = TokenCounts.of(batch.column(column))
        chain = column, feature.stateless_steps
        if feature.dtype == "string" or chain in chains:
            continue
        if feature.stateless_steps:
            values = stateless.apply_numpy(
                _present(batch.column(column)).astype(np.float64), feature.stateless_steps
            )
            chains[chain] = Numbers.of(values)
            if chain in counted:
                numbers[chain] = NumberCounts.of(values)
        if (column, ()) in counted and (column, ()) not in numbers:
            numbers[column, ()] = NumberCounts.of(_present(batch.column(column)))
    return chains, numbers, tokens
