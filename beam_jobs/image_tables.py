"""Records of a table that hold images: the table's rules, then those of their headers."""

import contextlib
import os
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from beam_jobs import (
    files,
    image_features,
    image_headers,
    image_records,
    image_targets,
    keys,
    object_stores,
    progress,
    rows,
    values,
)
from beam_jobs.config import LABEL
from beam_jobs.errors import DataError
from beam_jobs.image_features import ImageFeature
from beam_jobs.image_headers import ImageHeader, TooLargeImage, UndecodableImage
from beam_jobs.image_records import Outcome, References
from beam_jobs.image_targets import BoxesFeature, MaskFeature, WrongBoxes
from beam_jobs.job import Job
from beam_jobs.rows import Fates, Plan
from beam_jobs.sources import formats
from beam_jobs.sources.blocks import Structure, Unit

_Pictured = ImageFeature | MaskFeature


class _MissingFile(ValueError):
    """There is no such file; the message is a reason of one line."""


def plan_unit(unit: Unit, plan: Plan, job: Job) -> Iterator[Outcome]:
    """Applies every rule that needs no pixel to a unit of a table, and writes what it rejects.

    Yields:
      What became of each block. Images that lie in the table itself are left in a file beside it.

    Raises:
      DataError: A file cannot be read, or an SQL expression fails on a value.
    """
    lines = []
    source = plan.spec.source
    for number, structure in enumerate(formats.of(source).read(unit, source)):
        look = _Look(structure, plan)
        outcome = rows.read_block(structure, plan, look)
        progress.count("headers", 0, outcome.num_read, outcome.rejected.num_rows)
        if outcome.rejected.num_rows:
            lines.append(rows.rejected_lines(outcome.rejected))
        pack = files.join(job.shared_folder, f"{unit.index:05d}-{number:05d}.images")
        kept = look.kept(outcome, pack)
        classes = outcome.classes.get(LABEL, ())
        yield Outcome(outcome.num_read, kept, outcome.rejected, classes)
    job.write_rejected(f"{unit.index:05d}.jsonl", b"".join(lines))


class _Look:
    """What the images, masks and boxes of a block's records turn out to be."""

    def __init__(self, structure: Structure, plan: Plan):
        spec = plan.spec
        self._structure, self._spec = structure, spec
        self._targets = image_targets.of(spec)
        masks = [target for target in self._targets if isinstance(target, MaskFeature)]
        self._pictures: list[_Pictured] = [*image_features.of(spec), *masks]
        self._headers: dict[str, dict[int, ImageHeader]] = {}
        self._boxes: dict[str, dict[int, list[list[float]]]] = {}

    def __call__(self, raw: pa.RecordBatch, fates: Fates) -> None:
        """Looks at the records that are alive, and rejects those that break a rule."""
        for picture in self._pictures:
            self._look_at(picture, raw, fates)
        for target in self._targets:
            if isinstance(target, MaskFeature):
                self._compare(target, fates)
            else:
                self._locate(target, raw, fates)

    def _look_at(self, picture: _Pictured, raw: pa.RecordBatch, fates: Fates) -> None:
        """Reads the headers of a feature's images."""
        cells = raw.column(self._spec.column_of(picture.name))
        alive = np.flatnonzero(fates.is_alive & values.as_mask(pc.is_valid(cells))).tolist()
        given = cells.take(pa.array(alive, pa.int64())).to_pylist()
        if pa.types.is_string(cells.type):
            paths = [self._path(row, said) for row, said in zip(alive, given, strict=True)]
            found = object_stores.read_each(_header, paths)
        else:
            found = map(_header_of, given)
        headers = self._headers[picture.name] = {}
        faults = _Faults()
        for row, header in zip(alive, found, strict=True):
            if isinstance(header, ImageHeader):
                headers[row] = header
                if isinstance(picture, ImageFeature) and picture.image.is_too_small(
                    header.height, header.width
                ):
                    faults.add(row, "smaller_than_crop", f"{header.width} x {header.height} pixels")
            else:
                faults.add(row, _reason(header, picture.name), str(header))
        faults.reject(fates)

    def _path(self, row: int, said: str) -> str:
        """Returns a path of the table, which is relative to the table's folder."""
        if FileSystems.get_scheme(said) is not None:
            return said
        folder = posixpath.dirname(self._structure.file(self._structure.sound[row]).path)
        scheme, separator, path = posixpath.join(folder, said).rpartition("://")
        return f"{scheme}{separator}{posixpath.normpath(path)}"

    def _compare(self, mask: MaskFeature, fates: Fates) -> None:
        """Rejects masks that have not the size of their image."""
        faults = _Faults()
        for row in np.flatnonzero(fates.is_alive).tolist():
            ours, of = self._headers[mask.name].get(row), self._headers[mask.mask.of].get(row)
            if ours and of and (ours.width, ours.height) != (of.width, of.height):
                detail = f"{ours.width} x {ours.height}, its image {of.width} x {of.height} pixels"
                faults.add(row, "mask_size", f"the mask has {detail}")
        faults.reject(fates)

    def _locate(self, boxes: BoxesFeature, raw: pa.RecordBatch, fates: Fates) -> None:
        """Finds where the boxes of images lie in what is stored."""
        cells = raw.column(self._spec.column_of(boxes.name))
        headers, faults = self._headers[boxes.boxes.of], _Faults()
        located = self._boxes[boxes.name] = {}
        texts = cells.to_pylist()
        for row in np.flatnonzero(fates.is_alive).tolist():
            text, header = texts[row], headers.get(row)
            if text is None or header is None:  # `missing_<column>` is the last rule.
                continue
            try:
                located[row] = boxes.located(text, header.height, header.width)
            except WrongBoxes as error:
                faults.add(row, error.reason, str(error))
        faults.reject(fates)

    def column(self, name: str) -> pa.Array:
        """Returns what conditions see of a header: int64 (num_records,), null where none is."""
        feature, what = next(
            (feature, what)
            for feature in self._spec.images
            for what in rows.HEADER_COLUMNS
            if name == f"{feature}_{what}"
        )
        headers = self._headers[feature]
        if what == "bytes":
            known = self._sizes_bytes(feature, [*headers])
        else:
            known = [getattr(header, what) for header in headers.values()]
        found: list[int | None] = [None] * self._structure.values.num_rows
        for row, value in zip(headers, known, strict=True):
            found[row] = value
        return pa.array(found, pa.int64())

    def _sizes_bytes(self, feature: str, places: list[int]) -> list[int]:
        column = self._structure.values.column(self._spec.column_of(feature))
        cells = column.take(pa.array(places, pa.int64()))
        if not pa.types.is_string(cells.type):
            return pc.binary_length(cells).to_pylist()
        given = zip(places, cells.to_pylist(), strict=True)
        paths = [self._path(row, said) for row, said in given]
        return list(object_stores.read_each(_size_bytes, paths))

    def kept(self, outcome: rows.Outcome, pack: str) -> pa.RecordBatch:
        """Returns the records that are left as `image_records.Outcome` has them.

        Args:
          outcome: Of the block.
          pack: The file for images that lie in the table itself.
        """
        kept, records = np.flatnonzero(outcome.is_kept), outcome.kept
        left = kept.tolist()
        columns: dict[str, pa.Array] = {}
        with contextlib.ExitStack() as stack:
            file: Any = None
            for picture in self._pictures:
                cells = records.raw.column(self._spec.column_of(picture.name))
                if file is None and not pa.types.is_string(cells.type):
                    file = stack.enter_context(files.created(pack))
                columns |= self._referred(picture, left, cells, pack, file)
        for target in self._targets:
            if isinstance(target, BoxesFeature):
                columns |= target.columns([self._boxes[target.name][row] for row in left])
        places = self._structure.sound[kept]
        columns["source"] = pa.array([self._structure.file(p).path for p in places], pa.string())
        columns["position"] = self._structure.said_places(places)
        label = records.beside.get(LABEL, pa.nulls(len(left), pa.string()))
        columns |= {"label": label, "split": pa.array(records.splits, pa.int8())}
        batch = keys.with_hashes(pa.record_batch(columns), records.hashed)
        if records.keyed is not None:
            batch = keys.with_hashes(batch, records.keyed, keys.KEY_COLUMNS)
        return batch

    def _referred(
        self, picture: _Pictured, left: list[int], cells: pa.Array, pack: str, file: Any
    ) -> dict[str, pa.Array]:
        """Returns where the images of records lie; those of the table are written to the file."""
        if pa.types.is_string(cells.type):
            pairs = zip(left, cells.to_pylist(), strict=True)
            paths = [self._path(row, said) for row, said in pairs]
            starts, ends = [0] * len(left), [-1] * len(left)
        else:
            paths = [pack] * len(left)
            starts, ends = _packed(cells, file)
        headers = [self._headers[picture.name][row] for row in left]
        orientations = [header.orientation for header in headers]
        are_canonical = [picture.is_canonical(header) for header in headers]
        referred = References(paths, starts, ends, orientations, are_canonical)
        return referred.columns(picture.name)


def _packed(cells: pa.Array, file: Any) -> tuple[list[int], list[int]]:
    """Appends images to a file, and returns where each starts and ends there."""
    starts, ends = [], []
    for data in cells:
        starts.append(file.tell())
        file.write(data.as_buffer())
        ends.append(file.tell())
    return starts, ends


class _Faults:
    """What is wrong with records that were looked at one by one."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[int, str]]] = {}

    def add(self, row: int, reason: str, detail: str) -> None:
        """Notes one."""
        self._found.setdefault(reason, []).append((row, detail))

    def reject(self, fates: Fates) -> None:
        """Rejects them all."""
        for reason, found in self._found.items():
            broken, details = zip(*found, strict=True)
            fates.reject_each(broken, reason, details)


def _header(path: str) -> ImageHeader | ValueError:
    """Reads the header of a file; returns what is wrong with it."""
    try:
        return image_records.header(path)
    except DataError:
        if _is_file(path):
            raise
        return _MissingFile(f"{path}: there is no such file")


def _is_file(path: str) -> bool:
    """Whether there is a file, as far as can be known."""
    if files.is_local(path):
        return os.path.isfile(path)
    try:
        return object_stores.is_well_formed(path) and FileSystems.exists(path)
    except ValueError:  # No file system takes such paths.
        return False
    except object_stores.ERRORS:  # One of those that we know may be back later.
        return object_stores.is_in(path)


def _size_bytes(path: str) -> int:
    (matched,) = FileSystems.match([path]) if not files.is_local(path) else [None]
    return matched.metadata_list[0].size_in_bytes if matched else os.path.getsize(path)


def _header_of(data: bytes) -> ImageHeader | ValueError:
    try:
        return image_headers.read_header(data)
    except (UndecodableImage, TooLargeImage) as error:
        return error


def _reason(error: ValueError, feature: str) -> str:
    if isinstance(error, _MissingFile):
        return f"missing_file_{feature}"
    return "too_large_image" if isinstance(error, TooLargeImage) else "undecodable_image"
