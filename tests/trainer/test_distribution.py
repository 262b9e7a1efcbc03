"""One training on several devices and in several processes: the same model, every record once."""

import contextlib
import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import distribution
from trainer.distribution import Spread
from trainer.errors import UsageError

_ROOT = Path(__file__).parents[2]
_NUM_EXAMPLES, _BATCH_SIZE, _EPOCHS, _NUM_TESTED = 200, 16, 2, 30
_FEATURES = {
    "size": {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True},
    "key": {"dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": True},
    "note": {"dtype": "string", "shape": [], "stored_as": "bytes_list", "normalized": False},
}
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["no", "yes"]}
# Processes, devices of each: of several hosts TensorFlow takes all GPUs, but one CPU of each.
_SHAPES = {"tensorflow": [(1, 4), (2, 1)], "jax": [(1, 4), (2, 2)]}
_TRAIN = f"""
import sys

import numpy as np
import tensorflow as tf

folder, output, num_devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
)
import keras

from trainer import distribution, input_pipeline

spread = distribution.start()
spread.check({_BATCH_SIZE}, {_NUM_EXAMPLES})
keras.utils.set_random_seed(3)
is_tensorflow = keras.backend.backend() == "tensorflow"


def load(split, names, **options):
    options = input_pipeline.Options(
        seed=5, features=names, host=spread.host, num_hosts=spread.num_hosts, **options
    )
    return input_pipeline.load(folder, split, {_BATCH_SIZE}, options)


class Wishes(keras.callbacks.Callback):
    # What all hosts hear where the last one alone has a wish, after the third step.

    def __init__(self):
        self.heard = []

    def on_train_batch_end(self, batch, logs=None):
        wish = 2 * (batch == 2 and spread.host == spread.num_hosts - 1)
        if batch in (1, 2, 3):
            self.heard.append(spread.highest(wish))


def build():
    inputs = {{
        "size": keras.Input((), name="size"), "key": keras.Input((), dtype="int64", name="key")
    }}
    size = keras.layers.Reshape((1,))(inputs["size"])
    key = keras.layers.Embedding({_NUM_EXAMPLES}, 4)(inputs["key"])
    parts = [size, key]
    if is_tensorflow:  # Only it has texts.
        inputs["note"] = keras.Input((), dtype="string", name="note")
        parts.append(keras.layers.Embedding(8, 4)(keras.layers.Hashing(8)(inputs["note"])))
    hidden = keras.layers.Concatenate()(parts)
    hidden = keras.layers.BatchNormalization(synchronized=is_tensorflow)(hidden)
    hidden = keras.layers.Dense(8, activation="relu")(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))


with spread.scope():
    network = build()
    network.compile(
        keras.optimizers.AdamW(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
names = list(network.input)
batches = load("train", names, epochs={_EPOCHS})
tested = load("test", names, remainder=spread.remainder)
if spread.remainder == "pad":
    factor = 2 * {_BATCH_SIZE} / {_NUM_TESTED}
    tested = tested.map(lambda features, label, weight: (features, label, weight * factor))
wishes = Wishes()
steps = {_NUM_EXAMPLES} // {_BATCH_SIZE}
history = network.fit(
    spread.batches(batches), epochs={_EPOCHS}, steps_per_epoch=steps, verbose=0,
    validation_data=spread.batches(tested), validation_steps=2, callbacks=[wishes],
).history
keys = np.concatenate([features["key"] for features, _ in batches])
weights = {{f"weight {{i}}": value for i, value in enumerate(network.get_weights())}}
losses = history["loss"] + history["val_loss"]
np.savez(output, keys=keys, heard=wishes.heard, losses=losses, **weights)
if spread.is_chief:
    with spread.alone():
        network.save(output.replace(".npz", ".keras"))
    print(spread)
"""


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(backend, num_devices, cluster, host):
    """The variables of one of the processes."""
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    settings = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(_ROOT)}
    settings |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if len(cluster) > 1:
        task = {"type": "worker", "index": host}
        settings["TF_CONFIG"] = json.dumps({"cluster": {"worker": cluster}, "task": task})
    return {**os.environ, **settings}


@pytest.fixture(name="trained", scope="module")
def fixture_trained(tmp_path_factory, write_dataset):
    """A function: trains in so many processes; returns what each found, and the model."""
    rng = np.random.default_rng(7)
    sizes = rng.normal(size=_NUM_EXAMPLES + _NUM_TESTED).astype(np.float32)
    records = [
        {
            "size": size,
            "key": key % _NUM_EXAMPLES,
            "note": b"%d" % (key % 5),
            "label": int(size > 0),
        }
        for key, size in enumerate(sizes)
    ]
    splits = {"train": records[:_NUM_EXAMPLES], "test": records[_NUM_EXAMPLES:]}
    base = tmp_path_factory.mktemp("spread")
    folder = write_dataset(base / "data", splits, _FEATURES, _LABEL)

    @functools.cache
    def train(backend, num_hosts, num_devices):
        cluster = [f"127.0.0.1:{port}" for port in _free_ports(num_hosts)]
        name = f"{backend}-{num_hosts}-{num_devices}"
        outputs = [base / f"{name}-{host}.npz" for host in range(num_hosts)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _TRAIN, str(folder), str(output), str(num_devices)],
                env=_environment(backend, num_devices, cluster, host),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for host, output in enumerate(outputs)
        ]
        try:
            said = [process.communicate(timeout=200) for process in processes]
        finally:
            for process in processes:
                process.kill()
        for process, (_, error) in zip(processes, said, strict=True):
            assert process.returncode == 0, error[-3000:]
        printed = [[line for line in out.splitlines() if "[Gloo]" not in line] for out, _ in said]
        hosts = f"{num_hosts} hosts, " if num_hosts > 1 else ""
        num_all = num_hosts * num_devices
        devices = f"{num_all} device{'s' if num_all > 1 else ''}"
        assert printed == [[hosts + devices], []][:num_hosts]
        return [dict(np.load(output)) for output in outputs], outputs[0].with_suffix(".keras")

    return train


def _backend(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"no {name}"))


@pytest.mark.parametrize("backend", [_backend("tensorflow"), _backend("jax")])
def test_several_devices_and_hosts_train_the_model_of_one(backend, trained):
    (alone,), _ = trained(backend, 1, 1)
    assert alone["heard"].tolist() == [0, 2, 0] * _EPOCHS
    assert len(alone["losses"]) == 2 * _EPOCHS
    for shape in _SHAPES[backend]:
        found, model = trained(backend, *shape)
        weights = keras.models.load_model(model).get_weights()
        for name, value in alone.items():
            assert not np.all(value == 0), name
            if name == "keys":
                continue
            np.testing.assert_allclose(found[0][name], value, rtol=1e-5, atol=5e-6)
            for host in found:
                np.testing.assert_array_equal(host[name], found[0][name])
            if name.startswith("weight"):
                saved = weights[int(name.split()[1])]
                np.testing.assert_array_equal(saved, found[0][name])


@pytest.mark.parametrize("backend", [_backend("tensorflow"), _backend("jax")])
def test_every_record_is_read_by_one_host(backend, trained):
    (alone,), _ = trained(backend, 1, 1)
    found, _ = trained(backend, *_SHAPES[backend][-1])
    assert len(found) == 2
    num_kept = _NUM_EXAMPLES // _BATCH_SIZE * _BATCH_SIZE
    epochs = alone["keys"].reshape(_EPOCHS, num_kept)
    assert [len(set(keys.tolist())) for keys in epochs] == [num_kept] * _EPOCHS
    assert epochs[0].tolist() != epochs[1].tolist()
    steps = [host["keys"].reshape(-1, _BATCH_SIZE // 2) for host in found]
    for one, other, keys in zip(*steps, alone["keys"].reshape(-1, _BATCH_SIZE), strict=True):
        assert not set(one.tolist()) & set(other.tolist())
        assert {*one.tolist(), *other.tolist()} == set(keys.tolist())


def _config(index=0, kind="worker", **cluster):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    "text, hosts, host",
    [
        ("", [""], 0),
        ("{}", [""], 0),
        (_config(worker=["a:1"]), [""], 0),
        (_config(worker=["a:1", "b:2"]), ["a:1", "b:2"], 0),
        (_config(1, worker=["a:1", "b:2"]), ["a:1", "b:2"], 1),
        (_config(1, chief=["c:3"], worker=["a:1", "b:2"]), ["c:3", "a:1", "b:2"], 2),
        (_config(kind="chief", chief=["c:3"], worker=["a:1"]), ["c:3", "a:1"], 0),
    ],
)
def test_who_takes_part(text, hosts, host):
    assert distribution._hosts(text) == (hosts, host)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        _config(2, worker=["a:1", "b:2"]),
        _config(kind="evaluator", worker=["a:1", "b:2"]),
        _config(worker=["a", "b"]),
        _config("0", worker=["a:1", "b:2"]),
        json.dumps({"cluster": {"worker": ["a:1", "b:2"]}}),
    ],
)
def test_what_is_no_cluster(text):
    with pytest.raises(UsageError, match='TF_CONFIG: must be {"cluster": .*but is '):
        distribution._hosts(text)


def test_a_chief_that_does_not_answer(monkeypatch):
    (port,) = _free_ports(1)
    monkeypatch.setattr(distribution, "_WAIT_SECONDS", 0)
    config = _config(1, worker=[f"127.0.0.1:{port}", "127.0.0.1:1"])
    with pytest.raises(UsageError, match=f"chief 127.0.0.1:{port} did not answer for 0 s: .*refus"):
        distribution.start({"TF_CONFIG": config})


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = _config(0, worker=[f"127.0.0.1:{port}", "127.0.0.1:1"])
        with pytest.raises(UsageError, match=f"port {port} of the chief cannot be used: .*in use"):
            distribution.start({"TF_CONFIG": config})


def test_one_device_alone_changes_nothing():
    spread = distribution.start({})
    assert spread == Spread(0, 1, 1, None) and str(spread) == "1 device"
    assert (spread.is_chief, spread.remainder) == (True, "keep")
    batches = object()
    assert spread.batches(batches) is batches


def test_a_host_cuts_its_part_for_its_devices():
    rows = tf.data.Dataset.range(24).batch(6, drop_remainder=True)
    spread = Spread(0, num_hosts=2, num_devices=4, strategy=tf.distribute.get_strategy())
    found = [batch.numpy().tolist() for batch in spread.batches(rows)]
    assert found == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(8)]


def test_a_batch_is_cut_into_equal_parts():
    spread = Spread(num_devices=8)
    spread.check(16, 16)
    assert (spread.fitting(16), spread.fitting(17), spread.remainder) == (16, 24, "pad")
    with pytest.raises(UsageError, match="multiple of the 8 devices, but is 100. Take 104."):
        spread.check(100, 1000)
    with pytest.raises(UsageError, match="15 examples are no batch of 16 for 8 devices"):
        spread.check(16, 15)
    Spread().check(100, 7)
