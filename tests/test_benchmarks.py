"""The benchmarks, in small: they count and verify. What they measure here means nothing."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys

import pytest
from oracle.command import LIMIT_SECONDS, ROOT
from PIL import Image

# Of each module one measurement: together they run both peers, and the product on both formats.
RECORDS = {
    ("csv", "no_repeats"): {"headrace": 400, "canonical_csv": 400},
    ("images", "cifar"): {"headrace": 16, "canonical_images": 16},
    ("paths", "plan"): {"plan": 2_500},
    ("rates", "clicks"): {"1,000": 1_000, "4,000": 4_000},
    ("columns", "numbers"): {
        **{"4 columns": 100, "8 columns": 100, "16 columns": 100},
        **{"graph of 4": 0, "graph of 8": 0, "graph of 16": 0},
    },
}


def _python(*words) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
    )


def _quick(base, module, name) -> subprocess.CompletedProcess:
    folders = ["--work", base / module, "--output", base / f"{module}.jsonl"]
    return _python("-m", f"benchmarks.{module}", "--quick", "--only", name, *folders)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def done(base):
    """What the commands printed; run side by side, for most of each is imports on one core."""
    with concurrent.futures.ThreadPoolExecutor(len(RECORDS)) as pool:
        started = {case: pool.submit(_quick, base, *case) for case in RECORDS}
        return {case: future.result() for case, future in started.items()}


@pytest.mark.parametrize("case", RECORDS)
def test_every_side_wrote_all_its_records_and_verify_finds_nothing(base, done, case):
    assert done[case].returncode == 0, done[case].stdout
    (line,) = (base / f"{case[0]}.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["benchmark"] == case[0]
    sides = entry["sides"]
    assert {name: side["num_records"] for name, side in sides.items()} == RECORDS[case]
    for name, side in sides.items():
        (run,) = side["runs"]
        assert min(run["wall_seconds"], run["cpu_seconds"], run["peak_bytes"]) > 0
        assert re.search(rf"^  {name} .*\d$", done[case].stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def loaded(base):
    return _quick(base, "loader", "warm")


def test_every_loader_reads_all_images_of_train_and_prints_its_rate(base, loaded):
    assert loaded.returncode == 0, loaded.stdout
    (line,) = (base / "loader.jsonl").read_text().splitlines()
    entry = json.loads(line)
    counts = {
        name: int(re.search(r": (\d+) images, \d+ passes, [\d.]+ images/s$", run["printed"])[1])
        for name, side in entry["sides"].items()
        for run in side["runs"]
    }
    everything = counts["read"]
    assert 0 < everything < 96  # Fewer than all photos: only train.
    rest = everything % 64 if everything >= 64 else 0  # A training pass leaves it out.
    assert counts == {
        "read": everything,
        "tfrecord": everything,
        "uint8": everything - rest,
        "normalized": everything - rest,
        "normalized_in_map": everything - rest,
    }
    rates = {name: entry["figures"][f"{name} images/s"] for name in ("read", "normalized")}
    assert entry["figures"]["normalized of the plain read"] == pytest.approx(
        rates["normalized"] / rates["read"]
    )


def test_no_value_of_the_two_more_columns_repeats(base, done):
    folder = base / "csv" / "quick"
    rows = (folder / "data" / "adult" / "adult-train.csv").read_text().split("\n")[:200]
    made = (folder / "adult-400-unique.csv").read_text().splitlines()
    cut = [line.rsplit(", ", 2) for line in made]
    assert [row for row, *_ in cut] == rows * 2
    for column in (1, 2):
        assert len({values[column] for values in cut}) == 400


def test_the_limit_counts_every_image(base, done):
    pattern = base / "images" / "quick" / "cifar10-x2" / "*" / "*"
    limit = _python("-m", "benchmarks.peers.limit_images", pattern, 24)
    assert re.search(r"^limit images: 16 images, [\d.]+ images/s$", limit.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("commands._check(Path('{folder}'), 2)", "must hold 2 records, but holds 1."),
        ("measure.run_once(measure.Command(('false',)))", "false ended with 1:"),
    ],
)
def test_what_is_missing_or_fails_is_an_error(tmp_path, statement, message):
    record = (3).to_bytes(8, "little") + b"crc-" + b"abc" + b"crc-"
    (tmp_path / "examples-00000-of-00001.tfrecord").write_bytes(record)
    imports = "from pathlib import Path; from benchmarks import commands, measure; "
    failed = _python("-c", imports + statement.format(folder=tmp_path))
    assert failed.returncode == 1
    assert failed.stdout.count(message) == 1


def test_the_plot_shows_what_was_measured_last(tmp_path):
    results, picture = tmp_path / "results.jsonl", tmp_path / "growth.png"
    entries = [
        ("growth", "rows", {"10": 9.0, "100": 9.0}),
        ("csv", "3 rows", {"ratio": 2.0}),
        ("growth", "rows", {"10": 1.0, "100": 2.5}),
        ("growth", "columns", {"4": 1.5}),
    ]
    keys = ("benchmark", "work", "figures")
    lines = [json.dumps(dict(zip(keys, entry, strict=True))) for entry in entries]
    results.write_text("\n".join(lines) + "\n")
    code = "from pathlib import Path; from benchmarks import plot; print(plot.newest(Path({!r})))"
    shown = _python("-c", code.format(str(results)))
    assert shown.stdout.strip() == "{'rows': {10: 1.0, 100: 2.5}, 'columns': {4: 1.5}}"
    drawn = _python("-m", "benchmarks.plot", results, picture)
    assert (drawn.returncode, drawn.stdout) == (0, "")
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors()) > 10


def test_the_graph_grows_with_the_columns_and_by_little(base, done):
    entry = json.loads((base / "columns.jsonl").read_text())
    sizes = [entry["figures"][f"graph of {columns}, kB"] for columns in (4, 8, 16)]
    assert sizes == sorted(sizes)
    assert 10 < sizes[0] < sizes[-1] < sizes[0] + 10


def test_the_document_on_scale_holds_the_table_that_is_computed():
    printed = _python("-m", "benchmarks.scale")
    assert printed.returncode == 0
    assert printed.stdout in (ROOT / "docs" / "scale.md").read_text()
