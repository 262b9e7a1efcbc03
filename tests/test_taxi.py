"""The taxi spec end to end: every value of every record against plain Python and NumPy."""

import collections

import numpy as np
import pytest
from oracle import compare, served
from oracle.command import headrace

BOTH = pytest.mark.parametrize("run", ["taxi-made", "taxi-real"], indirect=True)
MADE = pytest.mark.parametrize("run", ["taxi-made"], indirect=True)


@MADE
def test_the_made_table_holds_every_trap(run, wanted):
    assert run.case.files[0].stat().st_size > 4 * run.case.block_mb * 1e6  # Several blocks.
    assert len(run.manifest["splits"]["train"]["shards"]) > 1
    assert len(wanted.rejected) >= 10
    assert min(collections.Counter(record.split for record in wanted.records).values()) > 200
    assert any("\r\n" in (record.text["company"] or "") for record in wanted.records)
    features, train = wanted.features, wanted.in_train()
    for name in ("dropoff_latitude_missing", "dropoff_longitude_missing"):
        assert {0, 1} == set(features[name].values[train]) == set(features[name].values[~train])
    assert len(features["pickup_latitude"].edges) < 9  # Equal edges merged.
    company = features["company"]
    assert {company.num_categories - 2, company.num_categories - 1} <= set(company.values)  # OOV.
    assert features["area"].statistics["std"] == 0  # One value in train, another one in test.
    assert set(features["area"].values) == {0}
    assert set(features["area_score"].values) == {0, 1}
    assert b"[MISSING]" in features["company_text"].values


@BOTH
def test_every_record_is_written_or_set_aside_with_the_first_rule_it_breaks(run, wanted):
    assert wanted.rejected["paid"] > 100 and wanted.rejected["null_in_paid"]
    assert compare.counts(run.folder, run.manifest, wanted) == []


@BOTH
def test_every_value_of_every_record_stands_where_it_must(run, wanted):
    assert np.isin([0, 1], wanted.label.values).all()
    assert compare.values(run.folder, run.manifest, wanted) == []


@BOTH
def test_the_manifest_tells_statistics_and_vocabularies(run, wanted):
    assert wanted.features["dropoff_latitude"].raw_statistics["missing"] > 100
    assert compare.features(run.manifest, wanted) == []


@BOTH
def test_the_manifest_tells_every_byte_of_the_shards(run):
    assert run.manifest["compression"] == "none"
    assert compare.shard_files(run.folder, run.manifest) == []


@BOTH
def test_no_shard_is_much_longer_than_asked_for(run, wanted):
    limit_bytes = wanted.spec["output"]["shard_mb"] * 1e6
    shards = [s for split in run.manifest["splits"].values() for s in split["shards"]]
    assert max(shard["bytes"] for shard in shards) < 1.5 * limit_bytes


@BOTH
def test_the_schema_parses_every_record(run, wanted):
    assert compare.schema(run.folder, run.manifest, wanted) == []


@BOTH
def test_transform_fn_serves_the_stored_bits_one_row_at_a_time(run, wanted):
    places = served.sample(run.manifest, wanted, 200)
    holes = [place for place in places if None in wanted.records[place[2]].numbers.values()]
    assert len(places) >= 200 and len(holes) > 100
    assert served.differences(run.folder, run.manifest, wanted, places) == []


def test_verify_accepts_the_dataset(runs):
    done = headrace("verify", runs.best("taxi").folder)
    assert (done.returncode, done.stdout.count("Traceback")) == (0, 0), done.stdout
