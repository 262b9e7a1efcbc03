import csv
import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from oracle import records, served
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from beam_jobs import stateless
from beam_jobs.config import parse_spec
from beam_jobs.run import run

NUM_TRAIN, NUM_ROWS = 90, 120
TOKENS = ["", " ", "a\nb", "a\r\nb", "NULL", "\u00a0", '"', "[MISSING]", "é"]
NOW = 1_700_000_000_000_000  # Microseconds since 1970.
LOW, HIGH = -(2**62), 2**62 + 2**61 + 1  # A range that does not fit into int64.
SPEC = {
    "name": "made",
    "source": {"format": "csv", "paths": ["made.csv"], "null_values": ["NA"]},
    "split": {"column": "fold", "values": {"train": ["train"], "test": ["test"]}},
    "features": {
        "id": {"dtype": "int64"},
        "z": {"column": "x", "dtype": "float32", "transform": "scale_to_z_score"},
        "unit": {"column": "x", "dtype": "float32", "transform": "scale_to_0_1"},
        "centered": {"column": "x", "dtype": "float32", "transform": "center"},
        "bucket": {"column": "x", "dtype": "float32", "transform": "bucketize", "num_buckets": 5},
        "log": {"column": "size", "dtype": "float32", "transform": ["log1p", "scale_to_z_score"]},
        "constant": {"dtype": "float32", "transform": "scale_to_0_1"},
        "time": {"dtype": "int64", "transform": "scale_to_0_1"},
        "wide": {"dtype": "int64", "transform": "scale_to_0_1"},
        "ns_z": {"column": "ns", "dtype": "int64", "transform": "scale_to_z_score"},
        "ns_centered": {"column": "ns", "dtype": "int64", "transform": "center"},
        "tiny": {"dtype": "float32"},
        "tiny_z": {"column": "tiny", "dtype": "float32", "transform": "scale_to_z_score"},
        "token": {"dtype": "string", "transform": "compute_and_apply_vocabulary"},
        "hashed": {
            "column": "token",
            "dtype": "string",
            "transform": "hash_strings",
            "hash_buckets": 64,
        },
        "holes": {
            "dtype": "float32",
            "transform": "scale_to_z_score",
            "missing": "median",
            "indicator": True,
        },
    },
}
INT64 = ("id", "bucket", "token", "hashed", "holes_missing")
OUTPUTS = {
    name: "int64" if name in INT64 else "float32" for name in (*SPEC["features"], "holes_missing")
}
INPUTS = ("id", "x", "size", "constant", "time", "wide", "ns", "tiny", "token", "holes")


def table() -> list[dict]:
    """Raw rows, as Python values that float32 holds exactly; the last ones are test."""
    rng = np.random.default_rng(0)
    x = rng.normal(50, 20, NUM_ROWS).astype(np.float32)
    x[NUM_TRAIN:] *= 3  # Beyond what train saw.
    size = (10.0 ** rng.uniform(0, 12, NUM_ROWS)).astype(np.float32)
    holes = rng.normal(size=NUM_ROWS).astype(np.float32)
    # Token k stands k + 1 times more often than the one before: no ties.
    tokens = [TOKENS[k] for k in range(len(TOKENS)) for _ in range(2 * k + 2)]
    assert len(tokens) == NUM_TRAIN
    tokens += ["new", "a b"] * (NUM_ROWS - NUM_TRAIN)
    wide = rng.integers(LOW, HIGH, NUM_ROWS)
    wide[:2] = [LOW, HIGH]
    return [
        {
            "id": row,
            "x": float(x[row]),
            "size": float(size[row]),
            "constant": 7.5 if row < NUM_TRAIN else 8.0,
            "time": NOW + 61 * row * row,
            "wide": int(wide[row]),
            "ns": NOW * 1000 + 7 * row,
            "tiny": float(np.float32(1e-39) * np.float32(row - 5)),
            "token": tokens[row],
            "holes": None if row % 4 == 1 else float(holes[row]),
            "fold": "train" if row < NUM_TRAIN else "test",
        }
        for row in range(NUM_ROWS)
    ]


@dataclasses.dataclass(frozen=True)
class Made:
    rows: list[dict]
    stored: dict[str, np.ndarray]  # All records, in the order of their ids.
    folder: Path
    loaded: object

    def serve(self, chosen: list[dict]) -> dict[str, np.ndarray]:
        """What transform_fn makes of these rows in one batch."""
        found = self.loaded.transform_fn({name: feed(name, chosen) for name in INPUTS})
        return {name: found[name].numpy() for name in OUTPUTS}


def feed(name, chosen):
    values = [row[name] for row in chosen]
    if name == "holes":
        return served.column(values, tf.float32)
    if name == "token":
        return tf.constant(values)
    return tf.constant(
        values, tf.float32 if name in ("x", "size", "constant", "tiny") else tf.int64
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    rows = table()
    with open(folder / "made.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow("NA" if value is None else value for value in row.values())
    spec = parse_spec(SPEC, str(folder / "made.toml"))
    info = run(spec, str(folder / "out"), num_threads=2, block_mb=0.002)
    assert info["read"] == NUM_ROWS
    assert {k: v["num_examples"] for k, v in info["splits"].items()} == {
        "train": NUM_TRAIN,
        "test": NUM_ROWS - NUM_TRAIN,
    }
    stored = records.by_id(folder / "out", OUTPUTS)
    assert stored["id"].tolist() == list(range(NUM_ROWS))
    loaded = tf.saved_model.load(str(folder / "out" / "transform_fn"))
    return Made(rows, stored, folder / "out", loaded)


def column(rows, name, dtype=np.float64) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype)


def test_transform_fn_gives_the_stored_bits_row_by_row_and_at_once(made):
    together = made.serve(made.rows)
    for name in OUTPUTS:
        assert together[name].tobytes() == made.stored[name].tobytes(), name
    for row in range(0, NUM_ROWS, 3):
        alone = made.serve([made.rows[row]])
        for name in OUTPUTS:
            assert alone[name].dtype == made.stored[name].dtype
            assert alone[name].tobytes() == made.stored[name][row].tobytes(), (row, name)


def test_numbers_against_numpy(made):
    x = column(made.rows, "x")
    train = x[:NUM_TRAIN]
    mean, std = float(np.mean(train)), float(np.std(train))
    for name, expected in {
        "z": (x - mean) / std,
        "unit": (x - train.min()) / (train.max() - train.min()),
        "centered": x - mean,
    }.items():
        np.testing.assert_allclose(made.stored[name], expected, rtol=2e-7, atol=1e-6)
    logs = np.log1p(column(made.rows, "size"))
    expected = (logs - logs[:NUM_TRAIN].mean()) / logs[:NUM_TRAIN].std()
    np.testing.assert_allclose(made.stored["log"], expected, rtol=2e-7, atol=1e-6)


def test_missing_values_are_the_median_of_train(made):
    holes = column(made.rows, "holes")
    there = holes[:NUM_TRAIN][~np.isnan(holes[:NUM_TRAIN])]
    assert 0 < there.size < NUM_TRAIN
    filled = np.where(np.isnan(holes), np.median(there), holes)
    expected = (filled - filled[:NUM_TRAIN].mean()) / filled[:NUM_TRAIN].std()
    np.testing.assert_allclose(made.stored["holes"], expected, rtol=2e-7, atol=1e-6)
    assert made.stored["holes_missing"].tolist() == np.isnan(holes).astype(int).tolist()


def test_a_constant_column_scales_to_0_and_unseen_values_too(made):
    assert {row["constant"] for row in made.rows} == {7.5, 8.0}
    assert made.stored["constant"].tolist() == [0.0] * NUM_ROWS


def test_unseen_values_are_not_clipped(made):
    x = column(made.rows, "x")[:NUM_TRAIN]
    low, high = x.min(), x.max()
    unseen = np.array([low - 100, high + 100], np.float32)
    chosen = [made.rows[0] | {"x": float(value)} for value in unseen]
    found = made.serve(chosen)["unit"]
    expected = ((unseen.astype(np.float64) - low) / (high - low)).astype(np.float32)
    assert expected[0] < 0 and expected[1] > 1
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["time", "wide"])
def test_large_ints_are_subtracted_exactly(made, name):
    values = [row[name] for row in made.rows]
    low, high = min(values[:NUM_TRAIN]), max(values[:NUM_TRAIN])
    assert np.float32(low) == np.float32(low + 61) and (name == "time" or high - low >= 2**63)
    expected = np.array([float(v - low) / float(high - low) for v in values], np.float32)
    assert made.stored[name].tobytes() == expected.tobytes()
    exact = [float(Fraction(v - low, high - low)) for v in values]
    np.testing.assert_allclose(made.stored[name], exact, rtol=1e-7)


def test_ints_below_all_of_train_are_exact_too(made):
    values = [row["wide"] for row in made.rows][:NUM_TRAIN]
    low, high = min(values), max(values)
    unseen = [-(2**63), 2**63 - 1]
    found = made.serve([made.rows[0] | {"wide": value} for value in unseen])["wide"]
    expected = np.array([float(v - low) / float(high - low) for v in unseen], np.float32)
    assert found.tolist() == expected.tolist()


def test_ints_that_float64_does_not_hold_have_exact_z_scores(made):
    values = [row["ns"] for row in made.rows]
    assert len(set(map(float, values))) < NUM_ROWS
    train = values[:NUM_TRAIN]
    mean = Fraction(sum(train), NUM_TRAIN)
    std = math.sqrt(sum((v - mean) ** 2 for v in train) / NUM_TRAIN)
    expected = [float(v - mean) for v in values]
    np.testing.assert_allclose(made.stored["ns_centered"], expected, rtol=1e-7)
    np.testing.assert_allclose(made.stored["ns_z"], np.array(expected) / std, rtol=2e-7)
    assert len(set(made.stored["ns_z"].tolist())) == NUM_ROWS


def test_numbers_below_the_normal_ones_are_0_as_tensorflow_has_them(made):
    tiny = np.array([row["tiny"] for row in made.rows], np.float32)
    lowest = np.finfo(np.float32).tiny
    is_lost = (np.abs(tiny) < lowest) & (tiny != 0)
    assert 10 < is_lost.sum() < NUM_ROWS // 2
    seen = np.where(is_lost, 0, tiny).astype(np.float64)
    assert made.stored["tiny"].tolist() == seen.tolist()
    train = seen[:NUM_TRAIN]
    expected = (seen - train.mean()) / train.std()
    np.testing.assert_allclose(made.stored["tiny_z"], expected, rtol=2e-7, atol=1e-6)
    info = json.loads((made.folder / "dataset_info.json").read_text())
    found = info["features"]["tiny_z"]["raw_statistics"]
    assert (found["min"], found["max"]) == (train.min(), train.max())
    assert found["mean"] == math.fsum(train) / NUM_TRAIN


def test_tokens_that_look_like_nothing_or_hold_newlines(made):
    by_count = TOKENS[::-1]
    expected = [
        by_count.index(row["token"]) if row["token"] in TOKENS else len(TOKENS) for row in made.rows
    ]
    assert set(expected) == set(range(len(TOKENS) + 1))
    assert made.stored["token"].tolist() == expected


def test_log1p_knows_no_batch_position():
    rng = np.random.default_rng(1)
    values = np.concatenate([10.0 ** rng.uniform(-12, 12, 1000), -rng.random(21), [0.0, -0.0]])
    assert values.size % 8  # A rest behind the SIMD packets.
    together = stateless.apply_numpy(values, [("log1p",)])
    alone = np.concatenate(
        [stateless.apply_numpy(values[i : i + 1], [("log1p",)]) for i in range(values.size)]
    )
    assert together.tobytes() == alone.tobytes()
    for start in (1, 3, 7):
        assert (
            stateless.apply_numpy(values[start:], [("log1p",)]).tobytes()
            == together[start:].tobytes()
        )
    expected = np.log1p(values)
    assert (np.abs(together - expected) <= 2 * np.spacing(np.abs(expected))).all()
    assert math.copysign(1, together[-1]) == -1


@pytest.mark.feature("tft", "bucketize", 'transform = "bucketize"')
def test_agrees_with_tfts_own_transforms(made, tmp_path):
    def preprocess(inputs):
        x = inputs["x"]
        return {
            "z": tft.scale_to_z_score(x),
            "unit": tft.scale_to_0_1(x),
            "centered": x - tft.mean(x),
            "log": tft.scale_to_z_score(tf.math.log1p(inputs["size"])),
            "bucket": tft.bucketize(x, 5),
            "token": tft.compute_and_apply_vocabulary(inputs["word"], num_oov_buckets=1),
            "hashed": tft.hash_strings(inputs["token"], 64),
        }

    features = {name: tf.io.FixedLenFeature([], tf.float32) for name in ("x", "size")}
    features |= {name: tf.io.FixedLenFeature([], tf.string) for name in ("word", "token")}
    schema = schema_utils.schema_from_feature_spec(features)
    # TFT's vocabulary leaves out empty tokens and those with newlines: words stand in for them.
    words = {token: f"w{place}" for place, token in enumerate(TOKENS)}
    train = [
        {"x": r["x"], "size": r["size"], "token": r["token"].encode(), "word": words[r["token"]]}
        for r in made.rows[:NUM_TRAIN]
    ]
    with tft_beam.Context(temp_dir=str(tmp_path)):
        (found, _), _ = (
            train,
            dataset_metadata.DatasetMetadata(schema),
        ) | tft_beam.AnalyzeAndTransformDataset(preprocess)
    theirs = {name: np.array([row[name] for row in found]) for name in found[0]}
    assert len(found) == NUM_TRAIN
    ours = {name: made.stored[name][:NUM_TRAIN] for name in theirs}
    order, our_order = (np.lexsort([c["hashed"], c["token"], c["z"]]) for c in (theirs, ours))
    for name in ("z", "unit", "centered", "log"):
        np.testing.assert_allclose(
            ours[name][our_order], theirs[name][order], rtol=2e-5, atol=2e-5, err_msg=name
        )
    # TFT's edge i stands behind the value that is ours: only that one value goes elsewhere.
    x = column(made.rows, "x")[:NUM_TRAIN][our_order]
    is_edge = np.isin(np.arange(NUM_TRAIN), np.arange(1, 5) * NUM_TRAIN // 5 - 1)
    difference = ours["bucket"][our_order] - theirs["bucket"][order]
    assert difference[np.argsort(x)].tolist() == is_edge.astype(int).tolist()
    for name in ("token", "hashed"):
        assert ours[name][our_order].tolist() == theirs[name][order].tolist(), name
