import json

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


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(format_version=2), "format_version must be 1, but is 2"),
        (lambda m: m.pop("format_version"), "format_version must be 1, but is None"),
        (lambda m: m.pop("splits"), "KeyError: 'splits'"),
        (lambda m: m.update(compression="zstd"), "must be none or gzip, but is 'zstd'"),
        (lambda m: m["splits"]["train"].update(num_examples=6), "hold 5 examples, but the split 6"),
        (lambda m: m["features"]["age"].update(stored_as="jpeg"), "'age' is float32 stored as 'jp"),
        (lambda m: m["label"].update(type="text"), "one of class, int64, float32, but is 'text'"),
    ],
)
def test_a_manifest_that_cannot_be_used(folder, change, message):
    _edit(folder, change)
    with pytest.raises(DatasetError, match=message):
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
