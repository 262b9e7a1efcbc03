"""deploy/flink without a cluster: what a user may do wrong, and the files as files."""

import hashlib
import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from oracle.command import ROOT

CLUSTER = ROOT / "deploy" / "flink" / "cluster.py"
NOWHERE = "http://localhost:1"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(CLUSTER), *map(str, arguments)]
    changed = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=changed)


def assert_mistake(done: subprocess.CompletedProcess, *parts: str) -> None:
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("cluster.py: "), done.stderr
    assert [part for part in parts if part not in last] == [], last
    assert "Traceback" not in done.stderr


@pytest.fixture
def served(tmp_path):
    """A folder and its URL."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://localhost:{server.server_port}"
        server.shutdown()


def serve_jar(folder: Path, sum_of: bytes, data: bytes = b"a jar") -> None:
    name = "beam-runners-flink-1.20-job-server"
    place = folder / "org" / "apache" / "beam" / name / "2.77.0"
    place.mkdir(parents=True)
    (place / f"{name}-2.77.0.jar").write_bytes(data)
    (place / f"{name}-2.77.0.jar.sha1").write_text(hashlib.sha1(sum_of).hexdigest() + "\n")


def serve_flink(folder: Path, versions: list[str]) -> None:
    """A package index with source archives like those of apache-flink-libraries."""
    page = folder / "apache-flink-libraries"
    page.mkdir()
    links = ""
    for version in versions:
        archive = page / f"apache_flink_libraries-{version}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name in (f"lib/flink-dist-{version}.jar", "lib/../../evil.jar", "opt/other.jar"):
                info = tarfile.TarInfo(f"apache_flink_libraries-{version}/deps/{name}")
                info.size = len(version)
                tar.addfile(info, io.BytesIO(version.encode()))
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        links += f'<a href="{archive.name}#sha256={sha256}">{archive.name}</a>\n'
    (page / "index.html").write_text(links)


def test_a_jar_is_fetched_once_and_checked(served, tmp_path):
    folder, url = served
    serve_jar(folder, b"a jar")
    first = run("jar", "--cache", tmp_path / "cache", HEADRACE_MAVEN=url)
    again = run("jar", "--cache", tmp_path / "cache", HEADRACE_MAVEN=NOWHERE)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert Path(first.stdout.strip()).read_bytes() == b"a jar"


def test_a_damaged_jar_is_not_kept(served, tmp_path):
    folder, url = served
    serve_jar(folder, b"another jar")
    done = run("jar", "--cache", tmp_path / "cache", "--maven", url)
    assert_mistake(done, "its sha1 must be", "Try again")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_jar_that_does_not_exist(served, tmp_path):
    path = str(Path(run_java()).parent)  # Without mvn, which could put it together.
    done = run("jar", "--cache", tmp_path, "--maven", served[1], PATH=path, JAVA_HOME="")
    if "mvn" not in done.stderr:
        pytest.skip("mvn lies beside java")
    assert_mistake(done, "beam-runners-flink-1.20-job-server:2.77.0", "does not exist", "--beam")


def run_java() -> str:
    found = subprocess.run(["which", "java"], capture_output=True, text=True).stdout.strip()
    if not found:
        pytest.skip("no java")
    return os.path.realpath(found)


@pytest.mark.parametrize("command", ["jar", "start"])
def test_no_network_and_nothing_cached(tmp_path, command):
    run_java()
    folder = [] if command == "jar" else ["--folder", tmp_path / "flink"]
    done = run(command, "--cache", tmp_path, *folder, HEADRACE_MAVEN=NOWHERE, PIP_INDEX_URL=NOWHERE)
    assert_mistake(done, NOWHERE, "cannot be reached", "Connection refused")


def test_the_newest_patch_of_a_version_is_unpacked(served, tmp_path):
    run_java()
    folder, url = served
    serve_flink(folder, ["1.20.9", "1.20.10", "1.2.11"])
    code = (
        f"import sys; sys.path.insert(0, {str(CLUSTER.parent.parent)!r}); "
        f"import downloads, pathlib; print(downloads.distribution(downloads.FLINK, '1.20.x', "
        f"pathlib.Path({str(tmp_path / 'cache')!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_INDEX_URL": url},
    )
    found = Path(done.stdout.strip())
    assert found.name == "flink-1.20.10", done.stderr
    files = [str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()]
    assert files == ["lib/flink-dist-1.20.10.jar"]
    assert not list(tmp_path.rglob("evil.jar"))


def test_a_version_that_does_not_exist(served, tmp_path):
    run_java()
    serve_flink(served[0], ["1.20.9"])
    done = run(
        "start", "--version", "1.21", "--cache", tmp_path, "--folder", tmp_path / "flink",
        PIP_INDEX_URL=served[1],
    )  # fmt: skip
    assert_mistake(done, "no apache-flink-libraries 1.21", "--version")


def test_no_java(tmp_path):
    done = run("start", "--folder", tmp_path, JAVA_HOME=str(tmp_path))
    assert_mistake(done, "java is missing", "JAVA_HOME")


def test_a_port_that_is_taken(tmp_path):
    run_java()
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("start", "--folder", tmp_path, "--port", port)
    assert_mistake(done, f"--port {port}", "in use")


@pytest.mark.parametrize("command", ["stop", "status"])
def test_nothing_to_stop(tmp_path, command):
    assert_mistake(run(command, "--folder", tmp_path), str(tmp_path), "no cluster")


def test_a_foreign_process_is_not_ended(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "jobmanager.pid").write_text(str(other.pid))
        (tmp_path / "cluster.json").write_text('{"port": 1}')
        done = run("stop", "--folder", tmp_path)
        assert done.returncode == 0 and "Nothing was running" in done.stdout
        assert other.poll() is None
        other.kill()


def is_alive(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def leave_a_worker(folder: Path, start: str) -> int:
    """Starts a process in a group of its own, which starts another; it dies, and the other not."""
    script = f"sleep 60 & printf '%s %s' $$ $! > {folder}/new; mv {folder}/new {folder}/pids; wait"
    code = (
        f"import sys; sys.path.insert(0, {str(CLUSTER.parent.parent)!r}); "
        f"import os, pathlib, processes, subprocess; folder = pathlib.Path({str(folder)!r}); "
        f"command = ['sh', '-c', {script!r}, f'{{folder}}/conf']; {start}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    until((folder / "pids").exists)
    first, second = map(int, (folder / "pids").read_text().split())
    os.kill(first, signal.SIGKILL)
    until(lambda: not is_alive(first))
    assert is_alive(second) and os.getpgid(second) == first
    (folder / "taskmanager-0.pid").write_text(str(first))
    (folder / "cluster.json").write_text('{"port": 1}')
    return second


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
def test_the_workers_of_a_dead_task_manager_are_ended(tmp_path):
    worker = leave_a_worker(tmp_path, "processes.spawn(folder, 'taskmanager-0', command)")
    done = run("stop", "--folder", tmp_path)
    assert (done.returncode, done.stdout) == (0, "Stopped orphaned workers.\n")
    until(lambda: not is_alive(worker))


def test_a_group_with_the_number_of_a_dead_task_manager_is_not_ended(tmp_path):
    worker = leave_a_worker(tmp_path, "subprocess.Popen(command, start_new_session=True)")
    done = run("stop", "--folder", tmp_path)
    assert (done.returncode, done.stdout) == (0, "Nothing was running.\n")
    time.sleep(0.5)
    assert is_alive(worker)
    os.kill(worker, signal.SIGKILL)


def test_the_kubernetes_manifest_is_a_session_cluster_with_workers():
    yaml = pytest.importorskip("yaml", reason="no YAML parser")
    manifest = yaml.safe_load((CLUSTER.parent / "flinkdeployment.yaml").read_text())
    assert manifest["apiVersion"] == "flink.apache.org/v1beta1"
    assert manifest["kind"] == "FlinkDeployment"
    spec = manifest["spec"]
    assert "job" not in spec  # A session cluster: jobs are submitted to it.
    assert spec["flinkVersion"] == "v1_20" and spec["image"].startswith("flink:1.20")
    pod = spec["taskManager"]["podTemplate"]["spec"]
    main, worker = sorted(pod["containers"], key=lambda each: each["image"] != spec["image"])
    assert main["name"] == "flink-main-container"
    assert worker["image"] == "headrace:latest"
    assert "--service_port=50000" in " ".join(worker["args"])
    settings = spec["flinkConfiguration"]
    assert all(isinstance(value, str) for value in settings.values())  # The operator wants strings.
    assert settings["taskmanager.numberOfTaskSlots"] == "4"
