"""From a dataset folder to a `tf.data.Dataset` that `model.fit` takes as it is."""

import concurrent.futures
import ctypes
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer import augmented_batches, dataset_info, object_stores, parsing, records, remote
from trainer.augmentation import Augmentation
from trainer.augmented_batches import Augmenter
from trainer.dataset_info import DatasetInfo, Feature, Shard
from trainer.errors import DatasetError, UsageError
from trainer.records import Source

_STAT_THREADS = 16  # One look at an object store takes some 50 ms.
_PARSED_TOGETHER = min(16, os.cpu_count() or 1)  # Batches.
_READY_BATCHES = 2
_SEARCHED_TOGETHER = 16  # Records.
_KEPT_BYTES = 256 << 20
_LARGEST_BLOCK_BYTES = 1 << 30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # As in glibc's malloc.h.

Directory = str | os.PathLike | DatasetInfo


@dataclasses.dataclass(frozen=True)
class Options:
    """How to read a split.

    Attributes:
      training: Whether to shuffle; None means: if the split is `train`.
      seed: Decides the order in training.
      epoch: The first pass over the split, from 0.
      step: How many of its batches are left out, since they were seen before; needs `epochs`.
      epochs: The passes that one iteration makes, from `epoch` on. None: one, and the next
        iteration makes the next.
      host: From 0; which part of each batch to read.
      num_hosts: How many share the batches. All see one order, whatever their number.
      remainder: What becomes of examples that do not fill a batch at the end of an epoch: "drop"
        (the default in training; another rest each time), "keep" as a smaller batch (the default
        otherwise, for one host), or "pad": fill it up, with a weight of 0.
      features: The names of those to read; None means all.
      sampling: How often examples of a class are drawn: "balanced" gives all classes alike, or a
        weight for each class, 1 where there is none. An epoch has as many examples as the split,
        and some of these several times or not at all. None: each exactly once.
      crop: Height and width to cut out of images that are stored as files: anywhere in training,
        else from the middle.
      augmentation: How to change images at random in training, after the crop; masks and boxes go
        with their image. With mixup or cutmix the label becomes float32 (batch, classes).
      cache: A folder of this machine (/dev/shm/... for its memory) where the shards are copied
        before the first is read, and where the next call finds them. s3:// needs one.
    """

    training: bool | None = None
    seed: int = 0
    epoch: int = 0
    step: int = 0
    epochs: int | None = None
    host: int = 0
    num_hosts: int = 1
    remainder: str | None = None
    features: Sequence[str] | None = None
    sampling: str | Mapping[str, float] | None = None
    crop: tuple[int, int] | None = None
    augmentation: Augmentation | None = None
    cache: str | None = None


_DEFAULTS = Options()


def load(
    directory: Directory | Mapping[str, float],
    split: str,
    batch_size: int,
    options: Options = _DEFAULTS,
) -> tf.data.Dataset:
    """Reads a split of a dataset as batches.

    In training the order is a function of the seed and the epoch, and the same for any number of
    hosts: see `trainer.order`. Otherwise it is that of the manifest. `tf.random.set_seed` has no
    influence. To go on within an epoch, give `epoch` and `step`: what was read before is not
    read again (with compression or `sampling`: is not parsed again).

    Every batch has one shape, but for the last one with the remainder "keep". A split that is
    smaller than a batch is one smaller batch, also in training.

    From the first call on, the whole process keeps more of the memory that it frees, for what it
    allocates next: large batches are three times faster, and need more memory.

    Args:
      directory: The dataset folder, a path or URL, or what `dataset_info.read` made of it; or
        several folders with their shares of each batch, rounded to whole examples. An epoch then
        has as many examples as all of them; each is read over and over. Vocabularies and scales
        must be the same: that they are as large is all that is checked.
      split: Its name in the manifest.
      batch_size: Examples in a batch, of all hosts.
      options: The rest.

    Returns:
      Batches (features, label), or features alone where the dataset has no label; where it has
      weights, or with the remainder "pad", (features, label, weight), float32 (batch,), 1 where
      there are none and for filling 0. `features` maps names to tensors (batch, *shape) in the
      stored dtype (uint8 images stay uint8, strings are tf.string, image files become uint8); label
      is int64 or float32 (batch,), of a multi_label 0 and 1, float32 (batch, classes), and of
      several labels a dict by name. Of several hosts, batch is this one's part.

    Raises:
      UsageError: No such folder, dataset, split or feature, or an option that makes no sense.
      DatasetError: A shard is missing or has another size than the manifest says. Reading raises
        tf.errors.FailedPreconditionError where the shards do not hold as many examples as the
        manifest says, and tf.errors.DataLossError where a checksum fails; `find_damage` says where.
    """
    infos, shares = _datasets(directory)
    options = _checked(infos, split, batch_size, options)
    infos = [_at_hand(info, split, options.cache) for info in infos]
    columns = checked_columns(infos[0], options)
    for info in infos:
        _check_shards(info, info.split(split).shards)
    _keep_freed_memory()
    sizes = _sizes(batch_size, shares, options.num_hosts)
    for info, size in zip(infos, sizes, strict=True):
        num_examples = info.split(split).num_examples
        if len(infos) > 1 and num_examples < size:
            raise UsageError(
                f"{info.directory}: split {split!r} has {num_examples} examples, fewer than its "
                f"{size} of a batch. Take a smaller share, or a smaller batch size."
            )
    steps = _num_steps(sum(info.split(split).num_examples for info in infos), batch_size, options)
    parts = [
        _Part(_source(info, split, options), size, _steps_of(info, split, size, options))
        for info, size in zip(infos, sizes, strict=True)
    ]
    stream = _Stream(parts, columns, batch_size, steps, options)
    return stream.dataset().prefetch(_READY_BATCHES).with_options(_without_tuning())


def num_steps(info: DatasetInfo, split: str, batch_size: int, options: Options = _DEFAULTS) -> int:
    """Returns the number of batches in an epoch, the same on every host."""
    options = _checked([info], split, batch_size, options)
    return _num_steps(info.split(split).num_examples, batch_size, options)


def find_damage(info: DatasetInfo, split: str) -> str | None:
    """Says which shard of a split is damaged, and where; None: no one is.

    tf.data's errors name no file. This reads all shards up to the damage, on a disk; what an
    object store holds was checked when it was copied.
    """
    if object_stores.is_remote(info.directory):
        return None
    compression = "GZIP" if info.compression == "gzip" else ""
    for shard in info.split(split).shards:
        path, count = info.path(shard), 0
        examples = tf.data.TFRecordDataset(path, compression_type=compression)
        try:
            for batch in examples.batch(_SEARCHED_TOGETHER):
                count += len(batch)
        except tf.errors.NotFoundError:
            return f"{path}: is missing"
        except tf.errors.DataLossError:
            if count >= shard.num_examples:
                return f"{path}: is damaged behind its last record"
            last = min(count + _SEARCHED_TOGETHER, shard.num_examples) - 1
            return f"{path}: one of the records {count} to {last} is damaged"
        if count != shard.num_examples:
            return f"{path}: must hold {shard.num_examples} examples, but holds {count}"
    return None


class _Part(NamedTuple):
    """One of the datasets of a mixture, or the only one.

    `batch_size` is what it gives to a batch of all hosts, `num_steps` how often it can do so until
    its own epoch is over.
    """

    source: Source
    batch_size: int
    num_steps: int


class _Stream:
    """The batches of one or more datasets, and where each stands."""

    def __init__(
        self,
        parts: Sequence[_Part],
        columns: Sequence[Feature],
        batch_size: int,
        num_steps: int,
        options: Options,
    ):
        self._parts = parts
        self._columns = columns
        self._batch_size = batch_size
        self._num_steps = num_steps
        self._options = options
        self._remainder = str(options.remainder)
        self._passes = itertools.count(options.epoch)
        self._augmenter = _augmenter(parts[0].source, columns, batch_size, options)

    def dataset(self) -> tf.data.Dataset:
        """Returns parsed batches."""
        options = self._options
        if options.epochs is not None:
            done = options.epoch * self._num_steps + options.step
            count = max(0, options.epochs * self._num_steps - options.step)
            numbers = tf.data.Dataset.from_tensors(tf.constant(done, tf.int64))
        else:
            count = self._num_steps
            numbers = tf.data.Dataset.from_tensors(0).map(self._next_pass)
        batches = numbers.flat_map(lambda done: self._serialized(done).take(count))
        return batches.map(
            self._parsed, num_parallel_calls=_PARSED_TOGETHER, deterministic=True
        ).apply(tf.data.experimental.assert_cardinality(count))

    def _next_pass(self, _: tf.Tensor) -> tf.Tensor:
        """Returns the number of the first batch of the next epoch, each time it is asked."""
        size = self._num_steps
        number = tf.numpy_function(lambda: np.int64(next(self._passes) * size), [], tf.int64)
        return tf.ensure_shape(number, ())

    def _serialized(self, done: tf.Tensor) -> tf.data.Dataset:
        """Reads on without end after `done` batches: (number of the batch, serialized examples)."""
        if not self._num_steps:
            return tf.data.Dataset.from_tensors((done, tf.zeros((0,), tf.string))).take(0)
        streams = tuple(
            part.source.batches(
                part.batch_size,
                part.num_steps,
                done // part.num_steps,
                done % part.num_steps,
                self._remainder,
            )
            for part in self._parts
        )
        together = tf.data.Dataset.zip(streams).map(lambda *found: tf.concat(found, 0))
        return (streams[0] if len(streams) == 1 else together).enumerate(done)

    def _parsed(self, number: tf.Tensor, serialized: tf.Tensor) -> Any:
        """Parses a batch."""
        options = self._options
        size = tf.shape(serialized, tf.int64)[0]
        places = number * self._batch_size + options.host + options.num_hosts * tf.range(size)
        seeds = None
        if options.training:
            seeds = tf.stack([tf.fill([size], tf.constant(options.seed, tf.int64)), places], 1)
        info = self._parts[0].source.info
        features, label, weight = parsing.parse(
            serialized, self._columns, info, options.crop, seeds
        )
        if self._augmenter:
            features, label = self._augmenter(features, label, number)
        if self._remainder == "pad":
            in_epoch = places % (self._num_steps * self._batch_size)
            is_real = in_epoch < self._parts[0].source.split.num_examples
            real = tf.cast(tf.ensure_shape(is_real, serialized.shape), tf.float32)
            weight = real if weight is None else real * weight
        if weight is not None:
            return features, label, weight
        return features if label is None else (features, label)


def _datasets(directory: Directory | Mapping[str, float]) -> tuple[list[DatasetInfo], list[float]]:
    """Returns the datasets and their shares.

    Raises:
      UsageError: They do not fit together, or a share is not above 0.
    """
    if not isinstance(directory, Mapping):
        return [_read(directory)], [1.0]
    if not directory:
        raise UsageError("there must be at least one dataset to read.")
    infos, shares = [_read(name) for name in directory], list(directory.values())
    for name, share in directory.items():
        if not 0 < share < math.inf:
            raise UsageError(f"{name}: its share must be above 0, but is {share}.")
    for info in infos[1:]:
        if _form(info) != _form(infos[0]):
            raise UsageError(
                f"{info.directory}: its features and label must be those of {infos[0].directory}, "
                "down to vocabularies' sizes and normalization, but differ."
            )
    return infos, shares


def _read(directory: Directory) -> DatasetInfo:
    return directory if isinstance(directory, DatasetInfo) else dataset_info.read(directory)


def _at_hand(info: DatasetInfo, split: str, cache: str | None) -> DatasetInfo:
    """Returns the dataset, or its copy in the cache."""
    if cache is not None:
        return _cached(info.directory, split, cache, _Hashed(info))
    if info.directory.startswith("s3://"):
        raise UsageError(
            f"{info.directory}: TensorFlow cannot read s3://. Give a folder where the shards are "
            "copied: Options(cache=FOLDER), or --cache FOLDER."
        )
    return info


class _Hashed(NamedTuple):
    """A dataset as an argument that `functools.cache` takes."""

    info: DatasetInfo

    def __hash__(self) -> int:
        """Two of one name are compared."""
        return hash(self.info.name)


@functools.cache
def _cached(directory: str, split: str, folder: str, hashed: _Hashed) -> DatasetInfo:
    """Copies a split, once in a process: a look at what is there already reads all of it."""
    return remote.cached(hashed.info, split, folder)


def _form(info: DatasetInfo) -> Any:
    """Returns what two datasets must have in common."""
    features = {
        f.name: (f.dtype, f.shape, f.stored_as, f.num_categories, f.normalization)
        for f in info.features.values()
    }
    labels = {n: (label.dtype, label.type, label.classes) for n, label in info.targets.items()}
    return features, labels, info.has_weight


def _checked(
    infos: Sequence[DatasetInfo], split: str, batch_size: int, options: Options
) -> Options:
    """Fills in what was left open.

    Raises:
      UsageError: The options make no sense.
    """
    num_examples = sum(info.split(split).num_examples for info in infos)
    training = split == "train" if options.training is None else options.training
    alone = "drop" if training else "keep" if options.num_hosts == 1 else "pad"
    remainder = options.remainder or alone
    rules = [
        (batch_size >= 1, f"the batch size must be at least 1, but is {batch_size}"),
        (options.num_hosts >= 1, f"num_hosts must be at least 1, but is {options.num_hosts}"),
        (
            0 <= options.host < max(options.num_hosts, 1),
            f"host must be from 0 to {options.num_hosts - 1}, but is {options.host}",
        ),
        (
            batch_size % max(options.num_hosts, 1) == 0,
            f"the batch size must be a multiple of the {options.num_hosts} hosts, but is "
            f"{batch_size}",
        ),
        (
            remainder in ("drop", "keep", "pad"),
            f"remainder must be 'drop', 'keep' or 'pad', but is {remainder!r}",
        ),
        (
            options.num_hosts == 1 or remainder != "keep",
            "a smaller last batch cannot be shared by hosts: remainder must be 'drop' or 'pad'",
        ),
        (
            options.num_hosts == 1 or remainder == "pad" or num_examples >= batch_size,
            f"{infos[0].directory}: split {split!r} has {num_examples} examples, fewer than a "
            f"batch of {batch_size}: take a smaller batch size",
        ),
        (len(infos) == 1 or remainder == "drop", "several datasets need the remainder 'drop'"),
        (options.epoch >= 0, f"epoch must be at least 0, but is {options.epoch}"),
        (options.step >= 0, f"step must be at least 0, but is {options.step}"),
        (
            not options.step or options.epochs is not None,
            f"step is {options.step}, but epochs is None: say how many passes to make",
        ),
        (
            options.epochs is None or options.epochs >= 0,
            f"epochs must be at least 0, but is {options.epochs}",
        ),
        (
            options.sampling is None or training,
            f"sampling is for training, but split {split!r} is read for evaluation: leave it out",
        ),
        (
            options.augmentation is None or training,
            f"augmentation is for training, but split {split!r} is read for evaluation: leave it "
            "out",
        ),
        (
            isinstance(options.augmentation, Augmentation | None),
            f"augmentation must be an Augmentation, but is {options.augmentation!r}: "
            "trainer.augmentation.read takes a file",
        ),
    ]
    for is_met, rule in rules:
        if not is_met:
            raise UsageError(f"{rule}.")
    seed = (options.seed + 2**63) % 2**64 - 2**63  # What int64 can hold.
    return dataclasses.replace(options, training=training, remainder=remainder, seed=seed)


def _num_steps(num_examples: int, batch_size: int, options: Options) -> int:
    if options.remainder == "drop":  # A split smaller than a batch is not dropped.
        return num_examples // batch_size or min(1, num_examples)
    return -(-num_examples // batch_size)


def _sizes(batch_size: int, shares: Sequence[float], num_hosts: int) -> list[int]:
    """Returns what each dataset gives to a batch, by the largest remainders.

    Raises:
      UsageError: One would give nothing, or what the hosts cannot share.
    """
    exact = [batch_size * share / sum(shares) for share in shares]
    sizes = [int(size) for size in exact]
    by_rest = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for index in by_rest[: batch_size - sum(sizes)]:
        sizes[index] += 1
    if 0 in sizes:
        raise UsageError(
            f"a batch of {batch_size} is too small for the shares {list(shares)}. Take a larger "
            "one."
        )
    if any(size % num_hosts for size in sizes):
        raise UsageError(
            f"of a batch of {batch_size}, the shares {list(shares)} are {sizes} examples, but must "
            f"be multiples of the {num_hosts} hosts. Take another batch size or other shares."
        )
    return sizes


def _steps_of(info: DatasetInfo, split: str, batch_size: int, options: Options) -> int:
    """Returns how many batches a dataset gives until its own epoch is over."""
    return max(1, _num_steps(info.split(split).num_examples, batch_size, options))


def _source(info: DatasetInfo, split: str, options: Options) -> Source:
    return records.source(
        info,
        info.split(split),
        seed=options.seed if options.training else None,
        host=options.host,
        num_hosts=options.num_hosts,
        sampling=options.sampling,
    )


def _augmenter(
    source: Source, columns: Sequence[Feature], batch_size: int, options: Options
) -> Augmenter | None:
    if options.augmentation is None:
        return None
    return Augmenter(
        options.augmentation,
        source.info,
        source.split.name,
        columns,
        seed=options.seed,
        batch_size=batch_size,
        host=options.host,
        num_hosts=options.num_hosts,
    )


def _without_tuning() -> tf.data.Options:
    """Returns options without tf.data's tuner: the end of a pass waits 0.1 to 0.6 s for it.

    They hold for what a caller maps afterwards, too: AUTOTUNE then means a call a core.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


@functools.cache
def _keep_freed_memory() -> None:
    """Has malloc hand what was freed to the next batch, and not back to the system.

    By default it maps blocks above 32 MB (54 images 224x224x3 as float32) anew each time, and the
    kernel then takes longer to clear their pages than the pipeline takes to fill them: measured at
    64 such images a batch, 3,200 images/s instead of 11,000. It costs up to 1.5 GB of memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # Only glibc has it.
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def checked_columns(info: DatasetInfo, options: Options) -> list[Feature]:
    """Returns the features to read.

    Raises:
      UsageError: The dataset has not all of them, or they cannot be cropped or augmented so.
    """
    columns = _columns(info, options.features)
    if options.crop is not None or options.augmentation is not None:
        _check_followers(info, columns)
    dataclasses.replace(info, features={c.name: c for c in columns}).cropped(options.crop)
    if options.augmentation is not None:
        augmented_batches.check(options.augmentation, info, columns)
    return columns


def _columns(info: DatasetInfo, names: Sequence[str] | None) -> list[Feature]:
    """Returns the features of those names, or all."""
    if names is None:
        return list(info.features.values())
    unknown = [name for name in names if name not in info.features]
    if unknown:
        raise UsageError(
            f"{info.directory}: there is no feature {unknown[0]!r}; the features are "
            f"{', '.join(info.features)}."
        )
    return [info.features[name] for name in names]


def _check_followers(info: DatasetInfo, columns: Sequence[Feature]) -> None:
    """Raises a UsageError for masks, boxes and classes of these without what decides about them."""
    names = {column.name for column in columns}
    for column in columns:
        if column.of is not None and column.of not in names:
            raise UsageError(
                f"{info.directory}: {column.name!r} goes where {column.of!r} goes, which is not "
                "read. Read it, too."
            )


def _check_shards(info: DatasetInfo, shards: Sequence[Shard]) -> None:
    """Raises DatasetError for the first shard that is not there with the size in the manifest."""

    def fault(shard: Shard) -> str | None:
        try:
            size = tf.io.gfile.stat(info.path(shard)).length
        except tf.errors.NotFoundError:
            return f"{info.path(shard)}: is missing"
        except tf.errors.OpError as error:
            return f"{info.path(shard)}: cannot be read: {str(error.message).strip()}"
        if size != shard.bytes:
            return f"{info.path(shard)}: must have {shard.bytes} bytes, but has {size}"
        return None

    with concurrent.futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        faults = [found for found in pool.map(fault, shards) if found]
    if faults:
        raise DatasetError(
            f"{faults[0]} ({len(faults)} of {len(shards)} shards are damaged). "
            "Run `headrace run` with --overwrite."
        )
