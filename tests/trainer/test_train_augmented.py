"""Trainings whose images are changed at random."""

import json
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import dataset_info, evaluate, model, train
from trainer.__main__ import main
from trainer.augmentation import Augmentation
from trainer.checkpoints import Position
from trainer.distribution import Spread
from trainer.errors import Terminated, UsageError
from trainer.training_data import TrainingData

_IMAGE = {"dtype": "uint8", "shape": [12, 10, 3], "stored_as": "raw", "normalized": False}
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["a", "b", "c"]}


def _record(index):
    image = np.random.default_rng(index).integers(0, 90, (12, 10, 3), np.uint8)
    image[..., index % 3] += 120
    return {"image": image, "label": index % 3}


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory, write_dataset):
    records = [_record(index) for index in range(48)]
    splits = {"train": records, "validation": records[:9], "test": records[20:30]}
    folder = tmp_path_factory.mktemp("train_augmented") / "data"
    return write_dataset(folder, splits, {"image": _IMAGE}, _LABEL)


_OPTIONS = {"batch_size": 8, "deterministic": False, "verbose": False}
_MIXED = Augmentation(rotation_range=20, horizontal_flip=True, mixup={"alpha": 0.4}, cutmix={})


def test_mixed_records_are_learned_and_evaluated(folder, tmp_path):
    options = {**_OPTIONS, "class_weights": "balanced", "learning_rate": 0.01}
    history = train.train(folder, tmp_path, epochs=4, augmentation=_MIXED, **options)
    assert history["config"]["augmentation"] == {
        "rotation_range": 20,
        "horizontal_flip": True,
        "mixup": {"alpha": 0.4},
        "cutmix": {},
    }
    last = history["epochs"][-1]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < set(last)
    result = evaluate.evaluate(tmp_path, folder, "validation")
    best = history["epochs"][history["best_epoch"] - 1]
    assert result["loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    assert result["accuracy"] == pytest.approx(best["val_accuracy"])
    # It is finished for whoever asks for the same, in a file, and nothing else for others.
    same = tmp_path.parent / "same.toml"
    same.write_text("rotation_range = 20\nhorizontal_flip = true\n[mixup]\nalpha = 0.4\n[cutmix]\n")
    assert train.train(folder, tmp_path, epochs=4, augmentation=same, **options) == history
    with pytest.raises(UsageError, match="was trained with augmentation {.*} and not None"):
        train.train(folder, tmp_path, epochs=4, **options)
    other = Augmentation(rotation_range=21)
    with pytest.raises(UsageError, match="and not {'rotation_range': 21}"):
        train.train(folder, tmp_path, epochs=4, augmentation=other, **options)


def test_a_mixed_label_weighs_what_its_classes_weigh(folder):
    info = dataset_info.read(folder)
    found = {}
    for weights in "none", "balanced":
        config = train.resolve(
            info,
            Spread(),
            epochs=1,
            steps=None,
            batch_size=8,
            learning_rate=None,
            schedule="cosine",
            class_weights=weights,
            accumulate=1,
            patience=None,
            crop=None,
            augmentation=Augmentation(mixup={"alpha": 0.8}),
            mixed_precision="none",
            seed=3,
            deterministic=False,
            model="m:f",
        )
        data = TrainingData(info, config, Spread(), None, None)
        found[weights] = list(data.training(Position(), 1).as_numpy_iterator())
        ((_, label),) = data.validation()[0].as_numpy_iterator()
        np.testing.assert_array_equal(np.sort(label, axis=1), [[0, 0, 1]] * 9)
        np.testing.assert_array_equal(label.sum(axis=0), [3, 3, 3])
    for (_, label), (_, same, weight) in zip(found["none"], found["balanced"], strict=True):
        np.testing.assert_array_equal(label, same)
        np.testing.assert_allclose(weight, 1, atol=1e-6)  # All classes are as frequent.


def _network(info):
    network = model.build(info, is_moved=False)
    fit = network.fit
    network.fit = lambda *args, callbacks, **rest: fit(
        *args, callbacks=[*callbacks, *_STOPS], **rest
    )
    return network


_STOPS: list[keras.callbacks.Callback] = []


class _Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "asked", [_MIXED, Augmentation(shear_range=20, brightness_range=(0.5, 1.5))]
)
def test_a_training_that_was_stopped_goes_on_with_the_same_pictures(folder, tmp_path, asked):
    options = {**_OPTIONS, "steps": 15, "augmentation": asked, "model": _network}
    whole = train.train(folder, tmp_path / "whole", **options)
    _STOPS.append(_Stop())
    try:
        with pytest.raises(Terminated):
            train.train(folder, tmp_path / "stopped", **options)
    finally:
        _STOPS.clear()
    with pytest.raises(UsageError, match="a training that was begun with augmentation"):
        train.train(folder, tmp_path / "stopped", **{**options, "augmentation": Augmentation()})
    resumed = train.train(folder, tmp_path / "stopped", **options)
    for before, after in zip(whole["epochs"], resumed["epochs"], strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
    ours, others = (
        train.model_folder.load(tmp_path / name).get_weights() for name in ("whole", "stopped")
    )
    for one, other in zip(ours, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_network_moves_nothing_where_the_pictures_are_moved(folder):
    info = dataset_info.read(folder)
    image = tf.constant(np.stack([_record(index)["image"] for index in range(4)]))
    for is_moved, names in (True, {"GaussianNoise"}), (False, set()):
        network = train._resolve(None, is_moved=is_moved)(info)
        kinds = {type(layer).__name__ for layer in network.layers}
        assert kinds & {"GaussianNoise"} == names
        assert network({"image": image}).shape == (4, 3)


def test_a_model_that_takes_one_class_is_not_given_several(folder, tmp_path):
    def network(info):
        built = model.build(info)
        built.compile("sgd", keras.losses.SparseCategoricalCrossentropy())
        return built

    with pytest.raises(
        UsageError, match="compiled with sparse_categorical_crossentropy, which tak"
    ):
        train.train(folder, tmp_path, model=network, augmentation=_MIXED, **_OPTIONS)


def test_a_label_without_class_is_named_before_it_is_mixed(tmp_path, write_dataset):
    records = [{**_record(index), "label": 3 if index == 5 else index % 3} for index in range(16)]
    folder = write_dataset(tmp_path / "data", {"train": records}, {"image": _IMAGE}, _LABEL)
    with pytest.raises(Exception, match="train holds the label 3, but there are 3 classes"):
        train.train(folder, tmp_path / "model", augmentation=_MIXED, **_OPTIONS)


def test_event_files_show_augmented_pictures(folder, tmp_path):
    asked = Augmentation(horizontal_flip=True)
    train.train(folder, tmp_path, steps=2, tensorboard=True, augmentation=asked, **_OPTIONS)
    pictures = []
    for path in (tmp_path / "tensorboard" / "train").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.tag != "image/stored"
                if value.tag == "image/augmented":
                    _, _, *files = tf.make_ndarray(value.tensor)
                    pictures += [tf.io.decode_png(file).numpy() for file in files]
    stored = {_record(index)["image"].tobytes() for index in range(48)}
    mirrored = {_record(index)["image"][:, ::-1].tobytes() for index in range(48)}
    assert len(pictures) == 8
    assert all(picture.tobytes() in stored | mirrored for picture in pictures)
    assert any(picture.tobytes() in mirrored for picture in pictures)


@pytest.mark.parametrize(
    "content, message",
    [
        ("rotation = 20\n", "there is no 'rotation'; there are rotation_range, width_shift_range,"),
        ("zoom_range = -1\n", "zoom_range must be a number from 0 to below 1, or two above 0"),
        ('fill_mode = "constant"\ncval = 256\n', "has values from 0 to 255, but cval is 256."),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(folder, tmp_path, capsys, content, message):
    (tmp_path / "file.toml").write_text(content)
    words = ["train", str(folder), "--output", str(tmp_path / "model"), "--quiet"]
    assert main([*words, "--augmentation", str(tmp_path / "file.toml")]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.count("\n") == 1 and message in found.err
    assert not (tmp_path / "model").exists()


def test_a_file_from_the_command_line(folder, tmp_path, capsys):
    (tmp_path / "file.toml").write_text("width_shift_range = [1, 2]\n")
    words = ["train", str(folder), "--output", str(tmp_path / "model"), "--steps", "2", "--quiet"]
    assert main([*words, "--augmentation", str(tmp_path / "file.toml")]) == 0
    history = json.loads((tmp_path / "model" / "history.json").read_text())
    assert history["config"]["augmentation"] == {"width_shift_range": [1, 2]}
    assert capsys.readouterr().err == ""
