"""Images that stay JPEG files: `headrace run` beside tf.data loops that encode them again.

    python -m benchmarks.encoded --data DIR

Every side decodes, resizes without antialiasing as tf.image.resize does by default, encodes with
quality 95 and writes TFRecords. Only `headrace run` also splits, shuffles, counts and checks. The
loop is what tutorials show; the map is the same in a tf.data pipeline with AUTOTUNE, which is as
fast as these ops go. All are whole processes; the times are also given without imports.
"""

import sys

from benchmarks import commands, inputs
from benchmarks.measure import Measurement, Settings, main


def _beside_canonical(settings: Settings, source: inputs.Input, size: int) -> Measurement:
    ours = commands.headrace(inputs.encoded_spec(source, size), source.num_records)
    forms = {form: commands.canonical_files(source, size, form) for form in ("loop", "map")}
    sides = commands.in_turn({"headrace": ours, "imports": commands.IMPORTS, **forms}, settings)
    whole = sides["headrace"]
    rate = source.num_records / (whole.wall_seconds - sides["imports"].wall_seconds)
    figures = {}
    for form in forms:
        figures[f"times {form}"] = whole.rate / sides[form].rate
        figures[f"times {form} without imports"] = rate / sides[form].printed_rate
    return Measurement(f"{source.num_records:,} files to {size}x{size} JPEG", sides, figures)


def photos(settings: Settings) -> Measurement:
    """4,000 photos of every size to 224x224."""
    source = inputs.photos(settings.data, settings.work, settings.sized(4_000, 16))
    return _beside_canonical(settings, source, 224)


def cifar(settings: Settings) -> Measurement:
    """CIFAR's training files 20 times, 40,000, at their own 32x32."""
    source = inputs.cifar(settings.data, settings.work, settings.sized(20, 2))
    return _beside_canonical(settings, source, 32)


if __name__ == "__main__":
    sys.exit(main("encoded", __doc__, [photos, cifar]))
