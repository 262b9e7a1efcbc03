"""Reads the serialized examples of a split in a given order."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from trainer import order as orders
from trainer.dataset_info import LABEL, DatasetInfo, Shard, Split
from trainer.errors import UsageError
from trainer.order import Order, Runs

_READ_BYTES = 1 << 18
_DRAWN_TOGETHER = 256  # Records.


@dataclasses.dataclass(frozen=True)
class Source:
    """The records of a split, and the part of them that one host reads.

    Attributes:
      info: The dataset.
      split: One of its splits; it has records.
      order: Of these records.
      host: From 0.
      num_hosts: They share every batch.
      class_weights: How often an example of each class is drawn, on average, by the index of the
        class; None: exactly once.
    """

    info: DatasetInfo
    split: Split
    order: Order
    host: int = 0
    num_hosts: int = 1
    class_weights: Sequence[float] | None = None

    def batches(
        self,
        batch_size: int,
        num_steps: int,
        epoch: tf.Tensor,
        step: tf.Tensor,
        remainder: str,
    ) -> tf.data.Dataset:
        """Reads one epoch after the other, without end.

        Args:
          batch_size: Examples of all hosts, a multiple of their number.
          num_steps: Batches in an epoch.
          epoch: int64, the first epoch.
          step: int64, how many of its batches are left out.
          remainder: With "pad", the split's first record fills up the last batch of an epoch;
            else that is left out ("drop") or smaller ("keep").

        Returns:
          A dataset of string (batch_size / num_hosts,), serialized examples.
        """
        size = batch_size // self.num_hosts
        has_full = remainder == "pad" or (
            remainder == "drop" and self.order.num_records >= batch_size
        )

        def one(later: tf.Tensor) -> tf.data.Dataset:
            first_step = tf.where(later == 0, step, 0)
            records = self._records(epoch + later, first_step * batch_size)
            if remainder == "pad":
                filling = self._first().get_single_element()
                records = records.concatenate(tf.data.Dataset.from_tensors(filling).repeat())
            return records.batch(size, drop_remainder=has_full).take(num_steps - first_step)

        return tf.data.Dataset.counter().flat_map(one)

    def _first(self) -> tf.data.Dataset:
        """Reads the first record of the split: string scalar."""
        first = next(i for i, shard in enumerate(self.split.shards) if shard.num_examples)
        shard, zero, one = (tf.constant(number, tf.int64) for number in (first, 0, 1))
        return self._run(shard, zero, zero, one)

    def _records(self, epoch: tf.Tensor, place: tf.Tensor) -> tf.data.Dataset:
        """Reads this host's records of an epoch from a place on: string scalars."""
        order, shared = self.order, math.gcd(self.num_hosts, self.order.num_lanes)
        lanes = range(self.host % shared, order.num_lanes, shared)
        window = place // (order.window * order.num_lanes)
        start = window * order.window
        if len(lanes) == 1:  # No hand-over between threads, which costs more than reading a row.
            records = self._lane(epoch, tf.constant(lanes.start, tf.int64), start)
        else:
            records = tf.data.Dataset.range(lanes.start, lanes.stop, lanes.step).interleave(
                lambda lane: self._lane(epoch, lane, start),
                cycle_length=len(lanes),
                block_length=order.window,
                num_parallel_calls=len(lanes),
                deterministic=True,
            )
        if order.window > 1:
            records = self._arranged(records, epoch, window, lanes)
        done = (place - start * order.num_lanes) // shared
        return records.skip(done).shard(self.num_hosts // shared, self.host // shared)

    def _arranged(
        self, records: tf.data.Dataset, epoch: tf.Tensor, first: tf.Tensor, lanes: range
    ) -> tf.data.Dataset:
        """Puts the records of each window in their order."""

        def arranged(number: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
            (places,) = _numpy(
                lambda epoch, number: (self.order.arrangement(epoch, number, lanes),),
                (epoch, first + number),
                1,
            )
            return tf.gather(window, places)

        windows = records.batch(self.order.window * len(lanes)).enumerate()
        return windows.map(arranged, num_parallel_calls=1, deterministic=True).unbatch()

    def _lane(self, epoch: tf.Tensor, lane: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        """Reads a lane from its record `start` on: string scalars."""
        if self.class_weights is not None:
            return self._drawn(epoch, lane).skip(start)
        reads = _numpy(self.order.reads, (epoch, lane, start), 4)
        return tf.data.Dataset.from_tensor_slices(reads).flat_map(self._run)

    def _run(
        self, shard: tf.Tensor, offset: tf.Tensor, skip: tf.Tensor, take: tf.Tensor
    ) -> tf.data.Dataset:
        """Reads some of the records of a shard, and checks that they are there."""
        files = tf.constant([self.info.path(shard) for shard in self.split.shards])
        # As tf.data.TFRecordDataset, which does not pass on where to begin.
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[files[shard]],
            compression_type="GZIP" if self.info.compression == "gzip" else "",
            buffer_size=_READ_BYTES,
            byte_offsets=[offset],
        )
        records = tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string))
        # A shard cut at the end of a record just ends: only the number tells.
        counted = tf.data.experimental.assert_cardinality(take)
        return records.skip(skip).take(take).apply(counted)

    def _drawn(self, epoch: tf.Tensor, lane: tf.Tensor) -> tf.data.Dataset:
        """Reads a lane over and over; an example comes as often as the weight of its class says.

        Where a weight is no whole number, chance decides between the two around it.
        """
        reads = _numpy(self.order.reads, (epoch, lane, tf.zeros((), tf.int64)), 4)
        (seed,) = _numpy(lambda *what: (self.order.draw_seed(*what),), (epoch, lane), 1)
        (size,) = _numpy(lambda lane: ([self.order.lane_size(lane)],), (lane,), 1)
        weights = tf.constant(self.class_weights, tf.float32)

        def drawn(number: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
            label = {LABEL: tf.io.FixedLenFeature([], tf.int64)}
            wanted = tf.gather(weights, tf.io.parse_example(serialized, label)[LABEL])
            chance = tf.random.stateless_uniform(tf.shape(wanted), seed + [0, number])
            return tf.repeat(serialized, tf.cast(tf.floor(wanted + chance), tf.int32))

        lane_records = tf.data.Dataset.from_tensor_slices(reads).flat_map(self._run)
        passes = lane_records.batch(_DRAWN_TOGETHER).repeat().enumerate()
        return passes.map(drawn).unbatch().take(size[0])


def source(
    info: DatasetInfo,
    split: Split,
    *,
    seed: int | None,
    host: int,
    num_hosts: int,
    sampling: str | Mapping[str, float] | None,
) -> Source:
    """Returns the records of a split in the order of training, or of the manifest (seed None)."""
    if seed is None:
        order = Order(_runs(split.shards, indexed=False), 1, 1, None)
    else:
        runs = _runs(split.shards, indexed=info.compression == "none")
        size = _record_bytes(info, split)
        # A lane alone could have few examples of a class.
        one_lane = sampling is not None
        order = orders.shuffled(
            runs, size, seed, is_random=info.is_in_random_order, one_lane=one_lane
        )
    weights = None if sampling is None else _class_weights(info, split, sampling)
    return Source(info, split, order, host, num_hosts, weights)


def _runs(shards: Sequence[Shard], *, indexed: bool) -> Runs:
    """Cuts shards into runs: at every entry of their indices, or not at all."""
    starts = [[(0, 0), *(shard.index if indexed else ())] for shard in shards]
    counts = [
        np.diff([record for record, _ in found], append=shard.num_examples)
        for found, shard in zip(starts, shards, strict=True)
    ]
    return Runs(
        np.repeat(np.arange(len(shards)), np.array([len(found) for found in starts], np.int64)),
        np.array([offset for found in starts for _, offset in found], np.int64),
        np.concatenate([np.zeros(0, np.int64), *counts]).astype(np.int64),
    )


def _record_bytes(info: DatasetInfo, split: Split) -> float:
    """Returns what a record of a split takes in memory: by its features, or by its files."""
    stored = sum(shard.bytes for shard in split.shards) / max(split.num_examples, 1)
    features = info.features.values()
    if any(feature.is_encoded for feature in features):
        return stored
    sizes = (math.prod(f.shape) * tf.dtypes.as_dtype(f.dtype).size for f in features)
    return max(stored, sum(32 + size for size in sizes))


def _class_weights(
    info: DatasetInfo, split: Split, sampling: str | Mapping[str, float]
) -> list[float]:
    """Returns the weight of each class, such that an epoch has as many examples as the split.

    Raises:
      UsageError: The label is no class, a class is unknown, or a weight is not above 0.
    """
    label, counts = info.require_label(), split.class_counts
    classes = label.classes
    if label.type != "class" or not any(counts.values()):
        raise UsageError(
            f"{info.directory}: has no classes in split {split.name!r} to draw by. Leave out "
            "sampling."
        )
    if sampling == "balanced":
        sampling = {name: 1 / counts[name] for name in classes if counts.get(name)}
    elif not isinstance(sampling, Mapping):
        raise UsageError(f"sampling must be 'balanced' or weights by class, but is {sampling!r}.")
    if unknown := sorted(set(sampling) - set(classes)):
        raise UsageError(
            f"{info.directory}: there is no class {unknown[0]!r}; the classes are "
            f"{', '.join(classes)}."
        )
    weights = [float(sampling.get(name, 1.0)) for name in classes]
    for name, weight in zip(classes, weights, strict=True):
        if not 0 < weight < math.inf:
            raise UsageError(f"the weight of class {name!r} must be above 0, but is {weight}.")
    total = sum(w * counts.get(name, 0) for name, w in zip(classes, weights, strict=True))
    return [w * split.num_examples / total for w in weights]


def _numpy(function, arguments, num_results: int) -> tuple[tf.Tensor, ...]:
    """Calls a NumPy function of scalars; its results are int64 vectors."""

    def call(*scalars: np.ndarray):
        return [np.asarray(r, np.int64) for r in function(*map(int, scalars))]

    found = tf.numpy_function(call, list(arguments), [tf.int64] * num_results, stateful=False)
    return tuple(tf.ensure_shape(result, (None,)) for result in found)
