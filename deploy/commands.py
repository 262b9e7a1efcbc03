"""What the commands `start`, `status`, `stop` and `jar` of a cluster have in common."""

import argparse
import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import downloads
import processes

BEAM = "2.77.0"
Command = Callable[[argparse.Namespace], None]


def parsers(
    description: str, engine: str, version: str, start: Command, status: Command, jar: Command
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Returns the parser of all commands, and that of `start`, which takes more options.

    Args:
      description: First line of the help.
      engine: Its name.
      version: The one that is taken if none is given.
      start: Puts up a cluster.
      status: Prints what it is doing.
      jar: Prints the path of the job server.
    """
    parser = argparse.ArgumentParser(prog="cluster.py", description=description)
    commands = parser.add_subparsers(required=True)

    def command(function: Command, name: str, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary)
        made.set_defaults(command=function)
        return made

    of_start = command(start, "start", "Puts up a cluster and waits until it is complete.")
    of_jar = command(jar, "jar", "Fetches Beam's job server and prints its path.")
    of_jar.add_argument("--beam", default=BEAM, help="version of Beam, %(default)s")
    of_jar.add_argument("--maven", help=f"another repository than {downloads.MAVEN}")
    for each in (of_start, of_jar):
        each.add_argument("--version", default=version, help=f"of {engine}, %(default)s")
        each.add_argument("--cache", type=Path, default=downloads.CACHE)
    of_status = command(status, "status", "Says what the cluster is doing.")
    of_stop = command(stop, "stop", "Ends all that start has started.")
    folder = Path(f"headrace-{engine.lower()}")
    for each in (of_start, of_status, of_stop):
        each.add_argument("--folder", type=Path, default=folder, help="of logs and pid files")
    return parser, of_start


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Runs a command; returns the exit status."""
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except (processes.UserError, downloads.FetchError) as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 2
    return 0


def free_folder(options: argparse.Namespace) -> Path:
    """Returns the folder where a cluster is to be put up, where none may run."""
    folder = options.folder.resolve()
    if processes.running(folder):
        raise processes.UserError(
            f"{folder}: a cluster runs here already. Stop it, or give another --folder."
        )
    return folder


@contextlib.contextmanager
def coming_up(folder: Path, what: str, address: str) -> Iterator[None]:
    """Says when a cluster is up, and takes it down again if it does not come up."""
    began = time.monotonic()
    try:
        yield
    except BaseException:
        processes.end(folder)
        raise
    print(f"{what} is up after {time.monotonic() - began:.0f} s.")
    print(address)


def running_cluster(options: argparse.Namespace) -> tuple[Path, dict[str, int]]:
    """Returns the folder of a cluster that runs, and its ports."""
    folder = options.folder.resolve()
    if not processes.running(folder):
        raise processes.UserError(f"{folder}: no cluster runs here. Start one.")
    return folder, json.loads((folder / "cluster.json").read_text())


def stop(options: argparse.Namespace) -> None:
    """Ends the cluster, with the workers that its processes have started."""
    folder = options.folder.resolve()
    if not (folder / "cluster.json").exists():
        raise processes.UserError(f"{folder}: no cluster was started here.")
    names = processes.end(folder)
    print(f"Stopped {', '.join(names)}." if names else "Nothing was running.")


def answer(url: str) -> dict[str, Any] | None:
    """Returns what a cluster says of itself; None if it does not answer yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)
    except (OSError, ValueError):
        return None
