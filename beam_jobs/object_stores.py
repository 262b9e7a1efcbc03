"""Cloud Storage and S3 as Beam reaches them, with four things mended when this is imported.

Beam makes a client for every call, 150 ms of work for S3 and a new connection for either. Its
files publish what was written so far when they are closed because of an error, or forgotten. S3
completes no upload without a part, and an empty file has none. Where S3 gives no answer or there
are no credentials, Beam tries again for ten minutes before it says so.
"""

import copy
import functools
import threading
from typing import Any

from apache_beam.io.aws import s3io
from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp import gcsio
from apache_beam.io.gcp.gcsfilesystem import GCSFileSystem
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from beam_jobs.errors import SpecError

# What any call to a file system may raise; Beam wraps the errors of its clients now and then.
ERRORS = (OSError, S3ClientError, GoogleAPIError, GoogleAuthError)
_MAX_FAULT_LENGTH = 300
_threads = threading.local()


def is_in(path: str) -> bool:
    """Whether a path is in an object store: without folders, nor files that are half there."""
    return FileSystems.get_scheme(path) in ("gs", "s3")


def fault(error: BaseException) -> str:
    """Returns what a file system complains about, in one line."""
    details = getattr(error, "exception_details", None)
    if isinstance(error, BeamIOError) and isinstance(details, dict) and details:
        return fault(next(iter(details.values())))
    # An S3ClientError holds the status beside the message, other errors the message alone.
    said = error.args[0] if isinstance(error, S3ClientError) and error.args else error
    return " ".join(str(said).split())[:_MAX_FAULT_LENGTH].rstrip(".")


def check(path: str) -> None:
    """Raises a SpecError for what would keep Beam trying, or that it takes for an empty folder."""
    if FileSystems.get_scheme(path) != "s3":
        return
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
