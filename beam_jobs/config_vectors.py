"""`[features.NAME]` of vectors: several numbers of a record that belong together."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from beam_jobs.config_base import NonEmpty, Number, Section, float32
from beam_jobs.config_steps import Stateless

MAX_CORRELATED = 1024  # Elements: of that many, the sums of products take 100 MB.
_Size = Annotated[StrictInt, Field(ge=1, le=1 << 16)]  # Each element has statistics of its own.
_SparseSize = Annotated[StrictInt, Field(ge=1, le=1 << 20)]  # Dense when the trainer has read it.
_Step = Literal["center", "scale_to_z_score", "scale_to_0_1", "pca"]


class Vector(Section):
    """A feature made of several columns of numbers, or of a column of lists of them."""

    type: Literal["vector"] = "vector"
    column: NonEmpty | None = None
    columns: Annotated[tuple[NonEmpty, ...], Field(min_length=1)] | None = None
    dtype: Literal["float32", "int64"] = "float32"
    separator: NonEmpty = ","
    size: _Size | None = None
    transform: _Step | tuple[_Step, ...] = ()
    output_dim: _Size | None = None
    covariance: StrictBool = False
    missing: Literal["reject", "empty"] | Number = "reject"

    @property
    def transforms(self) -> tuple[str, ...]:
        """The steps, left to right."""
        return (self.transform,) if isinstance(self.transform, str) else self.transform

    @property
    def num_elements(self) -> int | None:
        """How many numbers a record has; None where that differs."""
        return self.size if self.columns is None else len(self.columns)

    @property
    def is_ragged(self) -> bool:
        """Whether each record has as many numbers as it likes."""
        return self.num_elements is None

    @property
    def num_stored(self) -> int | None:
        """How many numbers of a record are stored; None where that differs."""
        return self.output_dim or self.num_elements

    @property
    def is_correlated(self) -> bool:
        """Whether sums of products of elements are asked for."""
        return self.covariance or "pca" in self.transforms

    @property
    def fill(self) -> float | int:
        """What stands in for what is missing."""
        constant = self.missing if not isinstance(self.missing, str) else 0
        return float32(constant) if self.dtype == "float32" else int(constant)

    @model_validator(mode="after")
    def _check_source(self) -> "Vector":
        if self.columns is None:
            return self
        if self.column is not None or self.size is not None:
            raise ValueError("takes columns, or one column and its size, not both")
        if self.separator != ",":
            raise ValueError("separator belongs to one column of lists, not to columns")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names one twice")
        return self

    @model_validator(mode="after")
    def _check_transform(self) -> "Vector":
        if len(self.transforms) > 1 and self.transforms != ("scale_to_z_score", "pca"):
            raise ValueError(
                'transform must be one step, or ["scale_to_z_score", "pca"], but is '
                f"{list(self.transforms)}"
            )
        if self.dtype == "int64" and (self.transforms or self.covariance):
            raise ValueError("transform and covariance take float32, but dtype is int64")
        if ("pca" in self.transforms) != (self.output_dim is not None):
            raise ValueError('transform = "pca" and output_dim go together')
        if not self.is_correlated:
            return self
        if self.num_elements is None:
            raise ValueError("pca and covariance need size: the elements of a ragged one have none")
        if self.num_elements > MAX_CORRELATED:
            raise ValueError(
                f"pca and covariance take at most {MAX_CORRELATED} elements, but there are "
                f"{self.num_elements}"
            )
        if (self.output_dim or 0) > self.num_elements:
            raise ValueError(
                f"output_dim must be at most the {self.num_elements} elements of the vector, but "
                f"is {self.output_dim}"
            )
        return self

    @model_validator(mode="after")
    def _check_missing(self) -> "Vector":
        if isinstance(self.missing, str):
            if self.missing == "empty" and not self.is_ragged:
                raise ValueError('missing = "empty" is for vectors without a size')
        elif self.is_ragged:
            raise ValueError(
                'missing must be "reject" or "empty" for vectors without a size, but is '
                f"{self.missing}"
            )
        elif self.dtype == "int64" and not (
            isinstance(self.missing, int) and -(2**63) <= self.missing < 2**63
        ):
            raise ValueError(f"missing must fit int64, but is {self.missing}")
        elif not math.isfinite(self.fill):
            raise ValueError(f"missing must fit float32, but is {self.missing}")
        return self


class Sparse(Section):
    """A feature made of a column of pairs, `index:value`, of the elements that are not 0.

    The class variables are what a feature of a column says otherwise: it is stored as it is.
    """

    dtype: ClassVar[str] = "string"
    output_dtype: ClassVar[str] = "float32"
    transforms: ClassVar[tuple[str, ...]] = ()
    stateless_steps: ClassVar[tuple[Stateless, ...]] = ()
    last_step: ClassVar[None] = None
    bound: ClassVar[None] = None
    key: ClassVar[None] = None
    is_fill_learned: ClassVar[bool] = False
    is_sparse: ClassVar[bool] = True
    indicator: ClassVar[bool] = False

    type: Literal["sparse"] = "sparse"
    column: NonEmpty | None = None
    size: _SparseSize
    zero_based: StrictBool = True
    missing: StrictStr = "reject"

    @model_validator(mode="after")
    def _check(self) -> "Sparse":
        if self.missing not in ("reject", ""):
            raise ValueError(
                f'missing must be "reject", or "" for no pair, but is {self.missing!r}'
            )
        return self
