"""How images are changed at random while they are read: what may be asked for."""

import dataclasses
import math
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.errors import UsageError

FILL_MODES = ("constant", "nearest", "reflect", "wrap")

Shift = float | int | Sequence[float]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of images, called as `ImageDataGenerator` calls them, and drawn as it draws.

    Each record has parameters of its own, which its images, masks and boxes share. The values are
    those of ImageDataGenerator: one affine transformation about the image's center (rotation,
    shift, shear and zoom), then the shift of channels, flips and brightness. Without any argument
    nothing changes.

    Attributes:
      rotation_range: Degrees, in both directions.
      width_shift_range: To the sides. A float is a share of the width if below 1, else pixels; an
        int n means a whole number of pixels below n; a list has the numbers to choose from, shares
        if all are below 1.
      height_shift_range: The same, up and down.
      brightness_range: Lowest and highest factor.
      shear_range: Degrees, in both directions.
      zoom_range: Lowest and highest factor, or z for (1 - z, 1 + z): drawn once for the height and
        once for the width. Above 1 more is seen, and smaller.
      channel_shift_range: What all channels are raised by, up or down, at most.
      fill_mode: Where an image has no pixel for a place: `constant` (cval), or as it would go on if
        its edge (`nearest`), its mirror image (`reflect`) or itself (`wrap`) followed.
      cval: In the unit of the stored values: 0 to 255 where these are pixels. Masks get 0.
      horizontal_flip: Whether half of the images are mirrored, left to right.
      vertical_flip: Whether half of them are mirrored, top to bottom.
      interpolation_order: 1 is linear, 0 takes the nearest pixel, as masks always do.
      rand_augment: Arguments of keras.layers.RandAugment: num_ops, factor, interpolation.
      mixup: Arguments of keras.layers.MixUp: alpha. Labels become probabilities of the classes.
      cutmix: The same of keras.layers.CutMix: factor.
    """

    rotation_range: float = 0.0
    width_shift_range: Shift = 0.0
    height_shift_range: Shift = 0.0
    brightness_range: Sequence[float] | None = None
    shear_range: float = 0.0
    zoom_range: float | Sequence[float] = 0.0
    channel_shift_range: float = 0.0
    fill_mode: str = "nearest"
    cval: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    interpolation_order: int = 1
    rand_augment: Mapping[str, Any] | None = None
    mixup: Mapping[str, Any] | None = None
    cutmix: Mapping[str, Any] | None = None

    def __post_init__(self):
        """Makes NumPy's numbers and arrays Python's, and checks every value.

        Raises:
          UsageError: One is wrong.
        """
        for field in _FIELDS:
            value = getattr(self, field.name)
            if hasattr(value, "tolist"):
                object.__setattr__(self, field.name, value.tolist())
        for names, (is_right, rule) in _RULES.items():
            for name in names.split():
                value = getattr(self, name)
                if not is_right(value):
                    raise UsageError(f"{name} must be {rule}, but is {value!r}.")
        for name, arguments in _ARGUMENTS.items():
            _check_arguments(name, getattr(self, name), arguments)

    @property
    def zoom(self) -> tuple[float, float]:
        """The lowest and the highest factor."""
        if isinstance(self.zoom_range, Sequence):
            low, high = self.zoom_range
            return low, high
        return 1 - self.zoom_range, 1 + self.zoom_range

    @property
    def is_affine(self) -> bool:
        """Whether pixels go to places between others."""
        shifts = self.width_shift_range, self.height_shift_range
        return any((self.rotation_range, self.shear_range, *shifts)) or self.zoom != (1, 1)

    @property
    def moves(self) -> bool:
        """Whether any pixel goes anywhere."""
        return self.is_affine or self.horizontal_flip or self.vertical_flip

    @property
    def needs_pixels(self) -> list[str]:
        """The names of what makes sense only for values from 0 to 255."""
        asked = {
            "brightness_range": self.brightness_range is not None,
            "channel_shift_range": bool(self.channel_shift_range),
            "rand_augment": self.rand_augment is not None,
        }
        return [name for name, is_asked in asked.items() if is_asked]

    @property
    def mixes(self) -> list[str]:
        """The names of what mixes the records of a batch."""
        return [name for name in ("mixup", "cutmix") if getattr(self, name) is not None]

    def as_config(self) -> dict[str, Any]:
        """Returns what differs from the defaults, as it comes back from JSON."""
        values = {field.name: _plain(getattr(self, field.name)) for field in _FIELDS}
        defaults = {field.name: field.default for field in _FIELDS}
        return {name: value for name, value in values.items() if value != defaults[name]}


def read(path: str | os.PathLike) -> Augmentation:
    """Reads a TOML file whose keys are the attributes of `Augmentation`.

    Raises:
      UsageError: There is no such file, it is no TOML, or a key or value is wrong.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:  # TOML that is none, or bytes that are no UTF-8.
        raise UsageError(f"{path}: is not TOML ({error}).") from error
    names = [field.name for field in _FIELDS]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise UsageError(f"{path}: there is no {unknown[0]!r}; there are {', '.join(names)}.")
    try:
        return Augmentation(**values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _check_arguments(name: str, given: Any, arguments: Mapping[str, "_Rule"]) -> None:
    """Raises a UsageError unless the arguments are those of the layer."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise UsageError(f"{name} must be a table of {', '.join(arguments)}, but is {given!r}.")
    for argument, value in given.items():
        if argument not in arguments:
            raise UsageError(f"{name} has no {argument!r}; it has {', '.join(arguments)}.")
        is_right, rule = arguments[argument]
        if not is_right(value):
            raise UsageError(f"{name}.{argument} must be {rule}, but is {value!r}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [*value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max and low <= value <= high


def _is_list(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and len(value) > 0 and all(_is_number(each) for each in value)


def _is_pair(value: Any, low: float, high: float = math.inf) -> bool:
    return _is_list(value) and len(value) == 2 and low <= value[0] <= value[1] <= high


def _is_zoom(value: Any) -> bool:
    """A factor of 0 would see one pixel everywhere."""
    if _is_number(value):
        return 0 <= value < 1
    return _is_pair(value, 0) and value[0] > 0


_Rule = tuple[Callable[[Any], bool], str]
_RULES: Mapping[str, _Rule] = {
    "rotation_range shear_range channel_shift_range": (
        lambda value: _is_number(value, 0),
        "a number of at least 0",
    ),
    "width_shift_range height_shift_range": (
        lambda value: _is_number(value, 0) or _is_list(value),
        "a number of at least 0, or a list of numbers",
    ),
    "brightness_range": (
        lambda value: value is None or _is_pair(value, 0),
        "two numbers of at least 0, the lower one first",
    ),
    "zoom_range": (_is_zoom, "a number from 0 to below 1, or two above 0, the lower one first"),
    "fill_mode": (lambda value: value in FILL_MODES, f"one of {', '.join(FILL_MODES)}"),
    "cval": (_is_number, "a number"),
    "horizontal_flip vertical_flip": (lambda value: isinstance(value, bool), "true or false"),
    "interpolation_order": (lambda value: value in (0, 1) and _is_number(value), "0 or 1"),
}
_FACTOR: _Rule = (
    lambda value: _is_number(value, 0, 1) or _is_pair(value, 0, 1),
    "a number from 0 to 1, or two, the lower one first",
)
_ARGUMENTS: Mapping[str, Mapping[str, _Rule]] = {
    "rand_augment": {
        "num_ops": (
            lambda value: isinstance(value, int) and _is_number(value, 1),
            "a whole number of at least 1",
        ),
        "factor": _FACTOR,
        "interpolation": (
            lambda value: value in ("bilinear", "nearest"),
            "bilinear or nearest",
        ),
    },
    "mixup": {"alpha": (lambda value: _is_number(value, 1e-6, 1), "a number above 0, up to 1")},
    "cutmix": {"factor": _FACTOR},
}
_FIELDS = dataclasses.fields(Augmentation)
