import keras
import ml_dtypes
import numpy as np
import pytest

from trainer import checkpoints
from trainer.checkpoints import Checkpoint, Position
from trainer.errors import DatasetError, UsageError

_RUN = {"config": {"epochs": 2, "rate": 0.1}, "dataset": {"name": "d"}}


def _checkpoint(step, **variables):
    return Checkpoint(Position(1, step), _RUN, [{"loss": 0.1}], 1, variables)


def _network():
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.RandomFlip(seed=1)(inputs)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    x = keras.layers.Dropout(0.5, seed=2)(keras.layers.Flatten()(x))
    network = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    network.compile("adam", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return network


def _batches(num_steps):
    import tensorflow as tf

    rng = np.random.default_rng(3)
    images = rng.normal(size=(8 * num_steps, 6, 6, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 8 * num_steps)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(8, drop_remainder=True)


def test_what_is_read_is_what_was_written(tmp_path):
    values = {
        "model": [np.float32([[1.5, -0.0], [np.inf, 3e-45]]), np.array(7, np.int64)],
        "optimizer": [],
        "metrics": [np.array([], np.float32), np.array(True)],
        "best": [np.array([1.0, 0.3], ml_dtypes.bfloat16)],
    }
    checkpoints.save(str(tmp_path), 12, _checkpoint(2, **values))
    found = checkpoints.last(str(tmp_path))
    assert found.position == Position(1, 2)
    assert (found.run, found.epochs, found.best_epoch) == (_RUN, [{"loss": 0.1}], 1)
    assert list(found.variables) == list(values)
    for kind, wanted in values.items():
        for ours, theirs in zip(found.variables[kind], wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs.astype(ours.dtype))
            assert ours.shape == theirs.shape
            assert ours.dtype == (np.float32 if kind == "best" else theirs.dtype)
            assert np.signbit(ours).tolist() == np.signbit(theirs).tolist()


def test_the_last_two_are_kept(tmp_path):
    for step in (2, 999, 1_000, 30):
        checkpoints.save(str(tmp_path), step, _checkpoint(step))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000000000999.npz", "step-000000001000.npz"]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flip, _empty])
def test_a_damaged_one_does_not_matter(tmp_path, capsys, damage):
    for step in (10, 20):
        values = [np.full(1_000, step, np.float32)]
        checkpoints.save(str(tmp_path), step, _checkpoint(step, model=values))
    first, second = sorted((tmp_path / "checkpoints").iterdir())
    damage(second)
    assert checkpoints.last(str(tmp_path)).position == Position(1, 10)
    error = capsys.readouterr().err
    assert error.startswith(f"note: {second}: is damaged (") and error.count("\n") == 1
    damage(first)
    with pytest.raises(UsageError, match="no checkpoint is whole. Give --overwrite"):
        checkpoints.last(str(tmp_path))


def test_none_is_none(tmp_path):
    assert checkpoints.last(str(tmp_path)) is None
    checkpoints.remove(str(tmp_path))


def test_a_network_goes_on_with_the_same_bits(tmp_path):
    """Eight steps are four steps, a file, a new network and four steps."""
    keras.utils.set_random_seed(1)
    whole = _network()
    whole.fit(_batches(8), shuffle=False, verbose=0)
    keras.utils.set_random_seed(1)
    half = _network()
    half.fit(_batches(8).take(4), shuffle=False, verbose=0)
    found = checkpoints.variables(half)
    assert len(found["model"]) == len(half.weights) + 2  # The states of RandomFlip and Dropout.
    assert [len(values) for values in found.values()] == [10, 14, 4]
    checkpoints.save(str(tmp_path), 4, Checkpoint(Position(0, 4), _RUN, [], 0, found))
    keras.utils.set_random_seed(2)
    other = _network()
    read = checkpoints.last(str(tmp_path))
    checkpoints.restore(other, _batches(8).element_spec, read)
    checkpoints.assign(other.metrics_variables, read.variables["metrics"])
    other.fit(_batches(8).skip(4), shuffle=False, verbose=0)
    for one, wanted in zip(other.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), wanted.numpy())


def test_another_network_does_not_take_it():
    network = _network()
    network.fit(_batches(1), shuffle=False, verbose=0)
    found = checkpoints.variables(network)
    found["model"][3] = found["model"][3][:-1]
    with pytest.raises(UsageError, match="checkpoint's model has other variables"):
        checkpoints.restore(network, _batches(1).element_spec, _checkpoint(1, **found))


def test_where_no_folder_can_be_made(tmp_path):
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(DatasetError, match="checkpoints: cannot be written"):
        checkpoints.save(str(tmp_path), 2, _checkpoint(2, model=[np.zeros(10)]))


def test_without_space_the_earlier_one_stays(tmp_path):
    checkpoints.save(str(tmp_path), 1, _checkpoint(1, model=[np.zeros(10)]))
    (tmp_path / "checkpoints" / ".partial-step-000000000002.npz").symlink_to("/dev/full")
    with pytest.raises(DatasetError, match=r"step-000000000002.npz: cannot be written \(No space"):
        checkpoints.save(str(tmp_path), 2, _checkpoint(2, model=[np.zeros(10)]))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000000001.npz"]
    assert checkpoints.last(str(tmp_path)).position == Position(1, 1)
