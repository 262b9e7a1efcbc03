"""The commands that the benchmarks time, and the check of what they wrote."""

import json
import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks import inputs, measure
from benchmarks.measure import Command, Settings, Side

# It ends as `headrace` does.
_IMPORT = "import os; from headrace import console; console.import_run(); os._exit(0)"
IMPORTS = Command((sys.executable, "-c", _IMPORT))

# What `headrace run` does first, and nothing else.
_PLAN = """
import os, sys
from beam_jobs.config import load_spec
from beam_jobs.job import Job
from beam_jobs.sources import units
spec, output = load_spec(sys.argv[1]), sys.argv[2]
os.makedirs(os.path.join(output, ".progress"))
listed = units.list_source(spec.source)
job = Job(spec, output, None, 1, 1)
job.save_listing(listed)
print(sum(listed.matched.values()), "files in", len(job.listed()), "lists", flush=True)
os._exit(0)
"""


def plan(spec: Path, num_records: int) -> Command:
    """Returns the planning of a spec's images."""
    output = spec.with_name(f"{spec.stem}-plan")
    return Command((sys.executable, "-c", _PLAN, str(spec), str(output)), num_records, output)


def headrace(spec: Path, num_records: int, workers: int | None = None) -> Command:
    """Returns `headrace run` of a spec, with a thread a core unless `workers` says otherwise."""
    suffix = f"-{workers}-workers" if workers else ""
    output = spec.with_name(f"{spec.stem}-headrace{suffix}")
    argv = [sys.executable, "-m", "headrace", "run", str(spec), "--output", str(output)]
    argv += ["--overwrite", "--quiet"]
    if workers:
        argv += ["--workers", str(workers)]
    return Command(tuple(argv), num_records, output)


def graph_bytes(spec: Path) -> Command:
    """Returns what prints `"graph_bytes": NUMBER` of the job that an engine would be sent."""
    argv = [sys.executable, "-m", "headrace", "run", str(spec), "--output", "out"]
    words = shlex.join([*argv, "--runner", "FnApiRunner", "--dry-run"])
    return Command(("sh", "-c", f"{words} | grep graph_bytes"))


def canonical_csv(source: inputs.Input, *, has_unique: bool = False) -> Command:
    """Returns what a user runs today for a table."""
    output = source.path.with_name(f"{source.path.stem}-canonical")
    options = ["--unique"] if has_unique else []
    return _peer("canonical_csv", source, str(source.path), str(output), *options, output=output)


def canonical_text(source: inputs.Input, mode: str) -> Command:
    """Returns what a user runs today for texts."""
    output = source.path.with_name(f"{source.path.stem}-{mode}-canonical")
    options = ["--mode", mode]
    return _peer("canonical_text", source, str(source.path), str(output), *options, output=output)


def canonical_criteo(source: inputs.Input) -> Command:
    """Returns what a user runs today for a table of clicks."""
    output = source.path.with_name(f"{source.path.stem}-canonical")
    return _peer("canonical_criteo", source, str(source.path), str(output), output=output)


def canonical_images(source: inputs.Input, size: int) -> Command:
    """Returns what a user runs today for images; `size` is the side in pixels."""
    output = source.path.with_name(f"{source.path.name}-canonical")
    pattern = f"{source.path}/*/*"
    return _peer("canonical_images", source, pattern, str(size), str(output), output=output)


def canonical_files(source: inputs.Input, size: int, form: str) -> Command:
    """Returns what a user writes today for JPEG files of `size` pixels a side."""
    output = source.path.with_name(f"{source.path.name}-{form}")
    words = form, f"{source.path}/*/*", str(size), str(output)
    return _peer("canonical_files", source, *words, output=output)


def limit_images(source: inputs.Input, size: int) -> Command:
    """Returns what the machine can do for images; `size` is the side in pixels."""
    return _peer("limit_images", source, f"{source.path}/*/*", str(size))


def _peer(name: str, source: inputs.Input, *arguments: str, output: Path | None = None) -> Command:
    argv = (sys.executable, "-m", f"benchmarks.peers.{name}", *arguments)
    return Command(argv, source.num_records, output)


def in_turn(commands: Mapping[str, Command], settings: Settings) -> dict[str, Side]:
    """Measures commands, then checks and removes what each wrote in its last run.

    Raises:
      RuntimeError: a record is missing, or `headrace verify` found something.
    """
    sides = measure.in_turn(commands, settings.rounds)
    for command in commands.values():
        if command.output:
            _check(command.output, command.num_records)
            measure.remove(command.output)
    return sides


def _check(output: Path, num_records: int) -> None:
    manifest = output / "dataset_info.json"
    if manifest.exists():
        info = json.loads(manifest.read_text())
        found = info["read"]
        verify = [sys.executable, "-m", "headrace", "verify", str(output)]
        done = subprocess.run(verify, cwd=measure.ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{output}: {done.stdout}{done.stderr[-3000:]}")
    else:
        found = sum(map(_num_examples, output.glob("examples*")))
    if found != num_records:
        raise RuntimeError(f"{output}: must hold {num_records:,} records, but holds {found:,}.")


def _num_examples(path: Path) -> int:
    """Counts the records of an uncompressed TFRecord file."""
    count = 0
    with open(path, "rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack_from("<Q", header)
            file.seek(length + 4, os.SEEK_CUR)  # The record and its checksum.
            count += 1
    return count
