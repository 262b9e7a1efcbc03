"""Datasets on gs:// and s3://, and on slow disks: copied to a local folder, checked, once.

TensorFlow knows no s3://, and reads gs:// record by record, without a look at the manifest's sums.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import google_crc32c

from trainer import object_stores
from trainer.dataset_info import FILE_NAME, DatasetInfo, Shard
from trainer.errors import DatasetError, UsageError
from trainer.object_stores import is_remote

TRANSFORM_FN = "transform_fn"
_THREADS = 8  # Google's and Amazon's clients keep ten connections.
_CHUNK_BYTES = 4 << 20
_PARTIAL = ".partial-"


def fetch(
    info: DatasetInfo, splits: Sequence[str], folder: str | os.PathLike, *, verbose: bool = True
) -> str:
    """Copies the splits of a dataset, its manifest and its transform_fn to a local folder.

    What is there already, whole and of the right content, is not copied again.

    Args:
      info: The dataset, on a path or URL.
      splits: Names of those to copy.
      folder: The cache, on a local disk; made if need be. Each dataset has a folder in it, and
        processes that want the same one wait for each other.
      verbose: Whether to say on stderr how much is copied, before it is.

    Returns:
      The dataset's folder in the cache.

    Raises:
      UsageError: There is no such split, not enough space, no permission, or no answer.
      DatasetError: A file is missing or damaged at its source.
    """
    target = _target(info, folder)
    with _alone_in(target):
        for split in splits:
            _copy_split(info, split, target, verbose)
        beside = info.statistics_files
        names = [FILE_NAME, *beside, *_files_below(info.directory, TRANSFORM_FN)]
        _in_threads(functools.partial(_copy, info.directory, target), names)
    return target


def cached(
    info: DatasetInfo, split: str, folder: str | os.PathLike, *, verbose: bool = True
) -> DatasetInfo:
    """Returns the dataset as it lies in the cache, where the shards of a split are after this.

    Args and errors are those of `fetch`.
    """
    target = _target(info, folder)
    with _alone_in(target):
        _copy_split(info, split, target, verbose)
    return dataclasses.replace(info, directory=target)


def _target(info: DatasetInfo, folder: str | os.PathLike) -> str:
    """Returns the folder for a dataset: another one for each place that it may come from."""
    source = info.directory if is_remote(info.directory) else os.path.abspath(info.directory)
    place = f"{google_crc32c.value(source.encode()):08x}"
    name = re.sub(r"[^\w-]", "_", info.name)  # It comes from the manifest.
    return os.path.join(os.fspath(folder), f"{name}-{place}")


@contextlib.contextmanager
def _alone_in(target: str) -> Iterator[None]:
    """Makes the folder, and lets one process at a time work in it."""
    try:
        os.makedirs(target, exist_ok=True)
        with open(os.path.join(target, ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{target}: the cache cannot be used: {reason}.") from error


def _copy_split(info: DatasetInfo, split: str, target: str, verbose: bool) -> None:
    """Copies the shards that are not there already, or not as the manifest says."""
    missing = [
        shard
        for shard, fault in _in_threads(
            lambda shard: (shard, _fault(os.path.join(target, shard.file), shard)),
            info.split(split).shards,
        )
        if fault
    ]
    num_bytes = sum(shard.bytes for shard in missing)
    if not missing:
        return
    free = shutil.disk_usage(target).free
    if num_bytes > free:
        raise UsageError(
            f"{target}: caching {split} of {info.directory} needs {_size(num_bytes)}, but the disk "
            f"has {_size(free)} left. Take another folder, or make room."
        )
    if verbose:
        print(
            f"caching {_size(num_bytes)} of {info.directory}/{split} in {target}",
            file=sys.stderr,
            flush=True,
        )

    if is_remote(info.directory):
        object_stores.connect(info.directory)  # boto3 cannot make a client in several threads.

    def copy(shard: Shard) -> None:
        _copy(info.directory, target, shard.file, lambda path: _fault(path, shard))

    _in_threads(copy, missing)


def _copy(
    directory: str, target: str, name: str, fault: Callable[[str], str | None] = lambda _: None
) -> None:
    """Copies one file, which appears whole or not at all.

    Args:
      directory: Where it is, a path or URL.
      target: The local folder.
      name: Its path in both.
      fault: What is wrong with the copy, or None.

    Raises:
      DatasetError: It is missing at its source, or damaged there.
      UsageError: It could not be read or written.
    """
    source, path = os.path.join(directory, name), os.path.join(target, name)
    if os.path.relpath(path, target).startswith(os.pardir):
        raise DatasetError(f"{source}: would be copied to a place outside of {target}.")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = os.path.join(os.path.dirname(path), _PARTIAL + os.path.basename(path))
    try:
        if is_remote(source):
            object_stores.download(source, partial)
        else:
            shutil.copyfile(source, partial)
        found = fault(partial)
        if found:
            raise DatasetError(f"{source}: {found}. Run `headrace run` with --overwrite.")
        os.replace(partial, path)
    except FileNotFoundError as error:
        raise DatasetError(f"{source}: is missing. Run `headrace run` with --overwrite.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)


def _fault(path: str, shard: Shard) -> str | None:
    """Returns what is wrong with a local copy of a shard, or None."""
    if not os.path.exists(path):
        return "is missing"
    size = os.path.getsize(path)
    if size != shard.bytes:
        return f"must have {shard.bytes} bytes, but has {size}"
    crc = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc.update(chunk)
    found = crc.hexdigest().decode()
    return None if found == shard.crc32c else f"crc32c must be {shard.crc32c}, but is {found}"


def _files_below(directory: str, name: str) -> list[str]:
    """Returns the paths, relative to the dataset, of the files in one of its folders."""
    root = os.path.join(directory, name)
    if is_remote(directory):
        return object_stores.names(directory, name)
    return [
        os.path.relpath(os.path.join(folder, file), directory)
        for folder, _, files in os.walk(root)
        for file in files
    ]


def _in_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Returns the results in order; after the first error nothing more is begun."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _size(num_bytes: int) -> str:
    """Says a number of bytes.

    >>> _size(1_234_567_890), _size(2_300_000), _size(10)
    ('1.2 GB', '2.3 MB', '0.0 MB')
    """
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
