"""The spec as a TFT preprocessing_fn, whose statistics come from one analyzer."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from beam_jobs import dates, stateless, steps, text, vector_graph
from beam_jobs.analysis import FeatureStatistics, Statistics
from beam_jobs.config import MISSING_TOKEN, Column, Date, Sparse, Spec, Tabular, Text

Inputs = Mapping[str, Any]
_TYPES = {"timestamp": "int64"}  # Microseconds since 1970 UTC.


def sparse_columns(spec: Spec) -> set[str]:
    """Returns the raw columns that are sparse in transform_fn.

    They may be missing, since no feature of them rejects that, or hold lists of any length.
    """
    ragged = {column for column, vector in spec.lists.items() if vector.is_ragged}
    return set(spec.inputs) - set(spec.required) | ragged


def feature_spec(spec: Spec) -> dict[str, Any]:
    """Returns the TF feature spec of the raw columns that transform_fn takes."""
    dtypes = {k: tf.as_dtype(_TYPES.get(dtype, dtype)) for k, dtype in spec.inputs.items()}
    sparse = sparse_columns(spec)
    shapes = {column: [vector.size] for column, vector in spec.lists.items()}
    return {
        column: tf.io.VarLenFeature(dtype)
        if column in sparse
        else tf.io.FixedLenFeature(shapes.get(column, []), dtype)
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
    needed = {name: _feature_slots(feature) for name, feature in spec.columns.items()}
    needed |= {name: vector_graph.slots(vector) for name, vector in spec.vectors.items()}
    for name, slots in needed.items():
        for key, (dtype, shape, value) in slots.items():
            group = groups.setdefault((dtype, shape), _Group(dtype, shape))
            group.slots.append(_Slot(name, key, value))
    return list(groups.values())


_Slots = dict[str, tuple[tf.DType, tuple[int | None, ...], Any]]


def _feature_slots(feature: Tabular) -> _Slots:
    if isinstance(feature, Date | Sparse):
        return {}
    if isinstance(feature, Text):
        return _text_slots(feature)
    needed: _Slots = {}
    if feature.is_fill_learned:
        dtype = tf.float64 if feature.dtype == "float32" else tf.as_dtype(feature.dtype)
        needed["fill"] = (dtype, (), _fill_of)
    if feature.last_step == "compute_and_apply_vocabulary":
        needed |= _vocabulary_slots()
    step = steps.of(feature)
    for key, (dtype, shape) in step.slots.items() if step else ():
        needed[key] = (dtype, shape, lambda s, key=key: s.learned[key])
    if feature.is_sparse:
        needed["depth"] = (tf.int64, (), lambda s: s.depth)
    return needed


def _fill_of(statistics: FeatureStatistics) -> Any:
    fill = statistics.fill
    return fill.encode() if isinstance(fill, str) else fill


def _text_slots(feature: Text) -> _Slots:
    needed: _Slots = {} if feature.tokenizer else _vocabulary_slots()
    if feature.is_sparse:
        needed["depth"] = (tf.int64, (), lambda s: s.depth)
    if feature.output_mode == "tf_idf":
        needed["idf"] = (tf.float32, (None,), lambda s: s.idf)
    return needed


def _vocabulary_slots() -> _Slots:
    def value(key: str) -> Callable[[FeatureStatistics], np.ndarray]:
        return lambda s: text.by_fingerprint(s.vocabulary or ())[key]

    dtypes = {"tokens": tf.string, "fingerprints": tf.int64, "indices": tf.int64}
    return {key: (dtype, (None,), value(key)) for key, dtype in dtypes.items()}


def _is_exact_int(feature: Tabular) -> bool:
    """Whether whole numbers stay so until the statistical step has them."""
    if isinstance(feature, Date):
        return True
    if not isinstance(feature, Column) or feature.dtype != "int64" or feature.stateless_steps:
        return False
    step = steps.of(feature)
    return step is None or step.is_int


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
        for name, vector in spec.vectors.items():
            given = [inputs[column] for column in spec.inputs_of(name)]
            found = vector_graph.transformed(given, vector, known.get(name, {}))
            outputs |= {f"{name}{ending}": tensor for ending, tensor in found.items()}
        for name, cross in spec.crosses.items():
            outputs[name] = _crossed([outputs[other] for other in cross.of], cross.hash_buckets)
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


def _alike(spec: Spec) -> list[dict[str, Tabular]]:
    """Returns the features, together those that the same ops can transform."""
    kinds: dict[Any, dict[str, Tabular]] = {}
    sparse = sparse_columns(spec)
    for name, feature in spec.columns.items():
        step = steps.of(feature) if isinstance(feature, Column) else None
        has_vectors = step is not None and any(shape for _, shape in step.slots.values())
        is_alone = not isinstance(feature, Column) or feature.dtype == "string" or has_vectors
        options = (feature.transforms, feature.options) if isinstance(feature, Column) else ()
        kind = feature.dtype, options, str(feature.column) in sparse
        kinds.setdefault(name if is_alone else kind, {})[name] = feature
    return list(kinds.values())


def _transform(
    features: Mapping[str, Tabular],
    inputs: Inputs,
    known: Mapping[str, Mapping[str, tf.Tensor]],
) -> dict[str, tf.Tensor]:
    """Returns the outputs of features that are alike and, if asked for, their indicators.

    Each is (batch_size,), but for those of texts. Numbers become rows of one tensor, for TFT traces
    a graph seven times and takes 0.3 ms for an op.
    """
    outputs: dict[str, tf.Tensor] = {}
    for name, feature in features.items():
        given = inputs[str(feature.column)]
        outputs[name], is_missing = _filled(feature, given, known.get(name, {}))
        if feature.indicator:
            absent = tf.zeros_like(outputs[name], tf.int64) if is_missing is None else is_missing
            outputs[f"{name}_missing"] = tf.cast(absent, tf.int64)
    if len(features) == 1:
        ((name, feature),) = features.items()
        filled = outputs.pop(name)  # A date gives its parts alone.
        return outputs | _alone(name, feature, filled, inputs, known.get(name, {}))
    return outputs | _together(features, outputs, known)


def _alone(
    name: str,
    feature: Tabular,
    values: tf.Tensor,
    inputs: Inputs,
    known: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Returns what becomes of the values of a feature, (batch_size,)."""
    if isinstance(feature, Date):
        return {f"{name}{end}": part for end, part in dates.features(values, feature).items()}
    if isinstance(feature, Text):
        return {name: text.vectorized(values, feature, known)}
    if isinstance(feature, Sparse):
        return {name: vector_graph.entries(values, feature)}
    mine, step = known, steps.of(feature)
    if step is not None and feature.key is not None:
        mine = step.of_records(known, inputs[feature.key])
    apply = _string if feature.dtype == "string" else _number
    made = apply(feature, values, mine)
    return {name: _one_hot(made, known["depth"]) if feature.is_sparse else made}


def _together(
    features: Mapping[str, Any],
    filled: Mapping[str, tf.Tensor],
    known: Mapping[str, Mapping[str, tf.Tensor]],
) -> dict[str, tf.Tensor]:
    """Returns what becomes of the values of columns of numbers that are alike, filled in."""
    name, feature = next(iter(features.items()))
    rows = {
        key: tf.expand_dims(tf.stack([known[other][key] for other in features]), 1)
        for key in known.get(name, {})
        if key != "fill"
    }
    numbers = _number(feature, tf.stack([filled[other] for other in features]), rows)
    return dict(zip(features, tf.unstack(numbers, len(features)), strict=True))


def _filled(
    feature: Tabular, given: Any, known: Mapping[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns the values with missing ones filled in, and where these are: both (batch_size,).

    What fills a gap may be no float32, so those come out as float64. None where nothing is missing.
    """
    if not isinstance(given, tf.SparseTensor):
        return given, None
    stays = given.dtype == tf.string or _is_exact_int(feature)
    values = given.values if stays else tf.cast(given.values, tf.float64)
    # Slices of Python's notation are ten ops each.
    rows = tf.slice(given.indices, [0, 0], [-1, 1])
    num_rows = tf.slice(given.dense_shape, [0], [1])
    fill = _fill(feature, values.dtype, known)
    filled = _to_dense(rows, num_rows, values, fill)
    if not feature.indicator:
        return filled, None
    return filled, _to_dense(rows, num_rows, tf.zeros_like(values, tf.int64), 1)


def _to_dense(rows: tf.Tensor, num_rows: tf.Tensor, values: tf.Tensor, fill: Any) -> tf.Tensor:
    """Returns (num_rows,) with values in some rows and `fill` in the others."""
    return tf.raw_ops.SparseToDense(
        sparse_indices=rows,
        output_shape=num_rows,
        sparse_values=values,
        default_value=tf.cast(fill, values.dtype),
        validate_indices=False,
    )


def _fill(feature: Tabular, dtype: tf.DType, known: Mapping[str, tf.Tensor]) -> tf.Tensor:
    if "fill" in known:
        return known["fill"] if dtype == tf.string else tf.cast(known["fill"], dtype)
    if isinstance(feature, Date):
        return tf.constant(feature.fill, dtype)
    if feature.dtype == "string":
        return tf.constant(MISSING_TOKEN if feature.missing == "token" else str(feature.missing))
    if feature.dtype == "float32":
        return tf.constant(float(np.float32(feature.missing)), dtype)
    return tf.cast(tf.constant(int(feature.missing), tf.int64), dtype)


def _string(feature: Column, values: tf.Tensor, known: Mapping[str, tf.Tensor]) -> tf.Tensor:
    if feature.last_step == "hash_strings":
        return tf.strings.to_hash_bucket_fast(values, int(feature.hash_buckets or 1))
    if feature.last_step == "compute_and_apply_vocabulary":
        return _lookup(values, known, feature.oov_buckets)
    return values


def _lookup(values: tf.Tensor, known: Mapping[str, tf.Tensor], num_oov_buckets: int) -> tf.Tensor:
    """Returns the index of each text in the vocabulary, or behind it: int64 (batch_size,)."""
    size = tf.size(known["tokens"], tf.int64)
    index = text.find(values, known)
    unknown = size + tf.strings.to_hash_bucket_fast(values, num_oov_buckets)
    return tf.where(index >= 0, index, unknown)


def _crossed(categories: Sequence[tf.Tensor], hash_buckets: int) -> tf.Tensor:
    """Returns the category of each combination, as keras.layers.HashedCrossing: (batch_size,)."""
    columns = [tf.expand_dims(values, 1) for values in categories]
    return tf.sparse.cross_hashed(columns, hash_buckets).values


def _number(feature: Column, values: tf.Tensor, known: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Applies the chain in float64 and rounds to float32 once, last."""
    if not _is_exact_int(feature):
        values = stateless.apply(tf.cast(values, tf.float64), feature.stateless_steps)
    step = steps.of(feature)
    if step is not None:
        values = step.apply(values, known)
    if values.dtype == tf.int64:
        return values
    return tf.cast(stateless.apply(values, feature.later_steps), tf.float32)


def _one_hot(index: tf.Tensor, depth: tf.Tensor) -> tf.SparseTensor:
    """Returns a 1 where each index says, int64 (batch_size,): float32 (batch_size, depth)."""
    rows = tf.range(tf.size(index, tf.int64))
    shape = tf.stack([tf.size(index, tf.int64), depth])
    return tf.SparseTensor(tf.stack([rows, index], 1), tf.ones_like(index, tf.float32), shape)
