"""Crosses, lists and one-hot columns all the way: a spec, a dataset, a model, its predictions."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
from oracle import records, served
from oracle.command import done

NUM_ROWS = 500
SPEC = """
name = "shop"
[source]
format = "csv"
paths = ["shop.csv"]
[split]
fractions = { train = 0.8, validation = 0.1, test = 0.1 }
[features]
number = { dtype = "int64" }
color = { dtype = "string", missing = "token" }
bucket = { column = "x", dtype = "float32", transform = "bucketize", num_buckets = 4 }
both = { type = "cross", of = ["color", "bucket"], hash_buckets = 40 }
hot = { column = "x", dtype = "float32", transform = "bucketize", num_buckets = 4, \
output_mode = "one_hot" }
color_hot = { column = "color", dtype = "string", transform = "compute_and_apply_vocabulary", \
missing = "token", rank_by = "mutual_information", output_mode = "one_hot" }
tags = { type = "text", separator = "|", output_mode = "multi_hot" }
first = { type = "text", column = "tags", separator = "|", deduplicate = true, \
output_sequence_length = 3 }
[label]
column = "sold"
[output]
num_shards = 2
"""


def rows() -> list[dict]:
    rng = random.Random(2)
    found = []
    for number in range(NUM_ROWS):
        x, color = round(rng.uniform(100, 104), 3), rng.choice(["red", "blue", "green", ""])
        tags = "|".join(rng.choice(["new", "Old!", "", "für 2"]) for _ in range(rng.randint(1, 4)))
        is_sold = (x > 102) == (color in ("red", "")) or "new" in tags and rng.random() < 0.2
        found.append({"number": number, "x": x, "color": color, "tags": tags or "none"})
        found[-1]["sold"] = "yes" if is_sold else "no"
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    with open(folder / "shop.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["number", "x", "color", "tags", "sold"])
        table.writeheader()
        table.writerows(rows())
    (folder / "shop.toml").write_text(SPEC)
    done("run", folder / "shop.toml", "--output", folder / "out")
    done("train", folder / "out", "--output", folder / "model", "--epochs", 20)
    done("export", folder / "model", "--output", folder / "saved")
    return folder


def test_verify_and_inspect_know_them(trained):
    assert "sound" in done("verify", trained / "out")
    shown = done("inspect", trained / "out", "-n", 1)
    assert "(of 40)" in shown and "hot/indices" in shown and "tags/values" in shown


def test_the_network_embeds_a_cross_and_takes_one_hot_as_it_is(trained):
    import keras

    from trainer import dataset_info
    from trainer.networks import tables

    network = keras.models.load_model(trained / "model" / "model.keras")
    assert network.get_layer("both_embedding").input_dim == 40 + 1
    assert {name: tensor.shape for name, tensor in network.input.items()} == {
        "number": (None,),
        "bucket": (None,),
        "both": (None,),
        "hot": (None, 4),
        "color_hot": (None, 5),
        "tags": (None, 5),
        "first": (None, 3),
    }
    features = dataset_info.read(str(trained / "out")).features
    assert features["hot"].statistics["mean"] > 100
    assert tables.stored_scale(features["hot"]) == (0.0, 1.0)


def test_raw_rows_give_the_bits_that_stored_ones_give_with_tensorflow_alone(trained, tmp_path):
    described = json.loads((trained / "saved/assets.extra/headrace.json").read_text())
    assert described["missing"] == {"color": ""}
    shards, numbers = records.numbers(trained / "out")
    chosen = [rows()[number] for number in numbers]
    raw = {name: [row[name] for row in chosen] for name in ("number", "x", "color", "tags")}
    raw["color"] = [color or None for color in raw["color"]]
    assert len(chosen) == NUM_ROWS
    of_saved = served.by_tensorflow_alone(trained / "saved", trained / "out", shards, raw, tmp_path)
    lines = done("predict", trained / "model", trained / "shop.csv").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(answers) == NUM_ROWS
    right = [answer["class"] == row["sold"] for answer, row in zip(answers, rows(), strict=True)]
    assert np.mean(right) > 0.8  # What is sold, only the cross tells.
    by_number = dict(zip(numbers, of_saved["score"], strict=True))
    scores = [by_number[number] for number in range(NUM_ROWS)]
    np.testing.assert_allclose([answer["score"] for answer in answers], scores, atol=1e-5)
