"""What a training is to be: as asked for, and the rest as it follows from the dataset."""

import dataclasses
import math
from typing import Any

import keras

from trainer import input_pipeline
from trainer.augmentation import Augmentation
from trainer.choices import CLASS_WEIGHTS, MIXED_PRECISION, SCHEDULES
from trainer.dataset_info import DatasetInfo
from trainer.distribution import Spread
from trainer.errors import UsageError

_FEW_EXAMPLES = 1_000  # A table below this is learnt by heart when it is trained for long.
_LEARNING_RATE = 0.003


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides what the weights become, beside the dataset.

    Attributes:
      epochs: Passes over train; the last one may end early.
      steps: Batches of the whole training.
      steps_per_epoch: Batches of a whole epoch.
      batch_size: Examples a step.
      learning_rate: The highest one of the schedule.
      schedule: One of SCHEDULES.
      class_weights: One of CLASS_WEIGHTS.
      accumulate: Steps whose gradients make one change of the weights.
      patience: Epochs without a better one after which the training ends; None: never.
      crop: Height and width of what is cut out of images that are stored as files; None: nothing.
      augmentation: What of an `Augmentation` is not as by default; None: images are not changed.
      mixed_precision: One of MIXED_PRECISION.
      seed: Of the first weights, of dropout and of the order of the examples.
      deterministic: Whether only operations are used that give the same bits in every run.
      model: The function that builds the network, as `package.module:function`.
      backend: Keras': tensorflow or jax. Each computes other bits.
    """

    epochs: int
    steps: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: float
    schedule: str
    class_weights: str
    accumulate: int
    patience: int | None
    crop: list[int] | None
    augmentation: dict[str, Any] | None
    mixed_precision: str
    seed: int
    deterministic: bool
    model: str
    backend: str

    @property
    def has_soft_labels(self) -> bool:
        """Whether labels are probabilities of the classes, since records are mixed."""
        return bool(self.augmentation and Augmentation(**self.augmentation).mixes)


def resolve(
    info: DatasetInfo,
    spread: Spread,
    *,
    epochs: int | None,
    steps: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    schedule: str,
    class_weights: str,
    accumulate: int,
    patience: int | None,
    crop: tuple[int, int] | None,
    augmentation: Augmentation | None,
    mixed_precision: str,
    seed: int,
    deterministic: bool,
    model: str,
) -> Config:
    """Checks what the user asked for, and fills in the rest from the size and kind of train.

    Raises:
      UsageError: An option is wrong, or does not go with another one or with the dataset.
    """
    _check_counts(
        ("number of epochs", epochs),
        ("number of steps", steps),
        ("batch size", batch_size),
        ("number of steps to accumulate", accumulate),
        ("patience", patience),
    )
    _check_choice("schedule", schedule, SCHEDULES)
    _check_choice("class weights", class_weights, CLASS_WEIGHTS)
    _check_choice("mixed precision", mixed_precision, MIXED_PRECISION)
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed must be from 0 to {2**32 - 1}, but is {seed}.")
    if epochs and steps:
        raise UsageError("the training's length is a number of epochs or of steps, but both came.")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise UsageError(f"the learning rate must be above 0, but is {learning_rate}.")
    if patience and not has_validation(info):
        raise UsageError(
            f"{info.directory}: has no split 'validation' on which an epoch could be better than "
            "another. Add one to the spec, or leave patience out."
        )
    labels = info.require_targets().values()
    if class_weights == "balanced" and all(label.type != "class" for label in labels):
        raise UsageError(f"{info.directory}: its label has no classes that could be weighted.")
    num_examples = info.split("train").num_examples
    has_images = any(feature.is_image for feature in info.features.values())
    batch_size = batch_size or spread.fitting(default_batch_size(num_examples, has_images))
    spread.check(batch_size, num_examples)
    batch_size = min(batch_size, num_examples)  # A batch that is never full would be no step.
    steps_per_epoch = input_pipeline.num_steps(info, "train", batch_size)
    if steps is None:
        steps = steps_per_epoch * (epochs or default_epochs(num_examples, batch_size, has_images))
    if accumulate > steps:
        raise UsageError(
            f"the number of steps to accumulate must be at most that of all steps, {steps}, but is "
            f"{accumulate}: no weight would change."
        )
    return Config(
        epochs=math.ceil(steps / steps_per_epoch),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        learning_rate=learning_rate or _LEARNING_RATE,
        schedule=schedule,
        class_weights=class_weights,
        accumulate=accumulate,
        patience=patience,
        crop=None if crop is None else list(crop),
        augmentation=None if augmentation is None else augmentation.as_config(),
        mixed_precision=mixed_precision,
        seed=seed,
        deterministic=deterministic,
        model=model,
        backend=keras.backend.backend(),
    )


def has_validation(info: DatasetInfo) -> bool:
    """Whether there is something to measure epochs on."""
    return "validation" in info.splits and info.splits["validation"].num_examples > 0


def default_batch_size(num_examples: int, has_images: bool) -> int:
    """Returns a power of two, up to 512, with which an epoch of a large dataset has 100 steps.

    Of a small one fewer, of a table as few as 4: large batches hold off learning by heart.
    """
    smallest = 32 if has_images else min(128, max(8, num_examples / 4))
    return 2 ** min(9, round(math.log2(max(smallest, num_examples / 100))))


def default_epochs(num_examples: int, batch_size: int, has_images: bool) -> int:
    """Returns the number of epochs that make enough steps; images need more of both."""
    wanted_steps, fewest = (1_200, 16) if has_images else (1_000, 3)
    if num_examples < _FEW_EXAMPLES and not has_images:
        wanted_steps = 300
    return min(100, max(fewest, round(wanted_steps / max(1, num_examples // batch_size))))


def _check_counts(*counts: tuple[str, int | None]) -> None:
    for name, value in counts:
        if value is not None and value < 1:
            raise UsageError(f"the {name} must be at least 1, but is {value}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name}: must be one of {', '.join(choices)}, but is {value!r}.")
