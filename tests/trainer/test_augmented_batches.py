"""Batches that are augmented while they are read: the same for all who read them."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from trainer import augmented_batches, dataset_info, input_pipeline
from trainer.augmentation import Augmentation
from trainer.errors import UsageError
from trainer.input_pipeline import Options, load

_IMAGE = {"dtype": "uint8", "shape": [12, 18, 3], "stored_as": "raw", "normalized": False}
_OBJECTS = {"dtype": "float32", "shape": [3, 4], "stored_as": "float_list", "normalized": False}
_FEATURES = {
    "photo": _IMAGE,
    "depth": {**_IMAGE, "shape": [6, 9, 1]},
    "mask": {**_IMAGE, "shape": [12, 18, 1], "kind": "mask", "of": "photo"},
    "objects": {**_OBJECTS, "kind": "boxes", "of": "photo"},
    "objects_class": {
        "dtype": "int64",
        "shape": [3],
        "stored_as": "int64_list",
        "normalized": False,
        "kind": "classes",
        "of": "objects",
    },
    "age": {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True},
}
_NUM_TRAIN = 40
_CLASSES = [f"c{index}" for index in range(_NUM_TRAIN)]
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": _CLASSES}
_BOXES = [0.0, 0.0, 0.5, 0.5, 0.25, 0.5, 0.75, 1.0, -1.0, -1.0, -1.0, -1.0]


def _record(index):
    rng = np.random.default_rng(index)
    photo = rng.integers(0, 256, (12, 18, 3), np.uint8)
    return {
        "photo": photo,
        "depth": rng.integers(0, 256, (6, 9, 1), np.uint8),
        "mask": photo[..., :1] // 128,
        "objects": _BOXES,
        "objects_class": [4, 7, -1],
        "age": index / 7,
        "label": index,
    }


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory, write_dataset):
    records = [_record(index) for index in range(_NUM_TRAIN)]
    splits = {"train": records, "test": records[:4]}
    return write_dataset(tmp_path_factory.mktemp("augmented") / "data", splits, _FEATURES, _LABEL)


_ALL = Augmentation(
    rotation_range=25,
    width_shift_range=0.2,
    height_shift_range=3,
    shear_range=10,
    zoom_range=0.2,
    horizontal_flip=True,
    vertical_flip=True,
    brightness_range=(0.6, 1.4),
    channel_shift_range=30,
)


def _read(folder, batch_size=8, **options):
    """Returns all records of an epoch or more: by name, one after the other."""
    options = {"seed": 5, "epochs": 2, "augmentation": _ALL, **options}
    batches = list(load(folder, "train", batch_size, Options(**options)).as_numpy_iterator())
    found = {n: np.concatenate([features[n] for features, _ in batches]) for n in batches[0][0]}
    return {**found, "label": np.concatenate([label for _, label in batches])}


def _assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, name)


@pytest.fixture(name="epochs", scope="module")
def fixture_epochs(folder):
    found = _read(folder)
    plain = _read(folder, augmentation=None)
    for name in "photo", "depth", "mask", "objects":
        alike = (found[name] == plain[name]).reshape(2 * _NUM_TRAIN, -1).mean(axis=1)
        assert np.median(alike) < 0.9, name
    for name in "age", "label":
        np.testing.assert_array_equal(found[name], plain[name])
    # Another epoch has other parameters for the same record.
    first, second = (found["photo"][part][np.argsort(found["label"][part])] for part in _HALVES)
    assert all((one != other).any() for one, other in zip(first, second, strict=True))
    return found


_HALVES = slice(None, _NUM_TRAIN), slice(_NUM_TRAIN, None)


@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_the_size_of_batches_changes_nothing(folder, epochs, batch_size):
    _assert_same(_read(folder, batch_size), epochs)


def test_the_number_of_threads_changes_nothing(folder, epochs, monkeypatch):
    monkeypatch.setattr(input_pipeline, "_PARSED_TOGETHER", 1)
    _assert_same(_read(folder), epochs)


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_see_parts_of_the_same_batches(folder, epochs, num_hosts):
    hosts = [_read(folder, host=host, num_hosts=num_hosts) for host in range(num_hosts)]
    for name, values in epochs.items():
        for host in range(num_hosts):
            np.testing.assert_array_equal(hosts[host][name], values[host::num_hosts], name)


@pytest.mark.parametrize("epoch, step", [(0, 3), (1, 0), (1, 2)])
def test_a_resumed_epoch_is_the_same(folder, epochs, epoch, step):
    rest = _read(folder, epoch=epoch, step=step, epochs=2 - epoch)
    done = epoch * _NUM_TRAIN + step * 8
    _assert_same(rest, {name: values[done:] for name, values in epochs.items()})


def test_passes_of_one_loader_are_the_epochs(folder, epochs):
    batches = load(folder, "train", 8, Options(seed=5, augmentation=_ALL))
    photos = np.concatenate([f["photo"] for _ in range(2) for f, _ in batches])
    np.testing.assert_array_equal(photos, epochs["photo"])


def test_another_seed_is_another_epoch(folder, epochs):
    other = _read(folder, seed=6)
    order, others = np.argsort(epochs["label"][:40]), np.argsort(other["label"][:40])
    alike = epochs["photo"][:40][order] == other["photo"][:40][others]
    assert alike.reshape(40, -1).mean(axis=1).max() < 0.9


def test_a_remainder_is_augmented_like_the_rest(folder, epochs):
    for remainder in "keep", "drop":
        found = _read(folder, 16, remainder=remainder, epochs=1)
        num = {"keep": 40, "drop": 32}[remainder]
        _assert_same(found, {name: values[:num] for name, values in epochs.items()})


_SCRIPT = """
import hashlib, json, sys
import numpy as np
from trainer.augmentation import Augmentation
from trainer.input_pipeline import Options, load
hashes = []
for asked in json.loads(sys.argv[2]):
    options = Options(seed=5, epochs=2, features=["photo"], augmentation=Augmentation(**asked))
    digest = hashlib.sha256()
    for features, label in load(sys.argv[1], "train", 8, options).as_numpy_iterator():
        digest.update(features["photo"].tobytes())
        digest.update(label.tobytes())
    hashes.append(digest.hexdigest())
print(json.dumps(hashes))
"""


def test_another_process_and_jax_see_the_same(folder):
    asked = [
        _ALL.as_config(),
        {"mixup": {}, "horizontal_flip": True},
        {"cutmix": {}},
        {"rand_augment": {}},
    ]
    wanted = []
    for one in asked:
        found = Options(seed=5, epochs=2, features=["photo"], augmentation=Augmentation(**one))
        digest = hashlib.sha256()
        for features, label in load(folder, "train", 8, found).as_numpy_iterator():
            digest.update(features["photo"].tobytes())
            digest.update(label.tobytes())
        wanted.append(digest.hexdigest())
    assert len(set(wanted)) == len(asked)
    root = Path(augmented_batches.__file__).parents[1]
    for backend in "tensorflow", "jax":
        if backend == "jax":
            pytest.importorskip("jax")
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": str(root),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(folder), json.dumps(asked)],
            capture_output=True,
            check=True,
            env=environment,
        )
        assert json.loads(done.stdout.splitlines()[-1]) == wanted, backend


def test_an_image_and_what_belongs_to_it_have_the_same_geometry(folder):
    asked = Augmentation(
        rotation_range=40,
        width_shift_range=0.6,
        horizontal_flip=True,
        fill_mode="constant",
        cval=200,
        interpolation_order=0,
    )
    found = _read(folder, augmentation=asked, epochs=1)
    is_filled = (found["photo"] == 200).all(axis=-1, keepdims=True)
    assert 0.05 < is_filled.mean() < 0.6
    np.testing.assert_array_equal(
        found["mask"], np.where(is_filled, 0, found["photo"][..., :1] // 128)
    )
    # The other image is half as large, and turned alike: so are the shares that are filled.
    filled = (found["depth"] == 200).mean(axis=(1, 2, 3)), is_filled.mean(axis=(1, 2, 3))
    assert np.corrcoef(*filled)[0, 1] > 0.9
    is_box = found["objects"][..., 0] >= 0
    assert (found["objects"][~is_box] == -1).all() and 40 < is_box.sum() < 80
    assert (is_box[:, :-1] >= is_box[:, 1:]).all()  # Those that are left come first.
    assert (found["objects_class"][~is_box] == -1).all()
    assert set(found["objects_class"][is_box]) == {4, 7}
    is_second = is_box[:, 0] & ~is_box[:, 1] & (found["objects_class"][:, 0] == 7)
    assert is_second.any()  # The first one went out of sight.


def test_a_mirrored_image_with_boxes_by_hand(folder):
    found = _read(folder, augmentation=Augmentation(horizontal_flip=True), epochs=1)
    plain = _read(folder, augmentation=None, epochs=1)
    mirrored = plain["photo"][:, :, ::-1]
    is_mirrored = (found["photo"] == mirrored).all(axis=(1, 2, 3))
    assert 10 < is_mirrored.sum() < 30
    np.testing.assert_array_equal(found["photo"][~is_mirrored], plain["photo"][~is_mirrored])
    wanted = np.array([[0.5, 0, 1, 0.5], [0.25, 0.5, 0.75, 1], [-1] * 4], np.float32)
    for boxes, mask, index in zip(found["objects"], found["mask"], range(_NUM_TRAIN), strict=True):
        before = plain["mask"][index]
        np.testing.assert_array_equal(mask, before[:, ::-1] if is_mirrored[index] else before)
        expected = wanted if is_mirrored[index] else np.reshape(_BOXES, (3, 4))
        np.testing.assert_allclose(boxes, expected, atol=1e-6)


def test_channels_first_is_the_same_image(tmp_path, write_dataset, folder):
    records = [_record(index) for index in range(_NUM_TRAIN)]
    for record in records:
        record["photo"] = np.ascontiguousarray(record["photo"].transpose(2, 0, 1))
    features = {**_FEATURES, "photo": {**_IMAGE, "shape": [3, 12, 18]}}
    features["photo"]["data_format"] = "channels_first"
    first = write_dataset(tmp_path / "first", {"train": records}, features, _LABEL)
    found = _read(first, epochs=1)
    found["photo"] = found["photo"].transpose(0, 2, 3, 1)
    _assert_same(found, _read(folder, epochs=1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_floats_are_moved_as_they_are_stored(tmp_path, write_dataset, dtype):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(16, 10, 10, 2)).astype(tf.as_dtype(dtype).as_numpy_dtype)
    image = {"dtype": dtype, "shape": [10, 10, 2], "stored_as": "raw", "normalized": True}
    records = [{"image": value, "label": index} for index, value in enumerate(values)]
    folder = write_dataset(tmp_path / "floats", {"train": records}, {"image": image}, _LABEL)
    asked = Augmentation(rotation_range=30, fill_mode="constant", cval=-1.5)
    options = Options(seed=1, epochs=1, augmentation=asked)
    ((features, labels),) = load(folder, "train", 16, options).as_numpy_iterator()
    info = dataset_info.read(folder)
    augmenter = augmented_batches.Augmenter(
        asked,
        info,
        "train",
        list(info.features.values()),
        seed=1,
        batch_size=16,
        host=0,
        num_hosts=1,
    )
    chances = augmenter._chances(tf.constant(0, tf.int64))
    angles = augmented_batches.drawn(asked, chances, 10, 10).theta.numpy()
    generator = ImageDataGenerator(fill_mode="constant", cval=-1.5)
    wanted = [
        generator.apply_transform(values[label].astype(np.float32), {"theta": angle})
        for label, angle in zip(labels, angles, strict=True)
    ]
    assert features["image"].dtype == values.dtype
    error = {"float32": 1e-5, "bfloat16": 4 / 2**8}[dtype]  # Of 8 bits one is hidden.
    np.testing.assert_allclose(features["image"].astype(np.float32), wanted, atol=error)
    for name, value in {"brightness_range": [0.5, 1], "channel_shift_range": 1}.items():
        with pytest.raises(UsageError, match=f"{name} needs pixels .* is stored as {dtype}"):
            load(folder, "train", 16, Options(augmentation=Augmentation(**{name: value})))


@pytest.fixture(name="files", scope="module")
def fixture_files(tmp_path_factory, write_dataset):
    """PNG files of 20x30 pixels, whose own places are their colors, with masks and boxes."""
    rows, columns = np.mgrid[:20, :30].astype(np.uint8)
    photo = np.stack([rows, columns, (rows + columns) % 2], axis=-1)
    boxes = [3 / 30, 4 / 20, 12 / 30, 10 / 20, 20 / 30, 12 / 20, 28 / 30, 18 / 20]
    record = {
        "photo": tf.io.encode_png(photo).numpy(),
        "mask": photo[..., 2:].copy(),
        "objects": boxes,
        "objects_class": [1, 2],
        "label": 0,
    }
    photo = {"dtype": "uint8", "shape": [20, 30, 3], "stored_as": "png", "normalized": False}
    features = {
        "photo": photo,
        "mask": {**photo, "shape": [20, 30, 1], "stored_as": "raw", "kind": "mask", "of": "photo"},
        "objects": {**_OBJECTS, "shape": [2, 4], "kind": "boxes", "of": "photo"},
        "objects_class": {**_FEATURES["objects_class"], "shape": [2]},
    }
    folder = tmp_path_factory.mktemp("files") / "data"
    return write_dataset(folder, {"train": [record] * 16, "test": [record]}, features, _LABEL)


def _check_crops(features, height, width, num):
    corners = set()
    for photo, mask, boxes, classes in zip(
        *(features[name] for name in ("photo", "mask", "objects", "objects_class")), strict=True
    ):
        top, left = (int(each) for each in photo[0, 0, :2])
        corners.add((top, left))
        assert photo.shape == (height, width, 3)
        np.testing.assert_array_equal(mask, photo[..., 2:])
        wanted, kinds = [], []
        for index, box in enumerate(([3, 4, 12, 10], [20, 12, 28, 18])):
            moved = np.subtract(box, [left, top, left, top])
            cut = np.clip(moved, 0, [width, height, width, height])
            if cut[2] > cut[0] and cut[3] > cut[1]:
                wanted.append(cut / [width, height, width, height])
                kinds.append(index + 1)
        rest = 2 - len(wanted)
        np.testing.assert_allclose(boxes, wanted + [[-1] * 4] * rest, atol=1e-6)
        assert classes.tolist() == kinds + [-1] * rest
    assert len(corners) >= num
    return corners


def test_masks_and_boxes_are_cropped_with_their_image(files):
    options = Options(seed=2, epochs=1, crop=(9, 13))
    ((features, _),) = load(files, "train", 16, options).as_numpy_iterator()
    _check_crops(features, 9, 13, 10)
    ((features, _),) = load(files, "test", 1, Options(crop=(10, 14))).as_numpy_iterator()
    assert _check_crops(features, 10, 14, 1) == {(5, 8)}  # From the middle.


def test_nothing_is_printed_while_boxes_are_cropped(files):
    code = """if True:
        import sys
        from trainer.input_pipeline import Options, load
        next(iter(load(sys.argv[1], "train", 16, Options(crop=(9, 13)))))
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code, files]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "AutoGraph" not in run.stderr + run.stdout


def test_of_a_crop_larger_than_the_image_mask_and_boxes_are_enlarged(files):
    options = Options(seed=2, epochs=1, crop=(40, 40))
    ((features, _),) = load(files, "train", 16, options).as_numpy_iterator()
    for photo, mask, boxes in zip(
        *(features[n] for n in ("photo", "mask", "objects")), strict=True
    ):
        left = round(float(photo[..., 1].min()))  # Of 30 columns 20 are taken, doubled.
        assert photo.shape == (40, 40, 3)
        columns = np.arange(left, left + 20).repeat(2)
        rows = np.arange(20).repeat(2)
        np.testing.assert_array_equal(mask[..., 0], (rows[:, None] + columns) % 2)
        wanted = np.clip([(3 - left) / 20, 4 / 20, (12 - left) / 20, 10 / 20], 0, 1)
        if wanted[2] > 0:
            np.testing.assert_allclose(boxes[0], wanted, atol=1e-6)


def test_a_crop_is_augmented_after_it_was_cut(files):
    crop = {"seed": 2, "epochs": 1, "crop": (9, 13)}
    ((plain, _),) = load(files, "train", 16, Options(**crop)).as_numpy_iterator()
    flipped = Options(**crop, augmentation=Augmentation(horizontal_flip=True))
    ((found, _),) = load(files, "train", 16, flipped).as_numpy_iterator()
    is_mirrored = (found["photo"] == plain["photo"][:, :, ::-1]).all(axis=(1, 2, 3))
    assert 2 < is_mirrored.sum() < 14
    for name in "photo", "mask":
        np.testing.assert_array_equal(found[name][~is_mirrored], plain[name][~is_mirrored])
        np.testing.assert_array_equal(
            found[name][is_mirrored], plain[name][is_mirrored][:, :, ::-1]
        )


def _mixed(folder, **asked):
    options = Options(seed=5, epochs=1, features=["photo"], augmentation=Augmentation(**asked))
    return list(load(folder, "train", 8, options).as_numpy_iterator())


def test_mixup_is_what_its_labels_say(folder):
    """Each record has a class of its own: a label names the two that were mixed."""
    num_mixed = 0
    for features, label in _mixed(folder, mixup={"alpha": 0.9}):
        assert (label.dtype, label.shape, features["photo"].dtype) == (
            np.float32,
            (8, 40),
            np.uint8,
        )
        np.testing.assert_allclose(label.sum(axis=1), 1, atol=1e-6)
        for photo, weights in zip(features["photo"], label, strict=True):
            classes = np.flatnonzero(weights)
            pixels = sum(weights[c] * _record(c)["photo"].astype(np.float64) for c in classes)
            assert np.abs(photo - pixels).max() <= 0.5 + 1e-3
            num_mixed += len(classes) == 2
    assert num_mixed > 20


def _is_rectangle(mask):
    rows, columns = np.nonzero(mask)
    return bool(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all())


def test_cutmix_is_what_its_labels_say(folder):
    num_mixed = 0
    for features, label in _mixed(folder, cutmix={}):
        np.testing.assert_allclose(label.sum(axis=1), 1, atol=1e-6)
        for photo, weights in zip(features["photo"], label, strict=True):
            first, *rest = np.flatnonzero(weights)[np.argsort(-weights[np.flatnonzero(weights)])]
            is_first = (photo == _record(first)["photo"]).all(axis=-1)
            assert rest or is_first.all()
            for second in rest:
                num_mixed += 1
                rows, columns = np.nonzero(~is_first)
                inside = (photo == _record(second)["photo"]).all(axis=-1)
                assert (is_first | inside).all()
                # A rectangle, with edges between pixels: its area is the label's weight.
                assert abs((~is_first).sum() - weights[second] * 12 * 18) < 12 + 18 or not rows.size
                if rows.size:
                    assert _is_rectangle(is_first) or _is_rectangle(~is_first)
    assert num_mixed > 15


@pytest.mark.parametrize("asked", [{"mixup": {"alpha": 1e-6}}, {"cutmix": {"factor": 0}}])
def test_what_mixes_hardly_ever_is_never_no_number(folder, asked):
    """Keras divides one number by the sum of two, of which both may be 0."""
    for features, label in _mixed(folder, **asked):
        assert np.isfinite(label).all() and features["photo"].any(axis=(1, 2, 3)).all()
        np.testing.assert_allclose(label.sum(axis=1), 1)


@pytest.mark.feature(
    "keras.layers", "RandAugment", "`Augmentation`, `--augmentation`: `rand_augment`"
)
@pytest.mark.feature("keras.layers", "MixUp", "`Augmentation`, `--augmentation`: `mixup`")
@pytest.mark.feature("keras.layers", "CutMix", "`Augmentation`, `--augmentation`: `cutmix`")
def test_layers_of_keras_are_given_a_seed_and_nothing_else(folder):
    """Their own values, where their generator has the same state."""
    plain = list(
        load(folder, "train", 8, Options(seed=5, epochs=1, features=["photo"])).as_numpy_iterator()
    )
    for asked, kind, arguments in [
        ("rand_augment", keras.layers.RandAugment, {"num_ops": 3, "factor": 0.4}),
        ("mixup", keras.layers.MixUp, {"alpha": 0.4}),
        ("cutmix", keras.layers.CutMix, {"factor": 0.7}),
    ]:
        layer = kind(**arguments)
        found = _mixed(folder, **{asked: arguments})
        for number, ((before, label), (features, ours)) in enumerate(
            zip(plain, found, strict=True)
        ):
            place = tf.constant(augmented_batches._STREAM - 1 - number, tf.int64)
            seed = augmented_batches._layer_seed(5, place, 0).numpy()
            layer.generator.state.assign(seed + np.int32([0, 1]))
            data = {"images": tf.cast(before["photo"], tf.float32)}
            data["labels"] = tf.one_hot(label, _NUM_TRAIN)
            if asked == "rand_augment":
                wanted = layer(data["images"])
            else:
                made = layer(data)
                wanted = made["images"]
                np.testing.assert_allclose(ours, made["labels"], atol=1e-6)
            apart = np.abs(features["photo"] - np.clip(wanted, 0, 255))
            assert (apart > 0.5 + 1e-3).mean() < 1e-3, asked
            assert (features["photo"] != before["photo"]).mean() > 0.1


def test_mixed_batches_are_the_same_after_a_resume_and_for_any_threads(folder, monkeypatch):
    asked = Augmentation(rand_augment={}, mixup={}, cutmix={}, horizontal_flip=True)
    options = {"features": ["photo"], "augmentation": asked}
    wanted = _read(folder, **options)
    monkeypatch.setattr(input_pipeline, "_PARSED_TOGETHER", 1)
    _assert_same(_read(folder, **options), wanted)
    rest = _read(folder, epoch=1, step=2, epochs=1, **options)
    _assert_same(rest, {name: values[56:] for name, values in wanted.items()})
    # Hosts mix what each of them has: other batches than one host's, and other ones than others'.
    hosts = [_read(folder, host=host, num_hosts=2, **options) for host in (0, 1)]
    for host, found in enumerate(hosts):
        assert found["label"].shape == (40, _NUM_TRAIN)
        assert (found["photo"] != wanted["photo"][host::2]).any()
        classes = _read(folder, host=host, num_hosts=2, features=["photo"], augmentation=None)
        ours = np.add.reduceat(found["label"], np.arange(0, 40, 4)) > 0
        theirs = np.zeros_like(ours)
        np.put_along_axis(theirs, classes["label"].reshape(10, 4), True, axis=1)
        assert not (ours & ~theirs).any() and (ours == theirs).mean() > 0.99


@pytest.mark.parametrize(
    "asked, options, message",
    [
        ({}, {"features": ["age"]}, "augmentation is for images, but no feature that is read is"),
        ({}, {"features": ["mask"]}, "'mask' goes where 'photo' goes, which is not read"),
        (
            {},
            {"features": ["photo", "objects_class"]},
            "'objects_class' goes where 'objects' goes, which is not read",
        ),
        ({}, {"augmentation": {}}, "augmentation must be an Augmentation, but is {}: trainer.aug"),
        ({}, {"training": False}, "augmentation is for training, but split 'train' is read for"),
        (
            {"fill_mode": "constant", "cval": 300},
            {},
            "'photo' has values from 0 to 255, but cval is 300",
        ),
        ({"rand_augment": {}}, {"features": ["depth"]}, "needs 3 channels, but 'depth' has 1"),
        ({"rand_augment": {}}, {"features": ["photo", "mask"]}, "rand_augment leaves masks and bo"),
        ({"mixup": {}}, {"features": ["photo", "objects"]}, "mixup leaves masks and boxes where"),
        ({"cutmix": {}}, {"features": ["photo", "age"]}, "cutmix mixes images and classes, but 'a"),
    ],
)
def test_wrong_calls(folder, asked, options, message):
    with pytest.raises(UsageError, match=message):
        load(folder, "train", 8, Options(**{"augmentation": Augmentation(**asked), **options}))


def test_boxes_without_their_image_are_not_cropped(files):
    options = Options(crop=(9, 13), features=["objects", "objects_class"])
    with pytest.raises(UsageError, match="'objects' goes where 'photo' goes, which is not read"):
        load(files, "train", 16, options)


def test_images_normalized_per_pixel_are_not_cropped(tmp_path, write_dataset):
    photo = {"dtype": "uint8", "shape": [1, 2, 1], "stored_as": "png", "normalized": False}
    photo["normalization"] = {"mean": [[[1.0], [2.0]]]}
    record = {"photo": tf.io.encode_png(np.zeros((1, 2, 1), np.uint8)).numpy()}
    folder = write_dataset(tmp_path / "data", {"train": [record]}, {"photo": photo}, None)
    with pytest.raises(UsageError, match="statistics of each pixel, which a crop would move"):
        load(folder, "train", 1, Options(crop=(1, 1)))


def test_numbers_are_not_mixed(tmp_path, write_dataset):
    label = {"name": "price", "dtype": "float32", "type": "float32"}
    records = [{"photo": _record(i)["photo"], "label": i / 3} for i in range(8)]
    folder = write_dataset(tmp_path / "data", {"train": records}, {"photo": _IMAGE}, label)
    with pytest.raises(UsageError, match="mixup mixes the classes of records, but its label is no"):
        load(folder, "train", 4, Options(augmentation=Augmentation(mixup={})))
