"""The records of a CSV: parsed by the csv module, judged by the rules in their order."""

import collections
import csv
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from oracle import hashing, specs

NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
INTEGER = re.compile(r"[+-]?[0-9]+")
INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)


@dataclasses.dataclass
class Record:
    """One row that is written: its text, its split, its label and its numbers."""

    text: dict[str, str | None]
    split: str
    label: object
    numbers: dict[tuple[str, str], object]  # (column, dtype) -> number or None
    hash: tuple[int, int]


@dataclasses.dataclass
class Table:
    """Every record of the files: those that are written, and how many each reason took."""

    columns: tuple[str, ...]
    records: list[Record]
    rejected: collections.Counter
    read: int


def rows(files: Sequence[Path], columns: Sequence[str] | None) -> Iterator[tuple[list, list]]:
    """Yields (names, fields) of every record; bytes that are no UTF-8 arrive as surrogates."""
    for file in files:
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            parsed = (fields for fields in csv.reader(lines) if fields)
            names = list(columns) if columns else next(parsed)
            for fields in parsed:
                yield names, fields


def structure_fault(names: list, fields: list) -> str | None:
    if len(fields) != len(names):
        return "ragged_row"
    if any("\udc80" <= letter <= "\udcff" for field in fields for letter in field):
        return "bad_encoding"
    return "nul_byte" if any("\0" in field for field in fields) else None


def number(text: str | None, dtype: str) -> tuple[object, str | None]:
    """The number in a field, or None where it is missing, and the fault of one that is none."""
    if text is None or text.lower() == "nan":
        return None, None
    if INFINITE.fullmatch(text):
        return None, "non_finite"
    if not (INTEGER if dtype == "int64" else NUMBER).fullmatch(text):
        return None, "unparsable"
    if dtype == "int64":
        return (int(text), None) if -(2**63) <= int(text) < 2**63 else (None, "non_finite")
    value = float(text)
    if dtype == "float32":
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    return (value, None) if math.isfinite(value) else (None, "non_finite")


class _Rules:
    """The rules of one spec, from a row's fields to its reason or its record."""

    def __init__(self, spec: dict):
        source = spec["source"]
        self.spec, self.types = spec, source.get("types", {})
        self.trim = source.get("trim", False)
        self.nulls = set(source.get("null_values", [""]))
        self.features = spec["features"]
        self.dtypes: dict[str, str] = {}
        for name, feature in self.features.items():
            self.dtypes.setdefault(feature.get("column", name), feature["dtype"])
        self.conditions = [
            (f["name"], *specs.CONDITIONS[f["name"]]) for f in spec.get("filter", [])
        ]
        label = spec.get("label", {})
        self.expression = specs.EXPRESSIONS.get(label.get("expression"))
        self.seen_by_sql = {c for _, columns, _ in self.conditions for c in columns}
        if self.expression:
            self.seen_by_sql |= set(self.expression[0])
        if "column" in spec["split"]:
            self.seen_by_sql.add(spec["split"]["column"])

    def value(self, field: str) -> str | None:
        text = field.strip(" ") if self.trim else field
        return None if text in self.nulls else text

    def sql_dtype(self, column: str) -> str:
        dtype = self.types.get(column, self.dtypes.get(column, "string"))
        return "float64" if dtype == "float32" else dtype

    def numbers(self, names: list, text: dict) -> tuple[dict, str | None]:
        """Every number that a feature or a condition needs, or the first fault."""
        wanted = [(c, self.dtypes[c]) for c in names if c in self.dtypes]
        wanted += [(c, self.sql_dtype(c)) for c in names if c in self.seen_by_sql]
        found = {}
        for column, dtype in wanted:
            if dtype == "string":
                found[column, dtype] = text[column]
                continue
            found[column, dtype], fault = number(text[column], dtype)
            if fault:
                return found, f"{fault}_{column}"
        return found, None

    def split(self, text: dict, sql: dict) -> str | None:
        split = self.spec["split"]
        if "column" in split:
            value = sql[split["column"]]
            return next((name for name, values in split["values"].items() if value in values), None)
        columns = list(text) if split["key"] == "*" else [split["key"]]
        first, _ = hashing.halves(hashing.row_key(text, columns))
        return hashing.fraction_split(first, split["fractions"])

    def judge(self, names: list, fields: list) -> Record | str:
        """The record, or the first rule that it breaks."""
        if fault := structure_fault(names, fields):
            return fault
        text = {name: self.value(field) for name, field in zip(names, fields, strict=True)}
        numbers, fault = self.numbers(names, text)
        if fault:
            return fault
        sql = {column: numbers[column, self.sql_dtype(column)] for column in self.seen_by_sql}
        for name, _, condition in self.conditions:
            if (kept := condition(sql)) is not True:
                return f"null_in_{name}" if kept is None else name
        label = self.expression[1](sql) if self.expression else text[self.spec["label"]["column"]]
        if label is None:
            return "no_label"
        if (split := self.split(text, sql)) is None:
            return "no_split"
        for name, feature in self.features.items():
            column = feature.get("column", name)
            if feature.get("missing", "reject") == "reject":
                if numbers[column, feature["dtype"]] is None:
                    return f"missing_{column}"
        return Record(text, split, label, numbers, hashing.halves(hashing.row_key(text, text)))


def read(spec: dict, files: Sequence[Path]) -> Table:
    """Every record of the files, judged."""
    rules, table = _Rules(spec), Table((), [], collections.Counter(), 0)
    for names, fields in rows(files, spec["source"].get("columns")):
        table.read += 1
        table.columns = table.columns or tuple(names)
        judged = rules.judge(names, fields)
        if isinstance(judged, str):
            table.rejected[judged] += 1
        else:
            table.records.append(judged)
    return table
