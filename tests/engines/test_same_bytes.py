"""Every engine writes what the local one does: the same spec and input, the same bytes."""

import itertools
import json

import pytest
from oracle import compare
from oracle.command import headrace

from engines import started

# A table; images as they are; images as float32; a table with functions, lists and groups.
SPECS = ("adult", "cifar10", "photos", "visits", "visits-by-tft")
# TFT writes with TensorFlow, which looks for gs:// at Google and nowhere else. Its 500 tasks take
# Flink five minutes.
LEFT_OUT = [("dataflow stand-in", "visits-by-tft"), ("flink", "visits-by-tft")]
JOBS = [job for job in itertools.product(started.ENGINES, SPECS) if job not in LEFT_OUT]


@pytest.mark.parametrize(("engine", "spec"), JOBS)
def test_an_engine_writes_the_same_bytes(engine, spec, runs, tmp_path, say):
    wanted = runs.best(spec)
    shards = compare.bytes_of_shards(wanted.folder, wanted.manifest)
    assert sum(num_examples > 0 for num_examples, *_ in shards.values()) > 3
    try:
        with started.ENGINES[engine](tmp_path) as there:
            options = ("--output", there.output, "--workers", "2", *there.words)
            done = headrace("run", there.spec(wanted.spec), *options)
            made, name = there.fetched(), f"{engine} {there.version}".strip()
    except started.NotThereError as why:
        say(engine, f"not run: {why}")
        pytest.skip(str(why))
    assert done.returncode == 0, done.stdout[-3000:]
    manifest = json.loads((made / "dataset_info.json").read_text())
    is_same = compare.bytes_of_shards(made, manifest) == shards
    say(name, "same bytes" if is_same else "OTHER BYTES")
    assert is_same
    for name in ("read", "rejected", "features", "label", "splits"):
        assert manifest[name] == wanted.manifest[name]
    assert headrace("verify", made).returncode == 0
