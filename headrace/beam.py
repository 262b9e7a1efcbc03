"""Steps of a job for a Beam pipeline of your own."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import earlier, image_features, image_normalization, inspection, rows, tables, values
from beam_jobs.config import SPLITS, Spec, Vector
from beam_jobs.earlier import Earlier
from beam_jobs.errors import DataError, SpecError
from beam_jobs.image_features import ImageFeature
from beam_jobs.image_headers import TooLargeImage, UndecodableImage, read_header
from beam_jobs.run import plan_table
from beam_jobs.sources import blocks, formats, listing
from beam_jobs.transforms import Gather
from headrace import spec as python_spec

_MOST_ROWS = 1024  # Transformed together.


class ReadRecords(beam.PTransform):
    """Reads the records of a table, or texts, that a spec keeps.

    Output: `.kept` PCollection[pa.RecordBatch] of the columns that features read, `split` and what
    the spec has of `label`, `label/NAME` and `weight`, as a job takes them; `.rejected`
    PCollection[dict] of source, position, reason, detail and record. Every record is in one of
    them.
    """

    def __init__(self, spec: python_spec.Spec, block_mb: float = 16):
        """Checks what can be without a look at the files.

        Args:
          spec: Source, filters, split, features and label.
          block_mb: MB of a file that become a batch.

        Raises:
          SpecError: Its records are images, or no files, or its split is stratified.
        """
        super().__init__()
        self._spec, self._block_bytes = spec.model, int(block_mb * 1_000_000)
        source = self._spec.source
        if self._spec.is_of_images or source.is_ingested:
            what = "images" if self._spec.is_of_images else f"format = {source.format!r}"
            raise SpecError(f"ReadRecords: reads files of tables and texts, but no {what}.")
        if self._spec.split.stratified:
            raise SpecError(
                "ReadRecords: has no split.stratified, for which all records are read before the "
                "first one is given. Take fractions alone, or run a job."
            )

    def expand(self, pipeline: Any) -> Any:
        """Lists the files here, and cuts and reads them on the workers.

        Raises:
          SpecError: There is no such file, or no such column in it.
        """
        source = self._spec.source
        files = listing.list_files(source)
        plan = plan_table(files, self._spec)
        for name in ("split", *self._spec.beside_features):
            if name in plan.raw_columns:
                raise SpecError(f"ReadRecords: adds a column {name!r}, but a feature has one.")
        groups = [files] if source.is_file_a_record else [[file] for file in files]
        read = beam.ParDo(_Read(plan)).with_output_types(pa.RecordBatch, rejected=dict)
        return (
            pipeline
            | "Files" >> beam.Create(groups)
            | "Scan" >> beam.FlatMap(formats.scan, source, self._block_bytes)
            | "Gather" >> Gather()
            | "Units" >> beam.FlatMap(_units, source)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> read.with_outputs("rejected", main="kept")
        )


def _units(scanned: Sequence[blocks.Unit], source: Any) -> list[blocks.Unit]:
    ordered = sorted(scanned, key=lambda unit: unit.file.path)
    return formats.of(source).units(ordered)


class _Read(beam.DoFn):
    """Reads the blocks of a unit: kept records as batches, the others one by one."""

    def __init__(self, plan: rows.Plan):
        self._plan = plan

    def process(self, unit: blocks.Unit) -> Iterator[Any]:
        source = self._plan.spec.source
        for structure in formats.of(source).read(unit, source):
            outcome = rows.read_block(structure, self._plan)
            kept = outcome.kept
            if kept.raw.num_rows:
                names = pa.array(SPLITS).take(pa.array(kept.splits))
                batch = kept.raw.append_column("split", names)
                for name, column in kept.beside.items():
                    batch = batch.append_column(name, column)
                yield batch
            for line in outcome.rejected.to_pylist():
                yield beam.pvalue.TaggedOutput("rejected", line)


class ApplyTransform(beam.PTransform):
    """Applies the transform_fn of a finished dataset: the bits that its records hold.

    Input:  PCollection[dict] of records by column, or PCollection[pa.RecordBatch]; of images dicts
      of files by feature. What is missing is None, or not there.
    Output: The same with the stored features in place of the raw columns; other columns stay as
      they are, and a batch without records gives none. Of images arrays in the dtype and order of
      the records, or files where they hold these.
    """

    def __init__(self, folder: str | os.PathLike):
        """Reads the dataset's manifest; workers read its transform_fn from the folder.

        Raises:
          SpecError: There is no finished dataset, or one with masks or boxes.
          DataError: It is damaged, or of another version of the format.
        """
        super().__init__()
        self._folder = os.fspath(folder)
        inspection.read_manifest(self._folder)
        found = earlier.read(self._folder)
        self._digest = found.digest
        if found.spec.targets:
            raise SpecError(f"ApplyTransform: {self._folder} has masks or boxes, which it has not.")

    def expand(self, records: Any) -> Any:
        """Dicts are put together, as one by one they would take a hundred times as long."""
        apply = beam.ParDo(_Apply(self._folder, self._digest))
        if records.element_type is pa.RecordBatch:
            return records | "Apply" >> apply.with_output_types(pa.RecordBatch)
        together = beam.BatchElements(max_batch_size=_MOST_ROWS)
        return records | "Together" >> together | "Apply" >> apply.with_output_types(dict)


class _Apply(beam.DoFn):
    """Transforms a batch, or a list of batches or dicts."""

    def __init__(self, folder: str, digest: str):
        self._folder, self._digest = folder, digest

    def process(self, given: Any) -> Iterator[Any]:
        found = earlier.left(self._folder, self._digest)
        spec = found.spec
        batches = given if isinstance(given, list) else [given]
        if isinstance(batches[0], pa.RecordBatch):
            # What filters a batch may leave nothing of it.
            yield from (_of_batch(batch, found, spec) for batch in batches if batch.num_rows)
        elif spec.is_of_images:
            yield from _of_images(given, found, spec)
        else:
            yield from _of_dicts(given, found, spec)


def _of_batch(batch: pa.RecordBatch, found: Earlier, spec: Spec) -> pa.RecordBatch:
    if spec.is_of_images:
        raise DataError("ApplyTransform: takes images as dicts of files, but a RecordBatch came.")
    given = dict(zip(batch.schema.names, batch.columns, strict=True))
    stored = _stored(given, batch.num_rows, found, spec)
    others = {name: column for name, column in given.items() if name not in spec.inputs}
    return pa.record_batch(others | stored)


def _of_dicts(
    given: Sequence[Mapping[str, Any]], found: Earlier, spec: Spec
) -> Iterator[dict[str, Any]]:
    columns = {name: _array([row.get(name) for row in given], name) for name in spec.inputs}
    stored = pa.record_batch(_stored(columns, len(given), found, spec)).to_pylist()
    for row, features in zip(given, stored, strict=True):
        yield {name: value for name, value in row.items() if name not in spec.inputs} | features


def _array(listed: list[Any], name: str) -> pa.Array:
    try:
        return pa.array(listed, from_pandas=True)  # NaN is missing.
    except pa.ArrowException as error:
        raise DataError(f"ApplyTransform: column {name!r}: {error}") from error


def _stored(
    given: Mapping[str, pa.Array], num_rows: int, found: Earlier, spec: Spec
) -> dict[str, pa.Array]:
    """Returns the stored features of records.

    Raises:
      DataError: A value is of another dtype, is missing where it may not, or becomes infinite.
    """
    missing = pa.nulls(num_rows)
    raw = {
        name: _typed(given.get(name, missing), name, dtype, spec.lists.get(name))
        for name, dtype in spec.inputs.items()
    }
    for name in spec.required:
        if raw[name].null_count:
            raise DataError(
                f"ApplyTransform: column {name!r} is missing in a record; the spec "
                "rejects such. Filter them out, or set `missing` in the spec of the dataset."
            )
    for name, feature in spec.columns.items():
        outside = feature.bound and rows.are_outside(raw[str(feature.column)], feature.bound)
        if outside and pc.any(outside).as_py():
            raise DataError(
                f"ApplyTransform: features.{name}: {' and '.join(feature.transforms)} cannot take "
                "a value, which a job rejects. Filter such out."
            )
    stored = tables.apply_transform_fn(found.transform, pa.record_batch(raw), spec, {})
    if (broken := tables.infinite(stored)) is not None:
        raise DataError(f"ApplyTransform: features.{broken}: a value becomes NaN or infinite.")
    return stored


def _typed(column: pa.Array, name: str, dtype: str, vector: Vector | None = None) -> pa.Array:
    """Returns a column as transform_fn takes it: lists of numbers where a vector is made of it."""
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    try:
        if vector is not None:
            return _lists(column, dtype, vector)
        if dtype == "timestamp":  # Whole numbers are microseconds since 1970 already.
            is_number = pa.types.is_integer(column.type) or pa.types.is_null(column.type)
            wide = pa.int64() if is_number else pa.timestamp("us")
            return column.cast(wide).cast(pa.int64())
        if is_text != (dtype == "string") and not pa.types.is_null(column.type):
            raise pa.ArrowTypeError(f"it is {column.type}")
        if dtype != "float32":
            return column.cast(values.ARROW_TYPES[dtype])
        wide = column.cast(pa.float64(), safe=False)
        return values.to_float32(pc.if_else(pc.is_nan(wide), None, wide))[0]
    except pa.ArrowException as error:
        raise DataError(f"ApplyTransform: column {name!r} must be {dtype}: {error}.") from error


def _lists(column: pa.Array, dtype: str, vector: Vector) -> pa.ListArray:
    lists = column.cast(pa.list_(values.ARROW_TYPES[dtype]))
    lengths = set(pc.list_value_length(lists).drop_null().to_pylist())
    if vector.size is not None and lengths - {vector.size}:
        raise pa.ArrowInvalid(f"it has {min(lengths - {vector.size})} of {vector.size} numbers")
    return lists


def _of_images(
    given: Sequence[Mapping[str, Any]], found: Earlier, spec: Spec
) -> Iterator[dict[str, Any]]:
    """Yields records with what is stored of their images.

    Raises:
      DataError: An image is missing or broken.
    """
    made = {
        feature.name: _arrays([row.get(feature.name) for row in given], feature)
        for feature in image_features.of(spec, found.transform)
    }
    for row, *stored in zip(given, *made.values(), strict=True):
        yield dict(row) | dict(zip(made, stored, strict=True))


def _arrays(files: Sequence[Any], feature: ImageFeature) -> Any:
    try:
        headers = [read_header(file or b"") for file in files]
    except (UndecodableImage, TooLargeImage) as error:
        raise DataError(f"ApplyTransform: features.{feature.name}: {error}.") from error
    orientations = [header.orientation for header in headers]
    are_canonical = [feature.is_canonical(header) for header in headers]
    decoded, broken = feature.decode(files, orientations, are_canonical)
    for _, detail in broken.values():
        raise DataError(f"ApplyTransform: features.{feature.name}: {detail}.")
    if feature.image.is_encoded:
        return decoded.stored
    if feature.transform is None:
        return image_normalization.to_stored(decoded.stored, feature.image)
    return decoded.stored.astype(image_normalization.DTYPES[feature.image.store], copy=False)
