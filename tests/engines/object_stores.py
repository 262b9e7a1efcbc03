"""Object stores as HTTP servers on this machine, with one way to look at both.

    with object_stores.START["s3"](folder) as store:
        store.create_bucket("bucket")
        run `headrace` on s3:// paths in an environment with store.environment

`gs://` is the stand-in of `dataflow_service`, which wants a token; `s3://` is moto's server behind
a gate that wants our key. Both refuse to write to the buckets in `read_only`.
"""

import contextlib
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from google.cloud import storage
from google.oauth2.credentials import Credentials
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from engines import dataflow_service

_REFUSED = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'


class CloudStorage:
    """`gs://`: the emulator, and a service account that its tokens are for."""

    scheme = "gs"

    def __init__(self, cloud: dataflow_service.Cloud):
        self.environment = cloud.environment()
        self.read_only = cloud.storage.read_only
        self.secret = cloud.storage.token
        self._client = storage.Client(
            dataflow_service.PROJECT,
            Credentials(self.secret),
            client_options={"api_endpoint": cloud.storage.url},
        )

    def create_bucket(self, name: str) -> None:
        self._client.create_bucket(name)

    def names(self, bucket: str) -> list[str]:
        return sorted(self.written(bucket))

    def read(self, url: str) -> bytes:
        return storage.Blob.from_uri(url, self._client).download_as_bytes()

    def write(self, url: str, data: bytes) -> None:
        storage.Blob.from_uri(url, self._client).upload_from_string(data)

    def written(self, bucket: str) -> dict[str, str]:
        """Returns when each object was written."""
        return {blob.name: blob.updated.isoformat() for blob in self._client.list_blobs(bucket)}


class S3:
    """`s3://`: moto's server behind a gate."""

    scheme = "s3"

    def __init__(self) -> None:
        self.read_only: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []  # Method, path and range.
        self.key, self.secret = f"AKIA{secrets.token_hex(8).upper()}", secrets.token_hex(20)
        app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._gate(app), threaded=True, request_handler=_Quiet
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}),
        )

    def __enter__(self) -> "S3":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create_bucket(self, name: str) -> None:
        self._client.create_bucket(Bucket=name)

    def names(self, bucket: str) -> list[str]:
        return sorted(self.written(bucket))

    def read(self, url: str) -> bytes:
        bucket, name = url.removeprefix("s3://").split("/", 1)
        return self._client.get_object(Bucket=bucket, Key=name)["Body"].read()

    def write(self, url: str, data: bytes) -> None:
        bucket, name = url.removeprefix("s3://").split("/", 1)
        self._client.put_object(Bucket=bucket, Key=name, Body=data)

    def written(self, bucket: str) -> dict[str, str]:
        """Returns when each object was written."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        items = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"]: item["LastModified"].isoformat() for item in items}

    def unfinished_uploads(self, bucket: str) -> list[str]:
        """Returns what was neither completed nor aborted: it costs, and nobody sees it."""
        answer = self._client.list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in answer.get("Uploads", [])]

    def _gate(self, app: Callable[..., Any]) -> Callable[..., Any]:
        def gate(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
            self.requests.append((method, path, environ.get("HTTP_RANGE", "")))
            who = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
            refused = None
            if who is None or who[1] != self.key:
                refused = "InvalidAccessKeyId", "The AWS Access Key Id does not exist."
            elif method not in ("GET", "HEAD") and path.split("/")[1] in self.read_only:
                refused = "AccessDenied", "Access Denied"
            if refused is None:
                return app(environ, start_response)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [_REFUSED.format(code=refused[0], message=refused[1]).encode()]

        return gate


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # Else every request is a new connection.
    disable_nagle_algorithm = True

    def log(self, *_: object) -> None:
        pass


Store = CloudStorage | S3


def upload(store: Store, folder: Path, url: str) -> None:
    """Writes the files below a folder as objects below a URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(f"{url}/{path.relative_to(folder)}", path.read_bytes())


def download(store: Store, bucket: str, folder: Path) -> Path:
    """Writes the objects of a bucket as files below a folder."""
    for name in store.names(bucket):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(f"{store.scheme}://{bucket}/{name}"))
    return folder


@contextlib.contextmanager
def _cloud_storage(folder: Path) -> Iterator[CloudStorage]:
    with dataflow_service.start(folder) as cloud:
        yield CloudStorage(cloud)


@contextlib.contextmanager
def _s3(_: Path) -> Iterator[S3]:
    with S3() as server:
        yield server


START = {"gs": _cloud_storage, "s3": _s3}
