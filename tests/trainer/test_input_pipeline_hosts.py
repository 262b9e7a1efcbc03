"""One order for any number of hosts, entered anywhere; mixtures, drawing by class, image files."""

import collections
import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer import dataset_info, records
from trainer import order as orders
from trainer.errors import UsageError
from trainer.input_pipeline import Options, load, num_steps

KEY = {"dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": False}
LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["a", "b", "c"]}
NUM_TRAIN, NUM_TEST = 211, 53

# In memory; windows in lanes, with an index and with compressed shards; lanes alone.
LAYOUTS = {
    "memory": {"index_every": 3},
    "windows": {"index_every": 3, "bytes": 6_500, "lanes": 8},
    "gzip": {"compression": "gzip", "bytes": 4_000},
    "lanes": {"index_every": 3, "bytes": 64, "large": 1, "lanes": 16},
}


def _records(count, start=0):
    # Class by class, as a folder of classes would give them.
    return [{"key": start + i, "label": i * 3 // count} for i in range(count)]


@pytest.fixture(name="folder", params=LAYOUTS, scope="module")
def fixture_folder(request, tmp_path_factory, write_dataset):
    layout = LAYOUTS[request.param]
    options = {name: layout[name] for name in ("index_every", "compression") if name in layout}
    splits = {"train": _records(NUM_TRAIN), "test": _records(NUM_TEST, start=1000)}
    folder = tmp_path_factory.mktemp(request.param) / "data"
    patch = pytest.MonkeyPatch()
    if "bytes" in layout:
        patch.setattr(orders, "WHOLE_BYTES", layout["bytes"])
        patch.setattr(orders, "WINDOW_BYTES", layout["bytes"])
    patch.setattr(orders, "MAX_LANES", layout.get("lanes", orders.MAX_LANES))
    patch.setattr(orders, "_LARGE_RECORD_BYTES", layout.get("large", 1 << 20))
    for name in "_RUN_BYTES", "_LONG_RUN_BYTES":
        patch.setattr(orders, name, 1)
    write_dataset(folder, splits, {"key": KEY}, LABEL, num_shards=5, **options)
    yield folder
    patch.undo()


def _keys(batches):
    return [features["key"].numpy().tolist() for features, *_ in batches]


def _order_of(folder):
    info = dataset_info.read(folder)
    return records.source(
        info, info.split("train"), seed=0, host=0, num_hosts=1, sampling=None
    ).order


def test_the_layouts_are_what_they_are_called(folder):
    order = _order_of(folder)
    found = (order.num_lanes, order.window)
    name = folder.parent.name.rstrip("0")
    assert (
        found == {"memory": (1, 211), "windows": (8, 16), "gzip": (4, 25), "lanes": (16, 1)}[name]
    )


@pytest.fixture(name="alone", scope="module")
def fixture_alone(folder):
    """What one host reads in three epochs, 12 records a batch."""
    return _keys(load(folder, "train", 12, Options(seed=9, epochs=3)))


def test_an_epoch_has_no_record_twice(alone):
    steps = NUM_TRAIN // 12
    assert len(alone) == 3 * steps
    for epoch in (alone[:steps], alone[steps : 2 * steps], alone[2 * steps :]):
        seen = list(itertools.chain.from_iterable(epoch))
        assert len(set(seen)) == len(seen) == steps * 12
    assert len({tuple(alone[epoch * steps]) for epoch in range(3)}) == 3


@pytest.mark.parametrize("num_hosts", [2, 3, 4, 12])
def test_hosts_share_the_batches_of_one(folder, alone, num_hosts):
    for host in {0, 1, num_hosts - 1}:
        part = Options(seed=9, epochs=3, host=host, num_hosts=num_hosts)
        assert _keys(load(folder, "train", 12, part)) == [keys[host::num_hosts] for keys in alone]


@pytest.mark.parametrize("batch_size, num_hosts", [(1, 1), (24, 4), (211, 1)])
def test_the_size_of_a_batch_does_not_change_the_order(folder, alone, batch_size, num_hosts):
    order = list(itertools.chain.from_iterable(alone[: NUM_TRAIN // 12]))
    parts = [
        _keys(load(folder, "train", batch_size, Options(seed=9, host=h, num_hosts=num_hosts)))
        for h in range(num_hosts)
    ]
    steps = zip(*parts, strict=True)
    together = [k for step in steps for keys in zip(*step, strict=True) for k in keys]
    assert len(together) == NUM_TRAIN // batch_size * batch_size
    common = min(len(order), len(together))
    assert together[:common] == order[:common]


@pytest.mark.parametrize("remainder, num_seen", [("drop", 204), ("keep", 211), ("pad", 211)])
@pytest.mark.parametrize("num_hosts", [1, 4])
def test_every_record_once_whatever_becomes_of_the_rest(folder, remainder, num_seen, num_hosts):
    if (remainder, num_hosts) == ("keep", 4):
        pytest.skip("A smaller batch cannot be shared.")
    seen, shapes = [], set()
    for host in range(num_hosts):
        options = Options(remainder=remainder, host=host, num_hosts=num_hosts)
        batches = list(load(folder, "train", 12, options))
        assert (
            len(batches)
            == -(-num_seen // 12)
            == num_steps(dataset_info.read(folder), "train", 12, options)
        )
        for features, label, *weight in batches:
            shapes.add(label.shape[0])
            is_real = weight[0].numpy() == 1 if weight else np.ones(len(label), bool)
            seen += features["key"].numpy()[is_real].tolist()
            expected = features["key"].numpy() * 3 // NUM_TRAIN
            np.testing.assert_array_equal(label, expected)
    assert len(seen) == len(set(seen)) == num_seen
    assert shapes == ({12 // num_hosts} if remainder != "keep" else {12, 7})


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_padded_evaluation_has_one_shape_and_every_record_once(folder, num_hosts):
    weights, keys = [], []
    for host in range(num_hosts):
        options = Options(remainder="pad", host=host, num_hosts=num_hosts)
        batches = load(folder, "test", 48, options)
        size = 48 // num_hosts
        assert batches.element_spec[2] == tf.TensorSpec((size,), tf.float32)
        assert batches.element_spec[1].shape == (size,)
        for features, _, weight in batches:
            assert weight.shape == (size,)
            keys += features["key"].numpy().tolist()
            weights += weight.numpy().tolist()
    assert len(keys) == 96
    real = [key for key, weight in zip(keys, weights, strict=True) if weight == 1]
    assert sorted(real) == list(range(1000, 1053))
    assert weights.count(0) == 96 - 53


def test_batches_have_static_shapes(folder):
    assert load(folder, "train", 12).element_spec[1].shape == (12,)
    part = load(folder, "train", 12, Options(host=1, num_hosts=4))
    assert part.element_spec[1].shape == (3,)


@pytest.mark.parametrize("host, num_hosts", [(0, 1), (2, 4)])
@pytest.mark.parametrize("epoch, step", [(0, 1), (0, 16), (1, 3), (2, 5)])
def test_reading_can_begin_anywhere(folder, alone, host, num_hosts, epoch, step):
    place = {"epoch": epoch, "step": step, "epochs": 3 - epoch}
    options = Options(seed=9, host=host, num_hosts=num_hosts, **place)
    expected = [keys[host::num_hosts] for keys in alone[epoch * 17 + step :]]
    assert _keys(load(folder, "train", 12, options)) == expected


def test_each_iteration_is_the_next_epoch(folder, alone):
    batches = load(folder, "train", 12, Options(seed=9))
    assert [*_keys(batches), *_keys(batches), *_keys(batches)] == alone
    later = load(folder, "train", 12, Options(seed=9, epoch=2))
    assert _keys(later) == alone[2 * 17 :]
    assert int(batches.cardinality()) == 17


def test_the_global_seed_has_no_influence(folder, alone):
    tf.random.set_seed(99)
    assert _keys(load(folder, "train", 12, Options(seed=9))) == alone[:17]


def test_the_order_is_not_that_of_the_files(alone):
    keys = list(itertools.chain.from_iterable(alone[:17]))
    assert abs(np.corrcoef(keys, np.arange(len(keys)))[0, 1]) < 4 / np.sqrt(len(keys))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_classes_are_drawn_alike(tmp_path, write_dataset, monkeypatch, whole, compression):
    if not whole:
        for name, value in ("WHOLE_BYTES", 1000), ("WINDOW_BYTES", 4000), ("_RUN_BYTES", 1):
            monkeypatch.setattr(orders, name, value)
    train = [{"key": i, "label": 0 if i < 500 else 1 if i < 595 else 2} for i in range(600)]
    form = {"index_every": 20} if compression == "none" else {"compression": "gzip"}
    folder = write_dataset(tmp_path / "d", {"train": train}, {"key": KEY}, LABEL, **form)
    options = Options(seed=1, sampling="balanced", epochs=5)
    labels = np.concatenate([label.numpy() for _, label in load(folder, "train", 50, options)])
    assert len(labels) == 5 * 600
    counts = np.bincount(labels)
    assert (abs(counts - 1000) < 100).all(), counts
    keys = itertools.chain.from_iterable(_keys(load(folder, "train", 50, options)))
    of_key = collections.Counter(keys)
    assert all(of_key[key] > 100 for key in range(595, 600))  # 200 on average
    assert len(of_key) > 500


def test_classes_are_drawn_by_weight(tmp_path, write_dataset):
    folder = write_dataset(tmp_path / "d", {"train": _records(600)}, {"key": KEY}, LABEL)
    options = Options(sampling={"a": 6, "b": 3, "c": 1}, epochs=5)
    labels = np.concatenate([label.numpy() for _, label in load(folder, "train", 50, options)])
    assert (abs(np.bincount(labels) - [1800, 900, 300]) < 100).all()


@pytest.mark.parametrize("epoch, step", [(0, 5), (1, 3)])
def test_drawing_can_be_entered_and_shared(folder, epoch, step):
    options = {"seed": 4, "sampling": {"c": 2.5}}
    whole = _keys(load(folder, "train", 12, Options(epochs=2, **options)))
    assert len(whole) == 2 * 17
    rest = Options(epoch=epoch, step=step, epochs=2 - epoch, **options)
    assert _keys(load(folder, "train", 12, rest)) == whole[epoch * 17 + step :]
    for host in range(4):
        part = Options(host=host, num_hosts=4, epochs=2, **options)
        assert _keys(load(folder, "train", 12, part)) == [keys[host::4] for keys in whole]


@pytest.mark.parametrize(
    "sampling, message",
    [
        ("fair", "must be 'balanced' or weights by class, but is 'fair'"),
        ({"d": 1}, "no class 'd'; the classes are a, b, c"),
        ({"a": 0}, "weight of class 'a' must be above 0, but is 0.0"),
        ({"a": float("nan")}, "must be above 0, but is nan"),
    ],
)
def test_wrong_weights(folder, sampling, message):
    with pytest.raises(UsageError, match=message):
        load(folder, "train", 12, Options(sampling=sampling))


@pytest.fixture(name="pair", scope="module")
def fixture_pair(tmp_path_factory, write_dataset):
    root = tmp_path_factory.mktemp("pair")
    return [
        write_dataset(root / name, {"train": _records(count, start)}, {"key": KEY}, LABEL)
        for name, count, start in [("first", 100, 0), ("second", 40, 500)]
    ]


def test_datasets_are_mixed_by_their_shares(pair):
    shares = {str(pair[0]): 3, str(pair[1]): 1}
    batches = _keys(load(shares, "train", 20, Options(seed=1, epochs=2)))
    assert len(batches) == 2 * (140 // 20)
    assert {sum(key < 500 for key in keys) for keys in batches} == {15}
    first = _keys(load(pair[0], "train", 15, Options(seed=1, epochs=3)))
    assert [[k for k in keys if k < 500] for keys in batches] == first[: len(batches)]
    second = [k for keys in batches for k in keys if k >= 500]
    assert len(second) == 70
    assert sorted(second[:40]) == list(range(500, 540))  # All, before one comes again.


@pytest.mark.parametrize("epoch, step", [(0, 3), (1, 0), (1, 6)])
def test_a_mixture_can_be_entered_and_shared(pair, epoch, step):
    shares = {str(pair[0]): 0.75, str(pair[1]): 0.25}  # 12 and 4 of 16.
    whole = _keys(load(shares, "train", 16, Options(seed=1, epochs=2)))
    assert len(whole) == 2 * 8
    rest = Options(seed=1, epoch=epoch, step=step, epochs=2 - epoch)
    assert _keys(load(shares, "train", 16, rest)) == whole[epoch * 8 + step :]
    parts = [
        _keys(load(shares, "train", 16, Options(seed=1, epochs=2, host=h, num_hosts=4)))
        for h in range(4)
    ]
    for keys, together in zip(whole, zip(*parts, strict=True), strict=True):
        assert sorted(keys) == sorted(itertools.chain.from_iterable(together))


def test_mixtures_that_make_no_sense(pair, folder, tmp_path, write_dataset):
    with pytest.raises(UsageError, match="share must be above 0, but is -1"):
        load({str(pair[0]): 1, str(pair[1]): -1}, "train", 4)
    with pytest.raises(UsageError, match="batch of 4 is too small for the shares"):
        load({str(pair[0]): 99, str(pair[1]): 1}, "train", 4)
    with pytest.raises(UsageError, match="at least one dataset"):
        load({}, "train", 4)
    shares = {str(pair[0]): 3, str(pair[1]): 1}
    with pytest.raises(UsageError, match=r"are \[15, 5\] examples, but must be multiples of the 4"):
        load(shares, "train", 20, Options(num_hosts=4))
    with pytest.raises(
        UsageError, match="second: split 'train' has 40 examples, fewer than its 64"
    ):
        load({str(pair[0]): 1, str(pair[1]): 2}, "train", 96)
    other = {**LABEL, "classes": ["a", "b", "d"]}
    differs = write_dataset(tmp_path / "d", {"train": _records(9)}, {"key": KEY}, other)
    with pytest.raises(UsageError, match="must be those of .*first, .* but differ"):
        load({str(pair[0]): 1, str(differs): 1}, "train", 4)


def _photo(index, height, width):
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BILINEAR)


def _encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return file.getvalue()


@pytest.fixture(name="photos", params=["jpeg", "png"])
def fixture_photos(request, tmp_path, write_dataset):
    kind = request.param
    files = [_encoded(_photo(i, 40, 56), kind) for i in range(12)]
    feature = {"dtype": "uint8", "shape": [40, 56, 3], "stored_as": kind, "normalized": False}
    train = [{"image": data, "key": i, "label": i % 3} for i, data in enumerate(files)]
    splits = {"train": train, "test": train}
    folder = write_dataset(tmp_path / kind, splits, {"image": feature, "key": KEY}, LABEL)
    pixels = [np.asarray(Image.open(io.BytesIO(data))) for data in files]
    return folder, np.stack(pixels)


def test_image_files_are_decoded(photos):
    folder, pixels = photos
    for features, _ in load(folder, "test", 5):
        np.testing.assert_array_equal(features["image"], pixels[features["key"]], strict=True)


def _place(whole, cut):
    """Where a crop comes from: the only corner at which the picture is the same.

    At the edges of a crop, a JPEG's colors are interpolated from what is inside alone.
    """
    views = np.lib.stride_tricks.sliding_window_view(whole, cut.shape)[:, :, 0]
    distance = np.abs(views.astype(np.int16) - cut).mean(axis=(2, 3, 4))
    (corner,) = np.argwhere(distance < 1)
    return tuple(corner.tolist())


def test_crops_are_central_in_evaluation(photos):
    folder, pixels = photos
    batches = load(folder, "test", 4, Options(crop=(24, 31)))
    assert batches.element_spec[0]["image"] == tf.TensorSpec((None, 24, 31, 3), tf.uint8)
    for features, _ in batches:
        np.testing.assert_array_equal(
            features["image"], pixels[features["key"], 8:32, 12:43], strict=True
        )


def test_crops_are_random_in_training_and_the_same_for_all_hosts(photos):
    folder, pixels = photos
    options = {"crop": (24, 31), "seed": 3, "epochs": 2}
    corners = {}
    for number, (features, _) in enumerate(load(folder, "train", 4, Options(**options))):
        for key, cut in zip(features["key"].numpy(), features["image"].numpy(), strict=True):
            corners[number // 3, int(key)] = _place(pixels[key], cut)
    assert len(corners) == 24
    assert len(set(corners.values())) > 18  # Other ones for other records, and in other epochs.
    assert {row for row, _ in corners.values()} <= set(range(17))
    assert {column for _, column in corners.values()} <= set(range(26))
    found = {}
    for host in range(2):
        part = load(folder, "train", 4, Options(**options, host=host, num_hosts=2))
        for number, (features, _) in enumerate(part):
            for key, cut in zip(features["key"].numpy(), features["image"].numpy(), strict=True):
                found[number // 3, int(key)] = _place(pixels[key], cut)
    assert found == corners
    rest = load(folder, "train", 4, Options(crop=(24, 31), seed=3, epoch=1, step=1, epochs=1))
    for features, _ in rest:
        for key, cut in zip(features["key"].numpy(), features["image"].numpy(), strict=True):
            assert _place(pixels[key], cut) == corners[1, int(key)]


def test_of_an_image_smaller_than_its_crop_a_part_is_enlarged(photos):
    folder, pixels = photos
    features, _ = next(iter(load(folder, "test", 4, Options(crop=(60, 60)))))
    for key, image in zip(features["key"].numpy(), features["image"].numpy(), strict=True):
        part = Image.fromarray(pixels[key][:, 8:48])  # 40x40 from the middle.
        expected = np.asarray(part.resize((60, 60), Image.Resampling.BILINEAR), np.int16)
        assert np.abs(expected - image).mean() < 2  # Pillow rounds twice.
    corners = load(folder, "train", 4, Options(crop=(60, 60)))
    assert all(features["image"].shape == (4, 60, 60, 3) for features, _ in corners)


@pytest.mark.parametrize(
    "size, message", [((40, 57), r"must be \[40 56\]"), ((20_000, 20_000), "has 400000000")]
)
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_an_image_of_another_size_is_not_decoded(tmp_path, write_dataset, kind, size, message):
    file = io.BytesIO()
    Image.new("L", size[::-1]).save(file, kind)
    feature = {"dtype": "uint8", "shape": [40, 56, 1], "stored_as": kind, "normalized": False}
    records = [{"image": file.getvalue(), "label": 0}]
    folder = write_dataset(tmp_path / "d", {"train": records}, {"image": feature}, LABEL)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"an image {message}"):
        list(load(folder, "train", 1))


def test_crops_that_make_no_sense(folder, photos):
    with pytest.raises(UsageError, match="crop is for images that are stored as files"):
        load(folder, "train", 12, Options(crop=(8, 8)))
    with pytest.raises(UsageError, match="sides of crop must be at least 1, .* but are 0 and 8"):
        load(photos[0], "train", 4, Options(crop=(0, 8)))


@pytest.mark.parametrize("seed", [2**64 + 9, 9 - 2**64])
def test_seeds_count_modulo_64_bits(folder, alone, seed):
    assert _keys(load(folder, "train", 12, Options(seed=seed))) == alone[:17]
