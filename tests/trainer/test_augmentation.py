"""What may be asked of an augmentation, and what is drawn for it."""

import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from trainer import augmentation, augmented_batches
from trainer.augmentation import Augmentation
from trainer.errors import UsageError

_OF_THE_JOB = {  # What needs no chance, and is done before records are written.
    "featurewise_center",
    "samplewise_center",
    "featurewise_std_normalization",
    "samplewise_std_normalization",
    "zca_whitening",
    "zca_epsilon",
    "rescale",
    "preprocessing_function",
    "data_format",
    "validation_split",
    "dtype",
}


def test_every_random_argument_is_there_with_its_default():
    theirs = {
        name: parameter.default
        for name, parameter in inspect.signature(ImageDataGenerator).parameters.items()
        if name not in _OF_THE_JOB
    }
    ours = {field.name: field.default for field in dataclasses.fields(Augmentation)}
    assert len(theirs) == 12
    assert {name: ours[name] for name in theirs} == theirs
    assert set(ours) - set(theirs) == {"rand_augment", "mixup", "cutmix"}


@pytest.mark.parametrize(
    "layer, name, arguments",
    [
        (keras.layers.RandAugment, "rand_augment", {"num_ops": 1, "factor": [0.1, 0.2]}),
        (keras.layers.MixUp, "mixup", {"alpha": 0.5}),
        (keras.layers.CutMix, "cutmix", {"factor": 0.5}),
    ],
)
def test_layers_have_the_arguments_that_keras_gives_them(layer, name, arguments):
    Augmentation(**{name: arguments})
    theirs = set(inspect.signature(layer).parameters) - {"value_range", "seed", "data_format"}
    assert theirs - {"kwargs"} == set(augmentation._ARGUMENTS[name])


@pytest.mark.parametrize(
    "values, message",
    [
        ({"rotation_range": -1}, "rotation_range must be a number of at least 0, but is -1"),
        ({"rotation_range": "20"}, "rotation_range must be a number of at least 0, but is '20'"),
        ({"rotation_range": 10**400}, "rotation_range must be a number of at least 0, but is 1000"),
        (
            {"fill_mode": np.array(["nearest"])},
            "fill_mode must be one of .* but is \\['nearest'\\]",
        ),
        ({"rotation_range": True}, "rotation_range must be a number of at least 0, but is True"),
        ({"shear_range": float("nan")}, "shear_range must be a number of at least 0, but is nan"),
        ({"channel_shift_range": float("inf")}, "channel_shift_range must be a number"),
        ({"width_shift_range": -0.1}, "width_shift_range must be a number of at least 0, or a"),
        ({"height_shift_range": []}, r"height_shift_range must be .* a list of numbers, but is \["),
        ({"height_shift_range": ["1"]}, "height_shift_range must be a number of at least 0, or a"),
        ({"brightness_range": 0.5}, "brightness_range must be two numbers of at least 0, the low"),
        ({"brightness_range": [1.5, 0.5]}, "brightness_range must be two numbers of at least 0"),
        ({"brightness_range": [-1, 0.5]}, "brightness_range must be two numbers of at least 0"),
        ({"zoom_range": 1}, "zoom_range must be a number from 0 to below 1, or two above 0"),
        ({"zoom_range": [0, 1]}, "zoom_range must be a number from 0 to below 1, or two above 0"),
        ({"zoom_range": [1, 2, 3]}, "zoom_range must be a number from 0 to below 1, or two"),
        ({"fill_mode": "mirror"}, "fill_mode must be one of constant, nearest, reflect, wrap, but"),
        ({"cval": "black"}, "cval must be a number, but is 'black'"),
        ({"horizontal_flip": 1}, "horizontal_flip must be true or false, but is 1"),
        ({"interpolation_order": 3}, "interpolation_order must be 0 or 1, but is 3"),
        ({"interpolation_order": True}, "interpolation_order must be 0 or 1, but is True"),
        ({"mixup": 0.2}, "mixup must be a table of alpha, but is 0.2"),
        ({"mixup": {"beta": 1}}, "mixup has no 'beta'; it has alpha"),
        ({"mixup": {"alpha": 0}}, "mixup.alpha must be a number above 0, up to 1, but is 0"),
        ({"cutmix": {"factor": 2}}, "cutmix.factor must be a number from 0 to 1, or two, the low"),
        ({"rand_augment": {"num_ops": 0}}, "rand_augment.num_ops must be a whole number of at"),
        ({"rand_augment": {"interpolation": "cubic"}}, "must be bilinear or nearest, but is 'cub"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(UsageError, match=message):
        Augmentation(**values)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"rotation_range =", r"file.toml: is not TOML \(Invalid value"),
        (b"\xff", r"file.toml: is not TOML \('utf-8' codec"),
        (b"rotation = 20", "file.toml: there is no 'rotation'; there are rotation_range, width_"),
        (b"zoom_range = -1", "file.toml: zoom_range must be a number from 0 to below 1, or two ab"),
        (None, r"file.toml: cannot be read \(No such file or directory\)"),
    ],
)
def test_a_file_that_is_wrong(tmp_path, content, message):
    path = tmp_path / "file.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        augmentation.read(path)


def test_a_file_comes_back_from_json_as_it_was(tmp_path):
    (tmp_path / "file.toml").write_text(
        "rotation_range = 20\nwidth_shift_range = [0.1, 0.2]\nzoom_range = [0.8, 1.0]\n"
        'fill_mode = "reflect"\nvertical_flip = true\nmixup = { alpha = 0.3 }\n'
    )
    read = augmentation.read(tmp_path / "file.toml")
    config = read.as_config()
    assert config == {
        "rotation_range": 20,
        "width_shift_range": [0.1, 0.2],
        "zoom_range": [0.8, 1.0],
        "fill_mode": "reflect",
        "vertical_flip": True,
        "mixup": {"alpha": 0.3},
    }
    assert json.loads(json.dumps(config)) == config
    assert Augmentation(**config) == read
    in_python = dataclasses.replace(read, width_shift_range=(0.1, 0.2), zoom_range=(0.8, 1.0))
    assert in_python.as_config() == config
    assert Augmentation().as_config() == {}


def test_numbers_of_numpy_are_numbers():
    found = Augmentation(rotation_range=np.int64(3), zoom_range=np.array([0.5, 1.0]))
    assert found == Augmentation(rotation_range=3, zoom_range=[0.5, 1.0])
    assert json.dumps(found.as_config()) == '{"rotation_range": 3, "zoom_range": [0.5, 1.0]}'


_NUM_DRAWS = 20_000


def _drawn(height=100, width=50, **asked):
    """Parameters from chances of our own: by name, each (_NUM_DRAWS,)."""
    chances = tf.constant(np.random.default_rng(1).random((_NUM_DRAWS, 12)))
    found = augmented_batches.drawn(Augmentation(**asked), chances, height, width)
    return {name: values.numpy() for name, values in found._asdict().items()}


def _of_keras(height=100, width=50, **asked):
    """What ImageDataGenerator draws; it has the shift of the height in tx, to the sides."""
    generator = ImageDataGenerator(**asked)
    np.random.seed(2)
    found = [generator.get_random_transform((height, width, 3)) for _ in range(_NUM_DRAWS)]
    columns = {name: np.array([each[name] for each in found]) for name in found[0]}
    return {**columns, "tx": columns["ty"], "ty": columns["tx"]}


_WHERE = "`Augmentation`, `--augmentation`: `{}`"


def _asked(asked, *rest):
    """A case of a test that compares with what the original draws for these arguments."""
    marks = [pytest.mark.feature("ImageDataGenerator", n, _WHERE.format(n)) for n in asked]
    return pytest.param(asked, *rest, marks=marks)


@pytest.mark.parametrize(
    "asked, name, low, high, moments",
    [
        _asked({"rotation_range": 30}, "theta", -30, 30, (0, 30 / 3**0.5)),
        _asked({"width_shift_range": 0.2}, "tx", -10, 10, (0, 10 / 3**0.5)),
        _asked({"width_shift_range": 5.0}, "tx", -5, 5, (0, 5 / 3**0.5)),
        _asked({"height_shift_range": 0.2}, "ty", -20, 20, (0, 20 / 3**0.5)),
        _asked({"shear_range": 12.0}, "shear", -12, 12, (0, 12 / 3**0.5)),
        _asked({"zoom_range": 0.25}, "zx", 0.75, 1.25, (1, 0.25 / 3**0.5)),
        _asked({"zoom_range": [0.5, 0.75]}, "zy", 0.5, 0.75, (0.625, 0.125 / 3**0.5)),
        _asked({"channel_shift_range": 40.0}, "channel_shift_intensity", -40, 40, (0, 40 / 3**0.5)),
        _asked({"brightness_range": [0.4, 1.6]}, "brightness", 0.4, 1.6, (1, 0.6 / 3**0.5)),
    ],
)
def test_what_is_drawn_is_uniform(asked, name, low, high, moments):
    ours, theirs = _drawn(**asked)[name], _of_keras(**asked)[name]
    for values in ours, theirs:
        assert low <= values.min() < low + (high - low) / 1000
        assert high - (high - low) / 1000 < values.max() <= high
        error = 4 * moments[1] / _NUM_DRAWS**0.5
        assert values.mean() == pytest.approx(moments[0], abs=error)
        assert values.std() == pytest.approx(moments[1], abs=error)
    grid = np.linspace(0, 1, 21)[1:-1]
    np.testing.assert_allclose(
        np.quantile(ours, grid), np.quantile(theirs, grid), atol=0.02 * (high - low)
    )


@pytest.mark.parametrize(
    "asked, name, wanted",
    [
        _asked(
            {"width_shift_range": 3}, "tx", {-2: 1 / 6, -1: 1 / 6, 0: 1 / 3, 1: 1 / 6, 2: 1 / 6}
        ),
        _asked({"width_shift_range": 1}, "tx", {0: 1}),
        _asked({"width_shift_range": 0}, "tx", {0: 1}),
        _asked({"width_shift_range": [2, 7]}, "tx", dict.fromkeys((-7, -2, 2, 7), 1 / 4)),
        _asked({"width_shift_range": [0.1, 0.2]}, "tx", dict.fromkeys((-10, -5, 5, 10), 1 / 4)),
        _asked({"height_shift_range": [0.1, 1]}, "ty", dict.fromkeys((-1, -0.1, 0.1, 1), 1 / 4)),
        _asked({"horizontal_flip": True}, "flip_horizontal", {0: 1 / 2, 1: 1 / 2}),
        _asked({"vertical_flip": True}, "flip_vertical", {0: 1 / 2, 1: 1 / 2}),
        _asked({}, "flip_vertical", {0: 1}),
        _asked({}, "theta", {0: 1}),
        _asked({}, "zx", {1: 1}),
    ],
)
def test_what_is_chosen(asked, name, wanted):
    for values in _drawn(**asked)[name], _of_keras(**asked)[name]:
        numbers, counts = np.unique(values, return_counts=True)
        np.testing.assert_allclose(numbers, sorted(wanted))
        shares = [wanted[number] for number in sorted(wanted)]
        np.testing.assert_allclose(counts / _NUM_DRAWS, shares, atol=0.02)


def test_a_shift_may_be_any_whole_number():
    """A list of what to choose from would not fit into any memory."""
    found = _drawn(width_shift_range=10**12)["tx"]
    np.testing.assert_array_equal(found, np.floor(found))
    assert 0.99e12 < found.max() < 1e12 and -1e12 < found.min() < -0.99e12


def test_the_parameters_of_a_record_have_nothing_in_common():
    asked = {"rotation_range": 1.0, "width_shift_range": 0.5, "height_shift_range": 0.5}
    found = _drawn(**asked, shear_range=1.0, zoom_range=0.5, channel_shift_range=1.0)
    names = ["theta", "tx", "ty", "shear", "zx", "zy", "channel_shift_intensity"]
    correlations = np.corrcoef([found[name] for name in names]) - np.eye(len(names))
    assert np.abs(correlations).max() < 4 / _NUM_DRAWS**0.5
