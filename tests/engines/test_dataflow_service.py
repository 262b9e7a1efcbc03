"""The stock DataflowRunner against the stand-in: staged, submitted, polled, run, read back."""

import contextlib
import copy
import gc
import time
import urllib.error
import urllib.request
from collections import defaultdict

import pytest

pytest.importorskip("google.cloud.dataflow", reason="needs apache-beam[gcp]")
pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator from PyPI")

import apache_beam as beam
import google.auth
from apache_beam.internal.gcp import auth
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
from apache_beam.runners.runner import PipelineState
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Forbidden, NotFound
from google.auth.exceptions import InvalidOperation
from google.cloud import dataflow, storage
from google.cloud.storage.exceptions import InvalidResponse

from engines import dataflow_service

_WORDS = [f"{letter}{number}" for number in range(50) for letter in "abc"] + ["d\r\n\u00e9"]
_BINARY = bytes(range(256)) * 5000  # More than one of the emulator's lines, all of its line ends.


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with (
        dataflow_service.start(tmp_path_factory.mktemp("cloud")) as cloud,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in cloud.environment().items():
            patch.setenv(name, value)
        # Beam keeps the credentials that it found first.
        patch.setattr(auth._Credentials, "_credentials_init", False)
        patch.setattr(auth._Credentials, "_credentials", None)
        cloud.storage.create_bucket("bucket")
        yield cloud


class _CountWords(beam.DoFn):
    def process(self, word):
        Metrics.counter("words", "seen").inc()
        Metrics.distribution("words", "length").update(len(word))
        yield word[0], word


class _WriteGroup(beam.DoFn):
    def __init__(self, folder):
        self._folder = folder

    def process(self, group):
        letter, words = group
        with FileSystems.create(f"{self._folder}/{letter}.bin") as file:
            file.write("\n".join(sorted(words)).encode())


class _Break(beam.DoFn):
    def process(self, number):
        if number == 3:
            raise ValueError(f"record {number} is broken")
        yield number


class _Sleep(beam.DoFn):
    def __init__(self, path):
        self._path = path

    def process(self, _):
        with FileSystems.create(self._path) as file:
            file.write(b"started")
        time.sleep(600)


def _submit(cloud, build, *flags):
    """Submits a pipeline as a user's program does, and returns its result without waiting."""
    pipeline = beam.Pipeline(options=PipelineOptions([*cloud.flags("bucket"), *flags]))
    build(pipeline)
    return pipeline.run()


def _words_to_files(pipeline):
    (
        pipeline
        | beam.Create(_WORDS)
        | "CountWords" >> beam.ParDo(_CountWords())
        | beam.GroupByKey()
        | beam.ParDo(_WriteGroup("gs://bucket/groups"))
    )


@pytest.fixture(scope="module")
def done(cloud):
    flags = (
        "--labels=team=data",
        "--labels=run=1",
        "--worker_machine_type=n1-standard-4",
        "--number_of_worker_harness_threads=2",
        "--disk_size_gb=50",
        "--max_num_workers=7",
        "--network=net",
        "--subnetwork=regions/us-central1/subnetworks/sub",
        "--no_use_public_ips",
        "--service_account_email=worker@stand-in-project.iam.gserviceaccount.com",
        "--dataflow_service_options=enable_preflight_validation=false",
    )
    result = _submit(cloud, _words_to_files, *flags)
    result.wait_until_finish()
    return result


def test_a_job_writes_what_plain_python_does(cloud, done):
    groups = defaultdict(list)
    for word in _WORDS:
        groups[word[0]].append(word)
    assert len(groups) == 4
    assert done.state == PipelineState.DONE
    names = [name for name in cloud.storage.names("bucket") if name.startswith("groups/")]
    assert names == [f"groups/{letter}.bin" for letter in sorted(groups)]
    for letter, words in groups.items():
        wanted = "\n".join(sorted(words)).encode()
        assert cloud.storage.read(f"gs://bucket/groups/{letter}.bin") == wanted


def test_the_metrics_of_a_job_come_back(done):
    metrics = done.metrics().query(MetricsFilter().with_namespace("words"))
    (seen,) = metrics["counters"]
    assert (seen.key.step, seen.key.metric.name) == ("CountWords", "seen")
    assert seen.committed == seen.attempted == len(_WORDS)
    (length,) = metrics["distributions"]
    lengths = [len(word) for word in _WORDS]
    got = length.committed
    assert (got.count, got.sum, got.min, got.max) == (
        len(lengths),
        sum(lengths),
        min(lengths),
        max(lengths),
    )


def test_the_flags_reach_the_job(cloud, done):
    job = cloud.service.jobs[done.job_id()]
    (pool,) = job.request.environment.worker_pools
    assert dict(job.request.labels) == {"team": "data", "run": "1"}
    assert pool.worker_harness_container_image == dataflow_service.IMAGE
    assert pool.machine_type == "n1-standard-4"
    assert pool.num_threads_per_worker == 2
    assert pool.disk_size_gb == 50
    assert pool.autoscaling_settings.max_num_workers == 7
    assert pool.network == "net"
    assert pool.subnetwork == "regions/us-central1/subnetworks/sub"
    assert pool.ip_configuration == dataflow.WorkerIPAddressConfiguration.WORKER_IP_PRIVATE
    account = job.request.environment.service_account_email
    assert account == "worker@stand-in-project.iam.gserviceaccount.com"
    (image,) = pool.sdk_harness_container_images
    environment = job.pipeline.components.environments[image.environment_id]
    staged = [
        beam_runner_api_pb2.ArtifactUrlPayload.FromString(file.type_payload).url.split("/")[-1]
        for file in environment.dependencies
    ]
    assert staged == ["submission_environment_dependencies.txt"]  # The image has all the rest.


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda options: options.update({"pipelineProtoHash": "0"}), "has another hash"),
        (lambda options: options.update({"pipelineUrl": "gs://bucket/no"}), "is missing"),
    ],
)
def test_a_job_whose_pipeline_was_not_staged_is_refused(cloud, done, break_it, message):
    request = copy.deepcopy(cloud.service.jobs[done.job_id()].request)
    break_it(dataflow.Environment.pb(request.environment).sdk_pipeline_options["options"])
    with pytest.raises(dataflow_service.ServiceError, match=message):
        cloud.service.create(request)


def test_a_job_whose_image_no_worker_has_is_refused(cloud, done):
    request = copy.deepcopy(cloud.service.jobs[done.job_id()].request)
    request.environment.worker_pools[0].sdk_harness_container_images[0].container_image = "other:1"
    with pytest.raises(dataflow_service.ServiceError, match=f"image {dataflow_service.IMAGE}"):
        cloud.service.create(request)


def test_the_staged_pipeline_asks_for_containers(cloud, done):
    pipeline = cloud.service.jobs[done.job_id()].pipeline
    images = {
        beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
        for environment in pipeline.components.environments.values()
    }
    assert images == {dataflow_service.IMAGE}


def test_a_job_that_fails_says_why(cloud):
    def build(pipeline):
        pipeline | beam.Create(range(5)) | "Break" >> beam.ParDo(_Break())

    result = _submit(cloud, build)
    with pytest.raises(DataflowRuntimeException, match="record 3 is broken"):
        result.wait_until_finish()
    assert result.state == PipelineState.FAILED
    assert cloud.service.jobs[result.job_id()].state == dataflow.JobState.JOB_STATE_FAILED


def test_a_long_job_is_cancelled(cloud):
    def build(pipeline):
        pipeline | beam.Create([0]) | beam.ParDo(_Sleep("gs://bucket/cancel/started"))

    result = _submit(cloud, build)
    _wait_for(lambda: "cancel/started" in cloud.storage.names("bucket"))
    assert result.state == PipelineState.RUNNING
    assert result.cancel() in (PipelineState.CANCELLING, PipelineState.CANCELLED)
    _wait_for(lambda: result.state == PipelineState.CANCELLED)
    assert cloud.service.jobs[result.job_id()]._process.poll() is not None


def test_two_active_jobs_cannot_have_one_name(cloud):
    def build(pipeline):
        pipeline | beam.Create([0]) | beam.ParDo(_Sleep("gs://bucket/twice/started"))

    first = _submit(cloud, build, "--job_name=twice")
    with pytest.raises(Exception, match="There is an active job twice"):
        _submit(cloud, build, "--job_name=twice")
    first.cancel()
    _wait_for(lambda: first.state == PipelineState.CANCELLED)


def test_only_the_calls_that_are_known_are_made(cloud, done):
    job = f"/v1b3/projects/{dataflow_service.PROJECT}/locations/{dataflow_service.REGION}/jobs"
    calls = {
        call.replace(done.job_id(), "ID") for call in cloud.service.calls if done.job_id() in call
    }
    assert calls == {f"GET {job}/ID", f"GET {job}/ID/messages", f"GET {job}/ID/metrics"}
    assert {"POST /token", f"POST {job}"} <= set(cloud.service.calls)


def test_a_template_is_a_job_that_somebody_else_submits(cloud):
    flag = "--template_location=gs://bucket/templates/job_object"
    jobs = len(cloud.service.jobs)

    def build(pipeline):
        (
            pipeline
            | beam.Create([("t", ["word"])])
            | beam.ParDo(_WriteGroup("gs://bucket/from_template"))
        )

    result = _submit(cloud, build, flag)
    assert result.wait_until_finish() == PipelineState.DONE  # At once, and without a job:
    assert not result.has_job
    assert len(cloud.service.jobs) == jobs
    written = cloud.storage.read("gs://bucket/templates/job_object").decode()
    job = cloud.service.create(dataflow.Job.from_json(written))
    _wait_for(job.is_over)
    assert job.state == dataflow.JobState.JOB_STATE_DONE
    assert cloud.storage.read("gs://bucket/from_template/t.bin") == b"word"


def test_a_dry_run_calls_nobody_and_shows_no_workers(cloud):
    def build(pipeline):
        pipeline | beam.Create([0])

    before = list(cloud.service.calls)
    result = _submit(cloud, build, "--dry_run=true", "--worker_machine_type=n1-standard-4")
    assert result.state == PipelineState.DONE
    assert cloud.service.calls == before
    assert not result.job.proto.environment.worker_pools  # They are filled in while staging.


def test_nobody_gets_in_without_credentials(cloud, monkeypatch):
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    monkeypatch.setattr(auth._Credentials, "_credentials", None)  # "Connecting anonymously".
    monkeypatch.setattr(FileSystems, "_pipeline_options", PipelineOptions([]))  # By new clients.
    with pytest.raises(InvalidOperation, match="Anonymous credentials cannot be refreshed"):
        _read("gs://bucket/files/plain.bin")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cloud.service.url}/v1b3/projects/{dataflow_service.PROJECT}/jobs")


@pytest.mark.parametrize(
    ("project", "region", "error"),
    [
        (dataflow_service.PROJECT, dataflow_service.REGION, None),
        ("other-project", dataflow_service.REGION, Forbidden),
        (dataflow_service.PROJECT, "mars-1", NotFound),
    ],
)
def test_a_launcher_can_ask_before_it_stages(cloud, project, region, error):
    credentials, _ = google.auth.default()
    client = dataflow.JobsV1Beta3Client(
        credentials=credentials,
        transport="rest",
        client_options=ClientOptions(api_endpoint=cloud.service.url),
    )
    request = dataflow.ListJobsRequest(project_id=project, location=region)
    with pytest.raises(error) if error else contextlib.nullcontext():
        client.list_jobs(request)


def test_a_launcher_can_ask_for_its_permissions(cloud):
    cloud.storage.create_bucket("asked")
    cloud.storage.read_only.add("asked")
    asked = ["storage.objects.create", "storage.objects.delete", "storage.objects.get"]
    credentials, _ = google.auth.default()
    client = storage.Client(dataflow_service.PROJECT, credentials)
    assert client.bucket("bucket").test_iam_permissions(asked) == asked
    assert client.bucket("asked").test_iam_permissions(asked) == ["storage.objects.get"]
    with pytest.raises(NotFound):
        client.bucket("no-such-bucket").test_iam_permissions(asked)


def _write(path, content):
    with FileSystems.create(path, compression_type="uncompressed") as file:
        file.write(content)


def _read(path):
    with FileSystems.open(path, compression_type="uncompressed") as file:
        return file.read()


@pytest.mark.parametrize(
    "name", ["plain.bin", "a b.bin", "\u00e9%+.bin", "train-00000-of-00002.gz"]
)
def test_storage_reads_what_was_written(cloud, name):
    path = f"gs://bucket/files/{name}"
    _write(path, _BINARY)
    assert _read(path) == cloud.storage.read(path) == _BINARY
    with FileSystems.open(path, compression_type="uncompressed") as file:
        file.seek(1000)
        assert file.read(16) == _BINARY[1000:1016]
    assert FileSystems.exists(path)
    (match,) = FileSystems.match([path])
    assert [(found.path, found.size_in_bytes) for found in match.metadata_list] == [
        (path, len(_BINARY))
    ]


def test_storage_lists_copies_renames_and_deletes(cloud):
    folder = "gs://bucket/moved"
    for number in range(120):  # More than one batch of 100.
        _write(f"{folder}/{number}", b"%d" % number)
    (match,) = FileSystems.match([f"{folder}/1?"])
    assert sorted(found.path for found in match.metadata_list) == [
        f"{folder}/{number}" for number in range(10, 20)
    ]
    FileSystems.copy([f"{folder}/7"], [f"{folder}/copied"])
    assert _read(f"{folder}/copied") == _read(f"{folder}/7") == b"7"
    paths = [f"{folder}/{number}" for number in range(120)]
    FileSystems.rename(paths, [f"{path}.new" for path in paths])
    assert not FileSystems.exists(paths[5])
    assert _read(f"{paths[119]}.new") == b"119"
    FileSystems.delete([f"{folder}/1*.new"])
    (match,) = FileSystems.match([f"{folder}/*"])
    assert len(match.metadata_list) == 120 - 31 + 1
    FileSystems.delete([f"{folder}/"])
    (match,) = FileSystems.match([f"{folder}/*"])
    assert match.metadata_list == []


def test_storage_says_what_is_not_there(cloud):
    with pytest.raises(Exception, match="404"):
        _read("gs://bucket/files/none")
    with pytest.raises(BeamIOError, match="Match operation failed"):
        FileSystems.match(["gs://no-such-bucket/*"])
    assert not FileSystems.exists("gs://bucket/files/none")


def test_a_read_only_bucket_refuses_to_be_written(cloud):
    cloud.storage.create_bucket("read-only")
    cloud.storage.read_only.add("read-only")
    with pytest.raises(InvalidResponse, match="403"):
        _write("gs://read-only/file", b"text")
    gc.collect()  # The writer tries again when it is collected, and for 2 min without a server.
    assert cloud.storage.names("read-only") == []


def _wait_for(is_so, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)
