"""Transforms per key: each key has its own statistics, those of the same values alone."""

import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow_transform as tft
from oracle.columns import (
    NUM_ROWS,
    NUM_TRAIN,
    Made,
    check_partition,
    check_served,
    make,
    transformed_by_tft,
    write,
)

from beam_jobs.config import parse_spec
from beam_jobs.errors import SpecError
from beam_jobs.run import run

FEATURES = {
    "z": {"column": "x", "transform": "scale_to_z_score_per_key"},
    "unit": {"column": "x", "transform": "scale_to_0_1_per_key"},
    "range": {
        "column": "x",
        "transform": "scale_by_min_max_per_key",
        "output_min": -2,
        "output_max": 2,
    },
    "bucket": {"column": "x", "transform": "bucketize_per_key", "num_buckets": 4},
    "logs": {"column": "x", "transform": ["clip", "log", "scale_to_z_score_per_key"]}
    | {"clip_min": 0.75},
    "ns_z": {"column": "ns", "transform": "scale_to_z_score_per_key"},
    "ns_unit": {"column": "ns", "transform": "scale_to_0_1_per_key"},
    "ns_bucket": {"column": "ns", "transform": "bucketize_per_key", "num_buckets": 7},
    "holes": {"transform": "scale_to_z_score_per_key", "missing": "median", "indicator": True},
    "holes_bucket": {
        "column": "holes",
        "transform": "bucketize_per_key",
        "num_buckets": 3,
        "missing": -1.5,
    },
}
FEATURES = {
    name: {"dtype": "int64" if name.startswith("ns") else "float32", "key": "shop"} | said
    for name, said in FEATURES.items()
}
OUTPUTS = {
    name: "int64" if "bucket" in name or name in ("id", "holes_missing") else "float32"
    for name in ("id", *FEATURES, "holes_missing")
} | {"cross": "int64"}
DTYPES = {"shop": "string", "holes": "float32"}
KEYS = ["a", "b c", "é", "z\nz", "one"]
UNKNOWN = "new"


def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shop = rng.choice(KEYS[:4], NUM_ROWS)
    shop[7] = "one"  # A key with one value.
    shop[NUM_TRAIN : NUM_TRAIN + 20] = UNKNOWN
    scale = np.array([10.0 ** KEYS.index(key) if key in KEYS else 5 for key in shop])
    x = (rng.normal(3, 1, NUM_ROWS) * scale).astype(np.float32)
    ns = 1_700_000_000_000_000_000 + rng.integers(0, 10**6, NUM_ROWS) * scale.astype(int)
    holes = np.where(rng.random(NUM_ROWS) < 0.2, None, x.astype(object))
    holes[shop == "é"] = None  # A key without a value.
    return {"shop": shop.astype(object), "x": x, "ns": ns, "holes": holes}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    cross = {"cross": {"type": "cross", "of": ["bucket", "ns_bucket"], "hash_buckets": 50}}
    return make(tmp_path_factory.mktemp("keyed"), table(), FEATURES | cross, OUTPUTS)


def rows_of(made, key) -> tuple[np.ndarray, np.ndarray]:
    """The records of a key, and those of train that tell of it: all of train for an unknown one."""
    shop = made.columns["shop"]
    train = np.flatnonzero(shop[:NUM_TRAIN] == key)
    return np.flatnonzero(shop == key), train if train.size else np.arange(NUM_TRAIN)


@pytest.mark.parametrize("key", [*KEYS, UNKNOWN])
def test_floats_have_the_statistics_of_their_key(made, key):
    rows, train = rows_of(made, key)
    x = made.columns["x"].astype(np.float64)
    mean, std = x[train].mean(), x[train].std() or 1
    np.testing.assert_allclose(made.stored["z"][rows], (x[rows] - mean) / std, 1e-6, 1e-6)
    low, unit = x[train].min(), x[train].max() - x[train].min()
    scaled = (x[rows] - low) / unit if unit else np.zeros(rows.size)
    np.testing.assert_allclose(made.stored["unit"][rows], scaled, 1e-6, 1e-6)
    np.testing.assert_allclose(made.stored["range"][rows], 4 * scaled - 2, 1e-6, 1e-6)
    edges = np.unique(np.sort(x[train])[[math.ceil(train.size * i / 4) - 1 for i in (1, 2, 3)]])
    assert made.stored["bucket"][rows].tolist() == [(edges <= v).sum() for v in x[rows]]
    logs = np.log(np.maximum(x, 0.75))
    std = logs[train].std() or 1
    expected = (logs[rows] - logs[train].mean()) / std
    np.testing.assert_allclose(made.stored["logs"][rows], expected, 1e-6, 1e-6)


@pytest.mark.parametrize("key", [*KEYS, UNKNOWN])
def test_ints_that_float64_does_not_hold_are_exact(made, key):
    rows, train = rows_of(made, key)
    values = [int(v) for v in made.columns["ns"]]
    chosen = [values[row] for row in train]
    mean = Fraction(sum(chosen), len(chosen))
    std = math.sqrt(sum((v - mean) ** 2 for v in chosen) / len(chosen)) or 1
    expected = [float(values[row] - mean) / std for row in rows]
    np.testing.assert_allclose(made.stored["ns_z"][rows], expected, 2e-7, 1e-7)
    low, unit = min(chosen), (max(chosen) - min(chosen)) or 1
    expected = [float(Fraction(values[row] - low, unit)) * (unit > 1) for row in rows]
    np.testing.assert_allclose(made.stored["ns_unit"][rows], expected, 2e-7)
    edges = {sorted(chosen)[math.ceil(len(chosen) * i / 7) - 1] for i in range(1, 7)}
    expected = [sum(edge <= values[row] for edge in edges) for row in rows]
    assert made.stored["ns_bucket"][rows].tolist() == expected


def test_imputed_values_count_for_their_key(made):
    holes = made.columns["holes"]
    there = [float(v) for v in holes[:NUM_TRAIN] if v is not None]
    filled = np.array([np.median(there) if v is None else v for v in holes], np.float64)
    constant = np.array([-1.5 if v is None else v for v in holes], np.float64)
    for key in [*KEYS, UNKNOWN]:
        rows, train = rows_of(made, key)
        std = filled[train].std() or 1
        expected = (filled[rows] - filled[train].mean()) / (std if std > 1e-9 else 1)
        np.testing.assert_allclose(made.stored["holes"][rows], expected, 1e-6, 1e-6)
        places = [math.ceil(train.size * i / 3) - 1 for i in (1, 2)]
        edges = np.unique(np.sort(constant[train])[places])
        found = made.stored["holes_bucket"][rows].tolist()
        assert found == [(edges <= value).sum() for value in constant[rows]]
    assert made.stored["holes_missing"].tolist() == [v is None for v in holes]


def test_the_manifest_tells_what_each_key_has(made):
    learned = made.info["features"]["z"]["learned"]
    assert learned["num_keys"] == 5 and [*learned["keys"]] == sorted(KEYS, key=str.encode)
    x, shop = made.columns["x"].astype(np.float64), made.columns["shop"]
    for key in KEYS:
        train = x[:NUM_TRAIN][shop[:NUM_TRAIN] == key]
        assert learned["keys"][key]["mean"] == math.fsum(train) / train.size
        edges = made.info["features"]["bucket"]["learned"]["keys"][key]["edges"]
        assert set(edges) <= set(train) and edges == sorted(set(edges))
    assert made.info["features"]["bucket"]["num_categories"] == 4


def test_transform_fn_gives_the_stored_bits_row_by_row_and_at_once(made):
    check_served(made, DTYPES)


def test_any_partition_gives_the_same_bytes(made, tmp_path):
    assert any("\n" in key for key in made.columns["shop"])
    check_partition(made, tmp_path)


@pytest.mark.feature("tft.scale_to_z_score_per_key", "key", "key")
@pytest.mark.feature("tft.scale_to_0_1_per_key", "key", "key")
@pytest.mark.feature("tft.scale_by_min_max_per_key", "key", "key")
@pytest.mark.feature("tft.scale_by_min_max_per_key", "output_min", "output_min")
@pytest.mark.feature("tft.scale_by_min_max_per_key", "output_max", "output_max")
@pytest.mark.feature("tft.bucketize_per_key", "key", "key")
@pytest.mark.feature("tft.bucketize_per_key", "num_buckets", "num_buckets")
def test_agrees_with_tft(made, tmp_path):
    def preprocess(inputs):
        x, key = inputs["x"], inputs["shop"]
        return {
            "z": tft.scale_to_z_score_per_key(x, key),
            "unit": tft.scale_to_0_1_per_key(x, key),
            "range": tft.scale_by_min_max_per_key(x, key, -2, 2),
            "bucket": tft.bucketize_per_key(x, key, 4, epsilon=0.0001),
        }

    theirs = transformed_by_tft(made, preprocess, ("x", "shop"), tmp_path, NUM_TRAIN)
    shop, x = made.columns["shop"][:NUM_TRAIN], made.columns["x"][:NUM_TRAIN]
    is_constant = shop == "one"
    for name in ("z", "unit", "range"):
        ours = made.stored[name][:NUM_TRAIN]
        is_same = ~is_constant if name != "z" else np.ones(NUM_TRAIN, bool)
        np.testing.assert_allclose(ours[is_same], theirs[name][is_same], 2e-5, 2e-5, err_msg=name)
    # Of a key with one value TFT gives the sigmoid of x, which carries nothing.
    assert made.stored["unit"][:NUM_TRAIN][is_constant].tolist() == [0]
    # TFT's edges are the next higher values: only what stands on one of ours goes elsewhere. Of
    # "z\nz", which comes behind the key with one value, TFT's first edge is off by 20 records.
    for key in ("a", "b c", "é"):
        order = np.flatnonzero(shop == key)
        order = order[np.argsort(x[order])]
        found = made.stored["bucket"][order] - theirs["bucket"][order]
        expected = np.zeros(order.size, int)
        expected[[math.ceil(order.size * i / 4) - 1 for i in (1, 2, 3)]] = 1
        assert found.tolist() == expected.tolist()


def test_a_missing_key_rejects_the_record(tmp_path):
    columns = {"x": np.arange(310.0), "shop": np.array(["a", "b"] * 155, object)}
    columns["shop"][[3, 305]] = None
    said = write(tmp_path, columns, {"z": FEATURES["z"] | {"missing": 0}})
    said["output"] = {"max_rejected": 0.05}
    info = run(parse_spec(said, str(tmp_path / "s")), str(tmp_path / "out"))
    assert info["rejected"] == {"missing_shop": 2}


@pytest.mark.parametrize(
    "feature, message",
    [
        ({"key": "x"}, "features.z.key: must be another column than 'x'."),
        ({"key": "y"}, "features.z: there is no column 'y'. The columns are id, fold, x, shop."),
        ({"key": "id"}, "column 'id' is int64 for id and string for z: transform_fn takes it "),
        ({"transform": "center"}, "features.z: key belongs to transform = 'scale_to_z_score_per_"),
        ({"key": None}, "features.z: transform = 'scale_to_z_score_per_key' needs key."),
        (
            {"dtype": "string"},
            "features.z: transform: scale_to_z_score_per_key takes float32 or int64, but dtype is ",
        ),
        ({"transform": "bucketize_per_key"}, "transform = 'bucketize_per_key' needs num_buckets."),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, feature, message):
    columns = {"x": np.arange(310.0), "shop": np.array(["a", "b"] * 155, object)}
    said = write(tmp_path, columns, {"z": FEATURES["z"] | feature})
    with pytest.raises(SpecError) as raised:
        run(parse_spec(said, str(tmp_path / "s")), str(tmp_path / "out"))
    assert message in str(raised.value) and "\n" not in str(raised.value)
