"""`[source]`: what to read."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictStr, model_validator

from beam_jobs.config_base import NonEmpty, Section, SplitName, duplicate

KerasDataset = Literal[
    "mnist", "fashion_mnist", "cifar10", "cifar100", "imdb", "reuters", "california_housing"
]
_CLEANING = ("trim", "null_values", "types")
# What each format takes beside its paths, or what it has instead.
KEYS = {
    "csv": ("header", "columns", "delimiter", "quote", "encoding", *_CLEANING),
    "text": ("records", "encoding", *_CLEANING),
    "parquet": ("columns", *_CLEANING),
    "jsonl": ("columns", *_CLEANING),
    "avro": ("columns", *_CLEANING),
    "tfrecord": ("columns", *_CLEANING),
    "webdataset": ("columns", *_CLEANING),
    "images": (),
    "numpy": _CLEANING,
    "keras": _CLEANING,
    "python": _CLEANING,
    "beam": _CLEANING,
    "bigquery": _CLEANING,
}
INSTEAD_OF_PATHS = {
    "keras": ("dataset",),
    "python": ("function",),
    "beam": ("transform",),
    "bigquery": ("query", "table"),
}
INGESTED = ("numpy", *INSTEAD_OF_PATHS)
BY_BEAM = ("beam", "bigquery")


class Source(Section):
    """`[source]`: what to read."""

    format: Literal[
        "csv",
        "text",
        "parquet",
        "jsonl",
        "avro",
        "tfrecord",
        "webdataset",
        "images",
        "numpy",
        "keras",
        "python",
        "beam",
        "bigquery",
    ]
    paths: (
        Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
        | Annotated[dict[SplitName, tuple[NonEmpty, ...]], Field(min_length=1)]
        | None
    ) = None
    dataset: KerasDataset | None = None
    function: NonEmpty | None = None
    transform: NonEmpty | None = None
    query: NonEmpty | None = None
    table: NonEmpty | None = None
    records: Literal["lines", "files"] = "lines"
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
        return {None: self.paths or ()}

    @property
    def is_ingested(self) -> bool:
        """Whether the records are written as Arrow files before the job reads them."""
        return self.format in INGESTED

    @property
    def is_by_beam(self) -> bool:
        """Whether a job of Beam's writes these, and not the launcher."""
        return self.format in BY_BEAM

    @property
    def is_file_a_record(self) -> bool:
        """Whether a record is a whole file, so that there may be millions of them."""
        return self.format == "images" or (self.format == "text" and self.records == "files")

    @model_validator(mode="after")
    def _check(self) -> "Source":
        needed = INSTEAD_OF_PATHS.get(self.format, ("paths",))
        if sum(getattr(self, key) is not None for key in needed) != 1:
            either = "either " if len(needed) > 1 else ""
            raise ValueError(f"format = {self.format!r} needs {either}{' or '.join(needed)}")
        if self.format == "csv" and not self.header and not self.columns:
            raise ValueError("header = false needs columns = [...], the names in order")
        if self.format == "csv" and self.header and self.columns:
            raise ValueError("columns names the fields of files without a header: header = false")
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns holds a name twice: {duplicate(self.columns)!r}")
        for key in sorted(self.model_fields_set - {"format", *_keys(self.format)}):
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if getattr(self, key) != default:  # A manifest says all of them.
                owners = ", ".join(name for name in KEYS if key in _keys(name))
                raise ValueError(f"{key} is not for format = {self.format!r}, but for {owners}")
        return self


def _keys(name: str) -> set[str]:
    """Returns what a format takes."""
    return {*INSTEAD_OF_PATHS.get(name, ("paths",)), *KEYS[name]}
