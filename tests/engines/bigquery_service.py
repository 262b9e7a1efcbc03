"""A stand-in for BigQuery's REST API, as an HTTP server on this machine.

    with dataflow_service.start(folder) as cloud, bigquery_service.start(cloud.storage) as service:
        service.tables["project:dataset.table"] = Table(avro_schema, records)
        run Beam's ReadFromBigQuery with BigqueryV2.BASE_URL = service.url

Its queries are DuckDB's over these tables, and its exports are Avro files that the storage's
stand-in keeps. It knows datasets, tables, and the jobs `query` (dry runs, too) and `extract`; it
takes the tokens that the account of `dataflow_service` gets. It knows no quotas, regions or
permissions, and nothing of the Storage Read API.
"""

import contextlib
import dataclasses
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import duckdb
import fastavro
import pyarrow as pa

from engines import dataflow_service

_RECORDS_A_FILE = 700


@dataclasses.dataclass
class Table:
    """Records, with the schema by which they are exported."""

    schema: dict[str, Any]
    records: list[dict[str, Any]]


class Service:
    """The tables, and what was asked of them."""

    def __init__(self, storage: dataflow_service.Storage):
        self.storage = storage
        self.tables: dict[str, Table] = {}
        self.datasets: set[str] = set()
        self.queries: list[str] = []
        self.calls: list[str] = []  # Method and path of every request.
        self.jobs: dict[str, dict[str, Any]] = {}
        self._server = http.server.ThreadingHTTPServer(("localhost", 0), _Handler)
        self._server.service = self  # type: ignore[attr-defined]
        self.url = f"http://localhost:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Runs a job, and returns it as it is when it is done."""
        asked = job["configuration"]
        job["status"] = {"state": "DONE"}
        job["statistics"] = {}
        job["id"] = job["jobReference"]["jobId"]
        try:
            if "extract" in asked:
                self._extract(asked["extract"])
            else:
                job["statistics"] = self._query(asked["query"], asked.get("dryRun", False))
        except (KeyError, duckdb.Error) as error:
            job["status"]["errorResult"] = {"reason": "invalidQuery", "message": str(error)}
        if not asked.get("dryRun"):
            self.jobs[job["id"]] = job
        return job

    def _query(self, asked: dict[str, Any], is_dry: bool) -> dict[str, Any]:
        names = re.findall(r"`([^`]+)`", asked["query"])
        said = [re.sub(r"[.]", ":", name, count=1) for name in names]
        referenced = [_reference(name) for name in said]
        if not is_dry:
            assert asked["useLegacySql"] is False and asked["flattenResults"] is False
            self.queries.append(asked["query"])
            self.tables[_name(asked["destinationTable"])] = self._answer(asked["query"], said)
        return {"query": {"referencedTables": referenced, "totalBytesProcessed": "9"}}

    def _answer(self, query: str, names: list[str]) -> Table:
        (name,) = names
        table = self.tables[name]
        block = pa.Table.from_pylist(table.records)
        connection = duckdb.connect()
        connection.register("block", block)
        found = connection.sql(re.sub(r"`[^`]+`", "block", query)).to_arrow_table()
        kept = [f for f in table.schema["fields"] if f["name"] in found.column_names]
        return Table({**table.schema, "fields": kept}, found.to_pylist())

    def _extract(self, asked: dict[str, Any]) -> None:
        table = self.tables[_name(asked["sourceTable"])]
        assert (asked["destinationFormat"], asked["useAvroLogicalTypes"]) == ("AVRO", True)
        (uri,) = asked["destinationUris"]
        for number, start in enumerate(range(0, max(len(table.records), 1), _RECORDS_A_FILE)):
            out = io.BytesIO()
            part = table.records[start : start + _RECORDS_A_FILE]
            fastavro.writer(out, table.schema, part, "deflate")
            self.storage.write(uri.replace("*", f"{number:012d}"), out.getvalue())


@contextlib.contextmanager
def start(storage: dataflow_service.Storage) -> Iterator[Service]:
    """Starts the server."""
    service = Service(storage)
    try:
        yield service
    finally:
        service.close()


def _name(reference: dict[str, str]) -> str:
    return f"{reference['projectId']}:{reference['datasetId']}.{reference['tableId']}"


def _reference(name: str) -> dict[str, str]:
    project, dataset, table = re.split("[:.]", name)
    return {"projectId": project, "datasetId": dataset, "tableId": table}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        service: Service = self.server.service  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0].strip("/")
        service.calls.append(f"{self.command} {path}")
        if self.headers.get("Authorization") != f"Bearer {service.storage.token}":
            self._answer(401, {"error": {"code": 401, "message": "no token of ours"}})
            return
        code, said = self._said(service, path.split("/"), json.loads(body) if body else {})
        self._answer(code, said)

    do_GET = do_POST = do_DELETE = _handle

    def _said(self, service: Service, parts: list[str], body: dict[str, Any]) -> Any:
        project, rest = parts[1], parts[2:]
        if rest[0] == "jobs":
            return 200, service.run(body) if self.command == "POST" else service.jobs[rest[1]]
        if self.command == "POST":
            service.datasets.add(body["datasetReference"]["datasetId"])
            return 200, body
        dataset = rest[1]
        if self.command == "DELETE":
            service.datasets.discard(dataset)
            for name in [name for name in service.tables if f":{dataset}." in name]:
                del service.tables[name]
            return 204, None
        if len(rest) == 2:
            is_there = dataset in service.datasets
            return (200, {}) if is_there else (404, {"error": {"code": 404, "message": "none"}})
        name = f"{project}:{dataset}.{rest[3]}"
        if name not in service.tables:
            message = f"Not found: Table {name}"
            return 404, {"error": {"code": 404, "message": message}}
        fields = [{"name": f["name"]} for f in service.tables[name].schema["fields"]]
        return 200, {"schema": {"fields": fields}, "numBytes": "9", "location": "EU"}

    def _answer(self, code: int, said: Any) -> None:
        data = b"" if said is None else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
