"""What a block contributes to the statistics, and the sum of such contributions."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import labels, moments, stateless, text, vectors
from beam_jobs.config import LABEL, SPLITS, Column, Spec, Vector
from beam_jobs.config_steps import Stateless
from beam_jobs.counts import MAX_DISTINCT_TOKENS, NumberCounts, TokenCounts
from beam_jobs.errors import SpecError
from beam_jobs.keyed import KeyedCounts, KeyedNumbers
from beam_jobs.moments import Moments
from beam_jobs.products import Products
from beam_jobs.rows import Outcome, Records

# A column, and the stateless steps that its values went through.
Chain = tuple[str, tuple[Stateless, ...]]
KeyedChain = tuple[str, tuple[Stateless, ...], str]  # And the column of keys.


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
class Lists:
    """How many lists of numbers, what all numbers are, and how many a list has."""

    count: int = 0
    numbers: Numbers = Numbers()
    shortest: int | None = None
    longest: int = 0

    @classmethod
    def of(cls, column: pa.ListArray) -> "Lists":
        """Summarizes a column."""
        numbers = Numbers.of(vectors.flat(column), column.null_count)
        lengths = vectors.lengths_of(column.drop_null())
        if not lengths.size:
            return cls(numbers=numbers)
        return cls(lengths.size, numbers, int(lengths.min()), int(lengths.max()))

    @property
    def missing(self) -> int:
        """How many are not there."""
        return self.numbers.missing

    def __add__(self, other: "Lists") -> "Lists":
        """Returns the summary of both columns together."""
        shortest = [n for n in (self.shortest, other.shortest) if n is not None]
        return Lists(
            self.count + other.count,
            self.numbers + other.numbers,
            min(shortest, default=None),
            max(self.longest, other.longest),
        )


@dataclasses.dataclass(frozen=True)
class Elements:
    """What is known of each element of vectors, imputed ones included; of ragged ones there is one.

    Attributes:
      numbers: Of each element.
      products: Of all pairs of elements, where they are asked for.
    """

    numbers: tuple[Numbers, ...]
    products: Products | None = None

    @classmethod
    def of(cls, batch: pa.RecordBatch, column: str, feature: Vector) -> "Elements":
        """Summarizes raw columns."""
        matrix = vectors.matrix(batch, column, feature)
        products = Products.of(matrix) if feature.is_correlated else None
        return cls(tuple(Numbers.of(np.ascontiguousarray(of)) for of in matrix.T), products)

    def __add__(self, other: "Elements") -> "Elements":
        """Returns the summary of both sets of vectors."""
        products = None
        if self.products is not None and other.products is not None:
            products = self.products + other.products
        pairs = zip(self.numbers, other.numbers, strict=True)
        return Elements(tuple(one + two for one, two in pairs), products)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Everything that the first pass learns; two of them add up in any order.

    Attributes:
      read: Records read.
      rejected: Records per reason.
      num_examples: Records that are left, per split.
      classes: Of each label its classes after the filters.
      columns: Per split and column what its raw values are: Numbers, Texts or Lists.
      beside: Per split and name what labels that are numbers are, and the weight; of a multi_label
        how many classes records have.
      chains: Over train, what the statistical step of a chain sees.
      numbers: Over train, counts of the values of a chain.
      keyed: Over train, for each key, what the statistical step of a chain sees.
      keyed_counts: Over train, for each key, counts of the values of a chain.
      modes: Over train, counts of the numbers of a column whose mode is wanted.
      tokens: Over train, counts of the texts of a column.
      texts: Over train, counts of the tokens of a feature's texts.
      vectors: Over train, what the elements of a feature are.
      novelty: Of later data, by split and feature, see `novelty`.
      pairs: Over train, counts of a record's class and a feature's text.
    """

    read: int = 0
    rejected: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    num_examples: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    classes: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    columns: Mapping[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    beside: Mapping[tuple[str, str], Numbers] = dataclasses.field(default_factory=dict)
    chains: Mapping[Chain, Numbers] = dataclasses.field(default_factory=dict)
    numbers: Mapping[Chain, NumberCounts] = dataclasses.field(default_factory=dict)
    keyed: Mapping[KeyedChain, KeyedNumbers] = dataclasses.field(default_factory=dict)
    keyed_counts: Mapping[KeyedChain, KeyedCounts] = dataclasses.field(default_factory=dict)
    modes: Mapping[str, NumberCounts] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, TokenCounts] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, TokenCounts] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, Elements] = dataclasses.field(default_factory=dict)
    novelty: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=Counter)
    pairs: Mapping[str, TokenCounts] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Summary") -> "Summary":
        """Returns what both know together."""
        return Summary(
            self.read + other.read,
            Counter(self.rejected) + Counter(other.rejected),
            Counter(self.num_examples) + Counter(other.num_examples),
            {
                name: self.classes.get(name, frozenset()) | other.classes.get(name, frozenset())
                for name in {**self.classes, **other.classes}
            },
            _added(self.columns, other.columns),
            _added(self.beside, other.beside),
            _added(self.chains, other.chains),
            _added(self.numbers, other.numbers),
            _added(self.keyed, other.keyed),
            _added(self.keyed_counts, other.keyed_counts),
            _added(self.modes, other.modes),
            _added(self.tokens, other.tokens),
            _added(self.texts, other.texts),
            _added(self.vectors, other.vectors),
            Counter(self.novelty) + Counter(other.novelty),
            _added(self.pairs, other.pairs),
        )

    def without_learned(self) -> "Summary":
        """Returns what is told of the records; of a vocabulary the rest is every distinct text."""
        return Summary(
            self.read,
            self.rejected,
            self.num_examples,
            self.classes,
            self.columns,
            self.beside,
            novelty=self.novelty,
        )


def _added(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    return dict(one) | {k: one[k] + value if k in one else value for k, value in other.items()}


def counted_chains(spec: Spec) -> set[Chain]:
    """Returns the chains whose values must be counted one by one."""
    chains: set[Chain] = set()
    for feature in spec.columns.values():
        if isinstance(feature, Column) and feature.dtype != "string" and feature.is_counted:
            chains.add((str(feature.column), feature.stateless_steps))
        if feature.missing == "median":
            chains.add((str(feature.column), ()))
    return chains


def summarize(outcome: Outcome, spec: Spec, *, learns: bool = True) -> Summary:
    """Returns what one block contributes: what transforms need, if they are learned from it."""
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
    learns = learns and "train" in by_split
    return Summary(
        outcome.num_read,
        reasons,
        examples,
        {name: frozenset(found) for name, found in outcome.classes.items()},
        columns,
        _beside(kept, spec),
        pairs=_pairs(by_split["train"], kept, spec) if learns else {},
        **(_train(by_split["train"], spec) if learns else {}),
    )


def check(spec: Spec) -> None:
    """Raises a SpecError where a feature asks for classes that there are not."""
    for name, feature in _ranked_by_class(spec).items():
        if spec.label is None or spec.label.type != "class":
            raise SpecError(
                f"features.{name}.rank_by: {feature.rank_by!r} needs a [label] of type = 'class', "
                "with which a text has something in common. Add it, or leave rank_by out."
            )


def _ranked_by_class(spec: Spec) -> dict[str, Column]:
    columns = {name: f for name, f in spec.columns.items() if isinstance(f, Column)}
    return {name: feature for name, feature in columns.items() if feature.is_ranked_by_class}


def _pairs(train: pa.RecordBatch, kept: Records, spec: Spec) -> dict[str, TokenCounts]:
    ranked = _ranked_by_class(spec)
    if not ranked or LABEL not in kept.beside:
        return {}
    classes = kept.beside[LABEL].filter(pa.array(kept.splits == SPLITS.index("train")))
    return {
        name: TokenCounts.of_pairs(classes, train.column(str(feature.column)))
        for name, feature in ranked.items()
    }


def _column(column: pa.Array) -> Numbers | Texts | Lists:
    if pa.types.is_list(column.type):
        return Lists.of(column)
    if pa.types.is_string(column.type):
        return Texts.of(column)
    return Numbers.of(_present(column), column.null_count)


def _beside(kept: Records, spec: Spec) -> dict[tuple[str, str], Numbers]:
    found = {}
    for name, said in spec.stored_labels.items():
        if said.type == "multi_label":
            found[name] = labels.num_classes(kept.beside[name], said)
    for name, values in kept.beside.items():
        if not pa.types.is_string(values.type):
            found[name] = _present(values)
    return {
        (SPLITS[code], name): Numbers.of(values[kept.splits == code])
        for code in np.unique(kept.splits).tolist()
        for name, values in found.items()
    }


def _present(column: pa.Array) -> np.ndarray:
    """Returns the values that are there, float32 widened: float64 or int64 (num_values,)."""
    values = column.drop_null().to_numpy(zero_copy_only=False)
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _train(batch: pa.RecordBatch, spec: Spec) -> dict[str, Any]:
    """Returns what only train contributes: the fields of a summary from `chains` on."""
    return {
        "chains": _chains(batch, spec),
        "numbers": {
            (column, steps): NumberCounts.of(_reached(batch, column, steps))
            for column, steps in counted_chains(spec)
        },
        **_keyed(batch, spec),
        "modes": {
            column: NumberCounts.of(_present(batch.column(column)), MAX_DISTINCT_TOKENS)
            for column in _with_mode(spec, ("float32", "int64"))
        },
        "tokens": {column: TokenCounts.of(batch.column(column)) for column in token_columns(spec)},
        "texts": {
            name: text.count(batch.column(str(feature.column)), feature)
            for name, feature in spec.texts.items()
            if feature.is_counted
        },
        "vectors": {
            name: Elements.of(batch, spec.column_of(name), feature)
            for name, feature in spec.vectors.items()
        },
    }


def _chains(batch: pa.RecordBatch, spec: Spec) -> dict[Chain, Numbers]:
    features = [f for f in spec.columns.values() if f.stateless_steps]
    chains = {(str(f.column), f.stateless_steps) for f in features}
    return {chain: Numbers.of(_reached(batch, *chain)) for chain in chains}


def _reached(batch: pa.RecordBatch, column: str, steps: tuple[Stateless, ...]) -> np.ndarray:
    """Returns what comes out of stateless steps: float64 or, without any, int64 (num_values,)."""
    values = _present(batch.column(column))
    return stateless.apply_numpy(values.astype(np.float64), steps) if steps else values


def _with_mode(spec: Spec, dtypes: Collection[str]) -> set[str]:
    features = [f for f in spec.columns.values() if f.is_fill_learned and f.dtype in dtypes]
    return {str(feature.column) for feature in features if feature.missing == "mode"}


def token_columns(spec: Spec) -> set[str]:
    """Returns the columns whose texts are counted."""
    by_class = _ranked_by_class(spec)  # They are counted with their classes, in pairs.
    with_vocabulary = {
        str(feature.column)
        for name, feature in spec.columns.items()
        if feature.last_step == "compute_and_apply_vocabulary" and name not in by_class
    }
    return _with_mode(spec, ("string",)) | with_vocabulary


def _keyed(batch: pa.RecordBatch, spec: Spec) -> dict[str, Any]:
    numbers: dict[KeyedChain, KeyedNumbers] = {}
    counts: dict[KeyedChain, KeyedCounts] = {}
    for feature in spec.columns.values():
        if not isinstance(feature, Column) or feature.key is None:
            continue
        chain = str(feature.column), feature.stateless_steps, feature.key
        is_there = batch.column(chain[0]).is_valid().to_numpy(zero_copy_only=False)
        keys, values = batch.column(feature.key), _reached(batch, *chain[:2])
        if chain not in numbers:
            numbers[chain] = KeyedNumbers.of(keys, values, is_there)
        if feature.is_counted and chain not in counts:
            once = np.ones(values.size, np.int64)
            counts[chain] = KeyedCounts.of(keys.filter(pa.array(is_there)), values, once)
    return {"keyed": numbers, "keyed_counts": counts}
