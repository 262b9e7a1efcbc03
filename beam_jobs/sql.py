"""DuckDB over one Arrow block, with nothing of the outside in reach."""

import threading

import duckdb
import pyarrow as pa

_LOCAL = threading.local()  # A connection serves one thread at a time, and costs 20 ms.


def connect() -> duckdb.DuckDBPyConnection:
    """Returns a connection that reads no file, no network and no Python variable."""
    connection = duckdb.connect(
        config={
            "threads": 1,
            "enable_external_access": False,
            "python_enable_replacements": False,
            "autoload_known_extensions": False,
        }
    )
    connection.execute("SET TimeZone = 'UTC'")  # Else an answer depends on the machine.
    connection.execute("SET lock_configuration = true")
    return connection


def query(text: str, block: pa.Table | pa.RecordBatch) -> pa.Table:
    """Runs a query over the table `block`, whose rows keep their order.

    Raises:
      duckdb.Error: The query fails.
    """
    if not hasattr(_LOCAL, "connection"):
        _LOCAL.connection = connect()
    if isinstance(block, pa.RecordBatch):
        block = pa.Table.from_batches([block])
    _LOCAL.connection.register("block", block)
    try:
        return _LOCAL.connection.sql(text).to_arrow_table()
    finally:
        _LOCAL.connection.unregister("block")


def one_line(error: str) -> str:
    """Returns DuckDB's message without its picture of the query."""
    lines = [line.strip() for line in error.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("LINE", "^"))).rstrip(
        ".!"
    )
