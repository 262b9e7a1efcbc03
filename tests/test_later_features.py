"""Later data of the kinds of features and labels that a table may have."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
from oracle.command import done, headrace

SPEC = """
name = "sales"
[source]
format = "csv"
paths = ["sales.csv"]
types = { day = "date" }
[split]
fractions = { train = 0.5, test = 0.5 }
key = "number"
[features.number]
dtype = "int64"
[features.parts]
type = "vector"
column = "list"
missing = "empty"
transform = "scale_to_0_1"
[features.day]
type = "date"
parts = ["month"]
cycles = ["week"]
[features.color]
dtype = "string"
transform = "compute_and_apply_vocabulary"
output_mode = "one_hot"
[features.pairs]
type = "sparse"
size = 5
[features.size]
expression = "number % 7"
dtype = "float32"
transform = "scale_to_z_score_per_key"
key = "color"
[labels.kind]
column = "kind"
[labels.tags]
column = "tags"
type = "multi_label"
"""


def _write(folder: Path, first: int, spec: str = SPEC) -> Path:
    rng = random.Random(first)
    folder.mkdir(exist_ok=True)
    with open(folder / "sales.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["number", "list", "day", "color", "pairs", "kind", "tags"])
        for number in range(first, first + 200):
            length = rng.randrange(3 if first == 0 else 6)
            numbers = ",".join(str(rng.randint(0, 9)) for _ in range(length))
            color, kind = rng.choice("rgb"), rng.choice("xyz")
            pair = f"{rng.randrange(5)}:{rng.randint(1, 9)}"
            tags = rng.choice(["a|b", "b", "c|a"])
            table.writerow([number, numbers, "2024-02-29", color, pair, kind, tags])
    (folder / "sales.toml").write_text(spec)
    return folder / "sales.toml"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sales")
    done = headrace("run", _write(folder / "old", 0), "--output", folder / "old" / "data")
    assert done.returncode == 0, done.stdout
    return folder / "old" / "data"


def test_all_kinds_of_features_take_the_earlier_transform(earlier, tmp_path):
    spec = _write(tmp_path / "new", 0)  # The same records.
    new = tmp_path / "new" / "data"
    done = headrace("run", spec, "--transform-from", earlier, "--output", new)
    assert done.returncode == 0, done.stdout
    shards = sorted(path.name for path in earlier.glob("*.tfrecord"))
    assert len(shards) == 2
    for name in shards:
        assert (new / name).read_bytes() == (earlier / name).read_bytes()
    assert headrace("verify", new).returncode == 0


def test_a_vocabulary_has_a_file_whatever_its_feature_is_called(tmp_path):
    names = ["日" * 60, "日" * 61, "a/b", "x" * 100]
    words = ["b", "b", "a", "é"]
    spec = tmp_path / "words.toml"
    features = "".join(
        f'"{name}" = {{ column = "x", dtype = "string", '
        'transform = "compute_and_apply_vocabulary" }\n'
        for name in names
    )
    spec.write_text(
        'name = "words"\n[source]\nformat = "csv"\npaths = ["words.csv"]\n[split]\n'
        f"fractions = {{ train = 1 }}\n[features]\n{features}"
    )
    (tmp_path / "words.csv").write_text("\n".join(["x", *words]), encoding="utf-8")
    done("run", spec, "--output", tmp_path / "out")
    (tmp_path / "words.csv").write_text("x\nb\nc\n", encoding="utf-8")
    done("run", spec, "--output", tmp_path / "later", "--transform-from", tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "later"):
        told = json.loads((folder / "dataset_info.json").read_text())["features"]
        files = {name: told[name]["vocabulary_file"] for name in names}
        assert len({*files.values()}) == 4
        assert files["a/b"] == "vocabulary-a%2Fb.json"
        for file in files.values():
            assert json.loads((folder / file).read_text()) == {"vocabulary": ["b", "a", "é"]}
        done("verify", folder)


def test_later_records_are_sound_and_longer_lists_are_cut_when_read(earlier, tmp_path):
    new = tmp_path / "new" / "data"
    spec = _write(tmp_path / "new", 1000)
    done = headrace("run", spec, "--transform-from", earlier, "--output", new)
    assert done.returncode == 0, done.stdout
    old_info, info = (json.loads((d / "dataset_info.json").read_text()) for d in (earlier, new))
    assert old_info["features"]["parts"]["longest"] == 2
    assert info["features"]["parts"]["longest"] == 2
    assert info["labels"] == old_info["labels"]
    verified = headrace("verify", new)
    assert verified.returncode == 0, verified.stdout
    model = tmp_path / "model"
    done = headrace("train", earlier, "--output", model, "--steps", 2, "--batch-size", 8)
    assert done.returncode == 0, done.stdout
    done = headrace("evaluate", model, new, "--split", "test")
    assert done.returncode == 0, done.stdout


def test_another_preprocessing_fn_is_another_transform(earlier, tmp_path):
    spec = _write(tmp_path / "new", 0, f'preprocessing_fn = "sales_steps:steps"\n{SPEC}')
    (tmp_path / "new" / "sales_steps.py").write_text(
        'def steps(inputs):\n    return {"number": inputs["number"]}\n'
    )
    words = ("--transform-from", earlier, "--output", tmp_path / "data")
    done = headrace("run", spec, *words)
    assert (done.returncode, done.stdout.count("\n")) == (2, 1), done.stdout
    assert "preprocessing_fn is None there, but 'sales_steps:steps' in the spec" in done.stdout


def _vectors(folder: Path, name: str, records, features: str) -> Path:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{name}.jsonl").write_text(lines)
    source = f'[source]\nformat = "jsonl"\npaths = {{ {name} = ["{name}.jsonl"] }}\n'
    (folder / f"{name}.toml").write_text(f'name = "{name}"\n{source}{features}')
    return folder / f"{name}.toml"


def test_numbers_of_vectors_that_train_never_held_are_counted(tmp_path):
    rng = np.random.default_rng(2)

    def made(count: int, scale: float) -> list[dict]:
        return [
            {
                "pair": (scale * rng.normal(size=2)).tolist(),
                "x": int(rng.integers(0, 50 * scale)),
                "y": int(rng.integers(-9, 9)),
                "some": (scale * rng.normal(size=rng.integers(0, 4))).tolist(),
                "large": (scale * rng.normal(size=5_000)).tolist(),
            }
            for _ in range(count)
        ]

    kinds = {
        "pair": 'size = 2\ntransform = ["scale_to_z_score", "pca"]\noutput_dim = 1',
        "both": 'columns = ["x", "y"]\ndtype = "int64"',
        "some": 'transform = "center"',
        "large": "size = 5000",
    }
    features = "".join(f'[features.{n}]\ntype = "vector"\n{said}\n' for n, said in kinds.items())
    old, new = made(60, 1), made(30, 2)
    done = headrace("run", _vectors(tmp_path, "train", old, features), "--output", tmp_path / "old")
    assert done.returncode == 0, done.stdout
    spec, before = _vectors(tmp_path, "test", new, features), tmp_path / "old"
    done = headrace("run", spec, "--transform-from", before, "--output", tmp_path / "new")
    assert done.returncode == 0, done.stdout

    def outside(before, after) -> int:
        before, after = (np.array(values, np.float32) for values in (before, after))
        return int(((after < before.min(0)) | (after > before.max(0))).sum())

    both = [[[record["x"], record["y"]] for record in records] for records in (old, new)]
    some = [sum((record["some"] for record in records), []) for records in (old, new)]
    expected = {
        "pair": outside(*([record["pair"] for record in records] for records in (old, new))),
        "large": outside(*([record["large"] for record in records] for records in (old, new))),
        "both": outside(*both),
        "some": outside(*some),
    }
    assert min(expected.values()) > 0
    info = json.loads((tmp_path / "new" / "dataset_info.json").read_text())
    found = {name: info["features"][name].get("out_of_range") for name in kinds}
    assert found == {name: {"test": count} for name, count in expected.items()}
