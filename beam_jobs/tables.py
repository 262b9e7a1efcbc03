"""What the stages of a table's job do to a unit of work; no Beam in here."""

import dataclasses
import functools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from beam_jobs import (
    analysis,
    dataset_info,
    examples,
    keys,
    preprocessing,
    progress,
    rows,
    saved_transform,
    shuffle,
    splits,
)
from beam_jobs.analysis import Statistics
from beam_jobs.config import SPLITS, Spec
from beam_jobs.errors import DataError
from beam_jobs.job import Job, ShardResult, check_readable
from beam_jobs.rows import Outcome, Plan, Records
from beam_jobs.saved_transform import SavedTransform
from beam_jobs.shards import ShardWriter, frame_records
from beam_jobs.shuffle import Place, Spill
from beam_jobs.sources import csv_files
from beam_jobs.sources.csv_files import Unit
from beam_jobs.summaries import Numbers, Summary, Texts, summarize

_WRITE_BYTES = 1 << 20  # Of columns, encoded together; as Examples they are several times as large.


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the first pass found out.

    Attributes:
      summary: Counts and sums.
      statistics: What each feature's transform needs.
      classes: The names behind the label's indices.
      num_shards: Of each split.
      num_buckets: Buckets of a shard in the shuffle, for each split.
    """

    summary: Summary
    statistics: Statistics
    classes: tuple[str, ...]
    num_shards: Mapping[str, int]
    num_buckets: Mapping[str, int]

    @property
    def places(self) -> list[Place]:
        """All shards, those without a record among them."""
        return [Place(split, i) for split, count in self.num_shards.items() for i in range(count)]


def outcomes(unit: Unit, plan: Plan, stage: str) -> Iterator[Outcome]:
    """Reads the blocks of a unit.

    Args:
      unit: What to read.
      plan: What the spec says of it.
      stage: What it is read for, to be shown.

    Raises:
      DataError: A file changed, or an SQL expression fails on a value.
    """
    path = unit.file.path
    for block, text in csv_files.texts(unit):
        where = f"{path}:{block.first_line}"
        outcome = rows.read_block(
            text, unit.columns, block.first_line, unit.file.split, plan, where
        )
        progress.count(stage, len(text), outcome.num_read)
        yield outcome


def summarize_unit(unit: Unit, plan: Plan, job: Job) -> Iterator[Summary]:
    """Yields what a unit contributes to the statistics, and writes what it rejects."""
    lines = []
    for outcome in outcomes(unit, plan, "statistics"):
        progress.count("statistics", 0, rejected=outcome.rejected.num_rows)
        if outcome.rejected.num_rows:
            rejected = rows.with_source(outcome.rejected, unit.file.path)
            lines.append(rows.rejected_lines(rejected))
        yield summarize(outcome, plan.spec)
    job.write_rejected(f"{unit.index:05d}.jsonl", b"".join(lines))


def analyze(summary: Summary, job: Job) -> Analysis:
    """Turns the sums into statistics, and plans the shards.

    Raises:
      DataError: Too much could not be read, train is empty, or a feature has no value there.
    """
    spec = job.spec
    check_readable(summary.read, summary.rejected, spec, job.output)
    statistics = analysis.analyze(spec, summary)
    names = splits.split_names(spec)
    size = _example_bytes(spec, statistics, summary)
    counts = {split: summary.num_examples.get(split, 0) for split in names}
    num_shards = {split: job.num_shards(count, size) for split, count in counts.items()}
    width = 8 * (len(spec.columns) + 4) + _text_bytes(spec, summary)
    needed = sum(counts.values()) * width
    if job.temp_folder is not None:
        shuffle.check_space(job.temp_folder, 2 * needed)
    num_buckets = {
        split: shuffle.num_buckets(count, num_shards[split], width)
        for split, count in counts.items()
    }
    classes = tuple(sorted(summary.classes, key=str.encode))
    return Analysis(summary, statistics, classes, num_shards, num_buckets)


def _text_bytes(spec: Spec, summary: Summary) -> int:
    """Returns the mean bytes of the texts that a record stores, rounded up."""
    total = 0
    for feature in spec.columns.values():
        if analysis.output_dtype(feature) == "string":
            texts = [summary.columns.get((split, str(feature.column))) for split in SPLITS]
            total += sum(text.bytes for text in texts if isinstance(text, Texts))
    return -(-total // max(1, sum(summary.num_examples.values())))


def _example_bytes(spec: Spec, statistics: Statistics, summary: Summary) -> int:
    """Returns how much an example takes: at most, but for texts, which count by their mean."""
    sizes = {}
    for name, feature in spec.columns.items():
        dtype, found = analysis.output_dtype(feature), statistics[name]
        sizes[name] = {"float32": 4, "string": 0, "int64": 10}[dtype]
        categories = analysis.num_categories(feature, found)
        if categories is not None:
            sizes[name] = examples.varint_bytes(categories - 1)
        elif dtype == "int64" and isinstance(found.raw, Numbers):
            low, high = found.raw.min or 0, found.raw.max or 0
            sizes[name] = max(examples.varint_bytes(int(low)), examples.varint_bytes(int(high)))
        if feature.indicator:
            sizes[f"{name}_missing"] = 1
    if spec.label:
        is_class = spec.label.type == "class"
        sizes["label"] = examples.varint_bytes(len(summary.classes)) if is_class else 10
    return examples.max_bytes(sizes) + _text_bytes(spec, summary)


def trace_transform(found: Analysis, job: Job) -> SavedTransform:
    """Returns the transform_fn of the statistics."""
    return saved_transform.trace(
        functools.partial(preprocessing.preprocessing_fn, job.spec),
        preprocessing.feature_spec(job.spec),
        found.statistics,
    )


def apply_transform_fn(
    transform: SavedTransform, raw: pa.RecordBatch, spec: Spec
) -> dict[str, pa.Array]:
    """Applies a saved transform_fn to raw columns.

    Every feature of a spec comes from one column, value by value, so that distinct values are
    transformed once and the results put back in place.

    Args:
      transform: What TFT saved.
      raw: float32, int64 and string columns, null where missing.
      spec: The spec.

    Returns:
      The stored features: float32, int64 and string.
    """
    encoded = {name: _distinct(raw.column(name)) for name in raw.schema.names}
    num_rows = 1 + max(len(values) for values, _ in encoded.values())  # One more: missing.
    sparse = preprocessing.sparse_columns(spec)
    inputs = {
        name: _tensor(values, num_rows, name in sparse) for name, (values, _) in encoded.items()
    }
    outputs = transform.load().transform_fn(inputs)
    stored = {}
    for name, feature in spec.columns.items():
        for output in (name, f"{name}_missing") if feature.indicator else (name,):
            values = pa.array(outputs[output].numpy())
            if values.type == pa.binary():
                values = values.cast(pa.string())
            codes = encoded[str(feature.column)][1]
            stored[output] = values.take(codes)
    return stored


def _distinct(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Returns the distinct values, and for each record its value's position; missing comes last."""
    bits = column.view(pa.int32()) if column.type == pa.float32() else column  # -0 is not 0.
    encoded = bits.dictionary_encode()
    values = encoded.dictionary
    if column.type == pa.float32():
        values = values.view(pa.float32())
    return values, pc.fill_null(encoded.indices, pa.scalar(len(values), pa.int32()))


def _tensor(values: pa.Array, num_rows: int, is_sparse: bool) -> Any:
    """Returns (num_rows,) or, sparse, (num_rows, 1): the values, and missing ones behind them."""
    array = values.to_numpy(zero_copy_only=False)
    dtype = tf.string if values.type == pa.string() else tf.as_dtype(array.dtype)
    if is_sparse:
        indices = np.stack([np.arange(len(array)), np.zeros(len(array), np.int64)], axis=1)
        return tf.SparseTensor(indices, tf.constant(array, dtype, [len(array)]), [num_rows, 1])
    padding = np.full(num_rows - len(array), "" if dtype == tf.string else 0, array.dtype)
    return tf.constant(np.concatenate([array, padding]), dtype)


def place_unit(
    unit: Unit, plan: Plan, job: Job, found: Analysis, transform: SavedTransform
) -> Iterator[tuple[Place, pa.RecordBatch]]:
    """Yields the transformed records of a unit by shard, with the columns of `keys.with_hashes`."""
    for outcome in outcomes(unit, plan, "transforming"):
        if outcome.kept.raw.num_rows:
            batch = _transformed(outcome.kept, job.spec, found, transform)
            yield from _by_place(batch, outcome.kept, job, found)


def spill_unit(
    unit: Unit, plan: Plan, job: Job, found: Analysis, transform: SavedTransform, spill: Spill
) -> Iterator[int]:
    """Transforms the records of a unit, spills them by shard, and counts them."""
    for place, batch in place_unit(unit, plan, job, found, transform):
        spill.write(place, batch, _buckets(place, batch, found))
        yield batch.num_rows


def _buckets(place: Place, batch: pa.RecordBatch, found: Analysis) -> np.ndarray:
    return shuffle.hash_buckets(keys.hashes_of(batch), found.num_buckets[place.split])


def _transformed(
    records: Records, spec: Spec, found: Analysis, transform: SavedTransform
) -> pa.RecordBatch:
    stored = apply_transform_fn(transform, records.raw, spec)
    for name, column in stored.items():
        if column.type == pa.float32() and not pc.all(pc.is_finite(column)).as_py():
            raise DataError(
                f"features.{name}: a value becomes NaN or infinite as float32 after "
                f"{' and '.join(spec.columns[name].transforms)}. Filter such records out."
            )
    if records.label is not None:
        label = records.label
        if spec.label and spec.label.type == "class":
            label = pc.index_in(label, pa.array(found.classes, pa.string())).cast(pa.int64())
        stored["label"] = label
    batch = pa.record_batch(list(stored.values()), list(stored))
    return keys.with_hashes(batch, records.hashed)


def _by_place(
    batch: pa.RecordBatch, records: Records, job: Job, found: Analysis
) -> Iterator[tuple[Place, pa.RecordBatch]]:
    for split, count in found.num_shards.items():
        is_here = records.splits == SPLITS.index(split)
        hashed = records.hashed[is_here]
        if not hashed.size:
            continue
        here = batch.filter(pa.array(is_here))
        for shard, part in shuffle.groups(here, keys.shard_indices(hashed, count)):
            place = Place(split, shard)
            if job.shard_name(place, count) not in job.finished:
                yield place, part


def write_gathered(
    place: Place, batches: Iterable[pa.RecordBatch], job: Job, found: Analysis
) -> ShardResult:
    """Writes a shard of batches in any order, which spill on this worker's own disk."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        spill = Spill(folder)
        for batch in batches:
            spill.write(place, batch, _buckets(place, batch, found))
        return write_shard(place, job, found, spill)


def write_shard(place: Place, job: Job, found: Analysis, spill: Spill) -> ShardResult:
    """Writes the records of a shard in their order; a shard that is finished stays as it is."""
    count = found.num_shards[place.split]
    name = job.shard_name(place, count)
    if name in job.finished:
        return job.result(name)
    labels: Counter[int] = Counter()
    with ShardWriter(job.output, name, job.spec.output.compression) as writer:
        for batch in shuffle.ordered(spill, place, found.num_buckets[place.split]):
            step = max(1, _WRITE_BYTES * batch.num_rows // max(batch.nbytes, 1))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                encoded = examples.encode(_columns(part))
                writer.write(frame_records(encoded), len(encoded))
            if found.classes:
                values, counts = np.unique(batch.column("label").to_numpy(), return_counts=True)
                labels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        info = job.publish(writer)
    classes = {found.classes[index]: number for index, number in sorted(labels.items())}
    result = ShardResult(place, info, classes)
    job.save(result)
    return result


def _columns(batch: pa.RecordBatch) -> dict[str, Any]:
    return {
        name: column if pa.types.is_string(column.type) else column.to_numpy()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def feature_entries(spec: Spec, statistics: Statistics) -> dict[str, Any]:
    """Returns what the manifest says of each stored feature."""
    entries: dict[str, Any] = {}
    for name, feature in spec.columns.items():
        found = statistics[name]
        entry = dataset_info.column_entry(
            feature, analysis.output_dtype(feature), analysis.num_categories(feature, found)
        )
        entry["raw_statistics"] = analysis.raw_statistics(found.raw)
        if found.seen is not None and feature.last_step is not None:
            entry["statistics"] = analysis.seen_statistics(found.seen)
        if found.fill is not None and feature.missing in ("mean", "median"):
            entry["missing_value"] = found.fill
        if found.edges is not None:
            entry["edges"] = found.edges.tolist()
        entries[name] = entry
        if feature.indicator:
            entries[f"{name}_missing"] = {
                "dtype": "int64",
                "shape": [],
                "stored_as": "int64_list",
                "normalized": False,
            }
    return entries
