"""Cloud Storage and S3 as Beam reaches them, with four things mended when this is imported.

Beam makes a client for every call, 150 ms of work for S3 and a new connection for either. Its
files publish what was written so far when they are closed because of an error, or forgotten. S3
completes no upload without a part, and an empty file has none. Where S3 gives no answer or there
are no credentials, Beam tries again for ten minutes before it says so.
"""

import concurrent.futures
import copy
import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from apache_beam.io.aws import s3io
from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp import gcsio
from apache_beam.io.gcp.gcsfilesystem import GCSFileSystem
from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core.exceptions import GoogleAPIError, from_http_response
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage.exceptions import InvalidResponse

from beam_jobs.errors import SpecError

# What any call to a file system may raise; Beam wraps the errors of its clients now and then.
ERRORS = (OSError, S3ClientError, GoogleAPIError, GoogleAuthError, InvalidResponse)
_MAX_FAULT_LENGTH = 300
_OBJECT = re.compile(r"\w+://[^/]+/[^/].*", re.DOTALL)
_READS_AT_ONCE = 8  # boto3 keeps ten connections open.
_T = TypeVar("_T")
_threads = threading.local()


def is_in(path: str) -> bool:
    """Whether a path is in an object store: without folders, nor files that are half there."""
    return FileSystems.get_scheme(path) in ("gs", "s3")


def is_well_formed(path: str) -> bool:
    """Whether a path in an object store names a bucket and something there."""
    return not is_in(path) or _OBJECT.fullmatch(path) is not None


def fault(error: BaseException) -> str:
    """Returns what a file system complains about, in one line."""
    details = getattr(error, "exception_details", None)
    if isinstance(error, BeamIOError) and isinstance(details, dict) and details:
        return fault(next(iter(details.values())))
    if isinstance(error, InvalidResponse):
        return fault(from_http_response(error.response))
    # Beside the message stands a status or the whole answer.
    has_more = isinstance(error, (S3ClientError, GoogleAuthError)) and error.args
    said = str(error.args[0] if has_more else error)
    if isinstance(error, GoogleAuthError):
        said = f"Google's credentials are missing or wrong: {said}"
    return " ".join(said.split())[:_MAX_FAULT_LENGTH].rstrip(".")


def check(path: str) -> None:
    """Raises a SpecError for what would keep Beam trying, or that it takes for an empty folder."""
    if not is_well_formed(path):
        scheme = FileSystems.get_scheme(path)
        raise SpecError(f"{path}: must name what is in a bucket, as {scheme}://bucket/folder does.")
    if FileSystems.get_scheme(path) != "s3":
        return
    if FileSystems._pipeline_options is None:  # Of a command without a pipeline.
        FileSystems.set_options(PipelineOptions([]))
    if boto3_client.boto3 is None:
        raise SpecError(f"{path}: s3:// needs boto3. Install headrace with its extra `s3`.")
    import botocore.exceptions

    bucket = path.removeprefix("s3://").split("/", 1)[0]
    try:
        _s3_client(FileSystems._pipeline_options).client.head_bucket(Bucket=bucket)
    except botocore.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            raise SpecError(f"{path}: there is no bucket {bucket!r}. Correct its name.") from error
        # Anything else is for the calls that we need: this one wants a permission of its own.
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        what = "Give credentials, region and address as boto3 takes them, or after --."
        raise SpecError(f"{path}: {fault(error)}. {what}") from error


def read_each(
    read: Callable[..., _T], paths: Sequence[str], *others: Sequence[Any]
) -> Iterator[_T]:
    """Yields what is read of each path, in order: some at a time where each takes an answer.

    Args:
      read: Takes a path, and what the others have at its place.
      paths: In one file system.
      others: As long as paths.
    """
    if not paths or not is_in(paths[0]):  # Of a disk, threads would only wait for the GIL.
        return map(read, paths, *others)
    return _readers().map(read, paths, *others)


@functools.lru_cache
def _readers() -> concurrent.futures.Executor:
    """Returns the threads of this process that wait for object stores."""
    return concurrent.futures.ThreadPoolExecutor(_READS_AT_ONCE)


def abandon(file: Any) -> None:
    """Closes a file that is being written, so that no object store ever shows it."""
    uploader = getattr(getattr(file, "raw", None), "_uploader", file)
    try:
        if hasattr(uploader, "terminate"):
            uploader.terminate()
    finally:
        if isinstance(file, gcsio.BeamBlobWriter):
            file._buffer.close()  # Else to close it is to publish it, where no answer came.
        file.close()


class _S3Uploader(s3io.S3Uploader):
    """Beam's, which can be given up, and which writes an empty object."""

    _is_given_up = False

    def put(self, data: memoryview) -> None:
        if not self._is_given_up:
            super().put(data)

    def finish(self) -> None:
        if self._is_given_up:
            return
        if not self.parts and not self.buffer:
            self._write_to_s3(b"")
        super().finish()

    def terminate(self) -> None:
        """Gives the upload up; otherwise S3 keeps its parts, unseen, and wants money for them."""
        self._is_given_up = True
        try:
            self._client.client.abort_multipart_upload(
                Bucket=self._bucket, Key=self._name, UploadId=self.upload_id
            )
        except Exception as error:  # As Beam's own calls do.
            raise S3ClientError(str(error), boto3_client.get_http_error_code(error)) from error


_new_s3_client = functools.lru_cache(maxsize=8)(boto3_client.Client)


def _s3_client(options: Any) -> Any:
    """Returns a client with a stream of its own; boto3's, below it, serves any thread."""
    return copy.copy(_new_s3_client(options))


def _gcs_client(file_system: Any) -> Any:
    """Returns this thread's client."""
    options, client = getattr(_threads, "gcs", (None, None))
    if client is None or options is not file_system._pipeline_options:
        options = file_system._pipeline_options
        client = gcsio.GcsIO(pipeline_options=options)
        _threads.gcs = options, client
    return client


s3io.S3Uploader = _S3Uploader
boto3_client.Client = _s3_client
GCSFileSystem._gcsIO = _gcs_client
