"""What Python has in memory, or makes, written once as Arrow files that every worker can read.

The metadata of a file's schema say whence its records come, and the number of the first one there:
what becomes of a record is told with these.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator

import pyarrow as pa

from beam_jobs import files, functions, progress
from beam_jobs.config import Spec
from beam_jobs.errors import DataError
from beam_jobs.sources import keras_datasets, listing, npz_files, python_function
from beam_jobs.sources.arrays import PIECE_BYTES
from beam_jobs.sources.arrow_files import FIRST, SOURCE
from beam_jobs.sources.listing import File

FILE_BYTES = 64_000_000


@dataclasses.dataclass(frozen=True)
class Ingested:
    """What was written.

    Attributes:
      files: The Arrow files, in the order of the records.
      fingerprint: A hash of all that they hold: 32 hexadecimal digits.
    """

    files: tuple[File, ...]
    fingerprint: str


def ingest(spec: Spec, folder: str, num_threads: int, most: int | None = None) -> Ingested:
    """Writes the records of a source as Arrow files; what they hold depends on the records alone.

    Args:
      spec: With a source of the format numpy, keras or python.
      folder: Where to write them.
      num_threads: How many items of a PyDataset are made at a time.
      most: How many batches to take, where a look at the columns is enough.

    Raises:
      SpecError: A path matches nothing, or there is no such function or data.
      DataError: There is no record, or what was given is no table.
    """
    writer = _Writer(folder)
    for said, split, batch in itertools.islice(_batches(spec, num_threads), most):
        writer.write(said, split, batch)
        progress.count("ingesting", batch.nbytes, batch.num_rows)
    return writer.close()


def _batches(spec: Spec, num_threads: int) -> Iterator[tuple[str, str | None, pa.RecordBatch]]:
    """Yields whence some records come, the split that this decides, and them."""
    source = spec.source
    if source.format == "numpy":
        for file in listing.list_files(source):
            for batch in npz_files.batches(file.path):
                yield file.path, file.split, batch
    elif source.format == "keras":
        for batch in keras_datasets.batches(source.dataset or ""):
            yield source.dataset or "", None, batch
    else:
        name = source.function or ""
        function = functions.load(name, spec.folder, "source.function")
        for batch in python_function.batches(name, function, num_threads):
            yield name, None, batch


class _Writer:
    """Writes batches as they come: a file whenever there is enough, and never a part of one."""

    def __init__(self, folder: str):
        self._folder = folder
        self._schema: pa.Schema | None = None
        self._said, self._first = "", 1
        self._split: str | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._sink: pa.BufferOutputStream | None = None
        self._files: list[File] = []
        self._hash = hashlib.sha256()

    def write(self, said: str, split: str | None, batch: pa.RecordBatch) -> None:
        """Takes records.

        Raises:
          DataError: Their columns are not those of the records before.
        """
        self._schema = self._schema or batch.schema
        if batch.schema != self._schema:
            batch = _ordered(batch, self._schema, said)
        if (said, split) != (self._said, self._split):
            self._end_file()
            self._said, self._split, self._first = said, split, 1
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= PIECE_BYTES:
            self._flush()

    def close(self) -> Ingested:
        """Ends the last file.

        Raises:
          DataError: There is no record.
        """
        self._end_file()
        if not self._files:
            raise DataError("source: there is no record. Give some.")
        return Ingested(tuple(self._files), self._hash.hexdigest()[:32])

    def _flush(self) -> None:
        """Writes what is pending as one batch, so that small items make no small batches."""
        batches = self._pending
        if len(batches) > 1:
            table = pa.Table.from_batches(batches, self._schema)
            batches = table.combine_chunks().to_batches()
        self._pending, self._pending_bytes = [], 0
        for batch in batches:
            if self._sink is None:
                self._sink = pa.BufferOutputStream()
                place = {SOURCE: self._said, FIRST: str(self._first)}
                self._writer = pa.ipc.new_file(self._sink, batch.schema.with_metadata(place))
            self._writer.write_batch(batch)
            self._first += batch.num_rows
        if self._sink and self._sink.tell() >= FILE_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self._pending:
            self._flush()
        if self._sink is None:
            return
        self._writer.close()
        data, self._sink = self._sink.getvalue(), None
        name = f"records-{len(self._files):05d}.arrow"
        path = files.join(self._folder, name)
        files.write(path, data)
        self._hash.update(f"{self._split} ".encode())
        self._hash.update(data)
        self._files.append(File(path, name, data.size, 0, self._split))


def _ordered(batch: pa.RecordBatch, schema: pa.Schema, said: str) -> pa.RecordBatch:
    """Returns a batch with its columns in the order of a schema.

    Raises:
      DataError: They are others.
    """
    if {*batch.schema} != {*schema}:
        raise DataError(
            f"{said}: the columns are {_columns(batch.schema)}, but those before it have "
            f"{_columns(schema)}. Give one set of columns."
        )
    return batch.select(schema.names)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(sorted(f"{field.name} ({field.type})" for field in schema))
