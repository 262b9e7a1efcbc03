"""What a spec can do with an image's pixels, each against the original and against transform_fn."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from oracle import stored_images
from oracle.stored_images import NUM_TEST, NUM_TRAIN

from beam_jobs.config import load_spec
from beam_jobs.run import run

HEIGHT, WIDTH = 9, 7
CONSTANT = NUM_TRAIN + 5  # The picture without contrast.
NAMES = {
    "center per pixel": 'store = "float32"\nstatistics = "pixel"\nfeaturewise_center = true',
    "z score per pixel": 'store = "float32"\nstatistics = "pixel"\nrescale = 0.1\n'
    "featurewise_center = true\nfeaturewise_std_normalization = true",
    "std per pixel": 'store = "float32"\nstatistics = "pixel"\n'
    "featurewise_std_normalization = true",
    "center": 'store = "float32"\nrescale = 0.00392156862745098\nfeaturewise_center = true',
    "z score": 'store = "float32"\nrescale = 0.00392156862745098\nfeaturewise_center = true\n'
    "featurewise_std_normalization = true",
    "samplewise center": 'store = "float32"\nsamplewise_center = true\nrescale = 0.01',
    "samplewise std": 'store = "float32"\nsamplewise_std_normalization = true\nrescale = 0.01',
    "samplewise": 'store = "float32"\nsamplewise_center = true\n'
    "samplewise_std_normalization = true\nrescale = 0.01",
    "zca": 'store = "float32"\nfeaturewise_center = true\nzca_whitening = true\nrescale = 0.01\n'
    "zca_epsilon = 0.1",
    "zca z score": 'store = "float32"\nfeaturewise_center = true\nzca_whitening = true\n'
    "featurewise_std_normalization = true\nzca_epsilon = 0.5",
    "zca per pixel": 'store = "bfloat16"\nfeaturewise_center = true\nzca_whitening = true\n'
    'rescale = 0.01\nstatistics = "pixel"\nzca_epsilon = 0.1',
    "bfloat16": 'store = "bfloat16"\nfeaturewise_center = true\nrescale = 0.00392156862745098',
    "channels first": 'store = "float32"\nfeaturewise_center = true\n'
    'data_format = "channels_first"',
    "channels first pixels": 'store = "uint8"\ndata_format = "channels_first"',
    "function": 'store = "float32"\npreprocessing_function = "my_steps:shifted"',
    "function bfloat16": 'store = "bfloat16"\npreprocessing_function = "my_steps:shifted"',
}
FUNCTIONS = """\
import tensorflow as tf

def shifted(pixels):
    return tf.cast(pixels, tf.float32)[:, ::-1] * 0.25 - 1.0
"""


@pytest.fixture(scope="module")
def pictures():
    """Varied pictures: one is constant, one position always has the same value."""
    rng = np.random.default_rng(3)
    made = [stored_images.smooth(rng, HEIGHT, WIDTH) for _ in range(NUM_TRAIN + NUM_TEST)]
    made[CONSTANT][:] = 77
    for pixels in made[:NUM_TRAIN]:
        pixels[2, 3, 1] = 9
    return np.stack(made)


@pytest.fixture(scope="module")
def home(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("steps")
    (folder / "my_steps.py").write_text(FUNCTIONS)
    paths = stored_images.write(folder, list(pictures))
    return folder, paths


@pytest.fixture(scope="module")
def datasets(home):
    """Finished datasets by the name of their steps, each made once."""
    options = {name: f"size = [{HEIGHT}, {WIDTH}]\n{steps}" for name, steps in NAMES.items()}
    return stored_images.made_once(home[0], options)


@pytest.mark.parametrize("name", NAMES)
def test_transform_fn_gives_the_bits_of_the_records(name, datasets, home):
    dataset = datasets(name)
    served = np.stack(stored_images.served(dataset.folder, home[1]))
    stored = dataset.array()
    assert len(stored) == NUM_TRAIN + NUM_TEST
    if dataset.feature["dtype"] == "bfloat16":
        stored = stored.view(tf.bfloat16.as_numpy_dtype).astype(np.float32)
    assert np.array_equal(served, stored)
    assert (served.dtype, stored.dtype) in ((np.float32, np.float32), (np.int64, np.uint8))


@pytest.mark.parametrize("name", ["z score per pixel", "zca per pixel", "samplewise", "function"])
def test_engines_shards_and_retries_leave_no_trace(name, datasets, home):
    """A job on an engine that does each bundle twice, with other shards and threads."""
    folder, _ = home
    spec = folder / "again.toml"
    options = f"size = [{HEIGHT}, {WIDTH}]\n{NAMES[name]}"
    text = stored_images.SPEC.format(options=options, output="")
    spec.write_text(text.replace("num_shards = 2", "num_shards = 3"))
    output = str(folder / f"again-{name}")
    twice = ["--direct_runner_bundle_repeat=1"]
    run(load_spec(str(spec)), output, runner="FnApiRunner", beam_args=twice, num_threads=3)
    again, first = stored_images.read(pathlib.Path(output)), datasets(name)
    assert again.values == first.values
    assert again.feature == first.feature


def generator(pictures, **options):
    """ImageDataGenerator in float64, where its statistics are right, fitted on train."""
    made = ImageDataGenerator(dtype="float64", **options)
    made.fit(pictures[:NUM_TRAIN])
    return made


def standardized(pictures, **options):
    """What ImageDataGenerator makes of each picture, by its own flow, in order."""
    made = generator(pictures, **options)
    flow = made.flow(pictures.astype(np.float64), batch_size=len(pictures), shuffle=False)
    return next(flow)


def of_originals(*pairs):
    """Marks a test that compares with arguments of ImageDataGenerator."""

    def mark(test):
        for argument, here in pairs:
            test = pytest.mark.feature("ImageDataGenerator", argument, here)(test)
        return test

    return mark


@of_originals(("featurewise_center", "`featurewise_center`"), ("rescale", "`rescale`"))
def test_featurewise_center_and_rescale(datasets, pictures):
    found = datasets("center").array()
    expected = standardized(pictures, featurewise_center=True, rescale=0.00392156862745098)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert abs(found[:NUM_TRAIN].mean()) < 1e-7 < abs(found[NUM_TRAIN:].mean())


@of_originals(("featurewise_std_normalization", "`featurewise_std_normalization`"))
def test_featurewise_std_normalization(datasets, pictures):
    found = datasets("z score").array()
    options = {"featurewise_center": True, "featurewise_std_normalization": True}
    x = pictures / 255
    mean, std = x[:NUM_TRAIN].mean((0, 1, 2)), x[:NUM_TRAIN].std((0, 1, 2))
    np.testing.assert_allclose(found, (x - mean) / std, rtol=1e-6, atol=1e-6)
    # ImageDataGenerator divides by std + 1e-6.
    expected = standardized(pictures, rescale=1 / 255, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.feature("numpy", "mean, std", '`statistics = "pixel"`: of each pixel')
@pytest.mark.parametrize("name", ["center per pixel", "std per pixel", "z score per pixel"])
def test_statistics_of_each_pixel_are_those_of_numpy(name, datasets, pictures):
    dataset = datasets(name)
    rescale = 0.1 if name == "z score per pixel" else 1.0
    x, train = pictures * rescale, pictures[:NUM_TRAIN]
    mean, std = train.mean(axis=0) * rescale, train.std(axis=0) * rescale
    assert (std == 0).sum() == 1  # Which divides by 1.
    expected = x if name == "std per pixel" else x - mean
    expected = expected if name == "center per pixel" else expected / np.where(std == 0, 1, std)
    np.testing.assert_allclose(dataset.array(), expected, rtol=1e-6, atol=1e-6)
    statistics = dataset.feature["statistics"]
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-15)
    np.testing.assert_allclose(statistics["std"], std, rtol=1e-14)
    assert statistics["count"] == NUM_TRAIN
    assert len(dataset.feature["raw_statistics"]["mean"]) == 3  # Per channel.


@of_originals(
    ("samplewise_center", "`samplewise_center`"),
    ("samplewise_std_normalization", "`samplewise_std_normalization`"),
)
@pytest.mark.parametrize(
    "name, options",
    [
        ("samplewise center", {"samplewise_center": True}),
        ("samplewise std", {"samplewise_std_normalization": True}),
        ("samplewise", {"samplewise_center": True, "samplewise_std_normalization": True}),
    ],
)
def test_samplewise(name, options, datasets, pictures):
    found = datasets(name).array()
    x = pictures.reshape(len(pictures), -1)
    mean, std = x.mean(1, keepdims=True), x.std(1, keepdims=True)
    assert (std == 0).sum() == 1  # Which divides by 1.
    expected = x - mean if "samplewise_center" in options else x
    if "samplewise_std_normalization" in options:
        expected = expected * np.where(std == 0, 0.01, 1) / np.where(std == 0, 1, std)
    else:
        expected = expected * 0.01
    np.testing.assert_allclose(found.reshape(x.shape), expected, rtol=1e-6, atol=1e-6)
    if "samplewise_center" in options:  # Which ImageDataGenerator does whenever it divides.
        original = standardized(pictures, rescale=0.01, **options)
        sound = (
            np.arange(len(pictures)) != CONSTANT
        )  # Of a constant one it divides rounding errors.
        np.testing.assert_allclose(found[sound], original[sound], rtol=1e-5, atol=1e-6)


@of_originals(("zca_whitening", "`zca_whitening`"), ("zca_epsilon", "`zca_epsilon`"))
def test_zca_whitening(datasets, pictures):
    found = datasets("zca").array()
    options = {"featurewise_center": True, "zca_whitening": True, "zca_epsilon": 0.1}
    expected = standardized(pictures, rescale=0.01, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).mean() > 0.1


def whitened(x, epsilon, rank):
    """ImageDataGenerator's formula for what is centered in other ways: float64, as x."""
    flat = x.reshape(len(x), -1)
    u, s, _ = np.linalg.svd(flat[:NUM_TRAIN].T, full_matrices=False)
    assert (s[:rank] > 1e-3).all() and (s[rank:] < 1e-10).all()
    gains = np.sqrt(NUM_TRAIN) / (s[:rank] + epsilon)
    return (flat @ (u[:, :rank] * gains) @ u[:, :rank].T).reshape(x.shape)


def test_zca_whitening_of_z_scores(datasets, pictures):
    train = pictures[:NUM_TRAIN]
    x = (pictures - train.mean((0, 1, 2))) / train.std((0, 1, 2))
    found = datasets("zca z score").array()
    np.testing.assert_allclose(found, whitened(x, 0.5, NUM_TRAIN), rtol=1e-5, atol=1e-6)


def test_zca_whitening_of_what_is_centered_per_pixel(datasets, pictures):
    found = datasets("zca per pixel").array().view(tf.bfloat16.as_numpy_dtype)
    x = (pictures - pictures[:NUM_TRAIN].mean(axis=0)) * 0.01
    expected = whitened(x, 0.1, NUM_TRAIN - 1)  # Centered, 40 images span 39 directions.
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=2**-8, atol=1e-6)


@of_originals(("dtype", '`store = "float32"`, `"bfloat16"` or `"uint8"`'))
def test_bfloat16_is_the_float32_value_rounded_once(datasets, pictures):
    found = datasets("bfloat16").array()
    made = ImageDataGenerator(featurewise_center=True, rescale=1 / 255, dtype="float64")
    made.fit(pictures[:NUM_TRAIN])
    of_float32 = datasets("center").array()
    expected = tf.cast(of_float32, tf.bfloat16).numpy()
    assert np.array_equal(found, expected.view(np.uint16))
    original = made.standardize(pictures.astype(np.float64))
    np.testing.assert_allclose(expected.astype(np.float64), original, rtol=2**-8, atol=1e-6)


@of_originals(("data_format", "`data_format`"))
def test_channels_first(datasets, pictures):
    found = datasets("channels first").array()
    assert found.shape == (NUM_TRAIN + NUM_TEST, 3, HEIGHT, WIDTH)
    x = np.moveaxis(pictures, 3, 1)
    expected = standardized(x, featurewise_center=True, data_format="channels_first")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert datasets("channels first").feature["data_format"] == "channels_first"
    assert np.array_equal(datasets("channels first pixels").array(), x)


@of_originals(("preprocessing_function", "`preprocessing_function`"))
@pytest.mark.parametrize("name", ["function", "function bfloat16"])
def test_preprocessing_function(name, datasets, pictures):
    found = datasets(name).array()
    made = ImageDataGenerator(preprocessing_function=lambda x: x[:, ::-1] * 0.25 - 1.0)
    expected = next(made.flow(pictures, batch_size=len(pictures), shuffle=False))
    if name == "function bfloat16":
        expected = expected.astype(tf.bfloat16.as_numpy_dtype).view(np.uint16)
    assert np.array_equal(found, expected)
