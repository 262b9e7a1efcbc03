"""What is wrong with an engine is one clear line, status 2, and nothing is staged."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from apache_beam.internal.gcp import auth
from apache_beam.options.pipeline_options import PipelineOptions
from google.auth import iam
from oracle import made, specs
from oracle.command import arguments

from beam_jobs import preflight
from beam_jobs.errors import SpecError
from engines import dataflow_service

PROJECT, REGION = dataflow_service.PROJECT, dataflow_service.REGION
IMAGE = f"--sdk_container_image={dataflow_service.IMAGE}"
TEMP = "--temp-location=gs://bucket/temp"
PLACE = (f"--project={PROJECT}", f"--region={REGION}")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with dataflow_service.start(tmp_path_factory.mktemp("cloud")) as cloud:
        for name in ("bucket", "closed"):
            cloud.storage.create_bucket(name)
        cloud.storage.read_only.add("closed")
        cloud.storage.write("gs://bucket/adult.csv", b"".join(made.adult_lines(2000)))
        yield cloud


def complaint(folder: Path, environment, *words, path="gs://bucket/adult.csv", out="gs://bucket/o"):
    """Runs a job that must not start; returns what it says, without the name."""
    spec = folder / "spec.toml"
    spec.write_text(specs.with_paths(specs.ADULT, [path]))
    command = arguments("run", spec, "--output", out, *words)
    unset = {"CLOUDSDK_COMPUTE_REGION", "GOOGLE_APPLICATION_CREDENTIALS"}
    command["env"] = {k: v for k, v in command["env"].items() if k not in unset} | environment
    done = subprocess.run(**command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if "allowedLocations" not in line]
    return line.removeprefix("headrace: ")


DATAFLOW = [
    (
        (PLACE[1], TEMP, "--", IMAGE),
        "--project: is missing, and Dataflow needs it. Give the id of a project.",
    ),
    (
        (PLACE[0], TEMP, "--", IMAGE),
        "--region: is missing, and Dataflow needs it. Give a region such as us-central1.",
    ),
    (
        (*PLACE, "--", IMAGE),
        "--temp-location: is missing, and Dataflow needs it. Give a folder gs://BUCKET/....",
    ),
    (
        (*PLACE, "--temp-location=/tmp", "--", IMAGE),
        "--temp-location: must be a gs:// path, which Dataflow's workers reach, but is '/tmp'.",
    ),
    (
        (*PLACE, TEMP),
        "--sdk_container_image: Dataflow's workers need an image with this package. Build "
        "deploy/Dockerfile, and give its name.",
    ),
    (
        (*PLACE, "--temp-location=gs://nowhere/temp", "--", IMAGE),
        "--temp-location: there is no bucket gs://nowhere. Make it, or correct the name.",
    ),
    (
        (*PLACE, "--temp-location=gs://closed/temp", "--", IMAGE),
        "--temp-location: this account lacks storage.objects.create, storage.objects.delete in "
        "gs://closed. Ask for it, or give another bucket.",
    ),
    (
        (PLACE[0], "--region=mars-1", TEMP, "--", IMAGE),
        "--region: mars-1: There is no regional endpoint mars-1.",
    ),
    (
        ("--project=other", PLACE[1], TEMP, "--", IMAGE),
        "--project: other: The account may not create jobs in the project other.",
    ),
    (
        (*PLACE, TEMP, "--", IMAGE, "--max_num_worker=5"),
        "--max_num_worker: Beam has no such flag. Correct it, or leave it out.",
    ),
    (
        (*PLACE, TEMP, "--", IMAGE, "stray"),
        "stray: is no flag of Beam, which begin with --. Leave it out.",
    ),
]


@pytest.mark.parametrize(("words", "line"), DATAFLOW, ids=[line for _, line in DATAFLOW])
def test_dataflow(words, line, cloud, tmp_path):
    before = cloud.storage.names("bucket")
    assert before == ["adult.csv"]
    flags = () if "--" in words else ("--",)
    words = (*words, *flags, f"--dataflow_endpoint={cloud.service.url}")
    assert complaint(tmp_path, cloud.environment(), "--runner=dataflow", *words) == line
    assert cloud.storage.names("bucket") == before and not cloud.service.jobs


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (
            {"path": "/data/adult.csv"},
            "source.paths: must be a gs:// path, which Dataflow's workers reach, but is "
            "'/data/adult.csv'.",
        ),
        (
            {"out": "/data/out"},
            "--output: must be a gs:// path, which Dataflow's workers reach, but is '/data/out'.",
        ),
        (
            {"out": "gs://nowhere/out"},
            "--output: there is no bucket gs://nowhere. Make it, or correct the name.",
        ),
        (
            {"path": "gs://nowhere/a.csv"},
            "source.paths: there is no bucket gs://nowhere. Make it, or correct the name.",
        ),
    ],
)
def test_dataflow_cannot_reach_it(place, line, cloud, tmp_path):
    words = (*PLACE, TEMP, "--", IMAGE, f"--dataflow_endpoint={cloud.service.url}")
    assert complaint(tmp_path, cloud.environment(), "--runner=dataflow", *words, **place) == line


def test_dataflow_without_credentials(cloud, tmp_path):
    environment = cloud.environment()
    del environment["GOOGLE_APPLICATION_CREDENTIALS"]
    environment["HOME"] = str(tmp_path)  # Where gcloud would have left some.
    words = (*PLACE, TEMP, "--", IMAGE, f"--dataflow_endpoint={cloud.service.url}")
    line = complaint(tmp_path, environment, "--runner=dataflow", *words)
    assert line.startswith("--runner dataflow: no credentials: ")
    assert line.endswith(
        " Run `gcloud auth application-default login`, or name a key in "
        "GOOGLE_APPLICATION_CREDENTIALS."
    )


def test_dataflow_refuses_the_credentials(cloud, tmp_path):
    key = tmp_path / "key.json"
    text = Path(cloud.environment()["GOOGLE_APPLICATION_CREDENTIALS"]).read_text()
    key.write_text(text.replace("/token", "/no-such-place"))
    environment = {**cloud.environment(), "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    words = (*PLACE, TEMP, "--", IMAGE, f"--dataflow_endpoint={cloud.service.url}")
    line = complaint(tmp_path, environment, "--runner=dataflow", *words)
    assert line.startswith("--runner dataflow: the credentials are refused: ")
    assert line.endswith(" Log in again.")


def test_dataflow_without_a_network(cloud, nobody, tmp_path):
    key = tmp_path / "key.json"
    text = Path(cloud.environment()["GOOGLE_APPLICATION_CREDENTIALS"]).read_text()
    key.write_text(text.replace(cloud.service.url, f"http://{nobody}"))
    environment = {**cloud.environment(), "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    words = (*PLACE, TEMP, "--", IMAGE, f"--dataflow_endpoint={cloud.service.url}")
    line = complaint(tmp_path, environment, "--runner=dataflow", *words)
    host, port = nobody.split(":")
    assert line.startswith(
        f"--runner dataflow: Google cannot be reached: HTTPConnectionPool(host='{host}', "
        f"port={port}): "
    )
    assert line.endswith(". Look after the network and its proxy.")


def test_dataflow_without_a_way_to_impersonate(cloud, tmp_path):
    flag = f"--impersonate_service_account={dataflow_service.WORKER}"
    words = (*PLACE, TEMP, "--", IMAGE, f"--dataflow_endpoint={cloud.service.url}", flag)
    line = complaint(tmp_path, cloud.environment(), "--runner=dataflow", *words)
    start = "--runner dataflow: Google cannot be reached: "
    assert line.startswith(f"{start}HTTPSConnectionPool(host='iamcredentials.googleapis.com'")


@pytest.fixture
def ask_as(cloud, monkeypatch):
    """Asks for what a job needs, as an account that ours impersonates."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(iam, "_IAM_ENDPOINT", f"{cloud.service.url}/iam/{{}}:generateAccessToken")
    monkeypatch.setattr(auth._Credentials, "_credentials_init", False)  # Beam keeps the first ones.
    monkeypatch.setattr(auth._Credentials, "_credentials", None)

    def ask(account: str) -> None:
        flags = [*PLACE, "--temp_location=gs://bucket/temp", IMAGE]
        flags += [f"--dataflow_endpoint={cloud.service.url}"]
        options = PipelineOptions([*flags, f"--impersonate_service_account={account}"])
        preflight.check("dataflow", options, ["gs://bucket/adult.csv"], "gs://bucket/out")

    return ask


def test_dataflow_is_asked_as_whom_the_job_will_be(ask_as, cloud):
    ask_as(dataflow_service.WORKER)
    asked = dict(zip(cloud.service.calls, cloud.service.tokens, strict=True))
    jobs = f"GET /v1b3/projects/{PROJECT}/locations/{REGION}/jobs"
    assert asked[jobs] == f"Bearer {cloud.storage.token}"  # Ours would sign one itself.


def test_dataflow_refuses_to_impersonate(ask_as):
    with pytest.raises(SpecError) as raised:
        ask_as("boss@other.iam.gserviceaccount.com")
    assert str(raised.value) == (
        "--impersonate_service_account: boss@other.iam.gserviceaccount.com: Permission "
        "'iam.serviceAccounts.getAccessToken' denied on resource. Ask for the role Service "
        "Account Token Creator, or correct the account."
    )


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("localhost", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("runner", "flag", "line"),
    [
        ("flink", "--flink_job_server_jar=no.jar", "--flink_job_server_jar: no.jar is not there."),
        ("spark", "--spark_job_server_jar=no.jar", "--spark_job_server_jar: no.jar is not there."),
        (
            "flink",
            "--job_server_java_launcher=no/java",
            "--job_server_java_launcher: Beam's job server needs Java, and there is no no/java to "
            "start. Install Java 11 or 17, or give the path of java.",
        ),
        ("prism", "--prism_location=no/prism", "--prism_location: no/prism is not there."),
        ("flink", "--flink_master=NOBODY", "--flink_master: no Flink answers at NOBODY: "),
        ("spark", "--spark_master_url=spark://NOBODY", "--spark_master_url: nobody answers at "),
        ("PortableRunner", "--job_endpoint=NOBODY", "--job_endpoint: nobody answers at NOBODY: "),
        ("PortableRunner", "--parallelism=1", "--job_endpoint: is needed. Give HOST:PORT."),
    ],
)
def test_portable_runners(runner, flag, line, nobody, tmp_path):
    path, out = str(tmp_path / "adult.csv"), str(tmp_path / "out")
    Path(path).write_bytes(b"".join(made.adult_lines(2000)))
    words = (f"--runner={runner}", "--", flag.replace("NOBODY", nobody))
    said = complaint(tmp_path, dict(os.environ), *words, path=path, out=out)
    assert said.startswith(line.replace("NOBODY", nobody))
    remedies = "Correct the path.", "correct the address.", "Give HOST:PORT.", "path of java."
    assert said.endswith(remedies)
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--job_endpoint=NOBODY", "--job_endpoint: nobody answers at NOBODY: "),
        ("--flink_submit_uber_jar --flink_master=NOBODY", "--flink_master: no Flink answers at "),
    ],
)
def test_java_is_for_a_job_server_that_beam_starts(flags, line, nobody, tmp_path):
    words = ("--runner=flink", "--", *flags.replace("NOBODY", nobody).split())
    place = {"path": str(tmp_path / "adult.csv"), "out": str(tmp_path / "out")}
    said = complaint(tmp_path, {"PATH": str(tmp_path)}, *words, **place)
    assert said.startswith(line.replace("NOBODY", nobody))


def test_the_workers_have_their_own_temporary_folders(tmp_path):
    words = ("--runner=FnApiRunner", f"--temp-dir={tmp_path}")
    place = {"path": str(tmp_path / "a.csv"), "out": str(tmp_path / "out")}
    assert complaint(tmp_path, dict(os.environ), *words, **place) == (
        "--temp-dir: is the local runner's; workers elsewhere take the temporary folder of their "
        "own machine. Leave it out."
    )
