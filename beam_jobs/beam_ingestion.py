"""What a PTransform gives, written as Arrow files by a job that runs before the dataset's.

Its elements are records, and have no order. Files that a broken bundle leaves are no part of it:
what counts is what the engine passes on to the one task that lists them.
"""

import dataclasses
import functools
import json
import operator
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.transforms.window import GlobalWindows

from beam_jobs import files, functions, parallel, progress, submission, versions
from beam_jobs.config import Spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import elements
from beam_jobs.sources.arrays import PIECE_BYTES, UnfitValue
from beam_jobs.sources.arrow_files import SOURCE
from beam_jobs.sources.ingestion import FILE_BYTES, Ingested
from beam_jobs.sources.listing import File
from beam_jobs.sources.units import Fingerprint
from beam_jobs.transforms import Gather

_LIST = "written.json"
_ELEMENTS_AT_ONCE = 65_536


def ingest(
    spec: Spec,
    folder: str,
    options: PipelineOptions,
    show: Callable[[str], None] | None,
    seconds: float,
) -> Ingested:
    """Runs the job, and returns what it wrote.

    Args:
      spec: With a source of the format beam or bigquery.
      folder: Where to write, which all workers reach.
      options: Of Beam.
      show: Takes a line that says how far the job is.
      seconds: Between two such lines.

    Raises:
      SpecError: There is no such PTransform, or the engine only writes a template.
      DataError: The job fails, or gives no record.
    """
    name = said(spec)
    graph = pipeline(spec, folder, options)
    try:
        if not submission.run(graph, options, show, seconds):
            raise SpecError(
                f"source.format: a template cannot have {spec.source.format!r}, whose records are "
                "read before the job. Leave out --template_location."
            )
    except (DataError, SpecError):
        raise
    except Exception as error:  # What a user's function raises ends the job in this process.
        raise DataError(
            f"{name}: raised {functions.said(error)}. Nothing is published; mend it and run again."
        ) from error
    listed = files.read(files.join(folder, _LIST))
    if listed is None:
        raise DataError(f"{name}: there is no record. Give some.")
    found = [_Written(*fields) for fields in json.loads(listed)]
    prints = (Fingerprint(one.first, one.last) for one in found)
    return Ingested(
        tuple(File(files.join(folder, one.name), one.name, one.size_bytes, 0) for one in found),
        str(functools.reduce(operator.add, prints)),
    )


def said(spec: Spec) -> str:
    """Returns whence the records come, for people."""
    source = spec.source
    return str(source.transform or source.table or "source.query")


def pipeline(spec: Spec, folder: str, options: PipelineOptions) -> beam.Pipeline:
    """Returns the graph of the job.

    Raises:
      SpecError: The spec names no PTransform that makes a PCollection, or what BigQuery needs is
        not there.
    """
    transform = _of_bigquery(spec, options) if spec.source.format == "bigquery" else _of_user(spec)
    name = said(spec)
    try:
        graph = beam.Pipeline(options=options)
        made = graph | "Read" >> transform
    except Exception as error:  # A user's PTransform may raise anything.
        raise SpecError(f"{name}: raised {functions.said(error)} in its expand.") from error
    if not isinstance(made, beam.PCollection):
        raise SpecError(f"{name}: gives a {type(made).__name__}, but must give one PCollection.")
    if not made.is_bounded:
        raise SpecError(f"{name}: gives a PCollection without an end. Read a part that has one.")
    (
        made
        | "OneWindow" >> beam.WindowInto(GlobalWindows())
        | "WriteElements" >> beam.ParDo(_WriteElements(name, folder))  # _Written, one a file
        | "Written" >> Gather()
        | "List" >> beam.Map(_list, folder)
    )
    return graph


def _of_user(spec: Spec) -> beam.PTransform:
    name = spec.source.transform or ""
    function = functions.load(name, spec.folder, "source.transform")
    try:
        transform = function()
    except (Exception, SystemExit) as error:
        raise SpecError(f"source.transform: {name} raised {functions.said(error)}.") from error
    if not isinstance(transform, beam.PTransform):
        raise SpecError(
            f"source.transform: {name} returned a {type(transform).__name__}, but must return a "
            "PTransform."
        )
    return transform


def _of_bigquery(spec: Spec, options: PipelineOptions) -> beam.PTransform:
    try:
        from apache_beam.internal.gcp import auth
        from apache_beam.io.gcp.bigquery import ReadFromBigQuery
        from apache_beam.io.gcp.internal.clients import bigquery  # noqa: F401
    except ImportError as error:
        raise SpecError(
            f"source.format: 'bigquery' needs Beam's extra `gcp`: {error}. pip install "
            "'apache-beam[gcp]'."
        ) from error
    cloud = options.view_as(GoogleCloudOptions)
    for flag in ("project", "temp_location"):
        if not getattr(cloud, flag):
            raise SpecError(
                f"--{flag}: 'bigquery' exports to Cloud Storage and reads that. Give -- "
                "--project=PROJECT --temp_location=gs://BUCKET/FOLDER."
            )
    if not cloud.no_auth and auth.get_service_credentials(options) is None:
        raise SpecError(
            "source.format: 'bigquery' finds no credentials of Google's. Run `gcloud auth "
            "application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS."
        )
    if spec.source.query:
        return ReadFromBigQuery(
            query=spec.source.query, use_standard_sql=True, flatten_results=False
        )
    return ReadFromBigQuery(table=spec.source.table)


@dataclasses.dataclass(frozen=True, order=True)
class _Written:
    """A file: its name, its size, and the fingerprint of its records."""

    name: str
    size_bytes: int
    first: int
    last: int


def _list(written: list[_Written], folder: str) -> None:
    """Leaves the list of files where the launcher finds it."""
    listed = json.dumps([dataclasses.astuple(one) for one in sorted(written)])
    files.write(files.join(folder, _LIST), listed.encode())


class _WriteElements(beam.DoFn):
    """Writes the elements of a bundle as Arrow files, and passes on what they are.

    Input:  dicts by column, NamedTuples, rows of Beam, RecordBatches.
    Output: _Written, one a file.
    """

    _file: "_File | None" = None

    def __init__(self, said: str, folder: str):
        self._said, self._folder = said, folder
        self._versions = versions.versions()

    def setup(self) -> None:
        versions.check(self._versions)

    def start_bundle(self) -> None:
        self._file = None
        self._forget()

    def _forget(self) -> None:
        self._elements: list[Any] = []
        self._num_bytes = 0

    def process(self, element: Any) -> Iterator[_Written]:
        if isinstance(element, (pa.RecordBatch, pa.Table)):
            yield from self._flush()
            yield from self._write(elements.of_arrow, element)
            return
        self._elements.append(element)
        self._num_bytes += elements.size_bytes(element)
        if self._num_bytes >= PIECE_BYTES or len(self._elements) >= _ELEMENTS_AT_ONCE:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(parallel.windowed, [*self._flush(), *self._close()])
        progress.report()

    def _flush(self) -> Iterator[_Written]:
        if self._elements:
            found = self._elements
            self._forget()
            yield from self._write(elements.batch, found)

    def _write(self, columns: Callable[[Any], pa.RecordBatch], found: Any) -> Iterator[_Written]:
        try:
            batch = columns(found)
        except UnfitValue as error:
            raise DataError(f"{self._said}: {error}.") from error
        progress.count("ingesting", batch.nbytes, batch.num_rows)
        if self._file and (self._file.schema != batch.schema or self._file.size >= FILE_BYTES):
            yield from self._close()
        self._file = self._file or _File(batch.schema, {SOURCE: self._said})
        self._file.write(batch)

    def _close(self) -> Iterator[_Written]:
        if self._file:
            yield self._file.close(self._folder)
        self._file = None


class _File:
    """An Arrow file in memory."""

    def __init__(self, schema: pa.Schema, metadata: Mapping[bytes, str]):
        self.schema = schema
        self._sink = pa.BufferOutputStream()
        self._writer = pa.ipc.new_file(self._sink, schema.with_metadata(metadata))
        self._fingerprint = Fingerprint()

    @property
    def size(self) -> int:
        return self._sink.tell()

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)
        self._fingerprint += elements.fingerprint(batch)

    def close(self, folder: str) -> _Written:
        self._writer.close()
        data = self._sink.getvalue()
        name = f"records-{uuid.uuid4().hex}.arrow"  # Another attempt may write another part.
        files.write(files.join(folder, name), data)
        return _Written(name, data.size, self._fingerprint.first, self._fingerprint.last)
