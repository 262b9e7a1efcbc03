"""What is refused of an image's steps, what is set aside, and what differs from the originals."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from oracle import compare, stored_images
from oracle.stored_images import NUM_TEST, NUM_TRAIN

from beam_jobs.config import load_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run

SIZE = "size = [9, 7]\n"
WRONG = [
    ("", 'store = \'uint8\' needs size; images of their own sizes are stored as "jpeg" or "png"'),
    ('store = "jpeg"\ncrop = "center"', "crop and pad_to_aspect_ratio need size"),
    (SIZE + 'crop = "center"\npad_to_aspect_ratio = true', "not both"),
    (SIZE + "pad_value = 3", "pad_value belongs to pad_to_aspect_ratio"),
    (SIZE + "quality = 90", 'quality belongs to store = "jpeg"'),
    ('store = "jpeg"\nchannels = 4', 'store = "jpeg" takes 1 or 3 channels'),
    ('store = "png"\ndata_format = "channels_first"', "a png has no data_format"),
    (SIZE + 'statistics = "pixel"', 'statistics = "pixel" belongs to featurewise_center'),
    (
        'store = "png"\nstatistics = "pixel"\nfeaturewise_center = true',
        'statistics = "pixel" needs size',
    ),
    (SIZE + "samplewise_center = true\nfeaturewise_center = true", "takes samplewise_* or featur"),
    ("size = [4097, 4096]\nsamplewise_center = true", "at most 16,777,216 values"),
    (SIZE + "zca_epsilon = 0.1", "zca_epsilon belongs to zca_whitening"),
    (SIZE + "zca_whitening = true", "zca_whitening needs featurewise_center"),
    (SIZE + "zca_whitening = true\nfeaturewise_center = true", 'needs store = "float32" or "bfl'),
    (
        'size = [65, 64]\nstore = "float32"\nzca_whitening = true\nfeaturewise_center = true',
        "at most 12,288 values, 64x64x3, but size has 12,480",
    ),
    (SIZE + 'preprocessing_function = "m:f"', 'preprocessing_function needs store = "float32"'),
    (
        SIZE + 'store = "float32"\npreprocessing_function = "m:f"\nrescale = 2',
        "preprocessing_function excludes rescale",
    ),
]
FUNCTIONS = """\
import tensorflow as tf

def wrong_dtype(pixels):
    return pixels

def wrong_shape(pixels):
    return tf.cast(pixels, tf.float32)[1:]

def in_numpy(pixels):
    return tf.numpy_function(lambda x: x.astype("float32"), [pixels], tf.float32)

def by_chance(pixels):
    return tf.cast(pixels, tf.float32) + tf.random.uniform([])

def infinite(pixels):
    return tf.cast(pixels, tf.float32) / 0.0

def leaving(pixels):
    raise SystemExit(0)

def broken(pixels):
    raise ValueError("this is not how it works")

def logarithm(pixels):
    return tf.math.log(tf.cast(pixels, tf.float32))

LARGE = tf.random.stateless_normal([9, 7, 3], [1, 2])
SCALE = tf.Variable(2.0)

def looped(pixels):
    values, total = tf.cast(pixels, tf.float32), 0.0
    while tf.reduce_max(values) > 1.0:
        values, total = values / SCALE, total + SCALE
    if total > 3.0:
        return values + LARGE
    return values
"""


def spec_of(folder, options, output=""):
    spec = folder / "spec.toml"
    spec.write_text(stored_images.SPEC.format(options=options, output=output))
    return str(spec)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    (folder / "my_rules.py").write_text(FUNCTIONS)
    rng = np.random.default_rng(4)
    made = [stored_images.smooth(rng, 9, 7) // 2 + 1 for _ in range(NUM_TRAIN + NUM_TEST)]
    made[2][4, 4, 0] = 0
    made[7] = made[7][:8]
    made[9] = made[9][:, :6]
    stored_images.write(folder, made)
    return folder


@pytest.mark.parametrize("options, message", WRONG)
def test_what_does_not_go_together_is_one_line(options, message, tmp_path):
    with pytest.raises(SpecError) as caught:
        load_spec(spec_of(tmp_path, options))
    assert f"features.image: {message}" in str(caught.value) or message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/spec.toml: features.image")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere:f", "cannot import 'nowhere:f': ModuleNotFoundError"),
        ("my_rules:nothing", "cannot import 'my_rules:nothing': AttributeError"),
        ("my_rules", "must be package.module:function, but is 'my_rules'"),
        ("my_rules:wrong_dtype", "must return float32 (9, 7, 3), but returns uint8 (9, 7, 3)"),
        ("my_rules:wrong_shape", "must return float32 (9, 7, 3), but returns float32 (8, 7, 3)"),
        ("my_rules:in_numpy", "must give the same values wherever it runs, but uses PyFunc"),
        ("my_rules:by_chance", "must give the same values wherever it runs, but uses RandomUni"),
        ("my_rules:leaving", "cannot be traced by TensorFlow: SystemExit: 0"),
        ("my_rules:broken", "cannot be traced by TensorFlow: ValueError: "),
    ],
)
def test_a_function_that_will_not_do_is_one_line_before_anything_is_read(name, message, home):
    spec = spec_of(home, SIZE + f'store = "float32"\npreprocessing_function = "{name}"')
    with pytest.raises(SpecError) as caught:
        run(load_spec(spec), str(home / "never"))
    assert f"preprocessing_function: {message}" in str(caught.value).replace(f"{name} ", "", 1)
    assert "\n" not in str(caught.value)
    assert not (home / "never" / "dataset_info.json").exists()


def test_an_image_of_which_a_function_makes_infinity_is_set_aside(home):
    options = SIZE + 'store = "float32"\npreprocessing_function = "my_rules:logarithm"'
    run(load_spec(spec_of(home, options)), str(home / "log"))
    found = stored_images.read(home / "log")
    assert found.manifest["rejected"] == {"non_finite_image": 1}
    assert sorted(set(range(NUM_TRAIN + NUM_TEST)) - set(found.values)) == [2]
    (line,) = compare.set_aside(home / "log")
    assert line["detail"] == "my_rules:logarithm returns a value that is not finite"
    assert np.isfinite(found.array()).all()


def test_an_image_smaller_than_the_crop_is_set_aside(home):
    options = "crop_size = [9, 7]\nsize = [4, 4]"
    run(load_spec(spec_of(home, options)), str(home / "crop"))
    found = stored_images.read(home / "crop")
    assert found.manifest["rejected"] == {"smaller_than_crop": 2}
    assert sorted(set(range(NUM_TRAIN + NUM_TEST)) - set(found.values)) == [7, 9]
    (first, second) = sorted(line["source"] for line in compare.set_aside(home / "crop"))
    assert first.endswith("007.png") and second.endswith("009.png")
    transform_fn = tf.saved_model.load(str(home / "crop" / "transform_fn")).transform_fn
    small = tf.constant([(home / "images" / "train" / "007.png").read_bytes()])
    with pytest.raises(tf.errors.InvalidArgumentError, match="crop_size takes 9 x 7 out of it"):
        transform_fn({"image": small, "image_orientation": tf.constant([1], tf.int64)})


@pytest.mark.feature(
    "ImageDataGenerator", "validation_split", "`[split] carve` or `fractions`, by hash"
)
def test_validation_split(home):
    text = stored_images.SPEC.replace(
        "directory = true", 'directory = true\ncarve = {{ validation = 0.25, of = "train" }}'
    )
    spec = home / "carved.toml"
    spec.write_text(text.format(options=SIZE, output=""))
    run(load_spec(str(spec)), str(home / "carved"))
    manifest = json.loads((home / "carved" / "dataset_info.json").read_text())
    sizes = {name: split["num_examples"] for name, split in manifest["splits"].items()}
    x = np.zeros((NUM_TRAIN, 9, 7, 3))
    made = ImageDataGenerator(validation_split=0.25)
    original = [made.flow(x, subset=subset).n for subset in ("training", "validation")]
    assert original == [30, 10]
    assert sizes["train"] + sizes["validation"] == sum(original)  # Each image in one of both.
    assert 4 <= sizes["validation"] <= 16  # Drawn one by one: 10 on average.


@pytest.mark.feature(
    "tf.image",
    "per_image_standardization",
    "`samplewise_center` and `samplewise_std_normalization`; another smallest std",
)
def test_per_image_standardization(tmp_path):
    rng = np.random.default_rng(4)
    made = [stored_images.smooth(rng, 9, 7) for _ in range(NUM_TRAIN + NUM_TEST)]
    made[1][:] = 50
    made[1][0, 0, 0] = 51  # A std of 0.07: TensorFlow divides by 1 / sqrt(189) at least.
    stored_images.write(tmp_path, made)
    options = 'store = "float32"\nsamplewise_center = true\nsamplewise_std_normalization = true'
    run(load_spec(spec_of(tmp_path, SIZE + options)), str(tmp_path / "out"))
    found = stored_images.read(tmp_path / "out").array()
    original = tf.image.per_image_standardization(np.stack(made)).numpy()
    np.testing.assert_allclose(np.delete(found, 1, 0), np.delete(original, 1, 0), atol=2e-6)
    flat = made[1].ravel().astype(np.float64)
    np.testing.assert_allclose(found[1].ravel(), (flat - flat.mean()) / flat.std(), rtol=1e-6)
    x = made[1] - made[1].mean()
    np.testing.assert_allclose(original[1], x * np.sqrt(189), rtol=1e-4)


def test_the_digest_of_a_function_is_one_in_all_processes(home):
    """Names in a graph hold counters, and maps have any order."""
    code = (
        "import sys; from beam_jobs.image_normalization import *; folder = sys.argv[1]\n"
        "for name in sys.argv[2:]: made = function_batch(name, folder, (9, 7, 3))\n"
        "print(function_digest(made))"
    )
    digests = []
    for names in (["looped"], ["logarithm", "looped"], ["logarithm"]):
        command = [sys.executable, "-c", code, str(home), *(f"my_rules:{name}" for name in names)]
        seed = {"PYTHONHASHSEED": str(len(digests))}
        done = subprocess.run(command, capture_output=True, env={**os.environ, **seed})
        digests.append(done.stdout)
    assert len(digests[0]) == 65
    assert digests[0] == digests[1] != digests[2]


def test_images_of_which_none_is_left_were_decoded(home):
    spec = load_spec(
        spec_of(home, SIZE + 'store = "float32"\npreprocessing_function = "my_rules:infinite"')
    )
    with pytest.raises(DataError, match="no image of train is left. See the rejected files"):
        run(spec, str(home / "infinite"))
