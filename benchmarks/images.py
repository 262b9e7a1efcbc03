"""Images: `headrace run` beside tf.data alone and beside a TFT pipeline.

    python -m benchmarks.images --data DIR

The limit reads, decodes and resizes with the product's own ops and keeps nothing; its rate is
without imports, so the product's imports are taken off, too. The peer is too slow for all the
files: its rate is the one on a part of them, and both are whole processes.
"""

import sys

from benchmarks import commands, inputs
from benchmarks.measure import Measurement, Settings, main


def photos(settings: Settings) -> Measurement:
    """4,000 photos of every size to 224x224, as uint8 and as float32, beside the limit."""
    source = inputs.photos(settings.data, settings.work, settings.sized(4_000, 16))
    stores = {
        store: commands.headrace(inputs.images_spec(source, 224, store), source.num_records)
        for store in ("uint8", "float32")
    }
    sides = commands.in_turn(
        {**stores, "imports": commands.IMPORTS, "limit": commands.limit_images(source, 224)},
        settings,
    )
    limit = sides["limit"].printed_rate
    figures = {"limit images/s": limit}
    for store in stores:
        seconds = sides[store].wall_seconds - sides["imports"].wall_seconds
        figures[f"{store} images/s"] = source.num_records / seconds
        figures[f"{store} of the limit"] = source.num_records / seconds / limit
    return Measurement(f"{source.num_records:,} photos to 224x224", sides, figures)


def _beside_canonical(
    settings: Settings, name: str, source: inputs.Input, part: inputs.Input, size: int
) -> Measurement:
    sides = commands.in_turn(
        {
            "headrace": commands.headrace(
                inputs.images_spec(source, size, "uint8"), source.num_records
            ),
            "canonical_images": commands.canonical_images(part, size),
        },
        settings,
    )
    ours, theirs = sides["headrace"], sides["canonical_images"]
    figures = {
        "times canonical_images": ours.rate / theirs.rate,
        # The harder comparison: a short run of the peer is imports for the most part.
        "times canonical_images less its imports": ours.rate / theirs.printed_rate,
    }
    return Measurement(f"{source.num_records:,} {name} to {size}x{size}", sides, figures)


def photos_canonical(settings: Settings) -> Measurement:
    """4,000 photos, beside the peer's rate on 1,000."""
    source = inputs.photos(settings.data, settings.work, settings.sized(4_000, 16))
    part = inputs.photos(settings.data, settings.work, settings.sized(1_000, 8))
    return _beside_canonical(settings, "photos", source, part, 224)


def cifar(settings: Settings) -> Measurement:
    """CIFAR's training files 20 times: 40,000."""
    source = inputs.cifar(settings.data, settings.work, settings.sized(20, 2))
    return _beside_canonical(settings, "CIFAR files", source, source, 32)


if __name__ == "__main__":
    sys.exit(main("images", __doc__, [photos, photos_canonical, cifar]))
