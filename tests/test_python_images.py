"""Image datasets of Keras' data and of what a function makes: pixels, labels and exact means."""

import collections
import importlib
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from oracle import made_keras, records
from oracle.command import arguments

from beam_jobs.config import load_spec
from beam_jobs.run import run
from beam_jobs.verify import verify

FASHION = """\
name = "fashion"
[source]
format = "keras"
dataset = "fashion_mnist"
[split]
column = "split"
values = { train = ["train"], test = ["test"] }
[[filter]]
name = "not_nine"
where = "label <> '9'"
[features.image]
type = "image"
size = [28, 28]
channels = 1
featurewise_center = true
[label]
column = "label"
[output]
num_shards = 2
"""
MODULE = """
import keras
import numpy as np

def images():
    return np.random.default_rng(8).integers(0, 256, (70, 6, 5, 3), np.uint8)

class Items(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        here = slice(index * 16, index * 16 + 16)
        return images()[here].astype("float32"), (np.arange(70) % 4)[here]

def records():
    for i, image in enumerate(images()):
        yield image, i % 4
"""
MADE = """\
name = "made"
[source]
format = "python"
function = "made_images_here:{function}"
[split]
fractions = {{ train = 0.6, test = 0.4 }}
[features.x]
type = "image"
size = [6, 5]
[label]
column = "y"
[output]
num_shards = 2
"""


def stored(folder: Path, feature: str, split: str) -> collections.Counter:
    """How often each image is there, with the name of its class."""
    manifest = json.loads((folder / "dataset_info.json").read_text())
    classes = manifest["label"]["classes"]
    found = collections.Counter()
    for shard in manifest["splits"][split]["shards"]:
        values = records.parsed(folder / shard["file"], {feature: "string", "label": "int64"})
        names = [classes[i] for i in values["label"].tolist()]
        found.update(zip(values[feature].tolist(), names, strict=True))
    return found


def counted(images: np.ndarray, labels: np.ndarray) -> collections.Counter:
    pairs = zip(images, labels.tolist(), strict=True)
    return collections.Counter((image.tobytes(), str(label)) for image, label in pairs)


@pytest.mark.feature("keras.datasets", "fashion_mnist", '`dataset = "fashion_mnist"`')
def test_a_dataset_of_keras_by_one_command(tmp_path, monkeypatch):
    home = tmp_path / "keras"
    made_keras.write("fashion_mnist", home)
    (tmp_path / "fashion.toml").write_text(FASHION)
    out = tmp_path / "out"
    words = arguments("run", tmp_path / "fashion.toml", "--output", out)

    ran = subprocess.run(**{**words, "env": {**words["env"], "KERAS_HOME": str(home)}}, timeout=300)

    assert ran.returncode == 0
    assert verify(str(out)) == []
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(home))
    keras = importlib.import_module("keras")
    train, test = keras.datasets.fashion_mnist.load_data()
    for split, (x, y) in (("train", train), ("test", test)):
        assert stored(out, "image", split) == counted(x[y != 9], y[y != 9])
    info = json.loads((out / "dataset_info.json").read_text())
    assert info["read"] == len(train[1]) + len(test[1])
    kept = train[0][train[1] != 9].astype(int)
    mean = float(Fraction(int(kept.sum()), kept.size))
    assert info["features"]["image"]["normalization"]["mean"] == [mean]


def test_images_of_a_function_are_those_that_it_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "made_images_here", raising=False)
    (tmp_path / "made_images_here.py").write_text(MODULE)

    for function, num_threads in (("Items", 3), ("records", 1)):
        spec = tmp_path / f"{function}.toml"
        spec.write_text(MADE.format(function=function))
        run(load_spec(str(spec)), str(tmp_path / function), num_threads=num_threads)

    images = importlib.import_module("made_images_here").images()
    found = [
        {split: stored(tmp_path / name, "x", split) for split in ("train", "test")}
        for name in ("Items", "records")
    ]
    assert found[0] == found[1]
    assert found[0]["train"] + found[0]["test"] == counted(images, np.arange(70) % 4)
    assert not list(tmp_path.rglob("*.arrow"))
    assert {*os.listdir(tmp_path / "Items")} == {*os.listdir(tmp_path / "records")}
