"""A trained model and the preprocessing that it was trained with as one SavedModel."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer import feature_names, model_dataset, model_folder, predictions
from trainer.dataset_info import DatasetInfo
from trainer.errors import UsageError
from trainer.model_dataset import ModelDataset
from trainer.raw_features import RawFeatures, Tensors

DEFAULT, EXAMPLES, STORED = "serving_default", "serialized_examples", "stored_features"
DESCRIPTION = os.path.join("assets.extra", "headrace.json")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      signatures: The names of the inputs of each signature.
      renamed: Names of the dataset that no signature can have, and those that stand for them.
      has_transform_fn: Whether raw input can be given.
      packages: What must be imported, beside TensorFlow, before it is loaded.
    """

    signatures: Mapping[str, list[str]]
    renamed: Mapping[str, str]
    has_transform_fn: bool
    packages: Sequence[str]


class Served(tf.Module):
    """A model behind its preprocessing; what it holds is saved with it."""

    def __init__(
        self,
        network: keras.Model,
        dataset: ModelDataset,
        crop: tuple[int, int] | None = None,
    ):
        """Takes a trained model, the dataset and what is cut out of image files."""
        super().__init__()
        self._variables = [variable.value for variable in network.variables]
        self._resources = _tables(network)
        names = predictions.input_names(network)
        self.features = _specs(dataset.info.cropped(crop), names)
        self.raw = RawFeatures(dataset, crop) if dataset.transform_fn else None

        # Not part of the graphs that call it, so that each of them computes the same bits.
        @tf.function(
            input_signature=[self.features],
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
        def predict(features: Tensors) -> dict[str, tf.Tensor]:
            return predictions.named(network(features, training=False), network, dataset.info)

        self.of_stored = predict

    @property
    def outputs(self) -> list[str]:
        """The names of what is predicted."""
        return list(self.of_stored.get_concrete_function().structured_outputs)

    def of_raw(self, raw: Tensors, orientation: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the predictions for raw inputs, as `RawFeatures.stored` takes them."""
        if self.raw is None:
            raise UsageError("there is no transform_fn, which raw input needs.")
        stored = self.raw.stored(raw, orientation)
        return self.of_stored({name: stored[name] for name in self.features})

    def of_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the predictions for serialized tf.train.Examples of raw inputs."""
        if self.raw is None:
            raise UsageError("there is no transform_fn, which raw input needs.")
        return self.of_raw(self.raw.parse(examples))


def load(model_dir: str, directory: str | None = None) -> tuple[Served, ModelDataset]:
    """Loads a model and the preprocessing it was trained with.

    Args:
      model_dir: The folder that `train` made.
      directory: The dataset, where the model's folder keeps nothing of it.

    Raises:
      UsageError: One of both is not there, or they do not fit.
      DatasetError: The dataset is damaged.
    """
    network = model_folder.load(model_dir)
    dataset = model_dataset.read(model_dir, directory)
    note = model_folder.check_fits(model_dir, dataset.info)
    if note:  # What another transform_fn makes of raw input means something else to the model.
        raise UsageError(f"{note.rstrip('.')}. Name the dataset it was trained on: --dataset DIR.")
    crop = model_folder.read_crop(model_dir)
    dataset.info.require_targets()
    return Served(network, dataset, crop), dataset


def export(
    model_dir: str | os.PathLike, output: str | os.PathLike, directory: str | None = None
) -> Exported:
    """Writes a SavedModel from raw input to prediction, which needs nothing but TensorFlow.

    Its signatures, as far as the dataset allows them:
      serving_default: the raw columns, each (batch,) or lists (batch, n), or an image's JPEG or
        PNG file; without a transform_fn the features as stored.
      serialized_examples: `examples`, string (batch,): tf.train.Examples of the same.
      stored_features: the features as the records hold them.

    Args:
      model_dir: The folder that `train` made.
      output: The folder to write, a path or URL; there must be nothing yet.
      directory: The dataset, where the model's folder keeps nothing of it.

    Raises:
      UsageError: The model, the dataset or the output folder is not what it must be.
      DatasetError: The dataset is damaged.
    """
    output = os.fspath(output)
    _check_free(output)
    served, dataset = load(os.fspath(model_dir), directory)
    signatures, renamed = _signatures(served)
    description = _description(dataset, served, renamed)
    is_remote = "://" in output
    parent = None if is_remote else os.path.dirname(os.path.abspath(output))
    try:
        if parent:
            os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=parent) as scratch:
            partial = output if is_remote else os.path.join(scratch, "saved")
            tf.saved_model.save(served, partial, signatures=signatures)
            path = os.path.join(partial, DESCRIPTION)
            tf.io.gfile.makedirs(os.path.dirname(path))
            with tf.io.gfile.GFile(path, "w") as file:
                file.write(json.dumps(description, indent=1, ensure_ascii=False) + "\n")
            if not is_remote:
                os.rename(partial, output)  # In the place of an empty folder, too.
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "message", None) or error
        raise UsageError(f"{output}: cannot be written ({reason}).") from error
    packages = description["packages"]
    return Exported(description["signatures"], renamed, served.raw is not None, packages)


def export_tflite(model_dir: str | os.PathLike, output: str | os.PathLike) -> list[str]:
    """Writes a TFLite file from stored features to the model's output, by Keras' own exporter.

    transform_fn is not part of it: TFLite has not all of its operations.

    Args:
      model_dir: The folder that `train` made.
      output: The file to write, a local path; it must not be there yet.

    Returns:
      The names of the inputs.

    Raises:
      UsageError: There is no model, or Keras cannot convert or write it.
    """
    output = os.fspath(output)
    _check_free(output)
    network = model_folder.load(os.fspath(model_dir))
    parent = os.path.dirname(os.path.abspath(output))
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=parent) as scratch:
            partial = os.path.join(scratch, "model.tflite")  # Keras wants that ending.
            network.export(partial, format="litert", verbose=False)
            os.replace(partial, output)
    except Exception as error:  # The converter raises many kinds.
        reason = str(error).strip().splitlines() or [repr(error)]
        raise UsageError(f"{output}: cannot be written as TFLite ({reason[0]}).") from error
    return predictions.input_names(network) or []


def _check_free(output: str) -> None:
    """Raises a UsageError where there is something already."""
    is_folder = tf.io.gfile.isdir(output)
    if tf.io.gfile.listdir(output) if is_folder else tf.io.gfile.exists(output):
        raise UsageError(f"{output}: is there already. Remove it, or give another --output.")


def _specs(info: DatasetInfo, names: Iterable[str] | None) -> dict[str, tf.TensorSpec]:
    """Returns the stored features that a model takes.

    Raises:
      UsageError: The dataset lacks one.
    """
    names = list(info.features) if names is None else list(names)
    for name in names:
        if name not in info.features:
            raise UsageError(
                f"{info.directory}: the model takes a feature {name!r}, but the dataset has "
                f"{', '.join(info.features)}."
            )
    chosen = {name: info.features[name] for name in names}
    return {n: tf.TensorSpec((None, *f.shape), f.dtype, name=n) for n, f in chosen.items()}


def _tables(network: keras.Model) -> list[Any]:
    """Returns the lookup tables in a model's layers, which are no variables."""
    resource = tf.saved_model.experimental.TrackableResource
    found = (value for layer in network._flatten_layers() for value in vars(layer).values())
    return [value for value in found if isinstance(value, resource)]


def _signatures(served: Served) -> tuple[dict[str, tf.types.experimental.ConcreteFunction], dict]:
    """Returns the functions to export, and the names that they had to change."""
    arguments = feature_names.identifiers(
        [*served.features, *(served.raw.dtypes if served.raw else ())]
    )
    signatures = {STORED: _traced(served.of_stored, served.features, arguments)}
    if served.raw:
        shapes, dtypes = served.raw.shapes, served.raw.dtypes
        columns = {n: tf.TensorSpec([None, *shapes[n]], dtype) for n, dtype in dtypes.items()}
        signatures[DEFAULT] = _traced(served.of_raw, columns, arguments)
        examples = tf.TensorSpec([None], tf.string, name="examples")
        of_examples = tf.function(served.of_examples, [examples], autograph=False)
        signatures[EXAMPLES] = of_examples.get_concrete_function()
    else:
        signatures[DEFAULT] = signatures[STORED]
    return signatures, {name: other for name, other in arguments.items() if name != other}


def _traced(
    function: Callable[[Tensors], dict[str, tf.Tensor]],
    specs: Mapping[str, tf.TensorSpec],
    arguments: Mapping[str, str],
) -> tf.types.experimental.ConcreteFunction:
    """Traces a function of a dict whose names are those of the signature."""
    given = {
        arguments[name]: tf.TensorSpec(spec.shape, spec.dtype, name=arguments[name])
        for name, spec in specs.items()
    }

    def renamed(inputs: Tensors) -> dict[str, tf.Tensor]:
        return function({name: inputs[arguments[name]] for name in specs})

    return tf.function(renamed, [given], autograph=False).get_concrete_function()


def _description(
    dataset: ModelDataset, served: Served, renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Returns what a client has to know of the signatures beside what they tell themselves."""
    labels = {
        name: {"type": label.type, "classes": list(label.classes)}
        for name, label in dataset.info.require_targets().items()
    }
    stored = [renamed.get(name, name) for name in served.features]
    described: dict[str, Any] = {
        "name": dataset.info.name,
        "spec_digest": dataset.info.spec_digest,
        **({"labels": labels} if dataset.info.labels else labels),
        "renamed": dict(renamed),
        "signatures": {DEFAULT: stored, STORED: stored},
        "packages": list(served.raw.packages) if served.raw else [],
    }
    if served.raw:
        raw = [renamed.get(name, name) for name in served.raw.dtypes]
        described["signatures"] = {DEFAULT: raw, EXAMPLES: ["examples"], STORED: stored}
        described["missing"] = {
            renamed.get(name, name): "NaN" if missing != missing else missing
            for name in served.raw.optional
            for missing in [served.raw.missing(name)]
        }
    return described
