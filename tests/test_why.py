"""The table of docs/why.md: whose statistics are right, and what a model makes of them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from oracle.command import LIMIT_SECONDS, ROOT
from PIL import Image


@pytest.fixture(name="table", scope="module")
def fixture_table(tmp_path_factory):
    """The folder of images, and by the name of its row: mean, std and losses."""
    work = tmp_path_factory.mktemp("why")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.why", "--work", str(work)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    _, _, *rows = done.stdout.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    numbers = {name: [[float(x) for x in text.split()] for text in rest] for name, *rest in cells}
    return work / "data" / "cifar10" / "train", {
        name: (mean, std, [loss for (loss,) in losses])
        for name, (mean, std, *losses) in numbers.items()
    }


def test_headrace_and_numpy_have_the_statistics_of_the_images(table):
    folder, rows = table
    files = sorted(folder.glob("*/*.jpg"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in files]).astype(np.float64)
    mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    assert 120 < min(mean) < max(mean) < 135
    for name in ("headrace", "NumPy, float64"):
        assert rows[name][0] == pytest.approx(mean, abs=0.001)
        assert rows[name][1] == pytest.approx(std, abs=0.001)


@pytest.mark.parametrize(
    "name", ["`Normalization.adapt(float32 array)`", "`ImageDataGenerator.fit(array)`"]
)
def test_a_float32_sum_of_50_000_images_stalls(table, name):
    """Should this fail, Keras sums up better than 3.15 did, and docs/why.md is out of date."""
    mean, std, _ = table[1][name]
    assert mean == pytest.approx([2**32 / (50_000 * 32 * 32)] * 3, abs=0.01)
    assert min(abs(a - b) for a, b in zip(std, table[1]["headrace"][1], strict=True)) > 1


def test_only_right_statistics_give_the_loss_of_numpys(table):
    rows = {name: np.array(losses) for name, (_, _, losses) in table[1].items()}
    wanted = rows.pop("NumPy, float64")
    off = {name: np.abs(losses / wanted - 1).max() for name, losses in rows.items()}
    assert wanted[-1] < wanted[0]
    assert off.pop("headrace") < 1e-5
    assert off.pop("`Normalization.adapt(dataset)`") < 1e-3
    assert len(off) == 2 and min(off.values()) > 0.01


def test_the_document_has_the_rows_that_are_printed(table):
    text = (ROOT / "docs" / "why.md").read_text()
    for name in table[1]:
        assert f"\n| {name} | " in text
