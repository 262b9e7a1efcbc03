"""A stand-in for the Dataflow service and for Cloud Storage, as HTTP servers on this machine.

    with dataflow_service.start(folder) as cloud:
        cloud.storage.create_bucket("bucket")
        run the stock DataflowRunner with cloud.flags() in an environment with cloud.environment()

`Storage` is `gcp-storage-emulator`. `Service` answers the calls that Beam's client makes, checks
what was staged as strictly as the real service needs it (the hash of the pipeline, its container
images, the hashes of its files), and runs the job with Beam's FnApiRunner, in a process of its own
that has the packages of this process, as a container would have those of its image.

It does not check quotas, machine types, networks or IAM, knows no streaming, no templates and no
autoscaling, and a job has one worker with one thread.
"""

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import http.server
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.environments import EmbeddedPythonEnvironment
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage as _Objects
from google.auth import jwt
from google.auth.exceptions import GoogleAuthError
from google.cloud import dataflow
from google.protobuf import json_format

PROJECT = "stand-in-project"
REGION = "us-central1"
IMAGE = "us-docker.pkg.dev/stand-in-project/headrace/headrace:1"
WORKER = f"worker@{PROJECT}.iam.gserviceaccount.com"  # Which the account may impersonate.
_PARTS = (  # An empty object, with nothing said of it.
    b"--part\r\nContent-Type: application/json\r\n\r\n{}\r\n"
    b"--part\r\nContent-Type: application/octet-stream\r\n\r\n\r\n--part--\r\n"
)
_TOKEN = "Permission 'iam.serviceAccounts.getAccessToken'"
_State = dataflow.JobState
_Importance = dataflow.JobMessageImportance
_JOBS = re.compile(r"/v1b3/projects/([^/]+)(?:/locations/([^/]+))?/jobs(?:/([^/]+))?(?:/(\w+))?")


class ServiceError(Exception):
    """What the service refuses, as Google's APIs say it."""

    def __init__(self, code: int, status: str, message: str):
        super().__init__(message)
        self.code = code
        self.body = {"error": {"code": code, "message": message, "status": status}}


@contextlib.contextmanager
def start(folder: Path, *, in_memory: bool = True) -> Iterator["Cloud"]:
    """Starts both servers; the folder takes the jobs, the key, and the objects if not in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        storage = stack.enter_context(Storage(None if in_memory else folder / "objects"))
        service = stack.enter_context(Service(storage, folder))
        yield Cloud(storage, service)


@dataclasses.dataclass
class Cloud:
    """The two servers."""

    storage: "Storage"
    service: "Service"

    def environment(self) -> dict[str, str]:
        """Returns the variables with which Google's clients come here, and are known."""
        return self.service.environment()

    def flags(self, bucket: str) -> list[str]:
        """Returns the flags that send a job of the stock runner here."""
        return [
            "--runner=DataflowRunner",
            f"--project={PROJECT}",
            f"--region={REGION}",
            f"--temp_location=gs://{bucket}/temp",
            f"--staging_location=gs://{bucket}/staging",
            f"--sdk_container_image={IMAGE}",
            "--sdk_location=container",
            f"--dataflow_endpoint={self.service.url}",
        ]


class Storage:
    """Cloud Storage: `gcp-storage-emulator` on a free port, with buckets that may be read-only."""

    def __init__(self, folder: Path | None = None):
        """Args: folder: Where the objects are kept; in memory without."""
        self._objects = _Objects(
            use_memory_fs=folder is None, data_dir=None if folder is None else str(folder)
        )
        self.read_only: set[str] = set()
        self.token = secrets.token_hex(8)  # What every request must bring.
        handler = functools.partial(_StorageHandler, self._objects)
        # One thread, as the emulator has it: its objects have no locks.
        self._server = _StorageServer(("localhost", 0), handler)
        self._server.storage = self
        self.url = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> "Storage":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._objects.wipe()

    def create_bucket(self, name: str) -> None:
        buckets.create_bucket(name, self._objects)

    def read(self, url: str) -> bytes:
        """Returns the content of gs://bucket/object, as it lies there.

        Raises:
          FileNotFoundError: There is no such object.
        """
        try:
            return self._ask(urllib.parse.quote(url.removeprefix("gs://")))
        except urllib.error.HTTPError as error:
            raise FileNotFoundError(f"{url}: {error}") from error

    def write(self, url: str, content: bytes) -> None:
        """Makes or replaces gs://bucket/object."""
        bucket, name = url.removeprefix("gs://").split("/", 1)
        place = f"upload/storage/v1/b/{bucket}/o?name={urllib.parse.quote(name, safe='')}"
        if content:
            self._ask(f"{place}&uploadType=media", content)
        else:  # Which the emulator takes as a part only.
            self._ask(f"{place}&uploadType=multipart", _PARTS, "multipart/related; boundary=part")

    def names(self, bucket: str) -> list[str]:
        """Returns the names of a bucket's objects, in order."""
        items = json.loads(self._ask(f"storage/v1/b/{bucket}/o")).get("items", [])
        return sorted(item["name"] for item in items)

    def _ask(
        self, path: str, content: bytes | None = None, kind: str = "application/octet-stream"
    ) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}"}
        if content is not None:
            headers["Content-Type"] = kind
        request = urllib.request.Request(f"{self.url}/{path}", content, headers)
        with urllib.request.urlopen(request) as response:
            return response.read()


class _StorageServer(http.server.HTTPServer):
    request_queue_size = 128  # The default of 5 refuses the connections of a busy client.
    storage: Storage


class _StorageHandler(RequestHandler):
    """The emulator's handler; it has no permissions of its own."""

    disable_nagle_algorithm = True  # Else a client waits 40 ms between the head and the body.
    server: _StorageServer

    def do_GET(self) -> None:
        if self._is_refused(is_write=False):
            return None
        url = urllib.parse.urlsplit(self.path)
        if self._bucket() in self.server.storage.read_only and url.path.endswith("testPermissions"):
            asked = urllib.parse.parse_qs(url.query).get("permissions", [])
            held = [name for name in asked if name.endswith((".get", ".list"))]
            return _send_json(self, 200, {"permissions": held})
        super().do_GET()

    def do_POST(self) -> None:
        if not self._is_refused():
            super().do_POST()

    def do_PUT(self) -> None:
        if not self._is_refused():
            super().do_PUT()

    def do_DELETE(self) -> None:
        if not self._is_refused():
            super().do_DELETE()

    def _bucket(self) -> str:
        found = re.search(r"/b/([^/?]+)", self.path)  # A batch has several, and is let through.
        return found[1] if found else ""

    def _is_refused(self, is_write: bool = True) -> bool:
        bucket = self._bucket()
        if self.headers.get("Authorization") != f"Bearer {self.server.storage.token}":
            return self._refuse(401, f"Anonymous caller does not have access to {bucket}.")
        if is_write and bucket in self.server.storage.read_only:
            message = f"The account does not have storage.objects.create access to {bucket}."
            return self._refuse(403, message)
        return False

    def _refuse(self, code: int, message: str) -> bool:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))  # Else the client sees a reset.
        _send_json(self, code, {"error": {"code": code, "message": message}})
        return True


class Service:
    """The Dataflow service: the calls of a client, and the jobs."""

    def __init__(self, storage: Storage, folder: Path):
        self.storage = storage
        self.jobs: dict[str, Job] = {}
        self.calls: list[str] = []  # Method and path of every request.
        self.tokens: list[str | None] = []  # What each of them brought.
        self._folder = folder
        self._server = _ServiceServer(("localhost", 0), _ServiceHandler)
        self._server.service = self
        self.url = f"http://localhost:{self._server.server_port}"
        self._key = folder / "service_account.json"
        account = _service_account(self.url)
        self._key.write_text(json.dumps(account))
        self._public_key = _public_key(account["private_key"])

    def environment(self) -> dict[str, str]:
        """Returns the variables with which Google's clients come here, and are known."""
        return {
            "STORAGE_EMULATOR_HOST": self.storage.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self._key),
            "NO_GCE_CHECK": "true",  # Looking for a metadata server takes 3 s.
            "https_proxy": self.url,  # Refuses at once whatever would leave this machine.
            "no_proxy": "localhost",
        }

    def __enter__(self) -> "Service":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.jobs.values():
            job.cancel()
        self._server.shutdown()
        self._server.server_close()

    def knows(self, authorization: str | None) -> bool:
        """Whether a caller brings a token of ours, or one that our account signed by itself."""
        token = (authorization or "").removeprefix("Bearer ")
        if token == self.storage.token:
            return True
        try:
            return bool(jwt.decode(token, certs=self._public_key))
        except (ValueError, GoogleAuthError):
            return False

    def create(self, request: dataflow.Job) -> "Job":
        """Checks a job as far as the service does, and starts it."""
        running = [job for job in self.jobs.values() if not job.is_over()]
        if any(job.request.name == request.name for job in running):
            raise ServiceError(409, "ALREADY_EXISTS", f"There is an active job {request.name}.")
        options = _options(request)
        pipeline = _staged_pipeline(self.storage, options)
        _check_images(pipeline, request)
        _check_files(self.storage, pipeline)
        number = len(self.jobs)
        job_id = f"{time.strftime('%Y-%m-%d_%H_%M_%S')}-{number:019d}"
        job = Job(job_id, request, pipeline, options, self._folder / "jobs" / job_id)
        self.jobs[job_id] = job
        packages = os.pathsep.join(filter(None, sys.path))
        job.start({**os.environ, **self.environment(), "PYTHONPATH": packages})
        return job


@dataclasses.dataclass
class Job:
    """A job: what was asked for, and its process."""

    job_id: str
    request: dataflow.Job
    pipeline: beam_runner_api_pb2.Pipeline  # As it was staged.
    options: dict[str, Any]
    folder: Path
    state: dataflow.JobState = _State.JOB_STATE_PENDING
    messages: list[dataflow.JobMessage] = dataclasses.field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str]) -> None:
        """Starts the job's process, and a thread that notes how it ends."""
        self.folder.mkdir(parents=True)
        (self.folder / "pipeline.pb").write_bytes(_embedded(self.pipeline).SerializeToString())
        (self.folder / "options.json").write_text(json.dumps(self.options))
        with (self.folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engines.dataflow_worker", str(self.folder)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Cancel ends whatever it has started.
            )
        self.state = _State.JOB_STATE_RUNNING
        self.say(_Importance.JOB_MESSAGE_BASIC, "Worker pool started.")
        threading.Thread(target=self._watch, daemon=True).start()

    def cancel(self) -> None:
        if self.is_over() or self._process is None:
            return
        self.state = _State.JOB_STATE_CANCELLING
        self.say(_Importance.JOB_MESSAGE_BASIC, "Cancel request is committed for workflow job.")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def is_over(self) -> bool:
        ends = (_State.JOB_STATE_DONE, _State.JOB_STATE_FAILED, _State.JOB_STATE_CANCELLED)
        return self.state in ends

    def say(self, importance: dataflow.JobMessageImportance, text: str) -> None:
        message = dataflow.JobMessage(message_text=text, message_importance=importance)
        message._pb.time.GetCurrentTime()
        self.messages.append(message)

    def answer(self) -> dataflow.Job:
        """Returns the job as the service describes it."""
        return dataflow.Job(
            id=self.job_id,
            project_id=PROJECT,
            location=REGION,
            name=self.request.name,
            client_request_id=self.request.client_request_id,
            type_=self.request.type_,
            labels=self.request.labels,
            current_state=self.state,
        )

    def metrics(self) -> dataflow.JobMetrics:
        """Returns the user's metrics so far; the service names a step by its id in the proto."""
        path = self.folder / "metrics.json"
        found = json.loads(path.read_text()) if path.exists() else []
        answer = dataflow.JobMetrics()
        for metric in found:
            for tentative in ({}, {"tentative": "true"}):  # The service sends each of them twice.
                answer.metrics.append(_metric_update(metric, tentative))
        return answer

    def _watch(self) -> None:
        status = self._process.wait()
        if self.state == _State.JOB_STATE_CANCELLING:
            self.state = _State.JOB_STATE_CANCELLED
        elif status == 0:
            self.say(_Importance.JOB_MESSAGE_BASIC, "Execution of the job has finished.")
            self.state = _State.JOB_STATE_DONE
        else:
            error = self.folder / "error.txt"
            why = error.read_text() if error.exists() else _tail(self.folder / "log.txt")
            self.say(_Importance.JOB_MESSAGE_ERROR, f"Error message from worker: {why}")
            self.say(_Importance.JOB_MESSAGE_ERROR, "Workflow failed.")
            self.state = _State.JOB_STATE_FAILED  # Last: a client stops asking then.


class _ServiceServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    service: Service


class _ServiceHandler(http.server.BaseHTTPRequestHandler):
    server: _ServiceServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.urlsplit(self.path).path
        self.server.service.calls.append(f"{self.command} {path}")
        self.server.service.tokens.append(self.headers.get("Authorization"))
        try:
            _send_json(self, 200, self._route(path, body))
        except ServiceError as error:
            _send_json(self, error.code, error.body)

    def _route(self, path: str, body: bytes) -> dict[str, Any]:
        service = self.server.service
        if path == "/token":
            return {
                "access_token": service.storage.token,
                "token_type": "Bearer",
                "expires_in": 3600,
            }
        if not service.knows(self.headers.get("Authorization")):
            raise ServiceError(401, "UNAUTHENTICATED", "Request had invalid credentials.")
        if path == f"/iam/{WORKER}:generateAccessToken":
            return {"accessToken": service.storage.token, "expireTime": "2100-01-01T00:00:00Z"}
        if path.startswith("/iam/"):
            raise ServiceError(403, "PERMISSION_DENIED", f"{_TOKEN} denied on resource.")
        found = _JOBS.fullmatch(path)
        if not found:
            raise ServiceError(404, "NOT_FOUND", f"There is no {path}.")
        project, region, job_id, what = found.groups()
        _check_place(project, region or REGION)  # The service has a default, too.
        if job_id is None:
            return self._route_jobs(body)
        if job_id not in service.jobs:
            raise ServiceError(
                404, "NOT_FOUND", f"Information about job {job_id} could not be found."
            )
        return self._route_job(service.jobs[job_id], what, body)

    def _start_time(self) -> datetime.datetime:
        """Returns from when on messages are asked for."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        text = query.get("startTime", ["1970-01-01T00:00:00Z"])[0]
        return dataflow.JobMessage.from_json(json.dumps({"time": text})).time

    def _route_jobs(self, body: bytes) -> dict[str, Any]:
        service = self.server.service
        if self.command == "POST":
            return _to_json(service.create(_from_json(dataflow.Job, body)).answer())
        jobs = [job.answer() for job in service.jobs.values()]
        return _to_json(dataflow.ListJobsResponse(jobs=jobs))

    def _route_job(self, job: Job, what: str | None, body: bytes) -> dict[str, Any]:
        if what == "messages":
            start = self._start_time()
            messages = [message for message in job.messages if message.time >= start]
            return _to_json(dataflow.ListJobMessagesResponse(job_messages=messages))
        if what == "metrics":
            return _to_json(job.metrics())
        if self.command == "PUT":
            wanted = _from_json(dataflow.Job, body).requested_state
            if wanted != _State.JOB_STATE_CANCELLED:
                raise ServiceError(400, "INVALID_ARGUMENT", f"A job cannot become {wanted.name}.")
            job.cancel()
        return _to_json(job.answer())


def _options(request: dataflow.Job) -> dict[str, Any]:
    """Returns a job's options; a Struct has no whole numbers, which the flags of Beam must be."""
    options = dataflow.Environment.pb(request.environment).sdk_pipeline_options
    return json.loads(json_format.MessageToJson(options), parse_float=_number)["options"]


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _check_place(project: str, region: str) -> None:
    if project != PROJECT:
        message = f"The account may not create jobs in the project {project}."
        raise ServiceError(403, "PERMISSION_DENIED", message)
    if region != REGION:
        raise ServiceError(404, "NOT_FOUND", f"There is no regional endpoint {region}.")


def _staged_pipeline(storage: Storage, options: dict[str, Any]) -> beam_runner_api_pb2.Pipeline:
    """Returns the pipeline that the options name, with the hash that they name."""
    try:
        staged = storage.read(options["pipelineUrl"])
    except FileNotFoundError as error:
        raise ServiceError(400, "INVALID_ARGUMENT", f"The pipeline is missing: {error}") from error
    if hashlib.sha256(staged).hexdigest() != options["pipelineProtoHash"]:
        raise ServiceError(400, "INVALID_ARGUMENT", "The staged pipeline has another hash.")
    return beam_runner_api_pb2.Pipeline.FromString(staged)


def _check_images(pipeline: beam_runner_api_pb2.Pipeline, request: dataflow.Job) -> None:
    """Every environment in use must be a container that the job's worker pool lists."""
    (pool,) = request.environment.worker_pools
    listed = {
        image.environment_id: image.container_image for image in pool.sdk_harness_container_images
    }
    used = {step.environment_id for step in pipeline.components.transforms.values()} - {""}
    for environment_id in used:
        environment = pipeline.components.environments[environment_id]
        if environment.urn != common_urns.environments.DOCKER.urn:
            raise ServiceError(400, "INVALID_ARGUMENT", f"{environment.urn} is not a container.")
        image = beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
        if listed.get(environment_id) != image:
            raise ServiceError(400, "INVALID_ARGUMENT", f"No worker has the image {image}.")


def _check_files(storage: Storage, pipeline: beam_runner_api_pb2.Pipeline) -> None:
    """Every file that a container would fetch must lie there with the hash that was announced."""
    for environment in pipeline.components.environments.values():
        for file in environment.dependencies:
            staged = beam_runner_api_pb2.ArtifactUrlPayload.FromString(file.type_payload)
            if hashlib.sha256(storage.read(staged.url)).hexdigest() != staged.sha256:
                raise ServiceError(400, "INVALID_ARGUMENT", f"{staged.url} has another hash.")


def _embedded(pipeline: beam_runner_api_pb2.Pipeline) -> beam_runner_api_pb2.Pipeline:
    """Returns the pipeline with every container replaced by the process that runs it."""
    result = beam_runner_api_pb2.Pipeline.FromString(pipeline.SerializeToString())
    embedded = EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in result.components.environments.values():
        environment.CopyFrom(embedded)
    return result


def _metric_update(metric: dict[str, Any], tentative: dict[str, str]) -> dataflow.MetricUpdate:
    context = {"step": metric["step"], "namespace": metric["namespace"], **tentative}
    name = dataflow.MetricStructuredName(origin="user", name=metric["name"], context=context)
    if "scalar" in metric:
        return dataflow.MetricUpdate(name=name, kind="Sum", scalar=metric["scalar"])
    return dataflow.MetricUpdate(
        name=name, kind="Distribution", distribution=metric["distribution"]
    )


def _service_account(url: str) -> dict[str, str]:
    """Returns a key file; its owner gets a token from the stand-in and from nobody else."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "1",
        "private_key": text.decode(),
        "client_email": f"launcher@{PROJECT}.iam.gserviceaccount.com",
        "token_uri": f"{url}/token",
    }


def _public_key(private_key: str) -> bytes:
    key = serialization.load_pem_private_key(private_key.encode(), password=None)
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _from_json(kind: Any, body: bytes) -> Any:
    return kind.from_json(body.decode(), ignore_unknown_fields=True)


def _to_json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(type(message).pb(message))


def _send_json(handler: http.server.BaseHTTPRequestHandler, code: int, body: Any) -> None:
    content = json.dumps(body).encode()
    handler.send_response(code)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _tail(path: Path, length: int = 8000) -> str:
    return path.read_text(errors="replace")[-length:]
