import io
import json

import google_crc32c
import numpy as np
import pytest

from trainer import dataset_info
from trainer.errors import DatasetError, UsageError

_AGE = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_IMAGE = {
    "dtype": "uint8",
    "shape": [2, 2, 3],
    "stored_as": "raw",
    "normalized": False,
    "normalization": {"rescale": 0.5, "mean": [1.0, 2.0, 3.0]},
}
_LABEL = {"name": "income", "dtype": "int64", "type": "class", "classes": ["no", "yes"]}


@pytest.fixture(name="folder")
def fixture_folder(tmp_path, write_dataset):
    records = [{"age": float(i), "label": i % 2} for i in range(5)]
    return write_dataset(tmp_path / "data", {"train": records}, {"age": _AGE}, _LABEL)


def _edit(folder, change):
    path = folder / "dataset_info.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_reads_the_manifest(folder):
    _edit(folder, lambda m: m["features"].update(image=_IMAGE))
    info = dataset_info.read(folder)
    assert (info.name, info.spec_digest, info.compression) == ("handmade", "00ff", "none")
    train = info.split("train")
    assert [shard.num_examples for shard in train.shards] == [3, 2, 0]
    assert train.num_examples == 5
    assert info.path(train.shards[1]) == f"{folder}/train-00001-of-00003.tfrecord"
    assert info.features["age"].shape == ()
    assert not info.features["age"].is_image
    image = info.features["image"]
    assert image.is_image
    assert image.normalization == dataset_info.Normalization(0.5, (1.0, 2.0, 3.0), None)
    assert info.require_label().classes == ("no", "yes")


def test_no_such_folder(tmp_path):
    with pytest.raises(UsageError, match="nowhere: there is no such folder"):
        dataset_info.read(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="file: must be a dataset folder, but is a file"):
        dataset_info.read(tmp_path / "file")


def test_a_folder_without_manifest_is_not_finished(folder):
    (folder / "dataset_info.json").unlink()
    with pytest.raises(UsageError, match="not a finished dataset.*run `headrace run` again"):
        dataset_info.read(folder)


def test_not_json(folder):
    (folder / "dataset_info.json").write_text('{"format_version": 1,')
    with pytest.raises(DatasetError, match="dataset_info.json: is not JSON"):
        dataset_info.read(folder)


def _shard(manifest):
    return manifest["splits"]["train"]["shards"][0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(format_version=2), "format_version must be 1, but is 2"),
        (lambda m: m.pop("format_version"), "format_version must be 1, but is None"),
        (lambda m: m.pop("splits"), "KeyError: 'splits'"),
        (lambda m: m.update(compression="zstd"), "must be none or gzip, but is 'zstd'"),
        (lambda m: m["splits"]["train"].update(num_examples=6), "hold 5 examples, but the split 6"),
        (lambda m: m["features"]["age"].update(stored_as="jpeg"), "'age' is float32 stored as 'jp"),
        (lambda m: _shard(m).update(file="../evil"), r"plain file name, but is '\.\./evil'"),
        (lambda m: _shard(m).update(file="/etc/passwd"), "plain file name, but is '/etc/passwd'"),
        (lambda m: _shard(m).update(file=".."), r"plain file name, but is '\.\.'"),
        (lambda m: _shard(m).update(num_examples=2**70), "has 1180591620717411303424 examples in"),
        (lambda m: _shard(m).update(num_examples=-3), "has -3 examples in"),
        (lambda m: _shard(m).update(index="2:40 1:80"), "index of .* must rise within the shard"),
        (lambda m: _shard(m).update(index="9" * 5000 + ":1"), "index of .* must rise within the s"),
        (lambda m: _shard(m).update(index="1:99999999"), "index of .* must rise within the shard"),
        (lambda m: m["features"]["age"].update(shape=[-3]), "shape"),
        (
            lambda m: m["features"]["age"].update(stored_as="sparse"),
            "'age' is float32 stored as 's",
        ),
        (
            lambda m: m["label"].update(type="text"),
            "one of class, int64, float32, multi_label, but is 'text'",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used(folder, change, message):
    _edit(folder, change)
    with pytest.raises(DatasetError, match=message):
        dataset_info.read(folder)


_OBJECTS = {"dtype": "float32", "shape": [4, 4], "stored_as": "float_list", "normalized": False}
_FOLLOWERS = {
    "image": _IMAGE,
    "mask": {**_IMAGE, "shape": [2, 2, 1], "normalization": None, "kind": "mask", "of": "image"},
    "objects": {**_OBJECTS, "kind": "boxes", "of": "image"},
    "objects_class": {
        **_OBJECTS,
        "dtype": "int64",
        "shape": [4],
        "stored_as": "int64_list",
        "kind": "classes",
        "of": "objects",
    },
}


@pytest.mark.parametrize(
    "name, change",
    [
        ("image", {"data_format": "zebra"}),
        ("image", {"data_format": 3}),
        ("image", {"kind": "zebra"}),
        ("image", {"kind": {"a": 1}}),
        ("image", {"of": "mask"}),
        ("image", {"shape": [True, True, 3]}),
        ("image", {"shape": [2**30, 2**30, 3]}),
        ("image", {"stored_as": "jpeg", "shape": [2, 2, 7]}),
        ("image", {"stored_as": "jpeg", "shape": [None, None, None]}),
        ("image", {"stored_as": "jpeg", "shape": [None, 2, 3]}),
        ("mask", {"of": ["image"]}),
        ("mask", {"of": "age"}),
        ("mask", {"of": "nothing"}),
        ("mask", {"shape": [4, 1, 1]}),
        ("objects", {"kind": "mask"}),
        ("objects", {"shape": [16]}),
        ("objects_class", {"kind": "boxes"}),
        ("objects_class", {"shape": [3]}),
        ("objects_class", {"of": None}),
        ("objects_class", {"of": "image"}),
    ],
)
def test_images_and_what_belongs_to_them_must_fit(folder, name, change):
    _edit(folder, lambda m: m["features"].update(_FOLLOWERS))
    assert dataset_info.read(folder).features["objects_class"].of == "objects"
    _edit(folder, lambda m: m["features"][name].update(change))
    with pytest.raises(DatasetError):
        dataset_info.read(folder)


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


_MEANS = np.arange(12.0).reshape(2, 2, 3)


def _write_mean(folder, data):
    (folder / "statistics-0.npy").write_bytes(data)
    said = {"file": "statistics-0.npy", "crc32c": f"{google_crc32c.value(data):08x}"}
    image = {**_IMAGE, "normalization": {"mean": said}}
    _edit(folder, lambda m: m["features"].update(image=image))


def test_statistics_of_each_pixel_are_those_of_their_file(folder):
    _write_mean(folder, _npy(_MEANS))
    found = dataset_info.read(folder).features["image"].normalization.mean
    np.testing.assert_array_equal(found, _MEANS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\3\4",
        _npy(_MEANS).replace(b"(2, 2, 3), }            ", b"(1000000000000,), }     "),
        _npy(_MEANS[:1]),
        _npy(np.float64(3)),
        _npy(_MEANS.astype(np.float32)),
        _npy(np.asfortranarray(_MEANS)),
        _npy(np.where(_MEANS == 5, np.nan, _MEANS)),
        _npy(_MEANS)[:-8],
    ],
)
def test_a_file_of_statistics_that_is_none(folder, data):
    _write_mean(folder, data)
    with pytest.raises(DatasetError, match="mean and the std of feature 'image' must be finite"):
        dataset_info.read(folder)


def test_a_folder_is_no_file_of_statistics(folder):
    _write_mean(folder, _npy(_MEANS))
    (folder / "statistics-0.npy").unlink()
    (folder / "statistics-0.npy").mkdir()
    with pytest.raises(DatasetError, match="statistics-0.npy: cannot be read"):
        dataset_info.read(folder)


@pytest.mark.parametrize("mean", [3, [1.0, 2.0], ["1", "2", "3"], [[1.0], [2.0, 3.0]], "abc"])
def test_statistics_in_the_manifest_must_fit_the_image(folder, mean):
    image = {**_IMAGE, "normalization": {"mean": mean}}
    _edit(folder, lambda m: m["features"].update(image=image))
    with pytest.raises(DatasetError, match="mean and the std of feature 'image' must be finite"):
        dataset_info.read(folder)


def test_an_unknown_split_names_those_that_exist(folder):
    with pytest.raises(UsageError, match="no split 'test'; the splits are train"):
        dataset_info.read(folder).split("test")


def test_a_dataset_without_label_has_nothing_to_learn(folder):
    _edit(folder, lambda m: m.pop("label"))
    info = dataset_info.read(folder)
    assert info.label is None
    with pytest.raises(UsageError, match="has no label"):
        info.require_label()
