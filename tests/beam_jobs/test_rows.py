"""The rules that a record meets, in their order."""

import json
import os
import subprocess
import sys

import pytest

from beam_jobs import rows
from beam_jobs.config import parse_spec
from beam_jobs.errors import DataError, SpecError

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
    return rows.read_block(text.encode(), columns, 2, None, of, "t.csv")


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
    assert outcome.kept.label.to_pylist() == [5, 33]
    assert outcome.kept.raw["x"].to_pylist() == ["20", "3"]


def test_a_rule_that_fails_on_a_record_it_looks_at_stops_the_job():
    of = plan(
        filter=[
            {"name": "known", "where": "y <> '?'"},
            {"name": "small", "where": "CAST(y AS BIGINT) < 100"},
        ]
    )
    with pytest.raises(DataError, match=r"^t\.csv: .*'x'.* Use TRY_CAST, or filter it out\.$"):
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
