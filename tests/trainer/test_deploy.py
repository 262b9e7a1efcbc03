"""The files that start trainings elsewhere, as far as they can be checked without a cloud.

With shellcheck, hadolint and kubernetes-validate, which come with the extra `dev`.
"""

import argparse
import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer import cli, distribution

_ROOT = Path(__file__).parents[2]
_DEPLOY = _ROOT / "deploy"
_DOCKERFILE = (_DEPLOY / "trainer.Dockerfile").read_text()
_JOBS = ["train.yaml", "train-workers.yaml"]
_GRACE_SECONDS = 60  # The least that a step and a checkpoint need.


def _tool(name):
    """The path of a program of the environment, or a skipped test."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}")
    return found


def _documents(name):
    return list(yaml.safe_load_all((_DEPLOY / "kubernetes" / name).read_text()))


def _job(name):
    (job,) = [each for each in _documents(name) if each["kind"] == "Job"]
    return job["spec"]


def _container(name):
    (container,) = _job(name)["template"]["spec"]["containers"]
    return container


def _parsed(words):
    """What the product makes of the words of a command."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    cli.add_commands(parser.add_subparsers(required=True))
    return parser.parse_args(words)


def _commands():
    """Every command that trains, as a list of words, by where it stands."""
    found = {f"kubernetes/{name}": _container(name)["args"] for name in _JOBS}
    (pool,) = yaml.safe_load((_DEPLOY / "vertex/job.yaml").read_text())["workerPoolSpecs"]
    found["vertex/job.yaml"] = pool["containerSpec"]["args"]
    (docker,) = re.findall(r"IMAGE (train .*)", _DOCKERFILE)
    found["trainer.Dockerfile"] = shlex.split(docker)
    (tpu,) = re.findall(r'"\$image" (train .*)', (_DEPLOY / "tpu/start.sh").read_text())
    found["tpu/start.sh"] = shlex.split(tpu)
    readme = (_DEPLOY / "README.md").read_text()
    for number, command in enumerate(
        re.findall(r"`(?:[A-Z_]+=\S+ )*headrace (train [^`]*)`", readme)
    ):
        found[f"README.md {number}"] = shlex.split(command)
    return found


def test_every_command_is_one_of_ours():
    commands = _commands()
    assert len(commands) >= 7
    for place, words in commands.items():
        args = _parsed(words)
        assert args.directory and args.output, place


def test_a_flag_that_is_not_ours_would_be_found():
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        _parsed(["train", "/data", "--output", "/model", "--workers", "4"])


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(_DEPLOY) for p in _DEPLOY.rglob("*.sh")), ids=str
)
def test_scripts(path):
    done = subprocess.run([_tool("shellcheck"), _DEPLOY / path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Dockerfile", "trainer.Dockerfile"])
def test_dockerfiles(name):
    command = [_tool("hadolint"), "--no-color", "--failure-threshold", "warning", _DEPLOY / name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", _JOBS)
def test_kubernetes_knows_every_field(name):
    validate = pytest.importorskip("kubernetes_validate")
    documents = _documents(name)
    assert len(documents) == 1 + (name == "train-workers.yaml")
    for document in documents:
        validate.validate(document, validate.latest_version(), strict=True)
    document["spec"]["restartPolicy"] = "Never"  # A level too high.
    with pytest.raises(validate.ValidationError):
        validate.validate(document, validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", _JOBS)
def test_a_pod_that_is_lost_is_followed_by_another(name):
    job, pod = _job(name), _job(name)["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] > 0
    assert pod["terminationGracePeriodSeconds"] >= _GRACE_SECONDS
    (ignored, failed) = job["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert failed["action"] == "FailJob" and 2 in failed["onExitCodes"]["values"]
    assert 143 not in failed["onExitCodes"]["values"]  # What SIGTERM ends with.
    assert failed["onExitCodes"]["containerName"] == _container(name)["name"]


@pytest.mark.parametrize("name", _JOBS)
def test_what_is_read_and_written_is_mounted(name):
    container, pod = _container(name), _job(name)["template"]["spec"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    args = _parsed(container["args"])
    data, model = (
        mounts["/" + args.directory.split("/")[1]],
        mounts["/" + args.output.split("/")[1]],
    )
    assert data["readOnly"] and not model.get("readOnly")
    assert {volume["name"] for volume in pod["volumes"]} == {m["name"] for m in mounts.values()}
    assert pod["securityContext"]["runAsUser"] == int(re.search(r"--uid (\d+)", _DOCKERFILE)[1])
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) >= 1


def test_each_pod_knows_the_others():
    job, container = _job("train-workers.yaml"), _container("train-workers.yaml")
    documents = _documents("train-workers.yaml")
    (service,) = [each for each in documents if each["kind"] == "Service"]
    (name,) = [each["metadata"]["name"] for each in documents if each["kind"] == "Job"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] > 1
    assert service["metadata"]["name"] == job["template"]["spec"]["subdomain"]
    assert (
        service["spec"]["selector"] == {"job-name": name} and service["spec"]["clusterIP"] == "None"
    )
    index, config = container["env"]
    assert index["valueFrom"]["fieldRef"]["fieldPath"].endswith("job-completion-index']")
    (port,) = [each["containerPort"] for each in container["ports"]]
    wanted = [f"{name}-{i}.{service['metadata']['name']}:{port}" for i in range(job["completions"])]
    for host in range(job["completions"]):
        text = config["value"].replace(f"$({index['name']})", str(host))
        assert distribution._hosts(text) == (wanted, host)


def test_vertex_ai_knows_every_field():
    types = pytest.importorskip("google.cloud.aiplatform_v1.types")
    from google.protobuf import json_format

    text = (_DEPLOY / "vertex/job.yaml").read_text()
    request = yaml.safe_load(text)
    kind = types.CustomJobSpec.pb
    spec = json_format.ParseDict(request, kind(types.CustomJobSpec()))
    (pool,) = spec.worker_pool_specs
    assert pool.machine_spec.accelerator_count == 1 and pool.replica_count == 1
    assert (
        spec.scheduling.restart_job_on_worker_restart and spec.scheduling.timeout.seconds == 86400
    )
    for wrong in ({"restartPolicy": "Never"}, {"scheduling": {"strategy": "CHEAP"}}):
        with pytest.raises(json_format.ParseError):
            json_format.ParseDict(request | wrong, kind(types.CustomJobSpec()))


def _imported():
    """The packages that the trainer's code names in an import."""
    found = set()
    for path in (_ROOT / "trainer").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"trainer", "headrace"}


def test_the_image_has_all_that_the_trainer_imports():
    assert "tensorflow" in _imported()
    installed = set(re.findall(r"[\w-]+", _DOCKERFILE.split("RUN case", 1)[1].split("COPY", 1)[0]))
    packages = {"google": "google-cloud-storage", "google_crc32c": "google-crc32c"}
    packages["PIL"] = "pillow"
    # TensorFlow brings Keras and NumPy, botocore comes with boto3, requests with Google's client.
    brought = {"keras": "tensorflow", "numpy": "tensorflow"}
    brought |= {"botocore": "boto3", "requests": "google-cloud-storage"}
    for module in _imported():
        assert importlib.util.find_spec(module) or module == "jax", module
        assert (packages | brought).get(module, module) in installed, module


def test_the_tensorflow_of_the_image_is_the_one_that_ran():
    (version,) = re.findall(r"^tensorflow==(.*)$", (_ROOT / "constraints.txt").read_text(), re.M)
    assert re.findall(r"tensorflow-cpu==(\S+)", _DOCKERFILE) == [version]
