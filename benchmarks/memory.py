"""Peak memory of `headrace run`, all its processes together, on an input and on four times that.

python -m benchmarks.memory --data DIR
"""

import sys

from benchmarks import commands, inputs
from benchmarks.measure import Command, Measurement, Settings, main


def _peaks(settings: Settings, work: str, runs: dict[str, Command]) -> Measurement:
    sides = commands.in_turn(runs, settings)
    small, large = (side.peak_bytes for side in sides.values())
    figures = {"peak GB, large": large / 1e9, "large / small": large / small}
    return Measurement(work, sides, figures)


def _tables(settings: Settings, *, has_unique: bool) -> Measurement:
    """Tables of 0.5 GB and 2 GB, before the two more columns, into 4 shards a split."""
    rows = inputs.adult_rows(settings.data)
    num_bytes = sum(len(row) + 1 for row in rows)
    runs = {}
    for size in settings.sized(500_000_000, 100_000), settings.sized(2_000_000_000, 400_000):
        num_rows = size * len(rows) // num_bytes
        source = inputs.table(settings.data, settings.work, num_rows, has_unique=has_unique)
        spec = inputs.table_spec(source, has_unique=has_unique)
        name = f"{num_rows:,} rows, {source.path.stat().st_size / 1e9:.2f} GB"
        runs[name] = commands.headrace(spec, num_rows)
    return _peaks(settings, f"CSV{', no value repeats' if has_unique else ''}", runs)


def table(settings: Settings) -> Measurement:
    """Adult, repeated."""
    return _tables(settings, has_unique=False)


def no_repeats(settings: Settings) -> Measurement:
    """Adult, repeated, with two more columns in which no value repeats."""
    return _tables(settings, has_unique=True)


def photos(settings: Settings) -> Measurement:
    """4,000 and 16,000 photos."""
    runs = {}
    for num_images in settings.sized(4_000, 8), settings.sized(16_000, 32):
        source = inputs.photos(settings.data, settings.work, num_images)
        spec = inputs.images_spec(source, 224, "uint8")
        runs[f"{num_images:,} photos"] = commands.headrace(spec, num_images)
    return _peaks(settings, "photos to 224x224 uint8", runs)


if __name__ == "__main__":
    sys.exit(main("memory", __doc__, [table, no_repeats, photos]))
