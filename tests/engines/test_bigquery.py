"""Tables and queries of a stand-in for BigQuery: the same bytes as from a CSV file."""

import csv
import datetime
import decimal
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from oracle import compare
from oracle.command import ROOT, headrace

from engines import bigquery_service, dataflow_service

PROJECT = dataflow_service.PROJECT
TABLE = f"{PROJECT}:things.made"
SCHEMA = {
    "type": "record",
    "name": "Root",
    "fields": [
        {"name": "i", "type": ["null", "long"]},
        {"name": "x", "type": ["null", "double"]},
        {"name": "name", "type": ["null", "string"]},
        {"name": "kind", "type": "string"},
        {
            "name": "price",
            "type": [
                "null",
                {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9},
            ],
        },
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
DAY = datetime.date(2020, 1, 1)
AT = datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.UTC)
RECORDS = [
    {
        "i": None if i % 50 == 7 else i,
        "x": (i * 37 % 1001) / 8,
        "name": ["a", "é", None][i % 3],
        "kind": ["yes", "no"][i * i % 7 % 2],
        "price": decimal.Decimal(i) / 8,
        "day": DAY + datetime.timedelta(days=i % 30),
        "at": AT + datetime.timedelta(seconds=i),
        "tags": ["t"] * (i % 3),
    }
    for i in range(2000)
]
SPEC = """\
name = "made"
[source]
{source}
[split]
fractions = {{ train = 0.7, test = 0.3 }}
[[filter]]
name = "early"
where = "i < 1900"
[features]
x = {{ dtype = "float32", transform = "scale_to_z_score" }}
name = {{ dtype = "string", transform = "compute_and_apply_vocabulary", missing = "token" }}
price = {{ dtype = "float32" }}
[label]
column = "kind"
[source.types]
i = "int64"
[output]
num_shards = 2
"""
COMMAND = """
import sys
from apache_beam.io.gcp.internal.clients.bigquery import BigqueryV2
BigqueryV2.BASE_URL = sys.argv.pop(1)
from headrace.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with dataflow_service.start(tmp_path_factory.mktemp("cloud")) as cloud:
        cloud.storage.create_bucket("bucket")
        yield cloud


@pytest.fixture
def service(cloud):
    with bigquery_service.start(cloud.storage) as service:
        service.tables[TABLE] = bigquery_service.Table(SCHEMA, RECORDS)
        yield service


def written(folder: Path, source: str) -> Path:
    path = folder / f"{len(list(folder.glob('*.toml')))}.toml"
    path.write_text(SPEC.format(source=source))
    return path


def ran(service, cloud, *words, flags=(), **changed) -> subprocess.CompletedProcess:
    flags = flags or (f"--project={PROJECT}", "--temp_location=gs://bucket/temp")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **cloud.environment(), **changed}
    del environment["https_proxy"]  # Which Beam's client would take for http, too.
    return subprocess.run(
        [sys.executable, "-c", COMMAND, service.url, *map(str, words), "--quiet", "--", *flags],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def shards(folder: Path) -> dict[str, tuple]:
    manifest = json.loads((folder / "dataset_info.json").read_text())
    return compare.bytes_of_shards(folder, manifest)


def text(name: str, value) -> str:
    """A value as a CSV has it."""
    if value is None:
        return ""
    if name == "at":
        return value.strftime("%Y-%m-%d %H:%M:%S.%fZ")
    if name == "tags":
        return json.dumps(value, separators=(",", ":"))
    if name == "price":
        return f"{value:.9f}"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


@pytest.fixture(scope="module")
def from_csv(tmp_path_factory) -> dict[str, tuple]:
    folder = tmp_path_factory.mktemp("csv")
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(RECORDS[0])
        writer.writerows([[text(*pair) for pair in record.items()] for record in RECORDS])
    path = written(folder, 'format = "csv"\npaths = ["rows.csv"]')
    done = headrace("run", path, "--output", folder / "out")
    assert done.returncode == 0, done.stdout
    return shards(folder / "out")


QUERY = f"SELECT * FROM `{TABLE.replace(':', '.')}` WHERE i IS NULL OR i >= 0"


@pytest.mark.feature("apache_beam", "ReadFromBigQuery", '`format = "bigquery"`: `table`, `query`')
@pytest.mark.parametrize(
    "source, runner", [(f'table = "{TABLE}"', "local"), (f'query = "{QUERY}"', "FnApiRunner")]
)
def test_a_table_or_a_query_gives_the_bytes_of_a_csv_file(
    tmp_path, service, cloud, from_csv, source, runner
):
    path = written(tmp_path, f'format = "bigquery"\n{source}')
    done = ran(service, cloud, "run", path, "--output", tmp_path / "out", "--runner", runner)
    assert done.returncode == 0, done.stdout
    assert shards(tmp_path / "out") == from_csv
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert (info["read"], info["rejected"]["early"], info["rejected"]["null_in_early"]) == (
        len(RECORDS),
        98,
        40,
    )
    assert service.queries == ([QUERY] if "query" in source else [])
    assert sum(call.endswith("/jobs") for call in service.calls) >= 1
    # Nothing of ours stays: neither the temporary table nor the export.
    assert (set(service.tables), service.datasets) == ({TABLE}, set())
    assert [name for name in cloud.storage.names("bucket") if "bigquery" in name] == []


@pytest.mark.parametrize(
    "source, changed, flags, message, status",
    [
        (
            'table = "things.none"',
            {},
            (),
            "Not found: Table stand-in-project:things.none",
            1,
        ),
        ('query = "SELECT wrong FROM `stand-in-project.things.made`"', {}, (), "wrong", 1),
        (
            f'table = "{TABLE}"',
            {},
            ("--temp_location=gs://bucket/temp",),
            "--project: 'bigquery' exports to Cloud Storage and reads that. Give -- --project",
            2,
        ),
        (
            f'table = "{TABLE}"',
            {},
            ("--project=p",),
            "--temp_location: 'bigquery' exports to Cloud Storage",
            2,
        ),
        (
            f'table = "{TABLE}"',
            {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"},
            (f"--project={PROJECT}", "--temp_location=/tmp/none"),
            "source.format: 'bigquery' finds no credentials of Google's. Run `gcloud auth",
            2,
        ),
    ],
)
def test_what_lacks_is_said_in_a_line(
    tmp_path, service, cloud, source, changed, flags, message, status
):
    path = written(tmp_path, f'format = "bigquery"\n{source}')
    words = ["run", path, "--output", tmp_path / "out"]
    done = ran(service, cloud, *words, flags=flags, **changed)
    assert message in done.stdout
    assert done.stdout.startswith("headrace: ") and done.stdout.count("\n") == 1
    assert done.returncode == status
