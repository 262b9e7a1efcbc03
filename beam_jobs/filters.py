"""SQL conditions over a block of records."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from beam_jobs import sql
from beam_jobs.errors import DataError, SpecError

SQL_TYPES = {
    "float64": "DOUBLE",
    "int64": "BIGINT",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}


def used_columns(expression: str, columns: Mapping[str, str], where: str) -> set[str]:
    """Checks an expression over one record and returns the columns it reads.

    Args:
      expression: A scalar SQL expression.
      columns: The SQL type of each column, a value of SQL_TYPES.
      where: The place in the spec, for messages.

    Raises:
      SpecError: It does not parse, names an unknown column, looks at more than one record
        (aggregates, windows, subqueries), or gives another answer each time (random, now).
    """
    with sql.connect() as connection:
        tree = _parse(expression, connection, where)
        functions: set[str] = set()
        names: set[str] = set()
        for node in _nodes(tree):
            kind = node.get("class")
            if kind in ("SUBQUERY", "WINDOW", "STAR", "PARAMETER"):
                what = f"a {str(kind).lower()} is not allowed"
                raise SpecError(f"{where}: {what}: a condition speaks of one record. Remove it.")
            if kind == "FUNCTION":
                functions.add(node["function_name"].lower())
            if kind == "COLUMN_REF":
                names.update(name.casefold() for name in node["column_names"])
        _check_functions(functions, connection, where)
        _bind(expression, columns, connection, where)
    return {column for column in columns if column.casefold() in names}


def _parse(expression: str, connection: duckdb.DuckDBPyConnection, where: str) -> Any:
    row = connection.execute(
        "SELECT json_serialize_sql(?)", [f"SELECT (\n{expression}\n)"]
    ).fetchone()
    parsed = json.loads(row[0]) if row else {}
    if parsed.get("error"):
        raise SpecError(
            f"{where}: not SQL: {sql.one_line(parsed['error_message'])}. Mend {expression!r}."
        )
    statements = parsed["statements"]
    node = statements[0]["node"]
    alone = len(statements) == 1 and node["type"] == "SELECT_NODE"
    if not alone or node["from_table"]["type"] != "EMPTY" or len(node["select_list"]) != 1:
        raise SpecError(f"{where}: must be one SQL expression, but is {expression!r}.")
    if node["where_clause"] or node["modifiers"] or node["group_expressions"]:
        raise SpecError(f"{where}: must be one SQL expression, but is {expression!r}.")
    return node["select_list"][0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _check_functions(
    functions: set[str], connection: duckdb.DuckDBPyConnection, where: str
) -> None:
    rows = connection.execute(
        "SELECT function_name, function_type, stability FROM duckdb_functions()"
    ).fetchall()
    for name, kind, stability in rows:
        if name not in functions:
            continue
        if kind in ("aggregate", "table"):
            raise SpecError(f"{where}: {name}() looks at many records. A condition speaks of one.")
        if stability not in (None, "CONSISTENT"):
            raise SpecError(f"{where}: {name}() gives another answer each time. Remove it.")


def _bind(
    expression: str,
    columns: Mapping[str, str],
    connection: duckdb.DuckDBPyConnection,
    where: str,
) -> None:
    folded = [column.casefold() for column in columns]
    for column in columns:
        if folded.count(column.casefold()) > 1:
            raise SpecError(f"{where}: two columns are called {column!r} but for case. Rename one.")
    listed = ", ".join(f"{_quoted(column)} {sql_type}" for column, sql_type in columns.items())
    connection.execute(f"CREATE TABLE block ({listed})")
    try:
        connection.execute(f"SELECT (\n{expression}\n) FROM block")
    except duckdb.Error as error:
        raise SpecError(f"{where}: {sql.one_line(str(error))}. Mend {expression!r}.") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def evaluate(
    expressions: Sequence[tuple[str, str]], block: pa.RecordBatch, where: str
) -> list[pa.Array]:
    """Evaluates expressions on a block.

    Args:
      expressions: SQL over the columns, each with the SQL type to cast it to.
      block: The columns that the expressions read.
      where: The place in the input, for messages.

    Returns:
      The value of each expression for each record, null where SQL says NULL.

    Raises:
      DataError: A value makes an expression fail, such as a CAST of a text that is no number.
    """
    if not expressions:
        return []
    selected = (
        f"CAST((\n{text}\n) AS {kind}) AS c{i}" for i, (text, kind) in enumerate(expressions)
    )
    try:
        result = sql.query(f"SELECT {', '.join(selected)} FROM block", block)
    except duckdb.Error as error:
        message = sql.one_line(str(error))
        raise DataError(f"{where}: {message}. Use TRY_CAST, or filter it out.") from error
    return [column.combine_chunks() for column in result.columns]
