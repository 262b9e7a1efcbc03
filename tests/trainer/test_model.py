import collections
import dataclasses
import math
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import dataset_info, evaluate, export, model, model_folder, train
from trainer.errors import UsageError
from trainer.input_pipeline import Options, load
from trainer.networks import images, tables

_CLASS = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["a", "b", "c"]}
_NUMBER = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_INTEGER = {"dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": False}
_TEXT = {"dtype": "string", "shape": [], "stored_as": "bytes_list", "normalized": False}


def _image(shape, normalization=None):
    image = {"dtype": "uint8", "shape": shape, "stored_as": "raw", "normalized": False}
    return image | ({"normalization": normalization} if normalization else {})


@pytest.fixture(name="info")
def fixture_info(tmp_path, write_dataset):
    """Returns a function that writes a dataset and reads its manifest."""

    def write(records, features, label=_CLASS):
        return dataset_info.read(write_dataset(tmp_path, {"train": records}, features, label))

    return write


def _layer_output(network, name, tmp_path):
    """What a layer computes in the model as it is saved and loaded without custom code."""
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    return keras.Model(loaded.input, loaded.get_layer(name).output)


_PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)


@pytest.mark.parametrize(
    "normalization, expected",
    [
        (
            {"rescale": 1 / 255, "mean": [0.49, 0.48, 0.44], "std": [0.24, 0.23, 0.26]},
            (_PIXELS / 255 - [0.49, 0.48, 0.44]) / [0.24, 0.23, 0.26],
        ),
        ({"rescale": 1.0, "mean": [120.5, 3.0, 0.0]}, _PIXELS - np.array([120.5, 3.0, 0.0])),
        ({"rescale": 0.5, "std": [40.0, 50.0, 60.0]}, _PIXELS * 0.5 / [40.0, 50.0, 60.0]),
        ({"rescale": 1 / 255}, _PIXELS / 255),
        (
            {"rescale": 1.0, "mean": [7.0, 0.0, 0.0], "std": [0.0, 100.0, 100.0]},
            (_PIXELS - np.array([7.0, 0.0, 0.0])) / [1.0, 100.0, 100.0],
        ),
        (None, _PIXELS / 127.5 - 1),
    ],
    ids=["mean and std", "mean", "std", "rescale", "a std of 0", "none"],
)
def test_the_saved_model_normalizes_images_as_the_manifest_says(
    info, tmp_path, normalization, expected
):
    records = [{"image": pixels, "label": 0} for pixels in _PIXELS]
    network = model.build(info(records, {"image": _image([6, 7, 3], normalization)}))
    normalized = _layer_output(network, "image_normalized", tmp_path)
    got = normalized({"image": _PIXELS}).numpy()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=1e-6)


def _moved(image, rows, columns, is_mirrored):
    """The image moved down and to the right, or up and to the left, with zeros from outside."""
    image = image[:, ::-1] if is_mirrored else image
    padded = np.pad(image, ((9, 9), (9, 9), (0, 0)))
    height, width, _ = image.shape
    return padded[9 + rows : 9 + rows + height, 9 + columns : 9 + columns + width]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_shifted_by_an_eighth_and_color_is_mirrored_in_training_only(info, channels):
    """Every result is a whole shift of its own image, and all of them come up as often.

    A mirrored digit is another digit: gray images are not mirrored.
    """
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 16, channels)).astype(np.float32)
    feature = _image([8, 16, channels]) | {"dtype": "float32", "normalized": True}
    network = model.build(info([{"image": image, "label": 0}], {"image": feature}))
    (stem,) = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)][:1]
    moved = keras.Model(network.input, stem.input)
    batch = np.repeat(image[None], 3_000, axis=0)
    np.testing.assert_array_equal(moved({"image": batch}, training=False), batch)
    possible = {
        _moved(image, rows, columns, mirrored).tobytes()
        for rows in (-1, 0, 1)
        for columns in (-2, -1, 0, 1, 2)
        for mirrored in ((False, True) if channels == 3 else (False,))
    }
    results = moved({"image": batch}, training=True).numpy()
    counts = collections.Counter(result.tobytes() for result in results)
    expected = 3_000 / len(possible)
    assert len(possible) == 15 * (1 + (channels == 3))
    assert len(counts.keys() - possible) == 0
    assert 0.6 * expected < min(counts.values()) < max(counts.values()) < 1.4 * expected


@pytest.mark.parametrize(
    "num_examples, shape, filters, last_side",
    [
        (1_437, (8, 8, 1), [64, 128], 4),
        (1_437, (28, 28, 1), [32, 64, 128], 7),
        (4_999, (32, 32, 3), [16, 32, 64, 128], 4),
        (5_000, (32, 32, 3), [32, 64, 128, 256], 4),
        (50_000, (32, 32, 3), [64, 128, 256, 512], 4),
        (50_000, (96, 128, 3), [64, 128, 256, 512], 6),
        (50_000, (224, 224, 3), [64, 128, 256, 512], 7),
        (50_000, (1_000, 800, 3), [64, 128, 256, 512], 7),
        (1, (3, 500, 4), [64], 3),
        (1, (1, 1, 1), [64], 1),
    ],
)
def test_the_resnet_fits_the_size_of_the_images_and_of_the_dataset(
    num_examples, shape, filters, last_side
):
    feature = _read(_image(list(shape)))
    image = keras.Input(shape, dtype="uint8")
    network = keras.Model(image, images.tower(image, feature, num_examples))
    convolutions = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    assert sorted({x.filters for x in convolutions}) == filters
    assert len(convolutions) == 1 + 3 * (len(filters) - 1)
    assert min(convolutions[-1].output.shape[1:3]) == last_side
    assert network.output.shape == (None, filters[-1])


def _read(feature, transforms=()):
    """A feature as the manifest describes it."""
    manifest = {"spec": {"features": {"f": {"transform": list(transforms)}}}}
    return dataset_info._feature("", "f", feature, dataset_info._transforms(manifest, "f"))


@pytest.mark.runs("adult-made", "taxi-made")
def test_the_scale_of_numbers_is_that_of_the_records(runs):
    """It comes from the manifest alone; here the records are read beside it."""
    checked = set()
    for name in ("adult-made", "taxi-made"):
        info = dataset_info.read(runs[name].folder)
        batch, _ = next(iter(load(info, "train", 10**6, Options(training=False))))
        for feature in info.features.values():
            if feature.dtype != "float32" or feature.transforms in ((), ("log1p",)):
                continue  # An imputed value or a logarithm: the manifest does not tell exactly.
            values = batch[feature.name].numpy().astype(np.float64)
            expected = values.mean(), values.std() or 1.0
            assert tables.stored_scale(feature) == pytest.approx(expected, rel=1e-6, abs=1e-5)
            checked.add(feature.transforms)
    assert checked == {
        ("scale_to_z_score",),
        ("scale_to_0_1",),
        ("center",),
        ("log1p", "scale_to_z_score"),
        ("log1p", "scale_to_0_1"),
        ("log1p", "center"),
    }


def test_numbers_are_scaled_in_the_model(info):
    wages, ages = np.array([1e6, 4e5, 7e5], np.float32), np.array([17, 90, 38])
    records = [{"wage": w, "age": a, "label": 0} for w, a in zip(wages, ages, strict=True)]
    wage = _NUMBER | {"normalized": False, "raw_statistics": _FOUND | {"mean": 7e5, "std": 3e5}}
    age = _INTEGER | {"raw_statistics": {"mean": 38.5, "std": 13.5, "min": 17, "max": 90}}
    network = model.build(info(records, {"wage": wage, "age": age}))
    scaled = [x.output for x in network.layers if isinstance(x, keras.layers.Rescaling)]
    got = keras.Model(network.input, scaled)({"wage": wages, "age": ages})
    np.testing.assert_allclose(got[0], [1, -1, 0], atol=1e-6)
    np.testing.assert_allclose(got[1], (ages - 38.5) / 13.5, atol=1e-6)


_FOUND = {"count": 4, "mean": 30.0, "std": 20.0, "min": 10.0, "max": 90.0}
_EACH = {"mean": [30.0, 5.0], "std": [20.0, 0.0], "min": [10.0, 5.0], "max": [90.0, 5.0]}


@pytest.mark.parametrize(
    "said, transforms, mean, std",
    [
        (_EACH, [], [30, 5], [20, 1]),
        (_EACH, ["center"], [0, 0], [20, 1]),
        (_EACH, ["scale_to_0_1"], [0.25, 0], [0.25, 1]),
        (_EACH, ["scale_to_z_score"], [0, 0], [1, 1]),
        (_EACH | {"explained_variance": [16.0, 4.0]}, ["pca"], [0, 0], [4, 2]),
        ({name: {"file": "statistics-0.npy"} for name in _EACH}, [], [0, 0], [1, 1]),
        (_FOUND | {"count": 9}, [], [30, 30], [20, 20]),
    ],
)
def test_vectors_are_scaled_element_by_element(said, transforms, mean, std):
    """Statistics of all numbers of a list, as ragged ones have them, count for each."""
    feature = _read(_NUMBER | {"shape": [2], "normalized": False, "statistics": said}, transforms)
    vector = keras.Input((2,))
    network = keras.Model(vector, tables._scaled(vector, feature))
    given = np.array([[1, 2], [-3, 4]], np.float32)
    np.testing.assert_allclose(network(given), (given - mean) / std, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "feature, transforms, expected",
    [
        ({"raw_statistics": _FOUND}, [], (30.0, 20.0)),
        ({"raw_statistics": _FOUND | {"std": 0.0}}, [], (30.0, 1.0)),
        ({"raw_statistics": {"count": 0}}, [], (0.0, 1.0)),
        ({}, [], (0.0, 1.0)),
        ({"raw_statistics": _FOUND | {"min": 0.0, "max": math.e - 1}}, ["log1p"], (0.5, 0.25)),
        ({"statistics": _FOUND}, ["log1p", "center"], (0.0, 20.0)),
        ({"statistics": _FOUND}, ["clip", "log"], (30.0, 20.0)),
        ({"statistics": _FOUND}, ["center", "clip"], (0.0, 20.0)),
        *[
            ({"statistics": _FOUND, "raw_statistics": _FOUND}, ["sqrt", name], (0.0, 1.0))
            for name in (
                *["scale_by_min_max", "scale_to_gaussian", "robust_scale", "yeo_johnson"],
                *["box_cox", "apply_buckets_with_interpolation"],
            )
        ],
        ({"statistics": _FOUND}, ["scale_to_z_score"], (0.0, 1.0)),
        ({"raw_statistics": {"min": 1995, "max": 2023}}, [], (2009.0, 7.0)),
        ({"raw_statistics": {"min": 2020, "max": 2020}}, [], (2020.0, 1.0)),
        ({"statistics": _FOUND}, ["scale_to_0_1"], (0.25, 0.25)),
        ({"statistics": _FOUND | {"std": 0.0, "max": 10.0}}, ["scale_to_0_1"], (20.0, 1.0)),
    ],
)
def test_the_scale_of_numbers_follows_from_the_manifest(feature, transforms, expected):
    assert tables.stored_scale(_read(_NUMBER | feature, transforms)) == expected


@pytest.mark.parametrize(
    "feature, size",
    [
        (_INTEGER | {"normalized": True, "num_categories": 4}, 4),
        (_INTEGER | {"raw_statistics": {"min": 0, "max": 23}}, 24),
    ],
)
def test_indices_are_embedded_and_strange_ones_share_a_vector(info, feature, size):
    network = model.build(info([{"hour": i, "label": 0} for i in range(4)], {"hour": feature}))
    embedding = network.get_layer("hour_embedding")
    vectors = keras.Model(network.input, embedding.output)
    got = vectors({"hour": np.array([0, size - 1, -1, size, size + 9, -(2**60)])}).numpy()
    table = embedding.embeddings.numpy()
    assert len(table) == size + 1
    np.testing.assert_array_equal(got, table[[1, size, 0, 0, 0, 0]])
    assert len(np.unique(table, axis=0)) == size + 1


@pytest.mark.parametrize("statistics", [{"min": 0, "max": 1}, {"min": 0, "max": 100}, {}])
def test_plain_integers_of_another_range_are_numbers(info, statistics):
    feature = _INTEGER | {"raw_statistics": statistics}
    network = model.build(info([{"n": i % 2, "label": 0} for i in range(4)], {"n": feature}))
    assert not [x for x in network.layers if isinstance(x, keras.layers.Embedding)]


@pytest.mark.filterwarnings("error:When providing `inputs`:UserWarning")
def test_a_feature_may_have_any_name(tmp_path, write_dataset):
    """Also one that TensorFlow takes for no scope, or that Keras gives a layer by itself."""
    indices = ["age of car", "größe", "_x", "a/b", "a_b", "A", "a", "日本", "/", "x" * 300]
    numbers = [
        "a_embedding",
        "a_b_input",
        "dense_output",
        "dense",
        "add_1",
        "clip",
        "%",
        "concatenate",
        "reshape",
    ]
    rng = np.random.default_rng(5)
    records = [
        {name: int(rng.integers(0, 4)) for name in indices}
        | {name: float(rng.normal()) for name in numbers}
        | {"label": i % 3}
        for i in range(60)
    ]
    index = _INTEGER | {"normalized": True, "num_categories": 4}
    features = dict.fromkeys(indices, index) | dict.fromkeys(numbers, _NUMBER)
    folder = write_dataset(tmp_path / "data", {"train": records}, features, _CLASS)
    keras.backend.clear_session()  # As in a new process, where layers are counted from 0.
    trained = tmp_path / "model"
    train.train(folder, trained, epochs=1, batch_size=20, verbose=False)
    network = model_folder.load(str(trained))
    assert {*network.input} == {*indices, *numbers}
    given = {name: np.array([record[name] for record in records]) for name in features}
    before = network.predict(given, verbose=0)
    for name in features:  # Each counts as itself.
        moved = network.predict(given | {name: given[name][::-1]}, verbose=0)
        assert not np.array_equal(moved, before), name
    told = export.export(trained, tmp_path / "saved", str(folder))
    served = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    dtypes = {name: "int64" if name in indices else "float32" for name in features}
    raw = {
        told.renamed.get(name, name): values.astype(dtypes[name]) for name, values in given.items()
    }
    found = served(**{name: tf.constant(values) for name, values in raw.items()})
    np.testing.assert_allclose(found["probabilities"], before, atol=1e-6)


@pytest.mark.filterwarnings("error:When providing `inputs`:UserWarning")
def test_an_image_may_be_called_as_any_layer_of_its_network(info):
    normalization = {"rescale": 1 / 255, "mean": [0.5] * 3, "std": [0.2] * 3}
    feature = _image([40, 40, 3], normalization) | {"dtype": "uint8"}

    def built(name):
        keras.backend.clear_session()  # As in a new process, where layers are counted from 0.
        pixels = np.zeros((40, 40, 3), np.uint8)
        return model.build(info([{name: pixels, "label": 0}], {name: feature}))

    layers = {layer.name for layer in built("photo").operations} - {"photo"}
    names = {re.sub(r"_\d+$", "", name) for name in layers if not name.startswith("photo")}
    assert len(names) > 15
    for name in sorted(names):
        assert [*built(name).input] == [name]


def test_a_label_may_be_called_as_a_layer_of_the_network(info):
    records = [{"n": float(i), "label": i % 3} for i in range(6)]
    one = info(records, {"n": _NUMBER})
    labels = dict.fromkeys(["dense", "add", "kind"], one.label)
    several = dataclasses.replace(one, label=None, labels=labels)
    keras.backend.clear_session()  # As in a new process, where layers are counted from 0.
    network = model.build(several)
    model.compile_for(network, several, keras.optimizers.SGD())
    given = {"n": np.arange(6.0)}
    history = network.fit(given, dict.fromkeys(labels, np.arange(6) % 3), verbose=0).history
    assert {"dense_accuracy", "add_accuracy", "kind_accuracy"} <= history.keys()
    assert network.predict(given, verbose=0).keys() == labels.keys()


@pytest.mark.parametrize(
    "label, activation, units, loss",
    [
        (_CLASS, "softmax", 3, "sparse_categorical_crossentropy"),
        (
            {"name": "tip", "dtype": "int64", "type": "int64", "statistics": {"min": 0, "max": 1}},
            "sigmoid",
            1,
            "binary_crossentropy",
        ),
        ({"name": "tip", "dtype": "int64", "type": "int64"}, "linear", 1, "mean_squared_error"),
        (
            {"name": "tip", "dtype": "int64", "type": "int64", "statistics": {"min": 0, "max": 2}},
            "linear",
            1,
            "mean_squared_error",
        ),
    ],
    ids=["class", "0 or 1", "unknown integers", "0 to 2"],
)
def test_the_label_decides_output_and_loss(info, label, activation, units, loss):
    read = info([{"age": i / 3, "label": i % 2} for i in range(4)], {"age": _NUMBER}, label)
    network = model.build(read)
    dense = [x for x in network.layers if isinstance(x, keras.layers.Dense)][-1]
    assert (dense.activation.__name__, network.output.shape) == (activation, (None, units))
    model.compile_for(network, read, keras.optimizers.SGD())
    assert network.loss == loss


def test_a_regression_starts_at_the_scale_of_the_label(info):
    values = np.array([1e6, 3e6, 5e6], np.float32)
    statistics = {"mean": 3e6, "std": 1.5e6}
    label = {"name": "price", "dtype": "float32", "type": "float32", "statistics": statistics}
    records = [{"age": i / 3, "label": value} for i, value in enumerate(values)]
    network = model.build(info(records, {"age": _NUMBER}, label))
    assert (network.layers[-1].offset, network.layers[-1].scale) == (3e6, 1.5e6)


def test_text_is_left_out(info):
    records = [{"age": 1.0, "note": b"x", "label": 0}]
    read = info(records, {"age": _NUMBER, "note": _TEXT})
    assert list(model.build(read).input) == ["age"]


def test_text_alone_is_an_error_that_names_it(info):
    read = info([{"note": b"x", "label": 0}], {"note": _TEXT})
    with pytest.raises(UsageError, match=r"no image and no number among its features \(note\)"):
        model.build(read)


_TOKENS = _INTEGER | {"shape": [40], "num_categories": 20}
_VECTOR = _NUMBER | {"shape": [5]}


def _sequences(count, seed):
    """Records whose label says whether token 7 stands right before token 3, and a vector."""
    rng = np.random.default_rng(seed)
    tokens, labels = rng.integers(0, 20, (count, 40)), rng.integers(0, 2, count)
    tokens[:, 1:][(tokens[:, :-1] == 7) & (tokens[:, 1:] == 3)] = 4
    at = rng.integers(0, 39, count)
    tokens[labels == 1, at[labels == 1]], tokens[labels == 1, at[labels == 1] + 1] = 7, 3
    return [
        {"tokens": t.tolist(), "vector": rng.normal(size=5).tolist(), "label": label}
        for t, label in zip(tokens, labels, strict=True)
    ]


@pytest.fixture(name="sequences", scope="module")
def fixture_sequences(tmp_path_factory, write_dataset):
    """A dataset of tokens."""
    splits = {"train": _sequences(1_500, 1), "test": _sequences(300, 2)}
    label = _CLASS | {"classes": ["no", "yes"]}
    folder = tmp_path_factory.mktemp("sequences")
    return write_dataset(folder, splits, {"tokens": _TOKENS, "vector": _VECTOR}, label)


def test_sequences_of_tokens_are_learned(sequences, tmp_path):
    """What counts is the order of two tokens, wherever they stand."""
    history = train.train(sequences, tmp_path, epochs=6, batch_size=64, verbose=False)
    assert evaluate.evaluate(tmp_path, sequences)["accuracy"] > 0.95
    assert history["config"]["model"] == "trainer.model:build"
    assert set(keras.models.load_model(tmp_path / "model.keras").input) == {"tokens", "vector"}


_ON_JAX = """
import sys
import keras
from trainer import dataset_info, input_pipeline, model
info = dataset_info.read(sys.argv[1])
network = model.build(info)
model.compile_for(network, info, keras.optimizers.AdamW(0.003))
assert (keras.backend.backend(), network.jit_compile) == ("jax", True)
batches = input_pipeline.load(info, "train", 64)
losses = network.fit(batches, epochs=4, shuffle=False, verbose=0).history["loss"]
assert losses[-1] < 0.5 * losses[0], losses
"""


def test_every_kind_of_feature_is_learned_on_jax_and_compiled(tmp_path, write_dataset):
    """One layer that XLA cannot compile would have JAX run the whole model op by op."""
    pytest.importorskip("jax")
    rng = np.random.default_rng(3)
    records = [
        {
            "image": (rng.integers(0, 100, (8, 8, 3)) + 70 * label).astype(np.uint8),
            "hour": rng.integers(0, 4),
            "wage": rng.normal(),
            "vector": rng.normal(size=5).tolist(),
            "tokens": rng.integers(0, 20, 40).tolist(),
            "label": label,
        }
        for label in rng.integers(0, 3, 320)
    ]
    features = {
        "image": _image([8, 8, 3]),
        "hour": _INTEGER | {"normalized": True, "num_categories": 4},
        "wage": _NUMBER,
        "vector": _VECTOR,
        "tokens": _TOKENS,
    }
    folder = write_dataset(tmp_path, {"train": records}, features, _CLASS)
    command = [sys.executable, "-c", _ON_JAX, str(folder)]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0"])
def test_a_backbone_of_keras_gets_what_the_manifest_normalizes(info, tmp_path, name):
    """Also one that divides by 255 whatever it is given."""
    records = [{"image": np.zeros((32, 32, 3), np.uint8), "label": 0}]
    normalization = {"rescale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    read = info(records, {"image": _image([32, 32, 3], normalization)})
    network = train._resolve(f"keras.applications:{name}")(read)
    outer, inner = (
        [x.scale for x in layers if isinstance(x, keras.layers.Rescaling)][-1:]
        for layers in (network.layers, network.get_layer("image_backbone").layers)
    )
    assert (outer, inner) == (([255.0], [1 / 255]) if name == "EfficientNetB0" else (outer, []))
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(
        loaded({"image": pixels}, training=False), network({"image": pixels}, training=False)
    )


def test_a_backbone_that_does_not_take_the_images_is_an_error(info):
    build = train._resolve("keras.applications:InceptionV3")
    images_alone = info([{"image": _PIXELS[0], "label": 0}], {"image": _image([6, 7, 3])})
    with pytest.raises(
        UsageError, match=r"InceptionV3 does not take .* 'image' of shape \(6, 7, 3"
    ):
        build(images_alone)
    with pytest.raises(UsageError, match=r"takes images, but .* has none .*\(age\)"):
        build(info([{"age": 1.0, "label": 0}], {"age": _NUMBER}))


def test_images_that_are_stored_as_files_are_images(info):
    feature = _image([6, 7, 3], {"rescale": 1 / 255}) | {"stored_as": "jpeg"}
    network = model.build(info([{"image": b"file", "label": 0}], {"image": feature}))
    (image,) = network.inputs
    assert (image.shape, image.dtype) == ((None, 6, 7, 3), "uint8")
    assert network.get_layer("image_normalized").scale == [1 / 255] * 3


@pytest.mark.parametrize("shape", [[1, 1, 1], [8, 8, 1], [224, 160, 3]])
def test_images_of_any_size(info, shape):
    pixels = np.zeros(shape, np.uint8)
    network = model.build(info([{"image": pixels, "label": 0}], {"image": _image(shape)}))
    assert network({"image": pixels[None]}).shape == (1, 3)
