"""The spec as a TFT preprocessing_fn, whose statistics come from one analyzer."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from beam_jobs import stateless
from beam_jobs.analysis import FeatureStatistics, Statistics
from beam_jobs.config import MISSING_TOKEN, Column, Spec
from beam_jobs.errors import DataError

Inputs = Mapping[str, Any]
# 2**62, so that a fingerprint fits into int64. Tokens are found by binary search over fingerprints:
# TFT cannot save a lookup table that an analyzer fills, and tables are slow to trace.
_FINGERPRINTS = 2**62


def sparse_columns(spec: Spec) -> set[str]:
    """Returns the raw columns that may be missing in transform_fn: no feature of them rejects."""
    required = {f.column for f in spec.columns.values() if f.missing == "reject"}
    return {str(f.column) for f in spec.columns.values() if f.column not in required}


def feature_spec(spec: Spec) -> dict[str, Any]:
    """Returns the TF feature spec of the raw columns that transform_fn takes."""
    dtypes = {str(f.column): tf.as_dtype(f.dtype) for f in spec.columns.values()}
    sparse = sparse_columns(spec)
    return {
        column: tf.io.VarLenFeature(dtype) if column in sparse else tf.io.FixedLenFeature([], dtype)
        for column, dtype in dtypes.items()
    }


@dataclasses.dataclass(frozen=True)
class _Slot:
    """One value that the analyzer gives to the graph; `value` takes it from the statistics."""

    feature: str
    key: str
    value: Callable[[FeatureStatistics], Any]


@dataclasses.dataclass(frozen=True)
class _Group:
    """The slots of one dtype and shape, () or (None,).

    All their values are one output of the analyzer, since each output costs TFT and Beam 20 ms;
    where the shape is not known, their lengths are another.
    """

    dtype: tf.DType
    shape: tuple[int | None, ...]
    slots: list[_Slot] = dataclasses.field(default_factory=list)

    def outputs(self) -> list[tuple[Callable[[Statistics], np.ndarray], tf.DType, Any]]:
        """Returns function, dtype and shape of each output."""
        if self.shape == ():
            return [(self.values, self.dtype, [len(self.slots)])]
        return [(self.values, self.dtype, [None]), (self.lengths, tf.int64, [len(self.slots)])]

    def values(self, statistics: Statistics) -> np.ndarray:
        """Returns the values of all slots, one after the other."""
        dtype = object if self.dtype == tf.string else self.dtype.as_numpy_dtype
        return np.concatenate([np.asarray(v, dtype).ravel() for v in self._given(statistics)])

    def lengths(self, statistics: Statistics) -> np.ndarray:
        """Returns how many values each slot has: int64 (len(slots),)."""
        return np.array([np.size(value) for value in self._given(statistics)], np.int64)

    def _given(self, statistics: Statistics) -> list[Any]:
        return [slot.value(statistics[slot.feature]) for slot in self.slots]

    def split(self, outputs: Iterator[tf.Tensor]) -> list[tf.Tensor]:
        """Takes its outputs, and returns the tensor of each slot."""
        if self.shape == ():
            return tf.unstack(next(outputs), len(self.slots))
        return tf.split(next(outputs), next(outputs), num=len(self.slots))


def _groups(spec: Spec) -> list[_Group]:
    """Returns what the graph needs of the statistics."""
    groups: dict[Any, _Group] = {}
    for name, feature in spec.columns.items():
        for key, (dtype, shape, value) in _feature_slots(feature).items():
            group = groups.setdefault((dtype, shape), _Group(dtype, shape))
            group.slots.append(_Slot(name, key, value))
    return list(groups.values())


def _feature_slots(feature: Column) -> dict[str, tuple[tf.DType, tuple[int | None, ...], Any]]:
    exact = _is_exact_int(feature)
    number = tf.int64 if exact else tf.float64
    needed: dict[str, tuple[tf.DType, tuple[int | None, ...], Any]] = {}
    if feature.missing in ("mean", "median"):
        needed["fill"] = (tf.float64, (), lambda s: s.fill)
    if exact and feature.last_step in ("center", "scale_to_z_score"):
        needed["offset"] = (tf.int64, (), lambda s: s.offset)
    match feature.last_step:
        case "center":
            needed["mean"] = (tf.float64, (), lambda s: s.mean_above_offset if exact else s.mean)
        case "scale_to_z_score":
            needed["mean"] = (tf.float64, (), lambda s: s.mean_above_offset if exact else s.mean)
            needed["std"] = (tf.float64, (), lambda s: s.std or 1.0)
        case "scale_to_0_1":
            needed["min"] = (number, (), lambda s: s.seen.min)
            # The range of int64 does not fit into int64: it is exact in Python, then rounded once.
            needed["range"] = (tf.float64, (), lambda s: float(s.seen.max - s.seen.min))
        case "bucketize":
            needed["edges"] = (number, (None,), lambda s: s.edges)
        case "compute_and_apply_vocabulary":
            needed["tokens"] = (tf.string, (None,), lambda s: _by_fingerprint(s)[0])
            needed["fingerprints"] = (tf.int64, (None,), lambda s: _by_fingerprint(s)[1])
            needed["indices"] = (tf.int64, (None,), lambda s: _by_fingerprint(s)[2])
    return needed


def _is_exact_int(feature: Column) -> bool:
    return feature.dtype == "int64" and not feature.stateless_steps


def _by_fingerprint(statistics: FeatureStatistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, fingerprints and indices of a vocabulary, ordered by fingerprint."""
    tokens = np.array([*(statistics.vocabulary or ())], dtype=object)
    hashed = tf.strings.to_hash_bucket_fast(tf.constant(tokens, tf.string), _FINGERPRINTS).numpy()
    order = np.argsort(hashed, kind="stable")
    if np.unique(hashed).size != hashed.size:
        raise DataError("two tokens of a vocabulary have one 62-bit fingerprint. Use hash_strings.")
    return tokens[order], hashed[order], order.astype(np.int64)


class _GiveStatistics(beam.PTransform):
    """TFT's view of the analyzer: whatever comes in, the statistics come out.

    They are computed from blocks of raw records (see `summaries`), beside the graph: rows that went
    through TFT's own analyzers cost ten times as much, and its float sums are not exact.
    """

    def __init__(self, statistics: beam.PCollection, functions: Sequence[Callable]):
        super().__init__()
        self._statistics, self._functions = statistics, functions

    def expand(self, inputs: beam.PCollection) -> tuple[beam.PCollection, ...]:
        return tuple(
            self._statistics | f"Give[{index}]" >> beam.Map(function)
            for index, function in enumerate(self._functions)
        )


def preprocessing_fn(
    spec: Spec, statistics: beam.PCollection
) -> Callable[[Inputs], dict[str, tf.Tensor]]:
    """Returns a preprocessing_fn for TFT.

    Args:
      spec: The spec of a table.
      statistics: PCollection of one `Statistics`.
    """
    groups = _groups(spec)

    def preprocess(inputs: Inputs) -> dict[str, tf.Tensor]:
        known = _known(inputs, statistics, groups)
        outputs: dict[str, tf.Tensor] = {}
        for features in _alike(spec):
            outputs |= _transform(features, inputs, known)
        return outputs

    return preprocess


def _known(
    inputs: Inputs, statistics: beam.PCollection, groups: Sequence[_Group]
) -> dict[str, dict[str, tf.Tensor]]:
    """Returns the statistics as tensors, by feature and key."""
    known: dict[str, dict[str, tf.Tensor]] = {}
    if not groups:
        return known
    outputs = [output for group in groups for output in group.outputs()]
    functions, dtypes, shapes = map(list, zip(*outputs, strict=True))
    tensors = iter(
        tft.experimental.ptransform_analyzer(
            [_any_values(inputs)], _GiveStatistics(statistics, functions), dtypes, shapes
        )
    )
    for group in groups:
        for slot, tensor in zip(group.slots, group.split(tensors), strict=True):
            known.setdefault(slot.feature, {})[slot.key] = tensor
    return known


def _any_values(inputs: Inputs) -> tf.Tensor:
    first = inputs[min(inputs)]
    return first.values if isinstance(first, tf.SparseTensor) else first


def _alike(spec: Spec) -> list[dict[str, Column]]:
    """Returns the features, together those that the same ops can transform."""
    kinds: dict[Any, dict[str, Column]] = {}
    sparse = sparse_columns(spec)
    for name, feature in spec.columns.items():
        is_alone = feature.dtype == "string" or feature.last_step == "bucketize"
        kind = feature.dtype, feature.transforms, str(feature.column) in sparse
        kinds.setdefault(name if is_alone else kind, {})[name] = feature
    return list(kinds.values())


def _transform(
    features: Mapping[str, Column], inputs: Inputs, known: Mapping[str, Mapping[str, tf.Tensor]]
) -> dict[str, tf.Tensor]:
    """Returns the outputs of features that are alike and, if asked for, their indicators.

    Each is (batch_size,). Numbers become rows of one tensor, for TFT traces a graph seven times and
    takes 0.3 ms for an op.
    """
    outputs: dict[str, tf.Tensor] = {}
    for name, feature in features.items():
        given = inputs[str(feature.column)]
        outputs[name], is_missing = _filled(feature, given, known.get(name, {}))
        if feature.indicator:
            absent = tf.zeros_like(outputs[name], tf.int64) if is_missing is None else is_missing
            outputs[f"{name}_missing"] = tf.cast(absent, tf.int64)
    if feature.dtype == "string":
        return outputs | {name: _text(feature, outputs[name], known.get(name, {}))}
    if len(features) == 1:
        return outputs | {name: _number(feature, outputs[name], known.get(name, {}))}
    rows = {
        key: tf.expand_dims(tf.stack([known[other][key] for other in features]), 1)
        for key in known.get(name, {})
        if key != "fill"
    }
    numbers = _number(feature, tf.stack([outputs[other] for other in features]), rows)
    return outputs | dict(zip(features, tf.unstack(numbers, len(features)), strict=True))


def _filled(
    feature: Column, given: Any, known: Mapping[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns the values with missing ones filled in, and where these are: both (batch_size,).

    What fills a gap may be no float32, so those come out as float64. None where nothing is missing.
    """
    if not isinstance(given, tf.SparseTensor):
        return given, None
    stays = feature.dtype == "string" or _is_exact_int(feature)
    values = given.values if stays else tf.cast(given.values, tf.float64)
    rows, num_rows = given.indices[:, :1], given.dense_shape[:1]
    fill = tf.fill(num_rows, _fill(feature, values.dtype, known))
    is_missing = tf.tensor_scatter_nd_update(
        tf.ones(num_rows, tf.bool), rows, tf.zeros(tf.shape(rows)[:1], tf.bool)
    )
    return tf.tensor_scatter_nd_update(fill, rows, values), is_missing


def _fill(feature: Column, dtype: tf.DType, known: Mapping[str, tf.Tensor]) -> tf.Tensor:
    if "fill" in known:
        return known["fill"]
    if feature.dtype == "string":
        return tf.constant(MISSING_TOKEN if feature.missing == "token" else str(feature.missing))
    if feature.dtype == "float32":
        return tf.constant(float(np.float32(feature.missing)), dtype)
    return tf.cast(tf.constant(int(feature.missing), tf.int64), dtype)


def _text(feature: Column, values: tf.Tensor, known: Mapping[str, tf.Tensor]) -> tf.Tensor:
    if feature.last_step == "hash_strings":
        return tf.strings.to_hash_bucket_fast(values, int(feature.hash_buckets or 1))
    if feature.last_step == "compute_and_apply_vocabulary":
        return _lookup(values, known, feature.oov_buckets)
    return values


def _lookup(values: tf.Tensor, known: Mapping[str, tf.Tensor], num_oov_buckets: int) -> tf.Tensor:
    """Returns the index of each text in the vocabulary, or behind it: int64 (batch_size,)."""
    size = tf.size(known["tokens"], tf.int64)
    # A sentinel behind the end, so that an empty vocabulary can be gathered from too.
    tokens = tf.concat([known["tokens"], [""]], 0)
    indices = tf.concat([known["indices"], [-1]], 0)
    hashed = tf.strings.to_hash_bucket_fast(values, _FINGERPRINTS)
    position = tf.searchsorted(known["fingerprints"], hashed)
    index = tf.gather(indices, position)
    is_known = tf.logical_and(tf.equal(tf.gather(tokens, position), values), index >= 0)
    return tf.where(is_known, index, size + tf.strings.to_hash_bucket_fast(values, num_oov_buckets))


def _number(feature: Column, values: tf.Tensor, known: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Applies the chain in float64 and rounds to float32 once, last."""
    if not _is_exact_int(feature):
        values = stateless.apply(tf.cast(values, tf.float64), feature.stateless_steps)
    match feature.last_step:
        case None if not feature.transforms:
            return values if feature.dtype == "int64" else tf.cast(values, tf.float32)
        case "bucketize":
            return tf.searchsorted(known["edges"], values, side="right", out_type=tf.int64)
        case "center":
            values = _above_offset(values, known) - known["mean"]
        case "scale_to_z_score":
            values = (_above_offset(values, known) - known["mean"]) / known["std"]
        case "scale_to_0_1":
            distance = _difference(values, known["min"])
            is_constant = tf.equal(known["range"], 0)
            scaled = distance / tf.where(is_constant, tf.ones([], tf.float64), known["range"])
            values = tf.where(is_constant, tf.zeros_like(scaled), scaled)
    return tf.cast(values, tf.float32)


def _above_offset(values: tf.Tensor, known: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns values as float64; whole ones less an offset, so that large ones keep their units."""
    return _difference(values, known["offset"]) if "offset" in known else values


def _difference(values: tf.Tensor, low: tf.Tensor) -> tf.Tensor:
    """Returns values - low in float64; of int64 the exact difference, rounded once."""
    if values.dtype != tf.int64:
        return values - low
    is_above = values >= low
    high, low = tf.where(is_above, values, low), tf.where(is_above, low, values)
    distance = tf.cast(tf.cast(high, tf.uint64) - tf.cast(low, tf.uint64), tf.float64)
    return tf.where(is_above, distance, -distance)
