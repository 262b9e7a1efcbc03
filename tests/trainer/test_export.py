"""Models that are exported without a spec, and what may go wrong."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import export, model_dataset, train
from trainer.__main__ import main
from trainer.errors import UsageError

_NUMBER = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_INDEX = {"dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": True}
_TEXT = {"dtype": "string", "shape": [], "stored_as": "bytes_list", "normalized": False}
_IMAGE = {"dtype": "uint8", "shape": [4, 5, 1], "stored_as": "raw", "normalized": False}
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["no", "é"]}


@pytest.fixture(name="exported")
def fixture_exported(tmp_path, write_dataset):
    """Returns a function that exports a model for a dataset, and loads the result."""

    def make(network, features, label=_LABEL):
        record = {name: _value(feature) for name, feature in features.items()}
        splits = {"train": [record | {"label": 0}]}
        folder = write_dataset(tmp_path / "data", splits, features, label)
        (tmp_path / "model").mkdir()
        network.save(tmp_path / "model" / "model.keras")
        told = export.export(tmp_path / "model", tmp_path / "saved", str(folder))
        return told, tf.saved_model.load(tmp_path / "saved")

    return make


def _value(feature):
    if feature["stored_as"] == "raw":
        return np.zeros(feature["shape"], np.uint8)
    return {"float32": 0.5, "int64": 1, "string": b"-"}[feature["dtype"]]


def _dense(inputs, units, activation):
    flat = [keras.layers.Reshape((-1,))(keras.ops.cast(x, "float32")) for x in inputs.values()]
    x = keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation)(x))


def test_without_a_transform_fn_stored_features_are_what_can_be_given(exported):
    inputs = {
        "image": keras.Input((4, 5, 1), name="image", dtype="uint8"),
        "size": keras.Input((), name="size"),
    }
    network = _dense(inputs, 2, "softmax")
    told, loaded = exported(network, {"size": _NUMBER, "image": _IMAGE, "note": _TEXT})
    assert not told.has_transform_fn
    assert set(loaded.signatures) == {"serving_default", "stored_features"}
    image = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 1), np.uint8)
    given = {"image": image, "size": np.linspace(-2, 2, 7, dtype=np.float32)}
    tensors = {name: tf.constant(values) for name, values in given.items()}
    found = loaded.signatures["serving_default"](**tensors)
    wanted = network.predict(given, verbose=0)
    assert np.allclose(found["probabilities"], wanted, atol=1e-6)
    best = wanted.argmax(axis=1)
    assert [name.decode() for name in found["class"].numpy()] == [["no", "é"][i] for i in best]
    assert np.array_equal(found["score"], found["probabilities"].numpy().max(axis=1))


def test_names_that_no_signature_can_have_are_changed(exported, tmp_path):
    names = ["a b", "a-b", "A", "a", "self", "1st", "größe", "_x", "plain", "batch_size"]
    inputs = {name: keras.Input((), name=f"input{i}") for i, name in enumerate(names)}
    features = {name: _NUMBER for name in names}
    network = _dense(inputs, 1, None)
    label = {"name": "v", "dtype": "float32", "type": "float32"}
    told, loaded = exported(network, features, label)
    description = json.loads((tmp_path / "saved/assets.extra/headrace.json").read_text())
    assert (
        description["renamed"]
        == told.renamed
        == {
            "a b": "a_b",
            "a-b": "a_b_2",
            "a": "a_2",
            "self": "arg_self",
            "1st": "arg_1st",
            "größe": "gr__e",
            "_x": "arg__x",
        }
    )
    values = {name: np.float32([i, -i]) for i, name in enumerate(names)}
    given = {told.renamed.get(name, name): tf.constant(values[name]) for name in names}
    found = loaded.signatures["serving_default"](**given)["value"].numpy()
    wanted = network.predict(values, verbose=0)[:, 0]
    assert np.allclose(found, wanted, atol=1e-5) and wanted[0] != wanted[1]


def test_probabilities_whatever_the_last_layer_gives(exported):
    network = _dense({"size": keras.Input((), name="size")}, 1, None)
    network.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    _, loaded = exported(network, {"size": _NUMBER})
    sizes = np.float32([-1, 0, 2])
    logits = network.predict({"size": sizes}, verbose=0)[:, 0].astype(np.float64)
    second = 1 / (1 + np.exp(-logits))
    found = loaded.signatures["serving_default"](size=tf.constant(sizes))
    wanted = np.stack([1 - second, second], axis=1)
    assert np.allclose(found["probabilities"], wanted, atol=1e-6)


def test_a_lookup_table_in_a_model_is_saved_with_it(exported):
    text = keras.Input((), name="note", dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["red", "blue"], output_mode="one_hot")
    network = keras.Model({"note": text}, keras.layers.Dense(2, "softmax")(lookup(text)))
    _, loaded = exported(network, {"note": _TEXT})
    notes = tf.constant(["blue", "red", "green"])
    found = loaded.signatures["serving_default"](note=notes)["probabilities"].numpy()
    kernel, bias = network.layers[-1].get_weights()
    logits = kernel[[2, 1, 0]] + bias
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(found, wanted, atol=1e-6)


_JAX = """
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
import keras, numpy
assert keras.backend.backend() == "jax"
x = keras.Input((), name="size")
network = keras.Model({"size": x}, keras.layers.Dense(2, "softmax")(keras.layers.Reshape((1,))(x)))
network.layers[-1].set_weights([numpy.array([[1.0, -2.0]]), numpy.array([0.5, 0.0])])
network.save(sys.argv[1])
"""


def test_a_model_that_was_trained_on_jax_is_rebuilt_in_tensorflow(tmp_path, write_dataset):
    pytest.importorskip("jax")
    folder = write_dataset(
        tmp_path / "data", {"train": [{"size": 1.0, "label": 0}]}, {"size": _NUMBER}, _LABEL
    )
    (tmp_path / "model").mkdir()
    saved, environment = tmp_path / "saved", {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", _JAX, tmp_path / "model" / "model.keras"], check=True)
    call = ["export", tmp_path / "model", "--output", saved, "--dataset", folder]
    subprocess.run([sys.executable, "-m", "trainer", *call], check=True, env=environment)
    loaded = tf.saved_model.load(saved)
    found = loaded.signatures["serving_default"](size=tf.constant([0.25]))["probabilities"]
    wanted = np.exp([0.75, -0.5]) / np.exp([0.75, -0.5]).sum()
    assert np.allclose(found, [wanted], atol=1e-6)


def test_the_command_says_what_can_be_given(tmp_path, write_dataset, capsys):
    record = {"size": 1.0, "label": 0}
    folder = write_dataset(tmp_path / "data", {"train": [record]}, {"size": _NUMBER}, _LABEL)
    (tmp_path / "model").mkdir()
    _dense({"size": keras.Input((), name="size")}, 2, "softmax").save(
        tmp_path / "model/model.keras"
    )
    call = ["export", str(tmp_path / "model"), "--output", str(tmp_path / "saved")]
    assert main(call) == 2
    assert "keeps nothing of the dataset it was trained on" in capsys.readouterr().err
    model_dataset.keep(str(tmp_path / "model"), model_dataset.dataset_info.read(folder))
    assert main(call) == 0
    assert capsys.readouterr().out.splitlines() == [
        "serving_default: size",
        "stored_features: size",
        "the dataset has no transform_fn: only stored features can be given",
        f"saved model: {tmp_path}/saved",
    ]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert (
        error
        == f"headrace: {tmp_path}/saved: is there already. Remove it, or give another --output.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "model", "saved"]


def test_a_dataset_of_other_features_is_one_line(tmp_path, write_dataset):
    record = {"size": 1.0, "label": 0}
    folder = write_dataset(tmp_path / "data", {"train": [record]}, {"size": _NUMBER}, _LABEL)
    (tmp_path / "model").mkdir()
    _dense({"age": keras.Input((), name="age")}, 2, "softmax").save(tmp_path / "model/model.keras")
    with pytest.raises(UsageError, match="takes a feature 'age', but the dataset has size"):
        export.export(tmp_path / "model", tmp_path / "saved", str(folder))
    with pytest.raises(UsageError, match="there is no such folder"):
        export.export(tmp_path / "model", tmp_path / "saved", str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="holds no model.keras"):
        export.export(tmp_path, tmp_path / "saved", str(folder))
    assert not (tmp_path / "saved").exists()


def test_what_lies_beside_the_output_stays(tmp_path, write_dataset):
    record = {"size": 1.0, "label": 0}
    folder = write_dataset(tmp_path / "data", {"train": [record]}, {"size": _NUMBER}, _LABEL)
    (tmp_path / "model").mkdir()
    network = _dense({"size": keras.Input((), name="size")}, 2, "softmax")
    network.save(tmp_path / "model/model.keras")
    kept = [tmp_path / "saved.partial" / "mine", tmp_path / "model.tflite.partial.tflite"]
    kept[0].parent.mkdir()
    for path in kept:
        path.write_text("mine")
    (tmp_path / "saved").mkdir()  # Empty: as good as none.
    export.export(tmp_path / "model", f"{tmp_path}/saved/", str(folder))
    export.export(tmp_path / "model", tmp_path / "new" / "saved", str(folder))
    export.export_tflite(tmp_path / "model", tmp_path / "model.tflite")
    assert [path.read_text() for path in kept] == ["mine", "mine"]
    for saved in (tmp_path / "saved", tmp_path / "new" / "saved"):
        assert "serving_default" in tf.saved_model.load(saved).signatures
        assert saved.stat().st_mode == (tmp_path / "data").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 7


def test_the_preprocessing_of_another_spec_is_refused(tmp_path, write_dataset):
    record = {"size": 1.0, "label": 0}
    folder = write_dataset(tmp_path / "data", {"train": [record] * 8}, {"size": _NUMBER}, _LABEL)
    train.train(folder, tmp_path / "model", epochs=1, verbose=False)
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace("00ff", "00fe"))
    with pytest.raises(UsageError, match="data was written by another spec than 'handmade'"):
        export.export(tmp_path / "model", tmp_path / "saved", str(folder))
    export.export(tmp_path / "model", tmp_path / "saved")  # With what the folder keeps.


def test_a_tflite_file_takes_stored_features(tmp_path, capfd):
    (tmp_path / "model").mkdir()
    inputs = {
        "image": keras.Input((4, 5, 1), name="image", dtype="uint8"),
        "size": keras.Input((), name="size"),
    }
    network = _dense(inputs, 2, "softmax")
    network.save(tmp_path / "model" / "model.keras")
    output = tmp_path / "model.tflite"
    call = ["export", str(tmp_path / "model"), "--output", str(output), "--format", "tflite"]
    assert main(call) == 0
    assert capfd.readouterr().out.splitlines()[-2:] == [
        "stored features: image, size",
        f"TFLite model: {output}",
    ]
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 1), np.uint8)
    given = {"image": image, "size": np.float32([0.5])}
    run = tf.lite.Interpreter(str(output)).get_signature_runner()
    (found,) = run(**given).values()
    assert np.allclose(found, network.predict(given, verbose=0), atol=1e-5)
    assert main(call) == 2
    assert "is there already" in capfd.readouterr().err
    assert main([*call, "--dataset", str(tmp_path / "absent")]) == 2
    assert "--dataset is for raw input" in capfd.readouterr().err
