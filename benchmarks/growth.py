"""How the cost of `headrace run` grows with rows, columns, vocabulary size and image size.

    python -m benchmarks.growth --data DIR
    python -m benchmarks.plot benchmarks/results.jsonl docs/growth.png

Each size is a run of the whole command. Its figure is the seconds less those of the imports.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks import commands, inputs
from benchmarks.inputs import Input
from benchmarks.measure import Command, Measurement, Settings, main

_IMPORTS = "imports"


def _growth(settings: Settings, what: str, runs: Mapping[int, Command]) -> Measurement:
    """Measures a command for each size."""
    by_name = {f"{size:,}": command for size, command in runs.items()}
    sides = commands.in_turn({_IMPORTS: commands.IMPORTS, **by_name}, settings)
    imports = sides[_IMPORTS].wall_seconds
    figures = {str(size): sides[f"{size:,}"].wall_seconds - imports for size in runs}
    return Measurement(what, sides, figures)


def _run(spec: Path, source: Input) -> Command:
    return commands.headrace(spec, source.num_records)


def rows(settings: Settings) -> Measurement:
    """Adult's rows, repeated: 15 columns, 14 features."""
    runs = {}
    for size in (10_000, 100_000, 1_000_000, 4_000_000):
        source = inputs.table(settings.data, settings.work, settings.sized(size, size // 1_000))
        runs[size] = _run(inputs.table_spec(source), source)
    return _growth(settings, "rows", runs)


def columns(settings: Settings) -> Measurement:
    """100,000 rows of random numbers, each column a z-score."""
    runs = {}
    for size in (4, 16, 64, 256):
        source = inputs.numbers(settings.work, settings.sized(100_000, 100), size)
        runs[size] = _run(inputs.numbers_spec(source, size), source)
    return _growth(settings, "columns", runs)


def vocabulary(settings: Settings) -> Measurement:
    """1,000,000 rows of one text of so many different ones."""
    runs = {}
    for size in (100, 1_000, 10_000, 100_000, 1_000_000):
        source = inputs.words(settings.work, settings.sized(1_000_000, 1_000), size)
        runs[size] = _run(inputs.words_spec(source), source)
    return _growth(settings, "distinct texts", runs)


def image_size(settings: Settings) -> Measurement:
    """1,000 photos of every size to so many pixels a side."""
    source = inputs.photos(settings.data, settings.work, settings.sized(1_000, 16))
    runs = {
        size: _run(inputs.images_spec(source, size, "uint8"), source)
        for size in (32, 64, 128, 256, 512)
    }
    return _growth(settings, "pixels a side", runs)


if __name__ == "__main__":
    sys.exit(main("growth", __doc__, [rows, columns, vocabulary, image_size]))
