"""A user's own preprocessing_fn, through plain TFT: behind the features of the spec."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from beam_jobs import chance, dataset_info, files, functions, preprocessing, saved_transform
from beam_jobs.config import LABEL, Spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.saved_transform import SavedTransform

KEY = "preprocessing_fn"
_PreprocessingFn = Callable[[Mapping[str, Any]], dict[str, Any]]
_SCHEMA = "transformed_metadata/schema.pbtxt"
# TensorFlow computes what does not fill a SIMD register with other code, to other last bits. With
# as many records behind the last one, none is in what remains.
_PADDING = 16


def load(spec: Spec) -> _PreprocessingFn:
    """Imports the function that a spec names.

    Raises:
      SpecError: It cannot be imported.
    """
    return functions.load(str(spec.preprocessing_fn), spec.folder, KEY)


def trace(spec: Spec) -> None:
    """Checks the function before a job starts, and puts its source into the spec's digest.

    Raises:
      SpecError: It cannot be imported or traced, or returns what cannot be stored.
    """
    if spec.preprocessing_fn is None:
        return
    spec.traced[KEY] = functions.source_digest(load(spec))
    given = preprocessing.feature_spec(spec).items()
    tft.get_analyze_input_columns(_made(spec, None), {name: _type(of) for name, of in given})


def check_output(spec: Spec, output: str) -> None:
    """Checks that TFT can leave its files where workers elsewhere share none but the output.

    Raises:
      SpecError: TensorFlow has no file system for it.
    """
    scheme, mark, _ = output.partition("://")
    if spec.preprocessing_fn and mark and scheme not in tf.io.gfile.get_registered_schemes():
        raise SpecError(
            f"{KEY}: TFT leaves files in the output folder, by TensorFlow, which does not reach "
            f"{scheme}:// as {output!r} has it. Write to gs:// or a folder that all workers share, "
            "or run locally."
        )


def _type(feature: Any) -> tf.TypeSpec:
    if isinstance(feature, tf.io.VarLenFeature):
        return tf.SparseTensorSpec([None, None], feature.dtype)
    return tf.TensorSpec([None, *feature.shape], feature.dtype)


def _made(spec: Spec, statistics: beam.PCollection | None) -> _PreprocessingFn:
    """Returns a preprocessing_fn for TFT: the features of the spec, then the user's function."""
    features = preprocessing.preprocessing_fn(spec, statistics)

    def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
        # Here and not outside: a worker that unpickled the function could not import its module,
        # which may lie beside the spec.
        function, given = load(spec), features(inputs)
        try:
            outputs = function(given)
        except Exception as error:  # The user's function may raise anything.
            raise SpecError(f"{KEY}: {functions.said(error)}.") from error
        if not isinstance(outputs, Mapping) or not outputs:
            raise SpecError(f"{KEY}: must return a dict of tensors, but returned {outputs!r}.")
        for name in outputs:
            _check_name(name, spec)
        chance.refuse(
            tf.compat.v1.get_default_graph().as_graph_def(), f"{KEY}: {spec.preprocessing_fn}"
        )
        return {name: _stored(name, tensor) for name, tensor in outputs.items()}

    return preprocess


def _check_name(name: Any, spec: Spec) -> None:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise SpecError(f"{KEY}: a feature must have a name, but is called {name!r}.")
    if name in {LABEL, *spec.beside_features}:
        raise SpecError(
            f"{KEY}: a feature may not be called {name!r}: a label or the weight is stored under "
            "it. Call it another."
        )


def _stored(name: str, tensor: Any) -> tf.Tensor:
    """Returns an output with a dtype that is stored."""
    shape = tensor.shape if isinstance(tensor, tf.Tensor) else None
    if shape is None or shape.rank not in (1, 2) or None in shape[1:] or shape[0] is not None:
        what = type(tensor).__name__ if shape is None else f"a tensor of shape {shape}"
        raise SpecError(
            f"{KEY}: {name!r} must be dense, (batch_size,) or (batch_size, n) with a known n, but "
            f"is {what}. Use tf.sparse.to_dense and tf.ensure_shape."
        )
    if tensor.dtype.is_floating:
        return tf.cast(tensor, tf.float32)
    if tensor.dtype in (tf.complex64, tf.complex128, tf.uint64):
        raise SpecError(
            f"{KEY}: {name!r} must be of a dtype that float32, int64 or string holds, but is "
            f"{tensor.dtype.name}. Cast it."
        )
    return tensor if tensor.dtype == tf.string else tf.cast(tensor, tf.int64)


@dataclasses.dataclass(eq=False)
class Analyze(beam.PTransform):
    """Lets TFT run the analyzers of the function over train.

    Input:  PCollection[pa.RecordBatch] as `to_lists` makes them.
    Output: PCollection of one SavedTransform.
    """

    spec: Spec
    statistics: beam.PCollection  # of what the features of the spec need
    folder: str  # which all workers see

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """TFT adds a dozen steps for each kind of analyzer."""
        saved = files.join(self.folder, "tft")
        given = preprocessing.feature_spec(self.spec)
        with tft_beam.Context(temp_dir=files.join(self.folder, "temp")):
            data = batches, saved_transform.adapter(given)
            made = _made(self.spec, self.statistics)
            transform_fn = data | "Analyze" >> tft_beam.AnalyzeDataset(made)
            written = transform_fn | "Write" >> tft_beam.WriteTransformFn(saved)
        return written | "Read" >> beam.Map(lambda _: saved_transform.read(saved))


def to_lists(raw: pa.RecordBatch) -> pa.RecordBatch:
    """Returns raw columns as TFT takes them: lists of one value, or of none where it is missing."""
    arrays = []
    for column in raw.columns:
        if pa.types.is_list(column.type):
            arrays.append(column)
            continue
        values = column.drop_null()
        ends = np.cumsum(column.is_valid().to_numpy(zero_copy_only=False), dtype=np.int32)
        offsets = pa.array(np.append(np.int32(0), ends), pa.int32())
        values = values.cast(pa.binary()) if values.type == pa.string() else values
        arrays.append(pa.ListArray.from_arrays(offsets, values))
    return pa.record_batch(arrays, raw.schema.names)


def padded(raw: pa.RecordBatch) -> pa.RecordBatch:
    """Adds records behind the last one, so that the bits of none depend on how many there are."""
    last = raw.take(pa.array([raw.num_rows - 1] * _PADDING, pa.int64()))
    return pa.Table.from_batches([raw, last]).combine_chunks().to_batches()[0]


def to_arrow(name: str, values: tf.Tensor) -> pa.Array:
    """Returns an output: float32, int64 or string, or lists of these (num_records,).

    Raises:
      DataError: A text is no UTF-8.
    """
    array = values.numpy()
    flat = pa.array(array.ravel())
    try:
        flat = flat.cast(pa.string()) if flat.type == pa.binary() else flat
    except pa.ArrowInvalid as error:
        raise DataError(
            f"features.{name}: a text that {KEY} returns is not UTF-8. Encode it, as by "
            "tf.io.encode_base64."
        ) from error
    if array.ndim == 1:
        return flat
    offsets = np.arange(array.shape[0] + 1, dtype=np.int32) * array.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def entries(transform: SavedTransform) -> dict[str, Any]:
    """Returns what the manifest says of the outputs, from the schema that TFT wrote."""
    schema = text_format.Parse(transform.contents[_SCHEMA], schema_pb2.Schema())
    kinds = {schema_pb2.FLOAT: "float32", schema_pb2.INT: "int64", schema_pb2.BYTES: "string"}
    found = {}
    for feature in sorted(schema.feature, key=lambda feature: feature.name):
        domain, categories = feature.int_domain, None
        if domain.is_categorical and domain.min == 0:
            categories = domain.max + 1
        entry = dataset_info.column_entry(kinds[feature.type], categories, True)
        entry["shape"] = [dim.size for dim in feature.shape.dim]
        found[feature.name] = entry
    return found
