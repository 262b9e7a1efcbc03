"""How long it takes to plan ten million image files, and how much memory.

    python -m benchmarks.paths --data DIR --work WORK

The files are hard links in folders of 1,000: planning looks at names, sizes and times, never into a
file. Put WORK on a local disk that has 1 GB and 10,000 inodes to spare. Planning is what the
launcher does before a local job starts, with imports: list the files, make sure that none is there
twice and no two have one key, sum up the fingerprint, and leave lists of 500 files for the tasks.
The names are in memory after they were made; a disk that was not read yet takes longer.
"""

import sys

from benchmarks import commands, inputs, measure
from benchmarks.measure import Measurement, Settings, main


def plan(settings: Settings) -> Measurement:
    """Ten million files in ten thousand folders."""
    source = inputs.links(settings.work, settings.sized(10_000_000, 2_500))
    command = commands.plan(inputs.images_spec(source, 224, "uint8"), source.num_records)
    sides = measure.in_turn({"plan": command}, settings.rounds)
    measure.remove(command.output)
    wanted = f"{source.num_records} files in {-(-source.num_records // 500)} lists"
    for run in sides["plan"].runs:
        if run.printed != wanted:
            raise RuntimeError(f"{source.path}: must be {wanted}, but is {run.printed!r}.")
    side = sides["plan"]
    figures = {"seconds": side.wall_seconds, "peak GB": side.peak_bytes / 1e9}
    return Measurement(f"{source.num_records:,} paths", sides, figures)


if __name__ == "__main__":
    sys.exit(main("paths", __doc__, [plan]))
