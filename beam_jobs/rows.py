"""A block of a table to records: parsed, filtered, split and hashed, or rejected with a reason."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import filters, keys, labels, paths, reasons, splits, sql, utf8, values, vectors
from beam_jobs.config import LABEL, WEIGHT, Source, Spec, Time, Vector, duplicate
from beam_jobs.config_steps import Bound
from beam_jobs.errors import SpecError
from beam_jobs.filters import Expression, Sql
from beam_jobs.sources import blocks
from beam_jobs.sources.blocks import Structure

PATH_LABEL = "label"  # The column that conditions see of a label that comes from the path.
PARSED_AS = {
    "float32": "float64",
    "int64": "int64",
    "string": "string",
    "timestamp": "timestamp",
    "class": "string",
    "multi_label": "string",
}
FILE = "file"  # The dtype of a column that holds images, or their paths: it stays as it is.
HEADER_COLUMNS = ("width", "height", "channels", "bytes")  # Of image NAME conditions see NAME_width
_HAVE_ORDER = ("date", "timestamp", "int64", "float64")
LABEL_SQL_TYPES = {"class": "VARCHAR", "int64": "BIGINT", "float32": "DOUBLE"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the spec says of the rows of a table with certain columns.

    Attributes:
      spec: The spec.
      sql_columns: The columns that conditions and the split read, each with its type in SQL.
      raw_columns: The columns that features read, each with its dtype; inputs of transform_fn,
        which takes what the expressions of features compute, too.
      required: The columns without which a record is `missing_<column>`.
      bounds: For columns whose transforms do not take every number, those that they take.
      header_columns: What conditions read of the headers of images.
      starts: The moments of a split by time, of the type of its column, ascending.
      strata: Where a stratified split cuts the classes; None before that is known.
      classes: Of labels those that they may have; None for any.
    """

    spec: Spec
    sql_columns: Mapping[str, str]
    raw_columns: Mapping[str, str]
    required: tuple[str, ...]
    bounds: tuple[tuple[str, Bound], ...]
    header_columns: tuple[str, ...] = ()
    starts: Mapping[str, pa.Scalar] = dataclasses.field(default_factory=dict)
    strata: splits.Strata | None = None
    classes: Mapping[str, tuple[str, ...]] | None = None

    @property
    def conditions(self) -> list[Expression]:
        """The filters, and then the expressions of labels and of the weight."""
        found = filters.conditions(self.spec)
        for said in self.spec.beside_features.values():
            if said.expression:
                found.append(Sql(said.expression, LABEL_SQL_TYPES[said.type]))
        return found

    @property
    def computed(self) -> list[Expression]:
        """The expressions of features."""
        of = self.spec.expressions.values()
        return [Sql(str(f.expression), filters.SQL_TYPES[PARSED_AS[f.dtype]]) for f in of]


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a block that meet every rule.

    Attributes:
      raw: The inputs of transform_fn: float32, int64 or string columns, null where missing.
      beside: Labels and the weight, by the names of `Spec.beside_features`: string for classes,
        else int64 or float32.
      splits: int8 (num_records,), positions in SPLITS.
      hashed: HASH_DTYPE (num_records,), of the whole record.
      keyed: HASH_DTYPE (num_records,), of the key of a stratified split.
    """

    raw: pa.RecordBatch
    beside: Mapping[str, pa.Array]
    splits: np.ndarray
    hashed: np.ndarray
    keyed: np.ndarray | None = None

    def take(self, kept: np.ndarray) -> "Records":
        """Returns some of the records, by bool (num_records,)."""
        mask = pa.array(kept)
        beside = {name: found.filter(mask) for name, found in self.beside.items()}
        keyed = None if self.keyed is None else self.keyed[kept]
        return Records(self.raw.filter(mask), beside, self.splits[kept], self.hashed[kept], keyed)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the records of a block.

    Attributes:
      num_read: All of them.
      kept: Those that meet every rule.
      rejected: The others: source (the file), position (the line, or the number of the record)
        int64, reason, detail and record, one row each.
      classes: Of each label the classes that are left after the filters, in any split.
      is_kept: bool (num_sound,), which of the records of sound structure are among `kept`.
    """

    num_read: int
    kept: Records
    rejected: pa.Table
    classes: Mapping[str, tuple[str, ...]]
    is_kept: np.ndarray


def plan(spec: Spec, columns: Sequence[str]) -> Plan:
    """Checks a spec against the columns of the files.

    Raises:
      SpecError: It names a column that does not exist, or SQL that does not parse.
    """
    if spec.is_label_in_path:
        columns = (*columns, PATH_LABEL)
    for column, where in _named_columns(spec):
        if column not in columns:
            raise SpecError(
                f"{where}: there is no column {column!r}. The columns are {', '.join(columns)}."
            )
    raw = {k: dtype for k, dtype in spec.inputs.items() if k not in spec.expressions}
    raw |= {spec.column_of(name): "string" for name in spec.targets}
    raw |= {spec.column_of(name): FILE for name in spec.pictures}
    headers = [f"{name}_{what}" for name in spec.images for what in HEADER_COLUMNS]
    types = {name: "int64" for name in headers}
    types |= {column: _sql_type(column, spec, raw) for column in columns}
    used: set[str] = set()
    sql_types = {column: filters.SQL_TYPES[dtype] for column, dtype in types.items()}
    for rule in spec.filter:
        used |= filters.check(rule, sql_types, spec.folder)
    for name, said in spec.beside_features.items():
        if said.expression:
            kind, where = LABEL_SQL_TYPES[said.type], f"{_section(name)}.expression"
            used |= filters.used_columns(said.expression, sql_types, where, kind)
    for name, feature in spec.expressions.items():
        where, kind = f"features.{name}.expression", filters.SQL_TYPES[PARSED_AS[feature.dtype]]
        used |= filters.used_columns(str(feature.expression), sql_types, where, kind)
    if spec.split.column:
        used.add(spec.split.column)
        _check_split_values(spec, types[spec.split.column])
    starts: dict[str, pa.Scalar] = {}
    if spec.split.time:
        used.add(spec.split.time.column)
        starts = _starts(spec.split.time, types[spec.split.time.column])
    required = dict.fromkeys(spec.required)
    required |= {spec.column_of(name): None for name in (*spec.images, *spec.targets)}
    bounds = {(str(f.column), f.bound): None for f in spec.columns.values() if f.bound}
    read_by_sql = {column: types[column] for column in columns if column in used}
    from_headers = tuple(name for name in headers if name in used and name not in columns)
    return Plan(spec, read_by_sql, raw, tuple(required), tuple(bounds), from_headers, starts)


def _named_columns(spec: Spec) -> list[tuple[str, str]]:
    made = [name for name in (*spec.columns, *spec.vectors) if name not in spec.expressions]
    found = [(k, f"features.{name}") for name in made for k in spec.inputs_of(name)]
    for name in (*spec.images, *spec.targets):
        found.append((spec.column_of(name), f"features.{name}"))
    found += [(column, "source.types") for column in spec.source.types]
    found += [(column, "split.key") for column in spec.split.key_columns or ()]
    if spec.split.column:
        found.append((spec.split.column, "split.column"))
    if spec.split.time:
        found.append((spec.split.time.column, "split.time.column"))
    for name, said in spec.beside_features.items():
        if said.column:
            found.append((said.column, f"{_section(name)}.column"))
    return found


def _section(name: str) -> str:
    """Returns the section of the spec that says what records hold under a name: `labels.NAME`."""
    return name.replace(f"{LABEL}/", f"{LABEL}s.")


def _sql_type(column: str, spec: Spec, raw: Mapping[str, str]) -> str:
    if column in spec.source.types:
        return spec.source.types[column]
    if column in spec.lists:
        return "string"
    return PARSED_AS.get(raw[column], "string") if column in raw else "string"


def _check_split_values(spec: Spec, dtype: str) -> None:
    found: list[object] = []
    for split, listed in (spec.split.values or {}).items():
        try:
            found += pa.array(list(listed)).cast(values.ARROW_TYPES[dtype]).to_pylist()
        except (pa.ArrowException, OverflowError) as error:
            raise SpecError(
                f"split.values.{split}: must be {dtype} like the column {spec.split.column!r}, but "
                f"is {list(listed)}. Set source.types.{spec.split.column}."
            ) from error
    if len(set(found)) < len(found):
        raise SpecError(f"split.values lists {duplicate(found)!r} twice. Name it once.")


def _starts(time: Time, dtype: str) -> dict[str, pa.Scalar]:
    """Returns the moments of a split by time as values of its column, ascending."""
    if dtype not in _HAVE_ORDER:
        raise SpecError(
            f"split.time.column: {time.column!r} must be {', '.join(_HAVE_ORDER[:-1])} or "
            f"{_HAVE_ORDER[-1]}, but is {dtype}. Set source.types.{time.column}."
        )
    starts = {split: _start(split, said, dtype) for split, said in time.starts.items()}
    for one, other in itertools.pairwise(starts):
        if pc.greater_equal(starts[one], starts[other]).as_py():
            raise SpecError(
                f"split.time.{other}: must come after {one}, which begins at "
                f"{time.starts[one]!r}, but is {time.starts[other]!r}. Correct one of them."
            )
    return starts


def _start(split: str, said: int | float | str, dtype: str) -> pa.Scalar:
    parsed = values.parse(pa.array([str(said)]), dtype)[0][0]
    is_one = parsed.is_valid
    if dtype == "date":  # As which a text with a time of day is read, too.
        is_one = values.parse(pa.array([f"{said} 00:00"]), "timestamp")[0][0].is_valid
    if not is_one:
        raise SpecError(
            f"split.time.{split}: must be {dtype} like its column, but is {said!r}. Correct it, or "
            "source.types."
        )
    return parsed


class Fates:
    """The first reason that each record meets, and its detail."""

    def __init__(self, num_records: int):
        """Takes records that all are alive."""
        self.is_alive = np.ones(num_records, bool)
        self._found: list[tuple[np.ndarray, str, Sequence[str]]] = []

    def reject(self, where: np.ndarray, reason: str, detail: str = "") -> None:
        """Sets aside those of the records, bool (num_records,), that are still alive."""
        hit = np.flatnonzero(where & self.is_alive)
        if hit.size:
            self.is_alive[hit] = False
            self._found.append((hit, reason, [detail] * hit.size))

    def reject_each(self, records: Sequence[int], reason: str, details: Sequence[str]) -> None:
        """Sets aside records that are still alive, each with a detail of its own."""
        hit = np.array(records, np.int64)
        self.is_alive[hit] = False
        self._found.append((hit, reason, details))

    def __iter__(self) -> Iterator[tuple[np.ndarray, str, Sequence[str]]]:
        """Yields records with their reason and details, as they were set aside."""
        return iter(self._found)


class Look(Protocol):
    """What is asked of the images that the records of a block name."""

    def __call__(self, raw: pa.RecordBatch, fates: Fates) -> None:
        """Looks at the images of records that are alive, and rejects those that break a rule."""

    def column(self, name: str) -> pa.Array:
        """Returns what a condition sees of their headers: int64, null where there is none."""


def read_block(structure: Structure, of: Plan, look: Look | None = None) -> Outcome:
    """Applies every rule to the records of a block, in the order that SPEC gives.

    Args:
      structure: The records.
      of: What the spec says of them.
      look: At their images. That is done last, since it takes longest, unless a condition asks for
        what is found.

    Raises:
      DataError: An SQL expression fails on a value.
    """
    fates = Fates(structure.values.num_rows)
    found = structure.values
    if of.spec.is_label_in_path:
        found = found.append_column(PATH_LABEL, paths.labels(found.column("path"), of.spec))
    parsed = _Parsed(found, of.spec.source, fates)
    raw = parsed.raw_columns(of.raw_columns, of.spec)
    beside = parsed.beside(of.spec)
    for_sql = parsed.sql_columns(of.sql_columns)
    parsed.reject_faults()
    if look and of.header_columns:
        look(raw, fates)
        for name in of.header_columns:
            for_sql = for_sql.append_column(name, look.column(name))
    expressions = [*of.conditions, *of.computed]
    results = filters.evaluate(expressions, for_sql, fates.is_alive, _where(structure))
    for rule in of.spec.filter:
        result = next(results)
        fates.reject(_true(pc.is_null(result)), f"null_in_{rule.name}")
        fates.reject(~_true(pc.fill_null(result, True)), rule.name)
    for name, said in of.spec.beside_features.items():
        if said.expression:
            result = next(results)
            beside[name] = _narrowed(result) if said.type == "float32" else result
        _reject_unlabeled(beside[name], name, fates)
    raw, overflows = _with_computed(raw, results, of)
    for name, classes_of in (of.classes or {}).items():
        is_known = labels.are_known(beside[name], of.spec.stored_labels[name], classes_of)
        fates.reject(~is_known, "unknown_label")
    hashed = _hashes(structure, of.spec.source)
    keyed = hashed
    if of.spec.split.key_columns is not None:
        keyed = _hashes(structure, of.spec.source, of.spec.split.key_columns)
    codes = _splits(structure, for_sql, beside.get(LABEL), keyed, of)
    time = of.spec.split.time
    fates.reject(codes == splits.NO_SPLIT, f"missing_{time.column}" if time else "no_split")
    classes = _classes(beside, fates.is_alive, of.spec)
    _reject_overflows(overflows, fates)
    _reject_untransformable(raw, of, fates)  # Last: a filter may name such values its own way.
    if look and not of.header_columns:
        look(raw, fates)
    kept = Records(raw, beside, codes, hashed, keyed if of.spec.split.stratified else None)
    if not fates.is_alive.all():
        kept = kept.take(fates.is_alive)
    rejected = _rejected(structure, fates)
    return Outcome(structure.places.size, kept, rejected, classes, fates.is_alive)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The records of a block that transform_fn can take; filters, label and split play no part.

    Attributes:
      raw: The inputs of transform_fn, as in `Records`.
      places: The line on which each record starts, or its number: int64 (num_records,).
      rejected: The other records, as in `Outcome`.
    """

    raw: pa.RecordBatch
    places: np.ndarray
    rejected: pa.Table


def read_inputs(structure: Structure, of: Plan) -> Inputs:
    """Reads the records of a block for a prediction, by the same rules as `read_block`."""
    fates = Fates(structure.values.num_rows)
    parsed = _Parsed(structure.values, of.spec.source, fates)
    raw = parsed.raw_columns(of.raw_columns, of.spec)
    for_sql = parsed.sql_columns(of.sql_columns)
    parsed.reject_faults()
    results = filters.evaluate(of.computed, for_sql, fates.is_alive, _where(structure))
    raw, overflows = _with_computed(raw, results, of)
    _reject_overflows(overflows, fates)
    _reject_untransformable(raw, of, fates)
    places = structure.places[structure.sound][fates.is_alive]
    return Inputs(raw.filter(pa.array(fates.is_alive)), places, _rejected(structure, fates))


def _with_computed(
    raw: pa.RecordBatch, results: Iterator[pa.Array], of: Plan
) -> tuple[pa.RecordBatch, dict[str, np.ndarray]]:
    """Adds what expressions compute, and returns where that is too large: bool (num_records,)."""
    overflows: dict[str, np.ndarray] = {}
    columns = dict(zip(raw.schema.names, raw.columns, strict=True))
    for name, feature in of.spec.expressions.items():
        column = next(results)
        if feature.dtype == "float32":
            is_nan = pc.fill_null(pc.is_nan(column), False)
            column = pc.if_else(is_nan, pa.scalar(None, column.type), column)
            column, faults = values.to_float32(column)
            for where, _ in faults:
                overflows[name] = _true(where)
        columns[name] = column
    names = [*of.spec.inputs, *(name for name in columns if name not in of.spec.inputs)]
    return pa.record_batch([columns[name] for name in names], names), overflows


def _reject_overflows(overflows: Mapping[str, np.ndarray], fates: Fates) -> None:
    for name, where in overflows.items():
        fates.reject(where, f"non_finite_{name}")


def _reject_untransformable(raw: pa.RecordBatch, of: Plan, fates: Fates) -> None:
    """Sets aside what transform_fn cannot take: missing values, and those below a range."""
    for column in of.required:
        fates.reject(_true(pc.is_null(raw.column(column))), f"missing_{column}")
    for column, bound in of.bounds:
        fates.reject(_true(are_outside(raw.column(column), bound)), f"non_finite_{column}")


def are_outside(numbers: pa.Array, bound: Bound) -> pa.BooleanArray:
    """Returns which numbers a chain of transforms does not take; those that are missing it does."""
    is_below = pc.less_equal if bound.is_open else pc.less
    seen = pc.cast(numbers, pa.float64(), safe=False)  # As the graph sees it.
    return pc.fill_null(is_below(seen, bound.low), False)


def _where(structure: Structure) -> str:
    return f"{structure.files[0].path}:{structure.places[0] if structure.places.size else 1}"


def _true(mask: pa.Array) -> np.ndarray:
    return mask.to_numpy(zero_copy_only=False)


def _narrowed(found: pa.Array) -> pa.Array:
    """Returns what an expression gives as float32, null where that is not finite."""
    narrowed = pc.cast(found, pa.float32(), safe=False)
    return pc.if_else(pc.is_finite(narrowed), narrowed, pa.scalar(None, pa.float32()))


def _reject_unlabeled(found: pa.Array, name: str, fates: Fates) -> None:
    """Sets aside records without a label, or with a weight that is none."""
    is_missing = _true(pc.is_null(found))
    if name == WEIGHT:
        fates.reject(is_missing, "no_weight")
        fates.reject(_true(pc.fill_null(pc.less(found, 0), False)), "negative_weight")
    else:
        fates.reject(is_missing, "no_label", "" if name == LABEL else _section(name))


class _Parsed:
    """The columns of a block, each parsed once for each type that somebody asks for."""

    def __init__(self, found: pa.RecordBatch, source: Source, fates: Fates):
        self._found, self._source, self._fates = found, source, fates
        self._texts: dict[str, pa.StringArray] = {}
        self._parsed: dict[tuple[str, str], pa.Array] = {}
        self._faults: dict[tuple[str, int], np.ndarray] = {}

    def _column(self, column: str, dtype: str) -> pa.Array:
        if (column, dtype) not in self._parsed:
            parsed, faults = values.parse(self._text(column), dtype)
            self._note(column, faults)
            self._parsed[column, dtype] = parsed
        return self._parsed[column, dtype]

    def _text(self, column: str) -> pa.StringArray:
        """Returns a column as text; where it is binary, what is no text breaks the record."""
        if column not in self._texts:
            found = self._found.column(column)
            if pa.types.is_binary(found.type):
                found, faults = utf8.as_text(found)
                for where, reason in faults:
                    self._fates.reject(where, reason, f"column {column!r}")
                found = blocks.clean_column(found, self._source)
            self._texts[column] = found
        return self._texts[column]

    def _note(self, column: str, faults: Sequence[values.Fault]) -> None:
        for where, cause in faults:
            place = column, reasons.VALUE_CAUSES.index(cause)
            mask = _true(pc.fill_null(where, False))
            self._faults[place] = self._faults.get(place, False) | mask

    def raw_columns(self, dtypes: Mapping[str, str], spec: Spec) -> pa.RecordBatch:
        lists = spec.lists
        arrays = [
            self._lists(column, lists[column]) if column in lists else self._typed(column, dtype)
            for column, dtype in dtypes.items()
        ]
        for feature in spec.sparse.values():
            column = str(feature.column)
            self._note(column, vectors.sparse_faults(self._text(column), feature))
        return pa.record_batch(arrays, list(dtypes))

    def _lists(self, column: str, feature: Vector) -> pa.ListArray:
        parsed, faults = vectors.parse(self._text(column), feature)
        self._note(column, faults)
        return parsed

    def _typed(self, column: str, dtype: str) -> pa.Array:
        if dtype == FILE:
            return self._found.column(column)
        parsed = self._column(column, PARSED_AS[dtype])
        if dtype == "timestamp":
            parsed, faults = values.to_microseconds(parsed)
            self._note(column, faults)
        if dtype == "float32":
            parsed, faults = values.to_float32(parsed)
            self._note(column, faults)
        return parsed

    def sql_columns(self, dtypes: Mapping[str, str]) -> pa.RecordBatch:
        arrays = [self._column(column, dtype) for column, dtype in dtypes.items()]
        if not arrays:  # DuckDB wants a column, if only to count by.
            return pa.record_batch([pa.nulls(self._found.num_rows)], ["_"])
        return pa.record_batch(arrays, list(dtypes))

    def beside(self, spec: Spec) -> dict[str, pa.Array]:
        """Returns labels and the weight, but for those that are expressions."""
        return {
            name: self._typed(said.column or PATH_LABEL, said.type)
            for name, said in spec.beside_features.items()
            if not said.expression
        }

    def reject_faults(self) -> None:
        for column, cause in sorted(self._faults, key=lambda place: (place[0].encode(), place[1])):
            mask = self._faults[column, cause]
            self._fates.reject(mask, f"{reasons.VALUE_CAUSES[cause]}_{column}")


def _hashes(
    structure: Structure, source: Source, columns: Sequence[str] | None = None
) -> np.ndarray:
    """Returns the hashes of records, the same of the same texts whatever the format."""
    clean = functools.partial(blocks.clean_column, source=source)
    return keys.hashes(keys.row_keys(structure.values, columns, clean))


def _splits(
    structure: Structure,
    for_sql: pa.RecordBatch,
    label: pa.Array | None,
    keyed: np.ndarray,
    of: Plan,
) -> np.ndarray:
    """Returns the split of each record: int8 (num_records,)."""
    spec, rule = of.spec, of.spec.split
    if of.strata is not None:
        return of.strata.codes(label, keyed)
    if rule.fractions:
        return splits.by_fractions(keyed, rule.fractions)
    if rule.directory:
        codes = paths.directory_splits(structure.values.column("path"))
    elif rule.column:
        codes = splits.by_values(for_sql.column(rule.column), rule.values or {})
    elif rule.time:
        codes = splits.by_time(for_sql.column(rule.time.column), of.starts)
    else:
        codes = splits.by_names([file.split for file in structure.files])
        codes = codes[structure.sound] if codes.size > 1 else np.repeat(codes, keyed.size)
    return splits.carved(codes, keyed, spec)


def _classes(
    beside: Mapping[str, pa.Array], is_alive: np.ndarray, spec: Spec
) -> dict[str, tuple[str, ...]]:
    mask = pa.array(is_alive)
    return {
        name: labels.classes_of(beside[name].filter(mask), label)
        for name, label in spec.stored_labels.items()
        if label.has_classes
    }


def _rejected(structure: Structure, fates: Fates) -> pa.Table:
    """Returns what `Outcome` says of the records that broke a rule, in their order."""
    positions = [position for position, _, _ in structure.broken]
    reasons = [reason for _, reason, _ in structure.broken]
    details = [detail for _, _, detail in structure.broken]
    for hit, reason, details_of in fates:
        positions += structure.sound[hit].tolist()
        reasons += [reason] * hit.size
        details += details_of
    order = np.argsort(positions, kind="stable")
    table = pa.table(
        {
            "source": pa.array([structure.file(p).path for p in positions], pa.string()),
            "position": structure.said_places(positions),
            "reason": pa.array(reasons, pa.string()),
            "detail": pa.array(details, pa.string()),
            "record": pa.array(map(structure.raw, positions), pa.string()),
        }
    )
    return table.take(pa.array(order, pa.int64()))


def rejected_lines(rejected: pa.Table) -> bytes:
    """Returns JSON lines: source, position, reason, detail and record, as far as there are."""
    given = set(rejected.column_names)
    names = [name for name in ("source", "position", "reason", "detail", "record") if name in given]
    pairs = ", ".join(f"'{name}', {name}" for name in names)
    query = f"SELECT CAST(json_object({pairs}) AS VARCHAR) FROM block"
    return "".join(
        f"{line}\n" for line in sql.query(query, rejected).column(0).to_pylist()
    ).encode()
