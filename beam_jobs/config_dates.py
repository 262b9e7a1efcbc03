"""`[features.NAME]` of dates: their parts, and where they stand in a cycle."""

import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictStr, model_validator

from beam_jobs.config_base import NonEmpty, Section, duplicate
from beam_jobs.config_steps import Stateless

# Each with the number of indices from 0 on that it needs; a year has no end.
PARTS = {
    "year": None,
    "quarter": 5,
    "month": 13,
    "week": 54,
    "day": 32,
    "dayofyear": 367,
    "dayofweek": 7,
    "hour": 24,
    "minute": 60,
    "second": 60,
}
Part = Literal[
    "year",
    "quarter",
    "month",
    "week",
    "day",
    "dayofyear",
    "dayofweek",
    "hour",
    "minute",
    "second",
]
Cycle = Literal["year", "month", "week", "day", "hour"]
_EPOCH = datetime.datetime(1970, 1, 1)


class Date(Section):
    """A feature made of a column of dates or times: a whole number or two for each thing asked.

    The class variables are what a feature of a column says otherwise: no transform but its own.
    """

    dtype: ClassVar[str] = "timestamp"
    output_dtype: ClassVar[str] = "int64"
    transforms: ClassVar[tuple[str, ...]] = ()
    stateless_steps: ClassVar[tuple[Stateless, ...]] = ()
    last_step: ClassVar[None] = None
    bound: ClassVar[None] = None
    is_fill_learned: ClassVar[bool] = False
    is_sparse: ClassVar[bool] = False
    key: ClassVar[None] = None
    indicator: ClassVar[bool] = False

    type: Literal["date"] = "date"
    column: NonEmpty | None = None
    missing: StrictStr = "reject"
    parts: Annotated[tuple[Part, ...], Field(max_length=len(PARTS))] = ()
    cycles: Annotated[tuple[Cycle, ...], Field(max_length=5)] = ()

    @property
    def fill(self) -> int | None:
        """What stands in for a missing one, in microseconds since 1970; None for nothing."""
        if self.missing == "reject":
            return None
        moment = datetime.datetime.fromisoformat(self.missing)
        return (moment - _EPOCH) // datetime.timedelta(microseconds=1)

    @property
    def endings(self) -> dict[str, str]:
        """What the names of the stored features end with, each with its dtype."""
        found = {f"_{part}": "int64" for part in self.parts}
        for cycle in self.cycles:
            found |= {f"_{cycle}_sin": "float32", f"_{cycle}_cos": "float32"}
        return found

    @model_validator(mode="after")
    def _check(self) -> "Date":
        if not self.parts and not self.cycles:
            raise ValueError('needs parts = ["month", ...] or cycles = ["day", ...]')
        for key in ("parts", "cycles"):
            named = getattr(self, key)
            if len(set(named)) < len(named):
                raise ValueError(f"{key} names {duplicate(named)!r} twice")
        try:
            if self.missing != "reject" and datetime.datetime.fromisoformat(self.missing).tzinfo:
                raise ValueError
        except ValueError as error:
            raise ValueError(
                'missing must be "reject" or a moment in UTC as "2024-01-31" or '
                f'"2024-01-31 12:00:00", but is {self.missing!r}'
            ) from error
        return self
