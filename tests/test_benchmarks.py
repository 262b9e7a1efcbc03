"""The benchmarks, in small: they count and verify. What they measure here means nothing."""

import collections
import concurrent.futures
import csv
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from oracle.command import LIMIT_SECONDS, ROOT
from PIL import Image

# Of each module one measurement: together they run both peers, and the product on both formats.
RECORDS = {
    ("csv", "no_repeats"): {"headrace": 400, "canonical_csv": 400},
    ("images", "cifar"): {"headrace": 16, "canonical_images": 16},
    ("encoded", "cifar"): {"headrace": 16, "imports": 0, "loop": 16, "map": 16},
    ("paths", "plan"): {"plan": 2_500},
    ("text", "tf_idf"): {"headrace": 200, "canonical_text": 200},
    ("criteo", "beside_canonical"): {"headrace": 1_000, "canonical_criteo": 1_000},
    ("criteo", "memory"): {
        f"{num_rows:,} rows, 0.00 GB": num_rows for num_rows in (1_250, 2_500, 5_000)
    },
    ("rates", "clicks"): {"1,000": 1_000, "4,000": 4_000},
    ("columns", "numbers"): {
        **{"4 columns": 100, "8 columns": 100, "16 columns": 100},
        **{"graph of 4": 0, "graph of 8": 0, "graph of 16": 0},
    },
}
READ = ("loader", "warm")
LOADERS = ("loader", "jpeg", "table")
AUGMENTED = ("augmentation", "small")


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


def _folder(base, module, *names) -> Path:
    return base / "-".join((module, *names))


def _entries(base, *case) -> list[dict]:
    lines = (_folder(base, *case) / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _quick(base, module, *names) -> subprocess.CompletedProcess:
    folder = _folder(base, module, *names)
    folders = ["--work", folder, "--output", folder / "results.jsonl"]
    return _python("-m", f"benchmarks.{module}", "--quick", "--only", *names, *folders)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def done(base):
    """What the commands printed; some side by side, for most of each is imports on one core."""
    cases = [*RECORDS, READ, LOADERS, AUGMENTED]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {case: pool.submit(_quick, base, *case) for case in cases}
        return {case: future.result() for case, future in started.items()}


@pytest.mark.parametrize("case", RECORDS)
def test_every_side_wrote_all_its_records_and_verify_finds_nothing(base, done, case):
    assert done[case].returncode == 0, done[case].stdout
    (entry,) = _entries(base, *case)
    assert entry["benchmark"] == case[0]
    sides = entry["sides"]
    assert {name: side["num_records"] for name, side in sides.items()} == RECORDS[case]
    for name, side in sides.items():
        (run,) = side["runs"]
        assert min(run["wall_seconds"], run["cpu_seconds"], run["peak_bytes"]) > 0
        assert re.search(rf"^  {name} .*\d$", done[case].stdout, re.MULTILINE)


def _num_train(base, case, dataset) -> int:
    manifest = _folder(base, *case) / "quick" / dataset / "dataset_info.json"
    return json.loads(manifest.read_text())["splits"]["train"]["num_examples"]


def _counts(entry) -> dict[str, int]:
    """Returns how many examples each loader counted in a pass."""
    pattern = r": (\d+) examples, \d+ passes, [\d.]+ examples/s$"
    return {
        name: int(re.search(pattern, run["printed"])[1])
        for name, side in entry["sides"].items()
        for run in side["runs"]
    }


def test_every_loader_reads_all_images_of_train_and_prints_its_rate(base, done):
    assert done[READ].returncode == 0, done[READ].stdout
    (entry,) = _entries(base, *READ)
    everything = _num_train(base, READ, "photos-96-224-uint8-headrace")
    assert 64 < everything < 96
    assert _counts(entry) == {
        "read": everything,
        "tfrecord": everything,
        "uint8": 64,  # A training pass leaves out what does not fill a batch.
        "normalized": 64,
        "normalized_in_map": 64,
    }
    figures = entry["figures"]
    assert figures["normalized of the plain read"] == pytest.approx(
        figures["normalized images/s"] / figures["read images/s"]
    )


def test_all_that_augment_go_through_train(base, done):
    assert done[AUGMENTED].returncode == 0, done[AUGMENTED].stdout
    (entry,) = _entries(base, *AUGMENTED)
    assert _counts(entry) == dict.fromkeys(("headrace", "plain", "layers", "generator"), 64)


def _installed(num_examples, batch_size) -> dict[str, int]:
    """Returns what the peers count that may not be installed; grain gives full batches only."""
    counts = {}
    if importlib.util.find_spec("grain") and importlib.util.find_spec("array_record"):
        counts["grain"] = num_examples // batch_size * batch_size
    if importlib.util.find_spec("webdataset") and importlib.util.find_spec("torch"):
        counts["webdataset"] = num_examples
    return counts


def test_the_loaders_of_others_read_the_same_examples_and_stand_in_one_table(base, done):
    assert done[LOADERS].returncode == 0, done[LOADERS].stdout
    jpeg, table = _entries(base, *LOADERS)
    files = dict.fromkeys(["directory", "generator", "pydataset"], 96)
    assert _counts(jpeg) == {"headrace": 64, **files, **_installed(96, 64)}
    rows = _num_train(base, LOADERS, "adult-2000-headrace")
    assert 1_024 < rows < 2_000
    read = {"csv": rows, "pydataset": rows, **_installed(rows, 1_024)}
    assert _counts(table) == {"headrace": 1_024, **read}
    lines = done[LOADERS].stdout.splitlines()[-2 - len(counts := _counts(jpeg) | _counts(table)) :]
    assert lines[:2] == ["| examples/s | jpeg | table |", "|---|---|---|"]
    cells = {line.split(" | ")[0]: line.strip("|").split(" | ")[1:] for line in lines[2:]}
    assert len(cells) == len(counts)
    rate = {name: round(table["figures"][f"{name} examples/s"]) for name in ("headrace", "csv")}
    assert cells["| `trainer.input_pipeline.load`"][1].strip() == f"{rate['headrace']:,}"
    times = table["figures"]["headrace examples/s"] / table["figures"]["csv examples/s"]
    assert cells["| `make_csv_dataset`"][1].strip() == f"{rate['csv']:,} ({times:.1f}x)"


def test_no_value_of_the_two_more_columns_repeats(base, done):
    folder = _folder(base, "csv", "no_repeats") / "quick"
    rows = (folder / "data" / "adult" / "adult-train.csv").read_text().split("\n")[:200]
    made = (folder / "adult-400-unique.csv").read_text().splitlines()
    cut = [line.rsplit(", ", 2) for line in made]
    assert [row for row, *_ in cut] == rows * 2
    for column in (1, 2):
        assert len({values[column] for values in cut}) == 400


def _clicks(path, num_rows) -> list[dict[str, str]]:
    code = "from benchmarks import inputs; from pathlib import Path; inputs.clicks(Path({!r}), {})"
    made = _python("-c", code.format(str(path), num_rows))
    assert made.returncode == 0, made.stdout
    with open(path / f"clicks-{num_rows}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_clicks_are_as_their_rule_says_and_the_same_every_time(tmp_path):
    rows = _clicks(tmp_path, 100_500)
    assert _clicks(tmp_path, 300) == rows[:300]
    assert len(rows) == 100_500
    assert [*rows[0]] == ["label", *(f"i{k}" for k in range(13)), *(f"c{k}" for k in range(26))]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    missing = {name: values.count("") / len(rows) for name, values in columns.items()}
    there = {name: [v for v in values if v] for name, values in columns.items()}
    assert there["label"].count("1") == pytest.approx(len(rows) / 4, rel=0.03)
    assert missing["label"] == missing["i1"] == missing["c0"] == 0
    assert missing["i0"] == pytest.approx(0.45, abs=0.01)
    assert missing["c21"] == pytest.approx(0.76, abs=0.01)
    counts = [int(value) for value in there["i4"]]
    assert statistics.median(counts) == pytest.approx(2_800, rel=0.03)
    logs = [math.log(value + 0.5) for value in counts]
    assert statistics.pstdev(logs) == pytest.approx(1.5, rel=0.01)
    assert min(map(int, there["i1"])) == -3
    assert all(re.fullmatch("[0-9a-f]{8}", text) for text in there["c2"])
    assert (len({*there["c8"]}), len({*there["c5"]})) == (3, 24)
    assert 30_000 < len({*there["c2"]}) < 60_000
    (_, first), (_, second), *_ = collections.Counter(there["c9"]).most_common()
    # The shares of ranks 1 and 2: log(2) and log(3 / 2) of log(93,146).
    assert first / len(there["c9"]) == pytest.approx(math.log(2) / math.log(93_146), rel=0.03)
    assert second / first == pytest.approx(math.log(1.5) / math.log(2), rel=0.05)


def test_the_limit_counts_every_image(base, done):
    pattern = _folder(base, "images", "cifar") / "quick" / "cifar10-x2" / "*" / "*"
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
    (entry,) = _entries(base, "columns", "numbers")
    sizes = [entry["figures"][f"graph of {columns}, kB"] for columns in (4, 8, 16)]
    assert sizes == sorted(sizes)
    assert 10 < sizes[0] < sizes[-1] < sizes[0] + 10


def test_the_document_on_scale_holds_the_table_that_is_computed():
    printed = _python("-m", "benchmarks.scale")
    assert printed.returncode == 0
    assert printed.stdout in (ROOT / "docs" / "scale.md").read_text()
