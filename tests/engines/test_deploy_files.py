"""The files that images are built from, as far as they can be checked without building them."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_DEPLOY = _ROOT / "deploy"
_DOCKERFILES = ["Dockerfile", "trainer.Dockerfile"]
_INSTRUCTION = re.compile(r"(?P<word>[A-Z]+)\s+(?P<rest>.*)", re.DOTALL)
_PINNED = re.compile(r"[^\s:@]+(:(?P<tag>[\w.-]*\d[\w.-]*)|@sha256:[0-9a-f]{64})(\s+AS\s+\w+)?")
_SECRET = re.compile(r"password|passwd|secret|token|api_?key|credential|BEGIN .*KEY", re.IGNORECASE)
_USER = "useradd --uid 10001 --create-home headrace"
_USER_OF = {
    "Dockerfile": _USER,
    "trainer.Dockerfile": f"{_USER} && install -d -o headrace /model",  # A volume is made like it.
}
# Beam's clients of services that a job does not call; half of their size is Vertex AI.
_LEFT_OUT = {
    "cloud-sql-python-connector": "google.cloud.sql.connector",
    "google-cloud-aiplatform": "google.cloud.aiplatform",
    "google-cloud-bigtable": "google.cloud.bigtable",
    "google-cloud-build": "google.cloud.devtools",
    "google-cloud-datastore": "google.cloud.datastore",
    "google-cloud-dlp": "google.cloud.dlp",
    "google-cloud-kms": "google.cloud.kms",
    "google-cloud-language": "google.cloud.language",
    "google-cloud-monitoring": "google.cloud.monitoring",
    "google-cloud-pubsub": "google.cloud.pubsub",
    "google-cloud-recommendations-ai": "google.cloud.recommendationengine",
    "google-cloud-secret-manager": "google.cloud.secretmanager",
    "google-cloud-spanner": "google.cloud.spanner",
    "google-cloud-sql": "google.cloud.sqladmin",
    "google-cloud-videointelligence": "google.cloud.videointelligence",
    "google-cloud-vision": "google.cloud.vision",
    "google-genai": "google.genai",
    "pg8000": "pg8000",
    "pymysql": "pymysql",
    "python-tds": "pytds",
}
_IMPORT_WITHOUT = """
import sys


class Absent:
    left_out = {left_out!r}

    def find_spec(self, name, path=None, target=None):
        if any(name.startswith(module) for module in self.left_out):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Absent())
import apache_beam.io.gcp.gcsfilesystem
import apache_beam.runners.dataflow.internal.apiclient
import apache_beam.runners.worker.sdk_worker_main
from apache_beam.io.filesystems import FileSystems
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.dataflow.ptransform_overrides import get_dataflow_transform_overrides

import beam_jobs.run

DataflowRunner()
print(type(FileSystems.get_filesystem("gs://bucket")).__name__)
"""


def _instructions(name):
    """Returns the instructions of a Dockerfile as pairs, continued lines joined."""
    lines = (_DEPLOY / name).read_text().splitlines()
    code = "\n".join(line for line in lines if line.strip() and not line.startswith("#"))
    found = [_INSTRUCTION.fullmatch(part) for part in code.replace("\\\n", " ").splitlines()]
    assert all(found)
    return [(match["word"], match["rest"]) for match in found]


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_every_base_image_is_pinned(name):
    bases = [rest for word, rest in _instructions(name) if word == "FROM"]
    assert len(bases) >= 2
    for base in bases:
        assert _PINNED.fullmatch(base), base
        assert "latest" not in base


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_the_last_stage_has_no_tools_and_no_root(name):
    instructions = _instructions(name)
    start = max(i for i, (word, _) in enumerate(instructions) if word == "FROM")
    last = instructions[start:]
    runs = [rest for word, rest in last if word == "RUN"]
    assert runs == [_USER_OF[name]]
    words = [word for word, _ in last]
    assert last[words.index("USER")] == ("USER", "headrace")
    assert set(words[words.index("USER") :]) == {"USER", "ENTRYPOINT"}


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_what_is_copied_is_there(name):
    stages, copied = set(), 0
    for word, rest in _instructions(name):
        if word == "FROM" and " AS " in rest:
            stages.add(rest.rsplit(" AS ", 1)[1])
        if word != "COPY":
            continue
        *sources, _ = rest.split()
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in stages
            continue
        for source in sources:
            assert (_ROOT / source).exists(), source
            copied += 1
    assert copied >= 4


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_nothing_is_secret_and_nothing_comes_from_elsewhere(name):
    text = (_DEPLOY / name).read_text()
    assert not _SECRET.search(text)
    assert not re.search(r"https?://|--index-url|--extra-index-url|\bADD\b|\bcurl\b", text)


def test_the_beam_of_the_image_is_the_one_that_ran():
    version = _pins(_ROOT / "constraints.txt")["apache-beam"]
    assert ("FROM", f"apache/beam_python3.11_sdk:{version} AS beam") in _instructions("Dockerfile")
    assert _pins(_DEPLOY / "requirements.txt")["apache-beam"] == metadata.version("apache-beam")


def test_the_image_has_the_versions_that_ran():
    ran = _pins(_ROOT / "constraints.txt")
    ran["tensorflow-cpu"] = ran["tensorflow"]
    image = _pins(_DEPLOY / "requirements.txt")
    # Build tools that pip does not freeze, and what constraints.txt does not name yet.
    assert set(image) - set(ran) <= {"setuptools", "wheel", "zstandard"}
    assert image == image | {name: ran[name] for name in set(image) & set(ran)}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the image has Python 3.11")
def test_the_image_has_every_dependency_but_those_that_are_left_out():
    needed = _needed("headrace", frozenset({"s3"})) - {"headrace"}
    image = set(_pins(_DEPLOY / "requirements.txt"))
    assert needed - image == {"tensorflow", *_LEFT_OUT}
    assert image - needed == {"tensorflow-cpu"}


def test_nothing_that_is_left_out_is_imported():
    code = _IMPORT_WITHOUT.format(left_out=tuple(_LEFT_OUT.values()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT)
    assert done.stdout.split() == ["GCSFileSystem"], done.stderr[-3000:]


def _pins(path):
    """Returns the version of each distribution that a requirements file pins."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split(";")[0].split("==")
            found[canonicalize_name(name)] = version.strip()
    return found


def _needed(name, extras=frozenset(), found=None):
    """Returns the names of a distribution and of all that it needs on this machine."""
    found = {} if found is None else found
    key = canonicalize_name(name)
    if key in found and extras <= found[key]:
        return set(found)
    found[key] = found.get(key, frozenset()) | extras
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}
        ):
            _needed(requirement.name, frozenset(requirement.extras), found)
    return set(found)
