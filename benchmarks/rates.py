"""What a record more costs one core: the rates behind docs/scale.md.

    python -m benchmarks.rates --data DIR

One thread, on Beam's runner without a shared disk: the code that runs on a cluster. Its rates are
CPU seconds, those of all threads together, between a small and a large input, so that imports and
tracing count for nothing.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import commands, inputs
from benchmarks.inputs import Input
from benchmarks.measure import Measurement, Settings, main


def _rate(settings: Settings, sources: list[Input], spec: Callable[[Input], Path]) -> Measurement:
    runs = {}
    for source in sources:
        command = commands.headrace(spec(source), source.num_records, workers=1)
        argv = (*command.argv, "--runner", "FnApiRunner")
        runs[f"{source.num_records:,}"] = dataclasses.replace(command, argv=argv)
    few, many = commands.in_turn(runs, settings).values()
    seconds = (many.cpu_seconds - few.cpu_seconds) / (many.num_records - few.num_records)
    work = f"{few.num_records:,} to {many.num_records:,} records"
    return Measurement(work, dict(zip(runs, (few, many), strict=True)), {"CPU us": seconds * 1e6})


def adult(settings: Settings) -> Measurement:
    """Rows of 15 columns."""
    sizes = settings.sized(250_000, 1_000), settings.sized(1_000_000, 4_000)
    sources = [inputs.table(settings.data, settings.work, size) for size in sizes]
    return _rate(settings, sources, inputs.table_spec)


def clicks(settings: Settings) -> Measurement:
    """Rows of 40 columns, as Criteo has them."""
    sizes = settings.sized(100_000, 1_000), settings.sized(400_000, 4_000)
    sources = [inputs.clicks(settings.work, size) for size in sizes]
    return _rate(settings, sources, inputs.clicks_spec)


def photos(settings: Settings) -> Measurement:
    """Photos to 224x224, stored as uint8."""
    sizes = settings.sized(500, 16), settings.sized(2_000, 48)
    sources = [inputs.photos(settings.data, settings.work, size) for size in sizes]
    return _rate(settings, sources, lambda source: inputs.images_spec(source, 224, "uint8"))


if __name__ == "__main__":
    sys.exit(main("rates", __doc__, [adult, clicks, photos]))
