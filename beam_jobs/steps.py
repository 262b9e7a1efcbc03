"""The steps that learn from train: what each learns of numbers, and what it does in the graph.

What is learned is exact, or rounded once; what is done is done in float64.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from beam_jobs import powers, text, tukey
from beam_jobs.config import Column
from beam_jobs.counts import NumberCounts, whole
from beam_jobs.summaries import Numbers

Known = Mapping[str, tf.Tensor]
Slots = dict[str, tuple[tf.DType, tuple[int | None, ...]]]
_FLOAT = (tf.float64, ())
_MOST_TOLD = 4096  # Keys whose statistics stand in the manifest.


@dataclasses.dataclass(frozen=True)
class Seen:
    """The values of train that a step sees, imputed ones included.

    Attributes:
      numbers: Their sums and ends; at least one value.
      counts: How often each occurs, for a step that `is_counted`.
      by_key: For a step per key what it sees of each.
    """

    numbers: Numbers
    counts: NumberCounts | None = None
    by_key: Mapping[str, "Seen"] = dataclasses.field(default_factory=dict)

    @property
    def counted(self) -> NumberCounts:
        """The counts."""
        return self.counts or NumberCounts.of(np.empty(0))


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that learns from train, as a feature has it.

    Attributes:
      feature: With the options.
      takes_ints: Whether int64 comes as it is; else all numbers come as float64.
    """

    feature: Column
    takes_ints: ClassVar[bool] = True

    @property
    def is_int(self) -> bool:
        """Whether int64 comes, exact."""
        steps = self.feature.stateless_steps
        return self.takes_ints and self.feature.dtype == "int64" and not steps

    @property
    def slots(self) -> Slots:
        """Dtype and shape of what it learns for the graph, by name."""
        raise NotImplementedError

    def learn(self, seen: Seen) -> dict[str, Any]:
        """Returns the values of the slots."""
        raise NotImplementedError

    def told(self, learned: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the manifest says of it beside sums and ends."""
        return {}

    def num_categories(self, learned: Mapping[str, Any]) -> int | None:
        """Returns how many indices come out; None where no index does."""
        return None

    def of_records(self, known: Known, keys: tf.Tensor) -> Known:
        """Returns what `apply` needs for records, of a step per key.

        Args:
          known: The slots as tensors.
          keys: string (batch_size,).
        """
        raise NotImplementedError

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        """Returns float64, or int64 that is stored: of the shape of the values.

        Args:
          values: float64 or int64 of any shape.
          known: The slots as tensors that broadcast to that shape.
        """
        raise NotImplementedError


class _Center(Step):
    """x - mean."""

    @property
    def slots(self) -> Slots:
        return ({"offset": (tf.int64, ())} if self.is_int else {}) | {"mean": _FLOAT}

    def learn(self, seen: Seen) -> dict[str, Any]:
        return _above_offset("mean", seen.numbers.moments.exact_mean, seen, self.is_int)

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        return _less_offset(values, known) - known["mean"]


class _ScaleToZScore(_Center):
    """(x - mean) / std, the population's; a std of 0 divides by 1."""

    @property
    def slots(self) -> Slots:
        return super().slots | {"std": _FLOAT}

    def learn(self, seen: Seen) -> dict[str, Any]:
        return super().learn(seen) | {"std": seen.numbers.moments.std or 1.0}

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        return super().apply(values, known) / known["std"]


class _ScaleTo01(Step):
    """(x - min) / (max - min); 0 where they are equal."""

    @property
    def slots(self) -> Slots:
        return {"min": (tf.int64 if self.is_int else tf.float64, ()), "range": _FLOAT}

    def learn(self, seen: Seen) -> dict[str, Any]:
        low, high = seen.numbers.min or 0, seen.numbers.max or 0
        # The range of int64 does not fit into int64: it is exact in Python, then rounded once.
        return {"min": low, "range": float(high - low)}

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        distance = _difference(values, known["min"])
        is_constant = tf.equal(known["range"], 0)
        scaled = distance / tf.where(is_constant, tf.ones([], tf.float64), known["range"])
        return tf.where(is_constant, tf.zeros_like(scaled), scaled)


class _ScaleByMinMax(_ScaleTo01):
    """As scale_to_0_1, to output_min and output_max; output_min where train has one value."""

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        low, high = map(Fraction, self.feature.output_range)
        return super().apply(values, known) * float(high - low) + float(low)


class _RobustScale(_Center):
    """(x - median) / (75th percentile - 25th); that distance divides by 1 where it is 0."""

    @property
    def slots(self) -> Slots:
        offset = {"offset": (tf.int64, ())} if self.is_int else {}
        return offset | {"mean": _FLOAT, "range": _FLOAT}

    def learn(self, seen: Seen) -> dict[str, Any]:
        low, median, high = map(seen.counted.percentile, (25, 50, 75))
        center = _above_offset("mean", median, seen, self.is_int)
        return center | {"range": float(high - low) or 1.0, "median": float(median)}

    def told(self, learned: Mapping[str, Any]) -> dict[str, Any]:
        return {"median": learned["median"], "iqr": learned["range"]}

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        return super().apply(values, known) / known["range"]


class _ScaleToGaussian(Step):
    """The inverse of Tukey's HH distribution with the L-moments of train, as TFT has it."""

    takes_ints = False

    @property
    def slots(self) -> Slots:
        return dict.fromkeys(("location", "scale", "left", "right"), _FLOAT)

    def learn(self, seen: Seen) -> dict[str, Any]:
        location, scale, left, right = tukey.parameters(seen.counted.l_moments())
        if not left > 0 and not right > 0:
            scale = seen.numbers.moments.std
        return {"location": location, "scale": scale or 1.0, "left": left, "right": right}

    def told(self, learned: Mapping[str, Any]) -> dict[str, Any]:
        return dict(learned)

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        scaled = (values - known["location"]) / known["scale"]
        return tukey.inverse(scaled, known["left"], known["right"])


class _YeoJohnson(Step):
    """The power transform of Yeo and Johnson, then the z-score of what comes out."""

    takes_ints = False
    of_positive: ClassVar[bool] = False

    @property
    def slots(self) -> Slots:
        return dict.fromkeys(("lambda", "center", "mean", "std"), _FLOAT)

    def learn(self, seen: Seen) -> dict[str, Any]:
        return powers.learn(seen.counted.middles, seen.counted.counts, self.of_positive)

    def told(self, learned: Mapping[str, Any]) -> dict[str, Any]:
        return dict(learned)

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        transformed = powers.apply(values, known["lambda"], known["center"], self.of_positive)
        return (transformed - known["mean"]) / known["std"]


class _BoxCox(_YeoJohnson):
    """The same of Box and Cox, for positive values."""

    of_positive = True


class _Bucketize(Step):
    """How many edges are not above x: the quantiles of train."""

    @property
    def slots(self) -> Slots:
        return {"edges": (tf.int64 if self.is_int else tf.float64, (None,))}

    def learn(self, seen: Seen) -> dict[str, Any]:
        edges = seen.counted.quantile_edges(int(self.feature.num_buckets or 2))
        if self.is_int and edges.dtype != np.int64:  # A cell starts at a fraction.
            edges = np.unique(whole(edges))
        return {"edges": edges}

    def num_categories(self, learned: Mapping[str, Any]) -> int | None:
        return int(learned["edges"].size) + 1

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        return tf.searchsorted(known["edges"], values, side="right", out_type=tf.int64)


class _ApplyBuckets(_Bucketize):
    """How many of the boundaries are not above x; of float32 they are rounded as its values are."""

    def learn(self, seen: Seen) -> dict[str, Any]:
        if self.is_int:
            up = [math.ceil(boundary) for boundary in self.feature.boundaries or ()]
            return {"edges": np.array([max(-(2**63), min(b, 2**63 - 1)) for b in up], np.int64)}
        edges = np.array(self.feature.boundaries, np.float64)
        if self.feature.dtype == "float32" and not self.feature.stateless_steps:
            edges = edges.astype(np.float32).astype(np.float64)
        return {"edges": edges}


class _ApplyBucketsWithInterpolation(_ApplyBuckets):
    """Where between the boundaries x lies, each of their distances taken for the same: 0 to 1."""

    takes_ints = False

    def num_categories(self, learned: Mapping[str, Any]) -> int | None:
        return None

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        edges, index = known["edges"], super().apply(values, known)
        last = tf.size(edges, tf.int64) - 1
        low = tf.gather(edges, tf.clip_by_value(index - 1, 0, last))
        high = tf.gather(edges, tf.clip_by_value(index, 0, last))
        is_inside = tf.logical_and(index > 0, index <= last)
        width = tf.where(is_inside, high - low, tf.ones_like(high))
        within = tf.where(is_inside, (values - low) / width, tf.zeros_like(values))
        place = tf.cast(tf.maximum(index - 1, 0), tf.float64) + within
        scaled = place / tf.cast(tf.maximum(last, 1), tf.float64)
        is_single = tf.logical_and(tf.equal(last, 0), index > 0)
        return tf.where(is_single, tf.ones_like(scaled), scaled)


class _PerKey(Step):
    """A step that each key has for itself; one that train does not have takes all of train's."""

    inner: ClassVar[type[Step]]

    @property
    def step(self) -> Step:
        return self.inner(self.feature)

    @property
    def slots(self) -> Slots:
        found: Slots = {name: (dtype, (None,)) for name, (dtype, _) in self.step.slots.items()}
        return found | {
            "tokens": (tf.string, (None,)),
            "fingerprints": (tf.int64, (None,)),
            "indices": (tf.int64, (None,)),
        }

    def learn(self, seen: Seen) -> dict[str, Any]:
        learned = [self.step.learn(each) for each in (*seen.by_key.values(), seen)]
        return self.joined(learned) | text.by_fingerprint(tuple(map(str.encode, seen.by_key)))

    def joined(self, learned: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        slots = self.step.slots.items()
        return {
            name: np.array([each[name] for each in learned], dtype.as_numpy_dtype)
            for name, (dtype, _) in slots
        }

    def told(self, learned: Mapping[str, Any]) -> dict[str, Any]:
        keys, places = learned["tokens"].tolist(), learned["indices"].tolist()
        if len(keys) > _MOST_TOLD:
            return {"num_keys": len(keys)}
        by_place = sorted(zip(places, keys, strict=True))
        of_keys = {key.decode(): self.told_of(learned, place) for place, key in by_place}
        return {"num_keys": len(keys), "keys": of_keys}

    def told_of(self, learned: Mapping[str, Any], place: int) -> dict[str, Any]:
        return {name: learned[name][place].item() for name in self.step.slots}

    def of_records(self, known: Known, keys: tf.Tensor) -> Known:
        place = self.place(known, keys)
        return {name: tf.gather(known[name], place) for name in self.step.slots}

    def place(self, known: Known, keys: tf.Tensor) -> tf.Tensor:
        found = text.find(keys, known)
        return tf.where(found >= 0, found, tf.size(known["tokens"], tf.int64))

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        return self.step.apply(values, known)


class _ScaleToZScorePerKey(_PerKey):
    inner = _ScaleToZScore


class _ScaleTo01PerKey(_PerKey):
    inner = _ScaleTo01


class _ScaleByMinMaxPerKey(_PerKey):
    inner = _ScaleByMinMax


class _BucketizePerKey(_PerKey):
    """Edges of all keys stand in one vector; `starts` says where those of a key begin."""

    inner = _Bucketize

    @property
    def slots(self) -> Slots:
        return super().slots | {"starts": (tf.int64, (None,))}

    def joined(self, learned: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        edges = [each["edges"] for each in learned]
        starts = np.cumsum([0, *map(len, edges)])
        return {"edges": np.concatenate(edges), "starts": starts.astype(np.int64)}

    def told_of(self, learned: Mapping[str, Any], place: int) -> dict[str, Any]:
        start, end = learned["starts"][place : place + 2]
        return {"edges": learned["edges"][start:end].tolist()}

    def num_categories(self, learned: Mapping[str, Any]) -> int | None:
        return int(np.diff(learned["starts"]).max()) + 1

    def of_records(self, known: Known, keys: tf.Tensor) -> Known:
        place, starts = self.place(known, keys), known["starts"]
        ends = {"first": tf.gather(starts, place), "end": tf.gather(starts, place + 1)}
        return {"edges": known["edges"], **ends}

    def apply(self, values: tf.Tensor, known: Known) -> tf.Tensor:
        first = low = known["first"]
        high = known["end"]
        last = tf.size(known["edges"], tf.int64) - 1
        for _ in range((int(self.feature.num_buckets or 2) - 1).bit_length()):
            middle = (low + high) // 2
            edge = tf.gather(known["edges"], tf.minimum(middle, last))
            is_above = tf.logical_and(low < high, edge <= values)
            is_below = tf.logical_and(low < high, edge > values)
            low, high = tf.where(is_above, middle + 1, low), tf.where(is_below, middle, high)
        return low - first


_STEPS: dict[str, type[Step]] = {
    "center": _Center,
    "scale_to_z_score": _ScaleToZScore,
    "scale_to_0_1": _ScaleTo01,
    "scale_by_min_max": _ScaleByMinMax,
    "scale_to_gaussian": _ScaleToGaussian,
    "robust_scale": _RobustScale,
    "yeo_johnson": _YeoJohnson,
    "box_cox": _BoxCox,
    "bucketize": _Bucketize,
    "scale_to_z_score_per_key": _ScaleToZScorePerKey,
    "scale_to_0_1_per_key": _ScaleTo01PerKey,
    "scale_by_min_max_per_key": _ScaleByMinMaxPerKey,
    "bucketize_per_key": _BucketizePerKey,
    "apply_buckets": _ApplyBuckets,
    "apply_buckets_with_interpolation": _ApplyBucketsWithInterpolation,
}


def of(feature: Column) -> Step | None:
    """Returns the step of a column of numbers that learns; None if there is none."""
    kind = _STEPS.get(feature.last_step or "")
    return None if kind is None else kind(feature)


def _above_offset(name: str, center: Fraction, seen: Seen, is_int: bool) -> dict[str, Any]:
    """Returns a center less an offset, rounded once, and the offset.

    It is what is taken from whole numbers before they become float64: 0 if all fit there.
    """
    if not is_int:
        return {name: float(center)}
    ends = seen.numbers.min or 0, seen.numbers.max or 0
    offset = 0 if all(abs(end) <= 2**53 for end in ends) else math.floor(center)
    return {"offset": offset, name: float(center - offset)}


def _less_offset(values: tf.Tensor, known: Known) -> tf.Tensor:
    return _difference(values, known["offset"]) if "offset" in known else values


def _difference(values: tf.Tensor, low: tf.Tensor) -> tf.Tensor:
    """Returns values - low in float64; of int64 the exact difference, rounded once."""
    if values.dtype != tf.int64:
        return values - low
    is_above = values >= low
    high, low = tf.where(is_above, values, low), tf.where(is_above, low, values)
    distance = tf.cast(tf.cast(high, tf.uint64) - tf.cast(low, tf.uint64), tf.float64)
    return tf.where(is_above, distance, -distance)
