"""What can be known of an engine before anything is staged: each mistake is one clear line."""

import json
import os
import re
import shutil
import socket
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    WorkerOptions,
)
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

from beam_jobs import engines, flink
from beam_jobs.errors import SpecError

_SECONDS = 20  # To answer a question.
_READ = ("storage.objects.get", "storage.objects.list")
_WRITE = (*_READ, "storage.objects.create", "storage.objects.delete")


def check(runner: str, options: PipelineOptions, inputs: Iterable[str], output: str) -> None:
    """Asks an engine for what a job needs of it.

    Args:
      runner: As the user gave it.
      options: Its options; a region that is not given is looked up.
      inputs: The paths that will be read.
      output: The dataset folder.

    Raises:
      SpecError: Something is missing, or does not answer.
    """
    engine = engines.short_name(runner)
    if engine == "dataflow":
        _check_dataflow(options, inputs, output)
    elif engine == "portable":
        _check_address("--job_endpoint", options.get_all_options()["job_endpoint"])
    elif engine in ("flink", "spark", "prism"):
        _check_portable(engine, options.get_all_options())


def _check_portable(engine: str, said: dict[str, Any]) -> None:
    """Checks the programs that Beam starts here, and the cluster's address."""
    if said["job_endpoint"]:
        return _check_address("--job_endpoint", said["job_endpoint"])
    name = "prism_location" if engine == "prism" else f"{engine}_job_server_jar"
    path = said[name]
    if path and not os.path.exists(path) and not urllib.parse.urlsplit(path).scheme:
        raise SpecError(f"--{name}: {path} is not there. Correct the path.")
    is_flink_here = engine == "flink" and said["flink_master"].startswith("[")
    if engine != "prism" and (is_flink_here or not said[f"{engine}_submit_uber_jar"]):
        _check_java(said["job_server_java_launcher"])
    if engine == "flink" and not is_flink_here:
        _check_flink(said["flink_master"])
    if engine == "spark" and said["spark_master_url"].startswith("spark://"):
        _check_address("--spark_master_url", said["spark_master_url"].removeprefix("spark://"))
    return None


def _check_java(launcher: str) -> None:
    """Looks for what Beam starts its job server with, which does not ask for JAVA_HOME."""
    if shutil.which(launcher) is None:
        raise SpecError(
            f"--job_server_java_launcher: Beam's job server needs Java, and there is no {launcher} "
            "to start. Install Java 11 or 17, or give the path of java."
        )


def _check_flink(master: str) -> None:
    try:
        flink.get(master, "/overview")
    except (OSError, ValueError) as error:
        what = getattr(error, "reason", error)
        raise SpecError(
            f"--flink_master: no Flink answers at {master}: {what}. Start it, or correct the "
            "address."
        ) from error


def _check_address(option: str, address: str | None) -> None:
    """Raises a SpecError unless somebody listens at HOST:PORT."""
    if not address:
        raise SpecError(f"{option}: is needed. Give HOST:PORT.")
    if address == "embed":
        return
    try:
        found = urllib.parse.urlsplit(f"//{address.split(',')[0]}")
        socket.create_connection((found.hostname or "", found.port or 0), _SECONDS).close()
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{option}: nobody answers at {address}: {error}. Start it, or correct the address."
        ) from error


def _check_dataflow(options: PipelineOptions, inputs: Iterable[str], output: str) -> None:
    cloud = options.view_as(GoogleCloudOptions)
    cloud.region = cloud.region or DataflowRunner.get_default_gcp_region(DataflowRunner())
    for option, value, example in (
        ("--project", cloud.project, "the id of a project"),
        ("--region", cloud.region, "a region such as us-central1"),
        ("--temp-location", cloud.temp_location, "a folder gs://BUCKET/..."),
    ):
        if not value:
            raise SpecError(f"{option}: is missing, and Dataflow needs it. Give {example}.")
    locations = {"--temp-location": cloud.temp_location, "--output": output}
    if cloud.staging_location:
        locations["--staging_location"] = cloud.staging_location
    for option, path in (*locations.items(), *(("source.paths", path) for path in inputs)):
        if not path.startswith("gs://"):
            raise SpecError(
                f"{option}: must be a gs:// path, which Dataflow's workers reach, but is {path!r}."
            )
    _check_image(options)
    if cloud.no_auth:
        return
    credentials = _credentials(options)
    needed: dict[str, tuple[str, Sequence[str]]] = {
        _bucket(path): ("source.paths", _READ) for path in inputs
    }
    needed |= {_bucket(path): (option, _WRITE) for option, path in locations.items()}
    for bucket, (option, permissions) in needed.items():
        _check_bucket(options, option, bucket, permissions)
    if not cloud.template_location:  # Else the service has called us, and nothing is submitted.
        _check_service(cloud, credentials)


def _check_image(options: PipelineOptions) -> None:
    """Workers run what is in their image; Beam's own has neither this package nor TensorFlow."""
    setup = options.view_as(SetupOptions)
    brings = setup.setup_file, setup.requirements_file, setup.extra_packages
    if not options.view_as(WorkerOptions).sdk_container_image and not any(brings):
        raise SpecError(
            "--sdk_container_image: Dataflow's workers need an image with this package. Build "
            "deploy/Dockerfile, and give its name."
        )


def _bucket(path: str) -> str:
    return path.removeprefix("gs://").split("/")[0]


def _credentials(options: PipelineOptions) -> Any:
    """Returns the credentials that Beam submits with, and gets a token for them.

    Beam goes on without, for minutes. Plain ones are looked for first: they say what is missing.
    """
    import google.auth
    import google.auth.transport.requests
    from apache_beam.internal.gcp import auth
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

    cloud = options.view_as(GoogleCloudOptions)
    request = google.auth.transport.requests.Request()
    what, remedy = "--runner dataflow: the credentials are refused", "Log in again."
    try:
        google.auth.default(scopes=cloud.gcp_oauth_scopes)[0].refresh(request)
        credentials = auth.get_service_credentials(options).get_google_auth_credentials()
        if account := cloud.impersonate_service_account:
            what = f"--impersonate_service_account: {account}"
            remedy = "Ask for the role Service Account Token Creator, or correct the account."
            credentials.refresh(request)
    except DefaultCredentialsError as error:
        raise SpecError(
            f"--runner dataflow: no credentials: {_first_line(error)} Run `gcloud auth "
            "application-default login`, or name a key in GOOGLE_APPLICATION_CREDENTIALS."
        ) from error
    except TransportError as error:
        raise SpecError(
            f"--runner dataflow: Google cannot be reached: {_first_line(error)} Look after the "
            "network and its proxy."
        ) from error
    except GoogleAuthError as error:
        raise SpecError(f"{what}: {_first_line(error)} {remedy}") from error
    return credentials


def _check_bucket(
    options: PipelineOptions, option: str, bucket: str, permissions: Sequence[str]
) -> None:
    from apache_beam.io.gcp import gcsio
    from google.api_core.exceptions import GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    client = gcsio.create_storage_client(options)
    try:
        held = client.bucket(bucket).test_iam_permissions(
            [*permissions], timeout=_SECONDS, retry=None
        )
    except NotFound as error:
        raise SpecError(
            f"{option}: there is no bucket gs://{bucket}. Make it, or correct the name."
        ) from error
    except (GoogleAPICallError, GoogleAuthError, OSError) as error:
        raise SpecError(f"{option}: gs://{bucket}: {_first_line(error)}") from error
    if missing := sorted(set(permissions) - set(held)):
        raise SpecError(
            f"{option}: this account lacks {', '.join(missing)} in gs://{bucket}. Ask for it, or "
            "give another bucket."
        )


def _check_service(cloud: GoogleCloudOptions, credentials: Any) -> None:
    """Asks for the jobs of the project in the region."""
    from google.api_core.client_options import ClientOptions
    from google.api_core.exceptions import GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import dataflow

    is_here = "localhost" in (cloud.dataflow_endpoint or "")
    host = cloud.dataflow_endpoint.rstrip("/")
    client = dataflow.JobsV1Beta3Client(
        credentials=credentials,
        transport="rest" if is_here else None,
        client_options=ClientOptions(
            api_endpoint=host if is_here else host.removeprefix("https://")
        ),
    )
    request = dataflow.ListJobsRequest(project_id=cloud.project, location=cloud.region, page_size=1)
    try:
        client.list_jobs(request, timeout=_SECONDS, retry=None)
    except NotFound as error:
        raise SpecError(f"--region: {cloud.region}: {_first_line(error)}") from error
    except (GoogleAPICallError, GoogleAuthError, OSError) as error:
        raise SpecError(f"--project: {cloud.project}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    from google.auth.exceptions import GoogleAuthError

    said = _answer(error) if isinstance(error, GoogleAuthError) else error
    text = str(getattr(error, "message", said)).strip() or type(error).__name__
    line = re.sub(r"^[A-Z]+ https?://\S+: ", "", text.splitlines()[0])  # What was asked.
    return line if line.endswith(".") else f"{line}."


def _answer(error: Exception) -> Any:
    """Returns what google.auth says, or Google itself, whose answer may be the second argument."""
    try:
        return json.loads(error.args[1])["error"]["message"]
    except (IndexError, KeyError, TypeError, ValueError):
        return next(iter(error.args), "")
