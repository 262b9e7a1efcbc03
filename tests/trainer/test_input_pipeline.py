import gzip
import json
import platform
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from trainer import dataset_info, input_pipeline, model
from trainer.errors import DatasetError, UsageError
from trainer.input_pipeline import Options

_FEATURES = {
    "age": {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True},
    "job": {
        "dtype": "int64",
        "shape": [],
        "stored_as": "int64_list",
        "normalized": True,
        "num_categories": 7,
    },
    "note": {"dtype": "string", "shape": [], "stored_as": "bytes_list", "normalized": False},
    "image": {"dtype": "uint8", "shape": [2, 3, 3], "stored_as": "raw", "normalized": False},
    "map": {"dtype": "float32", "shape": [2, 2, 1], "stored_as": "raw", "normalized": True},
}
_LABEL = {"name": "income", "dtype": "int64", "type": "class", "classes": ["a", "b", "c"]}


def _records(count, *, start=0):
    rng = np.random.default_rng(start)
    return [
        {
            "age": np.float32(index) / 3,
            "job": index % 7,
            "note": f"n\N{LATIN SMALL LETTER E WITH ACUTE}{index}".encode(),
            "image": rng.integers(0, 256, (2, 3, 3), np.uint8),
            "map": rng.normal(size=(2, 2, 1)).astype("<f4"),
            "label": index % 3,
        }
        for index in range(start, start + count)
    ]


@pytest.fixture(name="folder", params=["none", "gzip"])
def fixture_folder(request, tmp_path, write_dataset):
    splits = {"train": _records(23), "test": _records(11, start=100)}
    return write_dataset(
        tmp_path / "data", splits, _FEATURES, _LABEL, compression=request.param, num_shards=3
    )


def _rows(batches):
    """Reads all batches: a list of (features, label) with NumPy values, one per example."""
    rows = []
    for features, labels in batches.as_numpy_iterator():
        rows += [
            ({name: values[i] for name, values in features.items()}, labels[i])
            for i in range(len(labels))
        ]
    return rows


def _ages(batches):
    return [float(features["age"]) for features, _ in _rows(batches)]


def _read_by_hand(folder, split):
    """The examples of a split in the order of the manifest, with gzip and struct only."""
    manifest = json.loads((folder / "dataset_info.json").read_text())
    for shard in manifest["splits"][split]["shards"]:
        data = (folder / shard["file"]).read_bytes()
        data = gzip.decompress(data) if manifest["compression"] == "gzip" else data
        while data:
            length = int.from_bytes(data[:8], "little")
            yield tf.train.Example.FromString(data[12 : 12 + length]).features.feature
            data = data[16 + length :]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_evaluation_gives_every_value_back_in_the_order_of_the_manifest(folder, batch_size):
    rows = _rows(input_pipeline.load(folder, "test", batch_size))
    expected = list(_read_by_hand(folder, "test"))
    assert len(rows) == len(expected) == 11  # Not a multiple of 4.
    for (features, label), want in zip(rows, expected, strict=True):
        assert features["age"] == np.float32(want["age"].float_list.value[0])
        assert features["job"] == want["job"].int64_list.value[0]
        assert features["note"] == want["note"].bytes_list.value[0]
        image = np.frombuffer(want["image"].bytes_list.value[0], np.uint8).reshape(2, 3, 3)
        np.testing.assert_array_equal(features["image"], image, strict=True)
        field = np.frombuffer(want["map"].bytes_list.value[0], "<f4").reshape(2, 2, 1)
        np.testing.assert_array_equal(features["map"], field, strict=True)
        assert label == want["label"].int64_list.value[0]


def test_dtypes_and_static_shapes(folder):
    features, label = input_pipeline.load(folder, "train", 4).element_spec
    assert features == {
        "age": tf.TensorSpec((4,), tf.float32),
        "job": tf.TensorSpec((4,), tf.int64),
        "note": tf.TensorSpec((4,), tf.string),
        "image": tf.TensorSpec((4, 2, 3, 3), tf.uint8),
        "map": tf.TensorSpec((4, 2, 2, 1), tf.float32),
    }
    assert label == tf.TensorSpec((4,), tf.int64)


def test_a_split_smaller_than_a_batch_is_not_dropped(folder):
    batches = input_pipeline.load(folder, "train", 24)
    assert batches.element_spec[1].shape == (None,)
    assert sorted(_ages(batches)) == [np.float32(index) / np.float32(3) for index in range(23)]


@pytest.mark.feature(
    "What chance decides", "keras.utils.image_dataset_from_directory: seed", "`Options(seed)`"
)
@pytest.mark.feature(
    "What chance decides", "keras.utils.text_dataset_from_directory: seed", "`Options(seed)`"
)
def test_training_orders_differ_by_epoch_and_seed_and_come_back_with_the_seed(folder):
    def epochs(seed):
        batches = input_pipeline.load(folder, "train", 23, Options(seed=seed))
        return [_ages(batches) for _ in range(3)]

    first, again, other = epochs(5), epochs(5), epochs(6)
    stored = [float(f["age"].float_list.value[0]) for f in _read_by_hand(folder, "train")]
    assert first == again
    orders = [tuple(order) for order in [*first, *other, stored]]
    assert len(set(orders)) == 7
    assert all(sorted(order) == sorted(stored) for order in orders)


def test_the_order_does_not_depend_on_how_many_batches_are_parsed_at_a_time(folder, monkeypatch):
    def order(together):
        monkeypatch.setattr(input_pipeline, "_PARSED_TOGETHER", together)
        batches = input_pipeline.load(folder, "train", 2, Options(seed=5))
        return [_ages(batches) for _ in range(2)]

    assert order(1) == order(2) == order(16)


def test_a_pass_does_not_wait_for_the_tuner(folder):
    assert not input_pipeline.load(folder, "train", 4).options().autotune.enabled


def test_large_images_come_back_exactly_and_normalized_as_numpy_does(tmp_path, write_dataset):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 224, 224, 3), np.uint8)
    mean, std = (0.49, 0.45, 0.4), (0.28, 0.27, 0.29)
    normalization = {"rescale": 1 / 255, "mean": mean, "std": std}
    image = {"dtype": "uint8", "shape": [224, 224, 3], "stored_as": "raw", "normalized": False}
    features = {"image": {**image, "normalization": normalization}}
    records = [{"image": pixels, "label": index % 3} for index, pixels in enumerate(images)]
    folder = write_dataset(tmp_path / "data", {"train": records}, features, _LABEL, num_shards=1)
    info = dataset_info.read(folder)
    ((batch, _),) = input_pipeline.load(info, "train", 5, Options(training=False))
    np.testing.assert_array_equal(batch["image"], images, strict=True)
    normalize = tf.function(model.build(info).get_layer("image_normalized"), jit_compile=True)
    expected = (images / 255 - mean) / std
    np.testing.assert_allclose(normalize(batch["image"]), expected, rtol=0, atol=2e-6)


# In a process of its own: which of malloc's arenas a thread gets depends on what ran before.
_FILL = """
import itertools, resource, statistics, sys
import tensorflow as tf
from trainer import input_pipeline

def faults():
    tf.fill([40 << 20], tf.constant(1, tf.uint8))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pages():
    return statistics.median(b - a for a, b in itertools.pairwise(faults() for _ in range(12)))

before = pages()
input_pipeline.load(sys.argv[1], "test", 4)
faults()
print(before, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Only glibc has mallopt.")
def test_memory_of_a_large_batch_is_used_again(plain):
    call = [sys.executable, "-c", _FILL, str(plain)]
    before, after = subprocess.run(call, check=True, capture_output=True, text=True).stdout.split()
    if float(before) < (40 << 20) / (2 << 20):  # Mapped anew, each page faults, huge or not.
        pytest.skip("TensorFlow's freed memory is used again here without the setting")
    assert float(after) < 0.1 * float(before)


def test_training_drops_only_the_rest_of_an_epoch(folder):
    batches = input_pipeline.load(folder, "train", 5)
    assert int(batches.cardinality()) == 4
    first, second = set(_ages(batches)), set(_ages(batches))
    assert len(first) == len(second) == 20
    assert first != second


def test_a_train_split_can_be_read_in_order(folder):
    stored = [float(f["age"].float_list.value[0]) for f in _read_by_hand(folder, "train")]
    batches = input_pipeline.load(folder, "train", 5, Options(training=False))
    assert _ages(batches) == _ages(batches) == stored


def test_only_the_asked_features_are_read(folder):
    features, _ = next(iter(input_pipeline.load(folder, "test", 4, Options(features=["job"]))))
    assert list(features) == ["job"]


def test_without_label_the_batches_are_features_alone(tmp_path, write_dataset):
    records = [{"age": float(index)} for index in range(5)]
    age = {"age": _FEATURES["age"]}
    folder = write_dataset(tmp_path / "data", {"train": records}, age, None)
    (batch,) = input_pipeline.load(folder, "train", 5)
    assert sorted(batch["age"].numpy()) == [0, 1, 2, 3, 4]


def test_an_empty_split_gives_no_batch(tmp_path, write_dataset):
    splits = {"train": [], "test": []}
    folder = write_dataset(tmp_path / "data", splits, _FEATURES, _LABEL)
    assert _rows(input_pipeline.load(folder, "train", 4)) == []
    assert _rows(input_pipeline.load(folder, "test", 4)) == []


def test_a_float_label(tmp_path, write_dataset):
    records = [{"age": float(index), "label": index / 4} for index in range(5)]
    label = {"name": "fare", "dtype": "float32", "type": "float32"}
    folder = write_dataset(tmp_path / "d", {"train": records}, {"age": _FEATURES["age"]}, label)
    rows = _rows(input_pipeline.load(folder, "train", 5))
    assert sorted((f["age"], label) for f, label in rows) == [(i, i / 4) for i in range(5)]
    with pytest.raises(UsageError, match="no classes in split 'train' to draw by"):
        input_pipeline.load(folder, "train", 5, Options(sampling="balanced"))


def _cut_last_record(path):
    """Cuts an uncompressed shard at the end of its last record but one."""
    data = path.read_bytes()
    starts, position = [], 0
    while position < len(data):
        starts.append(position)
        position += 16 + int.from_bytes(data[position : position + 8], "little")
    path.write_bytes(data[: starts[-1]])


@pytest.fixture(name="plain")
def fixture_plain(tmp_path, write_dataset):
    splits = {"train": _records(23), "test": _records(11)}
    return write_dataset(tmp_path / "plain", splits, _FEATURES, _LABEL, num_shards=3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_shard_cut_at_the_end_of_a_record_is_named(plain, split):
    (path,) = plain.glob(f"{split}-00001-*")
    size = path.stat().st_size
    _cut_last_record(path)
    assert 0 < path.stat().st_size < size
    message = f"{path.name}: must have {size} bytes, but has {path.stat().st_size}"
    with pytest.raises(DatasetError, match=message):
        input_pipeline.load(plain, split, 4)


def test_a_missing_shard_is_named(plain):
    (path,) = plain.glob("train-00002-*")
    path.unlink()
    with pytest.raises(DatasetError, match=f"{path.name}: is missing"):
        input_pipeline.load(plain, "train", 4)
    input_pipeline.load(plain, "test", 4)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_shard_with_the_right_size_but_too_few_examples_fails(plain, split):
    (path,) = plain.glob(f"{split}-00001-*")
    _cut_last_record(path)
    manifest = json.loads((plain / "dataset_info.json").read_text())
    manifest["splits"][split]["shards"][1]["bytes"] = path.stat().st_size
    (plain / "dataset_info.json").write_text(json.dumps(manifest))
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain"):
        _rows(input_pipeline.load(plain, split, 1))
    num_examples = {"train": 8, "test": 4}[split]
    expected = f"{path}: must hold {num_examples} examples, but holds {num_examples - 1}"
    assert input_pipeline.find_damage(dataset_info.read(plain), split) == expected


def test_a_flipped_bit_fails(plain):
    (path,) = plain.glob("test-00001-*")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(tf.errors.DataLossError):
        _rows(input_pipeline.load(plain, "test", 4))
    info = dataset_info.read(plain)
    damage = f"{path}: one of the records 0 to 3 is damaged"
    assert input_pipeline.find_damage(info, "test") == damage
    assert input_pipeline.find_damage(info, "train") is None
    path.unlink()
    assert input_pipeline.find_damage(info, "test") == f"{path}: is missing"


def test_a_shard_that_the_manifest_does_not_list_is_not_read(plain):
    (path,) = plain.glob("test-00000-*")
    (plain / "test-00003-of-00004.tfrecord").write_bytes(path.read_bytes())
    assert len(_rows(input_pipeline.load(plain, "test", 4))) == 11


@pytest.mark.parametrize(
    "split, batch_size, options, message",
    [
        ("validation", 4, {}, "no split 'validation'; the splits are train, test"),
        ("train", 0, {}, "batch size must be at least 1, but is 0"),
        ("train", 4, {"features": ["wage"]}, "no feature 'wage'; the features are age, job"),
        ("train", 4, {"num_hosts": 3}, "multiple of the 3 hosts, but is 4"),
        ("train", 4, {"num_hosts": 0}, "num_hosts must be at least 1, but is 0"),
        ("train", 4, {"num_hosts": 2, "host": 2}, "host must be from 0 to 1, but is 2"),
        ("train", 24, {"num_hosts": 2}, "has 23 examples, fewer than a batch of 24"),
        ("test", 4, {"num_hosts": 2, "remainder": "keep"}, "must be 'drop' or 'pad'"),
        ("train", 4, {"remainder": "cut"}, "'drop', 'keep' or 'pad', but is 'cut'"),
        ("train", 4, {"step": 1}, "step is 1, but epochs is None: say how many"),
        ("train", 4, {"step": -1, "epochs": 1}, "step must be at least 0, but is -1"),
        ("train", 4, {"epoch": -1}, "epoch must be at least 0, but is -1"),
        ("train", 4, {"epochs": -1}, "epochs must be at least 0, but is -1"),
        ("test", 4, {"sampling": "balanced"}, "sampling is for training"),
    ],
)
def test_wrong_calls(plain, split, batch_size, options, message):
    with pytest.raises(UsageError, match=message):
        input_pipeline.load(plain, split, batch_size, Options(**options))


def test_a_cache_is_read_in_place_of_the_dataset(plain, tmp_path):
    cached = Options(cache=str(tmp_path / "cache"))
    expected = _ages(input_pipeline.load(plain, "test", 4))
    assert _ages(input_pipeline.load(plain, "test", 4, cached)) == expected
    for path in plain.glob("test-*"):
        path.unlink()
    assert _ages(input_pipeline.load(plain, "test", 4, cached)) == expected


def test_takes_a_manifest_that_was_read_already(plain):
    info = dataset_info.read(plain)
    assert len(_rows(input_pipeline.load(info, "test", 4))) == 11


def test_a_sparse_feature_comes_dense_and_a_list_as_it_is(tmp_path, write_dataset):
    rng = np.random.default_rng(0)
    bags = np.where(rng.random((23, 9)) < 0.3, rng.random((23, 9)), 0).astype(np.float32)
    bags[7] = 0  # A text without a known token.
    ids = rng.integers(0, 5, (23, 4))
    records = [
        {
            "bag/indices": np.flatnonzero(bag).tolist(),
            "bag/values": [float(value) for value in bag[bag > 0]],
            "ids": tokens.tolist(),
            "number": float(number),
            "label": number % 3,
        }
        for number, (bag, tokens) in enumerate(zip(bags, ids, strict=True))
    ]
    records = [{name: v for name, v in record.items() if v != []} for record in records]
    features = {
        "bag": {"dtype": "float32", "shape": [9], "stored_as": "sparse", "normalized": True},
        "ids": _FEATURES["job"] | {"shape": [4]},
        "number": _FEATURES["age"],
    }
    folder = write_dataset(tmp_path / "data", {"train": records}, features, _LABEL)
    rows = _rows(input_pipeline.load(folder, "train", 5, Options(training=False)))
    assert len(rows) == 23
    for found, _ in rows:
        number = int(found["number"])
        assert found["bag"].tolist() == bags[number].tolist()
        assert found["ids"].tolist() == ids[number].tolist()
    shapes = input_pipeline.load(folder, "train", 5).element_spec[0]
    assert shapes["bag"].shape.as_list()[1:] == [9] and shapes["bag"].dtype == tf.float32
    network = model.build(dataset_info.read(folder))
    assert network.input["bag"].shape == (None, 9)
