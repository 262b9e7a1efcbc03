"""Texts all the way: a spec, a dataset, a model, and its predictions for raw texts."""

import collections
import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import records, served
from oracle.command import done

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    _write(folder, SPEC)
    done("run", folder / "reviews.toml", "--output", folder / "out")
    done("train", folder / "out", "--output", folder / "model", "--epochs", 30)
    done("export", folder / "model", "--output", folder / "saved")
    return folder


def test_the_network_learns_from_words(trained):
    done("evaluate", trained / "model", trained / "out", "--output", trained / "evaluated")
    found = json.loads((trained / "evaluated" / "evaluation.json").read_text())
    assert found["test"]["accuracy"] > 0.85


def test_verify_finds_nothing_and_inspect_shows_lists(trained):
    assert "sound" in done("verify", trained / "out")
    shown = done("inspect", trained / "out", "-n", 2)
    assert shown.count("bag/indices") == shown.count("title/values") == 2
    assert "ids " in shown and "(of " in shown


def test_raw_texts_give_the_bits_that_stored_ones_give_with_tensorflow_alone(trained, tmp_path):
    described = json.loads((trained / "saved/assets.extra/headrace.json").read_text())
    shards, numbers = records.numbers(trained / "out")
    chosen = [rows()[number] for number in numbers]
    raw = {name: [row[name] for row in chosen] for name in ("number", "review", "title")}
    assert len(chosen) == 600
    assert "" in raw["title"] and described["missing"] == {"title": ""}
    raw["title"] = [title or None for title in raw["title"]]
    of_saved = served.by_tensorflow_alone(trained / "saved", trained / "out", shards, raw, tmp_path)
    lines = done("predict", trained / "model", trained / "reviews.csv").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    classes = collections.Counter(answer["class"] for answer in answers)
    assert len(answers) == 600 and min(classes["yes"], classes["no"]) > 60
    by_number = dict(zip(numbers, of_saved["score"], strict=True))
    scores = [by_number[number] for number in range(600)]
    np.testing.assert_allclose([answer["score"] for answer in answers], scores, atol=1e-5)


def test_a_model_of_word_pieces_says_what_it_needs(tmp_path):
    pytest.importorskip("tensorflow_text")
    _write(tmp_path, SPEC.replace("[label]", WORDPIECE + "[label]"))
    done("run", tmp_path / "reviews.toml", "--output", tmp_path / "out")
    done("train", tmp_path / "out", "--output", tmp_path / "model", "--epochs", 1)
    told = done("export", tmp_path / "model", "--output", tmp_path / "saved")
    assert "needs: tensorflow-text" in told
    described = json.loads((tmp_path / "saved/assets.extra/headrace.json").read_text())
    assert described["packages"] == ["tensorflow-text"]
    (tmp_path / "pieces.txt").unlink()  # The model knows them.
    lines = done("predict", tmp_path / "model", tmp_path / "reviews.csv").splitlines()
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
    ended = subprocess.run(command, input=json.dumps(raw), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found) == len(scores) == 600
    np.testing.assert_allclose(found, scores, atol=1e-5)
