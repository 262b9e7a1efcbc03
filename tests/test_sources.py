"""Sources of every format, by the command: one table gives the same bytes from each of them."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from oracle import cases, compare, records
from oracle.command import headrace

from beam_jobs.config import load_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run

SPEC = """\
name = "table"

[source]
format = "{format}"
paths = ["data/*"]
columns = ["age", "score", "name", "kind"]
header = {header}

[split]
fractions = {{ train = 0.7, test = 0.3 }}

[[filter]]
name = "adult"
where = "age >= 18"

[features]
age = {{ dtype = "int64", transform = "scale_to_z_score", missing = 30 }}
score = {{ dtype = "float32", transform = "bucketize", num_buckets = 7 }}
name = {{ dtype = "string", transform = "compute_and_apply_vocabulary", missing = "token" }}

[label]
column = "kind"

[output]
num_shards = 3
"""
FORMATS = ["parquet", "arrow", "jsonl", "avro", "tfrecord", "webdataset"]


@pytest.fixture(scope="module")
def rows() -> list[tuple]:
    rng = np.random.default_rng(1)
    names = ["Zoë", "two\nlines", 'a "quoted", word', "[MISSING]", *map(str, range(40)), None]
    drawn = zip(
        rng.integers(10, 90, 4000).tolist(),
        (rng.integers(-7999, 8000, 4000) / 8).tolist(),  # As text the same in float32 and float64.
        rng.choice(np.array(names, object), 4000),
        rng.choice(["yes", "no"], 4000).tolist(),
        strict=True,
    )
    found = [row if rng.random() > 0.02 else (row[0], None, *row[2:]) for row in drawn]
    return [*found, *found[:500]]


def _text(value) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _csv(path: Path, rows) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[_text(value) for value in row] for row in rows])
    path.write_text(text.getvalue(), newline="")


def _table(rows) -> pa.Table:
    age, score, name, kind = map(list, zip(*rows, strict=True))
    return pa.table({"kind": kind, "score": score, "age": pa.array(age, pa.int8()), "name": name})


def _parquet(path: Path, rows) -> None:
    pq.write_table(_table(rows), path, row_group_size=700)


def _arrow(path: Path, rows) -> None:
    table = _table(rows)
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, 700)


def _jsonl(path: Path, rows) -> None:
    with gzip.open(f"{path}.gz", "wt", encoding="utf-8") as file:
        for number, values in enumerate(rows):
            record = dict(zip(("age", "score", "name", "kind"), values, strict=True))
            if record["score"] is not None and record["score"].is_integer():
                record["score"] = int(record["score"])  # As text 12, which 12.0 is not.
            if number % 2:  # In another order, and what is missing is not there.
                record = {k: v for k, v in sorted(record.items()) if v is not None}
            print(json.dumps(record, ensure_ascii=bool(number % 3)), file=file)


def _avro(path: Path, rows) -> None:
    kinds = {"kind": "string", "score": ["null", "float"], "age": "int", "name": ["string", "null"]}
    schema = {
        "type": "record",
        "name": "row",
        "fields": [{"name": name, "type": kind} for name, kind in kinds.items()],
    }
    records = (dict(zip(("age", "score", "name", "kind"), row, strict=True)) for row in rows)
    with open(path, "wb") as file:
        fastavro.writer(file, schema, records, "deflate", sync_interval=3000)


def _tfrecord(path: Path, rows) -> None:
    with tf.io.TFRecordWriter(f"{path}.gz", tf.io.TFRecordOptions("GZIP")) as file:
        for age, score, name, kind in rows:
            example = tf.train.Example()
            features = example.features.feature
            features["age"].int64_list.value.append(age)
            features["kind"].bytes_list.value.append(kind.encode())
            if score is not None:
                features["score"].float_list.value.append(score)
            if name is not None:
                features["name"].bytes_list.value.append(name.encode())
            file.write(example.SerializeToString())


def _webdataset(path: Path, rows) -> None:
    with tarfile.open(path, "w") as archive:
        for number, row in enumerate(rows):
            for column, value in zip(("age", "score", "name", "kind"), row, strict=True):
                if value is not None:
                    info = tarfile.TarInfo(f"{number}.{column}")
                    data = _text(value).encode()
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def _run(folder: Path, kind: str, parts: dict[str, list], *words: str) -> Path:
    (folder / "data").mkdir(parents=True)
    for name, rows in parts.items():
        globals()[f"_{kind}"](folder / "data" / name, rows)
    text = SPEC.format(
        format={"arrow": "parquet"}.get(kind, kind), header="false" if kind == "csv" else "true"
    )
    (folder / "spec.toml").write_text(text)
    done = headrace("run", folder / "spec.toml", "--output", folder / "out", *words)
    assert done.returncode == 0, done.stdout
    return folder / "out"


@pytest.fixture(scope="module")
def of_csv(tmp_path_factory, rows) -> Path:
    return _run(tmp_path_factory.mktemp("csv"), "csv", {"all.csv": rows}, "--workers", "1")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_gives_the_same_bytes_from_any_format(tmp_path, of_csv, rows, kind):
    parts = {"b": rows[:900], "a": rows[900:2500], "c": rows[2500:]}  # In another order, too.
    cluster = cases.CLUSTER if kind == "parquet" else []
    found = _run(tmp_path, kind, parts, "--block-mb", "0.01", "--workers", "3", *cluster)
    manifests = [json.loads((out / "dataset_info.json").read_text()) for out in (of_csv, found)]
    one, other = (
        compare.bytes_of_shards(out, manifest)
        for out, manifest in zip((of_csv, found), manifests, strict=True)
    )
    assert one == other
    names = ("read", "rejected", "features", "label", "splits")
    assert [manifests[0][name] for name in names] == [manifests[1][name] for name in names]
    assert manifests[0]["read"] == 4500
    rejected = {reason for reason, count in manifests[0]["rejected"].items() if count}
    assert rejected == {"adult", "missing_score"}


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 7])


def _of_other_columns(path: Path) -> None:
    pq.write_table(pa.table({"age": [1], "score": [1.0], "kind": ["yes"]}), path)


@pytest.mark.parametrize(
    "kind, name, damage, message",
    [
        ("parquet", "b", _cut, r"b: cannot be read: .*\. Mend or remove the file\."),
        ("parquet", "b", _of_other_columns, r"b: there is no column 'name'. Correct source\.co"),
        (
            "tfrecord",
            "b.gz",
            _cut,
            r"b\.gz: record \d+ at uncompressed byte \d+: the gzip",
        ),
        ("webdataset", "b", _cut, r"b: cannot be read: .*\. Mend or remove the file\."),
        ("avro", "b", _cut, r"b: cannot be read: the file ends within block 0\. Mend or remove"),
        ("jsonl", "b.gz", _cut, r"b\.gz: cannot be read: .*\. Mend or remove the file\."),
    ],
)
def test_a_file_that_cannot_be_read_ends_the_job_with_its_name(
    tmp_path, rows, kind, name, damage, message
):
    (tmp_path / "data").mkdir()
    for part in ("a", "b"):
        globals()[f"_{kind}"](tmp_path / "data" / part, rows[:50])
    damage(tmp_path / "data" / name)
    (tmp_path / "spec.toml").write_text(SPEC.format(format=kind, header="true"))
    with pytest.raises(DataError, match=f"{tmp_path}/data/{message}"):
        run(load_spec(str(tmp_path / "spec.toml")), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "dataset_info.json").exists()


@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_files_of_other_columns_end_the_job_with_both_sets(tmp_path, rows, kind):
    (tmp_path / "data").mkdir()
    globals()[f"_{kind}"](tmp_path / "data" / "a", rows[:50])
    if kind == "parquet":
        _of_other_columns(tmp_path / "data" / "b")
    else:
        fields = [{"name": name, "type": "int"} for name in ("age", "kind", "score")]
        with open(tmp_path / "data" / "b", "wb") as file:
            fastavro.writer(file, {"type": "record", "name": "b", "fields": fields}, [])
    spec = SPEC.format(format=kind, header="true").replace("columns =", "#")
    (tmp_path / "spec.toml").write_text(spec)
    done = headrace("run", tmp_path / "spec.toml", "--output", tmp_path / "out")
    assert (done.returncode, done.stdout.strip().splitlines()[-1]) == (
        1,
        f"headrace: {tmp_path}/data/b: the columns are ['age', 'kind', 'score'], but those of "
        f"{tmp_path}/data/a are ['age', 'kind', 'name', 'score']. Give files with one set of "
        "columns.",
    )


def test_broken_lines_of_json_are_set_aside_or_end_the_job(tmp_path, rows):
    (tmp_path / "data").mkdir()
    wrong = {3: '{"age": 1', 50: "[1]", 51: '{"age": 20, "age": 21}', 200: '{"age": "\\u0000"}'}
    lines = [json.dumps(dict(zip(("age", "score", "name", "kind"), r, strict=True))) for r in rows]
    for place, line in wrong.items():
        lines[place - 1] = line
    (tmp_path / "data" / "a").write_text("\n".join(lines))
    (tmp_path / "spec.toml").write_text(SPEC.format(format="jsonl", header="true"))
    words = ["run", tmp_path / "spec.toml", "--output", tmp_path / "out", "--block-mb", "0.01"]
    done = headrace(*words)
    assert done.returncode == 0, done.stdout
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    rejected = (json.loads(line) for f in (tmp_path / "out/rejected").iterdir() for line in open(f))
    found = {r["position"]: r for r in rejected if r["reason"] in ("broken_json", "nul_byte")}
    assert {place: (r["record"], r["source"]) for place, r in found.items()} == {
        place: (line, str(tmp_path / "data" / "a")) for place, line in wrong.items()
    }
    assert [r["reason"] for _, r in sorted(found.items())] == ["broken_json"] * 3 + ["nul_byte"]
    assert (info["rejected"]["broken_json"], info["rejected"]["nul_byte"]) == (3, 1)
    written = sum(split["num_examples"] for split in info["splits"].values())
    assert info["read"] == len(rows) == written + sum(info["rejected"].values())
    (tmp_path / "data" / "a").write_text("\n".join([*lines, *["{"] * 50]))
    done = headrace(*words, "--overwrite")
    assert done.returncode == 1
    assert "54 of 4,550 records cannot be read, more than [output] max_rejected = 0.01" in (
        done.stdout
    )
    assert "broken_json        53" in done.stdout


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "avro", "tfrecord", "webdataset"])
def test_a_name_that_is_in_no_record_is_a_mistake(tmp_path, rows, kind):
    (tmp_path / "data").mkdir()
    globals()[f"_{kind}"](tmp_path / "data" / "a", rows[:50])
    spec = SPEC.format(format=kind, header="true").replace("[features]", "[features]\n@ = @")
    spec = spec.replace("@ = @", 'wrong = { dtype = "int64" }').replace("columns =", "#")
    (tmp_path / "spec.toml").write_text(spec)
    with pytest.raises(SpecError, match=r"features\.wrong: there is no column 'wrong'. The col"):
        run(load_spec(str(tmp_path / "spec.toml")), str(tmp_path / "out"))


def test_a_model_predicts_for_files_of_the_format_it_was_made_from(tmp_path, rows):
    made = _run(tmp_path, "parquet", {"all": rows})
    done = headrace("train", made, "--output", tmp_path / "model", "--epochs", "1")
    assert done.returncode == 0, done.stdout
    table = _table(rows[:300])
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=70)
    pq.write_table(table.drop_columns(["kind"]), tmp_path / "no_label.parquet")
    files = [tmp_path / "groups.parquet", tmp_path / "no_label.parquet"]
    done = headrace(
        "predict", tmp_path / "model", *files, "--output", tmp_path / "answers.jsonl", "--quiet"
    )
    assert done.returncode == 0, done.stdout
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").open()]
    first, second = ([a for a in answers if a["source"] == str(file)] for file in files)
    assert [answer["line"] for answer in first] == list(range(1, 301))
    missing = [answer["line"] for answer in first if answer.get("reason") == "missing_score"]
    assert missing == [i for i, row in enumerate(rows[:300], 1) if row[1] is None] != []
    assert len({answer["score"] for answer in first if "score" in answer}) > 50
    assert [(a["line"], a.get("class"), a.get("reason")) for a in first] == [
        (a["line"], a.get("class"), a.get("reason")) for a in second
    ]


TEXT = """\
name = "texts"

[source]
format = "text"
records = "files"
paths = {{ train = ["data/train"], test = ["data/test"] }}

[split]
carve = {{ validation = 0.2, of = "train" }}

[[filter]]
name = "supervised"
where = "path NOT LIKE 'unsup/%' AND label <> 'unsup'"

[features.text]
dtype = "string"

[label]
{label}

[output]
num_shards = 2
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Files as aclImdb has them, `train/pos/12_8.txt`: the number behind the bar is a rating."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        for label in ("neg", "pos", "unsup"):
            (folder / "data" / split / label).mkdir(parents=True)
            for number in range(600):  # More than are listed together.
                text = " ".join(rng.choice(["good", "bad", "<br />", "é\n"], 40))
                name = f"{number}_{rng.integers(1, 11)}.txt"
                (folder / "data" / split / label / name).write_text(text)
    (folder / "data" / "train" / "neg" / "1000_1.txt").write_bytes(b"caf\xe9")
    (folder / "data" / "train" / "urls.csv").write_text("http")
    return folder


@pytest.mark.parametrize(
    "label, value_of, words",
    [
        ('from = "directory"', lambda path: ["neg", "pos"].index(path.parent.name), ()),
        (
            "pattern = '_(?P<label>\\d+)\\.txt$'\ntype = \"int64\"",
            lambda path: int(path.stem.split("_")[1]),
            ("--block-mb", "0.001", "--workers", "1", *cases.CLUSTER),
        ),
    ],
)
def test_files_of_texts_with_a_label_in_their_path(tmp_path, texts, label, value_of, words):
    spec = texts / f"{label[:4]}.toml"
    spec.write_text(TEXT.format(label=label))
    done = headrace("run", spec, "--output", tmp_path, *words)
    assert done.returncode == 0, done.stdout
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["read"] == 3602
    assert {r: n for r, n in info["rejected"].items() if n} == {
        "bad_encoding": 1,
        "null_in_supervised": 1,  # It lies in no folder, and its name ends otherwise.
        "supervised": 1200,
    }
    kinds = {"text": "string", "label": "int64"}
    for splits in (("train", "validation"), ("test",)):
        files = [file for split in splits for file in sorted(tmp_path.glob(f"{split}-*"))]
        stored = [records.parsed(file, kinds) for file in files]
        found = [
            (text.decode(), int(value))
            for shard in stored
            for text, value in zip(shard["text"], shard["label"], strict=True)
        ]
        paths = [
            path
            for name in ("neg", "pos")
            for path in (texts / "data" / splits[0] / name).iterdir()
            if path.name != "1000_1.txt"
        ]
        assert sorted(found) == sorted((path.read_text(), value_of(path)) for path in paths)
    lines = [line for file in (tmp_path / "rejected").iterdir() for line in open(file)]
    (bad,) = (line for line in map(json.loads, lines) if line["reason"] == "bad_encoding")
    assert bad["source"] == str(texts / "data/train/neg/1000_1.txt")
    assert bad["record"] == r"caf\xe9"
