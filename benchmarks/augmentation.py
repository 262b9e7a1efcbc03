"""The loader's augmentation beside ImageDataGenerator and Keras' layers.

    python -m benchmarks.augmentation --data DIR

Each side turns, shifts, shears, zooms and mirrors the same images at random, as
`benchmarks/peers/augmentation_passes.py` says; `plain` is the loader without. ImageDataGenerator
has its images in memory, the others read the dataset's shards, which the system has in its own.
"""

import sys

from benchmarks import commands, inputs, measure
from benchmarks.measure import Command, Measurement, Settings, main

_SIDES = ("headrace", "plain", "layers", "generator")


def _measured(settings: Settings, source: inputs.Input, size: int) -> Measurement:
    spec = inputs.images_spec(source, size, "uint8")
    command = commands.headrace(spec, source.num_records)
    measure.run_once(command)
    module = "benchmarks.peers.augmentation_passes"
    sides = measure.in_turn(
        {
            side: Command((sys.executable, "-m", module, side, str(command.output)))
            for side in _SIDES
        },
        settings.rounds,
    )
    figures = {f"{name} images/s": side.printed_rate for name, side in sides.items()}
    for name in "layers", "generator":
        figures[f"times {name}"] = sides["headrace"].printed_rate / sides[name].printed_rate
    return Measurement(f"{source.num_records:,} images of {size}x{size}", sides, figures)


def photos(settings: Settings) -> Measurement:
    """224x224, as photos are."""
    source = inputs.photos(settings.data, settings.work, settings.sized(1_000, 96))
    return _measured(settings, source, 224)


def small(settings: Settings) -> Measurement:
    """32x32, as CIFAR-10 has them."""
    source = inputs.photos(settings.data, settings.work, settings.sized(4_000, 96))
    return _measured(settings, source, 32)


if __name__ == "__main__":
    sys.exit(main("augmentation", __doc__, [photos, small]))
