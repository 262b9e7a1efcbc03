"""From a trained model's output to what it means: probabilities and classes, or a value."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.dataset_info import LABEL, DatasetInfo, Label
from trainer.errors import UsageError


def input_names(network: keras.Model) -> list[str] | None:
    """Returns the features that a model takes, or None where it does not say: all of them."""
    try:
        inputs = network.input
    except (AttributeError, ValueError):  # A subclassed model that was not called yet.
        return None
    return list(inputs) if isinstance(inputs, dict) else None


def loss_of(network: keras.Model, label: str = LABEL) -> Any:
    """Returns the loss with which a model, or its output for a label, was compiled."""
    loss = getattr(network, "loss", None)
    return loss.get(label) if isinstance(loss, Mapping) else loss


def loss_name(network: keras.Model, label: str = LABEL) -> str | None:
    """Returns the name of the loss with which a model was compiled, None for one's own."""
    loss = loss_of(network, label)
    name = loss if isinstance(loss, str) else getattr(loss, "name", None)
    return name if isinstance(name, str) else None


def named(output: Any, network: keras.Model, info: DatasetInfo) -> dict[str, tf.Tensor]:
    """Returns what a model's output says about the labels.

    Args:
      output: Of the model, for a batch. A dict of tensors is returned as it is, but for the outputs
        of several labels.
      network: The model; where its loss takes logits, they become probabilities.
      info: What it was trained on.

    Returns:
      What `of_label` returns; of several labels each as `<label>_<name>`.

    Raises:
      UsageError: The output does not fit a label.
    """
    if info.label is None:
        outputs = of_labels(output, info)
        found = {
            f"{name}_{what}": values
            for name, label in info.labels.items()
            for what, values in of_label(outputs[name], loss_of(network, name), label).items()
        }
        return found | {name: values for name, values in outputs.items() if name not in info.labels}
    if isinstance(output, Mapping):
        return dict(output)
    return of_label(output, loss_of(network), info.label)


def of_labels(output: Any, info: DatasetInfo) -> Mapping[str, Any]:
    """Returns the outputs of a model by label.

    Raises:
      UsageError: There is none for a label.
    """
    outputs = output if isinstance(output, Mapping) else {LABEL: output}
    for name in info.require_targets():
        if name not in outputs:
            raise UsageError(f"the model has no output for the label {name!r} of {info.directory}.")
    return outputs


def of_label(output: Any, loss: Any, label: Label) -> dict[str, tf.Tensor]:
    """Returns what an output says about a label.

    Returns:
      For classes `probabilities` float32 (batch, classes), `class` string (batch,), the name of
      the most probable one, and `score` float32 (batch,), its probability. For a multi_label
      `probabilities`, and `class`, the names of all above 0.5 with the separator between them. For
      other labels `value` float32 (batch,): the predicted one, or where the loss is
      binary_crossentropy the probability of 1.

    Raises:
      UsageError: The output does not fit the label.
    """
    if not hasattr(output, "shape"):
        raise UsageError("the model must have one output or a dict of them, but has several.")
    output = tf.cast(output, tf.float32)
    is_single = output.shape.rank == 2 and output.shape[1] == 1
    from_logits = getattr(loss, "from_logits", False)
    if label.type not in ("class", "multi_label"):
        value = tf.squeeze(output, 1) if is_single else output
        return {"value": tf.sigmoid(value) if from_logits else value}
    if label.type == "multi_label":
        probabilities = tf.sigmoid(output) if from_logits else output
    elif is_single and len(label.classes) == 2:
        second = tf.sigmoid(output) if from_logits else output
        probabilities = tf.concat([1 - second, second], axis=1)
    else:
        probabilities = tf.nn.softmax(output) if from_logits else output
    if probabilities.shape[1:] != (len(label.classes),):
        raise UsageError(
            f"the model's output must be (batch, {len(label.classes)}) like the classes of the "
            f"dataset, but is {tuple(output.shape)}."
        )
    names = tf.constant(label.classes)
    if label.type == "multi_label":
        return {"probabilities": probabilities, "class": _joined(probabilities, names, label)}
    best = tf.argmax(probabilities, axis=1)
    return {
        "probabilities": probabilities,
        "class": tf.gather(names, best),
        "score": tf.reduce_max(probabilities, axis=1),
    }


def _joined(probabilities: tf.Tensor, names: tf.Tensor, label: Label) -> tf.Tensor:
    """Returns the classes that are more probable than not as the raw column writes them."""
    shape = tf.shape(probabilities)
    chosen = tf.ragged.boolean_mask(tf.broadcast_to(names, shape), probabilities > 0.5)
    return tf.strings.reduce_join(chosen, axis=1, separator=label.separator)
