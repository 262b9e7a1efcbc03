"""What the stages of an image dataset's job do to a unit of work; no Beam in here."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import (
    examples,
    files,
    image_features,
    image_records,
    image_targets,
    keys,
    progress,
    reasons,
    saved_arrays,
    shuffle,
    splits,
    strata,
)
from beam_jobs.config import LABEL, SPLITS, Spec
from beam_jobs.earlier import Earlier
from beam_jobs.errors import DataError
from beam_jobs.image_features import ImageFeature
from beam_jobs.image_records import Outcome
from beam_jobs.image_statistics import PixelCounts
from beam_jobs.image_targets import BoxesFeature, MaskFeature
from beam_jobs.images import DecodedImages
from beam_jobs.job import Job, ShardResult, check_any_left, check_readable
from beam_jobs.rows import rejected_lines
from beam_jobs.shards import PROGRESS_FOLDER, ShardWriter, frame_records, framed_sizes
from beam_jobs.shuffle import Place
from beam_jobs.splits import Strata
from beam_jobs.strata import Keys

_BATCH_BYTES = 2 << 20  # Of decoded pixels: what a thread works on.
_LOADING = threading.Lock()
Feature = ImageFeature | MaskFeature | BoxesFeature
_Batch = tuple[dict[str, np.ndarray], pa.Array]  # Decoded values by feature, and labels.


def _features(spec: Spec, earlier: Earlier | None = None) -> list[Feature]:
    transform = earlier.transform if earlier else None
    return [*image_features.of(spec, transform), *image_targets.of(spec)]


@dataclasses.dataclass(frozen=True)
class Counts:
    """What the headers say; two of them add up.

    Attributes:
      read: Files read.
      rejected: Files per reason.
      num_images: Files that are left, per split.
      classes: Labels after the filters.
    """

    read: int = 0
    rejected: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    num_images: Mapping[str, int] = dataclasses.field(default_factory=Counter)
    classes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, outcome: Outcome) -> "Counts":
        """Counts what became of a list of files."""
        found = Counter(outcome.kept.column("split").to_pylist())
        return cls(
            outcome.num_read,
            Counter(outcome.rejected.column("reason").to_pylist()),
            Counter({SPLITS[code]: count for code, count in found.items()}),
            frozenset(outcome.classes),
        )

    def __add__(self, other: "Counts") -> "Counts":
        """Returns the counts of both lists together."""
        return Counts(
            self.read + other.read,
            Counter(self.rejected) + Counter(other.rejected),
            Counter(self.num_images) + Counter(other.num_images),
            self.classes | other.classes,
        )


@dataclasses.dataclass(frozen=True)
class ImagePlan:
    """What is to be written.

    Attributes:
      counts: What the headers said.
      classes: The names behind the label's indices.
      num_shards: Of each split.
      strata: Where a stratified split cuts the classes.
    """

    counts: Counts
    classes: tuple[str, ...]
    num_shards: Mapping[str, int]
    strata: Strata | None = None

    @property
    def places(self) -> list[Place]:
        """All shards, those without a record among them."""
        return [Place(split, i) for split, count in self.num_shards.items() for i in range(count)]


def save_keys(outcome: Outcome, job: Job) -> Keys:
    """Returns what a stratified split has to know of records."""
    hashed = keys.hashes_of(outcome.kept, keys.KEY_COLUMNS)
    return strata.save(outcome.kept.column("label"), hashed, job.shared_folder)


def make_plan(counts: Counts, job: Job, cut: Strata | None = None) -> ImagePlan:
    """Plans the shards.

    Raises:
      DataError: Too much could not be read, or no image is left in train.
    """
    check_readable(counts.read, counts.rejected, job.spec, job.output)
    if cut is not None:
        counts = dataclasses.replace(counts, num_images=Counter(cut.totals))
    if job.earlier is not None:
        check_any_left("image", counts.num_images, counts.read, counts.rejected)
        classes = job.earlier.classes_of(job.spec).get(LABEL, ())
    elif not counts.num_images.get("train"):
        raise DataError(reasons.none_left("image", counts.read, counts.rejected))
    else:
        classes = tuple(sorted(counts.classes, key=str.encode))
    names = splits.split_names(job.spec, counts.num_images)
    features = _features(job.spec)
    is_number = job.spec.label is not None and job.spec.label.type != "class"
    sizes = {"label": 10 if is_number else examples.varint_bytes(len(classes))}
    for feature in features:
        sizes |= feature.stored_bytes
    if need_statistics(job) and job.temp_folder is not None:
        pixels = sum(feature.pixel_bytes for feature in features)
        shuffle.check_space(job.temp_folder, pixels * sum(counts.num_images.values()))
    most = examples.max_bytes(sizes)
    num_shards = {s: job.num_shards(counts.num_images.get(s, 0), most) for s in names}
    return ImagePlan(counts, classes, num_shards, cut)


def need_statistics(job: Job) -> bool:
    """Whether shards can be written only when all of train is decoded."""
    is_later = job.transform_from is not None
    return not is_later and any(feature.needs_statistics for feature in _features(job.spec))


def by_place(
    kept: pa.RecordBatch, plan: ImagePlan
) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    """Yields the records of each shard, as `image_records` keeps them, but for the split."""
    hashed = keys.hashes_of(kept)
    codes = kept.column("split").to_numpy()
    if plan.strata is not None:
        codes = plan.strata.codes(kept.column("label"), keys.hashes_of(kept, keys.KEY_COLUMNS))
    for split, count in plan.num_shards.items():
        shards = keys.shard_indices(hashed, count)
        for shard in np.unique(shards[codes == SPLITS.index(split)]).tolist():
            mask = (codes == SPLITS.index(split)) & (shards == shard)
            yield (split, shard), kept.filter(pa.array(mask)).drop_columns(["split"])


def in_order(batches: Sequence[pa.RecordBatch]) -> pa.Table | None:
    """Returns the records of a shard in the order of their hashes; None if there are none."""
    if not batches:
        return None
    table = pa.Table.from_batches(batches).combine_chunks()
    hashed, occurrences = keys.hashes_of(table), _occurrences(table)
    first = keys.order_keys(hashed, occurrences)
    order = np.lexsort([occurrences, hashed["last"], hashed["first"], first])
    return table.take(pa.array(order))


def _occurrences(table: pa.Table) -> np.ndarray:
    """Numbers the records of one hash by their place in the input: int64 (num_records,)."""
    found = np.zeros(table.num_rows, np.int64)
    if "position" not in table.column_names:  # Each file is there once.
        return found
    names = [*keys.HASH_COLUMNS, "source", "position"]
    order = pc.sort_indices(table, [(name, "ascending") for name in names]).to_numpy()
    hashed = keys.hashes_of(table)[order]
    places = np.arange(table.num_rows)
    is_first = np.append(True, hashed[1:] != hashed[:-1])
    found[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return found


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """A batch of records.

    Attributes:
      values: Of each feature one value a record, see `DecodedImages.stored`.
      counts: Of each feature what its statistics need.
      labels: One a record.
      rejected: source, position, reason and detail of the others, as far as they have them.
    """

    values: dict[str, np.ndarray]
    counts: dict[str, PixelCounts]
    labels: pa.Array
    rejected: list[dict[str, Any]]


def _decode(table: pa.Table, features: Sequence[Feature]) -> _Decoded:
    """Reads and decodes the images of records, as `image_records` keeps them."""
    decoded: dict[str, DecodedImages] = {}
    rejected: list[dict[str, Any]] = []
    for feature in features:
        decoded[feature.name], broken = _read(table, feature)
        if broken:  # What other features have of these records goes, too.
            rejected += image_records.rejected(table, feature.name, broken)
            is_sound = np.ones(table.num_rows, bool)
            is_sound[list(broken)] = False
            table = table.filter(pa.array(is_sound))
            for name in decoded.keys() - {feature.name}:
                decoded[name] = decoded[name].where(is_sound)
    values = {name: images.stored for name, images in decoded.items()}
    counts = {feature.name: feature.count(decoded[feature.name].pixels) for feature in features}
    return _Decoded(values, counts, table.column("label"), rejected)


def _read(table: pa.Table, feature: Feature) -> tuple[DecodedImages, dict[int, tuple[str, str]]]:
    """Returns a feature's values of records, and what is wrong with the others by position."""
    if isinstance(feature, BoxesFeature):
        return feature.read(table), {}
    references = image_records.references(table, feature.name)
    read = references.read()
    decoded, broken = feature.decode(read, references.orientations, references.are_canonical)
    progress.count("decoding", sum(map(len, read)), table.num_rows, len(broken))
    return decoded, broken


@functools.lru_cache(maxsize=1)
def _decoding_threads(num_threads: int) -> concurrent.futures.Executor:
    """Returns the threads that all shards share, so that one that ends leaves none idle."""
    return concurrent.futures.ThreadPoolExecutor(num_threads)


def _decoded(table: pa.Table | None, job: Job) -> Iterator[_Decoded]:
    """Yields the images of a shard in their order, decoded by all threads."""
    if table is None:
        return
    features = _features(job.spec, job.earlier)
    with _LOADING:
        threads = _decoding_threads(job.num_threads)
    size = max(1, _BATCH_BYTES // sum(feature.pixel_bytes for feature in features))
    size = min(size, 256, -(-table.num_rows // job.num_threads))
    batches = [table.slice(start, size) for start in range(0, table.num_rows, size)]
    pending: collections.deque[concurrent.futures.Future[_Decoded]] = collections.deque()
    try:
        for batch in batches:
            pending.append(threads.submit(_decode, batch, features))
            if len(pending) > job.num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # Where a shard fails, nobody waits for the rest.
        for future in pending:
            future.cancel()


def decode_shard(
    place: Place, batches: Sequence[pa.RecordBatch], job: Job, plan: ImagePlan
) -> Iterator[ShardResult]:
    """Decodes a shard's files in order, and writes the shard or, for float32, its pixels.

    A shard that is finished stays as it is.

    Yields:
      The result; with an empty file entry where the shard is still to be normalized.
    """
    count = plan.num_shards[place.split]
    name = job.shard_name(place, count)
    if name in job.finished:
        yield job.result(name)
        return
    features = _features(job.spec, job.earlier)
    counts = {feature.name: feature.no_counts for feature in features}
    classes: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []

    def decoded() -> Iterator[_Batch]:
        for batch in _decoded(in_order(batches), job):
            for name, counted in batch.counts.items():
                counts[name] = counts[name] + counted
            if plan.classes:
                classes.update(batch.labels.to_pylist())
            rejected.extend(batch.rejected)
            if len(batch.labels):
                yield batch.values, _stored_labels(batch.labels, plan)

    info: Any = None
    if need_statistics(job):
        _set_aside(decoded(), pixel_file(place, job))
    else:
        info = _write(decoded(), {}, name, job)
    reasons = Counter(line["reason"] for line in rejected)
    if place.split == "train":
        for feature in image_features.of(job.spec):
            positions = counts[feature.name].positions
            if positions is not None:
                saved_arrays.save(positions_file(place, feature, job), positions)
    levels = {name: counted.levels for name, counted in counts.items()}
    result = ShardResult(place, info, {LABEL: classes}, reasons, levels)
    job.write_rejected(result.rejected_name, lines(pa.Table.from_pylist(rejected)))
    if info is not None:
        job.save(result)
    yield result


def _stored_labels(labels: pa.ChunkedArray, plan: ImagePlan) -> pa.Array:
    """Returns labels as records hold them: of a class its index. Without a label they are null."""
    array = labels.combine_chunks()
    if plan.classes:
        array = pc.index_in(array, pa.array(plan.classes, pa.string())).cast(pa.int64())
    return array


def lines(rejected: pa.Table) -> bytes:
    """Returns JSON lines of source, reason and detail."""
    return rejected_lines(rejected) if rejected.num_rows else b""


def _write(batches: Iterator[_Batch], statistics: Mapping[str, Any], name: str, job: Job) -> Any:
    """Writes decoded records as a shard, normalized where there are statistics of a feature."""
    storing = {
        feature.name: feature.storing(statistics.get(feature.name))
        for feature in _features(job.spec, job.earlier)
    }
    with ShardWriter(job.output, name, job.spec.output.compression) as writer:
        for values, labels in batches:
            columns: dict[str, Any] = {}
            for feature, store in storing.items():
                columns |= store(values[feature])
            if job.spec.label:
                columns["label"] = labels.to_numpy()
            encoded = examples.encode(columns)
            writer.write(frame_records(encoded), framed_sizes(encoded))
        return job.publish(writer)


def pixel_file(place: Place, job: Job) -> str:
    """Returns where the records of a shard wait for the statistics."""
    return files.join(job.shared_folder, f"{place.split}-{place.shard:05d}.pixels")


def positions_file(place: Place, feature: ImageFeature, job: Job) -> str:
    """Returns where a shard's sums of each position are; they stay for a later try."""
    name = f"{place.split}-{place.shard:05d}-{feature.number:02d}{saved_arrays.SUFFIX}"
    return files.join(job.output, PROGRESS_FOLDER, name)


def _set_aside(batches: Iterator[_Batch], path: str) -> None:
    """Writes decoded records to a file until the statistics are known."""
    with files.created(path) as file, contextlib.ExitStack() as stack:
        stream = None
        for values, labels in batches:
            arrays = [_packed(array) for array in values.values()]
            batch = pa.record_batch([*arrays, labels], [*values, "label"])
            if stream is None:
                stream = stack.enter_context(pa.ipc.new_stream(file, batch.schema))
            stream.write_batch(batch)


def _packed(values: np.ndarray) -> pa.Array:
    """Returns values, files or (num_records, ...), as bytes; the latter without a copy."""
    if values.dtype == object:
        return pa.array(values, pa.binary())
    size = values.nbytes // len(values)
    buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(values), buffers)


def _unpacked(packed: pa.Array, feature: Feature) -> np.ndarray:
    """Returns what `_packed` made bytes of."""
    if pa.types.is_binary(packed.type):
        return packed.to_numpy(zero_copy_only=False)
    return np.frombuffer(packed.buffers()[1], feature.layout, len(packed))


def left_aside(path: str, features: Sequence[Feature]) -> Iterator[_Batch]:
    """Yields what `_set_aside` has written of some features."""
    with files.opened(path) as file:
        if not file.read(1):  # Of no record.
            return
        file.seek(0)
        for batch in pa.ipc.open_stream(file):
            values = {
                feature.name: _unpacked(batch.column(feature.name), feature) for feature in features
            }
            yield values, batch.column("label")


def normalize_shard(
    result: ShardResult, job: Job, plan: ImagePlan, statistics: Mapping[str, Any]
) -> Iterator[ShardResult]:
    """Writes the normalized values of a shard whose pixels `decode_shard` has left."""
    place = result.place
    name = job.shard_name(place, plan.num_shards[place.split])
    if name in job.finished:
        yield job.result(name)
        return
    features = _features(job.spec)
    needed = {f.name: statistics[f.name] for f in features if f.needs_statistics}
    path = pixel_file(place, job)
    info = _write(left_aside(path, features), needed, name, job)
    finished = dataclasses.replace(result, info=info)
    job.save(finished)
    if job.temp_folder is not None:  # Elsewhere a retried task may want it again.
        files.remove(path)
    yield finished


def feature_entries(spec: Spec, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the manifest says of each feature."""
    entries: dict[str, Any] = {}
    for feature in _features(spec):
        entries |= feature.entries(found[feature.name])
    return entries
