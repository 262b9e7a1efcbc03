"""What the models of a spec are made of."""

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, StrictFloat, StrictInt, StrictStr

SPLITS = ("train", "validation", "test")  # The order in which fractions are cumulated.
SplitName = Literal["train", "validation", "test"]
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
FeatureName = Annotated[StrictStr, Field(pattern=r"^[^\x00-\x1f]+$")]
Count = Annotated[StrictInt, Field(ge=1, le=2**62)]  # Of what TensorFlow counts in int64.
Pixels = Annotated[StrictInt, Field(ge=1, le=8192)]  # Squared, float32: an Example holds 2 GiB.
NonEmpty = Annotated[StrictStr, Field(min_length=1)]
Fractions = dict[SplitName, Annotated[Number, Field(gt=0, le=1)]]


class Section(pydantic.BaseModel):
    """A table of a spec: unknown keys are mistakes."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def decimal(number: int | float) -> Fraction:
    """Returns the number as it was written, 0.1 as one tenth, so that fractions sum exactly."""
    return Fraction(repr(number))


def duplicate(values: Sequence[Any]) -> Any:
    """Returns the first value that stands in a sequence twice."""
    return next(value for i, value in enumerate(values) if value in values[:i])


def float32(number: int | float) -> float:
    """Returns the nearest float32, infinity beyond its range."""
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return math.inf
