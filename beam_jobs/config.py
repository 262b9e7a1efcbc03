"""The spec: one TOML file, read once into frozen models."""

import datetime
import difflib
import functools
import glob
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator

from beam_jobs import reasons
from beam_jobs.config_base import (
    SPLITS,
    FeatureName,
    Fractions,
    NonEmpty,
    Number,
    Section,
    SplitName,
    decimal,
    duplicate,
)
from beam_jobs.config_dates import Date
from beam_jobs.config_features import (
    FEATURE_TYPES,
    MISSING_TOKEN,
    Boxes,
    Column,
    Cross,
    Feature,
    Image,
    Mask,
    Tabular,
)
from beam_jobs.config_source import Source
from beam_jobs.config_text import Text
from beam_jobs.config_vectors import Sparse, Vector
from beam_jobs.errors import SpecError

__all__ = [
    "MISSING_TOKEN",
    "SPLITS",
    "Boxes",
    "Column",
    "Cross",
    "Date",
    "Image",
    "Mask",
    "Source",
    "Sparse",
    "Tabular",
    "Text",
    "Vector",
    "decimal",
    "duplicate",
]


LABEL, WEIGHT = "label", "weight"  # The names under which records hold them.
# It becomes the name of a layer, and of an input or output of models.
LabelName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Carve(Section):
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


_WAYS = "fractions, time, directory = true, and column with values"
Moment = Annotated[
    Number | NonEmpty, BeforeValidator(lambda v: str(v) if isinstance(v, datetime.date) else v)
]


class Time(Section):
    """`[split.time]`: records before a moment are train, those from it on validation or test."""

    column: NonEmpty
    validation: Moment | None = None
    test: Moment | None = None

    @property
    def starts(self) -> dict[str, int | float | str]:
        """The moments from which on records are of a split, by split."""
        pairs = (("validation", self.validation), ("test", self.test))
        return {name: start for name, start in pairs if start is not None}

    @model_validator(mode="after")
    def _check(self) -> "Time":
        if not self.starts:
            raise ValueError('needs a moment: test = "2024-01-01"')
        return self


class Split(Section):
    """`[split]`: which records go where."""

    key: NonEmpty | Annotated[tuple[NonEmpty, ...], Field(min_length=1)] = "*"
    fractions: Annotated[Fractions, Field(min_length=1)] | None = None
    stratified: StrictBool = False
    time: Time | None = None
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

    @property
    def ways(self) -> list[str]:
        """What of it decides alone: one thing, or nothing where the paths do."""
        found = {
            "fractions": self.fractions,
            "directory": self.directory or None,
            "column": self.column,
            "time": self.time,
        }
        return [name for name, said in found.items() if said is not None]

    @model_validator(mode="after")
    def _check(self) -> "Split":
        if (self.column is None) != (self.values is None):
            raise ValueError("column and values go together")
        if len(self.ways) > 1:
            raise ValueError(f"takes one of {_WAYS}")
        if self.stratified and self.fractions is None:
            raise ValueError("stratified = true goes with fractions, per class of the label")
        if self.time is not None and self.key != "*" and self.carve is None:
            raise ValueError("key is for fractions and carve; the time of each record decides here")
        if self.fractions is not None:
            total = sum(map(decimal, self.fractions.values()))
            if total != 1:
                raise ValueError(f"fractions must sum to 1, but sum to {float(total):.12g}")
            if self.carve is not None:
                raise ValueError("carve is for other splits; change the fractions")
        if self.values is not None:
            listed = [value for values in self.values.values() for value in values]
            if len(set(map(repr, listed))) != len(listed):
                raise ValueError(f"values lists {duplicate(listed)!r} twice")
        return self


class Filter(Section):
    """`[[filter]]`: a condition that a record must meet."""

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    where: NonEmpty | None = None
    function: NonEmpty | None = None
    columns: tuple[NonEmpty, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Filter":
        if (self.where is None) == (self.function is None):
            raise ValueError("takes one of where and function")
        if (self.function is None) != (self.columns is None):
            raise ValueError("function needs columns, those that it reads; where names its own")
        if reasons.is_taken(self.name):
            raise ValueError(f"{self.name} is a reason of headrace's own; call the filter another")
        return self


class Label(Section):
    """`[label]` or `[labels.NAME]`: a target."""

    column: NonEmpty | None = None
    expression: NonEmpty | None = None
    from_: Literal["directory"] | None = Field(default=None, alias="from")
    pattern: NonEmpty | None = None
    type: Literal["class", "int64", "float32", "multi_label"] = "class"
    separator: NonEmpty | None = None

    @property
    def has_classes(self) -> bool:
        """Whether records hold indices of classes, one or several."""
        return self.type in ("class", "multi_label")

    @property
    def between(self) -> str:
        """What stands between the classes of a text."""
        return self.separator or "|"

    @model_validator(mode="after")
    def _check(self) -> "Label":
        given = [self.column, self.expression, self.from_, self.pattern]
        if sum(value is not None for value in given) != 1:
            raise ValueError('takes one of column, expression, from = "directory" and pattern')
        if self.type == "multi_label" and self.column is None:
            raise ValueError(
                'type = "multi_label" takes a column, whose texts are lists of classes'
            )
        if self.separator is not None and self.type != "multi_label":
            raise ValueError('separator is for type = "multi_label"')
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
            if "label" not in groups:
                raise ValueError("pattern needs a group named label: (?P<label>...)")
        return self


class Weight(Section):
    """`[weight]`: how much a record counts in the loss and in the metrics."""

    column: NonEmpty | None = None
    expression: NonEmpty | None = None

    @property
    def type(self) -> str:
        """What it is stored as, like the type of a label."""
        return "float32"

    @model_validator(mode="after")
    def _check(self) -> "Weight":
        if (self.column is None) == (self.expression is None):
            raise ValueError("takes one of column and expression")
        return self


class Output(Section):
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


class Spec(Section):
    """A whole spec.

    Raises:
      pydantic.ValidationError: A value breaks a rule; `load_spec` turns it into one line.
    """

    name: Annotated[StrictStr, Field(min_length=1, pattern=r"^[\w.-]+$")]
    source: Source
    split: Split = Split()
    filter: tuple[Filter, ...] = ()
    features: Annotated[dict[FeatureName, Feature], Field(min_length=1)]
    preprocessing_fn: NonEmpty | None = None
    label: Label | None = None
    labels: Annotated[dict[LabelName, Label], Field(min_length=1)] | None = None
    weight: Weight | None = None
    output: Output = Output()
    _folder: str = pydantic.PrivateAttr(default="")
    _traced: dict[str, str] = pydantic.PrivateAttr(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where the file lies: modules there are found."""
        return self._folder

    @property
    def functions(self) -> dict[str, str]:
        """The functions that workers must import, by the place of each in the spec."""
        found = {f"filter {rule.name!r}": rule.function for rule in self.filter}
        found["preprocessing_fn"] = self.preprocessing_fn
        for name, feature in self.images.items():
            key = f"features.{name}.preprocessing_function"
            found[key] = feature.preprocessing_function
        return {key: name for key, name in found.items() if name is not None}

    @property
    def traced(self) -> dict[str, str]:
        """Digests of what functions compute, by feature or filter: the launcher's finding."""
        return self._traced

    @functools.cached_property
    def columns(self) -> Mapping[str, Tabular]:
        """The features of a table, by name, each with its column filled in."""
        return {
            name: feature.model_copy(update={"column": feature.column or name})
            for name, feature in self.features.items()
            if isinstance(feature, Tabular)
        }

    @functools.cached_property
    def images(self) -> Mapping[str, Image]:
        """The image features, by name."""
        return {name: f for name, f in self.features.items() if isinstance(f, Image)}

    @functools.cached_property
    def targets(self) -> Mapping[str, Mask | Boxes]:
        """The features that say something of the pixels of an image, by name."""
        return {name: f for name, f in self.features.items() if isinstance(f, Mask | Boxes)}

    @property
    def pictures(self) -> list[str]:
        """The names of the features that are made of image files: images and masks."""
        return [name for name, f in self.features.items() if isinstance(f, Image | Mask)]

    @property
    def has_code(self) -> bool:
        """Whether it names a function of the user's."""
        source = self.source
        return bool(self.functions) or source.function is not None or source.is_by_beam

    @property
    def is_of_images(self) -> bool:
        """Whether its records are images, whatever lists them."""
        return bool(self.images)

    def column_of(self, feature: str) -> str:
        """Returns the column of a table that a feature is made of."""
        found = self.features[feature]
        return (None if isinstance(found, Cross) else found.column) or feature

    @functools.cached_property
    def crosses(self) -> Mapping[str, Cross]:
        """The features that are made of others, by name."""
        return {name: f for name, f in self.features.items() if isinstance(f, Cross)}

    @functools.cached_property
    def expressions(self) -> Mapping[str, Column]:
        """The features that SQL computes of a record: transform_fn takes them by their names."""
        return {n: f for n, f in self.columns.items() if isinstance(f, Column) and f.expression}

    @functools.cached_property
    def vectors(self) -> Mapping[str, Vector]:
        """The features that are made of several numbers of a record, by name."""
        return {name: f for name, f in self.features.items() if isinstance(f, Vector)}

    @functools.cached_property
    def lists(self) -> Mapping[str, Vector]:
        """The raw columns that hold lists of numbers, each with a feature that says how."""
        of_lists = [n for n, vector in self.vectors.items() if vector.columns is None]
        return {self.column_of(name): self.vectors[name] for name in of_lists}

    def inputs_of(self, name: str) -> dict[str, str]:
        """Returns the raw columns that a feature of a table is made of, each with its dtype."""
        if name in self.vectors:
            vector = self.vectors[name]
            return dict.fromkeys(vector.columns or (self.column_of(name),), vector.dtype)
        if name in self.crosses:
            of = self.crosses[name].of
            return {k: dtype for other in of for k, dtype in self.inputs_of(other).items()}
        feature = self.columns[name]
        key = {feature.key: "string"} if feature.key is not None else {}
        return {self.column_of(name): feature.dtype} | key

    @functools.cached_property
    def inputs(self) -> Mapping[str, str]:
        """The raw columns that transform_fn takes of a table, each with its dtype."""
        of_columns = (*self.columns, *self.vectors)
        return {k: dtype for name in of_columns for k, dtype in self.inputs_of(name).items()}

    @functools.cached_property
    def required(self) -> tuple[str, ...]:
        """Those of the inputs without whose value there is no record."""
        made = self.columns
        found = [self.column_of(name) for name, f in made.items() if f.missing == "reject"]
        vectors = [name for name, vector in self.vectors.items() if vector.missing == "reject"]
        found += [column for name in vectors for column in self.inputs_of(name)]
        found += [feature.key for feature in made.values() if feature.key is not None]
        return tuple(dict.fromkeys(found))

    @functools.cached_property
    def of_several(self) -> tuple[str, ...]:
        """The features of a table that are made of more than one value of a record."""
        keyed = (name for name, feature in self.columns.items() if feature.key is not None)
        return (*keyed, *self.crosses, *self.vectors)

    @functools.cached_property
    def stored_labels(self) -> Mapping[str, Label]:
        """The labels, by the name under which records hold them."""
        if self.label is not None:
            return {LABEL: self.label}
        return {f"{LABEL}/{name}": label for name, label in (self.labels or {}).items()}

    @functools.cached_property
    def beside_features(self) -> Mapping[str, Label | Weight]:
        """What records hold beside features, by name: labels, and last their weight."""
        weight = {} if self.weight is None else {WEIGHT: self.weight}
        return {**self.stored_labels, **weight}

    @property
    def is_label_in_path(self) -> bool:
        """Whether the path of a file says the label of its records."""
        return self.label is not None and bool(self.label.from_ or self.label.pattern)

    @property
    def texts(self) -> Mapping[str, Text]:
        """Those of the columns that are made of tokens."""
        return {n: feature for n, feature in self.columns.items() if isinstance(feature, Text)}

    @property
    def sparse(self) -> Mapping[str, Sparse]:
        """Those of the columns that are made of pairs of index and value."""
        return {n: feature for n, feature in self.columns.items() if isinstance(feature, Sparse)}

    @property
    def digest(self) -> str:
        """Sha256 over everything that the spec says, paths and what is said by default aside."""
        said = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        said["source"].pop("paths", None)
        for name, feature in self.texts.items():
            if feature.files_digest is not None:  # What they hold counts, not where they lie.
                said["features"][name]["files"] = feature.files_digest
                for key in feature.paths:
                    said["features"][name].pop(key)
        for name, function_digest in self.traced.items():
            if name in self.features:
                said["features"][name]["preprocessing_function"] = function_digest
            else:
                said.setdefault("functions", {})[name] = function_digest
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @model_validator(mode="before")
    @classmethod
    def _choose_features(cls, said: Any) -> Any:
        """Makes each feature what its `type` says, so that errors name one model."""
        features = said.get("features")
        if not isinstance(features, dict):
            return said
        checked = {}
        for name, value in features.items():
            model = feature_model(value, said)
            named = value.get("type") if isinstance(value, dict) else None
            if isinstance(named, str) and named not in FEATURE_TYPES:
                types = ", ".join(map(repr, FEATURE_TYPES))
                raise ValueError(f"features.{name}.type: must be one of {types}, but is {named!r}")
            try:
                checked[name] = value if isinstance(value, model) else model.model_validate(value)
            except pydantic.ValidationError as error:
                raise _FeatureError(name, error, model) from error
        return said | {"features": checked}

    @model_validator(mode="after")
    def _check(self) -> "Spec":
        self._check_labels()
        for name, feature in self.features.items():
            for suffix, what in _companions(feature):
                if f"{name}{suffix}" in self.features:
                    raise ValueError(f"{name}{suffix} is the {what} of {name}, and a feature")
        names = [rule.name for rule in self.filter]
        if len(set(names)) != len(names):
            raise ValueError(f"two filters are called {duplicate(names)!r}")
        if self.images or self.targets:
            self._check_image_features()
        if self.preprocessing_fn is not None and (self.images or self.targets):
            raise ValueError("preprocessing_fn is for tables; an image has preprocessing_function")
        if self.source.format == "images":
            self._check_images()
        else:
            self._check_table()
        if isinstance(self.source.paths, dict):
            if self.split.ways:
                raise ValueError("paths by split leave only carve to [split]")
        elif not self.split.ways:
            raise ValueError(f"[split] takes one of {_WAYS}")
        if self.split.stratified and (self.label is None or self.label.type != "class"):
            raise ValueError('split.stratified needs a label of type = "class"')
        return self

    def _check_labels(self) -> None:
        if self.label is not None and self.labels is not None:
            raise ValueError("takes one [label], or several [labels.NAME], not both")
        for name, label in (self.labels or {}).items():
            if name in self.features:
                raise ValueError(f"{name} is a feature and a label. Call one of them another")
            if label.from_ or label.pattern:
                raise ValueError(f"labels.{name}: takes a column or an expression")
        for name in (LABEL, *self.beside_features):
            if name in self.features:
                what = "weight" if name == WEIGHT else "target"
                raise ValueError(
                    f"a feature may not be called {name}: the {what} is stored under it"
                )
        is_plain = self.label is None or self.label.type != "multi_label"
        if self.images and not (is_plain and self.labels is None and self.weight is None):
            raise ValueError(
                "records of images have one [label], of type class, int64 or float32, and no "
                "[weight]"
            )

    def _check_image_features(self) -> None:
        for name, feature in self.features.items():
            if not isinstance(feature, Image | Mask | Boxes):
                raise ValueError(
                    f"features.{name} is a {feature.type}, but a dataset with an image holds "
                    "images, masks, boxes and a label. Make another dataset of the rest"
                )
        for name, target in self.targets.items():
            image = self.images.get(target.of)
            if image is None:
                raise ValueError(f"features.{name}.of: there is no image {target.of!r}")
            if isinstance(target, Mask) and None in image.shape:
                raise ValueError(
                    f"features.{name}: a mask needs an image of one size, but features.{target.of} "
                    "has no size"
                )

    def _check_images(self) -> None:
        if len(self.features) != 1:
            raise ValueError(
                f"an image dataset has one feature, but there are {len(self.features)}"
            )
        (feature,) = self.features.values()
        if not isinstance(feature, Image):
            raise ValueError(f"a dataset of image files has an image, but no {feature.type}")
        if feature.column is not None:
            raise ValueError("a column is for a table; images are files that source.paths names")
        if self.split.key != "*" or self.split.column or self.split.time:
            raise ValueError("images are split by fractions, directory or paths")
        if self.label and (self.label.column or self.label.expression):
            raise ValueError('images take their label from = "directory" or by pattern')
        if self.label and self.label.type != "class":
            raise ValueError('the label of an image is type = "class"')

    def _check_table(self) -> None:
        if self.split.directory and self.source.format != "text":
            raise ValueError(
                "split.directory is for images and text; another table takes fractions, time or a "
                "column"
            )
        if self.is_label_in_path and self.source.format != "text":
            raise ValueError("a table other than text takes its label from a column or expression")
        dtypes: dict[str, tuple[str, str]] = {}
        for name, feature in self.columns.items():
            if feature.key == self.column_of(name):
                raise ValueError(
                    f"features.{name}.key: must be another column than {feature.key!r}"
                )
        for name in (*self.columns, *self.vectors):
            for column, dtype in self.inputs_of(name).items():
                dtype += self._list_form(name)
                other, before = dtypes.setdefault(column, (name, dtype))
                if other != name and column in self.expressions:
                    reader = name if other == column else other
                    raise ValueError(
                        f"features.{reader} reads the column {column!r}, but transform_fn has the "
                        f"expression of features.{column} by that name. Call the feature another"
                    )
                if before != dtype:
                    raise ValueError(
                        f"column {column!r} is {before} for {other} and {dtype} for "
                        f"{name}: transform_fn takes it with one dtype"
                    )
        for name, cross in self.crosses.items():
            self._check_cross(name, cross)

    def _list_form(self, name: str) -> str:
        """Returns what a feature says of the lists in its column; nothing where these are none."""
        vector = self.vectors.get(name)
        if vector is None or vector.columns is not None:
            return ""
        length = "any length" if vector.size is None else f"{vector.size} numbers"
        return f" lists of {length}, separated by {vector.separator!r},"

    def _check_cross(self, name: str, cross: Cross) -> None:
        for other in cross.of:
            feature = self.columns.get(other)
            if feature is None:
                raise ValueError(f"features.{name}.of: there is no feature {other!r} of a column")
            if not isinstance(feature, Column) or feature.output_dtype == "float32":
                given = {"text": "tokens", "date": "parts", "sparse": "pairs"}
                raise ValueError(
                    f"features.{name}.of: crosses categories, but features.{other} gives "
                    f"{given.get(feature.type, 'numbers')}. Give it bucketize, another transform "
                    "to int64, or none to a string"
                )


def _companions(feature: Feature) -> list[tuple[str, str]]:
    """Returns how what stands beside a feature is called, and what it is."""
    if isinstance(feature, Date):
        return [(ending, "part") for ending in feature.endings]
    if isinstance(feature, Vector) and feature.is_ragged:
        return [("_length", "length")]
    if isinstance(feature, Column | Sparse | Text):
        indicator = [("_missing", "indicator")] if feature.indicator else []
        lists = [("/indices", "list of indices"), ("/values", "list of values")]
        return indicator + (lists if feature.is_sparse else [])
    if isinstance(feature, Boxes) and feature.classes:
        return [("_class", "class")]
    return [("_orientation", "orientation")] if isinstance(feature, Image) else []


def feature_model(value: Any, said: Mapping[str, Any]) -> type[Feature]:
    """Returns the model of a feature: the one of its `type`, else what its source holds."""
    if isinstance(value, Section):
        return type(value)  # type: ignore[return-value]
    source = said.get("source")
    is_image = isinstance(source, dict) and source.get("format") == "images"
    default = Image if is_image else Column
    named = value.get("type") if isinstance(value, dict) else None
    return FEATURE_TYPES.get(named, default) if isinstance(named, str) else default


class _FeatureError(Exception):
    """A mistake inside one feature; not a ValueError, so that pydantic lets it pass."""

    def __init__(self, name: str, error: pydantic.ValidationError, model: type):
        super().__init__(name)
        self.name, self.error, self.model = name, error, model


def load_spec(path: str, *, learns: bool = True) -> Spec:
    """Reads a spec and makes its paths absolute: they are relative to the file.

    Args:
      path: The file.
      learns: Whether statistics are to come from it, so that it must have a train split.

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
    return parse_spec(said, path, learns=learns)


def parse_spec(said: dict[str, Any], path: str, *, learns: bool = True) -> Spec:
    """Checks what a spec says; `path` is for messages and for relative paths.

    Args:
      said: What TOML says.
      path: The file.
      learns: As for `load_spec`.

    Raises:
      SpecError: A rule is broken; one line that says which.
    """
    try:
        spec = Spec.model_validate(said)
    except _FeatureError as error:
        raise SpecError(_line(path, error.error, ("features", error.name), said)) from error
    except pydantic.ValidationError as error:
        raise SpecError(_line(path, error, (), said)) from error
    here = os.path.dirname(os.path.abspath(path))
    spec._folder = here
    folder = glob.escape(here)  # Only what is said is a pattern.

    def absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_absolute(p, folder) for p in paths)

    paths = spec.source.paths
    resolved = (
        {split: absolute(p) for split, p in paths.items()}
        if isinstance(paths, dict)
        else absolute(paths)
        if paths
        else None
    )
    source = spec.source.model_copy(update={"paths": resolved})
    features = {
        name: feature.model_copy(update={k: _absolute(p, here) for k, p in feature.paths.items()})
        for name, feature in spec.features.items()
        if isinstance(feature, Text)
    }
    spec = spec.model_copy(update={"source": source, "features": spec.features | features})
    spec.__dict__.pop("columns", None)  # Those of before, with relative paths.
    if learns:
        check_train(spec, path)
    return spec


def check_train(spec: Spec, path: str) -> None:
    """Raises a SpecError if no record can fall into train."""
    paths, split = spec.source.paths, spec.split
    given = {
        "source.paths": paths if isinstance(paths, dict) else None,
        "split.fractions": split.fractions,
        "split.values": split.values,
    }
    for key, named in given.items():
        if named is not None and "train" not in named:
            raise SpecError(
                f"{path}: {key}: needs a train split: statistics come from it. Name one, or give "
                "--transform-from a dataset that has them."
            )


def _absolute(path: str, folder: str) -> str:
    return path if "://" in path else os.path.normpath(os.path.join(folder, path))


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
        model = feature_model(said["features"][location[1]], said)
    elif location[:1] == ("split",) and location[1:]:
        model = Time if location[1] == "time" else Carve
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
