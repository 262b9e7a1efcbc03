"""A cluster on this machine as processes: each has a log and a pid file in one folder.

The JVMs are started without the engine's own shell scripts: the process that the pid file names is
then the one to signal, and PyPI's packages, where the engines come from, need not be installed.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

_FOLDER = "HEADRACE_CLUSTER"  # A variable of all processes of a cluster: its folder.
_START_SECONDS = 90
_STOP_SECONDS = 10


class UserError(Exception):
    """The call is wrong or something is missing: one line, exit status 2."""


def positive(text: str) -> int:
    """Returns a number of 1 and more; argparse says what is wrong with others."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def java() -> str:
    """Returns the path of java."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(os.path.join(home, "bin", "java") if home else "java")
    if found is None:
        raise UserError("java is missing. Install Java 11 or 17, or set JAVA_HOME.")
    return found


def port(wanted: int) -> int:
    """Returns a port of localhost that nobody listens at."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As the JVM does.
        try:
            probe.bind(("localhost", wanted))
        except OverflowError as error:
            raise UserError(f"--port must be 0 to 65535, but is {wanted}.") from error
        except OSError as error:
            raise UserError(
                f"--port {wanted}: {error.strerror}. Give another one, or 0."
            ) from error
        return probe.getsockname()[1]


def spawn(
    folder: Path, name: str, command: Sequence[str], more: Mapping[str, str] | None = None
) -> None:
    """Starts a process of a cluster, which outlives this one, and writes its pid file.

    Args:
      folder: The cluster's. Its `conf` has to be named in the command: that tells the process
        from another one that may get its pid.
      name: Of the process.
      command: What to run.
      more: Variables of its environment, beside ours.
    """
    with open(folder / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(more or {}), _FOLDER: str(folder)},
            start_new_session=True,  # A group of its own: its workers are found by it.
        )
    (folder / f"{name}.pid").write_text(str(process.pid))


def wait(folder: Path, is_complete: Callable[[], bool]) -> None:
    """Waits until a cluster is complete.

    Raises:
      UserError: It is not after a while, or a process has ended.
    """
    names = _pids(folder)
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if gone := sorted(set(names) - set(running(folder))):
            raise UserError(f"{gone[0]} has ended: {_last_error(folder / f'{gone[0]}.log')}")
        if is_complete():
            return
        time.sleep(0.2)
    raise UserError(f"The cluster is not complete after {_START_SECONDS} s. Read {folder}/*.log.")


def _last_error(log: Path) -> str:
    """Returns a line of a log that says what went wrong."""
    lines = log.read_text(errors="replace").splitlines()
    found = [line for line in lines if "Exception" in line or "Error" in line] or lines[-1:]
    return f"{found[-1].strip() if found else 'no message'}. Read {log}."


def _pids(folder: Path) -> dict[str, int]:
    found = {}
    for path in sorted(folder.glob("*.pid")):
        if (text := path.read_text()).isdecimal():
            found[path.stem] = int(text)
    return found


def running(folder: Path) -> dict[str, int]:
    """Returns the processes of a cluster that are alive; a pid may have gone to another."""
    return {name: pid for name, pid in _pids(folder).items() if f"{folder}/conf" in _command(pid)}


def _command(pid: int) -> str:
    """Returns the command line of a process; nothing if it is dead."""
    command = ["ps", "-ww", "-o", "stat=,args=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return "" if found.startswith("Z") else found


def end(folder: Path) -> list[str]:
    """Ends the processes and what they have started; returns the names of those that were alive."""
    names = running(folder)
    orphans = list(_orphans(folder, names.values()))
    for pid in orphans:
        _signal(pid, signal.SIGKILL)
    for pid in names.values():
        _signal(pid, signal.SIGTERM)
    limit = time.monotonic() + _STOP_SECONDS
    while running(folder) and time.monotonic() < limit:
        time.sleep(0.1)
    for pid in names.values():  # What is left of the group: also workers that did not listen.
        _signal(-pid, signal.SIGKILL)
    for path in folder.glob("*.pid"):
        path.unlink()
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    return [*names, *(["orphaned workers"] if orphans else [])]


def _orphans(folder: Path, groups: Collection[int]) -> Iterator[int]:
    """Yields what was started by processes that have died since.

    Their group's number may be another's by now: what they have started is known by a variable that
    it inherits. Where there is no /proc, nothing is found.
    """
    mark = f"{_FOLDER}={folder}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        with contextlib.suppress(OSError):  # It is another user's, or has ended.
            if mark in path.read_bytes().split(b"\0") and os.getpgid(pid) not in groups:
                yield pid


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
