"""Datasets of what Python has in memory, or makes: the same bytes as from a CSV file of it."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import compare
from oracle.command import headrace
from test_resume import run_until_it_fails

from beam_jobs.config import Spec, load_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run
from beam_jobs.verify import verify

# Half of the numbers have a fraction, which a text of few digits says exactly.
MODULE = '''
import pathlib

import keras

HERE = pathlib.Path(__file__).parent
NAMES = ["a", "é", "two words", ""]


def records():
    """Single records, as many as the file beside this one says; a mark for each call."""
    with open(HERE / "calls", "a") as calls:
        calls.write("x")
    for i in range(int((HERE / "count").read_text())):
        values = {"i": i, "x": None if i % 97 == 5 else (i * 37 % 1001) / 8, "name": NAMES[i % 4]}
        yield values, i % 3


def broken():
    for i, record in enumerate(records()):
        if i == 7:
            raise RuntimeError("no more")
        yield record


class Items(keras.utils.PyDataset):
    """The same records in batches of 64, the last one smaller."""

    def __init__(self):
        super().__init__()
        self.records = list(records())

    def __len__(self):
        return -(-len(self.records) // 64)

    def __getitem__(self, index):
        batch = self.records[index * 64 : index * 64 + 64]
        inputs = {name: [values[name] for values, _ in batch] for name in ("i", "x", "name")}
        return inputs, [label for _, label in batch]


def one_of_another_shape():
    class Other(Items):
        def __getitem__(self, index):
            inputs, labels = super().__getitem__(index)
            return ({**inputs, "x": [(0.5, 1.0)] * 64}, labels) if index == 3 else (inputs, labels)

    return Other()


not_callable = 3
'''
SPEC = """\
name = "numbers"
[source]
{source}
[split]
fractions = {{ train = 0.7, test = 0.3 }}
[[filter]]
name = "not_nine"
where = "y <> 2 OR i > 50"
[features]
i = {{ dtype = "int64" }}
x = {{ dtype = "float32", transform = "scale_to_z_score", missing = "mean" }}
name = {{ dtype = "string", transform = "compute_and_apply_vocabulary" }}
[label]
column = "y"
[output]
num_shards = 3
"""
COUNT = 2000


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder for specs, with a module of functions beside them."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "made_here", raising=False)
    (tmp_path / "made_here.py").write_text(MODULE)
    (tmp_path / "count").write_text(str(COUNT))
    return tmp_path


def spec(folder: Path, source: str) -> Path:
    path = folder / f"{len(list(folder.glob('*.toml')))}.toml"
    path.write_text(SPEC.format(source=source))
    return path


def function(folder: Path, name: str) -> Path:
    return spec(folder, f'format = "python"\nfunction = "made_here:{name}"')


def loaded(path: Path) -> Spec:
    return load_spec(str(path))


def columns() -> dict[str, list]:
    """The records, computed here, by column."""
    names = ["a", "é", "two words", ""]
    return {
        "i": [*range(COUNT)],
        "x": [None if i % 97 == 5 else (i * 37 % 1001) / 8 for i in range(COUNT)],
        "name": [names[i % 4] for i in range(COUNT)],
        "y": [i % 3 for i in range(COUNT)],
    }


def text(value) -> str:
    """A value as a CSV has it: 3.0 as 3."""
    if value is None:
        return ""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def shards(folder: Path) -> dict[str, tuple]:
    manifest = json.loads((folder / "dataset_info.json").read_text())
    return compare.bytes_of_shards(folder, manifest)


@pytest.fixture
def from_csv(folder) -> dict[str, tuple]:
    """The shards of a CSV file with the same records, made by the job."""
    rows = zip(*columns().values(), strict=True)
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[*columns()], *([text(v) for v in row] for row in rows)])
    run(loaded(spec(folder, 'format = "csv"\npaths = ["rows.csv"]')), str(folder / "csv"))
    return shards(folder / "csv")


@pytest.mark.feature("keras.utils", "PyDataset", '`format = "python"`: `function` returns it')
@pytest.mark.feature("keras.utils", "Sequence", '`format = "python"`: `function` returns it')
@pytest.mark.feature("numpy", "savez", '`format = "numpy"`')
def test_the_bytes_are_those_of_a_csv_file(folder, from_csv):
    values = columns()
    x = np.array([np.nan if value is None else value for value in values.pop("x")])
    np.savez(folder / "a.npz", x=x, **{k: np.array(v) for k, v in values.items()})
    npz = spec(folder, 'format = "numpy"\npaths = ["a.npz"]\nnull_values = ["", "nan"]')

    info = run(loaded(npz), str(folder / "numpy"), num_threads=1)
    for name, workers in (("records", 1), ("Items", 3)):
        ran = headrace(
            "run", function(folder, name), "--output", folder / name, "--workers", workers
        )
        assert ran.returncode == 0, ran.stdout

    items = runpy.run_path(str(folder / "made_here.py"))["Items"]()
    by_hand = [items[index] for index in range(len(items))]
    assert [x for inputs, _ in by_hand for x in inputs["x"]] == columns()["x"]
    assert [label for _, labels in by_hand for label in labels] == columns()["y"]
    assert info["read"] == COUNT and info["rejected"]["not_nine"] == 17
    assert len(from_csv) == 6
    for name in ("numpy", "records", "Items"):
        assert verify(str(folder / name)) == []
        assert shards(folder / name) == from_csv
    assert not list(folder.rglob("*.arrow"))


def test_rejected_records_say_which_record_of_which_function(folder):
    run(loaded(function(folder, "Items")), str(folder / "out"))

    found = compare.set_aside(folder / "out")

    filtered = [line for line in found if line["reason"] == "not_nine"]
    wanted = [i + 1 for i in range(51) if i % 3 == 2]  # Counted from 1.
    assert sorted(line["position"] for line in filtered) == wanted
    assert {line["source"] for line in found} == {"made_here:Items"}
    assert json.loads(filtered[0]["record"])["i"] == str(filtered[0]["position"] - 1)


def test_a_function_is_called_once_and_not_for_a_dataset_that_is_there(folder):
    here, out = loaded(function(folder, "records")), str(folder / "out")

    info = run(here, out)
    assert (folder / "calls").read_text() == "x"

    (folder / "count").write_text("5")
    assert run(here, out) == info
    assert (folder / "calls").read_text() == "x"

    again = run(here, out, overwrite=True)
    assert (folder / "calls").read_text() == "xx"
    assert again["read"] == 5
    assert again["input_fingerprint"] != info["input_fingerprint"]


def kept_after_a_kill(folder: Path, here: Spec, count: int) -> int:
    """How many of the six shards of a killed job stay, where it then finds so many records."""
    out = folder / "out"
    (out / ".progress").mkdir(parents=True)
    run_until_it_fails(here, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    assert len(before) == 6
    (folder / "count").write_text(str(count))
    info = run(here, str(out))
    assert info["read"] == count
    assert verify(str(out)) == []
    return sum(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize("count, kept", [(COUNT, 6), (COUNT - 1, 0)])
def test_a_killed_job_goes_on_if_the_function_makes_the_same(folder, count, kept):
    assert kept_after_a_kill(folder, loaded(function(folder, "records")), count) == kept
    assert (folder / "calls").read_text() == "xx"


@pytest.mark.parametrize(
    "name, message, status",
    [
        (
            "broken",
            "made_here:broken: raised RuntimeError: no more after 7 records. Nothing is "
            "published; mend it and run again.",
            1,
        ),
        (
            "one_of_another_shape",
            "made_here:one_of_another_shape: in item 3 of 32: x has records of shape (2,), but in "
            "item 0 single values: all must be alike.",
            1,
        ),
        ("not_callable", "source.function: 'made_here:not_callable' is not a function.", 2),
        (
            "absent",
            "source.function: cannot import 'made_here:absent': AttributeError: module "
            "'made_here' has no attribute 'absent'.",
            2,
        ),
    ],
)
def test_a_function_that_fails_is_one_line_and_publishes_nothing(folder, name, message, status):
    ran = headrace("run", function(folder, name), "--output", folder / "out", "--quiet")
    assert ran.stdout == f"headrace: {message}\n"
    assert ran.returncode == status
    assert not [path for path in folder.glob("out/*") if path.name != ".progress"]


def test_a_dataset_stays_where_the_function_fails_that_is_to_replace_it(folder):
    before = loaded(function(folder, "records"))
    check_it_stays(folder / "out", before, loaded(function(folder, "broken")))


def check_it_stays(out: Path, before: Spec, broken: Spec) -> None:
    """A dataset keeps its bytes where the job that is to replace it fails."""
    run(before, str(out))
    there = {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()}
    with pytest.raises(DataError, match="raised RuntimeError: no more"):
        run(broken, str(out), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()} == there
    assert verify(str(out)) == []


def test_a_column_that_nobody_makes(folder):
    path = function(folder, "records")
    path.write_text(
        path.read_text().replace("[features]\n", '[features]\nz = { dtype = "int64" }\n')
    )
    with pytest.raises(SpecError, match="'z'.*The columns are i, x, name, y"):
        run(loaded(path), str(folder / "out"))


def test_workers_that_share_no_disk_read_what_was_ingested(folder, from_csv):
    ran = headrace(
        *("run", function(folder, "records"), "--output", folder / "out"),
        *("--runner", "FnApiRunner", "--workers", "2"),
    )
    assert ran.returncode == 0, ran.stdout
    assert shards(folder / "out") == from_csv
    assert not (folder / "out" / ".progress").exists()


def test_a_dry_run_looks_at_the_first_records(folder):
    ran = headrace("run", function(folder, "records"), "--output", folder / "out", "--dry-run")
    assert ran.returncode == 0
    assert '"ScanFiles"' in ran.stdout
    assert not (folder / "out").exists()


def test_predictions_of_what_python_made_are_of_csv_files(folder):
    """The model is as good as untrained; its answers are about all rows, and their rules."""
    data, model = folder / "out", folder / "model"
    run(loaded(function(folder, "records")), str(data))
    trained = headrace("train", data, "--output", model, "--epochs", "1", "--quiet")
    assert trained.returncode == 0, trained.stdout
    (folder / "new.csv").write_text("name,x,i\na,0.5,3\nb,,4\nc,0.5,many\n")

    ran = headrace("predict", model, folder / "new.csv", "--probabilities", "--quiet")

    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [answer.get("reason") for answer in answers] == [None, None, "unparsable_i"]
    assert {*answers[0]["probabilities"]} == {"0", "1", "2"}
