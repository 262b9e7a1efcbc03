"""Conditions over a block of records: SQL, and functions of the user's."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from beam_jobs import functions, sql
from beam_jobs.config import Filter, Spec
from beam_jobs.errors import DataError, SpecError

SQL_TYPES = {
    "float64": "DOUBLE",
    "int64": "BIGINT",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}
# Of these no value can be cast to a number or BOOLEAN.
_NO_NUMBERS = frozenset(
    "date time time_tz timestamp timestamp_ns timestamp_ms timestamp_s timestamp_tz interval blob "
    "uuid list array struct map union".split()
)


class Sql(NamedTuple):
    """A scalar expression, and the SQL type that its values are cast to."""

    text: str
    kind: str


class Function(NamedTuple):
    """A filter that is a function of the user's; modules in the spec's folder are found."""

    rule: Filter
    folder: str

    @property
    def where(self) -> str:
        """Its place in the spec."""
        return f"filter {self.rule.name!r}"

    def load(self) -> Callable[..., Any]:
        """Returns the function; raises a SpecError if this process cannot import it."""
        return functions.load(str(self.rule.function), self.folder, self.where)


Expression = Sql | Function


def conditions(spec: Spec) -> list[Expression]:
    """Returns the filters of a spec, in their order."""
    return [
        Sql(rule.where, "BOOLEAN") if rule.where else Function(rule, spec.folder)
        for rule in spec.filter
    ]


def trace(spec: Spec) -> None:
    """Puts what functions are made of into the digest of a spec.

    Raises:
      SpecError: One cannot be imported.
    """
    for each in conditions(spec):
        if isinstance(each, Function):
            spec.traced[each.where] = functions.source_digest(each.load())


def check(rule: Filter, columns: Mapping[str, str], folder: str) -> set[str]:
    """Checks a filter and returns the columns that it reads.

    Args:
      rule: The filter.
      columns: The SQL type of each column.
      folder: That of the spec.

    Raises:
      SpecError: See `used_columns`; or there is no such function.
    """
    if rule.where:
        return used_columns(rule.where, columns, f"filter {rule.name!r}")
    function = Function(rule, folder)
    function.load()
    for column in rule.columns or ():
        if column not in columns:
            listed = ", ".join(filter(None, columns))
            raise SpecError(
                f"{function.where}: there is no column {column!r}. The columns are {listed}."
            )
    return set(rule.columns or ())


def used_columns(
    expression: str, columns: Mapping[str, str], where: str, kind: str = "BOOLEAN"
) -> set[str]:
    """Checks an expression over one record and returns the columns it reads.

    Args:
      expression: A scalar SQL expression.
      columns: The SQL type of each column, a value of SQL_TYPES.
      where: The place in the spec, for messages.
      kind: The SQL type that its values are cast to.

    Raises:
      SpecError: It does not parse, names an unknown column, has another type, looks at more than
        one record (aggregates, windows, subqueries), or gives another answer each time (random,
        now).
    """
    with sql.connect() as connection:
        tree = _parse(expression, connection, where)
        for node in _nodes(tree):
            part = node.get("class")
            if part in ("SUBQUERY", "WINDOW", "STAR", "PARAMETER", "POSITIONAL_REFERENCE"):
                what = f"a {str(part).lower()} is not allowed"
                raise SpecError(f"{where}: {what}: a condition speaks of one record. Remove it.")
        _check_functions(tree, connection, where)
        used = _columns(tree, columns, where)
        known = {column: columns[column] for column in used}
        _bind(expression, kind, known, connection, where)
    return used


def _columns(tree: Any, columns: Mapping[str, str], where: str) -> set[str]:
    """Returns the columns that an expression names; what else looks like one is refused."""
    local, named = set(), set()
    for node in _nodes(tree):
        if node.get("class") == "LAMBDA":
            local |= {
                _folded(".".join(name["column_names"]))
                for name in _nodes(node["lhs"])
                if name.get("class") == "COLUMN_REF"
            }
        if node.get("class") == "COLUMN_REF":
            named.add(".".join(node["column_names"]))
        if node.get("class") == "FUNCTION" and node["schema"]:  # name.upper()
            named.add(node["schema"])
    known: dict[str, str] = {}
    for column in columns:
        other = known.setdefault(_folded(column), column)
        if other != column and _folded(column) in map(_folded, named):
            raise SpecError(f"{where}: two columns are called {other!r} but for case. Rename one.")
    for name in sorted(named):
        if _folded(name) not in known and _folded(name) not in local:
            listed = ", ".join(filter(None, columns))
            raise SpecError(f"{where}: there is no column {name!r}. The columns are {listed}.")
    return {known[_folded(name)] for name in named if _folded(name) in known}


def _folded(name: str) -> str:
    """Returns a name as DuckDB compares it: the case of ASCII letters does not count."""
    return name.encode().lower().decode()


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


def _check_functions(tree: Any, connection: duckdb.DuckDBPyConnection, where: str) -> None:
    rows = connection.execute(
        "SELECT function_name, function_type, stability, macro_definition FROM duckdb_functions()"
    ).fetchall()
    known: dict[str, list[Any]] = {}
    for name, *row in rows:
        known.setdefault(name, []).append(row)
    for node in _nodes(tree):
        if node.get("class") != "FUNCTION":
            continue
        name = node["function_name"].lower()
        if name == "age" and len(node["arguments"]) == 1:
            message = "age() of one argument gives another answer each day. Give both dates."
            raise SpecError(f"{where}: {message}")
        if _is_about_many(name, known, connection):
            raise SpecError(f"{where}: {name}() looks at many records. A condition speaks of one.")
        if _is_changing(name, known, connection):
            raise SpecError(f"{where}: {name}() gives another answer each time. Remove it.")


def _is_about_many(
    name: str, known: Mapping[str, list[Any]], connection: duckdb.DuckDBPyConnection
) -> bool:
    """Whether no function of that name is about one record, or a macro calls such a one."""
    kinds = {kind for kind, *_ in known.get(name, ())}
    if kinds and not kinds & {"scalar", "macro"}:
        return True
    return any(
        node.get("class") in ("SUBQUERY", "WINDOW")
        or (
            node.get("class") == "FUNCTION"
            and _is_about_many(node["function_name"].lower(), known, connection)
        )
        for node in _macro_nodes(name, known, connection)
    )


def _is_changing(
    name: str, known: Mapping[str, list[Any]], connection: duckdb.DuckDBPyConnection
) -> bool:
    """Whether a function, or one that a macro calls, gives another answer each time."""
    if name.startswith("current_"):  # Not what DuckDB's table says of all of them.
        return True
    if any(stability not in (None, "CONSISTENT") for _, stability, _ in known.get(name, ())):
        return True
    for node in _macro_nodes(name, known, connection):
        if node.get("class") == "COLUMN_REF":  # A parameter, or current_timestamp.
            called = node["column_names"][-1].lower()
            if called.startswith("current_"):
                return True
        elif node.get("class") == "FUNCTION":
            if _is_changing(node["function_name"].lower(), known, connection):
                return True
    return False


def _macro_nodes(
    name: str, known: Mapping[str, list[Any]], connection: duckdb.DuckDBPyConnection
) -> Iterator[dict[str, Any]]:
    """Yields what the macros of a name are made of, but for calls of itself."""
    for kind, _, definition in known.get(name, ()):
        if kind == "macro":
            for node in _nodes(_parse(definition, connection, name)):
                if node.get("function_name", "").lower() != name:
                    yield node


def _bind(
    expression: str,
    kind: str,
    columns: Mapping[str, str],
    connection: duckdb.DuckDBPyConnection,
    where: str,
) -> None:
    listed = ", ".join(f"{_quoted(column)} {sql_type}" for column, sql_type in columns.items())
    listed = listed or "_ BOOLEAN"  # DuckDB wants a column.
    connection.execute(f"CREATE TABLE block ({listed})")
    if not columns:  # Then it has one value, which is right or wrong for all records.
        connection.execute("INSERT INTO block VALUES (NULL)")
    try:
        found = connection.sql(f"SELECT (\n{expression}\n) FROM block").types[0]
        if kind != "VARCHAR" and found.id in _NO_NUMBERS:
            raise SpecError(f"{where}: must be {kind}, but is {found}. Compare or cast it.")
        connection.execute(f"SELECT {_cast(expression, kind)} FROM block").fetchall()
    except duckdb.Error as error:
        raise SpecError(f"{where}: {sql.one_line(str(error))}. Mend it.") from error


def _cast(expression: str, kind: str) -> str:
    return f"CAST((\n{expression}\n) AS {kind})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def evaluate(
    expressions: Sequence[Expression], block: pa.RecordBatch, is_alive: np.ndarray, where: str
) -> Iterator[pa.Array]:
    """Evaluates expressions on a block, each on the records that the ones before it left.

    Args:
      expressions: SQL over the columns, and functions.
      block: The columns that the expressions read.
      is_alive: bool (num_records,); whoever takes a value marks here whom it leaves out.
      where: The place in the input, for messages.

    Yields:
      The value of each expression for each record that is alive, null where SQL says NULL.

    Raises:
      DataError: A value makes an expression fail, such as a CAST of a text that is no number.
    """
    sqls: list[Sql] = []
    for expression in expressions:
        if isinstance(expression, Sql):
            sqls.append(expression)
            continue
        yield from _by_sql(sqls, block, is_alive, where)
        sqls = []
        yield _by_function(expression, block, is_alive, where)
    yield from _by_sql(sqls, block, is_alive, where)


def _by_function(
    function: Function, block: pa.RecordBatch, is_alive: np.ndarray, where: str
) -> pa.BooleanArray:
    given = block.select([*(function.rule.columns or ())]).filter(pa.array(is_alive))
    call = function.load()
    try:
        found = call(given)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        found = pa.array(found, pa.bool_())
    except Exception as error:  # The user's function may raise anything.
        raise DataError(f"{where}: {function.where}: {functions.said(error)}.") from error
    if len(found) != given.num_rows:
        raise DataError(
            f"{where}: {function.where}: must return a bool for each of {given.num_rows} records, "
            f"but returned {len(found)}."
        )
    return found.take(pa.array(np.cumsum(is_alive) - 1, mask=~is_alive))


def _by_sql(
    expressions: Sequence[Sql], block: pa.RecordBatch, is_alive: np.ndarray, where: str
) -> Iterator[pa.Array]:
    """Evaluates them at once, on all records, which is fast.

    Where that fails it may be for a record that is left out: then one by one, each on the records
    that are alive by then.
    """
    if not expressions:
        return
    try:
        yield from _evaluate(expressions, block)
        return
    except duckdb.Error:
        pass
    for expression in expressions:
        was_alive = is_alive.copy()
        try:
            [found] = _evaluate([expression], block.filter(pa.array(was_alive)))
        except duckdb.Error as error:
            message = sql.one_line(str(error))
            raise DataError(f"{where}: {message}. Use TRY_CAST, or filter it out.") from error
        yield found.take(pa.array(np.cumsum(was_alive) - 1, mask=~was_alive))


def _evaluate(expressions: Sequence[Sql], block: pa.RecordBatch) -> list[pa.Array]:
    selected = (f"{_cast(text, kind)} AS c{i}" for i, (text, kind) in enumerate(expressions))
    result = sql.query(f"SELECT {', '.join(selected)} FROM block", block)
    if result.num_rows != block.num_rows:
        raise RuntimeError(f"{result.num_rows} answers for {block.num_rows} records.")
    return [column.combine_chunks() for column in result.columns]
