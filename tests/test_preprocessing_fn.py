"""A preprocessing_fn of the user's: TFT's own results, stored, served and trained on."""

import csv
import importlib
import json
import math
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from oracle import compare, records
from oracle.command import headrace
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

MODULE = """
import tensorflow as tf
import tensorflow_transform as tft

def steps(inputs):
    age = inputs["age"]
    return {
        "number": inputs["number"],
        "age": tft.scale_to_z_score(age),
        "root": tf.sqrt(tf.cast(age, tf.float64)),
        "bucket": tft.bucketize(age, 4),
        "town": tft.compute_and_apply_vocabulary(inputs["town"], num_oov_buckets=1),
        "is_old": age > 50.0,
        "pair": tf.stack([age, tf.cast(inputs["number"], tf.float32)], 1),
        "name": tf.strings.lower(inputs["town"]),
    }

def raises(inputs):
    raise ValueError("two\\nlines")

def nothing(inputs):
    return None

def sparse(inputs):
    return {"words": tf.sparse.from_dense(tf.expand_dims(inputs["age"], 1))}

def unknown(inputs):
    return {"words": tf.strings.split(inputs["town"]).to_tensor()}

@tf.function
def noisy(age):
    return age + tf.random.truncated_normal(tf.shape(age))

def by_chance(inputs):
    return {"age": noisy(inputs["age"])}

def by_numpy(inputs):
    age = tft.apply_pyfunc(lambda x: x, tf.float32, False, "same", inputs["age"])
    return {"age": tf.ensure_shape(age, [None])}

def label(inputs):
    return {"label": inputs["age"]}

def z_score(inputs):
    return {"age": tft.scale_to_z_score(inputs["age"])}

def ends(inputs):
    town = tft.compute_and_apply_vocabulary(inputs["town"])
    return {"age": tft.scale_to_0_1(inputs["age"]), "town": town}

def twice(inputs):
    age = inputs["age"]
    return {"a": (age - tft.mean(age)) / (tft.max(age) - tft.min(age)), "b": tft.bucketize(age, 3)}

def ranks(inputs):
    return {"rank": inputs["town"] + 1, "number": inputs["number"]}

def weight(inputs):
    return {"weight": inputs["age"]}

def complex_(inputs):
    return {"age": tf.complex(inputs["age"], inputs["age"])}

def fixed(inputs):
    return {"age": tf.constant([1.0, 2.0])}

def no_text(inputs):
    return {"town": b"\\xff" + inputs["town"]}

def log(inputs):
    return {"log": tf.math.log(inputs["age"] - 40.0)}
"""
SPEC = """
name = "people"
preprocessing_fn = "people_steps:steps"
[source]
format = "csv"
paths = ["people.csv"]
[split]
fractions = { train = 0.8, test = 0.2 }
key = "number"
[features.number]
dtype = "int64"
[features.age]
dtype = "float32"
missing = "mean"
[features.town]
dtype = "string"
missing = "token"
[label]
expression = "number % 3 = 0"
[output]
num_shards = 2
"""
TOWNS = ["Oslo", "Bergen", "Bodø", ""]
DTYPES = {
    **dict.fromkeys(("number", "bucket", "town", "is_old", "label"), "int64"),
    **{"age": "float32", "root": "float32", "name": "string"},
}


def _rows() -> list[dict[str, str]]:
    rng = random.Random(2)
    return [
        {
            "number": str(number),
            "age": rng.choice(["", *[f"{rng.uniform(18, 90):.2f}"] * 4, "41.5"]),
            "town": rng.choice(TOWNS),
        }
        for number in range(400)
    ]


def _write(folder: Path, spec: str = SPEC) -> Path:
    with open(folder / "people.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["number", "age", "town"])
        table.writeheader()
        table.writerows(_rows())
    (folder / "people_steps.py").write_text(MODULE)
    (folder / "people.toml").write_text(spec)
    return folder / "people.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    done = headrace("run", _write(folder), "--output", folder / "data")
    assert done.returncode == 0, done.stdout
    return folder


def _stored(folder: Path) -> dict[int, dict]:
    manifest = json.loads((folder / "dataset_info.json").read_text())
    found = {}
    for split, entry in manifest["splits"].items():
        for shard in entry["shards"]:
            for record in records.frames(records.stream(folder / shard["file"])):
                parsed = tf.io.parse_single_example(record, _features())
                values = {name: value.numpy() for name, value in parsed.items()}
                found[int(values["number"])] = {**values, "split": split}
    return found


def _features() -> dict:
    scalars = {name: tf.io.FixedLenFeature([], dtype) for name, dtype in DTYPES.items()}
    return {**scalars, "pair": tf.io.FixedLenFeature([2], "float32")}


def _by_tft(train: list[dict]) -> list[dict]:
    """Returns what TFT gives for the filled records, through its own API."""
    function = importlib.import_module("people_steps").steps
    spec = {
        "number": tf.io.FixedLenFeature([], tf.int64),
        "age": tf.io.FixedLenFeature([], tf.float32),
        "town": tf.io.FixedLenFeature([], tf.string),
    }
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))

    def steps(inputs):
        kinds = {tf.float64: tf.float32, tf.bool: tf.int64}  # TFT takes neither.
        outputs = function(inputs).items()
        return {name: tf.cast(t, kinds.get(t.dtype, t.dtype)) for name, t in outputs}

    with tempfile.TemporaryDirectory() as temp, tft_beam.Context(temp_dir=temp):
        (found, _), _ = (train, metadata) | tft_beam.AnalyzeAndTransformDataset(steps)
    return found


def test_the_records_hold_what_tft_gives(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    stored = _stored(folder / "data")
    assert len(stored) == 400
    rows = {int(row["number"]): row for row in _rows()}
    train = [number for number, values in stored.items() if values["split"] == "train"]
    there = [float(np.float32(rows[n]["age"])) for n in train if rows[n]["age"]]
    assert 100 < len(there) < len(train) < 400
    mean = np.float32(math.fsum(there) / len(there))
    filled = [
        {
            "number": number,
            "age": np.float32(rows[number]["age"] or mean),
            "town": (rows[number]["town"] or "[MISSING]").encode(),
        }
        for number in train
    ]
    expected = {int(record["number"]): record for record in _by_tft(filled)}
    assert len({record["bucket"] for record in expected.values()}) == 4
    for number, record in expected.items():
        values = stored[number]
        for name in ("bucket", "town", "is_old", "name"):
            assert values[name] == record[name]
        for name in ("age", "root", "pair"):
            np.testing.assert_allclose(values[name], record[name], rtol=2e-6, atol=2e-6)


def test_the_manifest_says_what_is_stored(folder):
    info = json.loads((folder / "data" / "dataset_info.json").read_text())
    found = {name: (e["dtype"], e["shape"]) for name, e in info["features"].items()}
    stored = {name: (dtype, []) for name, dtype in DTYPES.items() if name != "label"}
    assert found == {**stored, "pair": ("float32", [2])}
    assert info["features"]["bucket"]["num_categories"] == 4
    assert info["features"]["town"]["num_categories"] == len(TOWNS) + 1
    assert "num_categories" not in info["features"]["is_old"]
    done = headrace("verify", folder / "data")
    assert done.returncode == 0, done.stdout


def test_later_records_pass_behind_a_vocabulary_of_the_spec(tmp_path):
    """What train never saw is counted of the spec's own features, which are not stored here."""
    text = SPEC.replace('"string"', '"string"\ntransform = "compute_and_apply_vocabulary"')
    spec = _write(tmp_path, text.replace(":steps", ":ranks"))
    before = ["--transform-from", tmp_path / "data"]
    for words in (["data"], ["later", *before]):
        done = headrace("run", spec, "--output", tmp_path / words[0], *words[1:])
        assert done.returncode == 0, done.stdout
    first, later = (tmp_path / name / "dataset_info.json" for name in ("data", "later"))
    first, later = json.loads(first.read_text()), json.loads(later.read_text())
    assert later["read"] == 400 and later["features"] == first["features"]
    there = compare.bytes_of_shards(tmp_path / "data", first)
    assert compare.bytes_of_shards(tmp_path / "later", later) == there


def _sparse(values: list, dtype: tf.DType) -> tf.SparseTensor:
    indices = np.zeros((len(values), 2), np.int64)
    return tf.SparseTensor(indices, tf.constant(values, dtype), (1, 1))


def test_transform_fn_serves_what_is_stored_row_by_row(folder):
    transform = tf.saved_model.load(str(folder / "data" / "transform_fn")).transform_fn
    stored = _stored(folder / "data")
    for row in _rows()[:60]:
        inputs = {
            "number": tf.constant([int(row["number"])], tf.int64),
            "age": _sparse([float(row["age"])] if row["age"] else [], tf.float32),
            "town": _sparse([row["town"]] if row["town"] else [], tf.string),
        }
        outputs = transform(inputs)
        values = stored[int(row["number"])]
        for name in outputs:
            np.testing.assert_array_equal(outputs[name].numpy()[0], values[name])


def test_a_model_learns_from_it_and_predicts_raw_rows(folder):
    words = ("--output", folder / "model", "--steps", 3, "--batch-size", 16)
    done = headrace("train", folder / "data", *words)
    assert done.returncode == 0, done.stdout
    done = headrace("predict", folder / "model", folder / "people.csv")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\n") >= 400


def test_a_cluster_writes_the_same_records(folder, tmp_path):
    words = ("--output", tmp_path / "data", "--runner", "FnApiRunner", "--block-mb", "0.002")
    done = headrace("run", folder / "people.toml", *words)
    assert done.returncode == 0, done.stdout
    one, other = _stored(folder / "data"), _stored(tmp_path / "data")
    assert set(one) == set(other)
    for number, values in one.items():
        for name, value in values.items():
            if name != "age":  # TFT's own sums depend on how the table is cut.
                np.testing.assert_array_equal(value, other[number][name])
        np.testing.assert_allclose(values["age"], other[number]["age"], rtol=2e-6, atol=2e-6)


_PLAIN = SPEC.replace('missing = "mean"\n', "").replace('missing = "token"\n', "")
_COMPUTED = """[features.age]
expression = "TRY_CAST(age AS DOUBLE)"
"""


@pytest.mark.parametrize("called", ["z_score", "ends", "twice"])
@pytest.mark.parametrize("features", ["filled", "plain", "computed"])
def test_any_analyzers_find_their_statistics(tmp_path, called, features):
    computed = SPEC.replace("[features.age]\n", _COMPUTED)
    spec = {"filled": SPEC, "plain": _PLAIN, "computed": computed}[features]
    path = _write(tmp_path, spec.replace("people_steps:steps", f"people_steps:{called}"))
    done = headrace("run", path, "--output", tmp_path / "data")
    assert done.returncode == 0, done.stdout
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    assert info["splits"]["train"]["num_examples"] > 100
    assert ("missing_age" in info["rejected"]) == (features == "plain")


@pytest.mark.parametrize(
    ("called", "status", "message"),
    [
        ("no_steps:steps", 2, "preprocessing_fn: cannot import 'no_steps:steps': ModuleNotFound"),
        ("people_steps:raises", 2, "preprocessing_fn: ValueError: two lines."),
        ("people_steps:nothing", 2, "must return a dict of tensors, but returned None."),
        ("people_steps:sparse", 2, "'words' must be dense, (batch_size,) or (batch_size, n)"),
        ("people_steps:unknown", 2, "but is a tensor of shape (None, None). Use tf.sparse.to_de"),
        (
            "people_steps:by_chance",
            2,
            "the same values wherever it runs, but uses TruncatedNormal.",
        ),
        ("people_steps:by_numpy", 2, "the same values wherever it runs, but uses PyFuncStateless."),
        ("people_steps:label", 2, "may not be called 'label': a label or the weight is stored un"),
        ("people_steps:weight", 2, "may not be called 'weight': a label or the weight is stored u"),
        (
            "people_steps:complex_",
            2,
            "'age' must be of a dtype that float32, int64 or string holds",
        ),
        (
            "people_steps:fixed",
            2,
            "'age' must be dense, (batch_size,) or (batch_size, n) with a kn",
        ),
        (
            "people_steps:no_text",
            1,
            "features.town: a text that preprocessing_fn returns is not UT",
        ),
        ("people_steps:log", 1, "features.log: a value becomes NaN or infinite as float32 after "),
    ],
)
def test_a_mistake_is_one_line(tmp_path, called, status, message):
    text = SPEC + '[weight]\nexpression = "1 + number % 2"\n'
    spec = _write(tmp_path, text.replace("people_steps:steps", called))
    done = headrace("run", spec, "--output", tmp_path / "data")
    assert (done.returncode, done.stdout.count("\n")) == (status, 1), done.stdout
    assert message in done.stdout
