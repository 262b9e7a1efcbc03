"""Datasets of what PTransforms of Beam's give: the same bytes as from a CSV file of it."""

import csv
import json
import sys
from pathlib import Path

import pytest
from oracle import compare
from oracle.command import headrace
from test_python_sources import (
    COUNT,
    check_it_stays,
    columns,
    kept_after_a_kill,
    loaded,
    shards,
    spec,
    text,
)

from beam_jobs.run import run
from beam_jobs.verify import verify

MODULE = '''
import pathlib
import typing

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import FixedWindows, TimestampedValue

HERE = pathlib.Path(__file__).parent
NAMES = ["a", "é", "two words", ""]


def record(i):
    """A record; what is missing is None, or not there."""
    found = {"name": NAMES[i % 4], "i": i, "y": i % 3, "x": (i * 37 % 1001) / 8}
    if i % 97 == 5:
        found["x"] = None
        if i % 2:
            del found["x"]
    return found


def numbers():
    return beam.Create(range(int((HERE / "count").read_text())))


class Records(beam.PTransform):
    """dicts, in bundles of one and of many, and whatever order the engine likes."""

    def expand(self, pipeline):
        with open(HERE / "calls", "a") as calls:
            calls.write("x")
        return pipeline | numbers() | beam.Reshuffle() | beam.Map(record)


def dicts():
    return Records()


class Row(typing.NamedTuple):
    i: int
    x: typing.Optional[float]
    name: str
    y: int


def _row(i):
    return Row(**{"x": None, **record(i)})


def named_tuples():
    return "Make" >> beam.transforms.ptransform.ptransform_fn(_named_tuples)()


def _named_tuples(pipeline):
    times = pipeline | numbers() | beam.Map(lambda i: TimestampedValue(_row(i), i))
    return times | beam.WindowInto(FixedWindows(100))


def beam_rows():
    rows = beam.transforms.ptransform.ptransform_fn(
        lambda pipeline: pipeline | numbers() | beam.Map(lambda i: beam.Row(**_row(i)._asdict()))
    )
    return rows()


def _batch(start):
    count = int((HERE / "count").read_text())
    rows = [{"x": None, **record(i)} for i in range(start, min(count, start + 300))]
    return pa.RecordBatch.from_pylist(rows, pa.schema(
        {"y": pa.int8(), "x": pa.float64(), "name": pa.string(), "i": pa.int64()}
    ))


def batches():
    starts = range(0, int((HERE / "count").read_text()), 300)
    return beam.transforms.ptransform.ptransform_fn(
        lambda pipeline: pipeline | beam.Create(starts) | beam.Map(_batch)
    )()


def broken():
    def fail(i):
        if i == 7:
            raise RuntimeError("no more\\nthan that")
        return record(i)

    return beam.transforms.ptransform.ptransform_fn(
        lambda pipeline: pipeline | numbers() | beam.Map(fail)
    )()


def plain_numbers():
    return numbers()


def none():
    return beam.Create([])


def two():
    return beam.transforms.ptransform.ptransform_fn(
        lambda pipeline: {"a": pipeline | numbers(), "b": pipeline | "B" >> numbers()}
    )()


def endless():
    return beam.io.ReadFromPubSub("projects/project/topics/topic")


def wrong_expand():
    return beam.Map(record)


def no_transform():
    return [1]


def raises():
    raise ValueError("not today")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder for specs, with a module of PTransforms beside them."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "beam_here", raising=False)
    (tmp_path / "beam_here.py").write_text(MODULE)
    (tmp_path / "count").write_text(str(COUNT))
    return tmp_path


def of(folder: Path, name: str) -> Path:
    return spec(folder, f'format = "beam"\ntransform = "beam_here:{name}"')


@pytest.fixture
def from_csv(folder) -> dict[str, tuple]:
    """The shards of a CSV file with the same records, made by the job."""
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        rows = zip(*columns().values(), strict=True)
        csv.writer(file).writerows([[*columns()], *([text(v) for v in row] for row in rows)])
    run(loaded(spec(folder, 'format = "csv"\npaths = ["rows.csv"]')), str(folder / "csv"))
    return shards(folder / "csv")


@pytest.mark.feature("apache_beam", "PTransform", '`format = "beam"`: `transform` returns it')
def test_the_bytes_are_those_of_a_csv_file(folder, from_csv):
    assert len(from_csv) == 6
    fingerprints = set()
    for name, words in (
        ("dicts", ["--workers", "3"]),
        ("batches", ["--workers", "1"]),
        ("dicts", ["--runner", "FnApiRunner", "--workers", "2"]),
    ):
        out = folder / f"{name}{len(words)}"
        ran = headrace("run", of(folder, name), "--output", out, *words)
        assert ran.returncode == 0, ran.stdout
        assert shards(out) == from_csv
        assert verify(str(out)) == []
        info = json.loads((out / "dataset_info.json").read_text())
        assert (info["read"], info["rejected"]["not_nine"]) == (COUNT, 17)
        fingerprints.add(info["input_fingerprint"])
    for name in ("named_tuples", "beam_rows"):
        info = run(loaded(of(folder, name)), str(folder / name), num_threads=1)
        assert shards(folder / name) == from_csv
        fingerprints.add(info["input_fingerprint"])
    assert len(fingerprints) == 1
    assert not list(folder.rglob("*.arrow"))


def test_a_bundle_that_is_done_twice_counts_once(folder, from_csv):
    words = ["--runner", "FnApiRunner", "--", "--direct_runner_bundle_repeat=1"]
    ran = headrace("run", of(folder, "dicts"), "--output", folder / "out", *words)
    assert ran.returncode == 0, ran.stdout
    assert shards(folder / "out") == from_csv


def test_rejected_records_have_no_position(folder):
    run(loaded(of(folder, "dicts")), str(folder / "out"))
    found = compare.set_aside(folder / "out")
    filtered = [line for line in found if line["reason"] == "not_nine"]
    wanted = [str(i) for i in range(51) if i % 3 == 2]
    assert sorted(json.loads(r["record"])["i"] for r in filtered) == sorted(wanted)
    assert {(line["source"], line["position"]) for line in found} == {("beam_here:dicts", None)}


@pytest.mark.parametrize("count, kept", [(COUNT, 6), (COUNT - 1, 0)])
def test_a_killed_job_goes_on_if_the_transform_gives_the_same(folder, count, kept):
    assert kept_after_a_kill(folder, loaded(of(folder, "dicts")), count) == kept


def test_a_dataset_that_is_there_is_not_made_again(folder):
    here, out = loaded(of(folder, "dicts")), str(folder / "out")
    info = run(here, out)
    assert run(here, out) == info
    assert (folder / "calls").read_text() == "x"


@pytest.mark.parametrize(
    "name, message, status",
    [
        ("broken", "beam_here:broken: raised RuntimeError: no more than that", 1),
        (
            "plain_numbers",
            "beam_here:plain_numbers: an element is a int: give dicts by column, NamedTuples, rows "
            "of Beam or RecordBatches.",
            1,
        ),
        ("none", "beam_here:none: there is no record. Give some.", 1),
        ("two", "beam_here:two: gives a dict, but must give one PCollection.", 2),
        ("endless", "beam_here:endless: gives a PCollection without an end. Read a part", 2),
        ("wrong_expand", "beam_here:wrong_expand: raised ", 2),
        (
            "no_transform",
            "source.transform: beam_here:no_transform returned a list, but must return a "
            "PTransform.",
            2,
        ),
        ("raises", "source.transform: beam_here:raises raised ValueError: not today.", 2),
        (
            "absent",
            "source.transform: cannot import 'beam_here:absent': AttributeError: module "
            "'beam_here' has no attribute 'absent'.",
            2,
        ),
    ],
)
def test_a_transform_that_fails_is_one_line_and_publishes_nothing(folder, name, message, status):
    ran = headrace("run", of(folder, name), "--output", folder / "out", "--quiet")
    assert ran.stdout.startswith(f"headrace: {message}")
    assert ran.stdout.count("\n") == 1
    assert ran.returncode == status
    assert not [path for path in folder.glob("out/*") if path.name != ".progress"]


def test_a_column_that_no_record_has(folder):
    path = of(folder, "dicts")
    path.write_text(
        path.read_text().replace("[features]\n", '[features]\nz = { dtype = "int64" }\n')
    )
    ran = headrace("run", path, "--output", folder / "out", "--quiet")
    assert ran.stdout == (
        "headrace: features.z: there is no column 'z'. The columns are i, name, x, y.\n"
    )
    assert ran.returncode == 2


def test_a_dry_run_says_how_the_records_are_read(folder):
    ran = headrace("run", of(folder, "dicts"), "--output", folder / "out", "--dry-run")
    assert ran.returncode == 0, ran.stdout
    assert '"WriteElements"' in ran.stdout
    assert not (folder / "out").exists()


def test_a_dataset_stays_where_the_transform_fails_that_is_to_replace_it(folder):
    before, broken = loaded(of(folder, "batches")), loaded(of(folder, "broken"))
    check_it_stays(folder / "out", before, broken)
