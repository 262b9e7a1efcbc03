"""Whether a busy machine changes anything but the time: beside busy loops, the same bytes.

    python -m benchmarks.loaded --data DIR

Runs a job alone, then ten times beside a busy loop a core, and compares what the manifests say of
every shard and of every rejected record. A difference ends it with an error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import commands, inputs, measure
from benchmarks.measure import Command, Measurement, Settings, Side, main

_RUNS = 10


@contextmanager
def _busy() -> Iterator[None]:
    """Keeps every core busy with something else."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _written(output: Path) -> dict[str, Any]:
    info = json.loads((output / "dataset_info.json").read_text())
    return {key: info[key] for key in ("read", "rejected", "splits")}


def _compare(settings: Settings, work: str, command: Command) -> Measurement:
    if not command.output:
        raise ValueError("headrace run must have an output.")
    alone = measure.run_once(command)
    expected = _written(command.output)
    if not expected["read"] == command.num_records:
        raise RuntimeError(f"{work}: {command.num_records:,} records, {expected['read']:,} read.")
    disturbed = []
    with _busy():
        for _ in range(settings.sized(_RUNS, 2)):
            disturbed.append(measure.run_once(command))
            if _written(command.output) != expected:
                raise RuntimeError(f"{work}: beside busy loops the dataset became another one.")
    measure.remove(command.output)
    sides = {"alone": (alone,), "beside busy loops": tuple(disturbed)}
    return Measurement(
        work,
        {name: Side(command.num_records, runs) for name, runs in sides.items()},
        {"runs with the same CRCs": len(disturbed)},
    )


def table(settings: Settings) -> Measurement:
    """Adult four times: 130,000 rows."""
    num_rows = len(inputs.adult_rows(settings.data)) * settings.sized(4, 1)
    source = inputs.table(settings.data, settings.work, num_rows)
    command = commands.headrace(inputs.table_spec(source), num_rows)
    return _compare(settings, f"{num_rows:,} rows", command)


def images(settings: Settings) -> Measurement:
    """CIFAR's training files: 2,000 images."""
    source = inputs.cifar(settings.data, settings.work, settings.sized(1, 2))
    spec = inputs.images_spec(source, 32, "uint8")
    command = commands.headrace(spec, source.num_records)
    return _compare(settings, f"{source.num_records:,} CIFAR files", command)


if __name__ == "__main__":
    sys.exit(main("loaded", __doc__, [table, images]))
