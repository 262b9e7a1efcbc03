"""Metrics against scikit-learn's, on what the Keras model itself predicts."""

import contextlib
import json
import os
import signal

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from headrace import cli
from trainer import confusion_matrix, evaluate
from trainer.__main__ import main
from trainer.errors import DatasetError, UsageError

_NUMBER = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_CLASSES = ["ant", "bee", "cat", "dog"]
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": _CLASSES}


def _records(count, seed, num_classes=3):
    """Some records of classes 0 to 2, which x tells now and then."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, count)
    x = (labels + rng.normal(0, 0.7, count)).astype(np.float32)
    return [{"x": value, "label": label} for value, label in zip(x, labels, strict=True)]


def _model(units, activation, loss, metrics=(), *, slope=1.0, name="x"):
    """A model of one layer whose weights are set by hand."""
    x = keras.Input((), name=name)
    dense = keras.layers.Dense(units, activation=activation)
    network = keras.Model({name: x}, dense(keras.layers.Reshape((1,))(x)))
    steps = np.arange(units, dtype=np.float32)
    dense.set_weights([slope * steps[None] + 0.1, -slope * steps**2 / 2])
    if loss:
        network.compile(loss=loss, metrics=list(metrics))
    return network


@pytest.fixture(name="saved")
def fixture_saved(tmp_path):
    def save(network):
        (tmp_path / "model").mkdir(exist_ok=True)
        network.save(tmp_path / "model" / "model.keras")
        return tmp_path / "model"

    return save


@pytest.fixture(name="dataset")
def fixture_dataset(tmp_path, write_dataset):
    def write(records, label=_LABEL, x=_NUMBER, name="x"):
        splits = {"train": records[:0], "test": records}
        return write_dataset(tmp_path / "data", splits, {name: x}, label)

    return write


def _columns(records):
    x = np.array([record["x"] for record in records], np.float32)
    return x, np.array([record["label"] for record in records])


_CLASS_LOSS = "sparse_categorical_crossentropy"


@pytest.mark.parametrize("batch_size", [None, 7])
def test_classes_against_scikit_learn(dataset, saved, batch_size):
    records = _records(301, 1)
    folder = dataset(records)
    network = _model(4, "softmax", _CLASS_LOSS, ["accuracy"])
    result = evaluate.evaluate(saved(network), folder, batch_size=batch_size)
    x, labels = _columns(records)
    predicted = network.predict({"x": x}, verbose=0).astype(np.float64)
    best = predicted.argmax(axis=1)
    assert set(labels) == {0, 1, 2} and set(best) == {0, 1, 2, 3}  # No dog, but taken for one.
    wanted = metrics.precision_recall_fscore_support(labels, best, labels=range(4), zero_division=0)
    found = [list(result["classes"][name].values()) for name in _CLASSES]
    assert np.allclose(found, np.transpose(wanted), rtol=1e-12, atol=0)
    assert [*result["classes"]["ant"]] == ["precision", "recall", "f1", "support"]
    macro = metrics.precision_recall_fscore_support(
        labels, best, labels=range(4), average="macro", zero_division=0
    )
    assert np.allclose(list(result["macro"].values()), macro[:3], rtol=1e-12, atol=0)
    assert (
        result["confusion_matrix"]
        == metrics.confusion_matrix(labels, best, labels=range(4)).tolist()
    )
    assert result["accuracy"] == metrics.accuracy_score(labels, best)
    loss = metrics.log_loss(labels, predicted / predicted.sum(1, keepdims=True), labels=range(4))
    assert result["loss"] == pytest.approx(loss, rel=1e-6)
    assert result["num_examples"] == 301


def test_logits_are_made_probabilities(dataset, saved):
    records = _records(50, 2)
    folder = dataset(records)
    of_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = evaluate.evaluate(saved(_model(4, None, of_logits)), folder)
    wanted = evaluate.evaluate(saved(_model(4, "softmax", _CLASS_LOSS)), folder)
    assert found == {**wanted, "loss": pytest.approx(wanted["loss"], rel=1e-6)}


def test_a_label_of_0_and_1_is_measured_as_two_classes(dataset, saved):
    records = _records(200, 3, num_classes=2)
    label = {"name": "k", "dtype": "int64", "type": "int64"}
    folder = dataset(records, label)
    network = _model(1, "sigmoid", "binary_crossentropy", ["accuracy"])
    result = evaluate.evaluate(saved(network), folder)
    x, labels = _columns(records)
    of_one = network.predict({"x": x}, verbose=0)[:, 0].astype(np.float64)
    assert result["loss"] == pytest.approx(metrics.log_loss(labels, of_one), rel=1e-12)
    best = (of_one > 0.5).astype(int)
    assert result["confusion_matrix"] == metrics.confusion_matrix(labels, best).tolist()
    assert result["classes"]["1"]["f1"] == metrics.f1_score(labels, best)


def test_numbers_have_a_squared_and_an_absolute_error(dataset, saved):
    records = [{**r, "label": float(r["label"] * 1000.5)} for r in _records(99, 4)]
    label = {"name": "price", "dtype": "float32", "type": "float32"}
    folder = dataset(records, label)
    network = _model(1, None, "mean_squared_error", ["mae"])
    result = evaluate.evaluate(saved(network), folder)
    x, prices = _columns(records)
    values = network.predict({"x": x}, verbose=0)[:, 0].astype(np.float64)
    prices = prices.astype(np.float32)
    assert result == {
        "num_examples": 99,
        "loss": pytest.approx(metrics.mean_squared_error(prices, values), rel=1e-12),
        "mae": pytest.approx(metrics.mean_absolute_error(prices, values), rel=1e-12),
    }


def test_ones_own_loss_and_metrics_come_from_keras(dataset, saved):
    records = _records(60, 5)
    folder = dataset(records)
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=3, name="top3")
    network = _model(4, "softmax", _CLASS_LOSS, ["accuracy", top])
    result = evaluate.evaluate(saved(network), folder, batch_size=60)
    x, labels = _columns(records)
    predicted = network.predict({"x": x}, verbose=0)
    top3 = metrics.top_k_accuracy_score(labels, predicted, k=3, labels=range(4))
    assert result["top3"] == pytest.approx(top3, abs=1e-6) and 0 < top3 < 1
    summed = keras.losses.SparseCategoricalCrossentropy(reduction="sum", name="summed")
    network.compile(loss=summed)
    found = evaluate.evaluate(saved(network), folder, batch_size=60)
    assert found["loss"] == pytest.approx(60 * result["loss"], rel=1e-5)
    assert {**found, "loss": 0} == {
        name: value for name, value in result.items() if name != "top3"
    } | {"loss": 0}


def test_weighted_metrics_come_from_keras_too(dataset, saved):
    records = _records(60, 5)
    network = _model(4, "softmax", _CLASS_LOSS)
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=3, name="top3")
    network.compile(loss=_CLASS_LOSS, weighted_metrics=["accuracy", top])
    result = evaluate.evaluate(saved(network), dataset(records), batch_size=60)
    x, labels = _columns(records)
    predicted = network.predict({"x": x}, verbose=0)
    top3 = metrics.top_k_accuracy_score(labels, predicted, k=3, labels=range(4))
    assert result["top3"] == pytest.approx(top3, abs=1e-6) and 0 < top3 < 1


def test_a_float_between_0_and_1_is_a_number(dataset, saved):
    records = [{**r, "label": r["label"] / 2} for r in _records(64, 4)]
    label = {"name": "share", "dtype": "float32", "type": "float32"}
    network = _model(1, "sigmoid", "binary_crossentropy")
    result = evaluate.evaluate(saved(network), dataset(records, label), batch_size=64)
    x, shares = _columns(records)
    values = network.predict({"x": x}, verbose=0)[:, 0].astype(np.float64)
    loss = -np.mean(shares * np.log(values) + (1 - shares) * np.log(1 - values))
    assert result == {
        "num_examples": 64,
        "loss": pytest.approx(loss, rel=1e-5),
        "mae": pytest.approx(metrics.mean_absolute_error(shares, values), rel=1e-12),
    }


@pytest.mark.parametrize("wanted, dtype", [("int64", "float32"), ("string", "int64")])
def test_features_of_another_dtype_are_one_line(dataset, saved, wanted, dtype):
    stored_as = {"int64": "int64_list", "float32": "float_list"}[dtype]
    feature = {**_NUMBER, "dtype": dtype, "stored_as": stored_as}
    folder = dataset([{"x": 1 if dtype == "int64" else 1.5, "label": 0}], x=feature)
    x = keras.Input((), name="x", dtype=wanted)
    number = keras.layers.StringLookup(vocabulary=["a"])(x) if wanted == "string" else x
    flat = keras.layers.Reshape((1,))(keras.ops.cast(number, "float32"))
    network = keras.Model({"x": x}, keras.layers.Dense(4, "softmax")(flat))
    with pytest.raises(UsageError, match=rf"'x', {wanted} of shape \(\), but .* it is .*{dtype}"):
        evaluate.evaluate(saved(network), folder)


@pytest.mark.parametrize(
    "network, message",
    [
        (_model(4, "softmax", _CLASS_LOSS, name="y"), r"takes a feature 'y', .*there is none"),
        (_model(5, "softmax", _CLASS_LOSS), r"must be \(batch, 4\) .* but is \(32, 5\)"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(dataset, saved, network, message, capsys):
    records = _records(32, 6)
    folder = dataset(records)
    assert main(["evaluate", str(saved(network)), str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(UsageError, match=message):
        evaluate.evaluate(saved(network), folder)


def test_images_of_another_size_are_one_line(dataset, saved):
    image = {"dtype": "uint8", "shape": [2, 3, 1], "stored_as": "raw", "normalized": False}
    records = [{"image": np.zeros((2, 3, 1), np.uint8), "label": 0}]
    folder = dataset(records, x=image, name="image")
    x = keras.Input((4, 4, 1), name="image", dtype="uint8")
    network = keras.Model({"image": x}, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    with pytest.raises(UsageError, match=r"of shape \(4, 4, 1\), but .* it is uint8 \(2, 3, 1\)"):
        evaluate.evaluate(saved(network), folder)


def test_a_label_without_a_class_is_an_error(dataset, saved, capsys):
    records = [*_records(10, 7), {"x": 1.0, "label": 4}]
    folder = dataset(records)
    model = saved(_model(4, "softmax", _CLASS_LOSS))
    with pytest.raises(DatasetError, match="a label must be 0 to 3 .* but is 4"):
        evaluate.evaluate(model, folder)
    assert main(["evaluate", str(model), str(folder)]) == 1


def test_json_and_pictures_of_several_splits(tmp_path, write_dataset, saved, capsys):
    splits = {"train": _records(40, 8), "test": _records(30, 9)}
    folder = write_dataset(tmp_path / "data", splits, {"x": _NUMBER}, _LABEL)
    model, output = saved(_model(4, "softmax", _CLASS_LOSS)), tmp_path / "new" / "folder"
    call = ["evaluate", str(model), str(folder), "--split", "train", "--split", "test", "--json"]
    assert main([*call, "--output", str(output)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [*printed] == ["train", "test"]
    assert [result["num_examples"] for result in printed.values()] == [40, 30]
    assert json.loads((output / "evaluation.json").read_text()) == printed
    for split in ("train", "test"):
        assert Image.open(output / f"confusion-{split}.png").size[0] > 200


def test_names_of_classes_do_nothing_to_a_terminal(dataset, saved, capsys):
    folder = dataset(_records(10, 7), {**_LABEL, "classes": ["ant", "be\x1b[31me", "c\x9b", "d\n"]})
    model = saved(_model(4, "softmax", _CLASS_LOSS))
    assert main(["evaluate", str(model), str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [
        "ant",
        r"be\x1b[31me",
        r"c\x9b",
        r"d\n",
        "mean",
    ]


@pytest.mark.parametrize("run", [main, cli.main])
def test_an_interrupted_evaluation_does_not_go_on(run, dataset, saved, tmp_path, capsys):
    call = ["evaluate", str(saved(_model(4, "softmax", _CLASS_LOSS))), str(dataset(_records(9, 7)))]
    os.mkfifo(tmp_path / "evaluation.json")  # To open it for writing waits for a reader.
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(3)
    try:
        assert run([*call, "--output", str(tmp_path)]) == 130
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert capsys.readouterr().err == "headrace: interrupted.\n"


@pytest.mark.parametrize("run", [main, cli.main])
def test_what_the_system_refuses_is_one_line(run, dataset, saved, capsys):
    call = ["evaluate", str(saved(_model(4, "softmax", _CLASS_LOSS))), str(dataset(_records(9, 7)))]
    with contextlib.suppress(OSError), open("/dev/full", "w", buffering=1) as full:  # Of close.
        with contextlib.redirect_stdout(full):
            status = run(call)
    assert status == 1
    assert capsys.readouterr().err == "headrace: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("num_classes", [1, 2, 12, 300])
def test_the_picture_is_dark_where_the_examples_fell(num_classes):
    counts = np.eye(num_classes, dtype=np.int64) * 50
    if num_classes > 2:
        counts[1] = np.roll(counts[1], 1)  # All of class 1 are taken for class 2.
    names = [f"class {i} of several" for i in range(num_classes)]
    picture = np.asarray(confusion_matrix.draw(counts, names, "title").convert("L")).astype(int)
    side = max(1, min(72, 900 // num_classes))
    frame = np.argwhere(picture == 30)[-1] + 1  # The matrix ends before its frame's last corner.
    cells = picture[frame[0] - 1 - side * num_classes : frame[0] - 1]
    cells = cells[:, frame[1] - 1 - side * num_classes : frame[1] - 1]
    corner = cells[1 % side :: side, 1 % side :: side]  # A count stands in a cell's middle.
    assert ((corner < 100) == (counts > 0)).all()
