"""Bad input of each transform and feature: the line and the exit status that the command ends with.

What else may be wrong with a file or a row stands in test_bad_input.py.
"""

import json
from itertools import cycle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import config_steps
from headrace import cli

NUM_ROWS = 40
LETTERS = "ab" * (NUM_ROWS // 2)
NOTHING = [""] * NUM_ROWS
OPTIONS = {  # What each transform that has them needs.
    "clip": "clip_min = 1",
    "bucketize": "num_buckets = 3",
    "apply_buckets": "boundaries = [1, 3]",
    "apply_buckets_with_interpolation": "boundaries = [1, 3]",
    "scale_to_z_score_per_key": 'key = "k"',
    "scale_to_0_1_per_key": 'key = "k"',
    "scale_by_min_max_per_key": 'key = "k"',
    "bucketize_per_key": 'key = "k"\nnum_buckets = 3',
    "hash_strings": "hash_buckets = 5",
}
OF_TEXTS = ("compute_and_apply_vocabulary", "hash_strings")
OF_NUMBERS = tuple(name for name in config_steps.STEPS if name not in OF_TEXTS)
NONE_LEFT = f"no record is left in train: {NUM_ROWS} were read, and {NUM_ROWS} rejected"
FILL = "Fill the column, set missing to a constant, or leave out what needs it."
MEND = "Mend the input, or what the spec says of it."


def step(name: str, dtype: str, missing: str = "reject") -> str:
    return (
        f'dtype = "{dtype}"\ntransform = "{name}"\nmissing = {missing!r}\n{OPTIONS.get(name, "")}'
    )


@pytest.fixture(name="command")
def fixture_command(tmp_path, capsys):
    """Runs a feature `x` over cells of that name, and returns exit status and lines."""

    def command(feature: str, cells: list | None = None, more: str = "", max_rejected: float = 1):
        if cells is not None:
            records = [{"x": x, "k": k} for x, k in zip(cells, LETTERS, strict=True)]
            table = pa.Table.from_pylist(records)
            pq.write_table(table, tmp_path / "data.parquet")
        (tmp_path / "spec.toml").write_text(
            'name = "bad"\n[source]\nformat = "parquet"\npaths = ["*.parquet"]\n'
            "[split]\nfractions = { train = 1.0 }\n"
            f"[output]\nnum_shards = 1\nmax_rejected = {max_rejected}\n"
            f"[features.x]\n{feature}\n{more}\n"
        )
        status = cli.main(["run", str(tmp_path / "spec.toml"), "--output", str(tmp_path / "out")])
        if status == 2:
            assert not (tmp_path / "out").exists()
        assert (status == 0) == (tmp_path / "out" / "dataset_info.json").exists()
        out, err = capsys.readouterr()
        return status, (out + err).replace(f"{tmp_path}/", "")

    return command


def manifest(folder: Path) -> dict:
    return json.loads((folder / "out" / "dataset_info.json").read_text())


def test_every_transform_is_looked_at():
    assert {*OF_NUMBERS, *OF_TEXTS} == {*config_steps.STEPS} >= {*OPTIONS}
    assert len(OF_NUMBERS) == 19


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_transform_of_numbers_takes_no_string(command, name):
    assert command(step(name, "string"), ["1"] * NUM_ROWS) == (
        2,
        f"headrace: spec.toml: features.x: transform: {name} takes float32 or int64, but dtype is "
        "string.\n",
    )


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("name", OF_TEXTS)
def test_a_transform_of_texts_takes_no_number(command, name, dtype):
    assert command(step(name, dtype), ["1"] * NUM_ROWS) == (
        2,
        f"headrace: spec.toml: features.x: transform: {name} takes string, but dtype is {dtype}.\n",
    )


OTHERS = {
    "a dtype that is none": (
        'dtype = "float64"',
        "features.x.dtype: must be 'float32', 'int64' or 'string', but is 'float64'.",
    ),
    "an index of a number": (
        'dtype = "float32"\noutput_mode = "one_hot"',
        "features.x: output_mode = \"one_hot\" needs an index: transform = 'apply_buckets' or "
        "'bucketize' or 'bucketize_per_key' or 'compute_and_apply_vocabulary' or 'hash_strings'.",
    ),
    "a vector of texts": (
        'type = "vector"\nsize = 2\ndtype = "string"',
        "features.x.dtype: must be 'float32' or 'int64', but is 'string'.",
    ),
    "a step of a vector of whole numbers": (
        'type = "vector"\nsize = 2\ndtype = "int64"\ntransform = "center"',
        "features.x: transform and covariance take float32, but dtype is int64.",
    ),
    "a step that vectors have not": (
        'type = "vector"\nsize = 2\ntransform = "bucketize"',
        "features.x.transform: must be 'center', 'scale_to_z_score', 'scale_to_0_1' or 'pca', but "
        "is 'bucketize'.",
    ),
    "a step of a ragged vector": (
        'type = "vector"\ntransform = "pca"\noutput_dim = 1',
        "features.x: pca and covariance need size: the elements of a ragged one have none.",
    ),
    "a step of pairs": (
        'type = "sparse"\nsize = 3\ntransform = "center"',
        "features.x.transform: unknown key; known are type, column, size, zero_based, missing.",
    ),
    "a step of a date": (
        'type = "date"\nparts = ["year"]\ntransform = "center"',
        "features.x.transform: unknown key; known are type, column, missing, parts, cycles.",
    ),
    "a step of a text": (
        'type = "text"\noutput_mode = "count"\ntransform = "hash_strings"',
        "features.x.transform: unknown key; known are type, column, missing, replace, standardize, "
        "split, separator, tokenizer, model, ngrams, deduplicate, vocabulary, idf_weights, "
        "max_tokens, frequency_threshold, output_mode, output_sequence_length, truncate, "
        "pad_to_max_tokens.",
    ),
    "a cross of numbers": (
        'dtype = "float32"\n[features.k]\ndtype = "string"\n[features.both]\ntype = "cross"\n'
        'of = ["x", "k"]\nhash_buckets = 9',
        "features.both.of: crosses categories, but features.x gives numbers. Give it bucketize, "
        "another transform to int64, or none to a string.",
    ),
    "two dtypes of one column": (
        'dtype = "float32"\n[features.y]\ncolumn = "x"\ndtype = "int64"',
        "column 'x' is float32 for x and int64 for y: transform_fn takes it with one dtype.",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_wrong_dtype_of_another_feature_is_one_line(command, case):
    feature, message = OTHERS[case]
    status, line = command(feature, ["1"] * NUM_ROWS)
    assert (status, line) == (2, f"headrace: spec.toml: {message}\n")


# A feature, what its column holds, and the reason of each record.
OF_ANOTHER_KIND = {
    "float32": ('dtype = "float32"', ["apple"], "unparsable_x"),
    "float32, a list": ('dtype = "float32"', [[1.5]], "unparsable_x"),
    "float32, infinite": ('dtype = "float32"', [float("inf")], "non_finite_x"),
    "float32, bytes": ('dtype = "float32"', [b"\xff"], "bad_encoding"),
    "int64": ('dtype = "int64"', [1.5], "unparsable_x"),
    "int64, too large": ('dtype = "int64"', ["18446744073709551615"], "non_finite_x"),
    "date": ('type = "date"\nparts = ["year"]', ["apple"], "unparsable_x"),
    "vector": ('type = "vector"\nsize = 2', ["1,apple"], "unparsable_x"),
    "vector, another length": ('type = "vector"\nsize = 2', [[1.0, 2.0, 3.0]], "wrong_size_x"),
    "vector, one number": ('type = "vector"\nsize = 2', [1.0], "wrong_size_x"),
    "ragged vector": ('type = "vector"', ["apple"], "unparsable_x"),
    "sparse": ('type = "sparse"\nsize = 2', ["apple"], "unparsable_x"),
    "sparse, no element": ('type = "sparse"\nsize = 2', ["2:1"], "wrong_index_x"),
}


@pytest.mark.parametrize("case", OF_ANOTHER_KIND)
def test_a_column_of_another_kind_is_rejected_with_the_reason(command, case):
    feature, cells, reason = OF_ANOTHER_KIND[case]
    assert command(feature, cells * NUM_ROWS) == (
        1,
        f"headrace: {NONE_LEFT} ({reason} {NUM_ROWS}). {MEND}\n",
    )
    status, line = command(feature, cells * NUM_ROWS, max_rejected=0.01)
    assert (status, line.splitlines()[1].split()) == (1, [reason, str(NUM_ROWS)])
    assert f"{NUM_ROWS} of {NUM_ROWS} records cannot be read, more than [output] max_r" in line


@pytest.mark.parametrize("name", config_steps.STEPS)
def test_a_column_that_is_all_missing_leaves_no_record(command, name):
    dtype = "string" if name in OF_TEXTS else "float32"
    line = f"headrace: {NONE_LEFT} (missing_x {NUM_ROWS}). {FILL}\n"
    assert command(step(name, dtype), NOTHING) == (1, line)


@pytest.mark.parametrize("name, policy", zip(OF_NUMBERS, cycle(["mean", "median", "mode"])))
def test_a_column_that_is_all_missing_has_no_statistic(command, name, policy):
    assert command(step(name, "float32", policy), NOTHING) == (
        1,
        "headrace: features.x: train has no value of column 'x', so there is no statistic. Leave "
        "the feature out, or set missing to a constant.\n",
    )


NO_STATISTIC = (
    "features.x: train has no value of column 'x', so there is no statistic. Leave the feature "
    "out, or set missing to a constant."
)
ALL_MISSING = {
    "the mode of texts": (step(OF_TEXTS[0], "string", "mode"), NO_STATISTIC),
    "the mode of whole numbers": (step("bucketize", "int64", "mode"), NO_STATISTIC),
    "tokens": (
        'type = "text"\nmissing = ""\noutput_mode = "count"',
        "features.x: the vocabulary has no token: the texts of train hold none. Look at "
        "standardize and replace, which may leave nothing, or leave the feature out.",
    ),
    "principal components": (
        'type = "vector"\nsize = 2\nmissing = 1\ntransform = "pca"\noutput_dim = 1',
        "features.x: output_dim is 1, but the vectors of train differ in 0 directions. Leave out "
        "pca, since all of them are equal.",
    ),
    "a ragged vector": (
        'type = "vector"\nmissing = "empty"\ntransform = "center"',
        "features.x: train has no number in column 'x', so there is no statistic. Leave the "
        "feature or its transform out.",
    ),
}


@pytest.mark.parametrize("case", ALL_MISSING)
def test_nothing_can_be_learned_from_nothing(command, case):
    feature, message = ALL_MISSING[case]
    assert command(feature, NOTHING) == (1, f"headrace: {message}\n")


@pytest.mark.parametrize(
    "feature",
    [
        'dtype = "string"',
        'type = "text"\noutput_mode = "count"',
        'type = "date"\nparts = ["year"]',
        'type = "vector"\nsize = 2',
        'type = "vector"',
        'type = "sparse"\nsize = 2',
        'dtype = "string"\n[features.k]\ndtype = "string"\n[features.both]\ntype = "cross"\n'
        'of = ["x", "k"]\nhash_buckets = 9',
        'dtype = "float32"\ntransform = "bucketize"\nnum_buckets = 3\noutput_mode = "one_hot"',
    ],
)
def test_a_feature_that_is_all_missing_leaves_no_record(command, feature):
    line = f"headrace: {NONE_LEFT} (missing_x {NUM_ROWS}). {FILL}\n"
    assert command(feature, NOTHING) == (1, line)


def test_what_is_left_of_nothing(command, tmp_path):
    """Constants make datasets of a column that is all missing."""
    more = "".join(
        f'[features.{name}]\ncolumn = "x"\n{said}\n'
        for name, said in {
            "words": step(OF_TEXTS[0], "string", "token"),
            "hashed": step(OF_TEXTS[1], "string", "nothing"),
        }.items()
    )
    status, line = command('dtype = "string"\nmissing = "token"', NOTHING, more)
    assert (status, line.splitlines()[0]) == (0, f"bad: {NUM_ROWS} records read")
    features = manifest(tmp_path)["features"]
    assert features["words"]["num_categories"] == 2  # [MISSING], and one bucket.
    assert {of["raw_statistics"]["missing"] for of in features.values()} == {NUM_ROWS}


@pytest.mark.parametrize("dtype, constant", [("float32", 7.25), ("int64", 2**62 + 1)])
def test_quantiles_of_a_constant_are_one_edge(command, tmp_path, dtype, constant):
    of_keys = f'[features.keyed]\ncolumn = "x"\n{step("bucketize_per_key", dtype)}'
    assert command(step("bucketize", dtype), [constant] * NUM_ROWS, of_keys)[0] == 0
    features = manifest(tmp_path)["features"]
    assert features["x"]["edges"] == [constant]
    keys = {"a": {"edges": [constant]}, "b": {"edges": [constant]}}
    assert features["keyed"]["learned"] == {"num_keys": 2, "keys": keys}
    assert {of["num_categories"] for of in features.values()} == {2}


def test_parquet_files_of_two_schemas(command, tmp_path):
    for name, column in (("1.parquet", "x"), ("2.parquet", "y")):
        pq.write_table(pa.table({column: [1.0], "k": ["a"]}), tmp_path / name)
    assert command('dtype = "float32"') == (
        1,
        "headrace: 2.parquet: the columns are ['k', 'y'], but those of 1.parquet are ['k', 'x']. "
        "Give files with one set of columns.\n",
    )


def test_a_parquet_file_whose_column_is_of_another_type(command, tmp_path):
    pq.write_table(pa.table({"x": ["apple"] * 5, "k": ["a"] * 5}), tmp_path / "2.parquet")
    status, line = command('dtype = "float32"', [1.5] * NUM_ROWS)
    assert (status, line.splitlines()[:3]) == (
        0,
        [
            f"bad: {NUM_ROWS + 5} records read",
            f"  written   {NUM_ROWS}: train {NUM_ROWS}",
            "  rejected  5: unparsable_x 5",
        ],
    )
    assert manifest(tmp_path)["features"]["x"]["raw_statistics"]["mean"] == 1.5


def test_a_parquet_file_without_records(command, tmp_path):
    columns = {"x": pa.array([], pa.float32()), "k": pa.array([], pa.string())}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    assert command('dtype = "float32"') == (
        1,
        "headrace: no record is left in train: 0 were read, and 0 rejected. Give a source with "
        "records.\n",
    )


def test_json_lines_of_which_one_is_broken(tmp_path, capsys):
    lines = [json.dumps({"x": number}) for number in range(NUM_ROWS)]
    lines[3] = '{"x": 3'
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    (tmp_path / "spec.toml").write_text(
        'name = "bad"\n[source]\nformat = "jsonl"\npaths = ["data.jsonl"]\n'
        "[split]\nfractions = { train = 1.0 }\n[output]\nnum_shards = 1\n"
        '[features.x]\ndtype = "int64"\n'
    )
    assert cli.main(["run", str(tmp_path / "spec.toml"), "--output", str(tmp_path / "out")]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[:3] == [
        f"bad: {NUM_ROWS} records read",
        f"  written   {NUM_ROWS - 1}: train {NUM_ROWS - 1}",
        "  rejected  1: broken_json 1",
    ]
    (told,) = [json.loads(p.read_text()) for p in (tmp_path / "out" / "rejected").iterdir()]
    assert told == {
        "source": str(tmp_path / "data.jsonl"),
        "position": 4,
        "reason": "broken_json",
        "detail": "Expecting ',' delimiter at character 8",
        "record": '{"x": 3',
    }
    statistics = manifest(tmp_path)["features"]["x"]["raw_statistics"]
    kept = [number for number in range(NUM_ROWS) if number != 3]
    assert (statistics["count"], statistics["mean"]) == (len(kept), sum(kept) / len(kept))
