"""From a dataset folder to a `tf.data.Dataset` that `model.fit` takes as it is."""

import concurrent.futures
import ctypes
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer import dataset_info
from trainer.dataset_info import LABEL, DatasetInfo, Feature, Shard
from trainer.errors import DatasetError, UsageError

_MAX_OPEN_SHARDS = 16
_SHUFFLE_BUFFER_BYTES = 64 << 20
_MAX_SHUFFLE_BUFFER = 100_000  # Examples. The shards are shuffled already: more buys nothing.
_STAT_THREADS = 16  # One look at an object store takes some 50 ms.
_PARSED_TOGETHER = min(16, os.cpu_count() or 1)  # Batches.
_READY_BATCHES = 2
_KEPT_BYTES = 256 << 20
_LARGEST_BLOCK_BYTES = 1 << 30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # As in glibc's malloc.h.


def load(
    directory: str | os.PathLike | DatasetInfo,
    split: str,
    batch_size: int,
    *,
    training: bool | None = None,
    seed: int = 0,
    features: Sequence[str] | None = None,
) -> tf.data.Dataset:
    """Reads a split of a dataset as batches.

    In training the order is another one in every pass over the dataset, and a function of the
    seed (and of `tf.random.set_seed`, where that was called): the shards are shuffled, read
    together, and their examples shuffled in a buffer. Otherwise it is the order of the manifest.

    In training, a rest smaller than a batch is left out of each pass (another rest each time), so
    that every batch has one shape, unless the whole split is smaller than a batch; otherwise
    nothing is left out.

    From the first call on, the whole process keeps more of the memory that it frees, for what it
    allocates next: large batches are three times faster, and need more memory.

    Args:
      directory: The dataset folder, a path or URL, or what `dataset_info.read` made of it.
      split: Its name in the manifest.
      batch_size: Examples a batch.
      training: Whether to shuffle; None means: if the split is `train`.
      seed: Decides the order in training.
      features: The names of those to read; None means all.

    Returns:
      Batches (features, label), or features alone where the dataset has no label. `features` maps
      names to tensors (batch, *shape) in the stored dtype (uint8 images stay uint8, strings are
      tf.string); label is int64 or float32 (batch,).

    Raises:
      UsageError: No such folder, dataset, split or feature, or a batch size under 1.
      DatasetError: A shard is missing or has another size than the manifest says. Reading raises
        tf.errors.FailedPreconditionError where the shards do not hold as many examples as the
        manifest says, and tf.errors.DataLossError where a checksum fails.
    """
    info = directory if isinstance(directory, DatasetInfo) else dataset_info.read(directory)
    chosen = info.split(split)
    columns = _columns(info, features)
    if batch_size < 1:
        raise UsageError(f"the batch size must be at least 1, but is {batch_size}.")
    _check_shards(info, chosen.shards)
    _keep_freed_memory()
    shards = [shard for shard in chosen.shards if shard.num_examples]
    training = split == "train" if training is None else training
    if training:
        examples = _shuffled(info, shards, columns, seed)
    else:
        examples = _read(info, [info.path(shard) for shard in shards])
    # A shard cut at the end of a record just ends: only the number tells.
    examples = examples.apply(tf.data.experimental.assert_cardinality(chosen.num_examples))
    drop = training and chosen.num_examples >= batch_size
    batches = examples.batch(batch_size, drop_remainder=drop)
    return (
        batches.map(
            lambda serialized: _parse(serialized, columns, info),
            num_parallel_calls=_PARSED_TOGETHER,
            deterministic=True,
        )
        .prefetch(_READY_BATCHES)
        .with_options(_without_tuning())
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


def _check_shards(info: DatasetInfo, shards: Sequence[Shard]) -> None:
    """Raises DatasetError for the first shard that is not there with the size in the manifest."""

    def fault(shard: Shard) -> str | None:
        try:
            size = tf.io.gfile.stat(info.path(shard)).length
        except tf.errors.OpError:
            return f"{info.path(shard)}: is missing"
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


def _read(info: DatasetInfo, files: Any) -> tf.data.Dataset:
    """Reads files one after the other: scalar tf.string, one serialized example."""
    compression = "GZIP" if info.compression == "gzip" else ""
    return tf.data.TFRecordDataset(files, compression_type=compression)


def _shuffled(
    info: DatasetInfo, shards: Sequence[Shard], columns: Sequence[Feature], seed: int
) -> tf.data.Dataset:
    """Reads shards together, in an order that differs from pass to pass."""
    files = tf.data.Dataset.from_tensor_slices([info.path(shard) for shard in shards] or [""])
    files = files.take(len(shards))
    # Shards first: examples of one shard stay close together in the buffer below.
    files = files.shuffle(max(len(shards), 1), seed=seed, reshuffle_each_iteration=True)
    num_open = min(max(len(shards), 1), _MAX_OPEN_SHARDS)
    examples = files.interleave(
        lambda file: _read(info, file),
        cycle_length=num_open,
        num_parallel_calls=num_open,
        deterministic=True,
    )
    buffer = _shuffle_buffer(sum(shard.num_examples for shard in shards), columns)
    return examples.shuffle(buffer, seed=seed, reshuffle_each_iteration=True)


def _shuffle_buffer(num_examples: int, columns: Sequence[Feature]) -> int:
    """Returns how many examples to hold, by their size in memory."""
    example_bytes = sum(32 + math.prod(c.shape) * tf.dtypes.as_dtype(c.dtype).size for c in columns)
    held = min(_SHUFFLE_BUFFER_BYTES // max(example_bytes, 1), _MAX_SHUFFLE_BUFFER)
    return max(1, min(num_examples, held))


def _parse(serialized: tf.Tensor, columns: Sequence[Feature], info: DatasetInfo) -> Any:
    """Parses a batch: tf.string (batch,) -> (features, label) or features."""
    spec = {column.name: _spec(column) for column in columns}
    if info.label:
        spec[LABEL] = tf.io.FixedLenFeature([], info.label.dtype)
    values = tf.io.parse_example(serialized, spec)
    features = {column.name: _tensor(values[column.name], column) for column in columns}
    return (features, values[LABEL]) if info.label else features


def _spec(feature: Feature) -> tf.io.FixedLenFeature:
    if feature.stored_as in ("raw", "bytes_list"):
        shape = () if feature.stored_as == "raw" else feature.shape
        return tf.io.FixedLenFeature(shape, tf.string)
    stored = tf.float32 if feature.stored_as == "float_list" else tf.int64
    return tf.io.FixedLenFeature(feature.shape, stored)


def _tensor(values: tf.Tensor, feature: Feature) -> tf.Tensor:
    """Returns stored values as (batch, *shape) in the feature's dtype."""
    if feature.stored_as != "raw":
        return values
    flat = tf.io.decode_raw(values, tf.dtypes.as_dtype(feature.dtype))
    flat = tf.ensure_shape(flat, (None, math.prod(feature.shape)))
    return tf.reshape(flat, (values.shape[0] or -1, *feature.shape))
