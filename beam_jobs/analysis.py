"""From the summary of train to what each feature's transform needs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import products, reasons, stateless, steps, text
from beam_jobs.config import (
    MISSING_TOKEN,
    SPLITS,
    Column,
    Date,
    Sparse,
    Spec,
    Tabular,
    Text,
    Vector,
)
from beam_jobs.config_text import PADDING, UNKNOWN
from beam_jobs.counts import NumberCounts, TokenCounts, by_information
from beam_jobs.errors import DataError
from beam_jobs.keyed import KeyedCounts
from beam_jobs.moments import Moments
from beam_jobs.products import Components
from beam_jobs.steps import Seen
from beam_jobs.summaries import Elements, KeyedChain, Lists, Numbers, Summary, Texts


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """What the transform of one feature needs of train.

    Attributes:
      raw: The raw values that are there.
      seen: The values that the statistical step sees, imputed ones included; None for texts.
      fill: What stands in for a missing value: float64, int64 or text; None where it is rejected.
      learned: What the statistical step of numbers learned, by the names of its slots.
      vocabulary: The tokens in order.
      depth: Of what is stored sparse the number of indices; else None.
      idf: What a token's count is multiplied by for tf-idf: float32 (depth,).
    """

    raw: Numbers | Texts
    seen: Numbers | None = None
    fill: float | int | str | None = None
    learned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vocabulary: tuple[bytes, ...] | None = None
    depth: int | None = None
    idf: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class VectorStatistics:
    """What the transform of a vector needs of train.

    Attributes:
      raw: Of each column its raw values.
      elements: What each element is, imputed ones included; of a ragged vector there is one.
      longest: The most numbers of a record, over all splits.
      covariance: float64 (num_elements, num_elements), where it is asked for.
      components: Of what pca sees, where it is asked for.
    """

    raw: tuple[Numbers | Lists, ...]
    elements: Elements
    longest: int
    covariance: np.ndarray | None = None
    components: Components | None = None

    def each(self, key: str) -> np.ndarray:
        """Returns the mean, std, min or max of each element: float64 (num_elements,)."""
        found = [_numbers(numbers)[key] for numbers in self.elements.numbers]
        return np.array(found, np.float64)


def analyze(spec: Spec, summary: Summary) -> dict[str, Any]:
    """Returns the statistics of every feature of a table, crosses apart.

    Raises:
      DataError: No record is left in train, a feature has no value there, a vocabulary is too
        large, or there are fewer principal components than are asked for.
    """
    if not summary.num_examples.get("train"):
        raise DataError(reasons.none_left("record", summary.read, summary.rejected))
    of_columns = {name: _feature(name, column, summary) for name, column in spec.columns.items()}
    of_vectors = {
        name: _vector(name, vector, [*spec.inputs_of(name)], summary)
        for name, vector in spec.vectors.items()
    }
    return {**of_columns, **of_vectors}


def _vector(name: str, feature: Vector, columns: list[str], summary: Summary) -> VectorStatistics:
    raw = tuple(summary.columns["train", column] for column in columns)
    found = [summary.columns.get((split, column)) for split in SPLITS for column in columns]
    longest = max(of.longest if isinstance(of, Lists) else len(columns) for of in found if of)
    elements = summary.vectors[name]
    known = VectorStatistics(raw, elements, longest)
    if feature.transforms and not elements.numbers[0].moments.count:
        raise DataError(
            f"features.{name}: train has no number in column {columns[0]!r}, so there is no "
            "statistic. Leave the feature or its transform out."
        )
    if elements.products is None:
        return known
    covariance = elements.products.covariance(tuple(n.moments for n in elements.numbers))
    known = dataclasses.replace(known, covariance=covariance)
    if feature.output_dim is None:
        return known
    components = products.components(covariance, pca_scale(feature, known), feature.output_dim)
    if components.num_directions < feature.output_dim:
        what_to_do = "Lower it, or give more records"
        if not components.num_directions:
            what_to_do = "Leave out pca, since all of them are equal"
        raise DataError(
            f"features.{name}: output_dim is {feature.output_dim}, but the vectors of train differ "
            f"in {components.num_directions} directions. {what_to_do}."
        )
    return dataclasses.replace(known, components=components)


def nonzero(std: np.ndarray) -> np.ndarray:
    """Returns what a std divides by: 1 where it is 0."""
    return np.where(std == 0, 1.0, std)


def pca_scale(feature: Vector, known: VectorStatistics) -> np.ndarray:
    """Returns what elements are multiplied with before pca: float64 (num_elements,)."""
    std = known.each("std")
    return 1 / nonzero(std) if "scale_to_z_score" in feature.transforms else np.ones_like(std)


def _feature(name: str, feature: Tabular, summary: Summary) -> FeatureStatistics:
    if isinstance(feature, Text):
        return _text_feature(name, feature, summary)
    if isinstance(feature, Date):
        return FeatureStatistics(summary.columns["train", str(feature.column)], fill=feature.fill)
    if isinstance(feature, Sparse):
        return FeatureStatistics(summary.columns["train", str(feature.column)], depth=feature.size)
    found = _column_feature(name, feature, summary)
    depth = _num_indices(feature, found) if feature.is_sparse else None
    return dataclasses.replace(found, depth=depth)


def _column_feature(name: str, feature: Column, summary: Summary) -> FeatureStatistics:
    column = str(feature.column)
    raw = summary.columns["train", column]
    if isinstance(raw, Texts):
        fill = _text_fill(name, feature, raw, summary)
        vocabulary = None
        if feature.last_step == "compute_and_apply_vocabulary":
            vocabulary = _ranked(name, feature, fill, summary)
        return FeatureStatistics(raw, fill=fill, vocabulary=vocabulary)
    if not raw.moments.count and (feature.missing == "reject" or feature.is_fill_learned):
        raise _no_value(name, column)
    return _number_feature(feature, raw, summary)


def _ranked(name: str, feature: Column, fill: str | None, summary: Summary) -> tuple[bytes, ...]:
    """Returns the vocabulary of a column in order.

    Raises:
      DataError: It has no token, or too many.
    """
    column, ranks = str(feature.column), None
    if feature.is_ranked_by_class:
        counts, ranks = by_information(summary.pairs[name], fill or "")
    else:
        missing = summary.columns["train", column].missing
        counts = _with_missing(summary.tokens[column], fill, missing)
    least = feature.frequency_threshold
    found = tuple(counts.vocabulary(name, feature.top_k, least, ranks=ranks))
    return found or _no_token(name, counts, least)


def _no_token(name: str, counts: TokenCounts, least: int | None) -> NoReturn:
    raise DataError(
        f"features.{name}: the vocabulary has no token: of {counts.num_distinct} distinct tokens "
        f"in train none stands there frequency_threshold = {least} times. Lower it."
    )


def _no_value(name: str, column: str) -> DataError:
    return DataError(
        f"features.{name}: train has no value of column {column!r}, so there is no "
        "statistic. Leave the feature out, or set missing to a constant."
    )


def _text_fill(name: str, feature: Column, raw: Texts, summary: Summary) -> str | None:
    """Returns the text that stands in for a missing one."""
    column = str(feature.column)
    if feature.missing == "reject":
        return None
    if feature.missing == "mode":
        if not raw.count:
            raise _no_value(name, column)
        return summary.tokens[column].vocabulary(name, 1, None)[0].decode()
    return MISSING_TOKEN if feature.missing == "token" else str(feature.missing)


def _text_feature(name: str, feature: Text, summary: Summary) -> FeatureStatistics:
    raw = summary.columns["train", str(feature.column)]
    fill = None if feature.missing == "reject" else feature.missing
    counts = summary.texts.get(name)
    if counts is not None and fill is not None and raw.missing:
        counts = text.with_missing(counts, fill, raw.missing, feature)
    vocabulary = _vocabulary(name, feature, counts)
    depth = idf = None
    if feature.is_sparse:
        depth = len(vocabulary) + (0 if feature.tokenizer else feature.num_special)
        depth = feature.max_tokens if feature.pad_to_max_tokens and feature.max_tokens else depth
    if feature.output_mode == "tf_idf":
        idf = _idf(feature, vocabulary, counts, summary.num_examples["train"], int(depth or 0))
    return FeatureStatistics(raw, fill=fill, vocabulary=vocabulary, depth=depth, idf=idf)


def _vocabulary(name: str, feature: Text, counts: TokenCounts | None) -> tuple[bytes, ...]:
    """Returns the tokens of a text in order; of a tokenizer its ids as texts, as they are counted.

    Raises:
      DataError: There is none.
    """
    if feature.tokenizer is not None:
        return tuple(str(i).encode() for i in range(text.num_ids(feature)))
    if feature.given is not None:
        return tuple(map(str.encode, feature.given))
    counts = (counts or TokenCounts.none()).without([PADDING, UNKNOWN])
    top_k = None if feature.max_tokens is None else feature.max_tokens - feature.num_special
    least = feature.frequency_threshold
    found = tuple(counts.vocabulary(name, top_k, least, "Set max_tokens."))
    if not found and not len(counts.tokens):
        raise DataError(
            f"features.{name}: the vocabulary has no token: the texts of train hold none. "
            "Look at standardize and replace, which may leave nothing, or leave the feature out."
        )
    return found or _no_token(name, counts, least)


def _idf(
    feature: Text,
    vocabulary: tuple[bytes, ...],
    counts: TokenCounts | None,
    num_documents: int,
    depth: int,
) -> np.ndarray:
    """Returns log(1 + n / (1 + document frequency)), rounded to float32 once: (depth,).

    As in Keras, an unknown token has the mean of all tokens, and what pads to max_tokens 0.
    """
    if feature.idf_weights is not None:
        weights = [float(weight) for weight in feature.idf_weights]
    elif counts is not None and len(counts.tokens):
        frequencies = counts.documents_of(list(vocabulary))
        distinct, inverse = np.unique(frequencies, return_inverse=True)
        by_frequency = [math.log(1 + num_documents / (1 + times)) for times in distinct.tolist()]
        weights = np.array(by_frequency)[inverse].tolist()
    else:
        weights = [math.log(1 + num_documents)] * len(vocabulary)
    special = [] if feature.tokenizer else [math.fsum(weights) / len(weights)]
    padding = [0.0] * (depth - len(special) - len(weights))
    return np.array([*special, *weights, *padding], np.float32)


def _number_feature(feature: Column, raw: Numbers, summary: Summary) -> FeatureStatistics:
    column, chain = str(feature.column), feature.stateless_steps
    fill = _fill(feature, raw, summary)
    seen = summary.chains.get((column, chain), Numbers()) if chain else raw
    missing = raw.missing if fill is not None else 0
    reached: float | int = 0 if fill is None else fill
    if chain:
        reached = stateless.apply_numpy(np.array([reached], np.float64), chain).item()
    seen = dataclasses.replace(seen, missing=0) + Numbers.of_copies(reached, missing)
    step = steps.of(feature)
    if step is None:
        return FeatureStatistics(raw, seen, fill)
    counts = None
    dtype = np.int64 if feature.dtype == "int64" and not chain else np.float64
    if feature.is_counted:
        imputed = NumberCounts(np.array([reached], dtype), np.array([missing], np.int64))
        counts = summary.numbers[column, chain]
        if not counts.values.size:
            counts = imputed
        elif missing:
            counts = counts + imputed
    by_key = {}
    if feature.key is not None:
        by_key = _seen_by_key(summary, (column, chain, feature.key), np.array([reached], dtype))
    return FeatureStatistics(raw, seen, fill, step.learn(Seen(seen, counts, by_key)))


def _seen_by_key(summary: Summary, chain: KeyedChain, imputed: np.ndarray) -> dict[str, Seen]:
    """Returns what a step sees of each key, by ascending UTF-8.

    Args:
      summary: Of train.
      chain: What is seen.
      imputed: What stands in for a missing value: (1,).
    """
    keyed, counts = summary.keyed[chain], summary.keyed_counts.get(chain)
    by_key: dict[str, NumberCounts] = {}
    if counts is not None:
        gaps = keyed.ends.filter(pc.greater(keyed.ends.column("missing"), 0))
        if gaps.num_rows:
            copies = np.repeat(imputed, gaps.num_rows), gaps.column("missing").to_numpy()
            counts += KeyedCounts.of(gaps.column("key").combine_chunks(), *copies)
        by_key = dict(counts.counts())
    found = {}
    for key, sums, missing, low, high in keyed.moments():
        numbers = Numbers(sums, 0, 0, low, high) + Numbers.of_copies(imputed[0].item(), missing)
        found[key] = Seen(numbers, by_key.get(key))
    return found


def _fill(feature: Column, raw: Numbers, summary: Summary) -> float | int | None:
    if feature.missing == "reject":
        return None
    if feature.missing == "mean":
        return raw.moments.mean
    if feature.missing == "median":
        return summary.numbers[str(feature.column), ()].median
    if feature.missing == "mode":
        return summary.modes[str(feature.column)].mode(str(feature.column))
    if feature.dtype == "int64":
        return int(feature.missing)
    return float(np.float32(feature.missing))


def _with_missing(counts: TokenCounts, fill: str | None, missing: int) -> TokenCounts:
    """Counts the text that stands in for missing values, an entry like any other."""
    if fill is None or not missing:
        return counts
    return counts + TokenCounts(pa.array([fill], pa.string()), pa.array([missing], pa.int64()))


def vector_entry(feature: Vector, known: VectorStatistics) -> dict[str, Any]:
    """Returns what the manifest says of a vector's statistics: a list has one for each element."""
    numbers = known.elements.numbers
    counts = [of.count if isinstance(of, Lists) else of.moments.count for of in known.raw]
    raw: dict[str, Any] = {"count": counts, "missing": [of.missing for of in known.raw]}
    seen: dict[str, Any] = {"count": numbers[0].moments.count}
    if seen["count"]:
        told = [_numbers(each) for each in numbers]
        seen |= {key: [each[key] for each in told] for key in told[0]}
    if known.covariance is not None:
        seen["covariance"] = known.covariance.tolist()
    if known.components is not None:
        seen["components"] = known.components.matrix.T.tolist()
        seen["explained_variance"] = known.components.variances.tolist()
    if feature.columns is None:
        raw = {key: value[0] for key, value in raw.items()}
    if feature.is_ragged:
        seen = {key: value[0] if isinstance(value, list) else value for key, value in seen.items()}
    return {"raw_statistics": raw, "statistics": seen}


def raw_statistics(raw: Numbers | Texts) -> dict[str, Any]:
    """Returns what the manifest says of the raw values of a column."""
    if isinstance(raw, Texts):
        return {"count": raw.count, "missing": raw.missing}
    return {"count": raw.moments.count, "missing": raw.missing} | _numbers(raw)


def seen_statistics(seen: Numbers) -> dict[str, Any]:
    """Returns what the manifest says of the values that a statistical step saw."""
    return {"count": seen.moments.count} | _numbers(seen)


def _numbers(numbers: Numbers) -> dict[str, Any]:
    sums: Moments = numbers.moments
    if not sums.count:
        return {}
    return {"mean": sums.mean, "std": sums.std, "min": numbers.min, "max": numbers.max}


def num_categories(feature: Tabular, statistics: FeatureStatistics) -> int | None:
    """Returns how many indices the output of a feature can have; None where it is no index."""
    if isinstance(feature, Date | Sparse) or feature.is_sparse:
        return None
    if isinstance(feature, Text):
        special = 0 if feature.tokenizer else feature.num_special
        return len(statistics.vocabulary or ()) + special
    return _num_indices(feature, statistics)


def _num_indices(feature: Column, statistics: FeatureStatistics) -> int | None:
    if statistics.vocabulary is not None:
        return len(statistics.vocabulary) + feature.oov_buckets
    step = steps.of(feature)
    return feature.hash_buckets if step is None else step.num_categories(statistics.learned)


Statistics = Mapping[str, Any]  # Of FeatureStatistics and VectorStatistics, by feature.
