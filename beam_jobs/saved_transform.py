"""TFT traces a preprocessing_fn and saves it: in a pipeline of its own, inside one task.

The statistics are computed before, so that TFT sees one empty batch, and its dozens of steps need
no cluster. The job's own graph stays small, and TFT writes to a local disk on any engine; what it
wrote travels as one element, so that a retried task cannot mix the files of two attempts.
"""

import dataclasses
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.io.filesystems import FileSystems
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.public import tfxio

from beam_jobs import engines, files
from beam_jobs.hidden import hidden

# TFT imports it if it is there, half a second, for the ops of a graph that may have some of it.
_ADDON = "tensorflow_text"
_ARROW_TYPES = {tf.float32: pa.float32(), tf.int64: pa.int64(), tf.string: pa.binary()}
_FOLDERS = (
    tft.TFTransformOutput.TRANSFORM_FN_DIR,
    tft.TFTransformOutput.TRANSFORMED_METADATA_DIR,
)
_PreprocessingFn = Callable[[Any], dict[str, tf.Tensor]]
_loaded: dict[str, Any] = {}  # The last one that this process used.
_LOADING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class SavedTransform:
    """A transform_fn and its metadata.

    Attributes:
      contents: Of each file, by its path in the dataset folder.
      digest: sha256 over them.
    """

    contents: Mapping[str, bytes]
    digest: str

    def write(self, folder: str) -> None:
        """Writes the files below a dataset folder."""
        for name, data in self.contents.items():
            path = files.join(folder, name)
            files.make_folder(os.path.dirname(path))
            files.write(path, data)

    def load(self) -> Any:
        """Returns the SavedModel, once in a process."""
        with _LOADING:
            if self.digest not in _loaded:
                with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
                    self.write(folder)
                    model = tf.saved_model.load(
                        os.path.join(folder, tft.TFTransformOutput.TRANSFORM_FN_DIR)
                    )
                _loaded.clear()
                _loaded[self.digest] = model
            return _loaded[self.digest]


def trace(
    make: Callable[[beam.PCollection], _PreprocessingFn],
    feature_spec: Mapping[str, Any],
    statistics: Any,
) -> SavedTransform:
    """Lets TFT trace and save a preprocessing_fn.

    Args:
      make: Takes the PCollection of the statistics and returns the preprocessing_fn. Whose ops are
        tensorflow-text's, has imported it before.
      feature_spec: The TF feature spec of its inputs.
      statistics: What its analyzer hands over.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        with hidden(_ADDON), tft_beam.Context(temp_dir=os.path.join(folder, "temp")):
            with _pipeline() as pipeline:
                given = pipeline | "Statistics" >> beam.Create([statistics], reshuffle=False)
                data = pipeline | "EmptyBatch" >> beam.Create(
                    [_empty(feature_spec)], reshuffle=False
                )
                config = adapter(feature_spec)
                transform_fn = (data, config) | "Analyze" >> tft_beam.AnalyzeDataset(make(given))
                transform_fn | "Write" >> tft_beam.WriteTransformFn(os.path.join(folder, "saved"))
        return read(os.path.join(folder, "saved"))


def _pipeline() -> beam.Pipeline:
    """Returns a local one; to make it sets the options of all the process's file systems."""
    before = FileSystems._pipeline_options
    try:
        return beam.Pipeline(options=engines.options("local"))
    finally:
        FileSystems.set_options(before)


def read(folder: str) -> SavedTransform:
    """Returns what `SavedTransform.write` wrote below a dataset folder, perhaps nothing."""
    contents, digest = {}, hashlib.sha256()
    for top in _FOLDERS:
        for name in files.below(files.join(folder, top)):
            contents[f"{top}/{name}"] = data = files.read(files.join(folder, top, name)) or b""
            digest.update(data)
    return SavedTransform(contents, digest.hexdigest())


def _empty(feature_spec: Mapping[str, Any]) -> pa.RecordBatch:
    arrays = [
        pa.array([], pa.list_(_ARROW_TYPES[feature.dtype])) for feature in feature_spec.values()
    ]
    return pa.record_batch(arrays, list(feature_spec))


def adapter(feature_spec: Mapping[str, Any]) -> tfxio.TensorAdapterConfig:
    """Returns how TFT makes tensors of record batches of lists."""
    tensors = {name: _representation(name, feature) for name, feature in feature_spec.items()}
    return tfxio.TensorAdapterConfig(_empty(feature_spec).schema, tensors)


def _representation(name: str, feature: Any) -> schema_pb2.TensorRepresentation:
    kinds = schema_pb2.TensorRepresentation
    if isinstance(feature, tf.io.VarLenFeature):
        return kinds(varlen_sparse_tensor=kinds.VarLenSparseTensor(column_name=name))
    shape = schema_pb2.FixedShape()
    for size in feature.shape:
        shape.dim.add(size=size)
    return kinds(dense_tensor=kinds.DenseTensor(column_name=name, shape=shape))
