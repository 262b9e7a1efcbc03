"""A job of `headrace run` on the stand-in for Dataflow: what goes wrong there is said here."""

import json

from oracle import made
from oracle.command import headrace

from engines import dataflow_service, jobs, started


def test_what_fails_on_the_service_is_one_line_here(tmp_path):
    lines = made.adult_lines(2000) + [b"1,2,3\n"] * 500
    spec = jobs.adult_spec(tmp_path, lines)
    wanted = headrace("run", spec, "--output", tmp_path / "local", "--quiet")
    assert wanted.returncode == 1 and "records cannot be read" in wanted.stdout
    with started.dataflow(tmp_path) as there:
        options = ("--output", there.output, "--quiet", *there.words)
        done = headrace("run", there.spec(spec), *options)
        assert there.states() == ["JOB_STATE_FAILED"]
        assert not (there.fetched() / "dataset_info.json").exists()
    place = str(tmp_path / "local"), there.output
    assert (done.returncode, done.stdout) == (1, wanted.stdout.replace(*place))


def test_a_dry_run_prints_the_request_and_sends_nothing(tmp_path):
    spec = jobs.adult_spec(tmp_path, made.adult_lines(2000))
    flags = {
        "worker_machine_type": "n2-highmem-4",
        "max_num_workers": "20",
        "number_of_worker_harness_threads": "2",
        "disk_size_gb": "50",
        "labels": "team=data",
        "network": "shared",
        "subnetwork": "regions/us-central1/subnetworks/one",
        "service_account_email": "worker@stand-in-project.iam.gserviceaccount.com",
        "s3_secret_access_key": "hidden-thing",
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    with started.dataflow(tmp_path) as there:
        spec = there.spec(spec)
        before = there.cloud.storage.names("bucket")
        options = ("--output", there.output, "--dry-run", *there.words, *words)
        done = headrace("run", spec, *options)
        assert done.returncode == 0, done.stdout[-3000:]
        assert there.cloud.storage.names("bucket") == before and not there.states()
    found = json.loads(done.stdout[done.stdout.index("{\n") :])  # Behind what Google's client logs.
    request = found["job"]
    assert request["labels"] == {"team": "data"}
    environment = request["environment"]
    assert environment["serviceAccountEmail"] == flags["service_account_email"]
    (pool,) = environment["workerPools"]
    assert pool["machineType"] == flags["worker_machine_type"]
    assert (pool["numThreadsPerWorker"], pool["diskSizeGb"]) == (2, 50)
    assert (pool["network"], pool["subnetwork"]) == (flags["network"], flags["subnetwork"])
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 20
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == dataflow_service.IMAGE
    said = environment["sdkPipelineOptions"]["options"]
    assert said["region"] == dataflow_service.REGION and not said.get("dry_run")
    assert said["s3_secret_access_key"] == "..." and "hidden-thing" not in done.stdout
    assert {"ScanFiles", "AnalyzeRecords", "WriteRecords", "Commit"} <= set(found["steps"])
    assert 10_000 < found["graph_bytes"] < 1_000_000
