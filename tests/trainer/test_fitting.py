import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import dataset_info, fitting, train, training_data
from trainer.checkpoints import Position
from trainer.distribution import Spread
from trainer.epoch_log import EpochLog
from trainer.errors import DatasetError, UsageError
from trainer.fitting import Pass
from trainer.meter import Meter
from trainer.networks import tables
from trainer.training_data import TrainingData

_NUMBER = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_IMAGE = {"dtype": "uint8", "shape": [8, 6, 3], "stored_as": "raw", "normalized": False}
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["a", "b", "c"]}


@pytest.fixture(name="folder")
def fixture_folder(tmp_path, write_dataset):
    """30 records of classes a and b, 20 and 10 of them, and none of class c."""
    records = [{"size": i / 30, "label": int(i % 3 == 0)} for i in range(30)]
    splits = {"train": records, "validation": records[:11]}
    folder = write_dataset(tmp_path / "data", splits, {"size": _NUMBER}, _LABEL)
    path = folder / "dataset_info.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["class_counts"] = {"a": 20, "b": 10}
    path.write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    "begin, num_steps, wanted",
    [
        ((0, 0), 30, [Pass(Position(0, 0), 3, 10)]),
        ((0, 4), 30, [Pass(Position(0, 4), 1, 6), Pass(Position(1, 0), 2, 10)]),
        ((2, 9), 30, [Pass(Position(2, 9), 1, 1)]),
        ((3, 0), 30, []),
        ((3, 0), 28, []),  # The third epoch ended early.
        ((0, 0), 7, [Pass(Position(0, 0), 1, 7)]),
        ((0, 3), 7, [Pass(Position(0, 3), 1, 4)]),
        ((0, 7), 7, []),
        ((1, 0), 25, [Pass(Position(1, 0), 1, 10), Pass(Position(2, 0), 1, 5)]),
        ((1, 2), 13, [Pass(Position(1, 2), 1, 1)]),
    ],
)
def test_passes_are_what_is_left(begin, num_steps, wanted):
    assert list(fitting.passes(Position(*begin), 10, num_steps)) == wanted


def test_steps_instead_of_epochs(folder, tmp_path):
    history = train.train(folder, tmp_path, steps=8, batch_size=10, verbose=False)
    assert [history["config"][name] for name in ("epochs", "steps")] == [3, 8]
    assert len(history["epochs"]) == 3
    (iteration,) = [
        v for v in train.model_folder.load(tmp_path).optimizer.variables if "iteration" in v.path
    ]
    assert int(iteration) == 8


def test_classes_weigh_the_same(folder):
    info = dataset_info.read(folder)
    assert training_data.class_weights(info) == [0.75, 1.5, 0.0]
    options = _options(class_weights="balanced", batch_size=30)
    data = TrainingData(info, train.resolve(info, Spread(), **options), Spread(), None, None)
    _, labels, found = next(iter(data.training(Position(), 1)))
    np.testing.assert_array_equal(found, np.where(labels.numpy() == 0, 0.75, 1.5))
    assert found.numpy()[labels == 0].sum() == found.numpy()[labels == 1].sum() == 15


def test_classes_that_are_not_counted_have_no_weights(folder, tmp_path):
    path = folder / "dataset_info.json"
    manifest = json.loads(path.read_text())
    del manifest["splits"]["train"]["class_counts"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="add up to 0, but it has 30 examples"):
        train.train(folder, tmp_path / "model", class_weights="balanced", verbose=False)


def test_an_epoch_with_a_number_is_better_than_one_without(folder):
    info = dataset_info.read(folder)
    resolved = train.resolve(info, Spread(), **_options())
    log = EpochLog(Meter(deterministic=False), resolved, verbose=False)
    log.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    for epoch, loss in enumerate([float("nan"), 2.0, 1.0, float("nan")]):
        log.on_epoch_end(epoch, {"loss": 1.0, "val_loss": loss})
    assert log.best_epoch == 3


@pytest.mark.parametrize("last", ["scale_to_0_1", "log1p", "center", None])
def test_a_scale_without_ends(last):
    found = {"mean": 3.0, "std": 2.0}
    told = {} if last == "log1p" else found  # Of log1p alone the manifest has raw ones.
    feature = types.SimpleNamespace(
        transforms=[last] if last else [], statistics=told, raw_statistics=found
    )
    expected = {"center": (0.0, 2.0), None: (3.0, 2.0)}.get(last, (0.0, 1.0))
    assert tables.stored_scale(feature) == expected


def test_another_network_of_the_same_name_is_another_training(folder, tmp_path):
    activation = "softmax"

    def network(info):
        inputs = keras.Input((), name="size")
        x = keras.layers.Dense(len(info.label.classes), activation)(inputs[:, None])
        return keras.Model({"size": inputs}, x)

    options = {"epochs": 1, "model": network, "verbose": False}
    first = train.train(folder, tmp_path, **options)
    assert train.train(folder, tmp_path, **options) == first  # Though its layers' names go on.
    activation = "sigmoid"
    with pytest.raises(UsageError, match="with another network, which .*network returned then"):
        train.train(folder, tmp_path, **options)
    assert train.train(folder, tmp_path, overwrite=True, **options)["network"] != first["network"]


def _options(**given):
    options = {
        "epochs": None,
        "steps": None,
        "batch_size": None,
        "learning_rate": None,
        "schedule": "cosine",
        "class_weights": "none",
        "accumulate": 1,
        "patience": None,
        "crop": None,
        "augmentation": None,
        "mixed_precision": "none",
        "seed": 0,
        "deterministic": False,
        "model": "m:f",
    }
    return options | given


def test_a_batch_has_at_most_the_examples_of_train(folder, tmp_path):
    history = train.train(folder, tmp_path, epochs=2, batch_size=64, verbose=False)
    assert history["config"]["batch_size"] == 30
    assert history["config"]["steps"] == 2


def test_the_learning_rate_is_constant_or_falls(folder, tmp_path):
    rates = {}
    for schedule in ("constant", "cosine"):
        train.train(
            folder,
            tmp_path / schedule,
            epochs=2,
            learning_rate=0.25,
            schedule=schedule,
            verbose=False,
        )
        optimizer = train.model_folder.load(tmp_path / schedule).optimizer
        rates[schedule] = float(optimizer.learning_rate)
    assert rates["constant"] == 0.25
    assert rates["cosine"] < 1e-6


def test_weights_change_after_every_third_step(folder, tmp_path):
    """With plain gradient descent, the mean over three batches is the batch of all three."""

    def network(info):
        del info
        inputs = keras.Input((), name="size")
        x = keras.layers.Dense(3, "softmax", kernel_initializer="zeros")(inputs[:, None])
        return keras.Model({"size": inputs}, x)

    options = {"epochs": 1, "schedule": "constant", "model": network, "verbose": False}
    train.train(folder, tmp_path / "a", batch_size=10, accumulate=3, **options)
    train.train(folder, tmp_path / "b", batch_size=30, **options)
    ours, wanted = (train.model_folder.load(tmp_path / name).get_weights() for name in "ab")
    assert np.abs(wanted[0]).max() > 1e-3
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_mixed_precision_keeps_weights_as_float32(folder, tmp_path):
    train.train(folder, tmp_path, epochs=1, mixed_precision="bfloat16", verbose=False)
    network = train.model_folder.load(tmp_path)
    dense = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert {layer.compute_dtype for layer in dense[:-1]} == {"bfloat16"}
    assert {layer.variable_dtype for layer in dense} == {"float32"}
    assert dense[-1].compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"  # Of whoever called.


def test_patience_ends_the_training(folder, tmp_path, capsys):
    def network(info):
        del info
        inputs = keras.Input((), name="size")
        x = keras.layers.Dense(3, "softmax", kernel_initializer="zeros")(inputs[:, None])
        model = keras.Model({"size": inputs}, x)
        model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        return model

    history = train.train(folder, tmp_path, epochs=9, patience=3, model=network, verbose=False)
    assert len(history["epochs"]) == 4  # Nothing is learned: the first epoch stays the best.
    assert history["best_epoch"] == 1
    assert (tmp_path / "model.keras").exists()
    train.train(folder, tmp_path, epochs=9, patience=3, model=network)
    assert capsys.readouterr().out == f"{tmp_path}: is trained already, 4 epochs.\n"


def test_validation_takes_each_example_once(folder, tmp_path):
    def network(info):
        del info
        inputs = keras.Input((), name="size")
        x = keras.layers.Dense(3, "softmax", bias_initializer="ones")(inputs[:, None])
        return keras.Model({"size": inputs}, x)

    train.train(folder, tmp_path, epochs=1, batch_size=30, model=network, verbose=False)
    history = json.loads((tmp_path / "history.json").read_text())["epochs"][0]
    sizes, labels = np.arange(11) / 30, np.array([int(i % 3 == 0) for i in range(11)])
    loaded = train.model_folder.load(tmp_path)
    probabilities = loaded.predict({"size": sizes.astype(np.float32)}, verbose=0)
    wanted = -np.log(probabilities[np.arange(11), labels]).mean()
    assert history["val_loss"] == pytest.approx(wanted, rel=1e-5)
    assert history["val_accuracy"] == pytest.approx((probabilities.argmax(1) == labels).mean())


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_without_class_is_named(tmp_path, write_dataset, wrong):
    records = [{"size": 0.1, "label": 0}] * 19 + [{"size": 0.1, "label": wrong}]
    folder = write_dataset(tmp_path / "data", {"train": records}, {"size": _NUMBER}, _LABEL)
    message = f"data: train holds the label {wrong}, but there are 3 classes, from 0 on."
    with pytest.raises(DatasetError, match=f"{message}$"):
        train.train(folder, tmp_path / "model", epochs=1, batch_size=20, verbose=False)


def test_a_network_without_an_output_for_each_class(folder, tmp_path):
    def network(info):
        del info
        inputs = keras.Input((), name="size")
        return keras.Model({"size": inputs}, keras.layers.Dense(2, "softmax")(inputs[:, None]))

    with pytest.raises(UsageError, match="has 2 outputs, but .*/data has 3 classes"):
        train.train(folder, tmp_path / "model", model=network, verbose=False)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 2, "steps": 3}, "number of epochs or of steps, but both came"),
        ({"steps": 0}, "number of steps must be at least 1, but is 0"),
        ({"accumulate": 0}, "steps to accumulate must be at least 1, but is 0"),
        ({"patience": 0}, "patience must be at least 1, but is 0"),
        ({"checkpoint_every": 0}, "at least 1 step apart, but are 0"),
        ({"schedule": "linear"}, "schedule: must be one of cosine, constant, but is 'linear'"),
        ({"class_weights": "x"}, "class weights: must be one of none, balanced, but is 'x'"),
        ({"mixed_precision": "float16"}, "must be one of none, bfloat16, but is 'float16'"),
        ({"model": "oracle.recording:diverging", "accumulate": 2}, "an optimizer of its own"),
    ],
)
def test_wrong_options(tmp_path, write_dataset, options, message):
    record = {"key": 1, "size": 0.5, "label": 0}
    key = {"dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": True}
    features = {"size": _NUMBER, "key": key}
    splits = {"train": [record] * 16, "validation": [record]}
    folder = write_dataset(tmp_path / "data", splits, features, _LABEL)
    with pytest.raises(UsageError, match=message):
        train.train(folder, tmp_path / "model", verbose=False, **options)


def test_options_that_need_what_the_dataset_lacks(tmp_path, write_dataset):
    label = {"name": "price", "dtype": "float32", "type": "float32"}
    records = [{"size": 0.1, "label": 0.5}] * 8
    folder = write_dataset(tmp_path / "data", {"train": records}, {"size": _NUMBER}, label)
    with pytest.raises(UsageError, match="has no split 'validation' on which"):
        train.train(folder, tmp_path / "model", patience=1, verbose=False)
    with pytest.raises(UsageError, match="label has no classes that could be weighted"):
        train.train(folder, tmp_path / "model", class_weights="balanced", verbose=False)


def _events(folder):
    found = {}
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                found.setdefault((plugin, value.tag), []).append(
                    (event.step, tf.make_ndarray(value.tensor))
                )
    return found


def test_event_files_hold_metrics_and_images(tmp_path, write_dataset):
    rng = np.random.default_rng(7)
    records = [
        {"image": rng.integers(0, 256, (8, 6, 3), np.uint8), "label": int(i % 3)} for i in range(24)
    ]
    splits = {"train": records, "validation": records[:5]}
    folder = write_dataset(tmp_path / "data", splits, {"image": _IMAGE}, _LABEL)
    options = {"steps": 5, "batch_size": 8, "deterministic": False, "verbose": False}
    history = train.train(folder, tmp_path / "a", tensorboard=True, **options)
    events = _events(tmp_path / "a" / "tensorboard" / "train")
    steps, losses = zip(*events["scalars", "loss"], strict=True)
    assert steps == (3, 5)
    np.testing.assert_allclose(losses, [epoch["loss"] for epoch in history["epochs"]], rtol=1e-6)
    ((step, images),) = events["images", "image/stored"]
    assert (step, images[0], images[1], len(images)) == (0, b"6", b"8", 2 + 8)
    stored = {record["image"].tobytes() for record in records}
    pixels = [tf.io.decode_png(each).numpy() for each in images[2:]]
    assert {each.tobytes() for each in pixels} <= stored
    ((_, augmented),) = events["images", "image/in_training"]
    assert tf.io.decode_png(augmented[2]).shape == (8, 6, 3)
    assert list(augmented[2:]) != list(images[2:])
    validation = _events(tmp_path / "a" / "tensorboard" / "validation")
    assert validation["scalars", "loss"][0][1] == pytest.approx(history["epochs"][0]["val_loss"])
    train.train(folder, tmp_path / "b", **options)  # To look on changes nothing.
    ours, others = (train.model_folder.load(tmp_path / name).get_weights() for name in "ab")
    for one, other in zip(ours, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
