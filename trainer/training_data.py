"""The batches of a training: what the loader reads, checked, weighted, and for this host."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from trainer import input_pipeline, parsing
from trainer.augmentation import Augmentation
from trainer.checkpoints import Position
from trainer.config import Config, has_validation
from trainer.dataset_info import LABEL, DatasetInfo
from trainer.distribution import Spread
from trainer.errors import UsageError
from trainer.input_pipeline import Options

_EVALUATION_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The splits `train` and `validation` of a dataset, as one training reads them.

    Attributes:
      info: The dataset.
      config: How it is trained.
      spread: Who takes part.
      features: The names of those to read; None means all.
      cache: A folder of this machine to which shards are copied first; None: they are not.
    """

    info: DatasetInfo
    config: Config
    spread: Spread
    features: Sequence[str] | None
    cache: str | None

    def check(self) -> None:
        """Raises a UsageError where the features to read cannot be cropped or augmented so."""
        options = self._options(augmentation=self._augmentation())
        input_pipeline.checked_columns(self.info, options)

    def training(self, begin: Position, num_epochs: int) -> tf.data.Dataset:
        """Returns one stream: the rest of the epoch that is begun, and the next ones.

        (features, label), or with class weights or weights (features, label, weight). Where records
        are mixed, a label is the probability of each class.
        """
        options = self._options(
            training=True,
            seed=self.config.seed,
            epoch=begin.epoch,
            step=begin.step,
            epochs=num_epochs,
            augmentation=self._augmentation(),
        )
        batches = input_pipeline.load(self.info, "train", self.config.batch_size, options)
        batches = self._checked(batches, "train")
        return batches.map(self._balanced()) if self.config.class_weights == "balanced" else batches

    def validation(self) -> tuple[tf.data.Dataset | None, int | None]:
        """Returns batches with each example once, and their number; None if there are none."""
        if not has_validation(self.info):
            return None, None
        options = self._options(training=False, remainder=self.spread.remainder)
        where = self.info, "validation", self.spread.fitting(_EVALUATION_BATCH_SIZE), options
        num_steps = input_pipeline.num_steps(*where)
        batches = self._checked(input_pipeline.load(*where), "validation")
        if self.config.has_soft_labels:  # As the loss takes them.
            num_classes = len(self.info.require_label().classes)
            batches = batches.map(
                lambda features, label, *weight: (features, tf.one_hot(label, num_classes), *weight)
            )
        if options.remainder == "pad":
            # Keras divides a loss by all examples of a batch, those of weight 0 included.
            num_padded = num_steps * where[2]
            share = num_padded / self.info.splits["validation"].num_examples
            batches = batches.map(lambda features, label, weight: (features, label, weight * share))
        return batches, num_steps

    def _balanced(self) -> Callable:
        """Returns what gives examples the weights of their classes, times their own."""
        of_class = {
            name: tf.constant(class_weights(self.info, name), tf.float32)
            for name, label in self.info.targets.items()
            if label.type == "class"
        }

        def weigh(features: Any, target: Any, weight: tf.Tensor | None = None) -> tuple[Any, ...]:
            def weighted(name: str, of: tf.Tensor) -> tf.Tensor:
                own = tf.ones(tf.shape(of)[:1]) if weight is None else weight
                return own * _weight(of_class[name], of) if name in of_class else own

            if not isinstance(target, dict):
                return features, target, weighted(LABEL, target)
            return features, target, {name: weighted(name, of) for name, of in target.items()}

        return weigh

    def _augmentation(self) -> Augmentation | None:
        values = self.config.augmentation
        return None if values is None else Augmentation(**values)

    def _options(self, **options: Any) -> Options:
        return Options(
            host=self.spread.host,
            num_hosts=self.spread.num_hosts,
            features=self.features,
            crop=None if self.config.crop is None else (self.config.crop[0], self.config.crop[1]),
            cache=self.cache,
            **options,
        )

    def _checked(self, batches: tf.data.Dataset, split: str) -> tf.data.Dataset:
        """Stops at a label for which there is no class.

        TensorFlow's loss becomes NaN for it, and JAX takes it for another class.
        """
        labels = {n: label for n, label in self.info.targets.items() if label.type == "class"}
        if not labels:
            return batches

        def known(name: str, target: tf.Tensor) -> tf.Tensor:
            if name not in labels or not target.dtype.is_integer:
                return target  # Where records are mixed, that was seen to before.
            return parsing.known_classes(target, labels[name], split)

        def check(features: Any, target: Any, *weight: tf.Tensor) -> tuple[Any, ...]:
            if isinstance(target, dict):
                target = {name: known(name, of) for name, of in target.items()}
            else:
                target = known(LABEL, target)
            return features, target, *weight

        return batches.map(check)


def _weight(weights: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Returns the weight of each example, whose label is a class or the probability of each."""
    if label.dtype.is_integer:
        return tf.gather(weights, label)
    return tf.linalg.matvec(label, weights)


def class_weights(info: DatasetInfo, name: str = LABEL) -> list[float]:
    """Returns for each class the weight with which all classes have the same sum of weights.

    Their mean over all examples is 1. A class without examples has weight 0. They are those of the
    manifest, which older datasets lack: examples are counted, whatever their own weights are.

    Raises:
      UsageError: The manifest does not say of which class the examples are.
    """
    train, label = info.split("train"), info.targets[name]
    found = train.counts(name)
    counts = [found.get(each, 0) for each in label.classes]
    if sum(counts) != train.num_examples:
        raise UsageError(
            f"{info.directory}: class_counts of split 'train' add up to {sum(counts)}, but it has "
            f"{train.num_examples} examples: classes cannot be weighted. Leave class weights out."
        )
    num_present = sum(count > 0 for count in counts)
    return [sum(counts) / (num_present * count) if count else 0.0 for count in counts]
