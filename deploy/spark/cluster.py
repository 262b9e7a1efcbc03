"""A standalone Spark cluster on this machine: a master and workers, each a process of its own.

python deploy/spark/cluster.py start [--version 3.5.9] [--folder DIR]
python deploy/spark/cluster.py status
python deploy/spark/cluster.py stop
python deploy/spark/cluster.py jar        # the path of Beam's job server
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

VERSION = "3.5"
BEAM = "2.77.0"
FOLDER = Path("headrace-spark")
_RUNNER = "beam-runners-spark-3"
_SCALA = "2.12"  # What PyPI's package is built with, as Beam's runner is.
_MASTER = "org.apache.spark.deploy.master.Master"
_WORKER = "org.apache.spark.deploy.worker.Worker"


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
    of_start.add_argument("--workers", type=processes.positive, default=2, metavar="N")
    of_start.add_argument("--cores", type=processes.positive, default=2, help="of each worker")
    of_start.add_argument("--port", type=int, default=0, help="of the master; 0: a free one")
    of_jar = command(jar, "Fetches Beam's job server and prints its path.")
    of_jar.add_argument("--beam", default=BEAM, help="version of Beam, %(default)s")
    of_jar.add_argument("--maven", help=f"another repository than {downloads.MAVEN}")
    for each in (of_start, of_jar):
        each.add_argument("--version", default=VERSION, help="of Spark, %(default)s")
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
    began = time.monotonic()
    try:
        ports = ["--port", str(port), "--webui-port", str(page)]
        processes.spawn(folder, "master", [*command, _MASTER, *where, *ports], variables)
        work = ["--cores", str(options.cores), "--memory", "1g", "--webui-port", "0"]
        work += ["--work-dir", f"{folder}/work", f"spark://localhost:{port}"]
        for number in range(options.workers):
            name = f"worker-{number}"
            processes.spawn(folder, name, [*command, _WORKER, *where, *work], variables)
        processes.wait(folder, lambda: _alive_workers(page) == options.workers)
    except BaseException:
        processes.end(folder)
        raise
    seconds = time.monotonic() - began
    print(f"Spark {distribution.name.removeprefix('spark-')} is up after {seconds:.0f} s.")
    print(f"spark://localhost:{port}")


def status(options: argparse.Namespace) -> None:
    """Prints the address, the workers and the running jobs, and each process."""
    folder = options.folder.resolve()
    if not processes.running(folder):
        raise processes.UserError(f"{folder}: no cluster runs here. Start one.")
    ports = json.loads((folder / "cluster.json").read_text())
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


def stop(options: argparse.Namespace) -> None:
    """Ends the cluster, with what its workers have started."""
    folder = options.folder.resolve()
    if not (folder / "cluster.json").exists():
        raise processes.UserError(f"{folder}: no cluster was started here.")
    names = processes.end(folder)
    print(f"Stopped {', '.join(names)}." if names else "Nothing was running.")


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
    """Returns what the master says of the cluster; None if it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://localhost:{page}/json/", timeout=5) as response:
            return json.load(response)
    except (OSError, ValueError, urllib.error.HTTPError):
        return None


def _alive(overview: dict[str, Any]) -> int:
    return sum(worker["state"] == "ALIVE" for worker in overview["workers"])


def _alive_workers(page: int) -> int:
    overview = _overview(page)
    return 0 if overview is None else _alive(overview)


if __name__ == "__main__":
    sys.exit(main())
