"""deploy/spark without a cluster: what a user may do wrong, and the job server's jar."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from oracle.command import ROOT

from engines.test_flink_deploy import NOWHERE, assert_mistake, run_java
from engines.test_flink_deploy import served as served

CLUSTER = ROOT / "deploy" / "spark" / "cluster.py"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(CLUSTER), *map(str, arguments)]
    changed = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=changed)


def serve_spark(folder: Path, version: str) -> None:
    """A package index with a source archive like that of pyspark."""
    page = folder / "pyspark"
    page.mkdir()
    archive = page / f"pyspark-{version}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("deps/jars/spark-core_2.12-3.5.9.jar", "deps/bin/run", "pyspark/context.py"):
            info = tarfile.TarInfo(f"pyspark-{version}/{name}")
            tar.addfile(info, io.BytesIO())
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    link = f'<a href="{archive.name}#sha256={sha256}">{archive.name}</a>\n'
    (page / "index.html").write_text(link)


def serve_job_server(folder: Path) -> None:
    name = "beam-runners-spark-3-job-server"
    place = folder / "org" / "apache" / "beam" / name / "2.77.0"
    place.mkdir(parents=True)
    (place / f"{name}-2.77.0.jar").write_bytes(b"a jar")
    sha1 = hashlib.sha1(b"a jar").hexdigest()
    (place / f"{name}-2.77.0.jar.sha1").write_text(f"{sha1}\n")


def test_spark_and_its_job_server_are_fetched_once(served, tmp_path):
    run_java()
    folder, url = served
    serve_spark(folder, "3.5.9")
    serve_job_server(folder)
    cache = tmp_path / "cache"
    first = run("jar", "--cache", cache, PIP_INDEX_URL=url, HEADRACE_MAVEN=url)
    again = run("jar", "--cache", cache, PIP_INDEX_URL=NOWHERE, HEADRACE_MAVEN=NOWHERE)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert Path(first.stdout.strip()).read_bytes() == b"a jar"
    files = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    jar = "beam-runners-spark-3-job-server-2.77.0"
    assert files == {"spark-3.5.9/jars/spark-core_2.12-3.5.9.jar", f"{jar}/{jar}.jar"}


def test_a_jar_of_parts_names_them_and_sparks_own(tmp_path):
    (tmp_path / "lib").mkdir()
    names = [f"part-{number:02d}.jar" for number in range(30)]
    for name in reversed(names):
        (tmp_path / "lib" / name).touch()
    code = (
        f"import sys; sys.path.insert(0, {str(CLUSTER.parent.parent)!r}); "
        "import downloads, pathlib; downloads._assemble("
        f"pathlib.Path({str(tmp_path)!r}), 'made.jar', downloads.SPARK, ['../spark/jars/one.jar'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with zipfile.ZipFile(tmp_path / "made.jar") as jar:
        manifest = jar.read("META-INF/MANIFEST.MF").decode()
    lines = manifest.split("\r\n")
    assert max(len(line.encode()) for line in lines) <= 72  # The format's limit.
    entries = dict(line.split(": ", 1) for line in manifest.replace("\r\n ", "").split("\r\n")[:-2])
    wanted = [f"lib/{name}" for name in names] + ["../spark/jars/one.jar"]
    assert entries["Class-Path"].split() == wanted
    assert entries["Main-Class"] == "org.apache.beam.runners.spark.SparkJobServerDriver"
    assert "java.base/sun.nio.ch" in entries["Add-Opens"].split()


@pytest.mark.parametrize("command", ["jar", "start"])
def test_no_network_and_nothing_cached(tmp_path, command):
    run_java()
    folder = [] if command == "jar" else ["--folder", tmp_path / "spark"]
    done = run(command, "--cache", tmp_path, *folder, HEADRACE_MAVEN=NOWHERE, PIP_INDEX_URL=NOWHERE)
    assert_mistake(done, NOWHERE, "cannot be reached", "Connection refused")


def test_no_java(tmp_path):
    done = run("start", "--folder", tmp_path, JAVA_HOME=str(tmp_path))
    assert_mistake(done, "java is missing", "JAVA_HOME")


@pytest.mark.parametrize("command", ["stop", "status"])
def test_nothing_to_stop(tmp_path, command):
    assert_mistake(run(command, "--folder", tmp_path), str(tmp_path), "no cluster")
