"""Filters that are functions of the user's."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from oracle import records
from oracle.command import headrace

MODULE = """
import pyarrow as pa
import pyarrow.compute as pc

def is_prime(records):
    numbers = records.column("number").to_pylist()
    return [n > 1 and all(n % d for d in range(2, n)) for n in numbers]

def is_long(records):
    return pc.greater(pc.utf8_length(records.column("name")), 2)

def fails(records):
    raise ValueError("two\\nlines")

def is_short(records):
    return [True]
"""
SPEC = """
name = "numbers"
[source]
format = "csv"
paths = ["numbers.csv"]
[split]
fractions = { train = 1.0 }
[[filter]]
name = "small"
where = "number < 400"
[[filter]]
name = "prime"
function = "number_rules:is_prime"
columns = ["number"]
[[filter]]
name = "odd"
where = "number % 2 = 1"
[[filter]]
name = "long_name"
function = "number_rules:is_long"
columns = ["name"]
[features.number]
dtype = "int64"
[output]
num_shards = 1
"""
NAMES = ["", "ab", "abc", "abcd"]


def _write(folder: Path, spec: str = SPEC) -> Path:
    with open(folder / "numbers.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["number", "name"])
        table.writerows([n, NAMES[n % 4 if n % 3 else 1]] for n in range(500))
    (folder / "number_rules.py").write_text(MODULE)
    (folder / "numbers.toml").write_text(spec)
    return folder / "numbers.toml"


def _run(folder: Path, *words, spec: str = SPEC):
    return headrace("run", _write(folder, spec), "--output", folder / "data", *words)


def test_each_filter_sees_what_the_ones_before_it_left(tmp_path):
    done = _run(tmp_path, "--block-mb", "0.001")
    assert done.returncode == 0, done.stdout
    small = range(400)
    primes = [n for n in small if n > 1 and all(n % d for d in range(2, n))]
    odd = [n for n in primes if n % 2]
    names = {n: NAMES[n % 4 if n % 3 else 1] for n in odd}
    kept = [n for n in odd if len(names[n]) > 2]
    assert 2 in primes and 20 < len(kept) < len(odd)
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    assert info["rejected"] == {
        "small": 100,
        "null_in_small": 0,
        "prime": 400 - len(primes),
        "null_in_prime": 0,
        "odd": 1,
        "null_in_odd": 0,
        "long_name": sum(0 < len(names[n]) <= 2 for n in odd),
        "null_in_long_name": sum(not names[n] for n in odd),
    }
    (shard,) = (tmp_path / "data").glob("*.tfrecord")
    stored = records.parsed(shard, {"number": "int64"})["number"]
    assert sorted(stored.tolist()) == kept


def test_another_function_is_another_spec(tmp_path):
    assert _run(tmp_path).returncode == 0
    again = headrace("run", tmp_path / "numbers.toml", "--output", tmp_path / "data")
    assert again.returncode == 0, again.stdout
    module = tmp_path / "number_rules.py"
    module.write_text(module.read_text().replace("> 1 and", "> 2 and"))
    again = headrace("run", tmp_path / "numbers.toml", "--output", tmp_path / "data")
    assert again.returncode == 2
    assert "made of another spec" in again.stdout


@pytest.mark.parametrize(
    ("old", "new", "status", "message"),
    [
        ("number_rules:is_prime", "no_rules:is_prime", 2, "filter 'prime': cannot import 'no_rul"),
        ('columns = ["number"]', 'columns = ["numbr"]', 2, "there is no column 'numbr'. The col"),
        ('columns = ["number"]', "", 2, "function needs columns, those that it reads"),
        ('where = "number < 400"', "", 2, "filter.0: takes one of where and function."),
        ("is_prime", "fails", 1, "filter 'prime': ValueError: two lines."),
        ("is_prime", "is_short", 1, "must return a bool for each of 400 records, but returned 1."),
    ],
)
def test_a_mistake_is_one_line(tmp_path, old, new, status, message):
    done = _run(tmp_path, spec=SPEC.replace(old, new))
    assert (done.returncode, done.stdout.count("\n")) == (status, 1), done.stdout
    assert message in done.stdout


def test_a_worker_that_lacks_the_module_says_so(tmp_path):
    """What the first step of every job does, in a process that has the spec but not the module."""
    spec = _write(tmp_path)
    job = (
        "import sys, pickle; from beam_jobs import functions;"
        "functions.check(pickle.loads(sys.stdin.buffer.read()))"
    )
    dump = (
        "import sys, pickle; from beam_jobs.config import load_spec;"
        "sys.stdout.buffer.write(pickle.dumps(load_spec(sys.argv[1])))"
    )
    packed = subprocess.run(
        [sys.executable, "-c", dump, spec], check=True, capture_output=True
    ).stdout
    (tmp_path / "number_rules.py").unlink()
    done = subprocess.run([sys.executable, "-c", job], input=packed, capture_output=True)
    assert b"filter 'prime': cannot import 'number_rules:is_prime'" in done.stderr
