"""What a program does with headrace: `Spec`, and the PTransforms in a pipeline of its own."""

import csv
import datetime
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to
from oracle import compare, records
from oracle.command import LIMIT_SECONDS, ROOT, headrace
from PIL import Image

import headrace as package
from headrace import DataError, Spec, SpecError
from headrace.beam import ApplyTransform, ReadRecords

PAGE = ROOT / "docs/python.md"
SAID = {
    "name": "people",
    "source": {"format": "csv", "paths": ["people.csv"], "null_values": ["", "?"]},
    "split": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}},
    "filter": [{"name": "adult", "where": "age >= 18"}],
    "features": {
        "age": {"dtype": "float32", "transform": "scale_to_z_score"},
        "pay": {"dtype": "float32", "missing": "mean", "indicator": True},
        "hours": {"dtype": "int64", "transform": "bucketize", "num_buckets": 3},
        "job": {"dtype": "string", "transform": "compute_and_apply_vocabulary"},
        "words": {
            "type": "text",
            "column": "about",
            "output_sequence_length": 4,
            "missing": "",
        },
    },
    "label": {"column": "income"},
    "output": {"num_shards": 2},
}
TOML = """\
name = "people"
[source]
format = "csv"
paths = ["people.csv"]
null_values = ["", "?"]
[split]
fractions = { train = 0.6, validation = 0.2, test = 0.2 }
[[filter]]
name = "adult"
where = "age >= 18"
[features]
age = { dtype = "float32", transform = "scale_to_z_score" }
pay = { dtype = "float32", missing = "mean", indicator = true }
hours = { dtype = "int64", transform = "bucketize", num_buckets = 3 }
job = { dtype = "string", transform = "compute_and_apply_vocabulary" }
words = { type = "text", column = "about", output_sequence_length = 4, missing = "" }
[label]
column = "income"
[output]
num_shards = 2
"""
COLUMNS = ("age", "pay", "hours", "job", "about", "income")


def _rows() -> list[list[str]]:
    rng = np.random.default_rng(4)
    return [
        [
            str(rng.integers(10, 70)) if i % 31 else "old",
            f"{rng.uniform(0, 9):.2f}" if i % 5 else "?",
            str(rng.integers(1, 60)),
            ["cook", "nurse", "clerk"][i % 3],
            " ".join(rng.choice(["a", "good", "bad", "day"], i % 6)),
            "yn"[i % 2],
        ]
        for i in range(300)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a table, and the dataset of the command."""
    folder = tmp_path_factory.mktemp("python")
    with open(folder / "people.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *_rows()])
    (folder / "people.toml").write_text(TOML)
    done = headrace("run", folder / "people.toml", "--output", folder / "out", "--quiet")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def here(home, monkeypatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(home)
    return home


def _manifest(folder: Path) -> dict:
    return json.loads((folder / "dataset_info.json").read_text())


def test_the_page_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    (tmp_path / "page.py").write_text("\n".join(blocks))
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "people: 2,000 records read\n" in done.stdout
    assert "Spec: source.path: unknown key; did you mean 'paths'?\n" in done.stdout
    with open(tmp_path / "people.csv") as file:
        num_young = sum(int(row["age"]) < 18 for row in csv.DictReader(file))
    written = {
        name: "".join(path.read_text() for path in sorted(tmp_path.glob(f"{name}-*")))
        for name in ("reasons", "rows", "messages")
    }
    assert written["reasons"] == f"('adult', {num_young})\n"
    assert sum(map(int, written["rows"].split())) == 2000 - num_young
    assert re.fullmatch(r"a [012] 0\.20\n", written["messages"])


def test_a_spec_of_keywords_writes_the_bytes_of_the_file(here):
    said = {**SAID, "source": {**SAID["source"], "paths": (Path("people.csv"),)}}
    dataset = Spec(**said).run(here / "keywords", workers=2)
    assert dataset.info == _manifest(here / "keywords")
    wanted = compare.bytes_of_shards(here / "out", _manifest(here / "out"))
    assert compare.bytes_of_shards(here / "keywords", dict(dataset.info)) == wanted
    assert dataset.info["spec_digest"] == _manifest(here / "out")["spec_digest"]
    assert repr(dataset).startswith("people: 300 records read\n  written ")
    features, label = next(iter(dataset.load("train", 8, seed=3)))
    assert features["age"].shape == label.shape == (8,)


def test_a_file_is_the_same_spec(here):
    spec = Spec.from_toml(here / "people.toml")
    assert spec.run("out").info == _manifest(here / "out")  # It is there: nothing is done.
    assert repr(spec).startswith("Spec(name='people', source={'format': 'csv'")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"features": {}}, "Spec: features: must not be empty; name at least one."),
        ({"nam": 1}, "Spec: nam: unknown key; did you mean 'name'?"),
        (
            {"features": {"a": {"dtype": "float64"}}},
            "Spec: features.a.dtype: must be 'float32', 'int64' or 'string', but is 'float64'.",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(changes, message):
    with pytest.raises(SpecError) as told:
        Spec(**{**SAID, **changes})
    assert str(told.value) == message


def test_what_the_data_lack_is_told_in_one_line(here, caplog):
    features = {**SAID["features"], "size": {"dtype": "float32"}}
    with pytest.raises(SpecError, match="^features.size: there is no column 'size'.*income.$"):
        Spec(**{**SAID, "features": features}).run("never")
    none = {**SAID, "filter": [{"name": "nobody", "where": "age > 1000"}]}
    with pytest.raises(DataError, match=r"^no record is left in train: 300 were read.*split.$"):
        Spec(**none).run("none")
    with pytest.raises(SpecError, match="^people: split.fractions: needs a train split"):
        Spec(**{**SAID, "split": {"fractions": {"test": 1}}}).run("never")
    assert not caplog.records
    assert not Path("never").exists()


def test_names_are_imported_when_they_are_asked_for():
    code = (
        "import sys, headrace\n"
        "assert not {'beam_jobs', 'pydantic', 'trainer'} & set(sys.modules)\n"
        "from headrace import Spec, Dataset, SpecError, DataError\n"
        "assert not {'tensorflow', 'apache_beam'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="has no attribute 'Spek'"):
        _ = package.Spek


def _examples(folder: Path) -> list[dict]:
    """The records of a dataset, as lists of values by feature."""
    found = []
    for split, entry in _manifest(folder)["splits"].items():
        for shard in entry["shards"]:
            for record in records.frames(records.stream(folder / shard["file"])):
                example = tf.train.Example.FromString(record).features.feature
                values = {}
                for name, feature in example.items():
                    kind = feature.WhichOneof("kind")
                    values[name] = tuple(getattr(feature, kind).value)
                found.append({**values, "split": split})
    return found


def _sorted(rows: list[dict]) -> list[list]:
    return sorted(sorted(row.items()) for row in rows)


def _collected(wanted):
    def check(actual):
        rows = [row for batch in actual for row in batch.to_pylist()]
        classes = ["n", "y"]
        given = [
            {
                name: tuple(value) if isinstance(value, list) else (value,)
                for name, value in {**row, "label": classes.index(row["label"])}.items()
            }
            for row in rows
        ]
        for row in given:
            (row["split"],) = row["split"]
        assert _sorted(given) == _sorted(wanted)

    return check


def test_a_pipeline_of_ones_own_gives_the_stored_records(here):
    wanted = _examples(here / "out")
    assert len(wanted) > 200

    def same_reasons(found):
        lines = compare.set_aside(here / "out")
        key = str
        assert sorted(found, key=key) == sorted(lines, key=key)
        assert {line["reason"] for line in found} == {"adult", "unparsable_age"}

    with beam.Pipeline() as pipeline:
        read = pipeline | ReadRecords(Spec(**SAID), block_mb=0.002)
        stored = read.kept | ApplyTransform("out")
        assert_that(stored, _collected(wanted))
        assert_that(read.rejected, same_reasons, label="Rejected")


def test_dicts_give_the_stored_values(here):
    def of(text: str) -> float | None:
        return None if text == "?" else float(text)

    rows = [
        {
            "age": int(age),
            "pay": of(pay),
            "hours": int(hours),
            "job": job,
            "about": about or None,
            "id": i,
        }
        for i, (age, pay, hours, job, about, _) in enumerate(_rows())
        if age != "old" and int(age) >= 18
    ]
    rows[0]["pay"] = float("nan")
    del rows[1]["about"]
    stored = _examples(here / "out")
    names = ("age", "pay", "pay_missing", "hours", "job", "words")

    def check(found):
        assert sorted(row["id"] for row in found) == [row["id"] for row in rows]
        given = {row["id"]: row for row in found}
        for row in rows[2:]:
            values = given[row["id"]]
            lists = {n: values[n] if n == "words" else [values[n]] for n in names}
            assert any(all(tuple(lists[n]) == e[n] for n in names) for e in stored)
        assert given[rows[0]["id"]]["pay_missing"] == 1
        assert given[rows[1]["id"]]["words"] == [0, 0, 0, 0]

    with beam.Pipeline() as pipeline:
        assert_that(pipeline | beam.Create(rows) | ApplyTransform(Path("out")), check)


SOUND = {"age": 20, "pay": 1.5, "hours": 3, "job": "cook", "about": "a"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"age": None}, "column 'age' is missing in a record; the spec rejects such"),
        ({"age": "20"}, "column 'age' must be float32: it is string"),
        ({"hours": 3.5}, "column 'hours' must be int64: "),
        ({"job": 7}, "column 'job' must be string: it is int64"),
    ],
)
def test_what_cannot_be_transformed_ends_the_pipeline(changes, message, here):
    with pytest.raises(DataError, match=f"ApplyTransform: {message}"):
        with beam.Pipeline() as pipeline:
            _ = pipeline | beam.Create([{**SOUND, **changes}]) | ApplyTransform("out")


def test_a_step_that_cannot_work_is_refused_where_it_is_made(here):
    with pytest.raises(SpecError, match="nowhere: is no dataset"):
        ApplyTransform("nowhere")
    images = Spec(
        name="i",
        source={"format": "images", "paths": ["x"]},
        split={"directory": True},
        features={"image": {"size": [4, 4]}},
    )
    with pytest.raises(SpecError, match="ReadRecords: reads files .*, but no images"):
        ReadRecords(images)
    split = {**SAID["features"], "s": {"column": "split", "dtype": "string"}}
    Path("split.csv").write_text(",".join([*COLUMNS, "split"]) + "\n")
    source = {"format": "csv", "paths": ["split.csv"]}
    with pytest.raises(SpecError, match="adds a column 'split', but a feature has one"):
        _ = beam.Pipeline() | ReadRecords(Spec(**{**SAID, "features": split, "source": source}))


@pytest.mark.parametrize(
    "options",
    [
        {"size": [5, 4], "store": "float32", "featurewise_center": True},
        {"size": [5, 4], "store": "bfloat16", "featurewise_center": True, "statistics": "pixel"},
        {"size": [5, 4], "data_format": "channels_first"},
        {"store": "png"},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_images_give_the_stored_values(options, tmp_path):
    files = {}
    for number in range(12):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (6 + number % 2, 7, 3), np.uint8)
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG", exif=exif)
        path.write_bytes(data.getvalue())
        files[number] = data.getvalue()
    spec = Spec(
        name="images",
        source={"format": "images", "paths": [tmp_path / "images"]},
        split={"fractions": {"train": 1}},
        features={"image": options},
    )
    spec.run(tmp_path / "out")
    stored = sorted(bytes(row["image"][0]) for row in _examples(tmp_path / "out"))
    assert len(set(stored)) == 12

    def check(found):
        values = [row["image"] for row in found]
        given = [v if isinstance(v, bytes) else v.tobytes() for v in values]
        assert sorted(given) == stored
        assert sorted(row["id"] for row in found) == sorted(files)

    rows = [{"image": data, "id": number} for number, data in files.items()]
    with beam.Pipeline() as pipeline:
        assert_that(pipeline | beam.Create(rows) | ApplyTransform(tmp_path / "out"), check)
    with pytest.raises(DataError, match="ApplyTransform: features.image: "):
        with beam.Pipeline() as pipeline:
            broken = beam.Create([{"image": files[0][:70]}])
            _ = pipeline | broken | ApplyTransform(tmp_path / "out")


def test_batches_of_arrow_are_told_by_their_type(here):
    batch = pa.RecordBatch.from_pylist([SOUND, {**SOUND, "pay": None}])

    def check(found):
        (made,) = found
        assert isinstance(made, pa.RecordBatch) and made.num_rows == 2
        assert made.column("pay_missing").to_pylist() == [0, 1]

    with beam.Pipeline() as pipeline:
        batches = pipeline | beam.Create([batch]).with_output_types(pa.RecordBatch)
        assert_that(batches | ApplyTransform("out"), check)


def test_a_batch_without_records_gives_none(here):
    batch = pa.RecordBatch.from_pylist([SOUND, SOUND])
    with beam.Pipeline() as pipeline:
        batches = [batch.slice(0, 0), batch, batch.slice(2)]
        given = pipeline | beam.Create(batches).with_output_types(pa.RecordBatch)
        found = given | ApplyTransform("out") | beam.Map(len)
        assert_that(found, equal_to([batch.num_rows]))


def test_a_number_that_a_job_rejects_is_no_bucket(tmp_path):
    """The logarithm of -1 is NaN, of which a bucket says nothing."""
    (tmp_path / "rows.csv").write_text("x\n" + "".join(f"{x}\n" for x in (*range(1, 40), -1)))
    log = {"dtype": "float32", "transform": ["log", "bucketize"], "num_buckets": 3}
    made = Spec(
        name="rows",
        source={"format": "csv", "paths": [tmp_path / "rows.csv"]},
        split={"fractions": {"train": 1}},
        features={"x": log},
        output={"max_rejected": 0.1},
    ).run(tmp_path / "out")
    assert made.info["rejected"] == {"non_finite_x": 1}
    for said in ([{"x": -1.0}], [{"x": 0.0}]):
        with pytest.raises(DataError, match="ApplyTransform: features.x: log and bucketize cannot"):
            with beam.Pipeline() as pipeline:
                _ = pipeline | beam.Create(said) | ApplyTransform(tmp_path / "out")


def test_lists_dates_crosses_and_expressions(tmp_path):
    features = {
        "size": {"type": "vector", "columns": ["a", "b"], "dtype": "float32"},
        "list": {"type": "vector", "separator": " ", "size": 3, "dtype": "int64"},
        "seen": {"type": "date", "parts": ["year", "dayofyear"], "cycles": ["day"]},
        "sum": {"expression": "a + b", "dtype": "float32", "transform": "scale_to_z_score"},
        "word": {"dtype": "string"},
        "both": {"type": "cross", "of": ["word", "kind"], "hash_buckets": 9},
        "kind": {"dtype": "int64"},
    }
    rows = [
        {
            "id": i,
            "a": i / 4,
            "b": 7.5 - i,
            "list": [i, 2 * i, 3],
            "seen": datetime.datetime(2020 + i % 3, 1, 1 + i, 5 * i % 24),
            "sum": i / 4 + 7.5 - i,
            "word": "xyz"[i % 3],
            "kind": i % 4,
        }
        for i in range(20)
    ]
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0]])
        table.writeheader()
        for row in rows:
            said = {"list": " ".join(map(str, row["list"])), "sum": ""}
            table.writerow(row | said)
    Spec(
        name="rows",
        source={"format": "csv", "paths": [tmp_path / "rows.csv"]},
        split={"fractions": {"train": 1}},
        features=features | {"id": {"dtype": "int64"}},
    ).run(tmp_path / "out")
    stored = {row["id"][0]: row for row in _examples(tmp_path / "out")}
    assert len(stored) == 20 and len(stored[3]) > 8

    def check(found):
        for row in found:
            wanted = stored[row["id"]]
            assert row.keys() == wanted.keys() - {"split"}
            for name, value in row.items():
                value = value.encode() if isinstance(value, str) else value
                assert tuple(value if isinstance(value, list) else [value]) == wanted[name], name

    with beam.Pipeline() as pipeline:
        assert_that(pipeline | beam.Create(rows) | ApplyTransform(tmp_path / "out"), check)
    with pytest.raises(DataError, match="column 'list' must be int64: it has 2 of 3 numbers"):
        with beam.Pipeline() as pipeline:
            short = beam.Create([rows[0] | {"list": [1, 2]}])
            _ = pipeline | short | ApplyTransform(tmp_path / "out")
