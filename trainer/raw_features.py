"""The dataset's transform_fn with inputs that anyone can give: dense tensors, or tf.Examples.

A column that may be missing is a sparse input of transform_fn, which neither TF Serving's REST
interface nor its command line can give. Here it is a plain tensor, too, in which a value stands
for "missing": NaN among float32, the smallest int64, and for texts what the spec's `null_values`
say, as in the files that were read.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer import image_files, parsing
from trainer.dataset_info import DatasetInfo
from trainer.errors import UsageError
from trainer.model_dataset import ModelDataset

Tensors = Mapping[str, tf.Tensor]

_ORIENTATION = "_orientation"  # transform_fn's second input of an image: `<feature>_orientation`.


class RawFeatures(tf.Module):
    """A transform_fn that is part of a module to be saved.

    Attributes:
      packages: What must be imported, beside TensorFlow, before transform_fn is loaded.
      shapes: Of each raw input, without the batch: () or, of lists, (size,) or (None,).
      image: The name of the first input that is an image file; None in a table.
    """

    def __init__(self, dataset: ModelDataset, crop: tuple[int, int] | None = None):
        """Loads it.

        Args:
          dataset: Whose transform_fn.
          crop: Height and width of what is cut out of the middle of images stored as files.
        """
        super().__init__()
        self.packages = _with_ops(dataset.info)
        self._loaded = tf.saved_model.load(dataset.transform_fn)
        self._inputs = _inputs(self._loaded.transform_fn)
        features = [f for f in dataset.info.features.values() if f.kind is None]  # What serves.
        self._dtypes = {feature.name: feature.dtype for feature in features}
        self._ragged = {f.name: f.shape[0] for f in features if f.is_ragged}
        null_values = dataset.spec.get("source", {}).get("null_values", [""])
        self._null_values = tuple(null_values) or ("",)
        self._crop = crop
        self._images = {feature.name: feature for feature in features if feature.is_image}
        self.image = next(iter(self._images), None)
        self.shapes = {name: self._shape(name, dataset.spec) for name in self.dtypes}

    @property
    def dtypes(self) -> dict[str, tf.DType]:
        """The raw columns, or the image file."""
        return {
            name: spec.dtype
            for name, spec in self._inputs.items()
            if name not in [f"{image}{_ORIENTATION}" for image in self._images]
        }

    def _shape(self, name: str, spec: Mapping[str, Any]) -> tuple[int | None, ...]:
        given = self._inputs[name]
        if not isinstance(given, tf.SparseTensorSpec):
            return tuple(given.shape[1:])
        features = spec.get("features", {}).items()
        made = {(f.get("column") or n, f.get("type")) for n, f in features if not f.get("columns")}
        return (None,) if (name, "vector") in made else ()

    @property
    def optional(self) -> list[str]:
        """The columns in which a value may be missing."""
        return [name for name, s in self._inputs.items() if isinstance(s, tf.SparseTensorSpec)]

    def missing(self, name: str) -> str | int | float:
        """Returns the value that stands for a missing one."""
        dtype = self._inputs[name].dtype
        if dtype == tf.string:
            return self._null_values[0]
        return float("nan") if dtype.is_floating else dtype.min

    def stored(self, raw: Tensors, orientation: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the features as records hold them.

        Args:
          raw: Each raw input, (batch, *shape).
          orientation: The EXIF orientation of each image, int64 (batch,), for files of the first
            image feature that `headrace` made fit for TensorFlow's decoder; None: all files are as
            they are.
        """
        given = dict(raw)
        for name, feature in self._images.items():
            of_image = orientation if name == self.image else None
            if of_image is None:
                channels = feature.image_shape[2]
                given[name], of_image = image_files.read_batch(given[name], channels)
            given[f"{name}{_ORIENTATION}"] = of_image
        inputs = {
            name: self._sparse(given[name]) if name in self.optional else given[name]
            for name in self._inputs
        }
        outputs = self._loaded.transform_fn(inputs)
        dense = {
            name: tf.sparse.to_dense(output) if isinstance(output, tf.SparseTensor) else output
            for name, output in outputs.items()
        }
        for name, longest in self._ragged.items():  # As the records of training are padded.
            cut = dense[name][:, :longest]
            dense[name] = tf.pad(cut, [[0, 0], [0, longest - tf.shape(cut)[1]]])
        for name, feature in self._images.items():
            if feature.is_encoded:
                dense[name] = parsing.images(dense[name], feature, self._crop)
        # TFT knows no uint8 and no bfloat16: they come as int64 and as float32.
        return {name: tf.cast(dense[name], dtype) for name, dtype in self._dtypes.items()}

    def parse(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the raw inputs that serialized tf.train.Examples, (batch,), hold."""
        return tf.io.parse_example(examples, {name: self._feature(name) for name in self.dtypes})

    def _feature(self, name: str) -> tf.io.FixedLenFeature | tf.io.FixedLenSequenceFeature:
        dtype, shape = self.dtypes[name], self.shapes[name]
        default = self.missing(name) if name in self.optional else None
        if None in shape:
            return tf.io.FixedLenSequenceFeature([], dtype, True, default)
        return tf.io.FixedLenFeature(shape, dtype, default)

    def _sparse(self, values: tf.Tensor) -> tf.SparseTensor:
        """Returns the values that are there as (batch, 1); of lists as (batch, longest)."""
        values = values if values.shape.rank == 2 else values[:, tf.newaxis]
        if values.dtype == tf.string:
            is_missing = tf.reduce_any(values[..., tf.newaxis] == list(self._null_values), axis=-1)
        elif values.dtype.is_floating:
            is_missing = tf.math.is_nan(values)
        else:
            is_missing = values == values.dtype.min
        shape = tf.shape(values, tf.int64)
        return tf.SparseTensor(tf.where(~is_missing), tf.boolean_mask(values, ~is_missing), shape)


def _with_ops(info: DatasetInfo) -> tuple[str, ...]:
    """Imports the packages whose ops transform_fn holds, and returns their names.

    Raises:
      UsageError: One is not there.
    """
    tokenized = [feature.name for feature in info.features.values() if feature.tokenizer]
    if not tokenized:
        return ()
    try:
        importlib.import_module("tensorflow_text")
    except ImportError as error:
        raise UsageError(
            f"{info.directory}: the tokens of {tokenized[0]!r} come from tensorflow-text, which is "
            f"not there ({error}). Install headrace with its extra `text`."
        ) from error
    return ("tensorflow-text",)


def _inputs(transform_fn) -> dict[str, tf.TypeSpec]:
    """Returns what transform_fn takes, by name."""
    functions: Sequence = getattr(transform_fn, "concrete_functions", [transform_fn])
    positional, named = functions[0].structured_input_signature
    return dict(sorted((positional[0] if positional else named).items()))
