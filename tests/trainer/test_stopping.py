"""A training that was stopped, in whatever way, goes on as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from oracle import recording

_TESTS = Path(__file__).parents[1]
_NUMBER = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_KEY = {"dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": True}
_IMAGE = {"dtype": "uint8", "shape": [8, 8, 3], "stored_as": "raw", "normalized": False}
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["no", "yes"]}
_COUNT, _BATCH_SIZE = 600, 16  # 37 steps an epoch; 8 records are left out of each.
_STEPS = _COUNT // _BATCH_SIZE


def _records(count, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.normal(size=count).astype(np.float32)
    return [
        {"key": 1_000 + key, "size": size, "label": int(size > 0)} for key, size in enumerate(sizes)
    ]


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory, write_dataset):
    splits = {"train": _records(_COUNT, 1), "validation": _records(50, 2)}
    features = {"key": _KEY, "size": _NUMBER}
    return write_dataset(tmp_path_factory.mktemp("data"), splits, features, _LABEL)


def _start(folder, model, *options, backend="tensorflow", epochs=4):
    environment = dict(os.environ, KERAS_BACKEND=backend)
    environment["PYTHONPATH"] = os.pathsep.join([str(_TESTS.parent), str(_TESTS)])
    command = [sys.executable, "-m", "trainer", "train", folder, "--output", model]
    command += ["--epochs", epochs, "--batch-size", _BATCH_SIZE, "--seed", 3, "--deterministic"]
    if "--model" not in options:
        command += ["--model", "oracle.recording:build"]
    return subprocess.Popen(
        [*map(str, command), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _run(*arguments, status=0, **options):
    process = _start(*arguments, **options)
    output, error = process.communicate()
    assert process.returncode == status, error
    return output, error


def _checkpoints(model):
    return sorted(path.name for path in (model / "checkpoints").glob("step-*"))


def _stopped_at(number, folder, model, num_steps, *options, **more):
    """Sends a signal as soon as the checkpoint of that step is there, wherever it is by then."""
    process = _start(folder, model, *options, **more)
    while not any(name >= f"step-{num_steps:012d}" for name in _checkpoints(model)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(number)
    output, error = process.communicate()
    assert not (model / "model.keras").exists()
    return process.returncode, output, error


def _without_times(model):
    history = json.loads((model / "history.json").read_text())
    for epoch in history["epochs"]:
        for name in ("seconds", "examples_per_second", "waited"):
            del epoch[name]
    return history


def _assert_same(model, wanted):
    """The same metrics in each epoch, the same records in each step, the same weights."""
    assert _without_times(model) == _without_times(wanted)
    ours, theirs = (keras.models.load_model(path / "model.keras") for path in (model, wanted))
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (model / "checkpoints").exists()


@pytest.fixture(name="undisturbed", scope="module")
def fixture_undisturbed(folder, tmp_path_factory):
    """A training that nobody stopped."""
    model = tmp_path_factory.mktemp("undisturbed") / "model"
    _run(folder, model)
    return model


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_killed_at_any_step_and_started_again(folder, tmp_path, backend):
    model, wanted = tmp_path / "model", tmp_path / "wanted"
    _run(folder, wanted, backend=backend)
    for num_steps in sorted(random.Random(5).sample(range(10, 3 * _STEPS), 2)):
        options = ("--checkpoint-every", 7)
        status, *_ = _stopped_at(
            signal.SIGKILL, folder, model, num_steps, *options, backend=backend
        )
        assert status == -signal.SIGKILL
    output, _ = _run(folder, model, backend=backend)
    assert "goes on in epoch " in output
    _assert_same(model, wanted)
    keys = recording.keys_seen(model / "model.keras")
    assert keys.shape == (4 * _STEPS, _BATCH_SIZE)
    np.testing.assert_array_equal(keys, recording.keys_seen(wanted / "model.keras"))
    epochs = keys.reshape(4, -1)
    for epoch in epochs:  # No record twice, 8 of 600 left out.
        assert len(set(epoch)) == _STEPS * _BATCH_SIZE
        assert set(epoch) <= set(range(1_000, 1_000 + _COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize(
    "number, status, what",
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_is_met_after_a_step_and_a_checkpoint(
    folder, tmp_path, undisturbed, number, status, what
):
    done, _, error = _stopped_at(number, folder, tmp_path, 20, "--checkpoint-every", 20)
    assert done == status
    (line,) = [line for line in error.splitlines() if not line.startswith("epoch ")]
    saved = int(_checkpoints(tmp_path)[-1][5:17])
    assert saved >= 20
    assert line == (
        f"headrace: {what}, step {saved} of {4 * _STEPS} is saved; run the same command again to "
        "go on."
    )
    _run(folder, tmp_path)
    _assert_same(tmp_path, undisturbed)


def test_augmentation_goes_on_too(tmp_path, write_dataset):
    """The default network for images draws random numbers in three layers."""
    rng = np.random.default_rng(6)
    records = [
        {"image": rng.integers(0, 256, (8, 8, 3), np.uint8), "label": int(label)}
        for label in rng.integers(0, 2, 160)
    ]
    folder = write_dataset(tmp_path / "d", {"train": records}, {"image": _IMAGE}, _LABEL)
    options = ("--model", "trainer.model:build", "--accumulate", 3)
    _run(folder, tmp_path / "a", *options, epochs=3)
    _stopped_at(
        signal.SIGTERM, folder, tmp_path / "b", 4, *options, "--checkpoint-every", 4, epochs=3
    )
    _run(folder, tmp_path / "b", *options, epochs=3)
    _assert_same(tmp_path / "b", tmp_path / "a")


def test_a_finished_training_is_not_done_again(folder, undisturbed):
    model = undisturbed
    before = (model / "model.keras").stat().st_mtime_ns
    output, _ = _run(folder, model)
    assert output == f"{model}: is trained already, 4 epochs.\nmodel: {model}/model.keras\n"
    assert (model / "model.keras").stat().st_mtime_ns == before
    _, error = _run(folder, model, epochs=5, status=2)
    assert error == (
        f"headrace: {model}: holds a model that was trained with epochs 4 and not 5. Give another "
        "folder, or --overwrite to train anew.\n"
    )


def _assert_one_line(error, *parts):
    lines = [line for line in error.splitlines() if not line.startswith("epoch ")]
    assert len(lines) == 1 and lines[0].startswith("headrace: ")
    for part in parts:
        assert part in error


def test_another_dataset_or_option_is_not_gone_on_with(folder, tmp_path, write_dataset):
    model = tmp_path / "model"
    _stopped_at(signal.SIGKILL, folder, model, 5, "--checkpoint-every", 5)
    before = _checkpoints(model)
    _, error = _run(folder, model, "--learning-rate", 0.5, status=2)
    rule = "Give another folder, or --overwrite to train anew.\n"
    what = f"{model}: holds a training that was begun with learning_rate 0.003 and not 0.5. {rule}"
    _assert_one_line(error, what)
    records = _records(_COUNT, 1)
    records[7]["size"] += 1
    other = write_dataset(
        tmp_path / "other",
        {"train": records, "validation": _records(50, 2)},
        {"key": _KEY, "size": _NUMBER},
        _LABEL,
    )
    _, error = _run(other, model, status=2)
    _assert_one_line(error, f"begun on an earlier version of 'handmade'. {rule}")
    assert _checkpoints(model) == before
    output, _ = _run(other, model, "--overwrite", epochs=1)
    assert "goes on" not in output and output.endswith(f"model: {model}/model.keras\n")


def test_weights_that_are_no_numbers_are_not_saved(folder, tmp_path):
    _, error = _run(
        folder,
        tmp_path,
        "--model",
        "oracle.recording:diverging",
        "--checkpoint-every",
        1,
        status=1,
    )
    _assert_one_line(error, "Take a lower --learning-rate")
    assert not (tmp_path / "model.keras").exists()
    for name in _checkpoints(tmp_path):
        with np.load(tmp_path / "checkpoints" / name) as arrays:
            values = [arrays[each] for each in arrays.files]
        assert all(np.isfinite(value).all() for value in values if value.dtype == np.float32)


def test_without_space_what_was_saved_stays(folder, tmp_path, undisturbed):
    (tmp_path / "checkpoints").mkdir()
    full = tmp_path / "checkpoints" / ".partial-step-000000000030.npz"
    full.symlink_to("/dev/full")
    options = ("--checkpoint-every", 10)
    _, error = _run(folder, tmp_path, *options, status=1)
    _assert_one_line(error, "step-000000000030.npz: cannot be written (No space left on device).")
    assert _checkpoints(tmp_path) == ["step-000000000010.npz", "step-000000000020.npz"]
    (tmp_path / ".partial-model.keras").symlink_to("/dev/full")
    _, error = _run(folder, tmp_path, *options, status=1)
    _assert_one_line(error, "model.keras: cannot be written (No space left on device).")
    assert not (tmp_path / "model.keras").exists()
    _run(folder, tmp_path, *options)
    _assert_same(tmp_path, undisturbed)


def test_going_on_after_the_end_of_an_epoch(folder, tmp_path, undisturbed):
    """Its metrics are its own: the checkpoint has those of the epoch that is over."""
    end = tmp_path / "checkpoints" / f".partial-step-{2 * _STEPS:012d}.npz"
    end.parent.mkdir()
    end.symlink_to("/dev/full")
    _run(folder, tmp_path, "--checkpoint-every", _STEPS, status=1)
    assert _checkpoints(tmp_path) == [f"step-{_STEPS:012d}.npz"]
    output, _ = _run(folder, tmp_path)
    assert f"goes on in epoch 2, after 0 of {_STEPS} steps" in output
    _assert_same(tmp_path, undisturbed)


def test_a_model_that_cannot_be_saved_is_not_trained_again(folder, tmp_path, undisturbed):
    model = tmp_path / "model"
    _run(folder, model, epochs=1)
    before = {name: (model / name).read_bytes() for name in ("model.keras", "history.json")}
    (model / ".partial-model.keras").symlink_to("/dev/full")
    _, error = _run(folder, model, "--overwrite", status=1)
    _assert_one_line(error, "model.keras: cannot be written (No space left on device).")
    assert {name: (model / name).read_bytes() for name in before} == before
    assert _checkpoints(model)[-1] == f"step-{4 * _STEPS:012d}.npz"
    output, _ = _run(folder, model, "--overwrite")
    assert "epoch" not in output.partition("a step\n")[2]
    _assert_same(model, undisturbed)


def test_a_signal_after_the_last_step_does_not_lose_the_model(folder, tmp_path):
    """It comes while the model is saved, which then is saved to its end."""
    output, _ = _run(folder, tmp_path, "--model", "oracle.recording:told_to_end", epochs=1)
    assert output.endswith(f"model: {tmp_path}/model.keras\n")
    assert not (tmp_path / "checkpoints").exists()


def test_a_damaged_checkpoint_is_left_out(folder, tmp_path, undisturbed):
    options = ("--checkpoint-every", 10)
    _stopped_at(signal.SIGKILL, folder, tmp_path, 20, *options)
    last = tmp_path / "checkpoints" / _checkpoints(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:1_000])
    _, error = _run(folder, tmp_path)
    assert error.startswith(f"note: {last}: is damaged (") and error.count("note: ") == 1
    _assert_same(tmp_path, undisturbed)
