"""What the stages of an image dataset's job do to a unit of work; no Beam in here."""

import collections
import concurrent.futures
import dataclasses
import functools
import math
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
    image_statistics,
    keys,
    object_stores,
    progress,
    shuffle,
    splits,
)
from beam_jobs.config import SPLITS, Image, Spec
from beam_jobs.errors import DataError
from beam_jobs.image_headers import UndecodableImage, read_header
from beam_jobs.image_records import Outcome
from beam_jobs.image_statistics import PixelStatistics
from beam_jobs.images import Decoder, ImagePolicy, canonical
from beam_jobs.job import Job, ShardResult, check_readable
from beam_jobs.rows import rejected_lines
from beam_jobs.shards import ShardWriter, frame_records
from beam_jobs.shuffle import Place
from beam_jobs.sources import listing

_BATCH_BYTES = 2 << 20  # Of decoded pixels: what a thread works on.
_COLUMNS = ("path", "orientation", "label", "is_canonical")


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
    """

    counts: Counts
    classes: tuple[str, ...]
    num_shards: Mapping[str, int]

    @property
    def places(self) -> list[Place]:
        """All shards, those without a record among them."""
        return [Place(split, i) for split, count in self.num_shards.items() for i in range(count)]


def policy(image: Image) -> ImagePolicy:
    """Returns what decoding needs of the spec."""
    height, width = image.size
    return ImagePolicy(height, width, image.channels, image.method, image.antialias, image.crop)


def make_plan(counts: Counts, job: Job) -> ImagePlan:
    """Plans the shards.

    Raises:
      DataError: Too much could not be read, or no image is left in train.
    """
    check_readable(counts.read, counts.rejected, job.spec, job.output)
    if not counts.num_images.get("train"):
        raise DataError(
            f"no image is left in train: {counts.read} were read, and "
            f"{sum(counts.rejected.values())} rejected. Loosen the filters, or change the split."
        )
    names = splits.split_names(job.spec)
    if job.spec.split.directory:
        names = tuple(split for split in names if counts.num_images.get(split))
    classes = tuple(sorted(counts.classes, key=str.encode))
    name, image = job.spec.image
    size = examples.max_bytes(
        {name: _pixel_bytes(image), "label": examples.varint_bytes(len(classes))}
    )
    if image.store == "float32":
        pixels = _pixel_bytes(image) // 4 * sum(counts.num_images.values())
        if job.temp_folder is not None:
            shuffle.check_space(job.temp_folder, pixels)
    num_shards = {s: job.num_shards(counts.num_images.get(s, 0), size) for s in names}
    return ImagePlan(counts, classes, num_shards)


def _pixel_bytes(image: Image) -> int:
    height, width = image.size
    return height * width * image.channels * np.dtype(image.store).itemsize


def by_place(
    kept: pa.RecordBatch, plan: ImagePlan
) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    """Yields the files of each shard: `_COLUMNS` and the hash."""
    hashed = keys.hashes_of(kept)
    codes = kept.column("split").to_numpy()
    for split, count in plan.num_shards.items():
        shards = keys.shard_indices(hashed, count)
        for shard in np.unique(shards[codes == SPLITS.index(split)]).tolist():
            mask = (codes == SPLITS.index(split)) & (shards == shard)
            yield (split, shard), kept.filter(pa.array(mask)).drop_columns(["split"])


def in_order(batches: Sequence[pa.RecordBatch]) -> pa.Table | None:
    """Returns the files of a shard in the order of their hashes; None if there are none."""
    if not batches:
        return None
    table = pa.Table.from_batches(batches).combine_chunks()
    hashed = keys.hashes_of(table)
    first = keys.order_keys(hashed, np.zeros(table.num_rows, np.int64))
    return table.take(pa.array(np.lexsort([hashed["last"], hashed["first"], first])))


@functools.lru_cache(maxsize=1)
def _decoder(of: ImagePolicy) -> Decoder:
    return Decoder(of)


_LOADING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """A batch of images: pixels, how often each value occurs, labels, and what was broken."""

    pixels: np.ndarray
    counts: np.ndarray
    labels: list[str | None]
    rejected: list[tuple[str, str, str]]


def _decode(table: pa.Table, decoder: Decoder) -> _Decoded:
    """Reads and decodes files: `_COLUMNS`, (num_images,) each."""
    encoded, orientations, labels, paths = [], [], [], []
    rejected: list[tuple[str, str, str]] = []
    columns = [table.column(name).to_pylist() for name in _COLUMNS]
    read = object_stores.read_each(listing.read, columns[0])
    for data, path, orientation, label, is_canonical in zip(read, *columns, strict=True):
        try:
            encoded.append(data if is_canonical else canonical(data, read_header(data)))
        except UndecodableImage as error:
            rejected.append((path, "undecodable_image", str(error)))
            continue
        orientations.append(orientation)
        labels.append(label)
        paths.append(path)
    pixels, broken = decoder.decode(encoded, orientations)
    progress.count("decoding", sum(map(len, encoded)), table.num_rows, len(rejected) + len(broken))
    for position, detail in broken.items():
        rejected.append((paths[position], "undecodable_image", detail))
    labels = [label for position, label in enumerate(labels) if position not in broken]
    return _Decoded(pixels, image_statistics.histogram(pixels), labels, rejected)


@functools.lru_cache(maxsize=1)
def _decoding_threads(num_threads: int) -> concurrent.futures.Executor:
    """Returns the threads that all shards share, so that one that ends leaves none idle."""
    return concurrent.futures.ThreadPoolExecutor(num_threads)


def _decoded(table: pa.Table | None, job: Job) -> Iterator[_Decoded]:
    """Yields the images of a shard in their order, decoded by all threads."""
    if table is None:
        return
    _, image = job.spec.image
    with _LOADING:
        decoder = _decoder(policy(image))
        threads = _decoding_threads(job.num_threads)
    height, width = image.size
    size = max(1, _BATCH_BYTES // (height * width * image.channels))
    size = min(size, 256, -(-table.num_rows // job.num_threads))
    batches = [table.slice(start, size) for start in range(0, table.num_rows, size)]
    pending: collections.deque[concurrent.futures.Future[_Decoded]] = collections.deque()
    try:
        for batch in batches:
            pending.append(threads.submit(_decode, batch, decoder))
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
    _, image = job.spec.image
    counts = np.zeros((image.channels, 256), np.int64)
    labels: Counter[str] = Counter()
    rejected: list[tuple[str, str, str]] = []

    def seen() -> Iterator[_Decoded]:
        nonlocal counts
        for batch in _decoded(in_order(batches), job):
            counts = counts + batch.counts
            labels.update(label for label in batch.labels if label is not None)
            rejected.extend(batch.rejected)
            yield batch

    if image.store == "uint8":
        parts = ((batch.pixels, _indices(batch.labels, plan)) for batch in seen())
        info = _write(parts, name, job)
    else:
        info = None
        with files.created(_pixel_file(place, job)) as file:
            for batch in seen():
                labels_of = _indices(batch.labels, plan)
                # Not np.save: in threads of Python 3.11, np.load may fail to parse a header.
                file.write(np.array([len(batch.pixels), len(labels_of)], np.int64).tobytes())
                file.write(batch.pixels.tobytes())
                file.write(labels_of.tobytes())
    reasons = Counter(reason for _, reason, _ in rejected)
    result = ShardResult(place, info, labels, reasons, counts)
    columns = list(zip(*rejected, strict=True)) or [(), (), ()]
    arrays = [pa.array(column, pa.string()) for column in columns]
    table = pa.table(arrays, ["source", "reason", "detail"])
    job.write_rejected(result.rejected_name, lines(table))
    if info is not None:
        job.save(result)
    yield result


def _indices(labels: Sequence[str | None], plan: ImagePlan) -> np.ndarray:
    """Returns the index of each label: int64 (num_images,); (0,) where there is no label."""
    known = {name: index for index, name in enumerate(plan.classes)}
    return np.array([known[label] for label in labels if label is not None], np.int64)


def lines(rejected: pa.Table) -> bytes:
    """Returns JSON lines of source, reason and detail."""
    return rejected_lines(rejected) if rejected.num_rows else b""


def _write(parts: Iterator[tuple[np.ndarray, np.ndarray]], name: str, job: Job) -> Any:
    """Writes images, uint8 or float32 (n, height, width, channels), and labels as a shard."""
    feature, _ = job.spec.image
    with ShardWriter(job.output, name, job.spec.output.compression) as writer:
        for pixels, labels in parts:
            if not len(pixels):
                continue
            raw = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
            columns: dict[str, Any] = {feature: raw.view(np.uint8).reshape(len(raw), -1)}
            if job.spec.label:
                columns["label"] = labels
            writer.write(frame_records(examples.encode(columns)), len(raw))
        return job.publish(writer)


def _pixel_file(place: Place, job: Job) -> str:
    return files.join(job.shared_folder, f"{place.split}-{place.shard:05d}.pixels")


def normalize_shard(
    result: ShardResult, job: Job, plan: ImagePlan, statistics: PixelStatistics
) -> Iterator[ShardResult]:
    """Writes the normalized values of a shard whose pixels `decode_shard` has left."""
    place = result.place
    name = job.shard_name(place, plan.num_shards[place.split])
    if name in job.finished:
        yield job.result(name)
        return
    _, image = job.spec.image
    levels = image_statistics.normalized_levels(image, statistics)
    path = _pixel_file(place, job)
    parts = _normalized(path, (*image.size, image.channels), levels)
    finished = dataclasses.replace(result, info=_write(parts, name, job))
    job.save(finished)
    if job.temp_folder is not None:  # Elsewhere a retried task may want it again.
        files.remove(path)
    yield finished


def _normalized(
    path: str, shape: tuple[int, ...], levels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields what `decode_shard` has left: float32 (num_images, *shape), and int64 labels."""
    values = pa.array(levels.ravel())
    channels = (256 * np.arange(len(levels))).astype(np.uint16)
    with files.opened(path) as file:
        while header := file.read(16):
            num_images, num_labels = np.frombuffer(header, np.int64).tolist()
            pixels = np.frombuffer(file.read(num_images * math.prod(shape)), np.uint8)
            labels = np.frombuffer(file.read(8 * num_labels), np.int64)
            # NumPy adds long rows 15 times as fast as rows of 3, and gathers only by indices of 8
            # bytes, which takes twice as long as Arrow by these.
            width = shape[-2]
            rows = pixels.reshape(-1, width * len(levels)) + np.tile(channels, width)
            indices = pa.array(rows.ravel())
            normalized = pc.take(values, indices, boundscheck=False).to_numpy()
            yield normalized.reshape(num_images, *shape), labels


def statistics(results: Sequence[ShardResult], job: Job) -> PixelStatistics:
    """Returns the statistics of train.

    Raises:
      DataError: No image of train could be decoded.
    """
    _, image = job.spec.image
    counts = np.zeros((image.channels, 256), np.int64)
    for result in results:
        if result.place.split == "train" and result.pixels is not None:
            counts += result.pixels
    if not counts.any():
        raise DataError("no image of train could be decoded. See the rejected files.")
    return PixelStatistics.of(counts, image.rescale)


def feature_entries(spec: Spec, found: PixelStatistics) -> dict[str, Any]:
    """Returns what the manifest says of the image."""
    name, image = spec.image
    count = found.raw[0].count
    steps = image_statistics.normalization(image, found)
    is_normalized = image.store == "float32"
    is_plain = len(steps) == 1 and image.rescale == 1  # Then there is nothing left to do.
    entry: dict[str, Any] = {
        "dtype": image.store,
        "shape": [*image.size, image.channels],
        "stored_as": "raw",
        "normalized": is_normalized,
        "decode": {
            "method": image.method,
            "antialias": image.antialias,
            "crop": image.crop,
            "exif_orientation": "applied",
        },
        "raw_statistics": {
            "count": count,
            "missing": 0,
            "min": found.low,
            "max": found.high,
            "mean": [channel.mean for channel in found.raw],
            "std": [channel.std for channel in found.raw],
        },
        "statistics": {"count": count, "mean": found.mean, "std": found.std},
    }
    if not is_normalized and not is_plain:
        entry["normalization"] = steps
    return {name: entry}
