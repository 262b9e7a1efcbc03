import keras
import numpy as np
import pytest

from trainer import dataset_info, model
from trainer.errors import UsageError

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


def test_images_are_augmented_in_training_only(info):
    records = [{"image": pixels, "label": 0} for pixels in _PIXELS]
    network = model.build(info(records, {"image": _image([6, 7, 3])}))
    (moved,) = [x for x in network.layers if isinstance(x, keras.layers.RandomTranslation)]
    augmented = keras.Model(network.input, moved.output)
    plain = _PIXELS / np.float32(127.5) - 1
    np.testing.assert_allclose(augmented({"image": _PIXELS}, training=False), plain, atol=1e-6)
    assert np.abs(augmented({"image": _PIXELS}, training=True) - plain).max() > 0.1


def test_gray_images_are_not_flipped(info):
    """A mirrored digit is another digit."""
    digits = _PIXELS[..., :1]
    records = [{"image": pixels, "label": 0} for pixels in digits]
    network = model.build(info(records, {"image": _image([6, 7, 1])}))
    assert not [x for x in network.layers if isinstance(x, keras.layers.RandomFlip)]


def test_numbers_are_scaled_by_what_the_train_examples_hold(info):
    rng = np.random.default_rng(1)
    wages, ages = rng.normal(1e6, 3e5, 50).astype(np.float32), rng.integers(17, 90, 50)
    records = [
        {"wage": wage, "age": age, "label": 0} for wage, age in zip(wages, ages, strict=True)
    ]
    network = model.build(info(records, {"wage": _NUMBER, "age": _INTEGER}))
    scaled = [x for x in network.layers if isinstance(x, keras.layers.Rescaling)]
    assert len(scaled) == 2
    outputs = keras.Model(network.input, [x.output for x in scaled])({"wage": wages, "age": ages})
    for values, got in zip((wages.astype(np.float64), ages), outputs, strict=True):
        np.testing.assert_allclose(got, (values - values.mean()) / values.std(), atol=2e-5)


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
    model.compile_for(network, read.require_label(), keras.optimizers.SGD())
    assert network.loss == loss


def test_a_regression_starts_at_the_scale_of_the_label(info):
    values = np.array([1e6, 3e6, 5e6], np.float32)
    label = {"name": "price", "dtype": "float32", "type": "float32"}
    records = [{"age": i / 3, "label": value} for i, value in enumerate(values)]
    network = model.build(info(records, {"age": _NUMBER}, label))
    assert network.layers[-1].offset == values.mean(dtype=np.float64)
    assert network.layers[-1].scale == values.std(dtype=np.float64)


def test_text_is_left_out(info):
    records = [{"age": 1.0, "note": b"x", "label": 0}]
    read = info(records, {"age": _NUMBER, "note": _TEXT})
    assert list(model.build(read).input) == ["age"]


def test_text_alone_is_an_error_that_names_it(info):
    read = info([{"note": b"x", "label": 0}], {"note": _TEXT})
    with pytest.raises(UsageError, match=r"no image and no number among its features \(note\)"):
        model.build(read)


@pytest.mark.parametrize("shape", [[1, 1, 1], [8, 8, 1], [224, 160, 3]])
def test_images_of_any_size(info, shape):
    pixels = np.zeros(shape, np.uint8)
    network = model.build(info([{"image": pixels, "label": 0}], {"image": _image(shape)}))
    assert network({"image": pixels[None]}).shape == (1, 3)
