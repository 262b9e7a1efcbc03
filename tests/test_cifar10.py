"""The cifar10 spec end to end: every pixel against Pillow, statistics against exact sums."""

import numpy as np
import pytest
from oracle import compare, pixels, served
from oracle.command import headrace

BOTH = pytest.mark.parametrize("run", ["cifar10-made", "cifar10-real"], indirect=True)
MADE = pytest.mark.parametrize("run", ["cifar10-made"], indirect=True)


@MADE
def test_the_made_folder_holds_every_trap(wanted):
    assert wanted.rejected == {"undecodable_image": 3, "no_truck": 54}
    assert all(any(record.split == s for record in wanted.records) for s in wanted.splits())
    assert wanted.splits() == ["train", "validation", "test"]
    assert "ship" in wanted.classes  # Though no image of train is one.
    assert "ship" not in wanted.class_counts("train")
    assert any(record.path.endswith("really_a_png.jpg") for record in wanted.records)


@BOTH
def test_every_file_is_written_or_set_aside_with_the_first_rule_it_breaks(run, wanted):
    assert wanted.rejected["no_truck"] > 50 and len(wanted.classes) == 9
    assert compare.counts(run.folder, run.manifest, wanted) == []


@BOTH
def test_every_pixel_of_every_image_is_pillows(run, wanted):
    stored, differences = pixels.stored(run.folder, run.manifest, wanted)
    assert differences == []
    assert stored.dtype == np.uint8 and stored.shape[1:] == (32, 32, 3)
    reference = pixels.reference(wanted)
    assert reference.std() > 40
    assert np.flatnonzero((stored != reference).any(axis=(1, 2, 3))).tolist() == []


@BOTH
def test_the_statistics_are_the_exact_ones_of_train(run, wanted):
    reference = pixels.reference(wanted)
    assert not wanted.in_train().all()
    assert pixels.statistics(run.manifest, wanted, reference) == []


@BOTH
def test_the_manifest_says_what_is_left_to_do(run, wanted):
    image = run.manifest["features"]["image"]
    statistics = image["statistics"]
    assert image["normalization"] == {
        "rescale": 0.00392156862745098,
        "mean": statistics["mean"],
        "std": statistics["std"],
    }
    kept = {name: image[name] for name in ("dtype", "shape", "stored_as", "normalized")}
    wanted_kept = {"dtype": "uint8", "shape": [32, 32, 3], "stored_as": "raw", "normalized": False}
    assert kept == wanted_kept
    assert compare.label(run.manifest, wanted) == []


@BOTH
def test_the_manifest_tells_every_byte_of_the_shards(run):
    assert {len(split["shards"]) for split in run.manifest["splits"].values()} == {8}
    assert compare.shard_files(run.folder, run.manifest) == []


def test_verify_accepts_the_dataset(runs):
    done = headrace("verify", runs.best("cifar10").folder)
    assert (done.returncode, done.stdout.count("Traceback")) == (0, 0), done.stdout


@BOTH
def test_transform_fn_serves_the_stored_pixels_one_file_at_a_time(run, wanted):
    stored, _ = pixels.stored(run.folder, run.manifest, wanted)
    places = [i for i, r in enumerate(wanted.records) if r.path.endswith(".jpg")][:100]
    assert len(places) >= 20
    paths = [run.case.root / wanted.records[place].path for place in places]
    assert served.image_differences(run.folder, stored[places], paths) == []
