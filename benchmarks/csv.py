"""A table: `headrace run` beside TFT's census example, from start to exit, imports included.

    python -m benchmarks.csv --data DIR

The product does more: filter, split, a global shuffle and gzip. Expect an hour, nearly all of it
the peer's: 3.9 million rows take it five minutes a run.
"""

import sys

from benchmarks import commands, inputs
from benchmarks.measure import Measurement, Settings, Side, main


def _beside_canonical(settings: Settings, num_rows: int, *, has_unique: bool) -> Measurement:
    source = inputs.table(settings.data, settings.work, num_rows, has_unique=has_unique)
    spec = inputs.table_spec(source, has_unique=has_unique)
    sides = commands.in_turn(
        {
            "headrace": commands.headrace(spec, num_rows),
            "canonical_csv": commands.canonical_csv(source, has_unique=has_unique),
        },
        settings,
    )
    ratio = sides["headrace"].rate / sides["canonical_csv"].rate
    work = f"{num_rows:,} rows{', no value repeats' if has_unique else ''}"
    return Measurement(work, sides, {"times canonical_csv": ratio})


def adult(settings: Settings) -> Measurement:
    """Adult as it is."""
    num_rows = len(inputs.adult_rows(settings.data))
    return _beside_canonical(settings, num_rows, has_unique=False)


def adult_x120(settings: Settings) -> Measurement:
    """Adult 120 times: 3.9 million rows, 0.48 GB."""
    num_rows = len(inputs.adult_rows(settings.data)) * settings.sized(120, 2)
    return _beside_canonical(settings, num_rows, has_unique=False)


def no_repeats(settings: Settings) -> Measurement:
    """The same with two more columns in which no value repeats."""
    num_rows = len(inputs.adult_rows(settings.data)) * settings.sized(120, 2)
    return _beside_canonical(settings, num_rows, has_unique=True)


def _two_sizes(settings: Settings) -> list[inputs.Input]:
    sizes = settings.sized(1_000_000, 1_000), settings.sized(4_000_000, 4_000)
    return [inputs.table(settings.data, settings.work, num_rows) for num_rows in sizes]


def _microseconds_a_row(few: Side, many: Side) -> float:
    """What one more row costs."""
    rows = many.num_records - few.num_records
    return (many.wall_seconds - few.wall_seconds) / rows * 1e6


def marginal(settings: Settings) -> Measurement:
    """What one more row costs, between 1 and 4 million."""
    few, many = _two_sizes(settings)
    sides = commands.in_turn(
        {
            "headrace, few": commands.headrace(inputs.table_spec(few), few.num_records),
            "headrace, many": commands.headrace(inputs.table_spec(many), many.num_records),
            "canonical_csv, few": commands.canonical_csv(few),
            "canonical_csv, many": commands.canonical_csv(many),
        },
        settings,
    )
    ours = _microseconds_a_row(sides["headrace, few"], sides["headrace, many"])
    theirs = _microseconds_a_row(sides["canonical_csv, few"], sides["canonical_csv, many"])
    figures = {"headrace us/row": ours, "canonical_csv us/row": theirs, "ratio": theirs / ours}
    return Measurement(f"{few.num_records:,} to {many.num_records:,} rows", sides, figures)


def threads(settings: Settings) -> Measurement:
    """Rows per second more with four threads than with two, between 1 and 4 million rows."""
    few, many = _two_sizes(settings)
    runs = {}
    for workers in 2, 4:
        for name, source in ("few", few), ("many", many):
            spec = inputs.table_spec(source)
            runs[f"{workers}, {name}"] = commands.headrace(spec, source.num_records, workers)
    sides = commands.in_turn(runs, settings)
    two = _microseconds_a_row(sides["2, few"], sides["2, many"])
    four = _microseconds_a_row(sides["4, few"], sides["4, many"])
    figures = {"2 threads us/row": two, "4 threads us/row": four, "ratio": two / four}
    return Measurement("threads, rows", sides, figures)


if __name__ == "__main__":
    sys.exit(main("csv", __doc__, [adult, adult_x120, no_repeats, marginal, threads]))
