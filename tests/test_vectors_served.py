"""Vectors all the way: a spec, a dataset, a model, and its predictions for raw rows."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from oracle.command import done

from trainer.input_pipeline import Options, load

NUM_ROWS, SIZE = 600, 6
SPEC = """
name = "signals"
[source]
format = "csv"
paths = ["signals.csv"]
[split]
fractions = { train = 0.8, test = 0.2 }
[features.number]
dtype = "int64"
[features.place]
type = "vector"
columns = ["x", "y"]
[features.signal]
type = "vector"
size = 6
missing = -1
transform = "scale_to_0_1"
[features.principal]
type = "vector"
column = "signal"
size = 6
missing = -1
transform = ["scale_to_z_score", "pca"]
output_dim = 2
[features.events]
type = "vector"
separator = " "
missing = "empty"
[features.pair]
type = "vector"
dtype = "int64"
size = 2
[features.tags]
type = "sparse"
size = 9
missing = ""
[label]
column = "kind"
"""


def rows() -> list[dict]:
    rng = np.random.default_rng(2)
    found = []
    for number in range(NUM_ROWS):
        is_up = bool(rng.integers(2))
        wave = 3 * np.sin(np.arange(SIZE) * (3 if is_up else 1))
        signal = (rng.normal(size=SIZE) + wave).astype(np.float32)
        found.append(
            {
                "number": number,
                "x": np.float32(rng.normal()),
                "y": np.float32(rng.normal(100, 9)),
                "signal": None if number % 9 == 4 else signal,
                "events": rng.exponential(size=number % 4).astype(np.float32),
                "pair": rng.integers(-9, 9, 2),
                "tags": " ".join(f"{tag}:{tag / 3}" for tag in rng.permutation(9)[: number % 5]),
                "kind": "up" if is_up else "down",
            }
        )
    return found


def _cells(row: dict) -> list:
    signal = "" if row["signal"] is None else ",".join(map(str, row["signal"]))
    events, pair = " ".join(map(str, row["events"])), ",".join(map(str, row["pair"]))
    cells = [row["number"], row["x"], row["y"], signal, events, pair]
    return [*cells, row["tags"], row["kind"]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    with open(folder / "signals.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(rows()[0])
        table.writerows(map(_cells, rows()))
    (folder / "signals.toml").write_text(SPEC)
    done("run", folder / "signals.toml", "--output", folder / "out")
    done("train", folder / "out", "--output", folder / "model", "--epochs", 20)
    done("export", folder / "model", "--output", folder / "saved")
    return folder


def test_the_network_learns_from_vectors(trained):
    done("evaluate", trained / "model", trained / "out", "--output", trained / "evaluated")
    found = json.loads((trained / "evaluated" / "evaluation.json").read_text())
    assert found["test"]["accuracy"] > 0.85


def test_verify_finds_nothing_and_inspect_shows_lists(trained):
    assert "sound" in done("verify", trained / "out")
    lines = done("inspect", trained / "out", "-n", 4).splitlines()
    shown = [line.split(maxsplit=1)[1] for line in lines if line.split()[0] == "principal"]
    assert len(shown) == 4 and all(text.count(",") == 1 and text[0] == "[" for text in shown)


_PLAIN = ("number", "x", "y", "pair", "tags")


def _raw(chosen: list[dict]) -> dict[str, np.ndarray]:
    events = np.full((len(chosen), 3), np.nan, np.float32)
    for row, given in enumerate(chosen):
        events[row, : len(given["events"])] = given["events"]
    nothing = np.full(SIZE, np.nan, np.float32)
    signals = [nothing if row["signal"] is None else row["signal"] for row in chosen]
    raw = {name: np.array([row[name] for row in chosen]) for name in _PLAIN}
    return raw | {"signal": np.stack(signals), "events": events}


def _example(row: dict) -> bytes:
    example = tf.train.Example()
    feature = example.features.feature
    for name in ("number", "pair"):
        feature[name].int64_list.value.extend(np.atleast_1d(row[name]))
    for name in ("x", "y", "events"):
        feature[name].float_list.value.extend(np.atleast_1d(row[name]))
    if row["tags"]:
        feature["tags"].bytes_list.value.append(row["tags"].encode())
    if row["signal"] is not None:
        feature["signal"].float_list.value.extend(row["signal"])
    return example.SerializeToString()


def test_raw_vectors_give_the_bits_that_stored_ones_give(trained):
    described = json.loads((trained / "saved/assets.extra/headrace.json").read_text())
    assert described["missing"] == {"signal": "NaN", "events": "NaN", "tags": ""}
    signatures = tf.saved_model.load(str(trained / "saved")).signatures
    shapes = {
        name: spec.shape.as_list()
        for name, spec in signatures["serving_default"].structured_input_signature[1].items()
    }
    assert shapes["signal"] == [None, None] and shapes["pair"] == [None, 2]
    assert shapes["events"] == [None, None] and shapes["x"] == [None]
    given, by_number = rows(), {}
    for batch, _ in load(trained / "out", "train", 32, Options(training=False)):
        chosen = [given[number] for number in batch["number"].numpy()]
        assert batch["events"].shape == (len(chosen), 3)
        wanted = signatures["stored_features"](**batch)["score"].numpy()
        of_raw = signatures["serving_default"](**_raw(chosen))["score"].numpy()
        examples = tf.constant([_example(row) for row in chosen])
        of_examples = signatures["serialized_examples"](examples=examples)["score"].numpy()
        assert of_raw.tobytes() == of_examples.tobytes() == wanted.tobytes()
        by_number |= zip((row["number"] for row in chosen), wanted.tolist(), strict=True)
    assert len(by_number) > 400
    lines = done("predict", trained / "model", trained / "signals.csv").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(answers) == NUM_ROWS
    for number, score in by_number.items():
        assert answers[number]["score"] == pytest.approx(score, abs=1e-5)


def test_lists_of_any_length_are_padded_or_cut_to_the_longest_of_the_dataset(trained):
    served = tf.saved_model.load(str(trained / "saved")).signatures["serving_default"]

    def score(raw: dict, events: np.ndarray) -> float:
        return served(**raw | {"events": events.astype(np.float32)})["score"].numpy().item()

    one, three = (_raw([row]) for row in rows()[1:4:2])
    (short,), (longest,) = one["events"], three["events"]
    assert not np.isnan(longest).any() and np.isnan(short).tolist() == [False, True, True]
    assert score(one, short[None, :1]) == score(one, short[None])
    assert 0 < score(three, np.append(longest, [9.0, 9.0])[None]) < 1


def test_a_row_that_does_not_fit_is_answered_with_the_reason(trained, tmp_path):
    with open(tmp_path / "new.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["number", "x", "y", "signal", "events", "pair", "tags"])
        table.writerow([1, 2, 3, "1,2,3,4,5,6", "1 2 3 4 5", "1,2", "8:1"])
        table.writerow([2, 2, 3, "1,2,3,4,5", "", "1,2", ""])
        table.writerow([3, 2, 3, "", "", "1,2.5", ""])
        table.writerow([4, "", 3, "", "", "1,2", ""])
        table.writerow([5, 2, 3, "", "", "1,2", "9:1"])
    lines = done("predict", trained / "model", tmp_path / "new.csv").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert [answer.get("reason") for answer in answers] == [
        None,
        "wrong_size_signal",
        "unparsable_pair",
        "missing_x",
        "wrong_index_tags",
    ]
