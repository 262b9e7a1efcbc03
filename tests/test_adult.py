"""The adult spec end to end: every value of every record against plain Python and NumPy."""

import collections

import numpy as np
import pytest
from oracle import compare, served
from oracle.command import headrace

BOTH = pytest.mark.parametrize("run", ["adult-made", "adult-real"], indirect=True)
MADE = pytest.mark.parametrize("run", ["adult-made"], indirect=True)


@MADE
def test_the_made_table_holds_every_trap(run, wanted):
    records = wanted.records
    assert run.case.files[0].stat().st_size > 4 * run.case.block_mb * 1e6  # Several blocks.
    assert len(wanted.rejected) >= 15
    assert min(collections.Counter(record.split for record in records).values()) > 200
    assert max(collections.Counter(record.hash for record in records).values()) >= 3
    assert any("\n" in record.text["education"] for record in records)
    age, train = wanted.features["age_bucket"], wanted.in_train()
    assert len(age.edges) < 9  # Equal edges merged.
    ages = np.array([record.numbers["age", "float32"] for record in records])
    assert set(age.edges) <= set(ages[~train])  # Values on an edge.
    words = [record.text["education"] for record in records if record.split == "train"]
    counts = collections.Counter(words)
    assert len(counts) - len(set(counts.values())) > 10  # Ties.
    jobs = wanted.features["occupation"]
    assert (jobs.values[train] == 12).any()  # Cut by top_k: OOV in train too.
    assert set(wanted.features["country"].values) == set(range(8))  # Each of three OOV buckets.
    weights = [r.numbers["fnlwgt", "float32"] for r in records if r.split == "train"]
    present = sorted(weight for weight in weights if weight is not None)
    assert 100 < len(weights) - len(present)
    median = np.median(present)
    assert median not in present and median != np.float32(median)  # Between two, and no float32.


@BOTH
def test_every_record_is_written_or_set_aside_with_the_first_rule_it_breaks(run, wanted):
    assert sum(wanted.rejected.values()) > 50
    assert compare.counts(run.folder, run.manifest, wanted) == []


@BOTH
def test_every_value_of_every_record_stands_where_it_must(run, wanted):
    assert all(len(shard) > 1 for shard in wanted.shards("train", 4))
    assert compare.values(run.folder, run.manifest, wanted) == []


@BOTH
def test_the_manifest_tells_statistics_and_vocabularies(run, wanted):
    assert compare.features(run.manifest, wanted) == []


@BOTH
def test_the_manifest_tells_every_byte_of_the_shards(run):
    assert run.manifest["compression"] == "gzip"
    assert compare.shard_files(run.folder, run.manifest) == []


@BOTH
def test_the_schema_parses_every_record(run, wanted):
    assert compare.schema(run.folder, run.manifest, wanted) == []


@BOTH
def test_transform_fn_serves_the_stored_bits_one_row_at_a_time(run, wanted):
    places = served.sample(run.manifest, wanted, 200)
    assert len(places) >= 200
    assert served.differences(run.folder, run.manifest, wanted, places) == []


def test_verify_accepts_the_dataset(runs):
    done = headrace("verify", runs.best("adult").folder)
    assert (done.returncode, done.stdout.count("Traceback")) == (0, 0), done.stdout


@MADE
def test_nothing_of_the_work_stays_beside_the_dataset(run):
    assert not (run.folder / ".progress").exists()
