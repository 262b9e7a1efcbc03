"""A Flink cluster on this machine: a JobManager and TaskManagers, each a process of its own.

python deploy/flink/cluster.py start [--version 1.20] [--folder DIR]
python deploy/flink/cluster.py status
python deploy/flink/cluster.py stop
python deploy/flink/cluster.py jar        # the path of Beam's job server
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import commands  # noqa: E402
import downloads  # noqa: E402
import processes  # noqa: E402

VERSION = "1.20"
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
    description = __doc__.split("\n")[0]
    parser, of_start = commands.parsers(description, "Flink", VERSION, start, status, jar)
    of_start.add_argument("--task-managers", type=processes.positive, default=2, metavar="N")
    of_start.add_argument("--slots", type=processes.positive, default=4, help="of each TaskManager")
    of_start.add_argument("--port", type=int, default=0, help="of the REST API; 0: a free one")
    return commands.run(parser, arguments)


def start(options: argparse.Namespace) -> None:
    """Puts up a cluster."""
    folder, java = commands.free_folder(options), processes.java()
    port = processes.port(options.port)
    distribution = downloads.distribution(downloads.FLINK, options.version, options.cache)
    _configure(folder, port, options.slots)
    url = f"http://localhost:{port}"
    what = f"Flink {distribution.name.removeprefix('flink-')}"
    with commands.coming_up(folder, what, url):
        _spawn(java, distribution, folder, "jobmanager", _JOB_MANAGER, ["-Xmx320m"])
        for number in range(options.task_managers):
            name = f"taskmanager-{number}"
            _spawn(java, distribution, folder, name, _TASK_MANAGER, _task_manager_memory())
        processes.wait(folder, lambda: _task_managers(url) == options.task_managers)


def status(options: argparse.Namespace) -> None:
    """Prints the address, the TaskManagers and the running jobs, and each process."""
    folder, ports = commands.running_cluster(options)
    url = f"http://localhost:{ports['port']}"
    overview = commands.answer(f"{url}/overview")
    if overview is None:
        raise processes.UserError(f"{url} does not answer. Read {folder}/jobmanager.log.")
    print(url)
    managers, free = overview["taskmanagers"], overview["slots-available"]
    print(f"{managers} TaskManagers, {free} of {overview['slots-total']} slots free, ", end="")
    print(f"{overview['jobs-running']} jobs running")
    for name, pid in processes.running(folder).items():
        print(f"{name} {pid}")


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


def _task_managers(url: str) -> int:
    """Returns how many TaskManagers a cluster knows."""
    return (commands.answer(f"{url}/overview") or {}).get("taskmanagers", 0)


if __name__ == "__main__":
    sys.exit(main())
