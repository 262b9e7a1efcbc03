"""Transformed images, against ImageDataGenerator and SciPy; masks and boxes, by hand."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from trainer import resampling
from trainer.resampling import Parameters

_NUM_IMAGES = 24
_SIDE = 21
_NONE = {
    "theta": 0.0,
    "tx": 0.0,
    "ty": 0.0,
    "shear": 0.0,
    "zx": 1.0,
    "zy": 1.0,
    "flip_horizontal": False,
    "flip_vertical": False,
    "channel_shift_intensity": 0.0,
    "brightness": 1.0,
}


def _images(channels=3, height=_SIDE, width=_SIDE, seed=0):
    shape = (_NUM_IMAGES, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _parameters(num=_NUM_IMAGES, **given):
    columns = {name: np.broadcast_to(given.get(name, _NONE[name]), num) for name in _NONE}
    return Parameters(**{name: tf.constant(values) for name, values in columns.items()})


def _uniform(low, high):
    return np.random.default_rng(3).uniform(low, high, _NUM_IMAGES)


def _ours(values, given, fill_mode="nearest", cval=0.0, order=1, **options):
    parameters = _parameters(len(values), **given)
    return resampling.images(tf.constant(values), parameters, fill_mode, cval, order, **options)


def _theirs(values, given, **options):
    """What ImageDataGenerator makes, as it is called in Keras' own iterators: of float32."""
    generator = ImageDataGenerator(**options)
    images = []
    for index, image in enumerate(values.astype(np.float32)):
        parameters = {n: np.broadcast_to(v, len(values))[index] for n, v in given.items()}
        images.append(generator.apply_transform(image, parameters))
    return np.stack(images)


_AFFINE = {
    "theta": _uniform(-180, 180),
    "tx": _uniform(-9, 9),
    "ty": _uniform(-8, 8)[::-1],
    "shear": _uniform(-30, 30)[::2].repeat(2),
    "zx": _uniform(0.4, 2),
    "zy": _uniform(0.4, 2)[::-1],
}
_FLIPS = {
    "flip_horizontal": np.arange(_NUM_IMAGES) % 2 == 0,
    "flip_vertical": np.arange(_NUM_IMAGES) % 3 == 0,
}
_HERE = "`Augmentation`, `--augmentation`: `{}`"


def _feature(name):
    return pytest.mark.feature("ImageDataGenerator", name, _HERE.format(name))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"theta": _AFFINE["theta"]}, marks=_feature("rotation_range")),
        pytest.param({"tx": _AFFINE["tx"]}, marks=_feature("width_shift_range")),
        pytest.param({"ty": _AFFINE["ty"]}, marks=_feature("height_shift_range")),
        pytest.param({"shear": _AFFINE["shear"]}, marks=_feature("shear_range")),
        pytest.param({"zx": _AFFINE["zx"], "zy": _AFFINE["zy"]}, marks=_feature("zoom_range")),
        pytest.param(
            {"flip_horizontal": _FLIPS["flip_horizontal"]}, marks=_feature("horizontal_flip")
        ),
        pytest.param({"flip_vertical": _FLIPS["flip_vertical"]}, marks=_feature("vertical_flip")),
        {**_AFFINE, **_FLIPS},
    ],
)
def test_each_movement_is_that_of_image_data_generator(given):
    values = _images()
    wanted = _theirs(values, given)
    assert (wanted != values).mean() > 0.3
    ours = _ours(values.astype(np.float32), given)
    np.testing.assert_allclose(ours, wanted, atol=1e-3)
    rounded = _ours(values, given).numpy().astype(np.float32)
    np.testing.assert_allclose(rounded, wanted, atol=0.5 + 1e-3)


@pytest.mark.parametrize("fill_mode", ["constant", "nearest", "reflect", "wrap"])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.feature("ImageDataGenerator", "fill_mode", _HERE.format("fill_mode"))
@pytest.mark.feature("ImageDataGenerator", "cval", _HERE.format("cval"))
@pytest.mark.feature(
    "ImageDataGenerator", "interpolation_order", _HERE.format("interpolation_order")
)
def test_what_is_outside_of_an_image_is_that_of_image_data_generator(fill_mode, order):
    given = {**_AFFINE, "tx": _uniform(-60, 60), "zy": _uniform(1, 5)}  # Several images away.
    values = _images()
    options = {"fill_mode": fill_mode, "cval": 17.25, "interpolation_order": order}
    wanted = _theirs(values, given, **options)
    ours = _ours(values.astype(np.float32), given, fill_mode, 17.25, order)
    np.testing.assert_allclose(ours, wanted, atol=1e-3)


@pytest.mark.parametrize("fill_mode", ["constant", "nearest", "reflect", "wrap"])
@pytest.mark.parametrize("order", [0, 1])
def test_whole_pixels_at_and_behind_each_edge(fill_mode, order):
    """Where SciPy's modes have their cases: one size away, two, and the edge itself."""
    line = np.arange(1, 6, dtype=np.float32)
    shifts = np.arange(-12, 12.5, 0.5)
    across = np.tile(line.reshape(1, 1, 5, 1), (len(shifts), 1, 1, 1))
    down = across.reshape(len(shifts), 5, 1, 1)
    ours = [
        _ours(across, {"tx": shifts}, fill_mode, 9.0, order)[:, 0, :, 0].numpy(),
        _ours(down, {"ty": shifts}, fill_mode, 9.0, order)[:, :, 0, 0].numpy(),
    ]
    wanted = [
        scipy.ndimage.affine_transform(line, np.eye(1), shift, order=order, mode=fill_mode, cval=9)
        for shift in shifts
    ]
    np.testing.assert_allclose(ours[0], wanted, atol=1e-6)
    np.testing.assert_allclose(ours[1], wanted, atol=1e-6)


@pytest.mark.parametrize("height, width", [(12, 31), (31, 12), (1, 7), (1, 1)])
def test_an_image_that_is_not_square_turns_about_its_center(height, width):
    """SciPy's values: ImageDataGenerator turns it about the center of (width, height)."""
    values = _images(1, height, width).astype(np.float32)
    given = {**_AFFINE, **_FLIPS}
    ours = _ours(values, given, "reflect").numpy()
    center = np.array([(height - 1) / 2, (width - 1) / 2])
    for index in range(_NUM_IMAGES):
        one = {name: column[index] for name, column in given.items()}
        angle, shear = np.deg2rad(one["theta"]), np.deg2rad(one["shear"])
        # In x and y, as the matrices are written in books; swapped to rows and columns below.
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        lean = np.array([[1, -np.sin(shear)], [0, np.cos(shear)]])
        matrix = (turn @ lean @ np.diag([one["zx"], one["zy"]]))[::-1, ::-1]
        offset = center + turn[::-1, ::-1] @ [one["ty"], one["tx"]] - matrix @ center
        wanted = scipy.ndimage.affine_transform(
            values[index, ..., 0], matrix, offset, order=1, mode="reflect"
        )
        wanted = wanted[:, ::-1] if one["flip_horizontal"] else wanted
        wanted = wanted[::-1] if one["flip_vertical"] else wanted
        np.testing.assert_allclose(ours[index, ..., 0], wanted, atol=1e-3)


@pytest.mark.feature(
    "ImageDataGenerator", "channel_shift_range", _HERE.format("channel_shift_range")
)
def test_a_channel_shift_ends_at_the_image_s_darkest_and_brightest_pixel():
    values = np.clip(_images(), 40, 200)
    given = {**_AFFINE, "channel_shift_intensity": _uniform(-90, 90)}
    wanted = _theirs(values, given)
    assert wanted.min() >= 40 and wanted.max() <= 200
    ours = _ours(values, given, has_channel_shift=True).numpy().astype(np.float32)
    np.testing.assert_allclose(ours, wanted, atol=0.5 + 1e-3)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.feature("ImageDataGenerator", "brightness_range", _HERE.format("brightness_range"))
def test_brightness_is_that_of_pillow(channels):
    values = _images(channels)
    given = {**_FLIPS, "brightness": np.r_[0, 1, _uniform(0.1, 3)[2:]]}
    wanted = _theirs(values, given)
    ours = _ours(values, given, order=0, has_brightness=True).numpy()
    np.testing.assert_array_equal(ours, wanted)


def test_all_of_it_in_the_order_of_image_data_generator():
    values = _images()
    given = {
        **_AFFINE,
        **_FLIPS,
        "channel_shift_intensity": _uniform(-90, 90),
        "brightness": _uniform(0.5, 1.5),
    }
    wanted = _theirs(values, given, fill_mode="constant", cval=30)
    ours = _ours(
        values, given, "constant", 30.0, has_channel_shift=True, has_brightness=True
    ).numpy()
    apart = np.abs(ours - wanted)
    # Pillow cuts off what float32 has on one side or the other of a whole number.
    assert (apart > 0).mean() < 1e-3 and apart.max() <= 2


def test_without_parameters_nothing_changes():
    values = _images(height=9, width=16)
    for order in 0, 1:
        for fill_mode in "constant", "nearest", "reflect", "wrap":
            np.testing.assert_array_equal(_ours(values, {}, fill_mode, 0.0, order), values)


def _moved(corners, height=10, width=20, **given):
    found, is_box = resampling.moved_boxes(
        tf.constant([corners], tf.float32), _parameters(1, **given), height, width
    )
    return found[0].numpy(), is_box[0].numpy().tolist()


_BOX = [0.1, 0.2, 0.5, 0.6]  # Of 20x10 pixels: columns 2 to 10, rows 2 to 6.


@pytest.mark.parametrize(
    "given, wanted",
    [
        ({}, _BOX),
        ({"flip_horizontal": True}, [0.5, 0.2, 0.9, 0.6]),
        ({"flip_vertical": True}, [0.1, 0.4, 0.5, 0.8]),
        ({"tx": 1.0}, [0.05, 0.2, 0.45, 0.6]),  # What is seen at 0 was at 1.
        ({"ty": -2.0}, [0.1, 0.4, 0.5, 0.8]),
        ({"tx": 4.0}, [0.0, 0.2, 0.3, 0.6]),  # Two columns are cut off.
        ({"zx": 2.0}, [0.3, 0.2, 0.5, 0.6]),
        ({"zy": 0.5}, [0.1, 0.0, 0.5, 0.7]),
        ({"theta": 180.0}, [0.5, 0.4, 0.9, 0.8]),
        # About (10, 5), a quarter: 8 columns and 4 rows become 4 columns and 8 rows.
        ({"theta": 90.0}, [0.35, 0.5, 0.55, 1.0]),
        ({"theta": -90.0}, [0.45, 0.0, 0.65, 0.5]),
        ({"tx": 1.0, "flip_horizontal": True}, [0.55, 0.2, 0.95, 0.6]),
    ],
)
def test_a_box_moves_with_its_image(given, wanted):
    found, is_box = _moved([_BOX, [-1, -1, -1, -1]], **given)
    np.testing.assert_allclose(found, [wanted, [-1] * 4], atol=1e-6)
    assert is_box == [True, False]


def test_a_box_of_which_nothing_is_left_is_none():
    for given in {"tx": 10.0}, {"tx": 12.0}, {"ty": 6.5}, {"theta": 45.0, "ty": 40.0}:
        found, is_box = _moved([_BOX], **given)
        assert is_box == [False] and found.tolist() == [[-1] * 4]


def test_a_box_is_where_its_pixels_are():
    """The pixels of a box, moved as a mask, lie in the moved box, and touch all its sides."""
    height, width = 48, 64
    rng = np.random.default_rng(5)
    num = 40
    given = {
        "theta": rng.uniform(-180, 180, num),
        "tx": rng.uniform(-8, 8, num),
        "ty": rng.uniform(-8, 8, num),
        "shear": rng.uniform(-20, 20, num),
        "zx": rng.uniform(0.7, 1.3, num),
        "zy": rng.uniform(0.7, 1.3, num),
        "flip_horizontal": rng.random(num) < 0.5,
        "flip_vertical": rng.random(num) < 0.5,
    }
    mask = np.zeros((num, height, width, 1), np.uint8)
    mask[:, 20:30, 24:44] = 1
    corners = np.tile(np.array([24 / 64, 20 / 48, 44 / 64, 30 / 48], np.float32), (num, 1, 1))
    parameters = _parameters(num, **given)
    found, is_box = resampling.moved_boxes(tf.constant(corners), parameters, height, width)
    moved = resampling.images(tf.constant(mask), parameters, "constant", 0.0, 0).numpy()[..., 0]
    assert is_box.numpy().all()
    assert set(np.unique(moved)) == {0, 1}
    for box, pixels in zip(found.numpy()[:, 0], moved, strict=True):
        rows, columns = np.nonzero(pixels)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # A corner may be sharper than a pixel.
        np.testing.assert_allclose(box * [width, height, width, height], seen, atol=2.5)
