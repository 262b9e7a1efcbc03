"""A Flink cluster on this machine: a JobManager and TaskManagers, each a process of its own.

python deploy/flink/cluster.py start [--version 1.20] [--folder DIR]
python deploy/flink/cluster.py status
python deploy/flink/cluster.py stop
python deploy/flink/cluster.py jar        # the path of Beam's job server
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import downloads  # noqa: E402
import processes  # noqa: E402

VERSION = "1.20"
BEAM = "2.77.0"
FOLDER = Path("headrace-flink")
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# What Flink's own scripts open to it on Java 17.
_OPENS = ["java.util.concurrent.atomic", "java.util.concurrent", "java.util", "java.time"]
_OPENS += ["java.lang", "java.lang.reflect", "java.net", "java.io", "java.nio", "sun.nio.ch"]
_OPENS += ["java.text", "java.lang.invoke", "sun.net.util"]
_LOG4J = """rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (processes.UserError, downloads.FetchError) as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)

    def command(function: Any, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(function.__name__, help=summary, description=summary)
        made.set_defaults(command=function)
        return made

    of_start = command(start, "Puts up a cluster and waits until it is complete.")
    of_start.add_argument("--task-managers", type=processes.positive, default=2, metavar="N")
    of_start.add_argument("--slots", type=processes.positive, default=4, help="of each TaskManager")
    of_start.add_argument("--port", type=int, default=0, help="of the REST API; 0: a free one")
    of_jar = command(jar, "Fetches Beam's job server and prints its path.")
    of_jar.add_argument("--beam", default=BEAM, help="version of Beam, %(default)s")
    of_jar.add_argument("--maven", help=f"another repository than {downloads.MAVEN}")
    for each in (of_start, of_jar):
        each.add_argument("--version", default=VERSION, help="of Flink, %(default)s")
        each.add_argument("--cache", type=Path, default=downloads.CACHE)
    of_status = command(status, "Says what the cluster is doing.")
    of_stop = command(stop, "Ends all that start has started.")
    for each in (of_start, of_status, of_stop):
        each.add_argument("--folder", type=Path, default=FOLDER, help="of logs and pid files")
    return parser


def start(options: argparse.Namespace) -> None:
    """Puts up a cluster, and takes it down again if it does not come up."""
    folder, java = options.folder.resolve(), processes.java()
    if processes.running(folder):
        raise processes.UserError(
            f"{folder}: a cluster runs here already. Stop it, or give another --folder."
        )
    port = processes.port(options.port)
    distribution = downloads.distribution(downloads.FLINK, options.version, options.cache)
    _configure(folder, port, options.slots)
    began = time.monotonic()
    try:
        _spawn(java, distribution, folder, "jobmanager", _JOB_MANAGER, ["-Xmx320m"])
        for number in range(options.task_managers):
            name = f"taskmanager-{number}"
            _spawn(java, distribution, folder, name, _TASK_MANAGER, _task_manager_memory())
        processes.wait(
            folder, lambda: (_overview(port) or {}).get("taskmanagers") == options.task_managers
        )
    except BaseException:
        processes.end(folder)
        raise
    seconds = time.monotonic() - began
    print(f"Flink {distribution.name.removeprefix('flink-')} is up after {seconds:.0f} s.")
    print(f"http://localhost:{port}")


def status(options: argparse.Namespace) -> None:
    """Prints the address, the TaskManagers and the running jobs, and each process."""
    folder = options.folder.resolve()
    if not processes.running(folder):
        raise processes.UserError(f"{folder}: no cluster runs here. Start one.")
    port = json.loads((folder / "cluster.json").read_text())["port"]
    overview = _overview(port)
    if overview is None:
        raise processes.UserError(
            f"http://localhost:{port} does not answer. Read {folder}/jobmanager.log."
        )
    print(f"http://localhost:{port}")
    managers, free = overview["taskmanagers"], overview["slots-available"]
    print(f"{managers} TaskManagers, {free} of {overview['slots-total']} slots free, ", end="")
    print(f"{overview['jobs-running']} jobs running")
    for name, pid in processes.running(folder).items():
        print(f"{name} {pid}")


def stop(options: argparse.Namespace) -> None:
    """Ends the cluster, with the workers that its TaskManagers have started."""
    folder = options.folder.resolve()
    if not (folder / "cluster.json").exists():
        raise processes.UserError(f"{folder}: no cluster was started here.")
    names = processes.end(folder)
    print(f"Stopped {', '.join(names)}." if names else "Nothing was running.")


def jar(options: argparse.Namespace) -> None:
    """Prints the path of the job server."""
    processes.java()
    runner = f"beam-runners-flink-{downloads.minor(options.version)}"
    given = (runner, options.beam, options.cache, options.maven)
    print(downloads.job_server(downloads.FLINK, *given))


def _configure(folder: Path, port: int, slots: int) -> None:
    """Writes the cluster's configuration."""
    settings = {
        "jobmanager.rpc.address": "localhost",
        "jobmanager.rpc.port": processes.port(0),
        "jobmanager.bind-host": "localhost",
        "rest.address": "localhost",
        "rest.bind-address": "localhost",
        "rest.port": port,
        "rest.bind-port": port,
        "taskmanager.host": "localhost",
        "taskmanager.bind-host": "localhost",
        "taskmanager.numberOfTaskSlots": slots,
        "taskmanager.cpu.cores": slots,
        # Without Flink's scripts each part has to be named.
        "taskmanager.memory.framework.heap.size": "64m",
        "taskmanager.memory.task.heap.size": "256m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.task.off-heap.size": "128m",
        "taskmanager.memory.network.min": "128m",
        "taskmanager.memory.network.max": "128m",
        # By default every output of a task takes 16 MB of that, more than a job of ten steps has.
        "taskmanager.network.sort-shuffle.min-buffers": 64,
        "taskmanager.memory.managed.size": "128m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        # A job goes on after a TaskManager was lost, which is seen within six seconds.
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 10,
        "restart-strategy.fixed-delay.delay": "1 s",
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 6000,
        # Two names of one thing: all TaskManagers get work, in 1.x and in 2.x.
        "cluster.evenly-spread-out-slots": "true",
        "taskmanager.load-balance.mode": "SLOTS",
        "classloader.check-leaked-classloader": "false",
        "io.tmp.dirs": str(folder / "tmp"),
    }
    for name in ("conf", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in settings.items()]
    (folder / "conf" / "config.yaml").write_text("".join(lines))
    (folder / "conf" / "log4j.properties").write_text(_LOG4J)
    (folder / "cluster.json").write_text(json.dumps({"port": port}))


def _task_manager_memory() -> list[str]:
    """The JVM's share of the sizes in the configuration."""
    return ["-Xmx320m", "-XX:MaxDirectMemorySize=384m", "-XX:MaxMetaspaceSize=256m"]


def _spawn(
    java: str, distribution: Path, folder: Path, name: str, main_class: str, memory: list[str]
) -> None:
    """Starts a JVM of the cluster."""
    command = [java, *memory, f"-Dlog4j.configurationFile={folder}/conf/log4j.properties"]
    command += [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENS]
    command += ["-cp", f"{distribution}/lib/*", main_class, "--configDir", f"{folder}/conf"]
    processes.spawn(folder, name, command)


def _overview(port: int) -> dict[str, Any] | None:
    """Returns what the REST API says of the cluster; None if it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/overview", timeout=5) as response:
            return json.load(response)
    except (OSError, ValueError, urllib.error.HTTPError):
        return None


if __name__ == "__main__":
    sys.exit(main())
