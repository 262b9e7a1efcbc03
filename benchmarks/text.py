"""Texts: `headrace run` beside TFT's sentiment example, from start to exit, imports included.

    python -m benchmarks.text --work DIR --rounds 3

The input is made: as many reviews as IMDB has, as long as they are. The product does more: a
split, a global shuffle, exact document frequencies.
"""

import sys

from benchmarks import commands, inputs
from benchmarks.measure import Measurement, Settings, main


def _beside_canonical(settings: Settings, mode: str) -> Measurement:
    source = inputs.reviews(settings.work, settings.sized(50_000, 200))
    spec = inputs.reviews_spec(source, mode)
    sides = commands.in_turn(
        {
            "headrace": commands.headrace(spec, source.num_records),
            "canonical_text": commands.canonical_text(source, mode),
        },
        settings,
    )
    ratio = sides["headrace"].rate / sides["canonical_text"].rate
    work = f"{source.num_records:,} reviews, {mode}"
    return Measurement(work, sides, {"times canonical_text": ratio})


def ids(settings: Settings) -> Measurement:
    """Words to indices of a vocabulary of 20,000: 250 of each review."""
    return _beside_canonical(settings, "int")


def tf_idf(settings: Settings) -> Measurement:
    """Words to tf-idf over a vocabulary of 20,000."""
    return _beside_canonical(settings, "tf_idf")


if __name__ == "__main__":
    sys.exit(main("text", __doc__, [ids, tf_idf], needs_data=False))
