"""Runs commands as whole processes in turn, and prints and keeps what they cost.

A benchmark is a module with functions from `Settings` to a `Measurement`, and ends with them:

    def copying(settings: Settings) -> Measurement:
        commands = {"cp": Command(("cp", ...), 1000), "ours": Command((sys.executable, ...), 1000)}
        sides = in_turn(commands, settings.rounds)
        return Measurement("1,000 files", sides, {"ratio": sides["ours"].rate / sides["cp"].rate})

    if __name__ == "__main__":
        sys.exit(main("copying", __doc__, [copying]))

`rate` counts a whole process, imports included. A command that times itself, without its imports,
prints `NUMBER UNIT/s` last: `printed_rate`. `Command.output` is removed before each run; what the
last run wrote stays, for the caller to check.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import inputs

ROOT = Path(__file__).resolve().parent.parent
_SAMPLE_SECONDS = 0.05
_PACKAGES = (
    "headrace apache-beam tensorflow tensorflow-transform tfx-bsl keras pyarrow duckdb numpy "
    "grain array_record webdataset torch"
).split()


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was asked for: where data and inputs lie, how often to run, and whether in small."""

    data: Path
    work: Path
    rounds: int
    is_quick: bool

    def sized(self, full: int, quick: int) -> int:
        """Returns the size of an input: `quick` where --quick was given."""
        return quick if self.is_quick else full


@dataclasses.dataclass(frozen=True)
class Command:
    """A process to measure, how many records it works on, and the file or folder it writes."""

    argv: tuple[str, ...]
    num_records: int = 0
    output: Path | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a command; `printed` is its last line."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    printed: str


@dataclasses.dataclass(frozen=True)
class Side:
    """All runs of one command; its figures are medians."""

    num_records: int
    runs: tuple[Run, ...]

    @property
    def wall_seconds(self) -> float:
        """From start to exit."""
        return statistics.median(run.wall_seconds for run in self.runs)

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the process and of the children it waited for."""
        return statistics.median(run.cpu_seconds for run in self.runs)

    @property
    def peak_bytes(self) -> float:
        """The most memory that the processes of the tree held together."""
        return statistics.median(run.peak_bytes for run in self.runs)

    @property
    def rate(self) -> float:
        """Records per second of the whole process."""
        return self.num_records / self.wall_seconds

    @property
    def printed_rate(self) -> float:
        """What the command itself printed as `NUMBER UNIT/s`."""
        return statistics.median(_printed_rate(run.printed) for run in self.runs)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured in one go: the input, the commands by name, and figures from both."""

    work: str
    sides: Mapping[str, Side]
    figures: Mapping[str, float]


def _printed_rate(line: str) -> float:
    found = re.search(r"([\d.]+) \S+/s$", line)
    if not found:
        raise ValueError(f"A command must print 'NUMBER UNIT/s' last, but printed {line!r}.")
    return float(found[1])


def in_turn(commands: Mapping[str, Command], rounds: int) -> dict[str, Side]:
    """Runs all commands, then all of them again: A B A B, so that a slow minute meets both."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(run_once(command))
    return {name: Side(commands[name].num_records, tuple(runs[name])) for name in commands}


def run_once(command: Command) -> Run:
    """Runs a command from the checkout.

    Raises:
      RuntimeError: it failed; with the end of what it printed.
    """
    remove(command.output)
    os.sync()  # What the run before left to write is not this one's to wait for.
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        # A session of its own: that is how its children are found.
        process = subprocess.Popen(
            command.argv, cwd=ROOT, stdout=printed, stderr=errors, start_new_session=True
        )
        with _PeakMemory(process.pid) as memory:
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        wall_seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        errors.seek(0)
        lines = printed.read().splitlines()
        if process.returncode:
            end = "\n".join([*lines, errors.read()])[-3000:]
            raise RuntimeError(f"{' '.join(command.argv)} ended with {process.returncode}:\n{end}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Run(wall_seconds, cpu_seconds, memory.peak_bytes, lines[-1] if lines else "")


def remove(output: Path | None) -> None:
    """Removes a file or folder if it is there."""
    if output and output.is_dir():
        shutil.rmtree(output)
    elif output:
        output.unlink(missing_ok=True)


class _PeakMemory:
    """Samples the memory of all processes of a session in a thread, until it is left."""

    def __init__(self, session: int):
        self.peak_bytes = 0
        self._session = session
        self._others: set[str] = set()  # Of other sessions: asking each again would cost 3 ms.
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and self._is_ours(pid)]
            # What processes share counts once, as PSS has it; of a single one, RSS is cheaper.
            memory = _rss_bytes if len(pids) == 1 else _pss_bytes
            self.peak_bytes = max(self.peak_bytes, sum(map(memory, pids)))

    def _is_ours(self, pid: str) -> bool:
        if pid in self._others:
            return False
        fields = _proc(pid, "stat").rpartition(")")[2].split()  # The name before it may have any.
        is_ours = len(fields) > 3 and int(fields[3]) == self._session
        if not is_ours:
            self._others.add(pid)
        return is_ours


def _proc(pid: str, name: str) -> str:
    """Returns a file of a process, "" if the process has ended."""
    try:
        return Path("/proc", pid, name).read_text()
    except OSError:
        return ""


def _rss_bytes(pid: str) -> int:
    fields = _proc(pid, "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _pss_bytes(pid: str) -> int:
    found = re.search(r"^Pss: +(\d+) kB", _proc(pid, "smaps_rollup"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def machine() -> dict[str, Any]:
    """Describes the machine: processor, cores, memory in bytes, load, and versions."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        # Without it, every process compiles what it imports: seconds.
        "has_bytecode": {
            name: _has_bytecode(name) for name in ("tensorflow", "apache_beam", "headrace")
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_bytecode(module: str) -> bool:
    found = importlib.util.find_spec(module)
    if not found or not found.origin:
        return False
    return Path(importlib.util.cache_from_source(found.origin)).exists()


def table(measurement: Measurement) -> str:
    """Returns a measurement as text, a line for each command and each figure."""
    lines = [f"{measurement.work:44}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'records/s':>12}"]
    for name, side in measurement.sides.items():
        costs = f"{side.wall_seconds:9.1f}{side.cpu_seconds:9.1f}{side.peak_bytes / 1e6:9,.0f}"
        rate = f"{side.rate:12,.0f}" if side.num_records else ""
        lines.append(f"  {name:42}{costs}{rate}")
    lines += [f"  = {name:40}{figure:9,.2f}" for name, figure in measurement.figures.items()]
    return "\n".join(lines)


def append(path: Path, benchmark: str, measurement: Measurement, where: dict[str, Any]) -> None:
    """Appends a measurement as a line of JSON, with every run of it."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = {"time": now, "benchmark": benchmark, **dataclasses.asdict(measurement)}
    with open(path, "a") as file:
        file.write(json.dumps({**entry, "machine": where}) + "\n")


def main(
    benchmark: str,
    description: str | None,
    functions: Sequence[Callable[[Settings], Measurement]],
    summary: Callable[[Sequence[Measurement]], str] | None = None,
    *,
    needs_data: bool = True,
) -> int:
    """Runs a benchmark from the command line, and returns the exit status.

    Args:
      benchmark: Its name.
      description: What `--help` says.
      functions: What `--only` chooses from.
      summary: What is printed last, of all measurements.
      needs_data: Whether inputs come from --data; else they are all made.
    """
    by_name = {function.__name__: function for function in functions}
    args = _arguments(benchmark, description, list(by_name), needs_data)
    described = machine()
    print(
        f"{described['cpu']}, {described['cores']} cores, load {described['load']:.1f}", flush=True
    )
    measurements = []
    with tempfile.TemporaryDirectory() as temporary:
        settings = _settings(args, Path(args.work or temporary).resolve())
        for name in args.only or by_name:
            measurements.append(by_name[name](settings))
            append(args.output, benchmark, measurements[-1], described)
            print(table(measurements[-1]), flush=True)
    if summary:
        print(summary(measurements))
    return 0


def _settings(args: argparse.Namespace, work: Path) -> Settings:
    if not args.quick:
        work.mkdir(parents=True, exist_ok=True)
        return Settings(args.data.resolve(), work, args.rounds, is_quick=False)
    work = work / "quick"
    work.mkdir(parents=True, exist_ok=True)
    return Settings(inputs.made(work), work, rounds=1, is_quick=True)


def _arguments(
    benchmark: str, description: str | None, names: list[str], needs_data: bool
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{benchmark}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if needs_data:
        parser.add_argument("--data", type=Path, metavar="DIR", help="adult/, photos/, cifar10/")
    else:
        parser.set_defaults(data=Path())
    parser.add_argument("--work", metavar="DIR", help="for inputs, kept (default: temporary)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="JSON",
        default=ROOT / "benchmarks" / "results.jsonl",
        help="file to append to (default benchmarks/results.jsonl)",
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--only", nargs="+", choices=names, help="some of the measurements")
    parser.add_argument("--quick", action="store_true", help="tiny made inputs, one round")
    args = parser.parse_args()
    if not args.data and not args.quick:
        parser.error("--data DIR is needed, or --quick.")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, but is {args.rounds}.")
    args.output.parent.mkdir(parents=True, exist_ok=True)  # Now, and not after an hour.
    return args
