"""The Flex Template's metadata and its launcher agree with each other and with the service."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / "deploy" / "dataflow"
_METADATA = json.loads((_FOLDER / "metadata.json").read_text())
_PARAMETERS = {entry["name"]: entry for entry in _METADATA["parameters"]}
_IMAGE = "us-docker.pkg.dev/project/repository/headrace"
_REQUIRED = {
    "spec": "gs://bucket/specs/adult.toml",
    "output": "gs://bucket/datasets/adult",
    "sdk_container_image": f"{_IMAGE}:0.1.0",
}
_OPTIONAL = {
    "overwrite": "true",
    "block_mb": "8.5",
    "workers": "4",
    "number_of_worker_harness_threads": "2",
    "disk_size_gb": "50",
}
# What the service adds of itself.
_FROM_THE_SERVICE = [
    "--project=project",
    "--region=us-central1",
    "--job_name=adult-1",
    "--temp_location=gs://bucket/temp",
    "--staging_location=gs://bucket/staging",
    "--template_location=gs://bucket/staging/template_launches/1/job_object",
    "--labels={'team': 'data'}",
]


def _arguments(parameters, flags=()):
    spec = importlib.util.spec_from_file_location("flex_template_main", _FOLDER / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.arguments([*(f"--{name}={value}" for name, value in parameters.items()), *flags])


def test_the_service_knows_every_key_of_the_metadata():
    dataflow = pytest.importorskip("google.cloud.dataflow", reason="needs apache-beam[gcp]")
    parsed = dataflow.TemplateMetadata.from_json(json.dumps(_METADATA), ignore_unknown_fields=False)
    assert [entry.name for entry in parsed.parameters] == list(_PARAMETERS)


def test_every_parameter_is_described_and_checked():
    assert len(_PARAMETERS) == len(_METADATA["parameters"])
    for entry in _PARAMETERS.values():
        assert entry["label"]
        assert entry["helpText"].endswith(".")
        assert entry["regexes"]


_CALL = [
    "run",
    "gs://bucket/specs/adult.toml",
    "--output",
    "gs://bucket/datasets/adult",
    "--runner",
    "dataflow",
]


def test_every_parameter_is_one_that_the_launcher_takes():
    assert set(_PARAMETERS) == {*_REQUIRED, *_OPTIONAL}
    assert {name for name, entry in _PARAMETERS.items() if entry.get("isOptional")} == {*_OPTIONAL}
    assert _arguments(_REQUIRED | _OPTIONAL, ["--runner=DataflowRunner", *_FROM_THE_SERVICE]) == [
        *_CALL,
        "--overwrite",
        "--block-mb",
        "8.5",
        "--workers",
        "4",
        "--",
        *_FROM_THE_SERVICE,
        f"--sdk_container_image={_IMAGE}:0.1.0",
        "--number_of_worker_harness_threads=2",
        "--disk_size_gb=50",
        "--sdk_location=container",
    ]


@pytest.mark.parametrize("overwrite", [{}, {"overwrite": "false"}])
def test_what_is_optional_may_be_left_out(overwrite):
    assert _arguments(_REQUIRED | overwrite) == [
        *_CALL,
        "--",
        f"--sdk_container_image={_IMAGE}:0.1.0",
        "--sdk_location=container",
    ]


@pytest.mark.parametrize("name", ["spec", "output"])
def test_what_is_not_optional_is_asked_for(name, capsys):
    parameters = {key: value for key, value in _REQUIRED.items() if key != name}
    with pytest.raises(SystemExit):
        _arguments(parameters)
    assert f"required: --{name}" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), (_REQUIRED | _OPTIONAL).items())
def test_a_good_value_is_let_through(name, value):
    assert all(re.search(regex, value) for regex in _PARAMETERS[name]["regexes"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spec", "adult.toml"),
        ("spec", "gs://bucket/adult.json"),
        ("output", "/tmp/adult"),
        ("output", "gs://bucket"),
        ("output", "gs://bucket/ad*lt"),
        ("sdk_container_image", "headrace"),
        ("sdk_container_image", f"{_IMAGE}@sha256:12"),
        ("overwrite", "yes"),
        ("block_mb", "-1"),
        ("workers", "0"),
        ("number_of_worker_harness_threads", "two"),
        ("disk_size_gb", "0"),
    ],
)
def test_a_bad_value_is_stopped_by_the_service(name, value):
    assert not all(re.search(regex, value) for regex in _PARAMETERS[name]["regexes"])
