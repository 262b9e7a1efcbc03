import fcntl
import json
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import config, dataset_info, evaluate, reading, train
from trainer.errors import DatasetError, UsageError

_NUMBER = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_INDEX = {
    "dtype": "int64",
    "shape": [],
    "stored_as": "int64_list",
    "normalized": True,
    "num_categories": 4,
}
_IMAGE = {"dtype": "uint8", "shape": [8, 8, 1], "stored_as": "raw", "normalized": False}
_TEXT = {"dtype": "string", "shape": [], "stored_as": "bytes_list", "normalized": False}
_TABLE = {"size": _NUMBER, "color": _INDEX, "note": _TEXT}
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["no", "yes"]}


def _table(count, seed):
    """Records whose label follows from size and color."""
    rng = np.random.default_rng(seed)
    sizes, colors = rng.normal(size=count).astype(np.float32), rng.integers(0, 4, count)
    labels = (sizes + colors > 1.5).astype(int)
    return [
        {"size": size, "color": color, "note": b"-", "label": label}
        for size, color, label in zip(sizes, colors, labels, strict=True)
    ]


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory, write_dataset):
    splits = {"train": _table(400, 1), "validation": _table(50, 2), "test": _table(301, 3)}
    directory = tmp_path_factory.mktemp("table")
    return write_dataset(directory, {**splits}, _TABLE, _LABEL, compression="gzip")


@pytest.fixture(name="trained", scope="module")
def fixture_trained(folder, tmp_path_factory):
    """A folder with a model, and what train returned."""
    output = tmp_path_factory.mktemp("model") / "made" / "by_train"
    return output, train.train(
        folder, output, epochs=15, batch_size=32, learning_rate=0.01, verbose=False
    )


def test_learns_and_evaluates_every_example_once(folder, trained):
    output, _ = trained
    records = _table(301, 3)
    labels = np.array([record["label"] for record in records])
    assert 0.3 < labels.mean() < 0.7
    result = evaluate.evaluate(output, folder, batch_size=64)  # The last batch has 45.
    assert result["num_examples"] == 301
    assert result["accuracy"] > 0.95
    inputs = {name: np.array([r[name] for r in records]) for name in ("size", "color")}
    network = keras.models.load_model(output / "model.keras")
    probabilities = network.predict(inputs, verbose=0).astype(np.float64)
    hits = probabilities.argmax(axis=1) == labels
    assert result["accuracy"] == pytest.approx(hits.mean(), abs=1e-6)
    losses = -np.log(probabilities[np.arange(301), labels])
    assert result["loss"] == pytest.approx(losses.mean(), abs=1e-5)


def test_the_history_says_what_was_done(folder, trained):
    output, history = trained
    assert json.loads((output / "history.json").read_text()) == history
    assert sorted(path.name for path in output.iterdir()) == [
        ".lock",
        "dataset",
        "history.json",
        "model.keras",
    ]
    assert history["config"] == {
        "epochs": 15,
        "steps": 180,
        "steps_per_epoch": 12,
        "batch_size": 32,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "class_weights": "none",
        "accumulate": 1,
        "patience": None,
        "crop": None,
        "augmentation": None,
        "mixed_precision": "none",
        "seed": 0,
        "deterministic": False,
        "model": "trainer.model:build",
        "backend": keras.backend.backend(),
    }
    dataset = dict(history["dataset"])
    assert re.fullmatch("[0-9a-f]{64}", dataset.pop("examples"))
    assert dataset == {"name": "handmade", "spec_digest": "00ff", "classes": ["no", "yes"]}
    assert len(history["epochs"]) == 15
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < set(history["epochs"][0])


def test_the_weights_of_the_best_epoch_are_kept(folder, tmp_path):
    history = train.train(folder, tmp_path, epochs=6, model=_unstable, verbose=False)
    scores = [(epoch["val_accuracy"], -epoch["val_loss"]) for epoch in history["epochs"]]
    best = scores.index(max(scores))
    assert best < 5
    assert history["best_epoch"] == best + 1
    result = evaluate.evaluate(tmp_path, folder, "validation")
    assert result["num_examples"] == 50
    assert result["loss"] == pytest.approx(-scores[best][1], rel=1e-5)
    assert result["loss"] != pytest.approx(-scores[-1][1], rel=1e-3)


def _unstable(info):
    """A model with a learning rate so high that the last epoch is not the best."""
    inputs = {"size": keras.Input((), name="size")}
    hidden = keras.layers.Reshape((1,))(inputs["size"])
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    network.compile(
        keras.optimizers.SGD(20.0), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return network


def test_defaults_follow_from_the_size():
    sizes = [1, 40, 455, 1_437, 26_070, 10_000_000]
    tables = [config.default_batch_size(size, False) for size in sizes]
    assert tables == [8, 8, 128, 128, 256, 512]
    images = [config.default_batch_size(size, True) for size in sizes]
    assert images == [32, 32, 32, 32, 256, 512]
    epochs = map(config.default_epochs, sizes, tables, [False] * 6)
    assert list(epochs) == [100, 60, 100, 91, 10, 3]
    epochs = map(config.default_epochs, sizes, images, [True] * 6)
    assert list(epochs) == [100, 100, 86, 27, 16, 16]


def test_numbers_of_any_scale_are_learned(tmp_path, write_dataset):
    rng = np.random.default_rng(4)
    rooms = rng.normal(500, 30, 300).astype(np.float32)
    prices = (rooms * 2_000 - 4e5).astype(np.float32)
    records = [{"rooms": r, "label": p} for r, p in zip(rooms, prices, strict=True)]
    statistics = {"mean": float(prices.mean()), "std": float(prices.std())}
    label = {"name": "price", "dtype": "float32", "type": "float32", "statistics": statistics}
    number = _NUMBER | {"raw_statistics": {"mean": 500.0, "std": 30.0, "min": 400, "max": 600}}
    splits = {"train": records[:200], "test": records[200:]}
    folder = write_dataset(tmp_path / "data", splits, {"rooms": number}, label)
    train.train(
        folder, tmp_path / "model", epochs=20, batch_size=16, learning_rate=0.01, verbose=False
    )
    result = evaluate.evaluate(tmp_path / "model", folder)
    assert prices.std() > 50_000
    assert result["mae"] < 15_000
    assert set(result) == {"num_examples", "loss", "mae"}


def test_images_and_numbers_together_and_a_label_of_0_and_1(tmp_path, write_dataset, capsys):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 160)
    records = [
        {
            "image": (rng.integers(0, 120, (8, 8, 1)) + 100 * label).astype(np.uint8),
            "size": rng.normal(),
            "note": b"-",
            "label": label,
        }
        for label in labels
    ]
    label = {"name": "k", "dtype": "int64", "type": "int64", "statistics": {"min": 0, "max": 1}}
    features = {"image": _IMAGE, "size": _NUMBER, "note": _TEXT}
    folder = write_dataset(
        tmp_path / "d", {"train": records[:96], "test": records[96:]}, features, label
    )
    train.train(folder, tmp_path / "model", epochs=15, learning_rate=0.01)
    assert evaluate.evaluate(tmp_path / "model", folder)["accuracy"] > 0.95
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("handmade: 96 train, 64 test examples; a model of ")
    assert lines[1:3] == ["not used by the model: note", "15 epochs, 32 examples a step"]
    assert lines[3].startswith("epoch  1/15  loss ")
    assert len(lines) == 3 + 15


_TWO_RUNS = """
import sys, keras, numpy
from tensorflow.python.framework import config
from trainer import train
weights = []
for seed in (1, 1, 2):
    options = dict(seed=seed, deterministic=True, overwrite=True, verbose=False)
    train.train(sys.argv[1], sys.argv[2], epochs=1, **options)
    weights.append(keras.models.load_model(sys.argv[2] + "/model.keras").get_weights())
same = lambda a, b: all(numpy.array_equal(x, y) for x, y in zip(a, b, strict=True))
print(same(weights[0], weights[1]), same(weights[0], weights[2]))
print(config.is_op_determinism_enabled())  # So small a model gives the same bits without it too.
"""


def test_deterministic_runs_give_the_same_bits(tmp_path, write_dataset):
    """In a process of its own: determinism cannot be switched off again."""
    rng = np.random.default_rng(6)
    records = [{"image": rng.integers(0, 256, (4, 4, 3), np.uint8), "label": 0} for _ in range(64)]
    features = {"image": _IMAGE | {"shape": [4, 4, 3]}}
    folder = write_dataset(tmp_path / "data", {"train": records}, features, _LABEL)
    command = [sys.executable, "-c", _TWO_RUNS, str(folder), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\nTrue\n"


def test_a_loss_that_is_no_number_stops_the_training(tmp_path, write_dataset):
    # In a feature it may not reach the loss: some processors make 0 of the ReLU of NaN.
    records = [{"size": 1.0, "label": float("nan")}] * 8
    price = {"name": "price", "dtype": "float32", "type": "float32", "statistics": {}}
    folder = write_dataset(tmp_path / "data", {"train": records}, {"size": _NUMBER}, price)
    with pytest.raises(DatasetError, match="the loss is nan in epoch 1"):
        train.train(folder, tmp_path / "model", epochs=3, verbose=False)
    assert not (tmp_path / "model" / "model.keras").exists()


def test_a_damaged_shard_is_an_error_of_the_dataset(tmp_path, write_dataset, trained):
    folder = write_dataset(tmp_path / "data", {"train": _table(9, 1)}, _TABLE, _LABEL)
    (path,) = folder.glob("train-00000-*")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    where = f"{path}: one of the records 0 to 4 is damaged. Run `headrace run` with --overwrite."
    for call in (
        lambda: evaluate.evaluate(trained[0], folder, "train"),
        lambda: train.train(folder, tmp_path / "model", epochs=1, batch_size=9, verbose=False),
    ):
        with pytest.raises(DatasetError) as caught:
            call()
        assert str(caught.value) == where


def test_a_missing_shard_is_an_error_of_the_dataset(tmp_path, write_dataset):
    folder = write_dataset(tmp_path / "data", {"train": _table(9, 1)}, _TABLE, _LABEL)
    (path,) = folder.glob("train-00000-*")
    path.unlink()
    with pytest.raises(DatasetError, match=f"{path}: is missing .*Run `headrace run` with --over"):
        train.train(folder, tmp_path / "model", epochs=1, verbose=False)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "number of epochs must be at least 1, but is 0"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, but is -1"),
        ({"seed": 2**32}, "seed must be from 0 to 4294967295, but is 4294967296"),
        ({"steps": 2, "accumulate": 3}, "at most that of all steps, 2, but is 3"),
        ({"batch_size": -1}, "batch size must be at least 1, but is -1"),
        ({"learning_rate": 0.0}, "learning rate must be above 0, but is 0.0"),
        ({"learning_rate": float("nan")}, "learning rate must be above 0, but is nan"),
        ({"model": "my_model"}, "must be package.module:function, but is 'my_model'"),
        ({"model": "no.such:thing"}, "cannot import 'no.such:thing': No module named 'no'"),
        ({"model": "json:absent"}, "cannot import 'json:absent': module 'json' has no attribute"),
        ({"model": "json:__name__"}, "'json:__name__' is not a function"),
        ({"model": "builtins:repr"}, "builtins:repr must return a keras.Model, but returned"),
    ],
)
def test_wrong_arguments_of_train(folder, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        train.train(folder, tmp_path / "model", verbose=False, **options)


def test_an_output_that_cannot_be_made(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="must be a folder for the model, but is empty"):
        train.train(folder, "", verbose=False)
    for output in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(UsageError, match="file"):
            train.train(folder, output, verbose=False)


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["dataset", ".", "dataset/inner"])
def test_no_dataset_is_replaced(tmp_path, write_dataset, place):
    directory = write_dataset(tmp_path / place, {"train": _table(9, 1)}, _TABLE, _LABEL)
    before = _files(tmp_path)
    with pytest.raises(UsageError, match="Give another folder for the model"):
        train.train(directory, tmp_path, epochs=1, overwrite=True, verbose=False)
    assert _files(tmp_path) == before


def test_two_trainings_do_not_write_to_one_folder(folder, tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another training writes there"):
            train.train(folder, tmp_path, epochs=1, verbose=False)
    train.train(folder, tmp_path, epochs=1, verbose=False)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"dataset": null}', "1"])
def test_a_damaged_history_is_one_line(folder, tmp_path, trained, text):
    shutil.copy(trained[0] / "model.keras", tmp_path)
    (tmp_path / "history.json").write_text(text)
    for call in (train.train, lambda one, other, **_: evaluate.evaluate(other, one)):
        with pytest.raises(UsageError, match="history.json: is missing or damaged"):
            call(folder, tmp_path, verbose=False)


def test_what_is_no_number_is_null_in_the_history(tmp_path):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    history = {"epochs": [{"val_loss": float("nan")}]}
    train.model_folder.save(str(tmp_path), network, history)
    assert json.loads((tmp_path / "history.json").read_text()) == {"epochs": [{"val_loss": None}]}


def test_memory_is_not_the_datasets_fault(folder):
    info = dataset_info.read(folder)
    with pytest.raises(DatasetError, match="^TensorFlow cannot go on: no memory.$"):
        with reading.dataset_errors(info):
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")


def test_a_function_that_fails_is_named(folder, tmp_path):
    def absent(info):
        return {}["absent"]

    def double(info):
        inputs = keras.Input((), name="size")
        return keras.Model({"size": inputs}, [inputs, inputs + 1])

    for function, message in [(absent, r"absent cannot build .*KeyError"), (double, "has 2")]:
        with pytest.raises(UsageError, match=message):
            train.train(folder, tmp_path, model=function, verbose=False)


def test_a_module_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine_of_this_test.py").write_text("def build(info): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert train._resolve("mine_of_this_test:build").__name__ == "build"


def test_what_a_training_kept_is_replaced(folder, tmp_path, write_dataset):
    train.train(folder, tmp_path / "model", epochs=1, verbose=False)
    splits = {"train": _table(9, 1)}
    other = write_dataset(tmp_path / "other", splits, _TABLE, _LABEL, name="another")
    train.train(other, tmp_path / "model", epochs=1, overwrite=True, verbose=False)
    kept = json.loads((tmp_path / "model" / "dataset" / "dataset_info.json").read_text())
    assert (kept["name"], kept["splits"]) == ("another", {})
    assert not list((tmp_path / "model").glob(".partial-*"))


def test_an_empty_split_is_an_error(tmp_path, write_dataset, trained):
    splits = {"train": [], "test": []}
    folder = write_dataset(tmp_path / "data", splits, _TABLE, _LABEL)
    with pytest.raises(DatasetError, match="'train' holds no examples to learn from"):
        train.train(folder, tmp_path / "model", verbose=False)
    with pytest.raises(DatasetError, match="'test' holds no examples to evaluate on"):
        evaluate.evaluate(trained[0], folder)


def test_wrong_arguments_of_evaluate(folder, tmp_path, trained):
    with pytest.raises(UsageError, match="holds no model.keras"):
        evaluate.evaluate(tmp_path, folder)
    with pytest.raises(UsageError, match="no split 'exam'"):
        evaluate.evaluate(trained[0], folder, "exam")
    with pytest.raises(UsageError, match="batch size must be at least 1, but is 0"):
        evaluate.evaluate(trained[0], folder, batch_size=0)
    (tmp_path / "model.keras").write_bytes(b"no zip")
    with pytest.raises(UsageError, match="model.keras: cannot be loaded"):
        evaluate.evaluate(tmp_path, folder)


def test_a_model_is_not_evaluated_on_other_classes(tmp_path, write_dataset, trained):
    label = _LABEL | {"classes": ["yes", "no"]}
    splits = {"train": _table(9, 1), "test": _table(9, 2)}
    folder = write_dataset(tmp_path / "data", splits, _TABLE, label)
    with pytest.raises(UsageError, match=r"classes \['no', 'yes'\], but .* has \['yes', 'no'\]"):
        evaluate.evaluate(trained[0], folder)


def test_another_spec_is_remarked_on(tmp_path, write_dataset, trained, capsys):
    folder = write_dataset(tmp_path, {"train": _table(9, 1), "test": _table(9, 2)}, _TABLE, _LABEL)
    evaluate.evaluate(trained[0], folder)
    assert capsys.readouterr().err == ""
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace("00ff", "00fe"))
    evaluate.evaluate(trained[0], folder)
    assert "written by another spec than 'handmade'" in capsys.readouterr().err
