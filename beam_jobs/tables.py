"""What the stages of a table's job do to a unit of work; no Beam in here."""

import dataclasses
import functools
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
    labels,
    novelty,
    preprocessing,
    progress,
    rows,
    saved_transform,
    shuffle,
    spilled_tokens,
    splits,
    steps,
    strata,
    text,
    tft_functions,
    vector_graph,
    vectors,
)
from beam_jobs.analysis import FeatureStatistics, Statistics
from beam_jobs.config import (
    LABEL,
    SPLITS,
    WEIGHT,
    Column,
    Date,
    Sparse,
    Spec,
    Tabular,
    Text,
    Vector,
)
from beam_jobs.errors import DataError
from beam_jobs.job import Job, ShardResult, check_any_left, check_readable
from beam_jobs.rows import Outcome, Plan, Records
from beam_jobs.saved_transform import SavedTransform
from beam_jobs.shards import ShardWriter, frame_records, framed_sizes
from beam_jobs.shuffle import Place, Spill
from beam_jobs.sources import formats
from beam_jobs.sources.blocks import Unit
from beam_jobs.splits import Strata
from beam_jobs.strata import Keys
from beam_jobs.summaries import Numbers, Summary, Texts, summarize


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the first pass found out.

    Attributes:
      summary: Counts and sums, but for those that the statistics were made of.
      statistics: What each feature's transform needs.
      classes: Of each label the names behind its indices.
      num_shards: Of each split.
      num_buckets: Buckets of a shard in the shuffle, for each split.
      strata: Where a stratified split cuts the classes.
    """

    summary: Summary
    statistics: Statistics
    classes: Mapping[str, tuple[str, ...]]
    num_shards: Mapping[str, int]
    num_buckets: Mapping[str, int]
    strata: Strata | None = None

    @property
    def num_examples(self) -> int:
        """Of all splits."""
        return sum(self.summary.num_examples.values())

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
    source = plan.spec.source
    for structure in formats.of(source).read(unit, source):
        outcome = rows.read_block(structure, plan)
        progress.count(stage, structure.num_bytes, outcome.num_read)
        del structure  # As large as the block: what is left of it is in the outcome.
        yield outcome


def save_keys(unit: Unit, plan: Plan, job: Job) -> Iterator[Keys]:
    """Yields what a stratified split has to know of a unit's records."""
    for outcome in outcomes(unit, plan, "stratifying"):
        kept = outcome.kept
        if kept.keyed is not None:
            yield strata.save(kept.beside[LABEL], kept.keyed, job.shared_folder)


def summarize_unit(
    unit: Unit, plan: Plan, job: Job, cut: Strata | None = None
) -> Iterator[Summary]:
    """Yields what a unit contributes to the statistics, and writes what it rejects."""
    lines = []
    for outcome in outcomes(unit, dataclasses.replace(plan, strata=cut), "statistics"):
        progress.count("statistics", 0, rejected=outcome.rejected.num_rows)
        if outcome.rejected.num_rows:
            lines.append(rows.rejected_lines(outcome.rejected))
        yield _summary(outcome, job)
    job.write_rejected(f"{unit.index:05d}.jsonl", b"".join(lines))


def _summary(outcome: Outcome, job: Job) -> Summary:
    earlier = job.earlier
    if earlier is None:
        summary = summarize(outcome, job.spec)
        if job.temp_folder is None:
            return summary
        return spilled_tokens.spill(summary, job.spec, job.temp_folder)
    kept = outcome.kept
    summary = summarize(outcome, job.spec, learns=False)
    apply = functools.partial(_applied, earlier.transform, kept.raw, job.spec)
    new = novelty.count(kept, job.spec, earlier, apply)
    return dataclasses.replace(summary, novelty=new)


def analyze(summary: Summary, job: Job, cut: Strata | None = None) -> Analysis:
    """Turns the sums into statistics, and plans the shards.

    Raises:
      DataError: Too much could not be read, train is empty, or a feature has no value there.
    """
    spec, earlier = job.spec, job.earlier
    check_readable(summary.read, summary.rejected, spec, job.output)
    names = splits.split_names(spec, summary.num_examples)
    if earlier is None:
        if job.temp_folder is not None:
            summary = spilled_tokens.gather(summary, spec, job.temp_folder, job.num_threads)
        statistics: Statistics = analysis.analyze(spec, summary)
        classes = _classes(summary)
        size = _example_bytes(spec, statistics, summary)
    else:
        check_any_left("record", summary.num_examples, summary.read, summary.rejected)
        statistics, size = {}, earlier.example_bytes
        classes = earlier.classes_of(spec)
    counts = {split: summary.num_examples.get(split, 0) for split in names}
    num_shards = {split: job.num_shards(count, size) for split, count in counts.items()}
    width = 8 * (len(spec.columns) + 4) + _text_bytes(spec, summary)
    width += sum(12 * _num_tokens(n, feature, summary) for n, feature in spec.texts.items())
    width += sum(8 * _num_numbers(n, feature, summary) for n, feature in spec.vectors.items())
    width += sum(12 * _num_pairs(feature, summary) for feature in spec.sparse.values())
    needed = sum(counts.values()) * width
    if job.temp_folder is not None:
        shuffle.check_space(job.temp_folder, 2 * needed)
    num_buckets = {
        split: shuffle.num_buckets(count, num_shards[split], width)
        for split, count in counts.items()
    }
    told = summary.without_learned()
    return Analysis(told, statistics, classes, num_shards, num_buckets, cut)


def _classes(summary: Summary) -> dict[str, tuple[str, ...]]:
    classes = {n: tuple(sorted(found, key=str.encode)) for n, found in summary.classes.items()}
    for name, found in classes.items():
        if not found:
            where = name.replace("label/", "labels.")
            raise DataError(f"{where}: no record has a class. Look at its column and separator.")
    return classes


def _text_bytes(spec: Spec, summary: Summary) -> int:
    """Returns the mean bytes of the texts that a record stores, rounded up."""
    total = 0
    for feature in spec.columns.values():
        if feature.output_dtype == "string":
            total += _column_bytes(feature, summary)
    return -(-total // max(1, sum(summary.num_examples.values())))


def _column_bytes(feature: Tabular, summary: Summary) -> int:
    found = [summary.columns.get((split, str(feature.column))) for split in SPLITS]
    return sum(texts.bytes for texts in found if isinstance(texts, Texts))


def _num_tokens(name: str, feature: Text, summary: Summary) -> int:
    """Returns how many values of a text a record stores: at most, but by the mean where sparse."""
    if feature.output_sequence_length is not None:
        return feature.output_sequence_length
    if name in summary.texts:
        counts = summary.texts[name]
        found = counts.counts if counts.documents is None else counts.documents
        return -(-(pc.sum(found).as_py() or 0) // max(1, summary.num_examples["train"]))
    mean = _column_bytes(feature, summary) // max(1, sum(summary.num_examples.values()))
    return (1 + mean // 2) * max(1, len(feature.ngram_widths))  # Every second byte is a space.


def _num_pairs(feature: Sparse, summary: Summary) -> int:
    """Returns how many pairs a record stores, by the mean: at least 4 bytes of its text each."""
    return -(-_column_bytes(feature, summary) // (4 * max(1, sum(summary.num_examples.values()))))


def _num_numbers(name: str, feature: Vector, summary: Summary) -> int:
    """Returns how many numbers of a vector a record stores: of a ragged one the mean."""
    if feature.num_stored is not None:
        return feature.num_stored
    if name in summary.vectors:
        count = summary.vectors[name].numbers[0].moments.count
        return -(-count // max(1, summary.num_examples["train"]))
    found = [summary.columns.get((split, feature.column or name)) for split in SPLITS]
    count = sum(lists.numbers.moments.count for lists in found if lists)
    return -(-count // max(1, sum(summary.num_examples.values())))


def _vector_bytes(name: str, feature: Vector, summary: Summary) -> dict[str, int]:
    """Returns how much a vector takes in an example, by the names of its parts."""
    width = 4
    if feature.dtype == "int64":
        ends = [int(end or 0) for of in summary.vectors[name].numbers for end in (of.min, of.max)]
        width = max(map(examples.varint_bytes, ends))
    sizes = {name: width * _num_numbers(name, feature, summary)}
    return sizes | ({f"{name}{vector_graph.LENGTH}": 3} if feature.is_ragged else {})


def _example_bytes(spec: Spec, statistics: Statistics, summary: Summary) -> int:
    """Returns how much an example takes: at most, but for texts, which count by their mean."""
    sizes: dict[str, int] = {}
    for name, feature in spec.columns.items():
        dtype, found = feature.output_dtype, statistics[name]
        if isinstance(feature, Date):
            sizes |= {
                f"{name}{ending}": 4 if kind == "float32" else 2
                for ending, kind in feature.endings.items()
            }
            continue
        if isinstance(feature, Text):
            sizes |= _list_bytes(name, feature, found, _num_tokens(name, feature, summary))
            continue
        if isinstance(feature, Sparse):
            num_pairs = _num_pairs(feature, summary)
            sizes[f"{name}/indices"] = num_pairs * examples.varint_bytes(feature.size - 1)
            sizes[f"{name}/values"] = 4 * num_pairs
            continue
        sizes[name] = {"float32": 4, "string": 0, "int64": 10}[dtype]
        categories = analysis.num_categories(feature, found)
        if feature.is_sparse:
            del sizes[name]
            sizes |= _list_bytes(name, feature, found, 1)
        elif categories is not None:
            sizes[name] = examples.varint_bytes(categories - 1)
        elif dtype == "int64" and isinstance(found.raw, Numbers):
            low, high = found.raw.min or 0, found.raw.max or 0
            sizes[name] = max(examples.varint_bytes(int(low)), examples.varint_bytes(int(high)))
        if feature.indicator:
            sizes[f"{name}_missing"] = 1
    for name, vector in spec.vectors.items():
        sizes |= _vector_bytes(name, vector, summary)
    for name, cross in spec.crosses.items():
        sizes[name] = examples.varint_bytes(cross.hash_buckets - 1)
    for name, said in spec.beside_features.items():
        sizes[name] = 4 if name == WEIGHT else 10
        if name in summary.classes:
            sizes[name] = examples.varint_bytes(len(summary.classes[name]))
            if said.type == "multi_label":
                sizes[name] *= _mean_classes(name, summary)
    return examples.max_bytes(sizes) + _text_bytes(spec, summary)


def _mean_classes(name: str, summary: Summary) -> int:
    """Returns how many classes of a label a record has in the mean, rounded up."""
    found = [summary.beside[split, name] for split in SPLITS if (split, name) in summary.beside]
    sums = sum(found, Numbers()).moments
    return math.ceil(sums.mean) if sums.count else 0


def _list_bytes(
    name: str, feature: Column | Text, found: FeatureStatistics, num_tokens: int
) -> dict[str, int]:
    """Returns how much the lists of a feature take in an example, by their names."""
    largest = (found.depth or analysis.num_categories(feature, found) or 1) - 1
    indices = num_tokens * examples.varint_bytes(largest)
    if not feature.is_sparse:
        return {name: indices}
    return {f"{name}/indices": indices, f"{name}/values": 4 * num_tokens}


def train_batches(unit: Unit, plan: Plan, found: Analysis) -> Iterator[pa.RecordBatch]:
    """Yields the raw columns of train as TFT takes them."""
    for outcome in outcomes(unit, dataclasses.replace(plan, strata=found.strata), "analysis"):
        raw = outcome.kept.raw.filter(pa.array(outcome.kept.splits == SPLITS.index("train")))
        if raw.num_rows:
            yield tft_functions.to_lists(raw)


def trace_transform(found: Analysis, job: Job) -> SavedTransform:
    """Returns the transform_fn of the statistics, or that of an earlier dataset."""
    text.check(job.spec)  # Imports tensorflow-text where the graph has ops of it.
    if job.earlier is not None:
        return job.earlier.transform
    return saved_transform.trace(
        functools.partial(preprocessing.preprocessing_fn, job.spec),
        preprocessing.feature_spec(job.spec),
        found.statistics,
    )


def apply_transform_fn(
    transform: SavedTransform, raw: pa.RecordBatch, spec: Spec, statistics: Statistics
) -> dict[str, pa.Array]:
    """Applies a saved transform_fn to raw columns.

    Where a feature comes from one column, value by value, distinct values are transformed once and
    the results put back in place. Texts that are split into words go without TensorFlow where they
    can, to the same bits.

    Args:
      transform: What TFT saved.
      raw: float32, int64 and string columns and lists of numbers, null where missing.
      spec: The spec.
      statistics: What transform_fn was traced with, as far as it is known.

    Returns:
      The stored features: float32, int64 and string; of texts and vectors lists of float32 and
      int64.
    """
    if spec.preprocessing_fn is not None:
        return _by_user(transform, raw, spec)
    of_words = {n: f for n, f in spec.texts.items() if f.is_of_words and n in statistics}
    others = [n for n in spec.columns if n not in of_words and n not in spec.of_several]
    if not spec.texts:
        return _applied(transform, raw, spec, others) | _joint(transform, raw, spec)
    stored: dict[str, pa.Array] = {}
    if others or spec.of_several:
        parts = [
            _applied(transform, part, spec, others) | _joint(transform, part, spec)
            for part in text.pieces(raw)
        ]
        stored = {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}
    for name, feature in of_words.items():
        stored |= _named(name, _word_lists(raw, feature, statistics[name]))
    return stored


def _word_lists(
    raw: pa.RecordBatch, feature: Text, found: FeatureStatistics
) -> dict[str, pa.ListArray]:
    column = raw.column(str(feature.column))
    if found.fill is not None:
        column = column.fill_null(found.fill)
    return text.word_lists(column, feature, found.vocabulary or (), found.depth, found.idf)


def _named(name: str, lists: dict[str, pa.ListArray]) -> dict[str, pa.Array]:
    return {f"{name}{ending}": values for ending, values in lists.items()}


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """Values of a column, for each of which transform_fn is asked once.

    Attributes:
      values: Without nulls.
      rows: The row of the batch that each is put into: int64 (len(values),).
      codes: For each record the row whose result it takes; None where it is its own.
    """

    values: pa.Array
    rows: np.ndarray
    codes: pa.Array | None

    @classmethod
    def distinct(cls, column: pa.Array) -> "_Encoded":
        """Takes each distinct value once; missing ones are in the row behind."""
        bits = column.view(pa.int32()) if column.type == pa.float32() else column  # -0 is not 0.
        encoded = bits.dictionary_encode()
        values = encoded.dictionary
        if column.type == pa.float32():
            values = values.view(pa.float32())
        missing = pa.scalar(len(values), pa.int32())
        return cls(values, np.arange(len(values)), pc.fill_null(encoded.indices, missing))

    @classmethod
    def each(cls, column: pa.Array) -> "_Encoded":
        """Takes the values as they are, so that those of several columns meet in a row."""
        present = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        return cls(column.drop_null(), present, None)

    def tensor(self, num_rows: int, is_sparse: bool) -> Any:
        """Returns (num_rows,) or, sparse, (num_rows, 1); what is not there is missing."""
        array = self.values.to_numpy(zero_copy_only=False)
        dtype = tf.string if self.values.type == pa.string() else tf.as_dtype(array.dtype)
        if is_sparse:
            indices = np.stack([self.rows, np.zeros_like(self.rows)], axis=1)
            return tf.SparseTensor(indices, tf.constant(array, dtype, [len(array)]), [num_rows, 1])
        padding = np.full(num_rows - len(array), "" if dtype == tf.string else 0, array.dtype)
        return tf.constant(np.concatenate([array, padding]), dtype)


@dataclasses.dataclass(frozen=True)
class _Lists:
    """Lists of numbers, each in the row of its record; where they are not wanted there is no row.

    No feature is made of lists and of another column, whose rows they would have to meet.
    """

    lists: pa.ListArray
    size: int | None

    def tensor(self, num_rows: int, is_sparse: bool) -> Any:
        """Returns (len(lists), size), or a sparse one as wide as its longest list."""
        numbers = self.lists.flatten().to_numpy(zero_copy_only=False)
        lengths = vectors.lengths_of(self.lists)
        if not is_sparse:
            return tf.constant(numbers.reshape(len(lengths), self.size or 0))
        rows = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(numbers)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shape = [len(lengths), max(self.size or 0, int(lengths.max(initial=0)))]
        return tf.SparseTensor(np.stack([rows, places], axis=1), tf.constant(numbers), shape)


def _joint(transform: SavedTransform, raw: pa.RecordBatch, spec: Spec) -> dict[str, pa.Array]:
    """Returns what transform_fn makes of raw columns for features of several values a record."""
    if not spec.of_several:
        return {}
    wanted = {column for name in spec.of_several for column in spec.inputs_of(name)}
    encoded = _encoded(raw, wanted, _Encoded.each, spec)
    outputs = _outputs(transform, encoded, raw.num_rows, spec)
    made = [_made(name, outputs, spec) for name in spec.of_several]
    return {name: values for part in made for name, values in part.items()}


def _made(name: str, outputs: Mapping[str, Any], spec: Spec) -> dict[str, pa.Array]:
    """Returns what transform_fn made of a feature, by the names under which it is stored."""
    feature = spec.features[name]
    if isinstance(feature, Date):
        return {f"{name}{ending}": _array(outputs[f"{name}{ending}"]) for ending in feature.endings}
    if isinstance(feature, Vector):
        return _made_vector(name, outputs, feature)
    if isinstance(feature, Text | Sparse) or isinstance(outputs[name], tf.SparseTensor):
        made = _named(name, text.to_lists(outputs[name]))
    else:
        made = {name: _array(outputs[name])}
    if isinstance(feature, Column) and feature.indicator:
        made[f"{name}_missing"] = _array(outputs[f"{name}_missing"])
    return made


def _made_vector(name: str, outputs: Mapping[str, Any], feature: Vector) -> dict[str, pa.Array]:
    if not feature.is_ragged:
        return {name: vectors.lists_of(outputs[name].numpy())}
    length = f"{name}{vector_graph.LENGTH}"
    lengths = outputs[length].numpy()
    numbers = vectors.lists(pa.array(outputs[name].values.numpy()), lengths)
    return {name: numbers, length: pa.array(lengths)}


def _array(values: tf.Tensor) -> pa.Array:
    array = pa.array(values.numpy())
    return array.cast(pa.string()) if array.type == pa.binary() else array


def _by_user(transform: SavedTransform, raw: pa.RecordBatch, spec: Spec) -> dict[str, pa.Array]:
    """Returns what a user's preprocessing_fn stores of raw columns."""
    padded = tft_functions.padded(raw)
    encoded = _encoded(padded, raw.schema.names, _Encoded.each, spec)
    outputs = _outputs(transform, encoded, padded.num_rows, spec)
    return {
        name: tft_functions.to_arrow(name, values).slice(0, raw.num_rows)
        for name, values in sorted(outputs.items())
    }


def _encoded(
    raw: pa.RecordBatch,
    wanted: Collection[str],
    encode: Callable[[pa.Array], _Encoded],
    spec: Spec,
) -> dict[str, _Encoded | _Lists]:
    """Encodes the columns that are wanted; of the others nothing is put in."""
    encoded: dict[str, _Encoded | _Lists] = {}
    for name, column in zip(raw.schema.names, raw.columns, strict=True):
        given = column if name in wanted else column.slice(0, 0)
        if name in spec.lists:
            encoded[name] = _Lists(given, spec.lists[name].size)
        else:
            encoded[name] = encode(given)
    return encoded


def _outputs(
    transform: SavedTransform, encoded: Mapping[str, _Encoded | _Lists], num_rows: int, spec: Spec
) -> dict[str, Any]:
    sparse = preprocessing.sparse_columns(spec)
    inputs = {name: of.tensor(num_rows, name in sparse) for name, of in encoded.items()}
    text.load_ops(spec)
    return transform.load().transform_fn(inputs)


def _applied(
    transform: SavedTransform, raw: pa.RecordBatch, spec: Spec, names: Sequence[str]
) -> dict[str, pa.Array]:
    """Returns what transform_fn makes of raw columns for features of one column each."""
    if not names:
        return {}
    wanted = {spec.column_of(name) for name in names}
    encoded = _encoded(raw, wanted, _Encoded.distinct, spec)
    distinct = {name: of for name, of in encoded.items() if isinstance(of, _Encoded)}
    num_rows = 1 + max(len(of.values) for of in distinct.values())  # One more: missing.
    outputs = _outputs(transform, encoded, num_rows, spec)
    stored: dict[str, pa.Array] = {}
    for name in names:
        codes = distinct[spec.column_of(name)].codes
        made = _made(name, outputs, spec)
        stored |= {output: values.take(codes) for output, values in made.items()}
    return stored


def place_unit(
    unit: Unit, plan: Plan, job: Job, found: Analysis, transform: SavedTransform
) -> Iterator[tuple[Place, pa.RecordBatch]]:
    """Yields the transformed records of a unit by shard, with the columns of `keys.with_hashes`."""
    for outcome in outcomes(unit, dataclasses.replace(plan, strata=found.strata), "transforming"):
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
    stored = apply_transform_fn(transform, records.raw, spec, found.statistics)
    if (name := infinite(stored)) is not None:
        raise DataError(
            f"features.{name}: a value becomes NaN or infinite as float32 after "
            f"{_steps(name, spec)}. Filter such records out."
        )
    for name, said in spec.beside_features.items():
        stored[name] = labels.stored(records.beside[name], said, found.classes.get(name, ()))
    batch = pa.record_batch(list(stored.values()), list(stored))
    return keys.with_hashes(batch, records.hashed)


def infinite(stored: Mapping[str, pa.Array]) -> str | None:
    """Returns the first of the features with a NaN or an infinite value; None without one."""
    for name, column in stored.items():
        flat = column.flatten() if pa.types.is_list(column.type) else column
        if flat.type == pa.float32() and not pc.all(pc.is_finite(flat), min_count=0).as_py():
            return name
    return None


def _steps(name: str, spec: Spec) -> str:
    if spec.preprocessing_fn is not None:
        return spec.preprocessing_fn
    made = {**spec.columns, **spec.vectors}
    transforms = made[name.removesuffix("/values")].transforms
    return " and ".join(transforms) or "its transform"


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
    counts: dict[str, Counter[int]] = {label: Counter() for label in found.classes}
    with ShardWriter(job.output, name, job.spec.output.compression) as writer:
        for batch in shuffle.ordered(spill, place, found.num_buckets[place.split]):
            _write_part(batch, writer)
            progress.count_written(batch.num_rows, found.num_examples)
            for label, counted in counts.items():
                counted.update(labels.counts(batch.column(label)))
        info = job.publish(writer)
    by_name = {
        label: {found.classes[label][index]: number for index, number in sorted(counted.items())}
        for label, counted in counts.items()
    }
    result = ShardResult(place, info, by_name)
    job.save(result)
    return result


def _write_part(batch: pa.RecordBatch, writer: ShardWriter) -> None:
    """Writes records, whose Examples are given up before the next ones are made."""
    encoded = examples.encode(_columns(batch))
    writer.write(frame_records(encoded), framed_sizes(encoded))


def _columns(batch: pa.RecordBatch) -> dict[str, Any]:
    return {
        name: column.to_numpy() if pa.types.is_primitive(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def _is_told(feature: Tabular) -> bool:
    """Whether the manifest tells statistics of what came out of the stateless steps."""
    return feature.last_step is not None or bool({*feature.transforms} - {"log1p"})


def _years(raw: Numbers, feature: Date) -> dict[str, int]:
    """Returns the first and the last year that train has: no other part has ends of its own."""
    told = (raw.min, raw.max, feature.fill if raw.missing else None)
    ends = [int(end) for end in told if end is not None]
    found = np.array(ends, "datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970
    return {"min": int(found.min()), "max": int(found.max())} if ends else {}


def feature_entries(spec: Spec, statistics: Statistics) -> dict[str, Any]:
    """Returns what the manifest says of each stored feature."""
    entries: dict[str, Any] = {}
    for name, feature in spec.columns.items():
        found = statistics[name]
        if isinstance(feature, Date):
            entries |= dataset_info.date_entries(name, feature)
            if "year" in feature.parts:
                entries[f"{name}_year"]["raw_statistics"] = _years(found.raw, feature)
            continue
        entry = dataset_info.column_entry(
            feature.output_dtype, analysis.num_categories(feature, found), bool(feature.transforms)
        )
        if found.depth is not None:
            entry |= {"shape": [found.depth], "stored_as": "sparse"}
        if isinstance(feature, Text):
            entry |= dataset_info.text_entry(feature)
        if dataset_info.has_vocabulary(feature):
            entry["vocabulary_file"] = dataset_info.vocabulary_file(name)
        entry["raw_statistics"] = analysis.raw_statistics(found.raw)
        if found.seen is not None and _is_told(feature):
            entry["statistics"] = analysis.seen_statistics(found.seen)
        if found.fill is not None and feature.is_fill_learned:
            entry["missing_value"] = found.fill
        if "edges" in found.learned and feature.key is None:
            entry["edges"] = found.learned["edges"].tolist()
        step = steps.of(feature) if isinstance(feature, Column) else None
        if step is not None and (told := step.told(found.learned)):
            entry["learned"] = told
        entries[name] = entry
        if feature.indicator:
            entries[f"{name}_missing"] = {
                "dtype": "int64",
                "shape": [],
                "stored_as": "int64_list",
                "normalized": False,
            }
    for name, vector in spec.vectors.items():
        entries |= _vector_entries(name, vector, statistics[name])
    for name, cross in spec.crosses.items():
        entries[name] = dataset_info.column_entry("int64", cross.hash_buckets, True)
    return entries


def _vector_entries(
    name: str, feature: Vector, found: analysis.VectorStatistics
) -> dict[str, dict[str, Any]]:
    """Returns what the manifest says of a vector and, of a ragged one, of its length."""
    entry = dataset_info.column_entry(feature.dtype, None, bool(feature.transforms))
    entry["shape"] = [feature.num_stored]
    if not feature.is_ragged:
        return {name: entry | analysis.vector_entry(feature, found)}
    entry |= {"longest": found.longest} | analysis.vector_entry(feature, found)
    length = dataset_info.column_entry("int64", None, False)
    return {name: entry, f"{name}{vector_graph.LENGTH}": length}
