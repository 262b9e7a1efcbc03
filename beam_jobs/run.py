"""From a spec to a finished dataset."""

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import (
    dataset_info,
    engines,
    files,
    image_records,
    object_stores,
    parallel,
    pipeline,
    preflight,
    progress,
    rows,
    submission,
)
from beam_jobs.config import Spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.job import REJECTED_FOLDER, Job, finished_shards
from beam_jobs.shards import PROGRESS_FOLDER, SHARD_PATTERN
from beam_jobs.sources import csv_files, listing, units
from beam_jobs.sources.listing import File
from beam_jobs.versions import versions

BLOCK_MB = 16.0
_OURS = (
    PROGRESS_FOLDER,
    "transform_fn",
    "transformed_metadata",
    "schema.pbtxt",
    "statistics.pb",
    "report.html",
)


def run(
    spec: Spec,
    output: str,
    *,
    runner: str = engines.LOCAL,
    beam_args: Sequence[str] = (),
    num_threads: int | None = None,
    temp_dir: str | None = None,
    overwrite: bool = False,
    block_mb: float = BLOCK_MB,
    show: Callable[[str], None] | None = None,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Runs a spec.

    A dataset that is already there, made by the same spec of the same input, is left as it is. A
    job that was killed goes on where it can: shards that are finished and intact are kept.

    Args:
      spec: What to do.
      output: The dataset folder.
      runner: "local", or a runner that Beam knows.
      beam_args: Flags for Beam, as they are.
      num_threads: Threads that a worker uses; None for one a core, and one on Dataflow.
      temp_dir: Local folder for the local runner's shuffle; None for the dataset folder, if that
        is local.
      overwrite: Whether a dataset of another spec or input may be replaced.
      block_mb: Size of the blocks that tables are read in, in MB (10^6 bytes).
      show: Takes a line that says how far the job is.
      seconds: Between two such lines.

    Returns:
      What `dataset_info.json` says; nothing for a job that was only written as a template.

    Raises:
      SpecError: The spec does not fit the input, or the output folder holds something else.
      DataError: The data or the job failed.
    """
    parallel.run_ops_in_one_thread()
    beam_options = _options(spec, output, runner, beam_args)
    _check_folder("--temp-dir", temp_dir or "")
    if temp_dir and not engines.is_local(runner):
        raise SpecError(
            "--temp-dir: is the local runner's; workers elsewhere take the temporary folder of "
            "their own machine. Leave it out."
        )
    output = _reachable(output, runner)
    is_table = spec.source.format == "csv"
    csv = listing.list_files(spec.source) if is_table else []
    listed = units.of_files(csv) if is_table else None
    if not is_table:
        with _reached(output):
            # Elsewhere the workers list images: here where there is something to compare with.
            is_here = engines.is_local(runner) or (not overwrite and bool(files.names(output)))
        if is_here:
            listed = units.list_source(spec.source)
    fingerprint = str(listed.fingerprint) if listed else None
    with _reached(output):
        done = _finished_dataset(spec, fingerprint, output, overwrite)
    if done is not None:
        return done
    plan = _plan(csv, spec)
    with _reached(output):
        job_id = _start(spec, fingerprint, output, overwrite)
    with contextlib.ExitStack() as stack:
        shared = None
        if engines.is_local(runner):
            shared = stack.enter_context(_temp_folder(temp_dir, output))
            stack.enter_context(engines.quick_beam())
        job = Job(
            spec,
            output,
            shared,
            engines.threads(runner, num_threads),
            _block_bytes(block_mb),
            job_id,
        )
        if listed and (plan or shared):
            job.save_listing(listed)
        passes = 2 if plan is None else 3  # Headers and pixels; or scan, statistics and writing.
        if listed and engines.is_local(runner):
            stack.enter_context(progress.reported(passes * listed.size_bytes, show, seconds))
        listed = None  # From here on it lies in the progress folder.
        graph = _graph(beam_options, plan, job)
        show_counts = None if engines.is_local(runner) else show
        if not submission.run(graph, beam_options, show_counts, seconds):
            return {}
    info = read_info(output)
    if info is None:
        raise DataError(
            f"{output}: the job is done, but nothing is here: its workers wrote elsewhere. Give a "
            "folder that all machines share."
        )
    files.remove(files.join(output, PROGRESS_FOLDER))
    return info


def describe(
    spec: Spec,
    output: str,
    *,
    runner: str = engines.LOCAL,
    beam_args: Sequence[str] = (),
    num_threads: int | None = None,
    block_mb: float = BLOCK_MB,
) -> str:
    """Returns the job that `run` would submit, as JSON; nothing is listed, sent or written.

    Args, Raises: As for `run`.
    """
    beam_options = _options(spec, output, runner, beam_args)
    csv = listing.list_files(spec.source) if spec.source.format == "csv" else []
    output = _reachable(output, runner)
    shared = "" if engines.is_local(runner) else None
    threads = engines.threads(runner, num_threads)
    job = Job(spec, output, shared, threads, _block_bytes(block_mb))
    return engines.described(_graph(beam_options, _plan(csv, spec), job), beam_options)


def _reachable(output: str, runner: str) -> str:
    """Returns the folder as workers name it, whose current folder is another one."""
    is_here = engines.is_local(runner) or not files.is_local(output)
    return output if is_here else os.path.abspath(output)


def _options(spec: Spec, output: str, runner: str, beam_args: Sequence[str]) -> PipelineOptions:
    """Returns Beam's options when all that they name can be reached."""
    beam_options = engines.options(runner, beam_args)
    FileSystems.set_options(beam_options)  # Before the first look at a bucket.
    if not output:
        raise SpecError("--output: must name a folder, but is empty. Give a folder.")
    _check_folder("--output", output)
    inputs = [path for paths in spec.source.split_paths.values() for path in paths]
    preflight.check(runner, beam_options, inputs, output)
    for path in (output, *inputs):
        object_stores.check(path)
    return beam_options


def _check_folder(option: str, folder: str) -> None:
    """Raises a SpecError for a folder that we, or TensorFlow, which writes there, cannot take."""
    try:
        folder.encode()
        FileSystems.get_filesystem(folder)
    except UnicodeEncodeError as error:
        name = os.fsencode(folder)
        raise SpecError(f"{option}: {name!r} is not UTF-8. Give another folder.") from error
    except ValueError as error:
        raise SpecError(f"{option}: {folder!r}: {error}") from error
    if found := set("*?[") & set(folder):
        raise SpecError(
            f"{option}: {folder!r} holds {min(found)!r}, which TensorFlow takes for a pattern. "
            "Give another folder."
        )


def read_info(output: str) -> dict[str, Any] | None:
    """Returns what the manifest of a folder says; None if there is no finished dataset.

    Raises:
      SpecError: It is damaged.
    """
    path = files.join(output, dataset_info.FILE)
    data = files.read(path)
    info = None if data is None else _json(data)
    if data is not None and not isinstance(info, dict):
        raise SpecError(f"{path}: is damaged. Give --overwrite to make the dataset again.")
    return info


def _json(data: bytes) -> Any:
    """Returns what JSON says; None where it is none."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _block_bytes(block_mb: float) -> int:
    return max(1, int(block_mb * 1_000_000))


def _plan(csv: Sequence[File], spec: Spec) -> rows.Plan | None:
    """Returns how the columns of CSV files are read; None for images."""
    if spec.source.format == "images":
        image_records.check(spec)
        return None
    csv_files.dialect(spec.source)
    for file in csv:
        columns = csv_files.read_columns(file, spec.source)
        if columns:
            return rows.plan(spec, columns)
    raise DataError(f"{csv[0].path}: no file has a header. Give files with records.")


def _graph(beam_options: PipelineOptions, plan: rows.Plan | None, job: Job) -> beam.Pipeline:
    """Returns the graph of a job.

    Raises:
      SpecError: Beam does not like the options.
    """
    try:
        graph = beam.Pipeline(options=beam_options)
    except ValueError as error:
        raise SpecError(f"--runner: {' '.join(str(error).split())}") from error
    if plan is None:
        pipeline.build_images(graph, job)
    else:
        pipeline.build_table(graph, plan, job)
    return graph


def _finished_dataset(
    spec: Spec, fingerprint: str | None, output: str, overwrite: bool
) -> dict[str, Any] | None:
    """Returns the manifest if the dataset is already there."""
    info = None if overwrite else read_info(output)
    if info is None:
        return None
    for key, ours, what in (
        ("spec_digest", spec.digest, "spec"),
        ("input_fingerprint", fingerprint, "input"),
    ):
        if info.get(key) != ours:
            raise SpecError(
                f"{output}: holds the dataset {info.get('name')!r}, made of another {what}. Give "
                "another folder, or --overwrite to replace it."
            )
    files.remove(files.join(output, PROGRESS_FOLDER))  # Of a launcher that ended just before.
    return info


@contextlib.contextmanager
def _reached(output: str) -> Iterator[None]:
    """Says in a line what an object store has against our looking and writing there."""
    try:
        yield
    except object_stores.ERRORS as error:
        if files.is_local(output):
            raise
        raise SpecError(
            f"--output: {output!r} cannot be used: {object_stores.fault(error)}. Correct the "
            "bucket or its permissions, or give other credentials."
        ) from error


def _start(spec: Spec, fingerprint: str | None, output: str, overwrite: bool) -> str:
    """Makes the folder ready, and keeps the shards that an earlier try finished.

    Returns:
      The id of the new job.

    Raises:
      SpecError: The folder holds files that are no dataset.
    """
    if files.is_local(output) and os.path.isfile(output):
        raise SpecError(f"{output}: is a file. Give a folder.")
    names = files.names(output)
    if names and PROGRESS_FOLDER not in names and dataset_info.FILE not in names:
        raise SpecError(
            f"{output}: holds files that are no dataset, such as {names[0]!r}. "
            "Give an empty folder."
        )
    state = {
        "spec_digest": spec.digest,
        "input_fingerprint": fingerprint,
        "versions": versions(),
    }
    before = _json(files.read(files.join(output, PROGRESS_FOLDER, "job.json")) or b"")
    finished = {}
    if isinstance(before, dict) and not overwrite:
        if {name: before.get(name) for name in state} == state:
            finished = finished_shards(output)
    files.remove(files.join(output, dataset_info.FILE))  # First: from here on it is no dataset.
    for name in names:
        is_shard = SHARD_PATTERN.fullmatch(name) is not None
        is_left = name.endswith(files.TEMPORARY) or (is_shard and name not in finished)
        if name in _OURS or is_left:
            files.remove(files.join(output, name))
    # A finished shard is not decoded again: what it rejected then stays.
    kept = {result.rejected_name for result in finished.values()}
    rejected = files.join(output, REJECTED_FOLDER)
    for name in files.names(rejected):
        if name not in kept:
            files.remove(files.join(rejected, name))
    for folder in (output, files.join(output, PROGRESS_FOLDER), rejected):
        files.make_folder(folder)
    job = Job(spec, output, None, 1, 1, uuid.uuid4().hex)
    job.save_state({**state, "finished": list(finished)})
    for result in finished.values():
        job.save(result)
    return job.id


@contextlib.contextmanager
def _temp_folder(temp_dir: str | None, output: str) -> Iterator[str]:
    """Makes a folder of this run's own: in the dataset's, so that a killed run leaves nothing."""
    if temp_dir is None and files.is_local(output):
        temp_dir = os.path.join(output, PROGRESS_FOLDER)
    try:
        folder = tempfile.mkdtemp(prefix="headrace-", dir=temp_dir)
    except OSError as error:
        raise SpecError(f"{temp_dir}: {error.strerror}. Give another --temp-dir.") from error
    try:
        yield folder
    finally:
        files.remove(folder)
