"""The demo: what a new user sees first."""

import re

import pytest
from oracle.command import headrace

pytest.importorskip("sklearn")


def test_the_demo_accounts_for_all_and_reaches_its_accuracy(tmp_path):
    done = headrace("demo", "--output", tmp_path / "demo", "--quiet")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    # scikit-learn's tables have 1,797 and 569 records; 3 files and 6 rows are broken on purpose.
    assert "digits: 1,800 records read" in lines
    assert "  rejected  3: undecodable_image 3" in lines
    assert "breast-cancer: 575 records read" in lines
    assert (
        "  rejected  6: missing_mean_texture 1, no_label 1, non_finite_mean_radius 1, "
        "plausible_area 1, ragged_row 1, unparsable_mean_radius 1"
    ) in lines
    written = [line for line in lines if line.startswith("  written")]
    assert [line.split()[1] for line in written] == ["1,797:", "569:"]
    accuracy = re.findall(r"accuracy ([01]\.\d+)", done.stdout)
    digits, tumors = map(float, accuracy)
    assert digits >= 0.98 and tumors >= 0.95


def test_the_demo_touches_no_folder_of_others(tmp_path):
    (tmp_path / "mine").write_text("mine")
    done = headrace("demo", "--output", tmp_path)
    assert done.returncode == 2
    assert done.stdout == f"headrace: {tmp_path}: holds files that are no demo. " + (
        "Give another --output.\n"
    )
    assert (tmp_path / "mine").read_text() == "mine"
