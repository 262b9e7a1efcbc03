"""From a spec to a finished dataset."""

import contextlib
import dataclasses
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import (
    beam_ingestion,
    dataset_info,
    earlier,
    engines,
    files,
    filters,
    image_features,
    image_records,
    object_stores,
    parallel,
    pipeline,
    preflight,
    progress,
    rows,
    saved_arrays,
    submission,
    summaries,
    text,
    tft_functions,
)
from beam_jobs.config import Spec, check_train
from beam_jobs.earlier import Earlier
from beam_jobs.errors import DataError, SpecError
from beam_jobs.job import REJECTED_FOLDER, Job, finished_shards
from beam_jobs.shards import PROGRESS_FOLDER, SHARD_PATTERN
from beam_jobs.sources import formats, ingestion, listing, units
from beam_jobs.sources.listing import File
from beam_jobs.versions import versions

_BLOCK_BYTES = 16_000_000
_LEAST_BLOCK_BYTES = 1_000_000  # Of less, what a block costs by itself is seen.
_WANTED_BLOCKS = 16  # With few, most threads wait for the one that has one more.
_MOST_SECONDS_OF_THREADS = 10  # For what they have at hand when a job fails.
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
    transform_from: str | None = None,
    block_mb: float | None = None,
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
      transform_from: A finished dataset whose transform is applied, instead of one that is learned.
      block_mb: Size of the blocks that tables are read in, in MB (10^6 bytes); None for 16, and
        less of an input that would have too few.
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
    _trace(spec)
    given = _earlier(transform_from, spec, output, runner)
    few = _few_files(spec)
    listed = units.of_files(few) if few else None
    if not few and not spec.source.is_ingested:
        with _reached(output):
            # Elsewhere the workers list images: here where there is something to compare with.
            is_here = engines.is_local(runner) or (not overwrite and bool(files.names(output)))
        if is_here or spec.source.format != "images":
            listed = units.list_source(spec.source)
    fingerprint = str(listed.fingerprint) if listed else None
    with _reached(output):
        done = _finished_dataset(spec, fingerprint, output, overwrite, given)
    if done is not None:
        return done
    threads = engines.threads(runner, num_threads)
    with contextlib.ExitStack() as stack:
        ingested = None
        if spec.source.is_ingested:
            with _reached(output):
                _check_output(output)
                ingested = stack.enter_context(_ingest_folder(runner, temp_dir, output))
                with progress.reported(0, 0, show, seconds):
                    made = _ingest(spec, ingested, runner, beam_args, threads, show, seconds)
            few, listed = [*made.files], units.of_files(made.files)
            fingerprint = fingerprint or made.fingerprint
        plan = _plan(few, spec, given)
        with _reached(output):
            job_id = _start(spec, fingerprint, output, overwrite, ingested, given)
        shared = None
        if engines.is_local(runner):
            shared = ingested or stack.enter_context(_temp_folder(temp_dir, output))
            stack.enter_context(engines.quick_beam())
        job = Job(
            spec,
            output,
            shared,
            threads,
            _block_bytes(block_mb, listed),
            job_id,
            given.digest if given else None,
        )
        if given:
            job.save_earlier(given)
        if listed and (plan or shared):
            job.save_listing(listed)
        if listed and engines.is_local(runner):
            passes = _num_passes(spec, given)
            stack.enter_context(progress.reported(listed.size_bytes, passes, show, seconds))
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


def _ingest(
    spec: Spec,
    folder: str,
    runner: str,
    beam_args: Sequence[str],
    threads: int | None,
    show: Callable[[str], None] | None,
    seconds: float,
) -> ingestion.Ingested:
    """Writes the records of a source as Arrow files, here or by a job of Beam's."""
    if not spec.source.is_by_beam:
        return ingestion.ingest(spec, folder, threads or os.cpu_count() or 1)
    options = engines.options(runner, beam_args)  # Of its own: a job has a name of its own.
    show_counts = None if engines.is_local(runner) else show
    return beam_ingestion.ingest(spec, folder, options, show_counts, seconds)


def describe(
    spec: Spec,
    output: str,
    *,
    runner: str = engines.LOCAL,
    beam_args: Sequence[str] = (),
    num_threads: int | None = None,
    transform_from: str | None = None,
    block_mb: float | None = None,
) -> str:
    """Returns the job that `run` would submit, as JSON; nothing is sent, or stays written.

    Args, Raises: As for `run`.
    """
    beam_options = _options(spec, output, runner, beam_args)
    _trace(spec)
    few = _few_files(spec)
    output = _reachable(output, runner)
    given = _earlier(transform_from, spec, output, runner)
    shared = "" if engines.is_local(runner) else None
    threads = engines.threads(runner, num_threads)
    digest = given.digest if given else None
    job = Job(spec, output, shared, threads, _block_bytes(block_mb), transform_from=digest)
    if spec.source.is_by_beam:  # What its records are is known when they are read.
        return engines.described(
            beam_ingestion.pipeline(spec, job.shared_folder, beam_options), beam_options
        )
    with tempfile.TemporaryDirectory() as folder:
        if spec.source.is_ingested:
            few = [*ingestion.ingest(spec, folder, 1, most=1).files]
        plan = _plan(few, spec, given)
    return engines.described(_graph(beam_options, plan, job), beam_options)


def _trace(spec: Spec) -> None:
    """Imports the functions that a spec names, and looks at what they do."""
    image_features.trace(spec)
    filters.trace(spec)
    tft_functions.trace(spec)


def _earlier(folder: str | None, spec: Spec, output: str, runner: str) -> Earlier | None:
    """Returns the dataset whose transform is applied.

    Raises:
      SpecError: It does not fit; or there is none, and the spec has no train split to learn from,
        or a preprocessing_fn whose analyzers could leave no files.
    """
    if folder is None:
        check_train(spec, spec.name)
        if not engines.is_local(runner):
            tft_functions.check_output(spec, output)
        return None
    return earlier.find(folder, spec, output)


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
    read_by_workers = [] if spec.source.is_ingested else inputs
    preflight.check(runner, beam_options, read_by_workers, output)
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


def _block_bytes(block_mb: float | None, listed: units.Listing | None = None) -> int:
    """Returns the size of a block; it depends on no machine, for files of rejected records do."""
    if block_mb is not None:
        return max(1, int(block_mb * 1_000_000))
    if listed is None:
        return _BLOCK_BYTES
    return min(_BLOCK_BYTES, max(_LEAST_BLOCK_BYTES, listed.size_bytes // _WANTED_BLOCKS))


def _few_files(spec: Spec) -> list[File]:
    """Returns the files of a source that has thousands at most; none where each is a record."""
    return [] if spec.source.is_file_a_record else listing.list_files(spec.source)


def _plan(few: Sequence[File], spec: Spec, given: Earlier | None) -> rows.Plan | None:
    """Returns how the columns of a table are read; None for images."""
    if spec.source.format == "images":
        image_records.check(spec)
        return None
    plan = plan_table(few, spec)
    return dataclasses.replace(plan, classes=given.classes_of(spec) if given else None)


def plan_table(few: Sequence[File], spec: Spec) -> rows.Plan:
    """Returns how the columns of a table are read.

    Raises:
      SpecError: The spec does not fit the columns.
      DataError: No file has any.
    """
    text.check(spec)
    summaries.check(spec)
    error: SpecError | None = None
    for columns in formats.of(spec.source).columns(few, spec.source):
        try:
            return rows.plan(spec, columns)
        except SpecError as found:  # More of the columns may be known later.
            error = found
    raise error or DataError(f"{few[0].path}: no file has a header. Give files with records.")


def _num_passes(spec: Spec, given: Earlier | None) -> int:
    """Returns how often all bytes are worked through; 0 where only the table knows how many."""
    if spec.source.format == "images":
        return 2  # Headers and pixels.
    if spec.is_of_images:
        return 0
    passes = 4  # Scan, statistics, transform and writing.
    passes += bool(spec.split.stratified)  # Keys.
    passes += spec.preprocessing_fn is not None and given is None  # TFT's analyzers.
    return passes


def _graph(beam_options: PipelineOptions, plan: rows.Plan | None, job: Job) -> beam.Pipeline:
    """Returns the graph of a job.

    Raises:
      SpecError: Beam does not like the options.
    """
    try:
        graph = beam.Pipeline(options=beam_options)
    except ValueError as error:
        raise SpecError(f"--runner: {' '.join(str(error).split())}") from error
    if plan is None or job.spec.is_of_images:
        pipeline.build_images(graph, job, plan)
    else:
        pipeline.build_table(graph, plan, job)
    return graph


def _finished_dataset(
    spec: Spec, fingerprint: str | None, output: str, overwrite: bool, given: Earlier | None
) -> dict[str, Any] | None:
    """Returns the manifest if the dataset is already there."""
    info = None if overwrite else read_info(output)
    if info is None:
        return None
    before = info.get("transform_from", {}).get("digest")
    for theirs, ours, what in (
        (info.get("spec_digest"), spec.digest, "spec"),
        (before, given.digest if given else None, "transform"),
        # What a function makes is not known yet.
        (info.get("input_fingerprint"), fingerprint or info.get("input_fingerprint"), "input"),
    ):
        if theirs != ours:
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


def _check_output(output: str) -> None:
    """Raises a SpecError if a folder holds files that are no dataset."""
    if files.is_local(output) and os.path.isfile(output):
        raise SpecError(f"{output}: is a file. Give a folder.")
    names = files.names(output)
    if names and PROGRESS_FOLDER not in names and dataset_info.FILE not in names:
        raise SpecError(
            f"{output}: holds files that are no dataset, such as {names[0]!r}. "
            "Give an empty folder."
        )


def _start(
    spec: Spec,
    fingerprint: str | None,
    output: str,
    overwrite: bool,
    ingested: str | None,
    given: Earlier | None,
) -> str:
    """Makes the folder ready, and keeps the shards that an earlier try finished.

    Args:
      spec: What to do.
      fingerprint: Of the input, if it is known.
      output: The folder.
      overwrite: Whether nothing of an earlier try counts.
      ingested: The folder in which the input of this job lies, if it was ingested.
      given: The dataset whose transform is applied, if one is.

    Returns:
      The id of the new job.

    Raises:
      SpecError: The folder holds files that are no dataset.
    """
    _check_output(output)
    names = files.names(output)
    state = {
        "spec_digest": spec.digest,
        "input_fingerprint": fingerprint,
        "versions": versions(),
        "transform_from": given.digest if given else None,
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
        is_beside = any(p.fullmatch(name) for p in dataset_info.BESIDE)
        is_ours = name in _OURS or is_beside
        if name == PROGRESS_FOLDER:
            _clear(files.join(output, name), ingested, keeps_arrays=bool(finished))
        elif is_ours or is_left:
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


def _clear(folder: str, ingested: str | None, *, keeps_arrays: bool) -> None:
    """Removes what is in a folder, but for a folder there, and what finished shards have left."""
    for name in files.names(folder):
        is_array = keeps_arrays and name.endswith(saved_arrays.SUFFIX)
        if not is_array and (ingested is None or name != os.path.basename(ingested)):
            files.remove(files.join(folder, name))


@contextlib.contextmanager
def _ingest_folder(runner: str, temp_dir: str | None, output: str) -> Iterator[str]:
    """Makes a folder for the input of this run: the local runner's own, or one that all share."""
    progress_folder = files.join(output, PROGRESS_FOLDER)
    if engines.is_local(runner):
        if files.is_local(output):
            files.make_folder(progress_folder)
        with _temp_folder(temp_dir, output) as folder:
            yield folder
    else:
        folder = files.join(progress_folder, f"ingested-{uuid.uuid4().hex}")
        files.make_folder(folder)
        yield folder


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
        _remove_in_the_end(folder)


def _remove_in_the_end(folder: str) -> None:
    """Removes a folder in which threads of a failed job may still write."""
    end = time.monotonic() + _MOST_SECONDS_OF_THREADS
    while os.path.exists(folder) and time.monotonic() < end:
        try:
            files.remove(folder)
        except OSError:  # It would be told in the place of what made the job fail.
            time.sleep(0.05)
