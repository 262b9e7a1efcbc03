"""A table of clicks, as Criteo has them: 13 counts and 26 vocabularies, some of a million texts.

    python -m benchmarks.criteo --work DIR --rounds 1

The input is made: `benchmarks.inputs` says how. Beside `headrace run` stands plain TFT with the
same steps, whole processes from start to exit, imports included; the product does more: a split,
a global shuffle, exact statistics. TFT takes a quarter of a millisecond a row, and 3 kB of memory:
both sides get 500,000 rows, and 5 million are ours alone.
"""

import sys

from benchmarks import commands, inputs
from benchmarks.measure import Measurement, Settings, main


def beside_canonical(settings: Settings) -> Measurement:
    """500,000 rows."""
    source = inputs.clicks(settings.work, settings.sized(500_000, 1_000))
    spec = inputs.clicks_spec(source, has_vocabularies=True)
    sides = commands.in_turn(
        {
            "headrace": commands.headrace(spec, source.num_records),
            "canonical_criteo": commands.canonical_criteo(source),
        },
        settings,
    )
    ratio = sides["headrace"].rate / sides["canonical_criteo"].rate
    return Measurement(f"{source.num_records:,} rows", sides, {"times canonical_criteo": ratio})


def memory(settings: Settings) -> Measurement:
    """1.25, 2.5 and 5 million rows: time, and peak memory of all processes together."""
    return _sizes(settings, has_vocabularies=True)


def hashed(settings: Settings) -> Measurement:
    """The same with hashed texts, of which no job holds any."""
    return _sizes(settings, has_vocabularies=False)


def _sizes(settings: Settings, has_vocabularies: bool) -> Measurement:
    runs = {}
    for num_rows in (1_250_000, 2_500_000, 5_000_000):
        source = inputs.clicks(settings.work, settings.sized(num_rows, num_rows // 1_000))
        size = source.path.stat().st_size / 1e9
        spec = inputs.clicks_spec(source, has_vocabularies=has_vocabularies)
        command = commands.headrace(spec, source.num_records)
        runs[f"{source.num_records:,} rows, {size:.2f} GB"] = command
    sides = commands.in_turn(runs, settings)
    few, *_, many = sides.values()
    rows = many.num_records - few.num_records
    figures = {
        "peak GB, large": many.peak_bytes / 1e9,
        "large / small": many.peak_bytes / few.peak_bytes,
        "us/row more": (many.wall_seconds - few.wall_seconds) / rows * 1e6,
    }
    return Measurement("rows", sides, figures)


if __name__ == "__main__":
    sys.exit(main("criteo", __doc__, [beside_canonical, memory, hashed], needs_data=False))
