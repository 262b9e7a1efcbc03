"""Statistics come from train alone: what stands in a test row changes no byte of train."""

import json

import pytest
from oracle import compare, expected, made, specs
from oracle.command import headrace

COLUMNS = ("id", "amount", "kind")
SPEC = """\
name = "ids"

[source]
format = "csv"
paths = @PATHS@
header = true

[split]
key = "id"
fractions = { train = 0.6, validation = 0.2, test = 0.2 }

[features]
amount = { dtype = "float32", transform = "scale_to_z_score" }
share  = { column = "amount", dtype = "float32", transform = "scale_to_0_1" }
bucket = { column = "amount", dtype = "float32", transform = "bucketize", num_buckets = 4 }
kind   = { dtype = "string", transform = "compute_and_apply_vocabulary" }

[label]
column = "kind"
type = "class"

[output]
num_shards = 2
compression = "none"
"""


def _rows() -> list[dict[str, str]]:
    return [
        {"id": f"r{i:04d}", "amount": str(i * 37 % 101), "kind": "abc"[i * i % 3]}
        for i in range(600)
    ]


def _run(folder, rows):
    """Runs the job over the rows: its folder, its manifest and what it must hold."""
    folder.mkdir()
    table, spec = folder / "rows.csv", folder / "spec.toml"
    lines = [made.line(COLUMNS), *(made.line(list(row.values())) for row in rows)]
    table.write_bytes(b"".join(lines))
    spec.write_text(specs.with_paths(SPEC, [table]))
    done = headrace("run", spec, "--output", folder / "out", "--quiet")
    assert done.returncode == 0, done.stdout
    manifest = json.loads((folder / "out/dataset_info.json").read_text())
    return folder / "out", manifest, expected.of_table(spec.read_text(), [table])


@pytest.fixture(scope="module")
def before_and_after(tmp_path_factory):
    """The same rows twice; the second time one of test has another amount and another kind."""
    base, rows = tmp_path_factory.mktemp("train_only"), _rows()
    before = _run(base / "before", rows)
    test_ids = [r.text["id"] for r in before[2].records if r.split == "test"]
    changed = next(row for row in rows if row["id"] == test_ids[5])
    changed["amount"] = "1e6"
    changed["kind"] = "a" if changed["kind"] != "a" else "b"
    return before, _run(base / "after", rows)


def test_the_change_stands_in_test_alone(before_and_after):
    (_, _, before), (_, _, after) = before_and_after
    one, other = ({tuple(r.text.values()): r.split for r in e.records} for e in (before, after))
    assert {one[row] for row in one.keys() - other.keys()} == {"test"}
    assert {other[row] for row in other.keys() - one.keys()} == {"test"}
    assert min(sum(r.split == s for r in before.records) for s in before.splits()) > 80


def test_no_byte_of_train_or_validation_and_no_statistic_changes(before_and_after):
    (folder, manifest, _), (other_folder, other, _) = before_and_after
    one = compare.bytes_of_shards(folder, manifest)
    two = compare.bytes_of_shards(other_folder, other)
    assert {name for name in one if one[name] != two[name]} <= {n for n in one if n[:4] == "test"}
    assert any(one[name] != two[name] for name in one)
    assert manifest["features"] == other["features"]


def test_every_value_is_that_of_train_statistics(before_and_after):
    for folder, manifest, wanted in before_and_after:
        assert compare.values(folder, manifest, wanted) == []
        assert compare.features(manifest, wanted) == []
