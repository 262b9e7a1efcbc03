"""Objects on gs:// and s3://, through Google's and Amazon's clients; errors in one line."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

from trainer.errors import DatasetError, UsageError

_URL = re.compile(r"(gs|s3)://([^/]+)/(.+)", re.DOTALL)
_GIVE_UP_SECONDS = 30  # Google's client would ask a store that does not answer for two minutes.
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is in an object store."""
    return os.fspath(path).startswith(("gs://", "s3://"))


def read(url: str) -> bytes:
    """Returns what a small object holds.

    Raises:
      FileNotFoundError: There is no such object or bucket.
      UsageError: The store refuses, does not answer, or its client is not installed.
    """
    bucket, key = _parts(url)
    store = _store(url)
    with store.errors(url):
        return store.read(bucket, key)


def download(url: str, path: str) -> None:
    """Writes an object to a local file; errors are those of `read`."""
    bucket, key = _parts(url)
    store = _store(url)
    with store.errors(url):
        store.download(bucket, key, path)


def names(url: str, folder: str) -> list[str]:
    """Returns the objects below a folder of a URL, relative to the URL; errors as for `read`."""
    bucket, key = _parts(url)
    store = _store(url)
    with store.errors(f"{url}/{folder}"):
        return [each[len(key) + 1 :] for each in store.names(bucket, f"{key}/{folder}/")]


def connect(url: str) -> None:
    """Makes the client of a store, which threads then share.

    Raises:
      UsageError: It is not installed, or finds no account.
    """
    _store(url)


def _parts(url: str) -> tuple[str, str]:
    """Returns the bucket and the key.

    >>> _parts("gs://bucket/folder/file")
    ('bucket', 'folder/file')
    """
    match = _URL.fullmatch(url.rstrip("/"))
    if match is None:
        raise UsageError(f"{url}: must name what is in a bucket, as gs://bucket/folder does.")
    return match[2], match[3]


class _CloudStorage:
    """gs://, as the account that Google's clients find."""

    package = "google-cloud-storage"

    def __init__(self) -> None:
        import google.auth
        from google.cloud import storage

        credentials, _ = google.auth.default(scopes=[_SCOPE])
        # No project pays for reading.
        self._client = storage.Client(project="none", credentials=credentials)
        self._retry = storage.retry.DEFAULT_RETRY.with_timeout(_GIVE_UP_SECONDS)

    def read(self, bucket: str, key: str) -> bytes:
        return self._client.bucket(bucket).blob(key).download_as_bytes(retry=self._retry)

    def download(self, bucket: str, key: str, path: str) -> None:
        self._client.bucket(bucket).blob(key).download_to_filename(path, retry=self._retry)

    def names(self, bucket: str, prefix: str) -> list[str]:
        blobs = self._client.list_blobs(bucket, prefix=prefix, retry=self._retry)
        return [blob.name for blob in blobs if not blob.name.endswith("/")]

    @staticmethod
    @contextlib.contextmanager
    def errors(url: str) -> Iterator[None]:
        """Turns what Google's clients raise into our errors."""
        import requests
        from google.api_core.exceptions import GoogleAPIError, NotFound
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption

        try:
            yield
        except NotFound as error:
            raise FileNotFoundError(f"{url}: is missing.") from error
        except DataCorruption as error:
            raise DatasetError(f"{url}: is not what the store's own sum says.") from error
        except GoogleAuthError as error:
            raise UsageError(
                f"{url}: Google's credentials are missing or wrong: {_line(error.args[0])}."
            ) from error
        except (GoogleAPIError, requests.RequestException) as error:
            raise UsageError(f"{url}: {_line(error)}.") from error


class _S3:
    """s3://, as the account that boto3 finds, at $AWS_ENDPOINT_URL_S3 if that is set."""

    package = "boto3"

    def __init__(self) -> None:
        import boto3
        from boto3.s3.transfer import TransferConfig

        self._client = boto3.client("s3")
        self._one_thread = TransferConfig(use_threads=False)

    def read(self, bucket: str, key: str) -> bytes:
        return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def download(self, bucket: str, key: str, path: str) -> None:
        self._client.download_file(bucket, key, path, Config=self._one_thread)

    def names(self, bucket: str, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key for key in keys if not key.endswith("/")]

    @staticmethod
    @contextlib.contextmanager
    def errors(url: str) -> Iterator[None]:
        """Turns what boto3 raises into our errors."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                raise FileNotFoundError(f"{url}: is missing.") from error
            raise UsageError(f"{url}: {_line(error)}.") from error
        except (Boto3Error, BotoCoreError, ValueError) as error:  # ValueError: no such endpoint.
            raise UsageError(f"{url}: {_line(error)}.") from error


_STORES: dict[str, Any] = {"gs": _CloudStorage, "s3": _S3}


def _store(url: str) -> Any:
    """Returns the client of an object store; threads share one.

    Raises:
      UsageError: It is not installed, or finds no account.
    """
    scheme = url.partition(":")[0]
    try:
        with _STORES[scheme].errors(url):
            return _made(scheme)
    except ImportError as error:
        package = _STORES[scheme].package
        raise UsageError(
            f"{url}: {scheme}:// needs {package}. Install headrace with its extra `{scheme}`."
        ) from error


@functools.cache
def _made(scheme: str) -> Any:
    return _STORES[scheme]()


def _line(error: object) -> str:
    """Returns what an error says, in one line without a full stop."""
    return " ".join(str(error).split())[:300].rstrip(".")
