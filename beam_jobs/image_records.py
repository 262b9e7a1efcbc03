"""Image files to records: header, filters, label and split, the others with their reasons."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import (
    filters,
    image_headers,
    images,
    keys,
    object_stores,
    paths,
    progress,
    splits,
)
from beam_jobs.config import Spec
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
_REFERENCE_TYPES = {
    "path": pa.string(),
    "start": pa.int64(),
    "end": pa.int64(),
    "orientation": pa.int64(),
    "is_canonical": pa.bool_(),
}
_HEADER_BYTES = (
    1 << 16
)  # Holds the header of nearly every JPEG; other formats are small or read whole.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a list of files.

    Attributes:
      num_read: All of them.
      kept: Of each image feature a reference to its file (see `References`), label, split int8,
        the hash and, where the split is stratified, that of its key: one row for each record that
        meets every rule that needs no pixel.
      rejected: source, reason and detail of the others.
      classes: The labels that are left after the filters, in any split.
    """

    num_read: int
    kept: pa.RecordBatch
    rejected: pa.Table
    classes: tuple[str, ...]


class References(NamedTuple):
    """Where the images of a feature lie, and what decoding needs of their headers.

    Attributes:
      paths: The files.
      starts: Where in it an image begins, in bytes.
      ends: Where it ends; -1 for the end of the file.
      orientations: As EXIF has it, 1 to 8.
      are_canonical: Whether TensorFlow takes them as they are, see `images.canonical`.
    """

    paths: list[str]
    starts: list[int]
    ends: list[int]
    orientations: list[int]
    are_canonical: list[bool]

    def read(self) -> list[bytes]:
        """Returns the encoded images.

        Raises:
          DataError: A file cannot be read.
        """
        places = zip(self.starts, self.ends, strict=True)
        sizes = [-1 if end < 0 else end - start for start, end in places]
        return list(object_stores.read_each(listing.read, self.paths, sizes, self.starts))

    def columns(self, feature: str) -> dict[str, pa.Array]:
        """Returns them as the columns of one feature, which no other column is called like."""
        arrays = zip(_REFERENCE_TYPES.items(), self, strict=True)
        return {f"{feature}/{name}": pa.array(of, type_) for (name, type_), of in arrays}


def references(table: pa.Table, feature: str) -> References:
    """Reads the columns that `References.columns` made."""
    return References(*(table.column(f"{feature}/{name}").to_pylist() for name in _REFERENCE_TYPES))


def rejected(
    table: pa.Table, feature: str, broken: Mapping[int, tuple[str, str]]
) -> list[dict[str, Any]]:
    """Returns what is set aside of records whose image turned out to be broken.

    Args:
      table: Records as they are kept.
      feature: Whose image it is.
      broken: Reason and detail, by position.
    """
    names = [name for name in ("source", "position") if name in table.column_names]
    places = table.select(names or [f"{feature}/path"]).rename_columns(names or ["source"])
    return [
        {**places.slice(position, 1).to_pylist()[0], "reason": reason, "detail": detail}
        for position, (reason, detail) in sorted(broken.items())
    ]


def check(spec: Spec) -> None:
    """Raises a SpecError unless the conditions fit the columns that an image has."""
    for rule in spec.filter:
        filters.check(rule, SQL_COLUMNS, spec.folder)


def header(path: str) -> ImageHeader | UndecodableImage | TooLargeImage:
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


def plan(files: Sequence[File], spec: Spec, classes: Sequence[str] | None = None) -> Outcome:
    """Applies every rule that needs no pixel, in the order that SPEC gives.

    Args:
      files: The images.
      spec: The spec.
      classes: Those that a label may have; None for any.
    """
    headers: dict[int, ImageHeader] = {}
    rejected: list[tuple[str, str, str]] = []
    found = object_stores.read_each(header, [file.path for file in files])
    for position, (file, one) in enumerate(zip(files, found, strict=True)):
        if isinstance(one, TooLargeImage):
            rejected.append((file.path, "too_large_image", str(one)))
        elif isinstance(one, UndecodableImage):
            rejected.append((file.path, "undecodable_image", str(one)))
        else:
            headers[position] = one
    sound = [files[position] for position in headers]
    labels = pa.array([paths.label_of(file.relative, spec) for file in sound], pa.string())
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

    ((feature, image),) = spec.images.items()
    sizes = [image.is_too_small(one.height, one.width) for one in headers.values()]
    reject(np.array(sizes, bool), "smaller_than_crop")
    results = filters.evaluate(filters.conditions(spec), table, is_alive, "images")
    for rule, result in zip(spec.filter, results, strict=True):
        reject(_true(pc.is_null(result)), f"null_in_{rule.name}")
        reject(~_true(pc.fill_null(result, True)), rule.name)
    if spec.label is not None:
        reject(_true(pc.is_null(labels)), "no_label")
    if classes is not None:
        reject(~_true(pc.is_in(labels, pa.array(classes, pa.string()))), "unknown_label")
    reject(codes == splits.NO_SPLIT, "no_split")
    referred = References(
        [file.path for file in sound],
        [0] * len(sound),
        [-1] * len(sound),
        [one.orientation for one in headers.values()],
        [images.is_canonical(one) for one in headers.values()],
    )
    kept = pa.record_batch(
        {**referred.columns(feature), "label": labels, "split": pa.array(codes, pa.int8())}
    )
    kept = keys.with_hashes(kept, hashed)
    if spec.split.stratified:
        kept = keys.with_hashes(kept, hashed, keys.KEY_COLUMNS)
    kept = kept.filter(pa.array(is_alive))
    found_classes = () if spec.label is None else pc.unique(kept.column("label")).to_pylist()
    columns = list(zip(*rejected, strict=True)) or [(), (), ()]
    names = ("source", "reason", "detail")
    progress.count("headers", sum(f.size_bytes for f in files), len(files), len(rejected))
    arrays = [pa.array(column, pa.string()) for column in columns]
    return Outcome(len(files), kept, pa.table(arrays, names), tuple(found_classes))


def _true(mask: pa.Array) -> np.ndarray:
    return mask.to_numpy(zero_copy_only=False)


def _splits(files: Sequence[File], hashed: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns the split of each file: int8 (num_files,)."""
    if spec.split.fractions:
        return splits.by_fractions(hashed, spec.split.fractions)
    names = [file.relative.split("/")[0] if spec.split.directory else file.split for file in files]
    return splits.carved(splits.by_names(names), hashed, spec)
