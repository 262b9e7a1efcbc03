"""A standalone Spark cluster on this machine: a master and workers, each a process of its own.

python deploy/spark/cluster.py start [--version 3.5.9] [--folder DIR]
python deploy/spark/cluster.py status
python deploy/spark/cluster.py stop
python deploy/spark/cluster.py jar        # the path of Beam's job server
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import commands  # noqa: E402
import downloads  # noqa: E402
import processes  # noqa: E402

VERSION = "3.5"
_RUNNER = "beam-runners-spark-3"
_SCALA = "2.12"  # What PyPI's package is built with, as Beam's runner is.
_MASTER = "org.apache.spark.deploy.master.Master"
_WORKER = "org.apache.spark.deploy.worker.Worker"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    description = __doc__.split("\n")[0]
    parser, of_start = commands.parsers(description, "Spark", VERSION, start, status, jar)
    of_start.add_argument("--workers", type=processes.positive, default=2, metavar="N")
    of_start.add_argument("--cores", type=processes.positive, default=2, help="of each worker")
    of_start.add_argument("--port", type=int, default=0, help="of the master; 0: a free one")
    return commands.run(parser, arguments)


def start(options: argparse.Namespace) -> None:
    """Puts up a cluster."""
    folder, java = commands.free_folder(options), processes.java()
    port, page = processes.port(options.port), processes.port(0)
    distribution = downloads.distribution(downloads.SPARK, options.version, options.cache)
    _configure(folder, port, page)
    command = [java, "-Xmx320m"]
    command += [f"--add-opens=java.base/{each}=ALL-UNNAMED" for each in downloads.SPARK.opens]
    command += ["-cp", f"{distribution}/jars/*"]
    where = ["--host", "localhost", "--properties-file", f"{folder}/conf/spark.conf"]
    variables = {
        "SPARK_HOME": str(distribution),  # Where an executor's jars are.
        "SPARK_SCALA_VERSION": _SCALA,
        "SPARK_LOCAL_HOSTNAME": "localhost",
        "SPARK_LOCAL_DIRS": f"{folder}/tmp",
    }
    what = f"Spark {distribution.name.removeprefix('spark-')}"
    with commands.coming_up(folder, what, f"spark://localhost:{port}"):
        ports = ["--port", str(port), "--webui-port", str(page)]
        processes.spawn(folder, "master", [*command, _MASTER, *where, *ports], variables)
        work = ["--cores", str(options.cores), "--memory", "1g", "--webui-port", "0"]
        work += ["--work-dir", f"{folder}/work", f"spark://localhost:{port}"]
        for number in range(options.workers):
            name = f"worker-{number}"
            processes.spawn(folder, name, [*command, _WORKER, *where, *work], variables)
        processes.wait(folder, lambda: _alive_workers(page) == options.workers)


def status(options: argparse.Namespace) -> None:
    """Prints the address, the workers and the running jobs, and each process."""
    folder, ports = commands.running_cluster(options)
    overview = _overview(ports["page"])
    if overview is None:
        raise processes.UserError(
            f"http://localhost:{ports['page']} does not answer. Read {folder}/master.log."
        )
    print(f"spark://localhost:{ports['port']}, http://localhost:{ports['page']}")
    print(f"{_alive(overview)} workers, ", end="")
    print(
        f"{overview['cores'] - overview['coresused']} of {overview['cores']} cores free, ", end=""
    )
    print(f"{len(overview['activeapps'])} jobs running")
    for name, pid in processes.running(folder).items():
        print(f"{name} {pid}")


def jar(options: argparse.Namespace) -> None:
    """Prints the path of the job server."""
    processes.java()
    distribution = downloads.distribution(downloads.SPARK, options.version, options.cache)
    jars = sorted((distribution / "jars").glob("*.jar"))
    given = (_RUNNER, options.beam, options.cache, options.maven, jars)
    print(downloads.job_server(downloads.SPARK, *given))


def _configure(folder: Path, port: int, page: int) -> None:
    """Writes the cluster's configuration."""
    settings = {
        "spark.worker.timeout": "20",  # Seconds until a worker that says nothing is lost.
        "spark.master.rest.enabled": "false",
    }
    for name in ("conf", "tmp", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [f"{key} {value}\n" for key, value in settings.items()]
    (folder / "conf" / "spark.conf").write_text("".join(lines))
    (folder / "cluster.json").write_text(json.dumps({"port": port, "page": page}))


def _overview(page: int) -> dict[str, Any] | None:
    return commands.answer(f"http://localhost:{page}/json/")


def _alive(overview: dict[str, Any]) -> int:
    return sum(worker["state"] == "ALIVE" for worker in overview["workers"])


def _alive_workers(page: int) -> int:
    overview = _overview(page)
    return 0 if overview is None else _alive(overview)


if __name__ == "__main__":
    sys.exit(main())
