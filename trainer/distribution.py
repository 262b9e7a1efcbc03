"""How a training is spread over the devices of this machine, and over several machines.

    spread = distribution.start()  # Before anything else asks for a device.
    spread.check(batch_size, num_examples)
    with spread.scope():
        network = build(info)
        network.compile(...)
    options = Options(seed=seed, host=spread.host, num_hosts=spread.num_hosts)
    batches = load(info, "train", batch_size, options)
    network.fit(spread.batches(batches), steps_per_epoch=num_steps(...), ...)
    if spread.is_chief:
        with spread.alone():
            network.save(...)

Every host runs the same program, with the same seed, on the same number of steps: each step waits
for all of them. The chief alone writes and prints; its weights are everybody's. Three things are
done by all hosts after the same step, or the others fail or wait: to save, for TensorFlow asks all
of them for a metric's value and the chief writes what it read; to stop (`spread.highest` says that
one of them was asked to); and to read a checkpoint, before the first step.

`fit` and `evaluate` take a batch from an iterator of their own before the first step, so that the
stream must begin at the same place whenever it is iterated; with several hosts they must be told
the number of steps.

| backend | devices of one machine | several machines (`TF_CONFIG`) |
|---|---|---|
| TensorFlow | `MirroredStrategy`; with `TPU_NAME`, `TPUStrategy` | `MultiWorkerMirroredStrategy` |
| JAX | `keras.distribution.DataParallel` | the same, after `jax.distributed.initialize` |
| PyTorch | the first one | none |
"""

import contextlib
import dataclasses
import functools
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import UsageError

_WAIT_SECONDS = 300  # As long as JAX waits for everybody.
_PART_SECONDS = 20  # Whoever ends early, after SIGTERM or an error, waits this long for the others.


@dataclasses.dataclass(frozen=True)
class Spread:
    """Who takes part in a training.

    Attributes:
      host: Which of the hosts this process is, from 0.
      num_hosts: How many processes train together.
      num_devices: How many devices all of them have together.
      strategy: Of tf.distribute; None where there is none to use.
    """

    host: int = 0
    num_hosts: int = 1
    num_devices: int = 1
    strategy: tf.distribute.Strategy | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints, the model and lines for people."""
        return self.host == 0

    @property
    def remainder(self) -> str:
        """What evaluation does with a last batch that is smaller: as in `Options.remainder`.

        Several devices take the same share of every batch, but for those of MirroredStrategy. What
        fills up a batch has weight 0, of which Keras' `weighted_metrics` alone take notice; for the
        loss, which Keras divides by all that a batch holds, the other weights have to be as much
        higher than 1.
        """
        shares_alike = not isinstance(self.strategy, tf.distribute.MirroredStrategy)
        return "pad" if self.num_devices > 1 and shares_alike else "keep"

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns the context in which a model is built, compiled and restored."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one host do what the others do not, such as saving.

        Saving makes a variable, and JAX would ask all hosts whether they make it too.
        """
        if keras.backend.backend() != "jax":
            yield
            return
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)

    def highest(self, number: int) -> int:
        """Returns the highest number of all hosts, each of which must ask after the same step.

        So they save or stop together, though a clock or a signal tells one of them alone. The
        answer comes when the step is done: ask now and then, rather than after each.
        """
        if self.num_hosts == 1:
            return number
        if self.strategy is None:
            from jax.experimental import multihost_utils

            return int(multihost_utils.process_allgather(np.int32(number)).max())
        mine = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([number])
        )
        return int(tf.reduce_max(self.strategy.gather(mine, axis=0)))

    def batches(self, batches: tf.data.Dataset) -> Any:
        """Returns what `fit` and `evaluate` take: this host's part of the batches, as it is read.

        Args:
          batches: What `input_pipeline.load` gives for this host.
        """
        if self.num_hosts == 1 or self.strategy is None:
            return batches  # Keras cuts each batch for the devices of this machine.
        num_local_devices = self.num_devices // self.num_hosts
        if num_local_devices > 1:
            batch_size = tf.nest.flatten(batches.element_spec)[0].shape[0]
            batches = batches.rebatch(batch_size // num_local_devices, drop_remainder=True)
        return self.strategy.distribute_datasets_from_function(lambda _: batches)

    def fitting(self, batch_size: int) -> int:
        """Returns the smallest batch size, at least this one, of which all devices get the same.

        >>> Spread(num_devices=8).fitting(100)
        104
        """
        return -(-batch_size // self.num_devices) * self.num_devices

    def check(self, batch_size: int, num_examples: int) -> None:
        """Checks that each step has the same work for every device.

        Raises:
          UsageError: The batches cannot be cut into equal parts.
        """
        if batch_size % self.num_devices:
            raise UsageError(
                f"the batch size must be a multiple of the {self.num_devices} devices, but is "
                f"{batch_size}. Take {self.fitting(batch_size)}."
            )
        if self.num_devices > 1 and num_examples < batch_size:
            raise UsageError(
                f"{num_examples} examples are no batch of {batch_size} for {self.num_devices} "
                "devices. Take a smaller batch size, or one device."
            )

    def __str__(self) -> str:
        """Says it for people: "2 hosts, 8 devices"."""
        hosts = f"{self.num_hosts} hosts, " if self.num_hosts > 1 else ""
        return f"{hosts}{self.num_devices} device{'s' if self.num_devices > 1 else ''}"


def start(environment: Mapping[str, str] = os.environ) -> Spread:
    """Takes all devices of this machine, and meets the other hosts if there are any.

    The first call comes before a tensor, a variable or a seed is made; later ones change nothing.

    Args:
      environment: Where `TF_CONFIG` stands, as TensorFlow, Vertex AI and Kubeflow define it, and
        `TPU_NAME`; `local` is the TPU of the machine itself.

    Raises:
      UsageError: `TF_CONFIG` is not what it should be, the backend cannot train on several hosts,
        or the chief does not answer.
    """
    return _started(environment.get("TF_CONFIG", ""), environment.get("TPU_NAME"))


@functools.cache
def _started(config: str, tpu: str | None) -> Spread:
    hosts, host = _hosts(config)
    backend = keras.backend.backend()
    if len(hosts) > 1:
        _check_chief(hosts[0], host)
    if backend == "tensorflow":
        return _with_tensorflow(host, len(hosts), tpu)
    tf.config.set_visible_devices([], "GPU")  # It would take their memory, and only reads files.
    if backend == "jax":
        return _with_jax(hosts, host)
    if len(hosts) > 1:
        raise UsageError(
            f"TF_CONFIG names {len(hosts)} hosts, but Keras trains on one with {backend}. "
            "Set KERAS_BACKEND to tensorflow or jax."
        )
    return Spread()


class _ForKeras(tf.distribute.Strategy):
    """Reduces what Keras 3 hands to `reduce` though no strategy takes it.

    Keras asks for the mean of a whole nested batch, of which it needs the shapes alone, and of
    scalars along their axis 0. So `fit` fails on several hosts (keras-team/keras#20585), and on the
    devices of one with texts or with a batch that they cannot share equally.
    """

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        if tf.nest.is_nested(value):
            return tf.nest.map_structure(
                lambda each: self.experimental_local_results(each)[0], value
            )
        if axis == 0 and self.experimental_local_results(value)[0].shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)


class _Mirrored(_ForKeras, tf.distribute.MirroredStrategy):
    pass


class _MultiWorkerMirrored(_ForKeras, tf.distribute.MultiWorkerMirroredStrategy):
    pass


def _with_tensorflow(host: int, num_hosts: int, tpu: str | None) -> Spread:
    strategy: tf.distribute.Strategy
    if num_hosts > 1:
        strategy = _MultiWorkerMirrored()  # Reads TF_CONFIG itself.
    elif tpu:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
        strategy = tf.distribute.TPUStrategy(resolver)
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) == 1:
            return Spread()
        strategy = _Mirrored([device.name for device in devices])
    return Spread(host, num_hosts, strategy.num_replicas_in_sync, strategy)


def _with_jax(hosts: list[str], host: int) -> Spread:
    import jax

    if len(hosts) > 1:
        jax.distributed.initialize(
            hosts[0],
            len(hosts),
            host,
            initialization_timeout=_WAIT_SECONDS,
            shutdown_timeout_seconds=_PART_SECONDS,
        )
    num_devices = jax.device_count()
    if num_devices > 1:
        # Each host reads its own part already.
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
    return Spread(host, len(hosts), num_devices)


def _hosts(text: str) -> tuple[list[str], int]:
    """Returns the addresses of all hosts, the chief's first, and which of them this one is.

    >>> _hosts('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    (['a:1', 'b:1'], 1)
    >>> _hosts("")
    ([''], 0)

    Raises:
      UsageError: It is no TF_CONFIG of hosts that train alike.
    """
    try:
        config = json.loads(text or "{}")
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        hosts = [*chiefs, *workers]
        if len(hosts) < 2:
            return [""], 0
        first = {"chief": 0, "worker": len(chiefs)}[task["type"]]
        host = range(len(hosts))[first + task["index"]]
        for each in hosts:
            int(each.rpartition(":")[2])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            'TF_CONFIG: must be {"cluster": {"chief": [HOST:PORT], "worker": [HOST:PORT, ...]}, '
            '"task": {"type": "chief" or "worker", "index": N}}, where "chief" may be missing, '
            f"but is {text!r}."
        ) from error
    return hosts, host


def _check_chief(address: str, host: int) -> None:
    """Checks that the hosts can meet: otherwise JAX ends the process, and TensorFlow waits on.

    Raises:
      UsageError: The chief's port is taken, or the chief does not answer.
    """
    name, _, port = address.rpartition(":")
    if host == 0:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", int(port)))
            except OSError as error:
                raise UsageError(
                    f"TF_CONFIG: port {port} of the chief cannot be used: {error}."
                ) from error
        return
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            socket.create_connection((name, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise UsageError(
                    f"TF_CONFIG: the chief {address} did not answer for {_WAIT_SECONDS} s: {error}."
                ) from error
            time.sleep(0.5)
