"""Prints how many bytes the graph of a table's job has, as an engine is sent it.

python -m benchmarks.graph SPEC
"""

import sys

import apache_beam as beam

from beam_jobs import engines, pipeline, rows
from beam_jobs.config import load_spec
from beam_jobs.job import Job
from beam_jobs.sources import csv_files, listing


def num_bytes(spec_path: str) -> int:
    """Returns the size of the serialized graph."""
    spec = load_spec(spec_path)
    files = listing.list_files(spec.source)
    columns = csv_files.read_columns(files[0], spec.source)
    graph = beam.Pipeline(options=engines.options("FnApiRunner"))
    job = Job(spec, "out", listing.fingerprint(files), None, 1, 16_000_000)
    pipeline.build_table(graph, files, rows.plan(spec, columns), job)
    return len(graph.to_runner_api().SerializeToString())


if __name__ == "__main__":
    print(f"graph: {num_bytes(sys.argv[1])} bytes")
