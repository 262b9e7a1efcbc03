"""Columns of a table beside Keras' preprocessing layers, adapted to the same train split."""

import keras
import numpy as np
import pytest
from oracle.command import headrace

NUM_ROWS = 600
COLORS = ["red", "green", "blue", "grey", "pink"]  # Of which the first are the more frequent.

SPEC = """\
name = "layers"

[source]
format = "csv"
paths = ["rows.csv"]

[split]
column = "fold"
values = { train = ["a", "b"], test = ["c"] }

[features]
row    = { dtype = "int64" }
x      = { dtype = "float32", transform = "scale_to_z_score" }
bucket = { column = "x", dtype = "float32", transform = "bucketize", num_buckets = 5 }
color  = { dtype = "string", transform = "compute_and_apply_vocabulary" }
"""


@pytest.fixture(scope="module")
def table():
    """Raw columns by name."""
    random = np.random.default_rng(0)
    colors = [
        c for times, c in zip((90, 70, 50, 30, 10), COLORS, strict=True) for _ in range(times)
    ]
    fold = random.choice(["a", "b", "c"], NUM_ROWS)
    color = random.choice(colors, NUM_ROWS).astype("<U8")
    color[np.flatnonzero(fold == "c")[:3]] = "unknown"
    return {"x": random.normal(5, 3, NUM_ROWS).astype(np.float32), "color": color, "fold": fold}


@pytest.fixture(scope="module")
def dataset(table, tmp_path_factory):
    """The dataset folder, and the stored columns in the order of the rows."""
    from trainer.input_pipeline import Options, load

    folder = tmp_path_factory.mktemp("layers")
    rows = zip(
        range(NUM_ROWS), *(table[name].tolist() for name in ("x", "color", "fold")), strict=True
    )
    text = "".join(f"{row},{x!r},{color},{fold}\n" for row, x, color, fold in rows)
    (folder / "rows.csv").write_text("row,x,color,fold\n" + text)
    (folder / "spec.toml").write_text(SPEC)
    done = headrace("run", folder / "spec.toml", "--output", folder / "out", "--quiet")
    assert done.returncode == 0, done.stdout
    parts = [
        batch
        for split in ("train", "test")
        for batch in load(folder / "out", split, NUM_ROWS, Options(training=False))
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["row"])
    assert columns["row"][order].tolist() == list(range(NUM_ROWS))
    return folder / "out", {name: column[order] for name, column in columns.items()}


@pytest.mark.feature("keras.layers", "Normalization", '`transform = "scale_to_z_score"`')
def test_z_scores_are_those_of_normalization(table, dataset):
    layer = keras.layers.Normalization(axis=None)
    layer.adapt(table["x"][table["fold"] != "c"])
    np.testing.assert_allclose(dataset[1]["x"], layer(table["x"]), rtol=1e-5, atol=1e-5)


@pytest.mark.feature("keras.layers", "Discretization", '`transform = "bucketize"`')
def test_buckets_are_those_of_discretization(table, dataset):
    train = table["x"][table["fold"] != "c"]
    edges = np.quantile(train, [0.2, 0.4, 0.6, 0.8], method="inverted_cdf")
    layer = keras.layers.Discretization(bin_boundaries=edges.tolist())
    assert np.bincount(dataset[1]["bucket"]).min() > 50
    np.testing.assert_array_equal(dataset[1]["bucket"], layer(table["x"]))


@pytest.mark.feature(
    "keras.layers", "StringLookup", '`transform = "compute_and_apply_vocabulary"`: unknown last'
)
def test_indices_are_those_of_string_lookup_but_for_the_place_of_unknown_ones(table, dataset):
    layer = keras.layers.StringLookup()
    layer.adapt(table["color"][table["fold"] != "c"])
    assert layer.get_vocabulary() == ["[UNK]", *COLORS]
    unknown_first = np.asarray(layer(table["color"]))
    assert (unknown_first == 0).sum() == 3
    expected = np.where(unknown_first == 0, len(COLORS), unknown_first - 1)
    np.testing.assert_array_equal(dataset[1]["color"], expected)
