"""From the summary of train to what each feature's transform needs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs import stateless
from beam_jobs.config import MISSING_TOKEN, Column, Spec
from beam_jobs.counts import NumberCounts, TokenCounts
from beam_jobs.errors import DataError
from beam_jobs.moments import Moments
from beam_jobs.summaries import Numbers, Summary, Texts


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """What the transform of one feature needs of train.

    Attributes:
      raw: The raw values that are there.
      seen: The values that the statistical step sees, imputed ones included; None for texts.
      fill: What stands in for a missing value: float64, int64 or text; None where it is rejected.
      edges: The edges of bucketize, distinct and ascending.
      vocabulary: The tokens in order.
    """

    raw: Numbers | Texts
    seen: Numbers | None = None
    fill: float | int | str | None = None
    edges: np.ndarray | None = None
    vocabulary: tuple[bytes, ...] | None = None

    @property
    def mean(self) -> float:
        """The mean that the step sees."""
        return self.seen.moments.mean if self.seen else math.nan

    @property
    def offset(self) -> int:
        """What to subtract from whole numbers before they become float64: 0 if all fit there."""
        ends = (self.seen.min, self.seen.max) if self.seen else ()
        if self.seen is None or all(end is None or abs(end) <= 2**53 for end in ends):
            return 0
        return math.floor(self.seen.moments.exact_mean)

    @property
    def mean_above_offset(self) -> float:
        """The mean less the offset, rounded once."""
        return float(self.seen.moments.exact_mean - self.offset) if self.seen else math.nan

    @property
    def std(self) -> float:
        """The population standard deviation that the step sees."""
        return self.seen.moments.std if self.seen else math.nan


def analyze(spec: Spec, summary: Summary) -> dict[str, FeatureStatistics]:
    """Returns the statistics of every feature of a table.

    Raises:
      DataError: No record is left in train, a feature has no value there, or a vocabulary is too
        large.
    """
    if not summary.num_examples.get("train"):
        raise DataError(
            f"no record is left in train: {summary.read} were read, and "
            f"{sum(summary.rejected.values())} rejected. Loosen the filters, or change the split."
        )
    return {name: _feature(name, feature, summary) for name, feature in spec.columns.items()}


def _feature(name: str, feature: Column, summary: Summary) -> FeatureStatistics:
    column = str(feature.column)
    raw = summary.columns["train", column]
    if isinstance(raw, Texts):
        fill = None
        if feature.missing != "reject":
            fill = MISSING_TOKEN if feature.missing == "token" else str(feature.missing)
        vocabulary = None
        if feature.last_step == "compute_and_apply_vocabulary":
            counts = _with_missing(summary.tokens[column], fill, raw.missing)
            tokens = counts.vocabulary(name, feature.top_k, feature.frequency_threshold)
            vocabulary = tuple(tokens)
        return FeatureStatistics(raw, fill=fill, vocabulary=vocabulary)
    if not raw.moments.count and feature.missing in ("reject", "mean", "median"):
        raise DataError(
            f"features.{name}: train has no value of column {column!r}, so there is no "
            "statistic. Leave the feature out, or set missing to a constant."
        )
    return _number_feature(feature, raw, summary)


def _number_feature(feature: Column, raw: Numbers, summary: Summary) -> FeatureStatistics:
    column, steps = str(feature.column), feature.stateless_steps
    fill = _fill(feature, raw, summary)
    seen = summary.chains.get((column, steps), Numbers()) if steps else raw
    missing = raw.missing if fill is not None else 0
    reached: float | int = 0 if fill is None else fill
    if steps:
        reached = stateless.apply_numpy(np.array([reached], np.float64), steps).item()
    copies = Numbers.of_copies(reached, missing)
    edges = None
    if feature.last_step == "bucketize":
        dtype = np.int64 if feature.dtype == "int64" and not steps else np.float64
        imputed = NumberCounts(np.array([reached], dtype), np.array([missing], np.int64))
        counts = summary.numbers.get((column, steps))
        if counts is None:
            counts = imputed
        elif missing:
            counts = counts + imputed
        edges = counts.quantile_edges(int(feature.num_buckets or 2))
        if dtype == np.int64:  # A cell of the grid starts at a fraction: the next whole number.
            edges = _whole(edges) if counts.is_grid else edges
    seen = dataclasses.replace(seen, missing=0) + copies
    return FeatureStatistics(raw, seen, fill, edges)


def _whole(edges: np.ndarray) -> np.ndarray:
    """Returns the next whole number of each float64; the greatest int64 is 2**63 there."""
    return np.unique(np.array([min(math.ceil(edge), 2**63 - 1) for edge in edges], np.int64))


def _fill(feature: Column, raw: Numbers, summary: Summary) -> float | int | None:
    if feature.missing == "reject":
        return None
    if feature.missing == "mean":
        return raw.moments.mean
    if feature.missing == "median":
        return summary.numbers[str(feature.column), ()].median
    if feature.dtype == "int64":
        return int(feature.missing)
    return float(np.float32(feature.missing))


def _with_missing(counts: TokenCounts, fill: str | None, missing: int) -> TokenCounts:
    """Counts the text that stands in for missing values, an entry like any other."""
    if fill is None or not missing:
        return counts
    return counts + TokenCounts(pa.array([fill], pa.string()), pa.array([missing], pa.int64()))


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


def num_categories(feature: Column, statistics: FeatureStatistics) -> int | None:
    """Returns how many indices the output of a feature can have; None where it is no index."""
    if statistics.vocabulary is not None:
        return len(statistics.vocabulary) + feature.oov_buckets
    if statistics.edges is not None:
        return statistics.edges.size + 1
    return feature.hash_buckets


def output_dtype(feature: Column) -> str:
    """Returns the dtype that a feature is stored with: float32, int64 or string."""
    if feature.last_step in ("bucketize", "compute_and_apply_vocabulary", "hash_strings"):
        return "int64"
    return "float32" if feature.transforms else feature.dtype


Statistics = Mapping[str, FeatureStatistics]
