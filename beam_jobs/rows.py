"""A block of a table to records: parsed, filtered, split and hashed, or rejected with a reason."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import filters, keys, reasons, splits, sql, values
from beam_jobs.config import SPLITS, Spec, duplicate
from beam_jobs.errors import SpecError
from beam_jobs.sources import csv_files
from beam_jobs.sources.csv_files import Structure

RAW_RECORD_LIMIT = 4096  # Characters of a raw record that are set aside with its reason.
PARSED_AS = {"float32": "float64", "int64": "int64", "string": "string", "class": "string"}
LABEL_SQL_TYPES = {"class": "VARCHAR", "int64": "BIGINT", "float32": "DOUBLE"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the spec says of the rows of a table with certain columns.

    Attributes:
      spec: The spec.
      sql_columns: The columns that conditions and the split read, each with its type in SQL.
      raw_columns: The columns that features read, each with its dtype; inputs of transform_fn.
      required: The columns without which a record is `missing_<column>`.
      logarithms: The columns that go through log1p, which is finite above -1 only.
    """

    spec: Spec
    sql_columns: Mapping[str, str]
    raw_columns: Mapping[str, str]
    required: tuple[str, ...]
    logarithms: tuple[str, ...]

    @property
    def expressions(self) -> list[tuple[str, str]]:
        """The SQL of the filters and, last, of the label, each with the type of its result."""
        found = [(rule.where, "BOOLEAN") for rule in self.spec.filter]
        label = self.spec.label
        if label and label.expression:
            found.append((label.expression, LABEL_SQL_TYPES[label.type]))
        return found


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a block that meet every rule.

    Attributes:
      raw: The inputs of transform_fn: float32, int64 or string columns, null where missing.
      label: string for classes, int64 or float32; None without a label.
      splits: int8 (num_records,), positions in SPLITS.
      hashed: HASH_DTYPE (num_records,), of the whole record.
    """

    raw: pa.RecordBatch
    label: pa.Array | None
    splits: np.ndarray
    hashed: np.ndarray

    def take(self, kept: np.ndarray) -> "Records":
        """Returns some of the records, by bool (num_records,)."""
        mask = pa.array(kept)
        label = None if self.label is None else self.label.filter(mask)
        return Records(self.raw.filter(mask), label, self.splits[kept], self.hashed[kept])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the records of a block.

    Attributes:
      num_read: All of them.
      kept: Those that meet every rule.
      rejected: The others: position (the line) int64, reason, detail and record, one row each.
      classes: The labels that are left after the filters, in any split.
    """

    num_read: int
    kept: Records
    rejected: pa.Table
    classes: tuple[str, ...]


def plan(spec: Spec, columns: Sequence[str]) -> Plan:
    """Checks a spec against the columns of the files.

    Raises:
      SpecError: It names a column that does not exist, or SQL that does not parse.
    """
    for column, where in _named_columns(spec):
        if column not in columns:
            raise SpecError(
                f"{where}: there is no column {column!r}. The columns are {', '.join(columns)}."
            )
    raw = {str(f.column): f.dtype for f in spec.columns.values()}
    types = {column: _sql_type(column, spec, raw) for column in columns}
    used: set[str] = set()
    sql_types = {column: filters.SQL_TYPES[dtype] for column, dtype in types.items()}
    for rule in spec.filter:
        used |= filters.used_columns(rule.where, sql_types, f"filter {rule.name!r}")
    if spec.label and spec.label.expression:
        kind = LABEL_SQL_TYPES[spec.label.type]
        used |= filters.used_columns(spec.label.expression, sql_types, "label.expression", kind)
    if spec.split.column:
        used.add(spec.split.column)
        _check_split_values(spec, types[spec.split.column])
    required = {str(f.column): None for f in spec.columns.values() if f.missing == "reject"}
    logarithms = {str(f.column): None for f in spec.columns.values() if "log1p" in f.transforms}
    read_by_sql = {column: types[column] for column in columns if column in used}
    return Plan(spec, read_by_sql, raw, tuple(required), tuple(logarithms))


def _named_columns(spec: Spec) -> list[tuple[str, str]]:
    found = [(str(f.column), f"features.{name}") for name, f in spec.columns.items()]
    found += [(column, "source.types") for column in spec.source.types]
    found += [(column, "split.key") for column in spec.split.key_columns or ()]
    if spec.split.column:
        found.append((spec.split.column, "split.column"))
    if spec.label and spec.label.column:
        found.append((spec.label.column, "label.column"))
    return found


def _sql_type(column: str, spec: Spec, raw: Mapping[str, str]) -> str:
    if column in spec.source.types:
        return spec.source.types[column]
    return PARSED_AS[raw[column]] if column in raw else "string"


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


class _Fates:
    """The first reason that each record meets, and its detail."""

    def __init__(self, num_records: int):
        self.is_alive = np.ones(num_records, bool)
        self._found: list[tuple[np.ndarray, str, str]] = []

    def reject(self, where: np.ndarray, reason: str, detail: str = "") -> None:
        """Sets aside those of the records, bool (num_records,), that are still alive."""
        hit = np.flatnonzero(where & self.is_alive)
        if hit.size:
            self.is_alive[hit] = False
            self._found.append((hit, reason, detail))

    def __iter__(self):
        return iter(self._found)


def read_block(
    text: bytes, columns: Sequence[str], first_line: int, split: str | None, of: Plan, where: str
) -> Outcome:
    """Reads the records of a block and applies every rule, in the order that SPEC gives.

    Args:
      text: Whole records.
      columns: The names of the fields, in the order of this file.
      first_line: The line of the file on which the text starts.
      split: The split that the file belongs to, where paths decide it.
      of: What the spec says.
      where: The file and the place in it, for messages.

    Raises:
      DataError: An SQL expression fails on a value.
    """
    structure = csv_files.parse(text, columns, first_line, of.spec.source)
    fates = _Fates(structure.values.num_rows)
    parsed = _Parsed(structure.values, fates)
    raw = parsed.raw_columns(of.raw_columns)
    label = parsed.label(of.spec)
    for_sql = parsed.sql_columns(of.sql_columns)
    parsed.reject_faults()
    results = filters.evaluate(of.expressions, for_sql, fates.is_alive, where)
    for rule, result in zip(of.spec.filter, results, strict=False):
        fates.reject(_true(pc.is_null(result)), f"null_in_{rule.name}")
        fates.reject(~_true(pc.fill_null(result, True)), rule.name)
    for result in results:  # The label's, if it is an expression.
        label = _float32_label(result) if label_is_float(of.spec) else result
    if label is not None:
        fates.reject(_true(pc.is_null(label)), "no_label")
    hashed = keys.hashes(keys.row_keys(structure.values))
    codes = _splits(structure.values, for_sql, hashed, split, of.spec)
    fates.reject(codes == splits.NO_SPLIT, "no_split")
    classes = _classes(label, fates.is_alive, of.spec)
    for column in of.required:
        fates.reject(_true(pc.is_null(raw.column(column))), f"missing_{column}")
    for column in of.logarithms:  # Last: a filter may leave such values out under its own name.
        is_outside = pc.fill_null(pc.less_equal(raw.column(column), -1), False)
        fates.reject(_true(is_outside), f"non_finite_{column}")
    kept = Records(raw, label, codes, hashed)
    if not fates.is_alive.all():
        kept = kept.take(fates.is_alive)
    return Outcome(structure.starts.size, kept, _rejected(structure, fates, text, of.spec), classes)


def label_is_float(spec: Spec) -> bool:
    """Whether the target is a float32."""
    return spec.label is not None and spec.label.type == "float32"


def _true(mask: pa.Array) -> np.ndarray:
    return mask.to_numpy(zero_copy_only=False)


def _float32_label(label: pa.Array) -> pa.Array:
    narrowed = pc.cast(label, pa.float32(), safe=False)
    return pc.if_else(pc.is_finite(narrowed), narrowed, pa.scalar(None, pa.float32()))


class _Parsed:
    """The columns of a block, each parsed once for each type that somebody asks for."""

    def __init__(self, text: pa.RecordBatch, fates: _Fates):
        self._text, self._fates = text, fates
        self._parsed: dict[tuple[str, str], pa.Array] = {}
        self._faults: dict[tuple[str, int], np.ndarray] = {}

    def _column(self, column: str, dtype: str) -> pa.Array:
        if (column, dtype) not in self._parsed:
            parsed, faults = values.parse(self._text.column(column), dtype)
            self._note(column, faults)
            self._parsed[column, dtype] = parsed
        return self._parsed[column, dtype]

    def _note(self, column: str, faults: Sequence[values.Fault]) -> None:
        for where, cause in faults:
            place = column, reasons.VALUE_CAUSES.index(cause)
            mask = _true(pc.fill_null(where, False))
            self._faults[place] = self._faults.get(place, False) | mask

    def raw_columns(self, dtypes: Mapping[str, str]) -> pa.RecordBatch:
        arrays = [self._typed(column, dtype) for column, dtype in dtypes.items()]
        return pa.record_batch(arrays, list(dtypes))

    def _typed(self, column: str, dtype: str) -> pa.Array:
        parsed = self._column(column, PARSED_AS[dtype])
        if dtype == "float32":
            parsed, faults = values.to_float32(parsed)
            self._note(column, faults)
        return parsed

    def sql_columns(self, dtypes: Mapping[str, str]) -> pa.RecordBatch:
        arrays = [self._column(column, dtype) for column, dtype in dtypes.items()]
        if not arrays:  # DuckDB wants a column, if only to count by.
            return pa.record_batch([pa.nulls(self._text.num_rows)], ["_"])
        return pa.record_batch(arrays, list(dtypes))

    def label(self, spec: Spec) -> pa.Array | None:
        if spec.label is None or spec.label.column is None:
            return None
        return self._typed(spec.label.column, spec.label.type)

    def reject_faults(self) -> None:
        for column, cause in sorted(self._faults, key=lambda place: (place[0].encode(), place[1])):
            mask = self._faults[column, cause]
            self._fates.reject(mask, f"{reasons.VALUE_CAUSES[cause]}_{column}")


def _splits(
    text: pa.RecordBatch, for_sql: pa.RecordBatch, hashed: np.ndarray, split: str | None, spec: Spec
) -> np.ndarray:
    """Returns the split of each record: int8 (num_records,)."""
    rule = spec.split
    if rule.key_columns is not None:
        hashed = keys.hashes(keys.row_keys(text, rule.key_columns))
    if rule.fractions:
        return splits.by_fractions(hashed, rule.fractions)
    if split is not None:
        codes = np.full(text.num_rows, SPLITS.index(split), np.int8)
    else:
        codes = splits.by_values(for_sql.column(rule.column), rule.values or {})
    return splits.carved(codes, hashed, spec)


def _classes(label: pa.Array | None, is_alive: np.ndarray, spec: Spec) -> tuple[str, ...]:
    if label is None or spec.label is None or spec.label.type != "class":
        return ()
    return tuple(pc.unique(label.filter(pa.array(is_alive))).to_pylist())


def _rejected(structure: Structure, fates: _Fates, text: bytes, spec: Spec) -> pa.Table:
    """Returns position, reason, detail and record of those that broke a rule, in their order."""
    positions = [position for position, _, _ in structure.broken]
    reasons = [reason for _, reason, _ in structure.broken]
    details = [detail for _, _, detail in structure.broken]
    for hit, reason, detail in fates:
        positions += structure.sound[hit].tolist()
        reasons += [reason] * hit.size
        details += [detail] * hit.size
    order = np.argsort(positions, kind="stable")
    encoding = spec.source.encoding
    table = pa.table(
        {
            "position": pa.array(structure.lines[positions], pa.int64()),
            "reason": pa.array(reasons, pa.string()),
            "detail": pa.array(details, pa.string()),
            "record": pa.array(
                (
                    text[structure.starts[p] : structure.ends[p]][:RAW_RECORD_LIMIT].decode(
                        encoding, "backslashreplace"
                    )
                    for p in positions
                ),
                pa.string(),
            ),
        }
    )
    return table.take(pa.array(order, pa.int64()))


def with_source(rejected: pa.Table, source: str) -> pa.Table:
    """Returns the rejected records of a file with a column `source`."""
    return rejected.append_column("source", pa.array([source] * len(rejected), pa.string()))


def rejected_lines(rejected: pa.Table) -> bytes:
    """Returns JSON lines: source, position, reason, detail and record, as far as there are."""
    given = set(rejected.column_names)
    names = [name for name in ("source", "position", "reason", "detail", "record") if name in given]
    pairs = ", ".join(f"'{name}', {name}" for name in names)
    query = f"SELECT CAST(json_object({pairs}) AS VARCHAR) FROM block"
    return "".join(
        f"{line}\n" for line in sql.query(query, rejected).column(0).to_pylist()
    ).encode()
