"""The photos spec end to end: decoding and resizing against Pillow, means against exact sums."""

import numpy as np
import pytest
from oracle import compare, pixels, served
from oracle.command import headrace
from PIL import Image

BOTH = pytest.mark.parametrize("run", ["photos-made", "photos-real"], indirect=True)
MADE = pytest.mark.parametrize("run", ["photos-made"], indirect=True)


def _levels(run, wanted) -> np.ndarray:
    """The grey levels behind the stored float32 values: uint8, rounded from value + mean."""
    stored, differences = pixels.stored(run.folder, run.manifest, wanted)
    assert differences == []
    assert stored.dtype == np.float32 and stored.shape[1:] == (224, 224, 3)
    means = np.array(run.manifest["features"]["image"]["statistics"]["mean"])
    return np.rint(stored.astype(np.float64) + means).astype(np.uint8)


@MADE
def test_the_made_folder_holds_every_trap(run, wanted):
    assert wanted.rejected == {"undecodable_image": 1, "no_label": 1}
    seen = [Image.open(run.case.root / record.path) for record in wanted.records]
    assert {image.format for image in seen} == {"JPEG", "PNG"}
    assert {image.mode for image in seen} == {"RGB", "L"}
    assert len({image.size for image in seen}) >= 8
    assert any(min(image.size) < 224 for image in seen)  # Made larger.
    assert any(image.getexif().get(0x0112, 1) in (6, 8) for image in seen)  # Turned.


@BOTH
def test_every_file_is_written_or_set_aside_with_the_first_rule_it_breaks(run, wanted):
    assert len(wanted.records) >= 20
    assert compare.counts(run.folder, run.manifest, wanted) == []


@BOTH
def test_decoding_and_resizing_stand_within_one_grey_level_of_pillow(run, wanted):
    levels = _levels(run, wanted).astype(int)
    apart = np.abs(levels - pixels.reference(wanted))
    furthest = int(apart.max(axis=(1, 2, 3)).argmax())
    assert apart.max() <= 1, wanted.records[furthest].path
    assert apart.mean(axis=(1, 2, 3)).max() < 0.3


@BOTH
def test_the_stored_values_are_the_levels_less_the_mean_cast_once(run, wanted):
    stored, _ = pixels.stored(run.folder, run.manifest, wanted)
    means = np.array(run.manifest["features"]["image"]["statistics"]["mean"])
    cast_once = (_levels(run, wanted).astype(np.float64) - means).astype(np.float32)
    assert np.array_equal(stored.view(np.int32), cast_once.view(np.int32))


@BOTH
def test_the_statistics_are_the_exact_ones_of_train(run, wanted):
    assert not wanted.in_train().all()
    assert pixels.statistics(run.manifest, wanted, _levels(run, wanted)) == []


@BOTH
def test_the_manifest_says_that_nothing_is_left_to_do(run, wanted):
    image = run.manifest["features"]["image"]
    kept = {name: image[name] for name in ("dtype", "shape", "stored_as", "normalized")}
    assert kept == {
        "dtype": "float32",
        "shape": [224, 224, 3],
        "stored_as": "raw",
        "normalized": True,
    }
    assert "normalization" not in image
    assert compare.label(run.manifest, wanted) == []


@BOTH
def test_the_manifest_tells_every_byte_of_the_shards(run):
    assert {len(split["shards"]) for split in run.manifest["splits"].values()} == {4}
    assert compare.shard_files(run.folder, run.manifest) == []


def test_verify_accepts_the_dataset(runs):
    done = headrace("verify", runs.best("photos").folder)
    assert (done.returncode, done.stdout.count("Traceback")) == (0, 0), done.stdout


@BOTH
def test_transform_fn_serves_the_stored_bits_one_file_at_a_time(run, wanted):
    stored, _ = pixels.stored(run.folder, run.manifest, wanted)
    paths = [run.case.root / record.path for record in wanted.records][:20]
    assert len(paths) == 20
    assert served.image_differences(run.folder, stored[:20], paths) == []
