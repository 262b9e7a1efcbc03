"""From a spec to a finished dataset."""

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam_jobs import (
    dataset_info,
    engines,
    files,
    image_records,
    object_stores,
    parallel,
    pipeline,
    progress,
    rows,
)
from beam_jobs.config import Spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.job import REJECTED_FOLDER, Job, finished_shards
from beam_jobs.shards import PROGRESS_FOLDER, SHARD_PATTERN
from beam_jobs.sources import csv_files, listing
from beam_jobs.sources.listing import File

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
      num_threads: Threads that a worker uses; None for one a core.
      temp_dir: Local folder for the shuffle; None for the dataset folder, if that is local.
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
    beam_options = engines.options(runner, beam_args)
    FileSystems.set_options(beam_options)  # Before the first look at a bucket.
    if not output:
        raise SpecError("--output: must name a folder, but is empty. Give a folder.")
    for option, folder in (("--output", output), ("--temp-dir", temp_dir or "")):
        _check_folder(option, folder)
    for path in (output, *itertools.chain(*spec.source.split_paths.values())):
        object_stores.check(path)
    listed = listing.list_files(spec.source)
    fingerprint = listing.fingerprint(listed)
    with _reached(output):
        done = _finished_dataset(spec, fingerprint, output, overwrite)
    if done is not None:
        return done
    plan = None if spec.source.format == "images" else _plan(listed, spec)
    if plan is None:
        image_records.check(spec)
    with _reached(output):
        finished = _start(spec, fingerprint, output, overwrite)
    with contextlib.ExitStack() as stack:
        shared = None
        if engines.is_local(runner):
            shared = stack.enter_context(_temp_folder(temp_dir, output))
            stack.enter_context(engines.quick_beam())
        job = Job(
            spec,
            output,
            fingerprint,
            shared,
            num_threads or os.cpu_count() or 1,
            max(1, int(block_mb * 1_000_000)),
            finished,
        )
        passes = 2 if plan is None else 3  # Headers and pixels; or scan, statistics and writing.
        total_bytes = passes * sum(file.size_bytes for file in listed)
        if engines.is_local(runner):
            stack.enter_context(progress.reported(total_bytes, show, seconds))
        graph = beam.Pipeline(options=beam_options)
        if plan is None:
            pipeline.build_images(graph, listed, job)
        else:
            pipeline.build_table(graph, listed, plan, job)
        show_counts = None if engines.is_local(runner) else show
        if not engines.run(graph, beam_options, show_counts, seconds):
            return {}
    info = read_info(output)
    if info is None:
        raise DataError(
            f"{output}: the job is done, but nothing is here: its workers wrote elsewhere. Give a "
            "folder that all machines share."
        )
    files.remove(files.join(output, PROGRESS_FOLDER))
    return info


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


def _plan(listed: Sequence[File], spec: Spec) -> rows.Plan:
    csv_files.dialect(spec.source)
    for file in listed:
        columns = csv_files.read_columns(file, spec.source)
        if columns:
            return rows.plan(spec, columns)
    raise DataError(f"{listed[0].path}: no file has a header. Give files with records.")


def _finished_dataset(
    spec: Spec, fingerprint: str, output: str, overwrite: bool
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


def _start(spec: Spec, fingerprint: str, output: str, overwrite: bool) -> dict[str, Any]:
    """Makes the folder ready and returns the shards that an earlier try finished.

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
        "versions": dataset_info.versions(),
    }
    state_file = files.join(output, PROGRESS_FOLDER, "job.json")
    before = files.read(state_file)
    finished = {}
    if before is not None and _json(before) == state and not overwrite:
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
    files.write(state_file, json.dumps(state).encode())
    for result in finished.values():
        Job(spec, output, fingerprint, "", 1, 1).save(result)
    return finished


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
