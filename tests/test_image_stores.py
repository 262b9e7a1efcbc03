"""Images stored as JPEG and PNG files: what stands in the records, and what statistics see."""

import io

import numpy as np
import pytest
import tensorflow as tf
from oracle import stored_images
from oracle.stored_images import NUM_TEST, NUM_TRAIN
from PIL import Image

from beam_jobs.config import load_spec
from beam_jobs.run import run

OPTIONS = {
    "jpeg": 'store = "jpeg"\nsize = [16, 24]\nfeaturewise_center = true',
    "jpeg 70": 'store = "jpeg"\nquality = 70\nchannels = 1\nsize = [16, 24]',
    "jpeg of its size": 'store = "jpeg"',
    "png": 'store = "png"\nsize = [16, 24]\ncrop = "center"\nmethod = "lanczos3"',
    "png of its size": 'store = "png"\nchannels = 4',
    "png per pixel": 'store = "png"\nsize = [6, 4]\nstatistics = "pixel"\n'
    "featurewise_center = true",
    "png and crop": 'store = "png"\ncrop_size = [11, 9]',
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Images of many sizes: JPEG, of which every fourth is turned, and every fifth grey."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(5)
    paths = []
    for number in range(NUM_TRAIN + NUM_TEST):
        split = "train" if number < NUM_TRAIN else "test"
        path = folder / "images" / split / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(12, 40, 2)
        image = Image.fromarray(stored_images.smooth(rng, height, width))
        exif = Image.Exif()
        if number % 4 == 1:
            exif[0x0112] = 6
        (image.convert("L") if number % 5 == 2 else image).save(path, quality=90, exif=exif)
        paths.append(path)
    return folder, paths


@pytest.fixture(scope="module")
def datasets(home):
    return stored_images.made_once(home[0], OPTIONS)


def pixels(file: bytes, channels: int) -> np.ndarray:
    """Pillow's pixels of a stored file: uint8 (height, width, channels)."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    found = np.asarray(Image.open(io.BytesIO(file)).convert(mode))
    return found.reshape(*found.shape[:2], channels)


@pytest.mark.parametrize("name", OPTIONS)
def test_transform_fn_gives_the_stored_files(name, datasets, home):
    dataset = datasets(name)
    assert len(dataset.values) == NUM_TRAIN + NUM_TEST
    assert stored_images.served(dataset.folder, home[1]) == dataset.files()
    stored_as = name.split()[0]
    assert (dataset.feature["stored_as"], dataset.feature["dtype"]) == (stored_as, "uint8")
    assert {Image.open(io.BytesIO(f)).format for f in dataset.files()} == {stored_as.upper()}


@pytest.mark.parametrize("name", OPTIONS)
def test_statistics_are_those_of_the_decoded_files(name, datasets):
    dataset = datasets(name)
    channels = dataset.feature["shape"][2]
    train = [pixels(f, channels).reshape(-1, channels) for f in dataset.files()[:NUM_TRAIN]]
    flat = np.concatenate(train).astype(np.float64)
    found = dataset.feature["raw_statistics"]
    assert (found["count"], found["min"], found["max"]) == (len(flat), flat.min(), flat.max())
    np.testing.assert_allclose(found["mean"], flat.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found["std"], flat.std(axis=0), rtol=1e-12)
    if name == "png per pixel":
        places = np.stack(train).reshape(NUM_TRAIN, *dataset.feature["shape"])
        mean = dataset.feature["normalization"]["mean"]
        np.testing.assert_allclose(mean, places.mean(axis=0), rtol=1e-15)


def test_a_jpeg_that_is_as_wanted_is_kept_to_the_byte(datasets, home):
    dataset, paths = datasets("jpeg of its size"), home[1]
    assert dataset.feature["shape"] == [None, None, 3]
    kept = [path.read_bytes() == file for path, file in zip(paths, dataset.files(), strict=True)]
    assert kept == [number % 4 != 1 for number in range(len(paths))]
    for path, file in zip(paths, dataset.files(), strict=True):
        original = Image.open(path)
        width, height = original.size
        turned = original.getexif().get(0x0112, 1) == 6
        assert Image.open(io.BytesIO(file)).size == ((height, width) if turned else (width, height))
        assert Image.open(io.BytesIO(file)).getexif().get(0x0112, 1) == 1


@pytest.mark.feature("tf.io", "decode_png", '`store = "png"`')
def test_a_png_holds_the_very_pixels(datasets, home):
    dataset = datasets("png of its size")
    for path, file in zip(home[1], dataset.files(), strict=True):
        with Image.open(path) as image:
            upright = (
                image.transpose(Image.Transpose.ROTATE_270)
                if (image.getexif().get(0x0112, 1) == 6)
                else image
            )
            expected = np.asarray(upright.convert("RGBA"))
        np.testing.assert_array_equal(pixels(file, 4), expected)


@pytest.mark.feature("tf.io", "encode_jpeg", '`store = "jpeg"`, `quality`')
def test_a_jpeg_is_what_tensorflow_makes_of_the_resized_pixels(datasets, home, tmp_path):
    """The same spec with store = "uint8" tells the pixels that are encoded."""
    spec = tmp_path / "raw.toml"
    options = "size = [16, 24]\nchannels = 1"
    text = stored_images.SPEC.format(options=options, output="")
    spec.write_text(text.replace('"images"]', f'"{home[0]}/images"]'))
    run(load_spec(str(spec)), str(tmp_path / "raw"))
    raw = stored_images.read(tmp_path / "raw").array()
    encoded = [tf.io.encode_jpeg(image, "grayscale", quality=70).numpy() for image in raw]
    assert datasets("jpeg 70").files() == encoded


def test_crop_size_without_size_is_the_size(datasets):
    dataset = datasets("png and crop")
    assert dataset.feature["shape"] == [11, 9, 3]
    assert {Image.open(io.BytesIO(file)).size for file in dataset.files()} == {(9, 11)}
