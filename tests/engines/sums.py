"""A small real pipeline for engine tests: numbers, grouped by a remainder, added up, written.

It runs as __main__, so that the workers get its functions by value and need no file of the tests.
Each step of slow work leaves a file in the folder of marks: the tests see how far a job is, and
which work was done twice.
"""

import argparse
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

BLOCKS, BLOCK, KEYS = 24, 500, 40
SHARDS = 3


def expected() -> list[str]:
    """The lines of all shards, sorted."""
    numbers = range(BLOCKS * BLOCK)
    return sorted(f"{key} {sum(n * n for n in numbers if n % KEYS == key)}" for key in range(KEYS))


def _mark(folder: str, step: str, key: int, seconds: float) -> None:
    time.sleep(seconds)
    print("a worker's output " * 500)  # 9 kB: nobody reads it, and nobody may wait for it.
    Path(folder, f"{step}-{key}-{os.getpid()}-{uuid.uuid4().hex}").touch()


def run(arguments: argparse.Namespace, flags: list[str]) -> None:
    marks, seconds = arguments.marks, arguments.seconds

    def squares(block: int) -> Iterable[tuple[int, int]]:
        _mark(marks, "square", block, seconds)
        for number in range(block * BLOCK, (block + 1) * BLOCK):
            yield number % KEYS, number * number

    def total(item: tuple[int, Iterable[int]]) -> str:
        _mark(marks, "total", item[0], seconds)
        return f"{item[0]} {sum(item[1])}"

    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        (
            pipeline
            | "Blocks" >> beam.Create(range(BLOCKS))
            | "Spread" >> beam.Reshuffle()
            | "Square" >> beam.FlatMap(squares)  # tuple[int, int]
            | "Group" >> beam.GroupByKey()
            | "Total" >> beam.Map(total)  # str
            | "Write" >> beam.io.WriteToText(arguments.output, num_shards=SHARDS)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--marks", required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    run(*parser.parse_known_args())
