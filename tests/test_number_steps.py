"""Every transform of a column of numbers against its original, value by value."""

import collections
import json
import math
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from oracle import records
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
from sklearn import impute, preprocessing

from beam_jobs import config_steps
from beam_jobs.config import parse_spec
from beam_jobs.errors import DataError
from beam_jobs.run import run

BOUNDARIES = [-20.5, 0.7, 30, 47.25, 80]
NOW = 1_700_000_000_000_000_000  # Nanoseconds since 1970: float64 has steps of 256 there.
TRANSFORMS = {
    "log": {"column": "size", "transform": "log"},
    "sqrt": {"column": "size", "transform": "sqrt"},
    "root_log": {"column": "size", "transform": ["sqrt", "log1p", "scale_to_z_score"]},
    "clipped": {"column": "x", "transform": "clip", "clip_min": 10, "clip_max": 70.3},
    "floor": {"column": "x", "transform": ["clip", "log"], "clip_min": 0.25},
    "clipped_z": {
        "column": "x",
        "transform": ["scale_to_z_score", "clip"],
        "clip_min": -1.5,
        "clip_max": 1.5,
    },
    "ceiling": {"column": "x", "transform": ["clip", "scale_to_0_1"], "clip_max": 60},
    "min_max": {
        "column": "x",
        "transform": "scale_by_min_max",
        "output_min": -1,
        "output_max": 2.5,
    },
    "min_max_same": {"column": "same", "transform": "scale_by_min_max", "output_min": -3},
    "robust": {"column": "x", "transform": "robust_scale"},
    "robust_few": {"column": "few", "transform": "robust_scale"},
    "robust_same": {"column": "same", "transform": "robust_scale"},
    "robust_ns": {"column": "ns", "transform": "robust_scale"},
    "gaussian": {"column": "tails", "transform": "scale_to_gaussian"},
    "gaussian_flat": {"column": "flat", "transform": "scale_to_gaussian"},
    "gaussian_left": {"column": "left", "transform": "scale_to_gaussian"},
    "gaussian_same": {"column": "same", "transform": "scale_to_gaussian"},
    "yeo": {"column": "x", "transform": "yeo_johnson"},
    "yeo_tails": {"column": "tails", "transform": "yeo_johnson"},
    "yeo_few": {"column": "few", "transform": "yeo_johnson"},
    "yeo_same": {"column": "same", "transform": "yeo_johnson"},
    "box": {"column": "size", "transform": "box_cox"},
    "box_same": {"column": "same", "transform": "box_cox"},
    "buckets": {"column": "x", "transform": "apply_buckets", "boundaries": BOUNDARIES},
    "buckets_few": {"column": "few", "transform": "apply_buckets", "boundaries": [-0.5, 1, 3.5]},
    "between": {
        "column": "x",
        "transform": "apply_buckets_with_interpolation",
        "boundaries": BOUNDARIES,
    },
    "between_one": {
        "column": "few",
        "transform": "apply_buckets_with_interpolation",
        "boundaries": [2],
    },
    "quantiles": {"column": "x", "transform": "bucketize", "num_buckets": 4},
    "quantiles_same": {"column": "same", "transform": "bucketize", "num_buckets": 4},
    "z": {"column": "x", "transform": "scale_to_z_score"},
    "filled_mean": {"column": "holes", "missing": "mean"},
    "filled_median": {"column": "holes", "missing": "median"},
    "filled_constant": {"column": "holes", "missing": 0.1},
    "mode": {"column": "holes", "missing": "mode", "indicator": True},
    "mode_z": {"column": "holes", "missing": "mode", "transform": "scale_to_z_score"},
    "mode_int": {"column": "holes_int", "missing": "mode"},
    "mode_robust": {"column": "holes_int", "missing": "mode", "transform": "robust_scale"},
    "mode_text": {"column": "holes_text", "missing": "mode"},
    "mode_word": {
        "column": "holes_text",
        "missing": "mode",
        "transform": "compute_and_apply_vocabulary",
    },
}
DTYPES = {"few": "int64", "ns": "int64", "holes_int": "int64", "holes_text": "string"}
FEATURES = {
    name: {"dtype": DTYPES.get(said["column"], "float32")} | said
    for name, said in TRANSFORMS.items()
}
INT64 = ("buckets", "buckets_few", "quantiles", "quantiles_same", "id")
INT64 += ("mode_missing", "mode_int", "mode_word")
OUTPUTS = {
    name: "int64" if name in INT64 else "float32" for name in ("id", *FEATURES, "mode_missing")
} | {"mode_text": "string"}


def table() -> dict[str, np.ndarray]:
    """Columns of numbers that are as long as the table; the last rows are test."""
    rng = np.random.default_rng(0)
    found = {
        "x": rng.normal(40, 25, NUM_ROWS),
        "size": 10.0 ** rng.uniform(-3, 9, NUM_ROWS),
        "tails": rng.standard_t(2, NUM_ROWS) * 30 + 5,
        "flat": rng.uniform(-5, 3, NUM_ROWS),
        "left": -(rng.lognormal(0, 1.2, NUM_ROWS)),
        "same": np.full(NUM_ROWS, 7.5),
    }
    found["same"][NUM_TRAIN:] = 8.25  # Not seen in train.
    found["x"][:5] = [30, 47.25, 80, -20.5, 0.7]  # Values on a boundary; 0.7 is no float32.
    found["x"][NUM_TRAIN:] *= 3
    found = {name: values.astype(np.float32) for name, values in found.items()}
    found["few"] = rng.integers(-3, 9, NUM_ROWS)
    found["ns"] = NOW + 7 * rng.integers(0, 10**6, NUM_ROWS)
    # Two values are the most frequent of train.
    holes = np.array([3.5, -2.25, -2.25, 3.5, None, 0.1, 9, None, 4, -7] * 41)[:NUM_ROWS]
    holes[:NUM_TRAIN][holes[:NUM_TRAIN] == 9] = 11
    found["holes"] = holes
    found["holes_int"] = np.array([None if v is None else int(4 * v) for v in holes])
    found["holes_text"] = np.array([None if v is None else f"v{v}" for v in holes])
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make(tmp_path_factory.mktemp("numbers"), table(), FEATURES, OUTPUTS)


def test_transform_fn_gives_the_stored_bits_row_by_row_and_at_once(made):
    check_served(made, DTYPES)


def test_any_partition_gives_the_same_bytes(made, tmp_path):
    check_partition(made, tmp_path)


def close(found, expected, atol=1e-6, rtol=2e-7, name=""):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.feature("numpy", "log", 'transform = "log"')
@pytest.mark.feature("numpy", "sqrt", 'transform = "sqrt"')
@pytest.mark.feature("numpy", "clip", 'transform = "clip" with clip_min, clip_max')
def test_stateless_steps_are_those_of_numpy(made):
    size, x = made.all("size"), made.all("x")
    assert size.min() < 0.01 and x.min() < 0  # log of less than 1, clip before log.
    close(made.stored["log"], np.log(size))
    assert made.stored["sqrt"].tolist() == np.sqrt(size).astype(np.float32).tolist()
    logs = np.log1p(np.sqrt(size))
    close(made.stored["root_log"], (logs - logs[:NUM_TRAIN].mean()) / logs[:NUM_TRAIN].std())
    clipped = np.clip(x, 10, 70.3).astype(np.float32)
    assert {np.float32(10), np.float32(70.3)} < set(clipped)
    assert made.stored["clipped"].tolist() == clipped.tolist()
    close(made.stored["floor"], np.log(np.clip(x, 0.25, None)))
    train = made.train("x")
    close(made.stored["clipped_z"], np.clip((x - train.mean()) / train.std(), -1.5, 1.5))
    assert {made.stored["clipped_z"].min(), made.stored["clipped_z"].max()} == {-1.5, 1.5}
    low = train.min()
    close(made.stored["ceiling"], (np.minimum(x, 60) - low) / (60 - low))


def fitted(scaler, made, column, **options):
    """What a scaler of scikit-learn makes of a column after it has seen train: float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scaler.set_params(**options).fit(made.train(column)[:, None])
        return scaler.transform(made.all(column)[:, None])[:, 0]


@pytest.mark.feature("sklearn MinMaxScaler", "feature_range", "output_min, output_max")
def test_scale_by_min_max_is_min_max_scaler(made):
    options = {"feature_range": (-1, 2.5)}
    close(made.stored["min_max"], fitted(preprocessing.MinMaxScaler(), made, "x", **options))
    assert made.stored["min_max"][NUM_TRAIN:].max() > 2.5  # Not clipped, as there.
    assert made.stored["min_max_same"].tolist() == [-3] * NUM_ROWS


@pytest.mark.feature("sklearn StandardScaler", "with_mean", "scale_to_z_score, center")
@pytest.mark.feature("sklearn StandardScaler", "with_std", "scale_to_z_score")
def test_z_scores_are_those_of_standard_scaler(made):
    close(made.stored["z"], fitted(preprocessing.StandardScaler(), made, "x"))


@pytest.mark.feature("sklearn RobustScaler", "with_centering", 'transform = "robust_scale"')
@pytest.mark.feature("sklearn RobustScaler", "with_scaling", 'transform = "robust_scale"')
@pytest.mark.feature("sklearn RobustScaler", "quantile_range", "(25, 75)")
def test_robust_scale_is_robust_scaler(made):
    for name, column in ("robust", "x"), ("robust_few", "few"), ("robust_same", "same"):
        scaler = preprocessing.RobustScaler()
        close(made.stored[name], fitted(scaler, made, column))
        learned = made.info["features"][name]["learned"]
        assert learned["median"] == np.median(made.train(column))
        assert learned["iqr"] == pytest.approx(scaler.scale_[0], rel=1e-15)
    assert set(made.stored["robust_same"]) == {0, 0.75}
    quarter = np.percentile(made.train("few"), [25, 75])
    assert made.info["features"]["robust_few"]["learned"]["iqr"] == quarter[1] - quarter[0]


def test_robust_scale_of_ints_is_exact(made):
    values = [int(v) for v in made.columns["ns"]]
    train = sorted(values[:NUM_TRAIN])
    assert len({float(v) for v in values}) < len(set(values))
    # 299 * 0.25 = 74.75, 149.5 and 224.25, in units of a quarter.
    low, high = (train[74] + 3 * train[75]), (3 * train[224] + train[225])
    center = 2 * (train[149] + train[150])
    expected = [(4 * value - center) / (high - low) for value in values]
    close(made.stored["robust_ns"], expected, atol=1e-9)


@pytest.mark.feature("sklearn PowerTransformer", "method", 'transform = "yeo_johnson", "box_cox"')
@pytest.mark.feature("sklearn PowerTransformer", "standardize", "always")
def test_power_transforms_are_those_of_power_transformer(made):
    features = [("yeo", "x"), ("yeo_tails", "tails"), ("yeo_few", "few"), ("box", "size")]
    for name, column in features:
        method = "box-cox" if name == "box" else "yeo-johnson"
        scaler = preprocessing.PowerTransformer()
        expected = fitted(scaler, made, column, method=method)
        found = made.info["features"][name]["learned"]["lambda"]
        assert found == pytest.approx(scaler.lambdas_[0], rel=1e-6, abs=1e-6)
        close(made.stored[name], expected, atol=1e-5, rtol=1e-5)
    assert min(made.all("tails")) < 0 < max(made.all("tails"))
    for name in ("yeo_same", "box_same"):
        assert made.info["features"][name]["learned"]["lambda"] == 1
        close(made.stored[name], made.all("same") - 7.5)


@pytest.mark.feature("tft.apply_buckets", "bucket_boundaries", "boundaries")
@pytest.mark.feature("tft.apply_buckets_with_interpolation", "bucket_boundaries", "boundaries")
@pytest.mark.feature("tft.scale_by_min_max", "output_min", "output_min")
@pytest.mark.feature("tft.scale_by_min_max", "output_max", "output_max")
@pytest.mark.feature("tft.scale_to_gaussian", "x", 'transform = "scale_to_gaussian"')
@pytest.mark.feature("tft.quantiles", "num_buckets", "`edges` of bucketize, in the manifest")
def test_agrees_with_tft(made, tmp_path):
    def preprocess(inputs):
        x = inputs["x"]
        edges = tft.quantiles(x, 4, epsilon=0.0001)
        return {
            "min_max": tft.scale_by_min_max(x, -1, 2.5),
            "gaussian": tft.scale_to_gaussian(inputs["tails"]),
            "gaussian_flat": tft.scale_to_gaussian(inputs["flat"]),
            "gaussian_left": tft.scale_to_gaussian(inputs["left"]),
            "gaussian_same": tft.scale_to_gaussian(inputs["same"]),
            "buckets": tft.apply_buckets(x, [BOUNDARIES]),
            "buckets_few": tft.apply_buckets(inputs["few"], [[0, 1, 4]]),
            "between": tft.apply_buckets_with_interpolation(x, [BOUNDARIES]),
            "between_one": tft.apply_buckets_with_interpolation(inputs["few"], [[2]]),
            "edges": tf.tile(edges, [tf.size(x), 1]),
        }

    columns = ("x", "tails", "flat", "left", "same", "few")
    theirs = transformed_by_tft(made, preprocess, columns, tmp_path, NUM_TRAIN)
    for name in theirs.keys() - {"id", "edges"}:
        ours = made.stored[name][:NUM_TRAIN]
        if OUTPUTS[name] == "int64":
            assert ours.tolist() == theirs[name].tolist(), name
        else:
            close(ours, theirs[name], atol=2e-5, rtol=2e-5, name=name)
    # Values on a boundary are above it, here as there: also 0.7, which is no float32.
    assert made.stored["buckets"][:5].tolist() == [3, 4, 5, 1, 2]
    edges = made.info["features"]["quantiles"]["edges"]
    train = np.sort(made.train("x"))
    assert edges == [train[NUM_TRAIN * i // 4 - 1] for i in (1, 2, 3)]
    # TFT's are the next higher values of train.
    assert theirs["edges"][0].tolist() == [train[NUM_TRAIN * i // 4] for i in (1, 2, 3)]


def test_scale_to_gaussian_has_exact_l_moments_and_tells_what_it_learned(made):
    train = np.sort(made.train("tails"))
    places, n = np.arange(NUM_TRAIN), NUM_TRAIN
    b = [
        math.fsum(train * [math.comb(int(p), r) / math.comb(n - 1, r) for p in places]) / n
        for r in range(4)
    ]
    l1, l2 = b[0], 2 * b[1] - b[0]
    learned = made.info["features"]["gaussian"]["learned"]
    assert 0 < learned["left"] < 1 and 0 < learned["right"] < 1
    # The L-scale of Tukey's HH distribution, by its quantile function and numerical integration.
    u = np.linspace(-12, 12, 400_001)
    density = np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
    below = np.cumsum(density) * (u[1] - u[0])
    tails = np.where(u < 0, learned["left"], learned["right"])
    x = u * np.exp(tails * u * u / 2)
    mean = np.trapezoid(x * density, u)
    scale = np.trapezoid(x * (2 * below - 1) * density, u)
    assert learned["scale"] == pytest.approx(l2 / scale, rel=1e-3)
    assert learned["location"] == pytest.approx(l1 - learned["scale"] * mean, rel=1e-2)
    # What comes out gives back what went in.
    u = made.stored["gaussian"].astype(np.float64)
    tails = np.where(u < 0, learned["left"], learned["right"])
    again = u * np.exp(tails * u * u / 2) * learned["scale"] + learned["location"]
    np.testing.assert_allclose(again, made.all("tails"), rtol=1e-4, atol=1e-3)
    flat = made.train("flat")
    expected = (made.all("flat") - flat.mean()) / flat.std()
    assert made.info["features"]["gaussian_flat"]["learned"]["left"] == 0
    close(made.stored["gaussian_flat"], expected)


@pytest.mark.feature("sklearn KBinsDiscretizer", "n_bins", "num_buckets")
@pytest.mark.feature("sklearn KBinsDiscretizer", "encode", '"ordinal"')
@pytest.mark.feature("sklearn KBinsDiscretizer", "strategy", '"quantile": bucketize')
def test_bucketize_is_k_bins_discretizer_with_inverted_quantiles(made):
    scaler = preprocessing.KBinsDiscretizer(
        n_bins=4, encode="ordinal", strategy="quantile", quantile_method="inverted_cdf"
    )
    expected = fitted(scaler, made, "x")
    edges = made.info["features"]["quantiles"]["edges"]
    assert edges == scaler.bin_edges_[0][1:-1].tolist()
    assert made.stored["quantiles"].tolist() == expected.tolist()


@pytest.mark.feature("sklearn SimpleImputer", "strategy", "missing: mean, median, mode, a constant")
@pytest.mark.feature("sklearn SimpleImputer", "add_indicator", "indicator")
def test_the_mode_is_that_of_simple_imputer(made):
    for name, column in ("mode", "holes"), ("mode_int", "holes_int"), ("mode_text", "holes_text"):
        values = made.columns[column]
        there = [value for value in values[:NUM_TRAIN] if value is not None]
        counts = collections.Counter(there).most_common(3)
        assert counts[0][1] == counts[1][1] > counts[2][1]  # A tie.
        imputer = impute.SimpleImputer(strategy="most_frequent", missing_values=None)
        imputer.fit(values[:NUM_TRAIN, None])
        assert made.info["features"][name]["missing_value"] == imputer.statistics_[0]
        expected = imputer.transform(values[:, None])[:, 0].tolist()
        if column == "holes_text":
            expected = [value.encode() for value in expected]
        elif column == "holes":
            expected = np.array(expected, np.float32).tolist()
        assert made.stored[name].tolist() == expected
    is_missing = [value is None for value in made.columns["holes"]]
    assert made.stored["mode_missing"].tolist() == is_missing
    filled = np.array([-2.25 if v is None else v for v in made.columns["holes"]])
    filled = filled.astype(np.float32).astype(np.float64)
    train = filled[:NUM_TRAIN]
    close(made.stored["mode_z"], (filled - train.mean()) / train.std())
    ints = np.array([-9 if v is None else v for v in made.columns["holes_int"]], np.float64)
    low, center, high = np.percentile(ints[:NUM_TRAIN], [25, 50, 75])
    close(made.stored["mode_robust"], (ints - center) / (high - low))
    words = [made.columns["holes_text"][row] or "v-2.25" for row in range(NUM_ROWS)]
    counts = collections.Counter(words[:NUM_TRAIN])
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))
    assert vocabulary[0] == "v-2.25"
    expected = [vocabulary.index(w) if w in counts else len(vocabulary) for w in words]
    assert made.stored["mode_word"].tolist() == expected


@pytest.mark.feature("sklearn SimpleImputer", "strategy", "missing: mean, median, mode, a constant")
@pytest.mark.feature("sklearn SimpleImputer", "fill_value", "missing, a constant")
@pytest.mark.parametrize("strategy", ["mean", "median", "constant"])
def test_other_fills_are_those_of_simple_imputer(made, strategy):
    values = np.array([math.nan if v is None else v for v in made.columns["holes"]])
    values = values.astype(np.float32).astype(np.float64)[:, None]
    imputer = impute.SimpleImputer(strategy=strategy, fill_value=float(np.float32(0.1)))
    expected = imputer.fit(values[:NUM_TRAIN]).transform(values)[:, 0]
    close(made.stored[f"filled_{strategy}"], expected)


def test_bucketize_of_a_constant_has_two_buckets(made):
    assert made.info["features"]["quantiles_same"]["edges"] == [7.5]
    assert made.info["features"]["quantiles_same"]["num_categories"] == 2
    assert set(made.stored["quantiles_same"].tolist()) == {1}


def test_the_manifest_tells_the_boundaries(made):
    features = made.info["features"]
    assert features["buckets"]["edges"] == np.float32(BOUNDARIES).astype(np.float64).tolist()
    assert features["buckets"]["num_categories"] == len(BOUNDARIES) + 1
    assert features["buckets_few"]["edges"] == [0, 1, 4]
    assert "num_categories" not in features["between"]
    told = json.loads((made.folder / "out" / "dataset_info.json").read_text())
    assert told["features"]["yeo"]["learned"].keys() == {"lambda", "center", "mean", "std"}


EVERY = {
    **dict.fromkeys(["log", "log1p", "sqrt", "center", "scale_to_z_score", "scale_to_0_1"], {}),
    **dict.fromkeys(["scale_by_min_max", "scale_to_gaussian", "robust_scale"], {}),
    **dict.fromkeys(["yeo_johnson", "box_cox"], {}),
    "clip": {"clip_min": 1},
    "bucketize": {"num_buckets": 3},
    "apply_buckets": {"boundaries": [1, 3]},
    "apply_buckets_with_interpolation": {"boundaries": [1, 3]},
    **dict.fromkeys(
        ["scale_to_z_score_per_key", "scale_to_0_1_per_key", "scale_by_min_max_per_key"],
        {"key": "word"},
    ),
    "bucketize_per_key": {"key": "word", "num_buckets": 3},
}
OF_2 = {  # What a column of nothing but the number 2 becomes.
    "log": np.float32(math.log(2)),
    "log1p": np.float32(math.log(3)),
    "sqrt": np.float32(math.sqrt(2)),
    "clip": 2,
    "apply_buckets": 1,
    "apply_buckets_with_interpolation": 0.5,
    "bucketize": 1,
    "bucketize_per_key": 1,
}


def _every(dtype: str, **options) -> dict:
    return {
        name: {"column": "x", "dtype": dtype, "transform": name} | said | options
        for name, said in EVERY.items()
    }


def test_every_transform_of_numbers_is_looked_at():
    numbers = {name for name, step in config_steps.STEPS.items() if "float32" in step.takes}
    assert {*EVERY} == numbers


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_every_transform_takes_a_column_that_is_all_missing(dtype, tmp_path):
    columns = {"x": np.full(310, None), "word": np.array(["a", "b"] * 155)}
    said = write(tmp_path, columns, _every(dtype, missing=2))
    run(parse_spec(said, str(tmp_path / "s")), str(tmp_path / "out"))
    dtypes = {n: config_steps.STEPS[n].gives for n in EVERY} | {"id": "int64"}
    found = records.by_id(tmp_path / "out", dtypes)
    for name in EVERY:
        assert set(found[name].tolist()) == {OF_2.get(name, 0)}, name


@pytest.mark.parametrize("policy", ["mean", "median", "mode"])
@pytest.mark.parametrize("name", ["robust_scale", "bucketize_per_key"])
def test_nothing_is_learned_from_a_column_that_is_all_missing(policy, name, tmp_path):
    columns = {"x": np.full(310, None), "word": np.array(["a", "b"] * 155)}
    said = write(tmp_path, columns, {"f": _every("float32", missing=policy)[name]})
    with pytest.raises(DataError) as raised:
        run(parse_spec(said, str(tmp_path / "s")), str(tmp_path / "out"))
    assert "features.f: train has no value of column 'x', so there is no statistic. Leave" in str(
        raised.value
    )


def test_what_a_step_cannot_take_is_set_aside(tmp_path):
    transforms = {
        "logs": ("log", [-1, 0], [1e-30]),
        "roots": ("sqrt", [-0.5, -1e-30], [0, 1e-30]),
        "powers": ("box_cox", [-3, 0], [0.5]),
        "chains": (["sqrt", "log1p"], [-0.25], [0]),
        "twice": (["log", "log"], [-1, 0.5, 1], [1.5]),
        "floors": (["clip", "log"], [], [-1, 0, 5]),
    }
    features = {name: {"dtype": "float32", "transform": t[0]} for name, t in transforms.items()}
    features["floors"] |= {"clip_min": 0.1}
    columns = {name: np.arange(3.0, 403.0) for name in transforms}
    row, kept = 0, []
    for name, (_, bad, good) in transforms.items():
        columns[name][row : row + len(bad)] = bad
        kept += range(row + len(bad), row + len(bad) + len(good))
        columns[name][kept[-len(good)] : kept[-1] + 1] = good
        row += len(bad) + len(good)
    said = write(tmp_path, columns, features) | {"output": {"max_rejected": 0.1}}
    info = run(parse_spec(said, str(tmp_path / "s")), str(tmp_path / "out"))
    expected = {f"non_finite_{name}": len(bad) for name, (_, bad, _) in transforms.items() if bad}
    assert info["rejected"] == expected
    found = records.by_id(tmp_path / "out", {"id": "int64"} | dict.fromkeys(transforms, "float32"))
    assert set(kept) <= set(found["id"]) and len(kept) == 9
    assert all(np.isfinite(found[name]).all() for name in transforms)
