"""The rules that a record meets, in their order."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import rows
from beam_jobs.config import parse_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import blocks, csv_files
from beam_jobs.sources.blocks import Unit
from beam_jobs.sources.listing import File

COLUMNS = ("x", "y")


def plan(columns=COLUMNS, **sections):
    said = {
        "name": "t",
        "source": {"format": "csv", "paths": ["t.csv"]},
        "split": {"fractions": {"train": 1.0}},
        "features": {"x": {"dtype": "string"}},
    }
    return rows.plan(parse_spec(said | sections, "spec.toml"), columns)


def read(text: str, of: rows.Plan, columns=COLUMNS) -> rows.Outcome:
    unit = Unit((File("t.csv", "t.csv", len(text)),), columns, ())
    return rows.read_block(csv_files.parse(text.encode(), 2, unit, of.spec.source), of)


def reasons(outcome: rows.Outcome) -> dict[int, str]:
    table = outcome.rejected
    return dict(zip(table["position"].to_pylist(), table["reason"].to_pylist(), strict=True))


def test_a_rule_does_not_look_at_what_an_earlier_one_left_out():
    of = plan(
        filter=[
            {"name": "known", "where": "y <> '?'"},
            {"name": "small", "where": "CAST(y AS BIGINT) < 100"},
        ],
        label={"expression": "100 / CAST(x AS BIGINT)", "type": "int64"},
        source={"format": "csv", "paths": ["t.csv"], "types": {"x": "int64"}},
    )
    outcome = read("20,1\n30,?\n?,x\n50,300\n,2\n3,4\n", of)
    assert reasons(outcome) == {3: "known", 4: "unparsable_x", 5: "small", 6: "no_label"}
    assert outcome.kept.beside["label"].to_pylist() == [5, 33]
    assert outcome.kept.raw["x"].to_pylist() == ["20", "3"]


def test_a_rule_that_fails_on_a_record_it_looks_at_stops_the_job():
    of = plan(
        filter=[
            {"name": "known", "where": "y <> '?'"},
            {"name": "small", "where": "CAST(y AS BIGINT) < 100"},
        ]
    )
    with pytest.raises(DataError, match=r"^t\.csv:2: .*'x'.* Use TRY_CAST, or filter it out\.$"):
        read("a,1\nb,?\nc,x\n", of)


HOURS = """\
import time, pyarrow
from beam_jobs import sql
print(time.localtime(0).tm_hour)
block = pyarrow.record_batch({"x": [0, 36000]})
print(sql.query("SELECT hour(to_timestamp(x)) FROM block", block)[0].to_pylist())
"""


def test_sql_knows_one_time_zone():
    said = subprocess.run(  # The zone is read when a process starts.
        [sys.executable, "-c", HOURS],
        env=os.environ | {"TZ": "Asia/Tokyo"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.splitlines() == ["9", "[0, 10]"]


def test_a_column_without_a_name():
    of = plan(("", "x", "y"), filter=[{"name": "small", "where": "y < '5'"}])
    outcome = read("0,1,2\n1,2,7\n", of, ("", "x", "y"))
    assert reasons(outcome) == {3: "small"}
    assert json.loads(rows.rejected_lines(outcome.rejected))["record"] == "1,2,7"


@pytest.mark.parametrize(
    "dtype, values, message",
    [
        ("string", {"train": [1], "test": ["1"]}, "split.values lists '1' twice. Name it once."),
        ("float64", {"train": [1], "test": ["1.0"]}, "split.values lists 1.0 twice. Name it once."),
        (
            "int64",
            {"train": [1, 2**63]},
            "split.values.train: must be int64 like the column 'y', but is "
            "[1, 9223372036854775808]. Set source.types.y.",
        ),
        (
            "int64",
            {"train": ["a"]},
            "split.values.train: must be int64 like the column 'y', but is ['a']. "
            "Set source.types.y.",
        ),
    ],
)
def test_values_of_a_split_that_do_not_fit_the_column(dtype, values, message):
    with pytest.raises(SpecError) as error:
        plan(
            split={"column": "y", "values": values},
            source={"format": "csv", "paths": ["t.csv"], "types": {"y": dtype}},
        )
    assert str(error.value) == message


def test_bytes_are_text_where_one_is_asked_for():
    of = plan(
        source={"format": "parquet", "paths": ["t"], "trim": True, "null_values": ["?"]},
        features={"x": {"dtype": "float32"}},
        filter=[{"name": "known", "where": "y <> 'no'"}],
    )
    x = pa.array([b" 1.5 ", b"\xff", b"2\0", b"?", b"one", b"3", b"4", b"\xff"])
    y = pa.array([b"a", b"a", b"\xff", b"a", b"a", b"no", b"\xc3", b"a"])
    values = pa.record_batch({"x": x, "y": y, "unused": pa.array([b"\xff"] * 8)})
    file = File("t", "t", 1)
    structure = blocks.structure(
        values,
        {7: ("undecodable_example", "")},
        of.spec.source,
        files=(file,),
        places=np.arange(1, 9),
        num_bytes=1,
        raw=str,
    )
    outcome = rows.read_block(structure, of)
    assert outcome.kept.raw["x"].to_pylist() == [1.5]
    assert reasons(outcome) == {
        2: "bad_encoding",
        3: "nul_byte",
        4: "missing_x",
        5: "unparsable_x",
        6: "known",
        7: "bad_encoding",
        8: "undecodable_example",
    }
    positions = outcome.rejected["position"].to_pylist()
    details = dict(zip(positions, outcome.rejected["detail"].to_pylist(), strict=True))
    assert (details[2], details[7]) == ("column 'x'", "column 'y'")


@pytest.mark.parametrize("place", ["directory", "pattern"])
def test_the_label_of_a_path(place):
    label = {"from": "directory"} if place == "directory" else {"pattern": r"/(?P<label>\d)\."}
    of = plan(
        ("text", "path"),
        source={"format": "text", "paths": ["t"]},
        split={"directory": True},
        features={"text": {"dtype": "string"}},
        label=label | {"type": "class" if place == "directory" else "int64"},
        filter=[{"name": "known", "where": "label <> '3'"}],
    )
    paths = ["train/a/1.txt", "test/b/2.txt", "dev/a/2.txt", "train/c.txt", "train/a/3.txt"]
    values = pa.record_batch({"text": ["x"] * 5, "path": paths})
    files = tuple(File(f"/{path}", path, 1) for path in paths)
    structure = blocks.structure(
        values, {}, of.spec.source, files=files, places=np.arange(5), num_bytes=1, raw=str
    )
    outcome = rows.read_block(structure, of)
    is_class = place == "directory"
    expected = {2: "no_split", 3: "null_in_known"} | ({} if is_class else {4: "known"})
    assert reasons(outcome) == expected
    wanted = ["a", "b", "a"] if is_class else [1, 2]
    assert outcome.kept.beside["label"].to_pylist() == wanted
    assert outcome.kept.splits.tolist() == [0, 2, 0][: len(wanted)]
    assert outcome.rejected["source"].to_pylist() == [f"/{paths[p]}" for p in expected]


def test_the_split_of_each_file_of_a_block():
    of = plan(
        ("text", "path"),
        source={"format": "text", "paths": {"train": ["a"], "test": ["b"]}},
        split={},
        features={"text": {"dtype": "string"}},
    )
    values = pa.record_batch({"text": ["x"] * 4, "path": ["1", "2", "3", "4"]})
    found = ("train", "train", "test", "test")
    structure = blocks.structure(
        values,
        {1: ("nul_byte", "")},
        of.spec.source,
        files=tuple(File("f", "f", 1, split=split) for split in found),
        places=np.arange(4),
        num_bytes=1,
        raw=str,
    )
    assert rows.read_block(structure, of).kept.splits.tolist() == [0, 2, 2]


@pytest.mark.parametrize("key", ["*", ["y"]])
def test_the_key_of_a_text_is_the_same_whatever_the_format(key):
    source = {"format": "csv", "paths": ["t.csv"], "trim": True, "null_values": ["", "?"]}
    split = {"key": key, "fractions": {"train": 0.5, "validation": 0.5}}
    of = plan(source=source, split=split)
    found = ["", " ", "?", " ? ", "a", *(f"\u00a0{i}" for i in range(20))]
    of_text = read("".join(f"x,{value}\n" for value in found), of).kept

    columns = [pa.array(["x"] * len(found)), pa.array(map(str.encode, found), pa.binary())]
    values = pa.record_batch(columns, [*COLUMNS])
    unit = blocks.structure(
        values,
        {},
        of.spec.source,
        files=(File("t", "t", 1),),
        places=np.arange(len(found)),
        num_bytes=1,
        raw=str,
    )
    of_bytes = rows.read_block(unit, of).kept

    assert of_text.hashed.tolist() == of_bytes.hashed.tolist()
    assert of_text.splits.tolist() == of_bytes.splits.tolist()
    assert len({*of_text.hashed.tolist()}) == 22  # Four of them are missing.
