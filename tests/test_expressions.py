"""Features that SQL computes of a record, against Python's csv, datetime and fsum."""

import csv
import datetime
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from oracle import records
from oracle.command import headrace

SPEC = """
name = "trips"
[source]
format = "csv"
paths = ["trips.csv"]
types = { start = "timestamp", meters = "float64", seconds = "int64" }
[split]
fractions = { train = 0.8, test = 0.2 }
key = "number"
[features.number]
dtype = "int64"
[features.speed]
expression = "meters / nullif(seconds, 0)"
dtype = "float32"
transform = "scale_to_z_score"
missing = "mean"
indicator = true
[features.month]
expression = "month(start)"
dtype = "int64"
[features.code]
expression = "upper(left(town, 2))"
dtype = "string"
transform = "compute_and_apply_vocabulary"
missing = "token"
[features.huge]
expression = "1e38 * meters"
dtype = "float32"
[output]
max_rejected = 1
"""
TOWNS = ["Oslo", "Osaka", "bergen", "Berlin", "", "Rome"]


def _rows() -> list[dict]:
    rng = random.Random(3)
    first = datetime.datetime(2023, 1, 1)
    return [
        {
            "number": number,
            "start": str(first + datetime.timedelta(seconds=rng.randrange(10**8))),
            "meters": rng.choice(["", f"{rng.uniform(-3, 3):.3f}", "5.5"]),
            "seconds": rng.randrange(4),
            "town": rng.choice(TOWNS),
        }
        for number in range(500)
    ]


def _write(folder: Path, rows: list[dict], spec: str = SPEC) -> Path:
    with open(folder / "trips.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (folder / "trips.toml").write_text(spec)
    return folder / "trips.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trips")
    spec = _write(folder, _rows())
    for name, block_mb in (("data", 16), ("small", 0.002)):
        words = ("--output", folder / name, "--block-mb", block_mb)
        done = headrace("run", spec, *words)
        assert done.returncode == 0, done.stdout
    return folder


def _stored(folder: Path) -> dict[int, dict]:
    """Returns what is stored of each record, by its number."""
    manifest = json.loads((folder / "dataset_info.json").read_text())
    found = {}
    dtypes = {name: entry["dtype"] for name, entry in manifest["features"].items()}
    for split, entry in manifest["splits"].items():
        for shard in entry["shards"]:
            parsed = records.parsed(folder / shard["file"], dtypes)
            for row in range(len(parsed["number"])):
                values = {name: column[row] for name, column in parsed.items()}
                found[int(values["number"])] = {**values, "split": split}
    return found


def test_every_value_is_what_python_computes(folder):
    rows = {row["number"]: row for row in _rows()}
    stored = _stored(folder / "data")
    manifest = json.loads((folder / "data" / "dataset_info.json").read_text())
    too_large = {n for n, row in rows.items() if abs(float(row["meters"] or 0)) * 1e38 > 3.4028e38}
    no_meters = {n for n, row in rows.items() if row["meters"] == ""}
    assert len(too_large) > 100 and len(no_meters) > 100
    assert manifest["rejected"] == {
        "non_finite_huge": len(too_large),
        "missing_huge": len(no_meters),
    }
    assert set(stored) == set(rows) - too_large - no_meters

    speeds = {}
    for number in stored:
        meters, seconds = float(rows[number]["meters"]), int(rows[number]["seconds"])
        speeds[number] = float(np.float32(meters / seconds)) if seconds else None
    train = [n for n, values in stored.items() if values["split"] == "train"]
    there = [speeds[n] for n in train if speeds[n] is not None]
    assert len(there) < len(train)
    mean = math.fsum(there) / len(there)
    seen = [mean if speeds[n] is None else speeds[n] for n in train]
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in seen) / len(seen))
    tokens = [(rows[n]["town"][:2].upper() or "[MISSING]") for n in train]
    order = sorted(set(tokens), key=lambda token: (-tokens.count(token), token))
    for number, values in stored.items():
        start = datetime.datetime.fromisoformat(rows[number]["start"])
        assert values["month"] == start.month
        token = rows[number]["town"][:2].upper() or "[MISSING]"
        assert values["code"] == order.index(token)
        speed = mean if speeds[number] is None else speeds[number]
        assert values["speed"] == pytest.approx((speed - mean) / std, rel=2e-7, abs=1e-7)
        assert values["speed_missing"] == (speeds[number] is None)
        assert values["huge"] == np.float32(1e38 * float(rows[number]["meters"]))


def test_the_bytes_do_not_depend_on_blocks(folder):
    shards = [sorted((folder / name).glob("*.tfrecord")) for name in ("data", "small")]
    assert len(shards[0]) == 2
    for one, other in zip(*shards, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_predictions_of_raw_rows_are_those_of_the_records(folder):
    model = folder / "model"
    done = headrace("train", folder / "data", "--output", model, "--steps", 2, "--batch-size", 8)
    assert done.returncode != 0 and "label" in done.stdout  # There is none to learn.
    spec = SPEC + '\n[label]\nexpression = "seconds > 1"\ntype = "class"\n'
    path = _write(folder, _rows(), spec)
    done = headrace("run", path, "--output", folder / "labeled")
    assert done.returncode == 0, done.stdout
    words = ("--output", model, "--steps", 2, "--batch-size", 8)
    done = headrace("train", folder / "labeled", *words)
    assert done.returncode == 0, done.stdout
    done = headrace("predict", model, folder / "trips.csv")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("non_finite_huge") > 100


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("meter / 2", "features.speed.expression: there is no column 'meter'. The columns are "),
        ("meters /", "features.speed.expression: not SQL: "),
        ("avg(meters)", "features.speed.expression: avg() looks at many records."),
        ("start", "features.speed.expression: must be DOUBLE, but is TIMESTAMP."),
    ],
)
def test_a_mistake_is_one_line(tmp_path, expression, message):
    spec = SPEC.replace("meters / nullif(seconds, 0)", expression)
    done = headrace("run", _write(tmp_path, _rows()[:5], spec), "--output", tmp_path / "data")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1), done.stdout
    assert message in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[features.month]", '[features.month]\ncolumn = "start"', "takes column or expression"),
        (
            "[features.month]",
            '[features.start]\ndtype = "string"\n[features.other]\ncolumn = "month"\n'
            'dtype = "string"\n[features.month]',
            "features.other reads the column 'month', but transform_fn has the expression of "
            "features.month by that name. Call the feature another.",
        ),
    ],
)
def test_names_that_two_things_have_are_refused(tmp_path, old, new, message):
    spec = SPEC.replace(old, new)
    done = headrace("run", _write(tmp_path, _rows()[:5], spec), "--output", tmp_path / "data")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1), done.stdout
    assert message in done.stdout
