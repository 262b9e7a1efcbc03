"""2,000 numeric columns: every value and statistic, on the local engine and as on a cluster."""

import json

import pytest
from oracle import compare, wide
from oracle.command import headrace


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The folder of a finished dataset, its spec, and the raw values."""
    folder = tmp_path_factory.mktemp("wide")
    spec, values = wide.write(folder)
    done = headrace("run", spec, "--output", folder / "out", "--quiet")
    assert done.returncode == 0, done.stdout[-3000:]
    return folder / "out", spec, values


def test_every_value_is_what_numpy_says(local):
    folder, _, values = local
    wide.check(folder, values)


def test_a_runner_without_a_shared_disk_writes_the_same_bytes(local, tmp_path):
    folder, spec, _ = local
    done = headrace("run", spec, "--output", tmp_path / "out", "--runner", "FnApiRunner")
    assert done.returncode == 0, done.stdout[-3000:]
    here, there = (
        compare.bytes_of_shards(path, json.loads((path / "dataset_info.json").read_text()))
        for path in (folder, tmp_path / "out")
    )
    assert here == there
