"""Images as files and as bfloat16, statistics of each pixel, crops: from spec to prediction."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import stored_images
from oracle.stored_images import NUM_TEST, NUM_TRAIN

from beam_jobs.config import load_spec
from beam_jobs.run import run
from beam_jobs.verify import verify
from headrace.predict import predict
from trainer import dataset_info, evaluate, export, model_dataset, model_folder
from trainer.errors import UsageError
from trainer.input_pipeline import Options, load
from trainer.networks import images
from trainer.train import train

HEIGHT, WIDTH = 9, 7


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(11)
    made = [stored_images.smooth(rng, HEIGHT, WIDTH) for _ in range(NUM_TRAIN + NUM_TEST)]
    made[3][:] = 200
    return np.stack(made)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, pictures):
    """Makes a dataset of the pictures by what the spec says of the image."""
    home = tmp_path_factory.mktemp("training")
    stored_images.write(home, list(pictures))

    def make(options):
        number = len(list(home.glob("*.toml")))
        spec = home / f"{number}.toml"
        text = f"size = [{HEIGHT}, {WIDTH}]\n{options}"
        spec.write_text(stored_images.SPEC.format(options=text, output=""))
        run(load_spec(str(spec)), str(home / f"out-{number}"))
        return home / f"out-{number}"

    return make


def in_order(folder, pictures):
    """What the loader gives, one a picture in their order, with the manifest it followed."""
    info = dataset_info.read(folder)
    found = {}
    for split in ("train", "test"):
        for features, label in load(info, split, 5, Options(training=False)):
            for value, number in zip(features["image"].numpy(), label.numpy(), strict=True):
                found[int(info.label.classes[number])] = value
    return info, np.stack([found[number] for number in range(len(pictures))])


def normalized(info, values):
    """What the model's first layers make of stored values."""
    feature = info.features["image"]
    given = keras.Input(feature.shape, dtype=feature.dtype)
    network = keras.Model(given, images.normalized(given, feature))
    return network.predict(values, verbose=0)


@pytest.mark.parametrize("store", ["uint8", "png"])
def test_the_model_normalizes_each_pixel_with_its_own_statistics(store, dataset, pictures):
    folder = dataset(
        f'store = "{store}"\nstatistics = "pixel"\nrescale = 0.5\nfeaturewise_center = true\n'
        "featurewise_std_normalization = true"
    )
    info, values = in_order(folder, pictures)
    assert np.array_equal(values, pictures)
    train_pixels = pictures[:NUM_TRAIN] * 0.5
    expected = (pictures * 0.5 - train_pixels.mean(axis=0)) / train_pixels.std(axis=0)
    np.testing.assert_allclose(normalized(info, values), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_divided", [False, True])
def test_the_model_normalizes_each_image_by_itself(is_divided, dataset, pictures):
    options = "samplewise_center = true\nrescale = 0.1"
    folder = dataset(options + "\nsamplewise_std_normalization = true" * is_divided)
    info, values = in_order(folder, pictures)
    x = pictures * 0.1
    mean, std = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
    expected = (x - mean) / np.where(std < 1e-9, 1, std) if is_divided else x - mean
    np.testing.assert_allclose(normalized(info, values), expected, rtol=1e-5, atol=1e-5)


def test_the_model_gets_bfloat16_as_it_is_stored_and_channels_last(dataset, pictures):
    folder = dataset('store = "bfloat16"\nrescale = 0.5\ndata_format = "channels_first"')
    info, values = in_order(folder, pictures)
    assert values.shape == (len(pictures), 3, HEIGHT, WIDTH)
    expected = (pictures * 0.5).astype(tf.bfloat16.as_numpy_dtype)
    assert np.array_equal(values, np.moveaxis(expected, 3, 1))
    assert np.array_equal(normalized(info, values), expected.astype(np.float32))


def test_large_statistics_are_files_beside_the_manifest(tmp_path):
    rng = np.random.default_rng(2)
    made = np.stack([stored_images.smooth(rng, 40, 36) for _ in range(NUM_TRAIN + 2)])
    stored_images.write(tmp_path, list(made))
    spec = tmp_path / "large.toml"
    options = 'size = [40, 36]\nstatistics = "pixel"\nfeaturewise_center = true'
    spec.write_text(stored_images.SPEC.format(options=options, output=""))
    run(load_spec(str(spec)), str(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    said = manifest["features"]["image"]["normalization"]["mean"]
    assert said == manifest["features"]["image"]["statistics"]["mean"]
    assert said["shape"] == [40, 36, 3]
    mean = np.load(tmp_path / "out" / said["file"], allow_pickle=False)
    np.testing.assert_allclose(mean, made[:NUM_TRAIN].mean(axis=0), rtol=1e-15)
    info, values = in_order(tmp_path / "out", made)
    assert np.array_equal(np.array(info.features["image"].normalization.mean), mean)
    np.testing.assert_allclose(normalized(info, values), made - mean, rtol=1e-5, atol=1e-4)
    model = tmp_path / "model"
    model.mkdir()
    model_dataset.keep(str(model), info)
    kept = dataset_info.read(model / "dataset")
    assert kept.features["image"].normalization == info.features["image"].normalization
    assert verify(str(tmp_path / "out")) == []
    (tmp_path / "out" / said["file"]).write_bytes(b"damaged")
    assert len(verify(str(tmp_path / "out"))) == 1
    with pytest.raises(Exception, match="crc32c must be"):
        dataset_info.read(tmp_path / "out")


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """A model of images of many sizes, trained on crops: home, the files, and the dataset."""
    home = tmp_path_factory.mktemp("cropped")
    rng = np.random.default_rng(8)
    made = [
        stored_images.smooth(rng, *rng.integers(20, 40, 2)) for _ in range(NUM_TRAIN + NUM_TEST)
    ]
    paths = stored_images.write(home, made, "jpg", quality=95)
    spec = home / "spec.toml"
    text = stored_images.SPEC.format(options='store = "jpeg"', output="")
    spec.write_text(text.replace("(?P<label>\\d+)\\.", "\\d(?P<label>\\d)\\d?\\."))
    run(load_spec(str(spec)), str(home / "out"))
    train(home / "out", home / "model", epochs=1, batch_size=8, crop=(16, 12), verbose=False)
    return home, paths


def test_the_model_takes_the_crop_and_remembers_it(cropped):
    home, _ = cropped
    network = model_folder.load(str(home / "model"))
    assert network.input["image"].shape == (None, 16, 12, 3)
    assert model_folder.read_crop(str(home / "model")) == (16, 12)
    result = evaluate.evaluate(home / "model", home / "out", "test")
    assert result["num_examples"] == NUM_TEST


def test_export_and_predict_take_the_middle_of_an_image(cropped):
    home, paths = cropped
    export.export(home / "model", home / "saved")
    served = tf.saved_model.load(str(home / "saved")).signatures["serving_default"]
    files = tf.constant([path.read_bytes() for path in paths[:6]])
    found = served(image=files)["probabilities"].numpy()
    middles = []
    for file in files:
        height, width, _ = tf.io.extract_jpeg_shape(file).numpy()
        box = [(height - 16) // 2, (width - 12) // 2, 16, 12]
        middle = tf.image.decode_and_crop_jpeg(file, box, 3, dct_method="INTEGER_ACCURATE")
        middles.append(middle.numpy())
    network = model_folder.load(str(home / "model"))
    expected = network.predict({"image": np.stack(middles)}, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    predict(str(home / "model"), [str(paths[0])], str(home / "answers.json"))
    (answer,) = map(json.loads, (home / "answers.json").read_text().splitlines())
    assert answer["score"] == pytest.approx(float(expected[0].max()), rel=1e-5)


def test_images_of_different_sizes_need_a_crop(cropped):
    home, _ = cropped
    with pytest.raises(UsageError, match="'image' have different sizes. Say what to cut out"):
        load(home / "out", "train", 4)
    with pytest.raises(UsageError, match="'image' have different sizes. Say what to cut out"):
        train(home / "out", home / "other", epochs=1, verbose=False)
    for crop, said in ((0, 5), "0 and 5"), ((100_000, 100_000), "100000 and 100000"):
        with pytest.raises(UsageError, match=f"the sides of crop must be at least 1, .* {said}"):
            train(home / "out", home / "other", epochs=1, crop=crop, verbose=False)


def test_a_crop_is_for_files_without_statistics_of_each_pixel(dataset):
    raw = dataset('store = "uint8"')
    with pytest.raises(UsageError, match="crop is for images that are stored as files"):
        train(raw, raw.parent / "model", epochs=1, crop=(4, 4), verbose=False)
    placed = dataset('store = "png"\nstatistics = "pixel"\nfeaturewise_center = true')
    with pytest.raises(UsageError, match="statistics of each pixel, which a crop would move"):
        train(placed, raw.parent / "model", epochs=1, crop=(4, 4), verbose=False)
