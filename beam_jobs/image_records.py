"""Image files to records: header, filters, label and split, the others with their reasons."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import filters, image_headers, images, keys, object_stores, progress, splits
from beam_jobs.config import SPLITS, Spec
from beam_jobs.image_headers import ImageHeader, TooLargeImage, UndecodableImage
from beam_jobs.sources import listing
from beam_jobs.sources.listing import File

SQL_COLUMNS = {
    "path": "VARCHAR",
    "label": "VARCHAR",
    "width": "BIGINT",
    "height": "BIGINT",
    "channels": "BIGINT",
    "bytes": "BIGINT",
}
_HEADER_BYTES = (
    1 << 16
)  # Holds the header of nearly every JPEG; other formats are small or read whole.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a list of files.

    Attributes:
      num_read: All of them.
      kept: path, orientation int64, is_canonical (see `images`), label, split int8 and the hash:
        one row for each file that meets every rule that can be told from its header.
      rejected: source, reason and detail of the others.
      classes: The labels that are left after the filters, in any split.
    """

    num_read: int
    kept: pa.RecordBatch
    rejected: pa.Table
    classes: tuple[str, ...]


def check(spec: Spec) -> None:
    """Raises a SpecError unless the conditions fit the columns that an image has."""
    for rule in spec.filter:
        filters.used_columns(rule.where, SQL_COLUMNS, f"filter {rule.name!r}")


def label_of(relative: str, spec: Spec) -> str | None:
    """Returns the label that a path stands for."""
    if spec.label is None:
        return None
    if spec.label.pattern is not None:
        match = re.search(spec.label.pattern, relative)
        return match["label"] if match else None
    folders = relative.split("/")[:-1]
    position = 1 if spec.split.directory else 0
    return folders[position] if len(folders) > position else None


def _header(path: str) -> ImageHeader | UndecodableImage | TooLargeImage:
    """Reads the header of a file, or as much more as it takes; returns what is wrong with it."""
    try:
        start = listing.read(path, _HEADER_BYTES)
        if len(start) < _HEADER_BYTES or start.startswith(b"\xff\xd8"):
            try:
                return image_headers.read_header(start)
            except UndecodableImage:
                if len(start) < _HEADER_BYTES:
                    raise
        return image_headers.read_header(listing.read(path))
    except (UndecodableImage, TooLargeImage) as error:
        return error


def plan(files: Sequence[File], spec: Spec) -> Outcome:
    """Applies every rule that needs no pixel, in the order that SPEC gives."""
    headers: dict[int, ImageHeader] = {}
    rejected: list[tuple[str, str, str]] = []
    found = object_stores.read_each(_header, [file.path for file in files])
    for position, (file, header) in enumerate(zip(files, found, strict=True)):
        if isinstance(header, TooLargeImage):
            rejected.append((file.path, "too_large_image", str(header)))
        elif isinstance(header, UndecodableImage):
            rejected.append((file.path, "undecodable_image", str(header)))
        else:
            headers[position] = header
    sound = [files[position] for position in headers]
    labels = pa.array([label_of(file.relative, spec) for file in sound], pa.string())
    table = pa.record_batch(
        {
            "path": pa.array([file.relative for file in sound], pa.string()),
            "label": labels,
            **{
                name: pa.array([getattr(h, name) for h in headers.values()], pa.int64())
                for name in ("width", "height", "channels")
            },
            "bytes": pa.array([file.size_bytes for file in sound], pa.int64()),
        }
    )
    hashed = keys.hashes(table.column("path").cast(pa.binary()))
    codes = _splits(sound, hashed, spec)
    is_alive = np.ones(len(sound), bool)

    def reject(where: np.ndarray, reason: str) -> None:
        for position in np.flatnonzero(where & is_alive).tolist():
            rejected.append((sound[position].path, reason, ""))
        is_alive[where] = False

    expressions = [(rule.where, "BOOLEAN") for rule in spec.filter]
    results = filters.evaluate(expressions, table, is_alive, "images")
    for rule, result in zip(spec.filter, results, strict=True):
        reject(_true(pc.is_null(result)), f"null_in_{rule.name}")
        reject(~_true(pc.fill_null(result, True)), rule.name)
    if spec.label is not None:
        reject(_true(pc.is_null(labels)), "no_label")
    reject(codes == splits.NO_SPLIT, "no_split")
    kept = pa.record_batch(
        {
            "path": pa.array([file.path for file in sound], pa.string()),
            "orientation": pa.array([h.orientation for h in headers.values()], pa.int64()),
            "is_canonical": pa.array(
                [images.is_canonical(h) for h in headers.values()], pa.bool_()
            ),
            "label": labels,
            "split": pa.array(codes, pa.int8()),
        }
    )
    kept = keys.with_hashes(kept, hashed).filter(pa.array(is_alive))
    classes = () if spec.label is None else tuple(pc.unique(kept.column("label")).to_pylist())
    columns = list(zip(*rejected, strict=True)) or [(), (), ()]
    names = ("source", "reason", "detail")
    progress.count("headers", sum(f.size_bytes for f in files), len(files), len(rejected))
    arrays = [pa.array(column, pa.string()) for column in columns]
    return Outcome(len(files), kept, pa.table(arrays, names), classes)


def _true(mask: pa.Array) -> np.ndarray:
    return mask.to_numpy(zero_copy_only=False)


def _splits(files: Sequence[File], hashed: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns the split of each file: int8 (num_files,)."""
    if spec.split.fractions:
        return splits.by_fractions(hashed, spec.split.fractions)
    names = [file.relative.split("/")[0] if spec.split.directory else file.split for file in files]
    codes = [SPLITS.index(name) if name in SPLITS else splits.NO_SPLIT for name in names]
    return splits.carved(np.array(codes, np.int8), hashed, spec)
