"""The same input gives the same bytes, however it is cut, ordered and divided over workers."""

import pytest
from oracle import compare

from beam_jobs import config
from beam_jobs.run import run

PAIRS = [
    ("adult-made", "adult-made files and workers"),
    ("adult-made", "adult-made blocks"),
    ("adult-made", "adult-made cluster"),
    ("adult-made", "adult-made retried"),
    ("taxi-made", "taxi-made all"),
    ("cifar10-made", "cifar10-made workers"),
    ("cifar10-made", "cifar10-made cluster"),
    ("cifar10-made", "cifar10-made retried"),
    ("photos-made", "photos-made cluster"),
    ("photos-made", "photos-made retried"),
    ("adult-real", "adult-real all"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_shards_are_the_same_bytes(runs, one, other):
    first, second = runs[one], runs[other]
    assert (first.case.files, first.case.arguments()) != (
        second.case.files,
        second.case.arguments(),
    )
    written = compare.bytes_of_shards(first.folder, first.manifest)
    assert sum(num_examples > 0 for num_examples, *_ in written.values()) > 3
    assert written == compare.bytes_of_shards(second.folder, second.manifest)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_statistics_and_counts_are_the_same(runs, one, other):
    first, second = runs[one].manifest, runs[other].manifest
    names = ("read", "rejected", "features", "label", "splits")
    assert {name: first[name] for name in names} == {name: second[name] for name in names}


@pytest.mark.parametrize(
    ("one", "other"),
    [("adult-made", "adult-made files and workers"), ("adult-real", "adult-real all")],
)
def test_the_seven_files_hold_the_same_records_in_another_order(runs, one, other):
    whole = runs[one].case.files[0].read_bytes().rstrip() + b"\n"
    pieces = [path.read_bytes() for path in runs[other].case.files]
    assert len(pieces) == 7
    assert b"".join(pieces) != whole
    assert b"".join(sorted(pieces, key=whole.index)).rstrip() + b"\n" == whole


SMALL = """\
name = "small"
[source]
format = "csv"
paths = ["small.csv"]
[split]
fractions = { train = 0.8, test = 0.2 }
[features]
x = { dtype = "float32", transform = "scale_to_z_score" }
[output]
num_shards = 2
"""


def test_a_small_table_is_read_in_some_blocks_by_itself(tmp_path):
    rows = ["broken,1\n", *(f"{number},{'y' * 90}\n" for number in range(25_000)), "broken,2\n"]
    (tmp_path / "small.csv").write_text("x,y\n" + "".join(rows))
    (tmp_path / "small.toml").write_text(SMALL)
    spec = config.load_spec(str(tmp_path / "small.toml"))
    whole = run(spec, str(tmp_path / "whole"), block_mb=16)
    blocks = run(spec, str(tmp_path / "blocks"))
    assert whole == blocks and whole["read"] == len(rows)
    rejected = {name: [*(tmp_path / name / "rejected").iterdir()] for name in ("whole", "blocks")}
    assert [path.name for path in rejected["whole"]] == ["00000.jsonl"]
    assert sorted(path.name for path in rejected["blocks"]) == ["00000.jsonl", "00002.jsonl"]
