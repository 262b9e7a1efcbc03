"""Texts all the way: a spec, a dataset, a model, and its predictions for raw texts."""

import collections
import csv
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import only_tensorflow, records
from oracle.command import headrace

WORDS = "the a movie film plot actor good great fine bad awful dull <br /> café it's 10/10".split()
SPEC = """
name = "reviews"
[source]
format = "csv"
paths = ["reviews.csv"]
[split]
fractions = { train = 0.8, validation = 0.1, test = 0.1 }
[features.number]
dtype = "int64"
[features.ids]
type = "text"
column = "review"
replace = [["<br />", " "]]
output_sequence_length = 12
[features.bag]
type = "text"
column = "review"
output_mode = "tf_idf"
ngrams = 2
max_tokens = 100
[features.title]
type = "text"
missing = ""
split = "character"
output_mode = "multi_hot"
[label]
column = "liked"
[output]
num_shards = 2
"""
WORDPIECE = """
[features.pieces]
type = "text"
column = "review"
tokenizer = "wordpiece"
vocabulary = "pieces.txt"
output_sequence_length = 12
"""


def rows(num_rows: int = 600) -> list[dict[str, str]]:
    rng = random.Random(1)
    found = []
    for number in range(num_rows):
        words = rng.choices(WORDS, k=rng.randint(3, 20))
        likes = sum((word in WORDS[6:9]) - (word in WORDS[9:12]) for word in words)
        title = " ".join(words[:2]) if number % 3 else ""
        review = " ".join(word.upper() if rng.random() < 0.2 else word for word in words)
        found.append({"number": number, "review": review, "title": title})
        found[-1]["liked"] = "yes" if likes > 0 else "no"
    return found


def _write(folder: Path, spec: str) -> None:
    with open(folder / "reviews.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["number", "review", "title", "liked"])
        table.writeheader()
        table.writerows(rows())
    (folder / "pieces.txt").write_text("\n".join(["[PAD]", "[UNK]", *WORDS[:6], "##s"]))
    (folder / "reviews.toml").write_text(spec)


def _done(*words) -> str:
    done = headrace(*words)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    _write(folder, SPEC)
    _done("run", folder / "reviews.toml", "--output", folder / "out")
    _done("train", folder / "out", "--output", folder / "model", "--epochs", 30)
    _done("export", folder / "model", "--output", folder / "saved")
    return folder


def test_the_network_learns_from_words(trained):
    _done("evaluate", trained / "model", trained / "out", "--output", trained / "evaluated")
    found = json.loads((trained / "evaluated" / "evaluation.json").read_text())
    assert found["test"]["accuracy"] > 0.85


def test_verify_finds_nothing_and_inspect_shows_lists(trained):
    assert "sound" in _done("verify", trained / "out")
    shown = _done("inspect", trained / "out", "-n", 2)
    assert shown.count("bag/indices") == shown.count("title/values") == 2
    assert "ids " in shown and "(of " in shown


def test_raw_texts_give_the_bits_that_stored_ones_give_with_tensorflow_alone(trained, tmp_path):
    info = json.loads((trained / "out" / "dataset_info.json").read_text())
    described = json.loads((trained / "saved/assets.extra/headrace.json").read_text())
    shards = sorted(str(path) for path in (trained / "out").glob("*.tfrecord"))
    numbers = [records.parsed(Path(shard), {"number": "int64"})["number"] for shard in shards]
    chosen = [rows()[number] for number in np.concatenate(numbers)]
    raw = {name: [row[name] for row in chosen] for name in ("number", "review", "title")}
    assert "" in raw["title"] and described["missing"] == {"title": ""}
    raw["title"] = [title or None for title in raw["title"]]
    (tmp_path / "raw").write_bytes(pickle.dumps(raw))
    job = {
        "saved_model": str(trained / "saved"),
        "raw": str(tmp_path / "raw"),
        "predictions": str(tmp_path / "predictions"),
        "shards": shards,
        "features": info["features"],
        "missing": described["missing"],
        "batch_size": 64,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-I", only_tensorflow.__file__, str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "records": 600,
        "stored": 600,
        "different": {"raw": 0, "examples": 0},
        "imported": [],
    }
    of_saved = pickle.loads((tmp_path / "predictions").read_bytes())
    lines = _done("predict", trained / "model", trained / "reviews.csv").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    classes = collections.Counter(answer["class"] for answer in answers)
    assert len(answers) == 600 and min(classes["yes"], classes["no"]) > 60
    by_number = dict(zip(np.concatenate(numbers), of_saved["score"], strict=True))
    scores = [by_number[number] for number in range(600)]
    np.testing.assert_allclose([answer["score"] for answer in answers], scores, atol=1e-5)


def test_a_model_of_word_pieces_says_what_it_needs(tmp_path):
    pytest.importorskip("tensorflow_text")
    _write(tmp_path, SPEC.replace("[label]", WORDPIECE + "[label]"))
    _done("run", tmp_path / "reviews.toml", "--output", tmp_path / "out")
    _done("train", tmp_path / "out", "--output", tmp_path / "model", "--epochs", 1)
    told = _done("export", tmp_path / "model", "--output", tmp_path / "saved")
    assert "needs: tensorflow-text" in told
    described = json.loads((tmp_path / "saved/assets.extra/headrace.json").read_text())
    assert described["packages"] == ["tensorflow-text"]
    (tmp_path / "pieces.txt").unlink()  # The model knows them.
    lines = _done("predict", tmp_path / "model", tmp_path / "reviews.csv").splitlines()
    scores = [json.loads(line)["score"] for line in lines if line.startswith("{")]
    raw = {name: [row[name] for row in rows()] for name in ("number", "review", "title")}
    program = (
        "import json, sys, tensorflow as tf, tensorflow_text\n"
        "raw = {name: tf.constant(values) for name, values in json.load(sys.stdin).items()}\n"
        "raw['number'] = tf.cast(raw['number'], tf.int64)\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "print(json.dumps(served(**raw)['score'].numpy().tolist()))\n"
    )
    command = [sys.executable, "-I", "-c", program, str(tmp_path / "saved")]
    done = subprocess.run(command, input=json.dumps(raw), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(scores) == 600
    np.testing.assert_allclose(found, scores, atol=1e-5)
