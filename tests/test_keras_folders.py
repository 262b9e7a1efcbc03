"""A folder of images as `keras.utils.image_dataset_from_directory` and Keras' layers read it."""

import functools

import numpy as np
import pytest
from oracle import made_images
from oracle.command import headrace

SIZES = {"ant": (41, 30), "bee": (20, 30), "cat": (64, 64), "dog": (97, 33), "eel": (12, 50)}
TARGET = (24, 36)  # Height, width.

SPEC = """\
name = "animals"

[source]
format = "images"
paths = ["animals"]

[split]
fractions = { train = 1 }

[features.image]
size = [24, 36]
antialias = false               # tf.image.resize's own default, and so Keras'
"""
REST = """
[label]
from = "directory"

[output]
num_shards = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image of a size of its own in each class, so that the label says which one it is."""
    root, rng = tmp_path_factory.mktemp("keras"), np.random.default_rng(6)
    for name, (width, height) in SIZES.items():
        (root / "animals" / name).mkdir(parents=True)
        made_images.picture(rng, width, height).save(root / "animals" / name / "one.png")
    return root


@pytest.fixture(scope="module")
def ours(folder):
    """A function from lines of the spec to the stored images, sorted by label."""

    @functools.cache
    def read(lines: str) -> np.ndarray:
        from trainer.input_pipeline import Options, load

        spec, output = folder / f"{abs(hash(lines))}.toml", folder / f"{abs(hash(lines))}"
        spec.write_text(SPEC + lines + REST)
        done = headrace("run", spec, "--output", output, "--quiet")
        assert done.returncode == 0, done.stdout
        ((features, labels),) = load(output, "train", len(SIZES), Options(training=False))
        assert sorted(labels.numpy()) == list(range(len(SIZES)))
        return features["image"].numpy()[np.argsort(labels.numpy())]

    return read


@pytest.fixture
def keras_reads(folder):
    """A function from Keras' arguments to its images, sorted by label, and names of classes."""

    def read(**arguments) -> tuple[np.ndarray, list[str]]:
        import keras

        dataset = keras.utils.image_dataset_from_directory(
            folder / "animals", shuffle=False, image_size=TARGET, verbose=False, **arguments
        )
        ((images, labels),) = dataset
        assert labels.numpy().tolist() == list(range(len(SIZES)))
        return images.numpy(), dataset.class_names

    return read


def _levels(images) -> np.ndarray:
    """Grey levels: Keras leaves them as fractions, and dataset's are rounded, halves to even."""
    return np.rint(np.asarray(images)).clip(0, 255).astype(np.uint8)


@pytest.mark.feature("keras.utils.image_dataset_from_directory", "directory", "`[source] paths`")
@pytest.mark.feature(
    "keras.utils.image_dataset_from_directory", "labels", '`[label] from = "directory"`'
)
@pytest.mark.feature(
    "keras.utils.image_dataset_from_directory", "label_mode", '`[label] type`: `"class"`'
)
@pytest.mark.feature("keras.utils.image_dataset_from_directory", "image_size", "`size`")
@pytest.mark.feature(
    "keras.utils.image_dataset_from_directory", "batch_size", "`load(..., batch_size)`"
)
@pytest.mark.feature("keras.utils.image_dataset_from_directory", "shuffle", "`Options(training)`")
def test_images_and_labels_are_those_of_keras(ours, keras_reads):
    images, names = keras_reads(batch_size=len(SIZES))
    assert names == sorted(SIZES)
    np.testing.assert_array_equal(ours(""), _levels(images))


@pytest.mark.feature(
    "keras.utils.image_dataset_from_directory", "follow_links", "links are always followed"
)
def test_links_are_followed(folder, ours, keras_reads, tmp_path):
    behind = folder / "animals" / "ant"
    behind.rename(tmp_path / "ant")
    behind.symlink_to(tmp_path / "ant")
    images, names = keras_reads(follow_links=True)
    assert names == sorted(SIZES)
    np.testing.assert_array_equal(ours("# Through a link."), _levels(images))


@pytest.mark.feature(
    "keras.utils.image_dataset_from_directory", "color_mode", "`channels`: 1, 3 or 4"
)
def test_color_modes_are_those_of_keras(ours, keras_reads):
    images, _ = keras_reads(color_mode="rgba")
    np.testing.assert_array_equal(ours("channels = 4"), _levels(images))
    # Gray of a color PNG is Pillow's here; libpng, which TensorFlow asks, truncates its weights.
    images, _ = keras_reads(color_mode="grayscale")
    np.testing.assert_allclose(ours("channels = 1").astype(int), _levels(images), atol=2)


@pytest.mark.feature("keras.utils.image_dataset_from_directory", "interpolation", "`method`")
@pytest.mark.parametrize("method", ["nearest", "lanczos3"])
def test_interpolations_are_those_of_keras(method, ours, keras_reads):
    images, _ = keras_reads(interpolation=method)
    np.testing.assert_array_equal(ours(f'method = "{method}"'), _levels(images))


@pytest.mark.feature(
    "keras.utils.image_dataset_from_directory", "crop_to_aspect_ratio", '`crop = "center"`'
)
def test_the_crop_is_that_of_keras(ours, keras_reads):
    images, _ = keras_reads(crop_to_aspect_ratio=True)
    np.testing.assert_array_equal(ours('crop = "center"'), _levels(images))


@pytest.fixture
def resized(folder):
    """A function from the arguments of keras.layers.Resizing to its images, sorted by label."""

    def read(**arguments) -> np.ndarray:
        import keras
        from PIL import Image

        layer = keras.layers.Resizing(*TARGET, **arguments)
        paths = [folder / "animals" / name / "one.png" for name in sorted(SIZES)]
        return _levels([layer(np.asarray(Image.open(path), np.float32)) for path in paths])

    return read


@pytest.mark.feature("keras.layers", "Resizing", "`size`, `method`, `antialias`, `crop`")
@pytest.mark.feature("keras.layers", "Resizing", "`size` alone squeezes")
def test_resizing_is_that_of_the_layer(ours, resized):
    np.testing.assert_array_equal(ours(""), resized())
    np.testing.assert_array_equal(ours('crop = "center"'), resized(crop_to_aspect_ratio=True))


@pytest.mark.feature(
    "keras.utils.image_dataset_from_directory",
    "pad_to_aspect_ratio",
    "`pad_to_aspect_ratio`: before it resizes, as keras.layers.Resizing does",
)
@pytest.mark.feature("keras.layers", "Resizing", "`pad_to_aspect_ratio`, `pad_value`")
def test_the_letterbox_is_that_of_the_layer(ours, resized, keras_reads):
    padded = ours("pad_to_aspect_ratio = true\npad_value = 9")
    assert (padded == 9).all(axis=-1).mean() > 0.2
    np.testing.assert_array_equal(padded, resized(pad_to_aspect_ratio=True, fill_value=9))
    # The loader of folders pads what it has resized, with whole pixels, and rounds elsewhere.
    images, _ = keras_reads(pad_to_aspect_ratio=True)
    black = (ours("pad_to_aspect_ratio = true") == 0).all(axis=-1)
    assert (black != (images == 0).all(axis=-1)).mean() < 0.05


@pytest.mark.feature("keras.utils.image_dataset_from_directory", "data_format", "`data_format`")
def test_channels_first_are_those_of_keras(ours, keras_reads):
    images, _ = keras_reads(data_format="channels_first")
    assert images.shape == (len(SIZES), 3, *TARGET)
    np.testing.assert_array_equal(ours('data_format = "channels_first"'), _levels(images))
