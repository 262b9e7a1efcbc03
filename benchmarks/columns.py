"""What a column more costs: seconds, memory and the size of the graph.

    python -m benchmarks.columns --work DIR

Each number of columns is a run of the whole command, imports included. The graph is what an engine
is sent; Dataflow takes 10 MB.
"""

import sys

from benchmarks import commands, inputs
from benchmarks.measure import Measurement, Settings, main


def numbers(settings: Settings) -> Measurement:
    """1,000 rows of random numbers, each column a z-score."""
    runs = {}
    for size in settings.sized(250, 4), settings.sized(500, 8), settings.sized(2_000, 16):
        source = inputs.numbers(settings.work, settings.sized(1_000, 100), size)
        spec = inputs.numbers_spec(source, size)
        runs[f"{size:,} columns"] = commands.headrace(spec, source.num_records)
        runs[f"graph of {size:,}"] = commands.graph_bytes(spec)
    sides = commands.in_turn(runs, settings)
    figures = {}
    for name, side in sides.items():
        if name.startswith("graph"):
            figures[f"{name}, kB"] = int(side.runs[-1].printed.split()[1]) / 1e3
        else:
            figures[f"{name}, peak GB"] = side.peak_bytes / 1e9
    few, *_, many = (side.wall_seconds for name, side in sides.items() if "columns" in name)
    more = settings.sized(1_750, 12)
    return Measurement("1,000 rows", sides, figures | {"ms a column": 1e3 * (many - few) / more})


if __name__ == "__main__":
    sys.exit(main("columns", __doc__, [numbers], needs_data=False))
