"""Random specs over random tables: what must hold of every dataset, whatever is asked for."""

import csv
import datetime
import json
import math
import random
import re
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracle import records, served

from beam_jobs.config import parse_spec
from beam_jobs.errors import DataError
from beam_jobs.run import run

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
_MICROSECOND = datetime.timedelta(microseconds=1)
_ODD = ["", "nan", "inf", "x", "1e400", "-0", "1e-40", "16777217", "0.1"]
_WORDS = ["a", "b", "B", "é", "a|b", "b|b|c", "\N{GREEK SMALL LETTER PI}", 'say "hi"', "two\nlines"]
_STEPS: dict[str, dict[str, Any]] = {
    "none": {},
    "center": {"transform": "center"},
    "scale_to_z_score": {"transform": "scale_to_z_score"},
    "scale_to_0_1": {"transform": "scale_to_0_1"},
    "scale_by_min_max": {"transform": "scale_by_min_max", "output_min": -1, "output_max": 3},
    "log1p": {"transform": ["log1p", "scale_to_z_score"]},
    "log": {"transform": "log"},
    "sqrt": {"transform": ["sqrt", "center"]},
    "clip": {"transform": ["clip", "scale_to_0_1"], "clip_min": -2, "clip_max": 4.5},
    "robust_scale": {"transform": "robust_scale"},
    "yeo_johnson": {"transform": "yeo_johnson"},
    "box_cox": {"transform": "box_cox"},
    "scale_to_gaussian": {"transform": "scale_to_gaussian"},
    "bucketize": {"transform": "bucketize", "num_buckets": 4},
    "apply_buckets": {"transform": "apply_buckets", "boundaries": [-1, 0, 2.5]},
    "interpolation": {"transform": "apply_buckets_with_interpolation", "boundaries": [-3, 0, 9]},
}
_OF_INTS = ("none", "center", "scale_to_z_score", "scale_to_0_1", "bucketize", "apply_buckets")
_OF_TEXTS = [
    {},
    {"transform": "compute_and_apply_vocabulary"},
    {"transform": "compute_and_apply_vocabulary", "top_k": 2, "num_oov_buckets": 3},
    {"transform": "hash_strings", "hash_buckets": 7},
]


class Case(NamedTuple):
    """A table, and the `[features]` of a spec for it; the column `id` has a number for each row."""

    rows: list[dict[str, str]]
    features: dict[str, dict[str, Any]]
    filters: list[dict[str, str]]


def _floats() -> st.SearchStrategy[str]:
    numbers = st.decimals(-50, 50, places=2, allow_nan=False).map(str)
    return st.one_of(numbers, numbers, numbers, st.sampled_from(_ODD))


@st.composite
def _cases(draw) -> Case:
    size = draw(st.integers(12, 50))
    columns = {
        "id": [str(number) for number in range(size)],
        "f": draw(st.lists(_floats(), min_size=size, max_size=size)),
        "g": draw(st.lists(_floats(), min_size=size, max_size=size)),
        "i": [str(draw(st.integers(-5, 5))) if draw(st.booleans()) else "7" for _ in range(size)],
        "s": draw(st.lists(st.sampled_from(["", *_WORDS]), min_size=size, max_size=size)),
        "d": [str(draw(st.dates())) for _ in range(size)],
    }
    step = draw(st.sampled_from(sorted(_STEPS)))
    missing = draw(st.sampled_from(["reject", "mean", "median", "mode", 2.5]))
    indicator = {"indicator": True} if missing != "reject" else {}
    named = draw(st.sampled_from(_OF_TEXTS))
    features: dict[str, dict[str, Any]] = {
        "id": {"dtype": "int64"},
        "f": {"dtype": "float32", "missing": missing, **indicator, **_STEPS[step]},
        "i": {"dtype": "int64", **_STEPS[draw(st.sampled_from(_OF_INTS))]},
        "s": {"dtype": "string", "missing": draw(st.sampled_from(["token", "none"])), **named},
    }
    more = {
        "g": {"dtype": "float32", "missing": 0, "transform": "bucketize", "num_buckets": 3},
        "day": {"type": "date", "column": "d", "parts": ["month", "week"], "cycles": ["year"]},
        "double": {"expression": "2 * i", "dtype": "int64", "transform": "scale_to_z_score"},
        "both": {"type": "cross", "of": ["s", "i"], "hash_buckets": 9},
        "pair": {"type": "vector", "columns": ["i", "j"], "transform": "scale_to_z_score"},
        "bag": {"type": "text", "column": "s", "missing": "", "output_mode": "tf_idf"},
    }
    if features["i"].get("transform") not in (None, "bucketize", "apply_buckets"):
        del more["both"]
    more["pair"] = {"type": "vector", "columns": ["x", "y"], "transform": "scale_to_z_score"}
    columns |= {"x": columns["i"], "y": columns["id"]}
    for name in sorted(more):
        if draw(st.booleans()):
            features[name] = more[name]
    filters = [{"name": "not_three", "where": "i <> 3"}] if draw(st.booleans()) else []
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Case(rows, features, filters)


def _write(folder: Path, rows: list[dict[str, str]], num_files: int) -> list[str]:
    paths = []
    for number in range(num_files):
        path = folder / f"{num_files}-{number}.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows[number::num_files])
        paths.append(str(path))
    return paths


def _made(case: Case, folder: Path, num_files: int, **options: Any) -> dict[str, Any] | None:
    """Runs a case; returns what the manifest says, None if the data cannot make a dataset."""
    rows = list(case.rows)
    random.Random(num_files).shuffle(rows)
    said = {
        "name": "random",
        "source": {"format": "csv", "paths": _write(folder, rows, num_files)},
        "split": {"fractions": {"train": 0.7, "test": 0.3}, "key": "id"},
        "filter": case.filters,
        "features": case.features,
        "output": {"max_rejected": 1, "num_shards": 2},
    }
    try:
        spec = parse_spec(said, str(folder / "spec.toml"))
        return run(spec, str(folder / f"data-{num_files}"), **options)
    except DataError as error:
        assert "train" in str(error)
        return None


def _raw(text: str, dtype: str) -> Any:
    """Returns what the spec's grammar makes of a text; None where it is missing.

    Raises:
      ValueError: It is not of the dtype.
    """
    if text == "" or (dtype != "string" and re.fullmatch("[+-]?nan", text, re.I)):
        return None
    if dtype == "string":
        return text
    if dtype == "timestamp":
        return (datetime.datetime.fromisoformat(text) - datetime.datetime(1970, 1, 1)) // (
            _MICROSECOND
        )
    if not (_INTEGER if dtype == "int64" else _NUMBER).fullmatch(text):
        raise ValueError(text)
    if dtype == "int64":
        return int(text)
    number = float(text)
    if not abs(number) < 3.4028235677973366e38:
        raise ValueError(text)
    number = float(np.float32(number))
    return math.copysign(0.0, number) if abs(number) < np.finfo(np.float32).tiny else number


def _inputs(case: Case) -> dict[str, tuple[str, str]]:
    """Returns the column and the dtype of each input of transform_fn, by its name."""
    found = {}
    for name, feature in case.features.items():
        column = feature.get("column", name)
        match feature.get("type", "column"):
            case "column" if "expression" in feature:
                found[name] = ("i", "int64")
            case "column":
                found[column] = (column, feature["dtype"])
            case "date":
                found[column] = (column, "timestamp")
            case "text":
                found[column] = (column, "string")
            case "vector":
                found |= {part: (part, "float32") for part in feature["columns"]}
    return found


def _stored(folder: Path, info: dict[str, Any]) -> dict[int, tuple[str, dict[str, Any]]]:
    """Returns the split and the values of each record, by its id."""
    found = {}
    for split, entry in info["splits"].items():
        for shard in entry["shards"]:
            for data in records.frames(records.stream(folder / shard["file"])):
                values = {}
                for name, of in tf.train.Example.FromString(data).features.feature.items():
                    kind = of.WhichOneof("kind")
                    dtype = {"float_list": np.float32, "int64_list": np.int64}.get(kind, object)
                    values[name] = np.array(getattr(of, kind).value if kind else [], dtype)
                found[int(values["id"][0])] = (split, values)
    return found


def _check_statistics(case: Case, info: dict[str, Any], kept: dict[int, dict[str, Any]]) -> None:
    """Compares the raw statistics of train with exact fractions."""
    for name in ("f", "i"):
        told = info["features"][name]["raw_statistics"]
        values = [raw[name] for raw in kept.values() if raw[name] is not None]
        assert told["count"] == len(values)
        assert told["missing"] == len(kept) - len(values)
        if values:
            exact = [Fraction(value) for value in values]
            mean = sum(exact) / len(exact)
            variance = sum((value - mean) ** 2 for value in exact) / len(exact)
            assert told["mean"] == float(mean)
            assert told["std"] == math.sqrt(variance)
            assert (told["min"], told["max"]) == (min(values), max(values))


@settings(
    max_examples=14,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # To make a failing case smaller takes minutes.
    suppress_health_check=list(HealthCheck),
)
@given(_cases())
def test_what_holds_of_every_dataset(case):
    folder = Path(tempfile.mkdtemp())
    try:
        _check(case, folder)
    finally:
        shutil.rmtree(folder)


def _check(case: Case, folder: Path) -> None:
    info = _made(case, folder, 1, num_threads=1)
    again = _made(case, folder, 3, num_threads=3, block_mb=0.0003)
    assert (info is None) == (again is None)
    if info is None or again is None:
        return
    for split, entry in info["splits"].items():
        files = [shard["file"] for shard in entry["shards"]]
        assert files == [shard["file"] for shard in again["splits"][split]["shards"]]
        for file in files:
            cut = folder / "data-3" / file
            assert (folder / "data-1" / file).read_bytes() == cut.read_bytes()

    stored = _stored(folder / "data-1", info)
    assert info["read"] == len(case.rows) == len(stored) + sum(info["rejected"].values())
    inputs = _inputs(case)
    kept: dict[int, dict[str, Any]] = {}
    for row in case.rows:
        try:
            raw = {name: _raw(row[column], dtype) for name, (column, dtype) in inputs.items()}
        except ValueError:
            assert int(row["id"]) not in stored
            continue
        if int(row["id"]) in stored:
            kept[int(row["id"])] = raw
            assert not (case.filters and row["i"] == "3")
    assert set(kept) == set(stored)
    if "double" in inputs:
        for raw in kept.values():
            raw["double"] *= 2

    transform = tf.saved_model.load(str(folder / "data-1" / "transform_fn")).transform_fn
    specs = served.signature(transform)
    for number, (_, values) in stored.items():
        given = {name: served._input(specs[name], kept[number][name]) for name in specs}
        outputs = transform(given)
        for name, output in outputs.items():
            if isinstance(output, tf.SparseTensor):
                assert output.indices.numpy()[:, 1].tolist() == values[f"{name}/indices"].tolist()
                name, output = f"{name}/values", output.values
            flat = output.numpy().reshape(-1)
            assert flat.tolist() == values[name].tolist(), name
            assert flat.dtype == object or flat.tobytes() == values[name].tobytes(), name
        for column in values.values():
            assert column.dtype != np.float32 or np.isfinite(column).all()
    of_train = {n: raw for n, raw in kept.items() if stored[n][0] == "train"}
    _check_statistics(case, info, of_train)
    json.dumps(info, allow_nan=False)
