"""Random specs over random tables: what must hold of every dataset, whatever is asked for."""

import csv
import io
import itertools
import json
import math
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from oracle import compare, drawn, hashing, records, served

from beam_jobs.config import parse_spec
from beam_jobs.errors import DataError
from beam_jobs.run import run
from beam_jobs.verify import verify

_TOLD = ("read", "rejected", "splits", "features", "label", "labels", "weight")
_NUM_CASES = int(os.environ.get("HEADRACE_RANDOM_SPECS", "2"))  # Of each kind of split.


class Record(NamedTuple):
    """What a row holds, and what became of it."""

    row: drawn.Row
    raw: dict[str, Any]
    split: str
    stored: dict[str, np.ndarray]


def _write(folder: Path, rows: list[drawn.Row], num_files: int) -> dict[str, list[str]]:
    """Writes the rows to files of test and of train; returns their paths."""
    paths: dict[str, list[str]] = {"train": [], "test": []}
    for split, number in itertools.product(paths, range(num_files)):
        path = folder / f"{split}-{number}.csv"
        ours = [row for row in rows if drawn.of_test_file(row) == (split == "test")]
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(ours[number::num_files])
        paths[split].append(str(path))
    return paths


def _made(case: drawn.Case, folder: Path, num_files: int, **options: Any) -> dict[str, Any] | None:
    """Runs a case; returns what the manifest says, None if the data cannot make a dataset."""
    folder.mkdir()
    rows = list(case.rows)
    random.Random(num_files).shuffle(rows)
    by_split = _write(folder, rows, num_files)
    split = case.sections["split"]
    said = case.sections | {
        "name": "random",
        "source": {"format": "csv", "paths": by_split if not split else sum(by_split.values(), [])},
        "output": {"max_rejected": 1, "num_shards": 2},
    }
    if "time" in split:
        said["source"]["types"] = {"d": "timestamp"}
    try:
        spec = parse_spec(said, str(folder / "spec.toml"))
        return run(spec, str(folder / "out"), **options)
    except DataError as error:
        assert "train" in str(error) or "no record has a class" in str(error)
        return None


def _stored(folder: Path, info: dict[str, Any]) -> dict[int, tuple[str, dict[str, np.ndarray]]]:
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


def _reasons(folder: Path) -> dict[int, str]:
    """Returns why each record was rejected, by its id."""
    lines = [line for path in folder.glob("rejected/*") for line in path.open(encoding="utf-8")]
    told = map(json.loads, lines)
    return {int(next(csv.reader(io.StringIO(of["record"])))[0]): of["reason"] for of in told}


def _records(case: drawn.Case, folder: Path, info: dict[str, Any]) -> list[Record]:
    """Looks at which rows are kept, and why the others are not; returns those that are."""
    stored, reasons = _stored(folder, info), _reasons(folder)
    assert info["read"] == len(case.rows) == len(stored) + len(reasons)
    assert {reason: n for reason, n in info["rejected"].items() if n} == Counter(reasons.values())
    found = []
    for row in case.rows:
        raw, allowed = drawn.read(case, row)
        if allowed:
            assert reasons[int(row["id"])] in allowed
        else:
            found.append(Record(row, raw, *stored[int(row["id"])]))
    return found


def _check_splits(case: drawn.Case, kept: list[Record]) -> None:
    if not case.sections["split"].get("stratified"):
        for record in kept:
            assert record.split == drawn.placed(case.sections, record.row, record.raw)
        return
    for name in {record.raw["c"] for record in kept}:
        ours = [record for record in kept if record.raw["c"] == name]
        keys = [hashing.row_key({"id": record.row["id"]}, ["id"]) for record in ours]
        wanted = hashing.strata([hashing.halves(key)[0] for key in keys], drawn.SHARES)
        assert [record.split for record in ours] == wanted


def _exact(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation, each rounded once, and the ends; nothing of no value."""
    if not values:
        return {}
    exact = [*map(Fraction, values)]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    ends = {"min": min(values), "max": max(values)}
    return {"mean": float(mean), "std": math.sqrt(variance)} | ends


def _edges(values: list[float], num_buckets: int) -> list[float]:
    ordered = sorted(values)
    places = [math.ceil(Fraction(len(ordered) * i, num_buckets)) for i in range(1, num_buckets)]
    return sorted({ordered[place - 1] for place in places})


def _filled(said: drawn.Said, values: list[Any]) -> list[Any] | None:
    """The values that a step learns from; None where the fill is the mean, which float64 rounds."""
    there = [value for value in values if value is not None]
    match said.get("missing"):
        case "mean":
            return None
        case "median":
            ordered = sorted(there)
            low, high = ordered[(len(there) - 1) // 2], ordered[len(there) // 2]
            fill: Any = float((Fraction(low) + Fraction(high)) / 2)
        case "mode":
            counts = Counter(there)
            fill = min(counts, key=lambda value: (-counts[value], value))
        case fill:
            pass
    return [fill if value is None else value for value in values]


def _check_numbers(said: drawn.Said, told: dict[str, Any], train: list[Record]) -> None:
    """Compares what the manifest says of a column of numbers with exact fractions."""
    values = [record.raw[said["column"]] for record in train]
    there = [value for value in values if value is not None]
    counts = {"count": len(there), "missing": len(values) - len(there)}
    assert told["raw_statistics"] == counts | _exact(there)
    filled = _filled(said, values)
    if filled is None:
        return
    if said.get("transform") == "bucketize":
        assert told["edges"] == _edges(filled, said["num_buckets"])
    elif said.get("transform") == "robust_scale":
        ordered = sorted(map(Fraction, filled))
        low, median, high = (_percentile(ordered, share) for share in (25, 50, 75))
        assert told["learned"] == {"median": float(median), "iqr": float(high - low) or 1}
    if "key" in said:
        keys = [record.raw["k"] for record in train]
        assert set(told["learned"]["keys"]) == set(keys)
        for key, learned in told["learned"]["keys"].items():
            ours = [value for of, value in zip(keys, filled, strict=True) if of == key]
            exact = _exact(ours)
            wanted = {name: exact[name] for name in ("mean", "std", "min") if name in learned}
            if "std" in wanted:
                wanted["std"] = wanted["std"] or 1
            if (
                "offset" in learned
            ):  # What is taken from int64 first, so that float64 holds the rest.
                mean = sum(map(Fraction, ours)) / len(ours)
                offset = 0 if max(map(abs, ours)) <= 2**53 else math.floor(mean)
                wanted |= {"offset": offset, "mean": float(mean - offset)}
            if "range" in learned:
                wanted["range"] = float(Fraction(max(ours)) - Fraction(min(ours)))
            if "edges" in learned:
                wanted["edges"] = _edges(ours, said["num_buckets"])
            assert learned == wanted


def _percentile(ordered: list[Fraction], percent: int) -> Fraction:
    place = Fraction(percent * (len(ordered) - 1), 100)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def _check_vector(name: str, said: drawn.Said, told: dict[str, Any], train: list[Record]) -> None:
    """Compares what the manifest says of a vector's elements with exact fractions."""
    rows = [_elements(said, record.raw) for record in train]
    if said.get("column") == "r":
        numbers = [value for row in rows for value in row]
        assert told["statistics"] == {"count": len(numbers)} | _exact(numbers)
        return
    elements = [_exact([*column]) for column in zip(*rows, strict=True)]
    for key in ("mean", "std", "min", "max"):
        assert told["statistics"][key] == [of[key] for of in elements], (name, key)
    if "covariance" in told["statistics"]:
        columns = [[*map(Fraction, column)] for column in zip(*rows, strict=True)]
        means = [sum(column) / len(rows) for column in columns]
        centered = [[x - mean for x in column] for column, mean in zip(columns, means, strict=True)]
        covariance = [
            [
                float(sum(x * y for x, y in zip(one, other, strict=True)) / len(rows))
                for other in centered
            ]
            for one in centered
        ]
        assert told["statistics"]["covariance"] == covariance


def _elements(said: drawn.Said, raw: dict[str, Any]) -> list[float]:
    fill = said.get("missing")
    if "columns" in said:
        return [fill if raw[column] is None else raw[column] for column in said["columns"]]
    if raw[said["column"]] is None:
        return [] if fill == "empty" else [float(fill)] * said["size"]
    return raw[said["column"]]


def _check_vocabulary(said: drawn.Said, name: str, kept: list[Record], train: list[Record]) -> None:
    """Compares indices with those by descending count of train, ties by bytes."""
    if said.get("transform") != "compute_and_apply_vocabulary":
        return
    fill = "[MISSING]" if said["missing"] == "token" else said["missing"]
    if fill == "mode":
        counts = Counter(record.raw["s"] for record in train if record.raw["s"] is not None)
        fill = min(counts, key=lambda text: (-counts[text], text.encode()))
    counts = Counter(record.raw["s"] or fill for record in train)
    ranked = sorted(counts, key=lambda text: (-counts[text], text.encode()))
    known = [text for text in ranked if counts[text] >= said.get("frequency_threshold", 1)]
    known = known[: said.get("top_k")]
    for record in kept:
        text = record.raw["s"] or fill
        stored = record.stored.get(name, record.stored.get(f"{name}/indices"))
        assert stored is not None
        if text in known:
            assert stored.tolist() == [known.index(text)]
        else:
            assert 0 <= stored[0] - len(known) < said.get("num_oov_buckets", 1)


def _check_beside(case: drawn.Case, info: dict[str, Any], kept: list[Record]) -> None:
    """Compares labels and weights with the texts of the rows."""
    named = {f"label/{name}": of for name, of in case.sections.get("labels", {}).items()}
    if "label" in case.sections:
        named["label"] = case.sections["label"]
    for name, said in named.items():
        told = info["labels"][name.removeprefix("label/")] if "/" in name else info["label"]
        for record in kept:
            stored, text = record.stored[name].tolist(), record.row.get(said.get("column"), "")
            match said.get("type", "class"):
                case "class":
                    assert [told["classes"][index] for index in stored] == [text]
                case "multi_label":
                    classes = {one for one in text.split("|") if one}
                    assert stored == sorted(map(told["classes"].index, classes))
                case _ if "expression" in said:
                    assert stored == [int(abs(record.raw["i"]) > 3)]
                case _:
                    assert stored == [record.raw[said["column"]]]
        if "classes" in told:
            assert told["classes"] == sorted(set(told["classes"]), key=str.encode)
    if "weight" in case.sections:
        assert all(record.stored["weight"].tolist() == [record.raw["w"]] for record in kept)
        weights = [record.raw["w"] for record in kept if record.split == "train"]
        assert info["weight"]["statistics"] == {"count": len(weights)} | _exact(weights)


def _tensor(spec: tf.TypeSpec, value: Any) -> tf.Tensor | tf.SparseTensor:
    """One raw value as transform_fn takes it, a list in one row."""
    if not isinstance(value, list):
        return served.as_input(spec, value)
    if not isinstance(spec, tf.SparseTensorSpec):
        return tf.constant([value], spec.dtype)
    places = np.array([[0, place] for place in range(len(value))], np.int64).reshape(-1, 2)
    return tf.SparseTensor(places, tf.constant(value, spec.dtype), (1, len(value)))


def _check_served(case: drawn.Case, folder: Path, kept: list[Record]) -> None:
    """Looks whether transform_fn gives the stored bits, row by row."""
    transform = tf.saved_model.load(str(folder / "transform_fn")).transform_fn
    specs = served.signature(transform)
    beside = {"weight", "label", *(f"label/{name}" for name in case.sections.get("labels", ()))}
    for record in kept:
        raw = record.raw | {"less": (record.raw["i"] or 0) - 1}
        outputs = transform({name: _tensor(spec, raw[name]) for name, spec in specs.items()})
        flat = {}
        for name, output in outputs.items():
            if isinstance(output, tf.SparseTensor):
                # Of a ragged vector the positions say nothing, and its length is beside it.
                is_ragged = name.startswith("r") and name in record.stored
                if not is_ragged:
                    flat[f"{name}/indices"] = output.indices.numpy()[:, 1]
                name, output = name if is_ragged else f"{name}/values", output.values
            flat[name] = output.numpy().reshape(-1)
        assert flat.keys() == record.stored.keys() - beside
        for name, values in flat.items():
            wanted = record.stored[name]
            assert values.tolist() == wanted.tolist(), name
            assert (
                values.dtype == object or not values.size or (values.tobytes() == wanted.tobytes())
            ), name
        for values in record.stored.values():
            assert values.dtype != np.float32 or np.isfinite(values).all()


def _check(case: drawn.Case, folder: Path) -> bool:
    """Looks at all that must hold of a case; returns whether it makes a dataset."""
    info = _made(case, folder / "one", 1, num_threads=1)
    again = _made(case, folder / "cut", 3, num_threads=3, block_mb=0.0003)
    if info is None or again is None:
        assert info is again
        return False
    one, cut = folder / "one" / "out", folder / "cut" / "out"
    assert compare.bytes_of_shards(one, info) == compare.bytes_of_shards(cut, again)
    assert [info.get(key) for key in _TOLD] == [again.get(key) for key in _TOLD]
    json.dumps(info, allow_nan=False)
    assert verify(str(one)) == []

    kept = _records(case, one, info)
    _check_splits(case, kept)
    train = [record for record in kept if record.split == "train"]
    for name, said in case.sections["features"].items():
        told = info["features"].get(name, {})
        if said.get("type") == "vector":
            _check_vector(name, said, told, train)
        elif said.get("column") in ("f", "g", "i") and "type" not in said:
            _check_numbers(said, told, train)
        elif said.get("column") == "s" and "type" not in said:
            _check_vocabulary(said, name, kept, train)
    _check_beside(case, info, kept)
    _check_served(case, one, kept)
    return True


def _for_each(split: str, check: Callable[[drawn.Case], None]) -> None:
    """Calls a function with as many cases as are wanted; one that fails is told by its key."""

    @seed(0)
    @settings(
        max_examples=_NUM_CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # A smaller key makes no smaller case.
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32))
    def of_key(key: int) -> None:
        check(drawn.case(key, split))

    of_key()


def test_everything_is_drawn():
    seen: set[str] = set()
    for split in drawn.SPLITS:
        _for_each(split, lambda case: seen.update(case.drawn))
    wanted = {f"f_{name}" for name in drawn.FLOATS} | {f"i_{name}" for name in drawn.INTS}
    wanted |= {f"s_{name}" for name in drawn.STRINGS} | {*drawn.OTHERS}
    wanted |= {f"label {name}" for name in drawn.LABELS} | {
        f"filter {name}" for name in drawn.FILTERS
    }
    wanted |= {f"f_missing {policy}" for policy in ("reject", "mode", 3, "mean", "median")}
    assert sorted(wanted - seen) == []


@pytest.mark.parametrize("split", drawn.SPLITS)
def test_what_holds_of_every_dataset(split):
    num_made = 0

    def check(case: drawn.Case) -> None:
        nonlocal num_made
        folder = Path(tempfile.mkdtemp())
        try:
            num_made += _check(case, folder)
        finally:
            shutil.rmtree(folder)

    _for_each(split, check)
    assert num_made
