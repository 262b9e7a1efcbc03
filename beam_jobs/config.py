"""The spec: one TOML file, read once into frozen models."""

import difflib
import functools
import glob
import hashlib
import json
import math
import os
import re
import struct
import tomllib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from beam_jobs import reasons
from beam_jobs.errors import SpecError

SPLITS = ("train", "validation", "test")  # The order in which fractions are cumulated.
SplitName = Literal["train", "validation", "test"]
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
FeatureName = Annotated[StrictStr, Field(pattern=r"^[^\x00-\x1f]+$")]
Count = Annotated[StrictInt, Field(ge=1, le=2**62)]  # Of what TensorFlow counts in int64.
Pixels = Annotated[StrictInt, Field(ge=1, le=8192)]  # Squared, float32: an Example holds 2 GiB.
NonEmpty = Annotated[StrictStr, Field(min_length=1)]
Fractions = dict[SplitName, Annotated[Number, Field(gt=0, le=1)]]

STATELESS_TRANSFORMS = ("log1p",)
STATISTICAL_TRANSFORMS = (
    "center",
    "scale_to_z_score",
    "scale_to_0_1",
    "bucketize",
    "compute_and_apply_vocabulary",
)
Transform = Literal[
    "log1p",
    "center",
    "scale_to_z_score",
    "scale_to_0_1",
    "bucketize",
    "compute_and_apply_vocabulary",
    "hash_strings",
]
# The options that only one transform takes.
TRANSFORM_OPTIONS = {
    "num_buckets": "bucketize",
    "top_k": "compute_and_apply_vocabulary",
    "num_oov_buckets": "compute_and_apply_vocabulary",
    "frequency_threshold": "compute_and_apply_vocabulary",
    "hash_buckets": "hash_strings",
}
MISSING_TOKEN = "[MISSING]"


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Source(_Section):
    """`[source]`: what to read."""

    format: Literal["csv", "images"]
    paths: (
        Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
        | Annotated[dict[SplitName, tuple[NonEmpty, ...]], Field(min_length=1)]
    )
    header: StrictBool = True
    columns: tuple[NonEmpty, ...] | None = None
    trim: StrictBool = False
    null_values: tuple[StrictStr, ...] = ("",)
    delimiter: Annotated[StrictStr, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[StrictStr, Field(min_length=1, max_length=1)] = '"'
    encoding: NonEmpty = "utf-8"
    types: dict[NonEmpty, Literal["float64", "int64", "string", "bool", "date", "timestamp"]] = (
        Field(default_factory=dict)
    )

    @property
    def split_paths(self) -> dict[str | None, tuple[str, ...]]:
        """The paths of each split; of None where the paths do not decide the split."""
        if isinstance(self.paths, dict):
            return {str(split): paths for split, paths in self.paths.items()}
        return {None: self.paths}

    @model_validator(mode="after")
    def _check(self) -> "Source":
        if self.format == "csv" and not self.header and not self.columns:
            raise ValueError("header = false needs columns = [...], the names in order")
        if self.format == "csv" and self.header and self.columns:
            raise ValueError("columns names the fields of files without a header: header = false")
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns holds a name twice: {duplicate(self.columns)!r}")
        if self.format == "images":
            for key in sorted(self.model_fields_set - {"format", "paths"}):
                raise ValueError(f"{key} is for CSV; images have only format and paths")
        return self


class Carve(_Section):
    """`carve`: splits drawn by hash out of another one."""

    validation: Annotated[Number, Field(gt=0, lt=1)] | None = None
    test: Annotated[Number, Field(gt=0, lt=1)] | None = None
    of: SplitName = "train"

    @property
    def fractions(self) -> dict[str, int | float]:
        """The fractions that are drawn, by split."""
        pairs = (("validation", self.validation), ("test", self.test))
        return {name: fraction for name, fraction in pairs if fraction is not None}

    @model_validator(mode="after")
    def _check(self) -> "Carve":
        if not self.fractions:
            raise ValueError("needs a fraction: validation = 0.1 or test = 0.1")
        if self.of in self.fractions:
            raise ValueError(f"draws {self.of} out of itself")
        if sum(map(decimal, self.fractions.values())) >= 1:
            raise ValueError(f"must leave something in {self.of}: the fractions sum to 1 or more")
        return self


class Split(_Section):
    """`[split]`: which records go where."""

    key: NonEmpty | Annotated[tuple[NonEmpty, ...], Field(min_length=1)] = "*"
    fractions: Annotated[Fractions, Field(min_length=1)] | None = None
    directory: StrictBool = False
    carve: Carve | None = None
    column: NonEmpty | None = None
    values: dict[SplitName, tuple[StrictInt | StrictStr | StrictBool, ...]] | None = None

    @property
    def key_columns(self) -> tuple[str, ...] | None:
        """The columns whose values decide the split; None for the whole record."""
        if isinstance(self.key, tuple):
            return self.key
        return None if self.key == "*" else (self.key,)

    @model_validator(mode="after")
    def _check(self) -> "Split":
        if (self.column is None) != (self.values is None):
            raise ValueError("column and values go together")
        ways = [self.fractions is not None, self.directory, self.column is not None]
        if sum(ways) > 1:
            raise ValueError("takes one of fractions, directory = true, and column with values")
        if self.fractions is not None:
            total = sum(map(decimal, self.fractions.values()))
            if total != 1:
                raise ValueError(f"fractions must sum to 1, but sum to {float(total):.12g}")
            if self.carve is not None:
                raise ValueError("carve is for directory or column splits; change the fractions")
        for way in (self.fractions, self.values):
            if way is not None and "train" not in way:
                raise ValueError("needs a train split: statistics come from it")
        if self.values is not None:
            listed = [value for values in self.values.values() for value in values]
            if len(set(map(repr, listed))) != len(listed):
                raise ValueError(f"values lists {duplicate(listed)!r} twice")
        return self


class Filter(_Section):
    """`[[filter]]`: a condition that a record must meet."""

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    where: NonEmpty

    @model_validator(mode="after")
    def _check(self) -> "Filter":
        if reasons.is_taken(self.name):
            raise ValueError(f"{self.name} is a reason of headrace's own; call the filter another")
        return self


class Column(_Section):
    """A feature made of one column of a table."""

    column: NonEmpty | None = None
    dtype: Literal["float32", "int64", "string"]
    transform: Transform | tuple[Transform, ...] = ()
    missing: StrictStr | Number = "reject"
    indicator: StrictBool = False
    num_buckets: Annotated[StrictInt, Field(ge=2, le=1_000_000)] | None = None
    top_k: Count | None = None
    num_oov_buckets: Count | None = None
    frequency_threshold: Count | None = None
    hash_buckets: Count | None = None

    @property
    def transforms(self) -> tuple[str, ...]:
        """The chain, left to right."""
        return (self.transform,) if isinstance(self.transform, str) else self.transform

    @property
    def stateless_steps(self) -> tuple[str, ...]:
        """The steps before the statistical one: they need nothing but the value."""
        return tuple(name for name in self.transforms if name in STATELESS_TRANSFORMS)

    @property
    def last_step(self) -> str | None:
        """The step that ends the chain, where it is not a stateless one."""
        last = self.transforms[-1] if self.transforms else None
        return None if last in STATELESS_TRANSFORMS else last

    @property
    def oov_buckets(self) -> int:
        """The number of indices after the vocabulary."""
        return 1 if self.num_oov_buckets is None else self.num_oov_buckets

    @model_validator(mode="after")
    def _check_transforms(self) -> "Column":
        for name in self.transforms[:-1]:
            if name not in STATELESS_TRANSFORMS:
                raise ValueError(
                    f"transform: {name} must be the last of its chain, but is followed by another"
                )
        of_strings = {"compute_and_apply_vocabulary", "hash_strings"}
        for name in self.transforms:
            if (name in of_strings) != (self.dtype == "string"):
                takes = "string" if name in of_strings else "float32 or int64"
                raise ValueError(f"transform: {name} takes {takes}, but dtype is {self.dtype}")
        for option, owner in TRANSFORM_OPTIONS.items():
            if getattr(self, option) is not None and owner not in self.transforms:
                raise ValueError(f"{option} belongs to transform = {owner!r}")
        for option in ("num_buckets", "hash_buckets"):
            if TRANSFORM_OPTIONS[option] in self.transforms and getattr(self, option) is None:
                raise ValueError(f"transform = {TRANSFORM_OPTIONS[option]!r} needs {option}")
        return self

    @model_validator(mode="after")
    def _check_missing(self) -> "Column":
        text = isinstance(self.missing, str)
        if self.dtype == "string" and not text:
            raise ValueError(f'missing must be "reject", "token" or a text, but is {self.missing}')
        if self.dtype == "string" and self.missing in ("mean", "median"):
            raise ValueError(f"missing = {self.missing!r} needs numbers, but dtype is string")
        if self.dtype == "int64" and (
            isinstance(self.missing, float) or (text and self.missing != "reject")
        ):
            raise ValueError(
                f'missing must be "reject" or a whole number for int64, but is {self.missing!r}; '
                "mean and median take dtype = 'float32'"
            )
        if self.dtype == "float32" and text and self.missing not in ("reject", "mean", "median"):
            raise ValueError(
                'missing must be "reject", "mean", "median" or a number for float32, '
                f"but is {self.missing!r}"
            )
        if not isinstance(self.missing, str):
            self._check_constant(self.missing)
        if self.indicator and self.missing == "reject":
            raise ValueError("indicator needs a missing policy that keeps the record")
        return self

    def _check_constant(self, number: int | float) -> None:
        stored = _float32(number) if self.dtype == "float32" else number
        is_int64 = -(2**63) <= number < 2**63
        if not (math.isfinite(stored) if self.dtype == "float32" else is_int64):
            raise ValueError(f"missing must fit {self.dtype}, but is {number}")
        if "log1p" in self.transforms and stored <= -1:
            raise ValueError(f"missing must be above -1 for log1p, but is {number}")


class Image(_Section):
    """A feature made of an image file."""

    size: tuple[Pixels, Pixels]
    channels: Literal[1, 3, 4] = 3
    method: Literal[
        "bilinear",
        "nearest",
        "bicubic",
        "area",
        "lanczos3",
        "lanczos5",
        "gaussian",
        "mitchellcubic",
    ] = "bilinear"
    antialias: StrictBool = True
    crop: Literal["none", "center"] = "none"
    rescale: Annotated[Number, Field(ge=1e-9, le=1e9)] = 1
    featurewise_center: StrictBool = False
    featurewise_std_normalization: StrictBool = False
    store: Literal["uint8", "float32"] = "uint8"


class Label(_Section):
    """`[label]`: the target."""

    column: NonEmpty | None = None
    expression: NonEmpty | None = None
    from_: Literal["directory"] | None = Field(default=None, alias="from")
    pattern: NonEmpty | None = None
    type: Literal["class", "int64", "float32"] = "class"

    @model_validator(mode="after")
    def _check(self) -> "Label":
        given = [self.column, self.expression, self.from_, self.pattern]
        if sum(value is not None for value in given) != 1:
            raise ValueError('takes one of column, expression, from = "directory" and pattern')
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
            if "label" not in groups:
                raise ValueError("pattern needs a group named label: (?P<label>...)")
        return self


class Output(_Section):
    """`[output]`: how to write, and how much unreadable input to bear."""

    num_shards: Annotated[StrictInt, Field(ge=1, le=99999)] | None = None
    shard_mb: Annotated[Number, Field(ge=0.001, le=1_000_000)] | None = None
    compression: Literal["gzip", "none"] = "none"
    max_rejected: Annotated[Number, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _check(self) -> "Output":
        if self.num_shards is not None and self.shard_mb is not None:
            raise ValueError("takes num_shards or shard_mb, not both")
        return self


class Spec(_Section):
    """A whole spec.

    Raises:
      pydantic.ValidationError: A value breaks a rule; `load_spec` turns it into one line.
    """

    name: Annotated[StrictStr, Field(min_length=1, pattern=r"^[\w.-]+$")]
    source: Source
    split: Split = Split()
    filter: tuple[Filter, ...] = ()
    features: Annotated[dict[FeatureName, Column | Image], Field(min_length=1)]
    label: Label | None = None
    output: Output = Output()

    @functools.cached_property
    def columns(self) -> Mapping[str, Column]:
        """The features of a table, by name, each with its column filled in."""
        return {
            name: feature.model_copy(update={"column": feature.column or name})
            for name, feature in self.features.items()
            if isinstance(feature, Column)
        }

    @property
    def image(self) -> tuple[str, Image]:
        """Name and description of the image feature of an image dataset."""
        return next((n, f) for n, f in self.features.items() if isinstance(f, Image))

    @property
    def digest(self) -> str:
        """Sha256 over everything that the spec says, paths aside."""
        said = self.model_dump(mode="json", by_alias=True)
        del said["source"]["paths"]
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @model_validator(mode="before")
    @classmethod
    def _choose_features(cls, said: Any) -> Any:
        """Makes each feature a column or an image by the source, so that errors name one model."""
        features, source = said.get("features"), said.get("source")
        if not isinstance(features, dict) or not isinstance(source, dict):
            return said
        model = Image if source.get("format") == "images" else Column
        checked = {}
        for name, value in features.items():
            try:
                checked[name] = value if isinstance(value, model) else model.model_validate(value)
            except pydantic.ValidationError as error:
                raise _FeatureError(name, error, model) from error
        return said | {"features": checked}

    @model_validator(mode="after")
    def _check(self) -> "Spec":
        if "label" in self.features:
            raise ValueError("a feature may not be called label: the target is stored under it")
        for name, feature in self.features.items():
            if isinstance(feature, Column) and feature.indicator:
                if f"{name}_missing" in self.features:
                    raise ValueError(f"{name}_missing is the indicator of {name}, and a feature")
        names = [rule.name for rule in self.filter]
        if len(set(names)) != len(names):
            raise ValueError(f"two filters are called {duplicate(names)!r}")
        if self.source.format == "images":
            self._check_images()
        else:
            self._check_table()
        if isinstance(self.source.paths, dict):
            if "train" not in self.source.paths:
                raise ValueError("paths needs a train split: statistics come from it")
            if self.split.fractions or self.split.directory or self.split.column:
                raise ValueError("paths by split leave only carve to [split]")
        elif not (self.split.fractions or self.split.directory or self.split.column):
            raise ValueError("[split] takes fractions, directory = true, or column with values")
        return self

    def _check_images(self) -> None:
        if len(self.features) != 1:
            raise ValueError(
                f"an image dataset has one feature, but there are {len(self.features)}"
            )
        if self.split.key != "*" or self.split.column:
            raise ValueError("images are split by fractions, directory or paths")
        if self.label and (self.label.column or self.label.expression):
            raise ValueError('images take their label from = "directory" or by pattern')
        if self.label and self.label.type != "class":
            raise ValueError('the label of an image is type = "class"')

    def _check_table(self) -> None:
        if self.split.directory:
            raise ValueError("split.directory is for images; a table takes fractions or a column")
        if self.label and (self.label.from_ or self.label.pattern):
            raise ValueError("a table takes its label from a column or an expression")
        dtypes: dict[str, tuple[str, str]] = {}
        for name, feature in self.columns.items():
            column = feature.column or name
            other, dtype = dtypes.setdefault(column, (name, feature.dtype))
            if dtype != feature.dtype:
                raise ValueError(
                    f"column {column!r} is {dtype} for {other} and {feature.dtype} for "
                    f"{name}: transform_fn takes it with one dtype"
                )


class _FeatureError(Exception):
    """A mistake inside one feature; not a ValueError, so that pydantic lets it pass."""

    def __init__(self, name: str, error: pydantic.ValidationError, model: type):
        super().__init__(name)
        self.name, self.error, self.model = name, error, model


def _float32(number: int | float) -> float:
    """Returns the nearest float32, infinity beyond its range."""
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return math.inf


def decimal(number: int | float) -> Fraction:
    """Returns the number as it was written, 0.1 as one tenth, so that fractions sum exactly."""
    return Fraction(repr(number))


def duplicate(values: Sequence[Any]) -> Any:
    """Returns the first value that stands in a sequence twice."""
    return next(value for i, value in enumerate(values) if value in values[:i])


def load_spec(path: str) -> Spec:
    """Reads a spec and makes its paths absolute: they are relative to the file.

    Raises:
      SpecError: No such file, no TOML, or a rule is broken; one line that says which.
    """
    try:
        with open(path, "rb") as file:
            said = tomllib.load(file)
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}. Give the path of a spec.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not a TOML file: {error}.") from error
    return parse_spec(said, path)


def parse_spec(said: dict[str, Any], path: str) -> Spec:
    """Checks what a spec says; `path` is for messages and for relative paths.

    Raises:
      SpecError: A rule is broken; one line that says which.
    """
    try:
        spec = Spec.model_validate(said)
    except _FeatureError as error:
        raise SpecError(_line(path, error.error, ("features", error.name), said)) from error
    except pydantic.ValidationError as error:
        raise SpecError(_line(path, error, (), said)) from error
    folder = glob.escape(os.path.dirname(os.path.abspath(path)))  # Only what is said is a pattern.

    def absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(p if "://" in p else os.path.normpath(os.path.join(folder, p)) for p in paths)

    paths = spec.source.paths
    resolved = (
        {split: absolute(p) for split, p in paths.items()}
        if isinstance(paths, dict)
        else absolute(paths)
    )
    return spec.model_copy(update={"source": spec.source.model_copy(update={"paths": resolved})})


_SECTIONS: dict[str, type[pydantic.BaseModel]] = {
    "source": Source,
    "split": Split,
    "filter": Filter,
    "label": Label,
    "output": Output,
}


# What pydantic calls by its Python name.
_KINDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}


def _known_keys(location: tuple[Any, ...], said: dict[str, Any]) -> list[str]:
    """Returns the keys that could stand where an unknown one was found."""
    model: type[pydantic.BaseModel] = Spec
    if location and location[0] == "features" and len(location) > 1:
        source = said.get("source")
        images = isinstance(source, dict) and source.get("format") == "images"
        model = Image if images else Column
    elif "carve" in location[1:2]:
        model = Carve
    elif location:
        model = _SECTIONS.get(str(location[0]), Spec)
    return [field.alias or name for name, field in model.model_fields.items()]


def _line(
    path: str, error: pydantic.ValidationError, prefix: tuple[Any, ...], said: dict[str, Any]
) -> str:
    """Returns one line: file, key, the rule, what came, what to do."""
    first, others = _most_telling(error)
    location = prefix + tuple(part for part in first["loc"] if not _is_type_tag(part))
    where = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], said)
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
        return f"{path}: {where}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{path}: {where}: missing; add it."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{path}: {where + ': ' if where else ''}{message}."
    if first["type"] == "too_short":
        return f"{path}: {where}: must not be empty; name at least one."
    message = message.removeprefix("Input should be ")
    if first["type"] in _KINDS:
        kinds = {
            other["type"]: _KINDS[other["type"]] for other in others if other["type"] in _KINDS
        }
        if "float_type" in kinds:
            kinds.pop("int_type", None)
        message = " or ".join(kinds.values())
    return f"{path}: {where}: must be {message}, but is {first['input']!r}."


def _most_telling(error: pydantic.ValidationError) -> tuple[Any, list[Any]]:
    """Returns one error and those beside it; a value that may be of several types has one each.

    It is the one that went deepest into the value, and rather about the value than its type.
    """
    found = error.errors()
    loc = found[0]["loc"]
    tags = [i for i, part in enumerate(loc) if _is_type_tag(part)]
    if not tags:
        return found[0], found[:1]
    of_value = [e for e in found if e["loc"][: tags[0]] == loc[: tags[0]]]
    depth = max(len(e["loc"]) for e in of_value)
    deepest = [e for e in of_value if len(e["loc"]) == depth]
    about_values = [e for e in deepest if not e["type"].endswith("_type")]
    return (about_values or deepest)[0], deepest


def _is_type_tag(part: Any) -> bool:
    """Whether pydantic put this part into a location to name a member of a union."""
    return isinstance(part, str) and bool(
        re.search(r"[\[(]|^(constrained-)?(str|int|float|bool)$", part)
    )
