"""The steps of a transform, as a spec names them; `stateless` and `steps` have what they do."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import astuple
from typing import Literal

Transform = Literal[
    "log",
    "log1p",
    "sqrt",
    "clip",
    "center",
    "scale_to_z_score",
    "scale_to_0_1",
    "scale_by_min_max",
    "scale_to_gaussian",
    "robust_scale",
    "yeo_johnson",
    "box_cox",
    "bucketize",
    "apply_buckets",
    "apply_buckets_with_interpolation",
    "scale_to_z_score_per_key",
    "scale_to_0_1_per_key",
    "scale_by_min_max_per_key",
    "bucketize_per_key",
    "compute_and_apply_vocabulary",
    "hash_strings",
]
Stateless = tuple[str, *tuple[float | None, ...]]  # A name, and the options that it goes with.


@dataclasses.dataclass(frozen=True)
class Step:
    """What holds of a step wherever it stands.

    Attributes:
      takes: The dtypes of a column that it takes.
      gives: The dtype that comes out.
      needs: Options that it must have.
      may_have: Options that it may have.
      is_stateless: Whether it needs nothing but the value.
      is_counted: Whether it learns from how often each value occurs.
    """

    takes: tuple[str, ...] = ("float32", "int64")
    gives: str = "float32"
    needs: tuple[str, ...] = ()
    may_have: tuple[str, ...] = ()
    is_stateless: bool = False
    is_counted: bool = False


_STRING = ("string",)
STEPS: dict[str, Step] = {
    "log": Step(is_stateless=True),
    "log1p": Step(is_stateless=True),
    "sqrt": Step(is_stateless=True),
    "clip": Step(may_have=("clip_min", "clip_max"), is_stateless=True),
    "center": Step(),
    "scale_to_z_score": Step(),
    "scale_to_0_1": Step(),
    "scale_by_min_max": Step(may_have=("output_min", "output_max")),
    "scale_to_gaussian": Step(is_counted=True),
    "robust_scale": Step(is_counted=True),
    "yeo_johnson": Step(is_counted=True),
    "box_cox": Step(is_counted=True),
    "apply_buckets": Step(gives="int64", needs=("boundaries",)),
    "apply_buckets_with_interpolation": Step(needs=("boundaries",)),
    "bucketize": Step(gives="int64", needs=("num_buckets",), is_counted=True),
    "scale_to_z_score_per_key": Step(needs=("key",)),
    "scale_to_0_1_per_key": Step(needs=("key",)),
    "scale_by_min_max_per_key": Step(needs=("key",), may_have=("output_min", "output_max")),
    "bucketize_per_key": Step(gives="int64", needs=("key", "num_buckets"), is_counted=True),
    "compute_and_apply_vocabulary": Step(
        _STRING, "int64", may_have=("top_k", "num_oov_buckets", "frequency_threshold", "rank_by")
    ),
    "hash_strings": Step(_STRING, "int64", needs=("hash_buckets",)),
}
OPTIONS = tuple(
    dict.fromkeys(option for step in STEPS.values() for option in (*step.needs, *step.may_have))
)


@dataclasses.dataclass(frozen=True)
class Bound:
    """Where the values begin that `step` can take: above `low`, or from it on."""

    low: float
    is_open: bool
    step: str

    @property
    def rule(self) -> str:
        """What a value must be."""
        return f"{'above' if self.is_open else 'at least'} {self.low:.9g}"

    def excludes(self, value: float) -> bool:
        """Whether a chain has no number for a value."""
        return value <= self.low if self.is_open else value < self.low


def bound(steps: tuple[Stateless, ...]) -> Bound | None:
    """Returns which values a chain can take; None if it takes all.

    Each of them ascends, so that what the rest of the chain takes tells what may come before it.

    Raises:
      ValueError: They can take none.
    """
    found: Bound | None = None
    for name, *options in reversed(steps):
        low, is_open, later = (-math.inf, True, name) if found is None else astuple(found)
        match name:
            case "box_cox":
                found = Bound(0.0, True, name)
            case "log":
                found = Bound(_inverse(math.exp, low), is_open or low == -math.inf, later)
            case "log1p":
                found = Bound(_inverse(math.expm1, low), is_open or low == -math.inf, later)
            case "sqrt":
                found = Bound(low * low, is_open, later) if low >= 0 else Bound(0.0, False, name)
            case "clip" if found is not None:
                least, most = options
                if most is not None and found.excludes(most):
                    raise ValueError(f"clip_max must be {found.rule} for {later}, but is {most}")
                if least is not None and not found.excludes(least):
                    found = None
    return found


def _inverse(function: Callable[[float], float], value: float) -> float:
    try:
        return function(value)
    except OverflowError:
        return math.inf
