"""Later data through an earlier dataset's transform: `headrace run --transform-from`."""

import csv
import io
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from oracle import records
from oracle.command import headrace
from PIL import Image
from test_resume import run_until_it_fails

from beam_jobs.config import load_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run
from beam_jobs.verify import verify

TABLE = """\
name = "people"
[source]
format = "csv"
paths = ["{name}.csv"]
[split]
{split}
[[filter]]
name = "adult"
where = "age >= 18"
[features]
age     = {{ dtype = "float32", transform = "scale_to_z_score" }}
hours   = {{ dtype = "int64", transform = "bucketize", num_buckets = 4, missing = 40 }}
pay     = {{ dtype = "float32", missing = "mean", indicator = true }}
job     = {{ dtype = "string", transform = "compute_and_apply_vocabulary", num_oov_buckets = 3 }}
town    = {{ dtype = "string", transform = "compute_and_apply_vocabulary", missing = "token" }}
street  = {{ dtype = "string", transform = "hash_strings", hash_buckets = 9 }}
{label}
[output]
num_shards = 2
"""
LABEL = '[label]\ncolumn = "income"'
COLUMNS = ("age", "hours", "pay", "job", "town", "street", "income")
PARTS = "fractions = { train = 0.6, validation = 0.2, test = 0.2 }"
TEST = "fractions = { test = 1 }"


def people(num_rows: int) -> list[dict[str, str]]:
    rng = random.Random(5)
    return [
        {
            "age": str(rng.randint(16, 60)),
            "hours": str(rng.randint(10, 60)),
            "pay": f"{rng.uniform(1, 9):.2f}" if rng.random() < 0.8 else "",
            "job": rng.choice(["cook", "clerk", "nurse"]),
            "town": rng.choice(["Ulm", "Bonn"]),
            "street": f"street {rng.randint(0, 99)}",
            "income": rng.choice(["low", "high"]),
        }
        for _ in range(num_rows)
    ]


NEW_PEOPLE = [
    # Age above and below, but for the filter; hours below; a new job and a missing town.
    dict(zip(COLUMNS, ("75", "5", "4.0", "pilot", "", "street 1", "low"), strict=True)),
    dict(zip(COLUMNS, ("17", "5", "4.0", "pilot", "", "street 1", "low"), strict=True)),
    dict(zip(COLUMNS, ("30", "", "", "judge", "Ulm", "street 2", "high"), strict=True)),
    dict(zip(COLUMNS, ("31", "20", "99", "cook", "Rome", "street 3", "high"), strict=True)),
    dict(zip(COLUMNS, ("32", "20", "2", "cook", "Ulm", "street 3", "fair"), strict=True)),
]


def write_table(folder: Path, name: str, rows, split=PARTS, label=LABEL, columns=COLUMNS) -> str:
    """Writes a table and its spec, whose path comes back."""
    with open(folder / f"{name}.csv", "w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    spec = folder / f"{name}.toml"
    spec.write_text(TABLE.format(name=name, split=split, label=label))
    return str(spec)


def later(spec: str, earlier, out, **options) -> dict:
    """Runs a spec with an earlier dataset's transform."""
    return run(load_spec(spec, learns=False), str(out), transform_from=str(earlier), **options)


def stored(folder: Path) -> list[bytes]:
    """All records of a dataset, sorted."""
    manifest = json.loads((folder / "dataset_info.json").read_text())
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    return sorted(r for s in shards for r in records.frames(records.stream(folder / s["file"])))


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A finished dataset, and the folder with its spec."""
    home = tmp_path_factory.mktemp("before")
    run(load_spec(write_table(home, "before", people(400))), str(home / "out"))
    return home


@pytest.fixture(scope="module")
def after(before):
    """The same people and new ones through the transform of `before`: folder and manifest."""
    spec = write_table(before, "after", people(400) + NEW_PEOPLE, TEST)
    return before / "after", later(spec, before / "out", before / "after")


def test_a_record_that_is_in_both_is_the_same_bytes(before, after):
    known, found = Counter(stored(before / "out")), Counter(stored(after[0]))
    assert sum(known.values()) > 350
    assert known - found == Counter()
    assert sum((found - known).values()) == 3  # One is below 18, one has another label.
    assert after[1]["rejected"]["unknown_label"] == 1
    assert verify(str(after[0])) == []


def test_new_values_go_through_the_statistics_of_the_earlier_train(before, after):
    manifest = json.loads((before / "out/dataset_info.json").read_text())
    statistics = manifest["features"]["age"]["statistics"]
    new = list((Counter(stored(after[0])) - Counter(stored(before / "out"))).elements())
    examples = [tf.train.Example.FromString(record).features.feature for record in new]
    by_label = {e["job"].int64_list.value[0]: e for e in examples}
    oov = {job: 3 + int(tf.strings.to_hash_bucket_fast(job, 3)) for job in ("pilot", "judge")}
    pilot, judge = by_label[oov["pilot"]], by_label[oov["judge"]]
    for example, age in ((pilot, 75), (judge, 30)):
        wanted = np.float32((age - statistics["mean"]) / statistics["std"])
        assert example["age"].float_list.value[0] == wanted
    assert pilot["hours"].int64_list.value[0] == 0
    assert judge["pay"].float_list.value[0] == np.float32(
        manifest["features"]["pay"]["missing_value"]
    )
    assert judge["pay_missing"].int64_list.value[0] == 1


def test_what_train_has_never_seen_is_counted(before, after):
    folder, manifest = after
    earlier = json.loads((before / "out/dataset_info.json").read_text())
    kept = [row for row in people(400) + NEW_PEOPLE if int(row["age"]) >= 18]
    kept = [row for row in kept if row["income"] != "fair"]

    def outside(name: str) -> int:
        seen = earlier["features"][name]["raw_statistics"]
        values = [np.float32(row[name]) for row in kept if row[name]]
        return sum(not seen["min"] <= value <= seen["max"] for value in values)

    features = manifest["features"]
    assert [outside(name) for name in ("age", "hours", "pay")] >= [1, 1, 1]
    for name in ("age", "hours", "pay"):
        assert features[name]["out_of_range"] == {"test": outside(name)}
    assert features["job"]["out_of_vocabulary"] == {"test": 2}
    # No town is missing in the earlier data, so that [MISSING] is no word of it.
    assert features["town"]["out_of_vocabulary"] == {"test": 2}
    assert not {"out_of_range", "out_of_vocabulary"} & features["street"].keys()
    for name, entry in earlier["features"].items():
        assert entry == {key: features[name][key] for key in entry}
    assert manifest["label"] == earlier["label"]


def test_the_manifest_says_whose_transform_it_is(before, after):
    earlier = json.loads((before / "out/dataset_info.json").read_text())
    said = after[1]["transform_from"]
    assert (said["name"], said["spec_digest"]) == ("people", earlier["spec_digest"])
    assert said["versions"] == earlier["versions"]
    for folder in ("transform_fn", "transformed_metadata"):
        files = {
            path.relative_to(base): path.read_bytes()
            for base in (before / "out", after[0])
            for path in (base / folder).rglob("*")
            if path.is_file()
        }
        for name, data in files.items():
            assert (before / "out" / name).read_bytes() == data


def test_raw_statistics_are_those_of_the_later_data(after):
    from tensorflow_metadata.proto.v0 import statistics_pb2

    data = (after[0] / "statistics.pb").read_bytes()
    (dataset,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(data).datasets
    (age,) = [f for f in dataset.features if f.path.step[0] == "age"]
    assert (dataset.name, age.num_stats.max) == ("test", 75.0)


def test_an_engine_without_a_shared_disk_writes_the_same(before, after, tmp_path):
    spec = str(before / "after.toml")
    info = later(spec, before / "out", tmp_path / "out", runner="FnApiRunner", block_mb=0.005)
    assert info["splits"] == after[1]["splits"] and info["features"] == after[1]["features"]


def test_a_later_dataset_can_be_the_earlier_one(before, after, tmp_path):
    info = later(str(before / "after.toml"), after[0], tmp_path / "out")
    assert info == after[1]


def test_an_earlier_dataset_that_is_made_again_is_the_same(before, after, tmp_path):
    again = tmp_path / "again"
    run(load_spec(str(before / "before.toml")), str(again))
    made = {path: path.stat().st_mtime_ns for path in after[0].iterdir()}
    assert later(str(before / "after.toml"), again, after[0]) == after[1]
    assert made == {path: path.stat().st_mtime_ns for path in after[0].iterdir()}


def test_the_job_is_described_and_nothing_written(before, tmp_path):
    words = ("run", before / "after.toml", "--output", tmp_path / "new", "--dry-run")
    done = headrace(*words, "--transform-from", before / "out")
    assert done.returncode == 0 and "AnalyzeRecords" in done.stdout, done.stdout
    assert not (tmp_path / "new").exists()


def test_without_a_label_there_is_none(before, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "income"} for row in people(50)]
    spec = write_table(tmp_path, "bare", rows, "fractions = { train = 1 }", "", COLUMNS[:-1])
    info = later(spec, before / "out", tmp_path / "out")
    assert "label" not in info and list(info["splits"]) == ["train"]
    assert verify(str(tmp_path / "out")) == []
    labeled = write_table(tmp_path, "labeled", people(50), "fractions = { train = 1 }")
    later(labeled, before / "out", tmp_path / "labeled")

    def bare(record: bytes) -> bytes:
        example = tf.train.Example.FromString(record)
        del example.features.feature["label"]
        return example.SerializeToString(deterministic=True)

    found = [tf.train.Example.FromString(r) for r in stored(tmp_path / "out")]
    assert sorted(e.SerializeToString(deterministic=True) for e in found) == sorted(
        map(bare, stored(tmp_path / "labeled"))
    )


def test_a_killed_job_goes_on_unless_the_transform_is_another(before, tmp_path):
    other = tmp_path / "other"
    run(load_spec(write_table(tmp_path, "other", people(90))), str(other))
    spec = load_spec(str(before / "after.toml"), learns=False)
    out = tmp_path / "out"
    (out / ".progress").mkdir(parents=True)
    run_until_it_fails(spec, out, transform_from=str(before / "out"))
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    assert len(made) == 2
    run(spec, str(out), transform_from=str(before / "out"))
    assert made == {path: path.stat().st_mtime_ns for path in made}
    with pytest.raises(SpecError, match="made of another transform"):
        run(spec, str(out), transform_from=str(other))
    (out / "dataset_info.json").unlink()
    (out / ".progress").mkdir()
    run_until_it_fails(spec, out, transform_from=str(before / "out"), overwrite=True)
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    run(spec, str(out), transform_from=str(other))
    assert not set(made.values()) & {path.stat().st_mtime_ns for path in made}


TEXT = """\
name = "reviews"
[source]
format = "csv"
paths = ["{name}.csv"]
[split]
{split}
[features.ids]
type = "text"
column = "review"
output_sequence_length = 6
[features.bag]
type = "text"
column = "review"
output_mode = "tf_idf"
max_tokens = 9
[features.pairs]
type = "text"
column = "review"
ngrams = 2
output_mode = "multi_hot"
[features.letters]
type = "text"
column = "title"
split = "character"
missing = "none"
output_mode = "count"
[output]
num_shards = 3
"""


def write_texts(folder: Path, name: str, rows, split: str) -> str:
    with open(folder / f"{name}.csv", "w", newline="") as file:
        csv.writer(file).writerows([("review", "title"), *rows])
    (folder / f"{name}.toml").write_text(TEXT.format(name=name, split=split))
    return str(folder / f"{name}.toml")


def test_texts_get_the_vocabularies_of_the_earlier_train(tmp_path):
    rng = random.Random(2)
    words = "good bad fine dull plot film actor the a it's café".split()
    known = [(" ".join(rng.choices(words, k=rng.randint(1, 9))), "abc"[: i % 4]) for i in range(80)]
    new = [("a brand new FILM!", "xyz"), ("new", "a b")]
    run(load_spec(write_texts(tmp_path, "before", known, PARTS)), str(tmp_path / "out"))
    spec = write_texts(tmp_path, "after", known + new, TEST)
    info = later(spec, tmp_path / "out", tmp_path / "after")
    old, found = Counter(stored(tmp_path / "out")), Counter(stored(tmp_path / "after"))
    assert old - found == Counter() and sum((found - old).values()) == len(new)
    assert verify(str(tmp_path / "after")) == []
    vocabularies = sorted(path.name for path in (tmp_path / "out").glob("vocabulary-*.json"))
    assert len(vocabularies) == 4
    for name in vocabularies:
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    broken = shutil.copytree(tmp_path / "out", tmp_path / "broken")
    (broken / "vocabulary-bag.json").unlink()
    with pytest.raises(SpecError, match="broken: vocabulary-bag.json is missing. Make the"):
        later(spec, broken, tmp_path / "new")

    def unknown(name: str, tokens: list[str]) -> int:
        said = json.loads((tmp_path / "out" / f"vocabulary-{name}.json").read_text())
        return sum(token not in said["vocabulary"] for token in tokens)

    clean = [row[0].lower().translate({ord(c): None for c in "!'"}).split() for row in known + new]
    flat = [word for row in clean for word in row]
    pairs = [f"{one} {two}" for row in clean for one, two in zip(row, row[1:], strict=False)]
    letters = [letter for _, title in known + new for letter in title or "none"]
    wanted = {
        "ids": unknown("ids", flat),
        "bag": unknown("bag", flat),
        "pairs": unknown("pairs", pairs + flat),
        "letters": unknown("letters", letters),
    }
    assert min(wanted.values()) > 2
    features = info["features"]
    assert {name: features[name]["out_of_vocabulary"]["test"] for name in wanted} == wanted


PICTURES = """\
name = "pictures"
[source]
format = "images"
paths = ["{name}"]
[split]
{split}
[features.image]
{options}
[label]
from = "directory"
[output]
num_shards = 2
"""
OPTIONS = {
    "uint8": "size = [8, 6]\nfeaturewise_center = true",
    "jpeg": 'store = "jpeg"',
    "center": 'size = [8, 6]\nstore = "float32"\nfeaturewise_center = true',
    "crop and size": 'size = [4, 4]\ncrop_size = [8, 8]\nstore = "float32"\n'
    "featurewise_center = true\nfeaturewise_std_normalization = true",
    "per pixel": 'size = [8, 6]\nstore = "float32"\nstatistics = "pixel"\n'
    "featurewise_center = true\nfeaturewise_std_normalization = true\nrescale = 0.1",
    "zca": 'size = [4, 4]\nstore = "bfloat16"\nfeaturewise_center = true\nzca_whitening = true',
    "zca per pixel": 'size = [4, 4]\nstore = "float32"\nfeaturewise_center = true\n'
    'zca_whitening = true\nstatistics = "pixel"\nzca_epsilon = 0.1\n'
    'data_format = "channels_first"',
    "samplewise": 'size = [8, 6]\nstore = "float32"\nsamplewise_center = true',
}


def write_pictures(folder: Path, name: str, numbers, split: str, options: str) -> str:
    for number in numbers:
        rng = np.random.default_rng(number)
        side = 9 + number % 3
        pixels = rng.integers(0, 40 + 5 * number, (side, 10, 3), np.uint8)
        path = folder / name / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / f"{name}.toml").write_text(PICTURES.format(name=name, split=split, options=options))
    return str(folder / f"{name}.toml")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_images_get_the_statistics_of_the_earlier_train(options, tmp_path):
    spec = write_pictures(tmp_path, "before", range(30), PARTS, options)
    earlier = run(load_spec(spec), str(tmp_path / "out"))
    spec = write_pictures(tmp_path, "after", range(36), TEST, options)
    (tmp_path / "after/a/broken.png").write_bytes((tmp_path / "after/a/0.png").read_bytes()[:60])
    (tmp_path / "after/c").mkdir()
    shutil.copy(tmp_path / "after/a/0.png", tmp_path / "after/c/0.png")
    info = later(spec, tmp_path / "out", tmp_path / "later")
    assert info["rejected"] == {"undecodable_image": 1, "unknown_label": 1}
    old, found = Counter(stored(tmp_path / "out")), Counter(stored(tmp_path / "later"))
    assert sum(old.values()) == 30
    assert old - found == Counter() and sum((found - old).values()) == 6
    assert info["features"] == earlier["features"]
    assert verify(str(tmp_path / "later")) == []
    again = later(spec, tmp_path / "out", tmp_path / "cluster", runner="FnApiRunner")
    assert again["splits"] == info["splits"]


def test_an_array_of_statistics_beside_the_manifest_goes_along(tmp_path):
    options = 'size = [40, 40]\nstatistics = "pixel"\nfeaturewise_center = true'
    spec = write_pictures(tmp_path, "before", range(8), "fractions = { train = 1 }", options)
    run(load_spec(spec), str(tmp_path / "out"))
    arrays = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("statistics-*.npy")}
    assert arrays
    spec = write_pictures(tmp_path, "after", range(3), TEST, options)
    later(spec, tmp_path / "out", tmp_path / "later")
    assert verify(str(tmp_path / "later")) == []
    for name, data in arrays.items():
        assert (tmp_path / "later" / name).read_bytes() == data


PAIRS = """\
name = "pairs"
[source]
format = "parquet"
paths = ["{name}.parquet"]
[split]
{split}
[features.left]
type = "image"
size = [5, 5]
store = "float32"
featurewise_center = true
[features.right]
type = "image"
size = [4, 4]
store = "float32"
statistics = "pixel"
featurewise_center = true
[features.mask]
type = "mask"
of = "left"
[label]
column = "kind"
"""


def test_several_images_of_a_table(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def png(number: int, shape) -> bytes:
        data = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 200, shape, np.uint8)
        Image.fromarray(pixels).save(data, "PNG")
        return data.getvalue()

    def write(name: str, count: int, split: str) -> str:
        numbers = range(count)
        table = {
            "left": [png(n, (6, 7, 3)) for n in numbers],
            "right": [png(n + 500, (5, 4, 3)) for n in numbers],
            "mask": [png(n + 900, (6, 7)) for n in numbers],
            "kind": ["ab"[n % 2] for n in numbers],
        }
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}.toml").write_text(PAIRS.format(name=name, split=split))
        return str(tmp_path / f"{name}.toml")

    run(load_spec(write("before", 20, PARTS)), str(tmp_path / "out"))
    later(write("after", 25, TEST), tmp_path / "out", tmp_path / "later")
    old, found = Counter(stored(tmp_path / "out")), Counter(stored(tmp_path / "later"))
    assert sum(old.values()) == 20 and old - found == Counter()
    assert sum(found.values()) == 25
    assert verify(str(tmp_path / "later")) == []


MISTAKES = {
    "feature left out": (
        lambda spec: spec.replace("town    =", "#"),
        "features.town is there, but not in the spec. Give the same features",
    ),
    "feature added": (
        lambda spec: spec.replace("[label]", '[features.new]\ndtype = "string"\n[label]'),
        "features.new is in the spec, but not there. Give the same features",
    ),
    "another transform": (
        lambda spec: spec.replace("scale_to_z_score", "center"),
        "features.age.transform is 'scale_to_z_score' there, but 'center' in the spec.",
    ),
    "another column": (
        lambda spec: spec.replace("town    = {", 'town    = { column = "street",'),
        "features.town.column is 'town' there, but 'street' in the spec.",
    ),
    "another dtype": (
        lambda spec: spec.replace('{ dtype = "float32", m', '{ dtype = "int64", m').replace(
            '"mean", indicator = true', "0"
        ),
        "features.pay.dtype is 'float32' there, but 'int64' in the spec.",
    ),
    "another label": (
        lambda spec: spec.replace("[label]", '[label]\ntype = "int64"'),
        "label.type is 'class' there, but 'int64' in the spec. Give the same, or leave",
    ),
}


@pytest.mark.parametrize("change, message", MISTAKES.values(), ids=MISTAKES)
def test_another_spec_of_the_features_is_told_in_a_line(change, message, before, tmp_path):
    path = Path(write_table(tmp_path, "after", people(5), TEST))
    path.write_text(change(path.read_text()))
    with pytest.raises(SpecError) as told:
        later(str(path), before / "out", tmp_path / "new")
    assert message in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "new").exists()


def test_a_missing_column_is_told_in_a_line(before, tmp_path):
    columns = [column for column in COLUMNS if column != "town"]
    spec = write_table(tmp_path, "after", people(5), TEST, columns=columns)
    done = headrace("run", spec, "--output", tmp_path / "new", "--transform-from", before / "out")
    assert done.returncode == 2
    columns = "age, hours, pay, job, street, income"
    assert done.stdout == (
        f"headrace: features.town: there is no column 'town'. The columns are {columns}.\n"
    )


def test_a_missing_label_is_no_unlabeled_data(before, tmp_path):
    spec = write_table(tmp_path, "after", people(5), TEST, columns=COLUMNS[:-1])
    with pytest.raises(SpecError, match="label.column: there is no column 'income'"):
        later(spec, before / "out", tmp_path / "new")


def test_what_is_no_dataset_is_told_in_a_line(before, tmp_path):
    spec = write_table(tmp_path, "after", people(5), TEST)
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        with pytest.raises(SpecError, match=f"{folder}: is no dataset: it holds no dataset_info"):
            later(spec, tmp_path / folder, tmp_path / "new")
    with pytest.raises(SpecError, match="'.*out' is the output folder, too. Give another"):
        later(spec, before / "out", before / "./out/")
    newer = shutil.copytree(before / "out", tmp_path / "newer")
    manifest = json.loads((newer / "dataset_info.json").read_text())
    (newer / "dataset_info.json").write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(DataError, match="format_version must be 1, but is 2"):
        later(spec, newer, tmp_path / "new")
    (newer / "dataset_info.json").write_text(json.dumps(manifest))
    (newer / "transform_fn/saved_model.pb").write_bytes(b"no graph")
    cannot = "newer: its transform_fn cannot be loaded: .*. Make the dataset again.$"
    with pytest.raises(SpecError, match=cannot):
        later(spec, newer, tmp_path / "new")
    shutil.rmtree(newer / "transform_fn")
    with pytest.raises(SpecError, match=cannot):
        later(spec, newer, tmp_path / "new")


def test_other_labels_than_classes_leave_nothing(before, tmp_path):
    rows = [{**row, "income": row["income"].upper()} for row in people(5)]
    spec = write_table(tmp_path, "after", rows, TEST)
    with pytest.raises(DataError, match=r"no record is left in any split: .*unknown_label"):
        later(spec, before / "out", tmp_path / "new")


def test_the_command_says_what_is_unseen_and_other_versions(before, tmp_path):
    old = shutil.copytree(before / "out", tmp_path / "old")
    manifest = json.loads((old / "dataset_info.json").read_text())
    manifest["versions"]["tensorflow"] = "2.20.0"
    (old / "dataset_info.json").write_text(json.dumps(manifest))
    spec = write_table(tmp_path, "after", NEW_PEOPLE, TEST)
    done = headrace("run", spec, "--output", tmp_path / "new", "--transform-from", old)
    assert done.returncode == 0, done.stdout
    assert "  transform of people\n" in done.stdout
    assert "  unseen    out of range: age 1, hours 1, pay 1\n" in done.stdout
    assert "  unseen    out of vocabulary: job 2, town 2\n" in done.stdout
    assert "  note      the transform was made with tensorflow 2.20.0 (here 2.2" in done.stdout


def test_a_model_of_the_earlier_data_is_evaluated_on_the_later(before, after, tmp_path):
    model = tmp_path / "model"
    done = headrace("train", before / "out", "--output", model, "--epochs", "1", "--quiet")
    assert done.returncode == 0, done.stdout
    done = headrace("evaluate", model, after[0])
    assert done.returncode == 0 and "note" not in done.stdout, done.stdout
    num_examples = after[1]["splits"]["test"]["num_examples"]
    assert f"{num_examples}" in done.stdout.replace(",", "")
