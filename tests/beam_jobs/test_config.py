import copy
import hashlib
import math

import pytest

from beam_jobs.config import load_spec, parse_spec
from beam_jobs.errors import SpecError

BASE = {
    "name": "people",
    "source": {"format": "csv", "paths": ["data/*.csv"]},
    "split": {"fractions": {"train": 0.8, "validation": 0.1, "test": 0.1}},
    "filter": [{"name": "adult", "where": "age >= 18"}],
    "features": {
        "age": {"dtype": "float32", "transform": "scale_to_z_score"},
        "job": {"dtype": "string", "transform": "compute_and_apply_vocabulary"},
    },
    "label": {"column": "income"},
    "output": {"num_shards": 4},
}
IMAGES = {
    "name": "photos",
    "source": {"format": "images", "paths": ["data/*/*.png"]},
    "split": {"fractions": {"train": 1}},
    "features": {"image": {"size": [2, 3]}},
    "label": {"from": "directory"},
}
GONE = object()
OF_TRANSFORM = (
    "must be 'log', 'log1p', 'sqrt', 'clip', 'center', 'scale_to_z_score', 'scale_to_0_1', "
    "'scale_by_min_max', 'scale_to_gaussian', 'robust_scale', 'yeo_johnson', 'box_cox', "
    "'bucketize', 'apply_buckets', 'apply_buckets_with_interpolation', "
    "'scale_to_z_score_per_key', 'scale_to_0_1_per_key', 'scale_by_min_max_per_key', "
    "'bucketize_per_key', 'compute_and_apply_vocabulary' or 'hash_strings', but is 'zscore'."
)


def changed(base, changes: dict) -> dict:
    said = copy.deepcopy(base)
    for path, value in changes.items():
        at, keys = said, path.split("/")
        for key in keys[:-1]:
            at = at[int(key) if isinstance(at, list) else key]
        if value is GONE:
            del at[keys[-1]]
        else:
            at[keys[-1]] = value
    return said


MISTAKES = [
    (
        {"features/age/transfrom": 1},
        "features.age.transfrom: unknown key; did you mean 'transform'?",
    ),
    ({"outputs": {}}, "outputs: unknown key; did you mean 'output'?"),
    ({"filter/0/wher": "x"}, "filter.0.wher: unknown key; did you mean 'where'?"),
    ({"filter/0/zzz": 1}, "filter.0.zzz: unknown key; known are name, where, function, columns."),
    ({"name": GONE}, "name: missing; add it."),
    (
        {"features/age/type": "columm"},
        "features.age.type: must be one of 'column', 'cross', 'date', 'vector', 'sparse', 'image', "
        "'mask', 'boxes', 'text', but is 'columm'.",
    ),
    ({"source/paths": GONE}, "source: format = 'csv' needs paths."),
    ({"features/age/transform": "zscore"}, f"features.age.transform: {OF_TRANSFORM}"),
    (
        {"features/age/transform": ["scale_to_z_score", "log1p"]},
        "features.age: transform: scale_to_z_score may be followed by clip, but is followed by "
        "log1p.",
    ),
    (
        {"features/age/dtype": "string"},
        "features.age: transform: scale_to_z_score takes float32 or int64, but dtype is string.",
    ),
    (
        {"features/job/dtype": "int64"},
        "features.job: transform: compute_and_apply_vocabulary takes string, but dtype is int64.",
    ),
    (
        {"features/age/num_buckets": 10},
        "features.age: num_buckets belongs to transform = 'bucketize' or 'bucketize_per_key'.",
    ),
    (
        {"features/age/transform": "bucketize"},
        "features.age: transform = 'bucketize' needs num_buckets.",
    ),
    (
        {"features/age/missing": "token"},
        'features.age: missing must be "reject", "mean", "median", "mode" or a number for float32, '
        "but is 'token'.",
    ),
    (
        {"features/age": {"dtype": "int64", "missing": "median"}},
        'features.age: missing must be "reject", "mode" or a whole number for int64, but is '
        "'median'; mean and median take dtype = 'float32'.",
    ),
    (
        {"features/job/missing": "mean"},
        "features.job: missing = 'mean' needs numbers, but dtype is string.",
    ),
    (
        {"features/age/indicator": True},
        "features.age: indicator needs a missing policy that keeps the record.",
    ),
    (
        {"features/label": {"dtype": "float32"}},
        "a feature may not be called label: the target is stored under it.",
    ),
    (
        {"features/b": {"dtype": "float33"}},
        "features.b.dtype: must be 'float32', 'int64' or 'string', but is 'float33'.",
    ),
    (
        {"features/a2": {"column": "age", "dtype": "int64"}},
        "column 'age' is float32 for age and int64 for a2: transform_fn takes it with one dtype.",
    ),
    (
        {"source/format": "xml"},
        "source.format: must be 'csv', 'text', 'parquet', 'jsonl', 'avro', 'tfrecord', "
        "'webdataset', 'images', 'numpy', 'keras', 'python', 'beam' or 'bigquery', "
        "but is 'xml'.",
    ),
    ({"source/header": False}, "source: header = false needs columns = [...], the names in order."),
    (
        {"source/header": False, "source/columns": ["a", "b", "a"]},
        "source: columns holds a name twice: 'a'.",
    ),
    (
        {"split/fractions": {"train": 0.8, "test": 0.1}},
        "split: fractions must sum to 1, but sum to 0.9.",
    ),
    (
        {"split/fractions": {"trian": 0.8, "test": 0.2}},
        "split.fractions.trian: must be 'train', 'validation' or 'test', but is 'trian'.",
    ),
    (
        {"source/columns": ["a", "b"]},
        "source: columns names the fields of files without a header: header = false.",
    ),
    (
        {"split/fractions": {"test": 1}},
        "split.fractions: needs a train split: statistics come from it. Name one, or give "
        "--transform-from a dataset that has them.",
    ),
    (
        {"split": {}},
        "[split] takes one of fractions, time, directory = true, and column with values.",
    ),
    (
        {"split/time": {"column": "day", "test": 3}},
        "split: takes one of fractions, time, directory = true, and column with values.",
    ),
    ({"split": {"time": {"column": "day"}}}, 'split.time: needs a moment: test = "2024-01-01".'),
    ({"split": {"time": {"test": 3}}}, "split.time.column: missing; add it."),
    (
        {"split": {"time": {"column": "day", "tests": 3}}},
        "split.time.tests: unknown key; did you mean 'test'?",
    ),
    (
        {"split": {"time": {"column": "day", "test": True}}},
        "split.time.test: must be a number or a text, but is True.",
    ),
    (
        {"split": {"key": "id", "time": {"column": "day", "test": 3}}},
        "split: key is for fractions and carve; the time of each record decides here.",
    ),
    (
        {"split": {"directory": True, "stratified": True}},
        "split: stratified = true goes with fractions, per class of the label.",
    ),
    (
        {"split/stratified": True, "label/type": "int64"},
        'split.stratified needs a label of type = "class".',
    ),
    (
        {"split/stratified": True, "label": GONE},
        'split.stratified needs a label of type = "class".',
    ),
    ({"split/column": "fold"}, "split: column and values go together."),
    (
        {"split": {"directory": True}},
        "split.directory is for images and text; another table takes fractions, time or a column.",
    ),
    (
        {"filter": [{"name": "a", "where": "x"}, {"name": "a", "where": "y"}]},
        "two filters are called 'a'.",
    ),
    (
        {"label": {"column": "a", "expression": "1"}},
        'label: takes one of column, expression, from = "directory" and pattern.',
    ),
    (
        {"label": {"from": "directory"}},
        "a table other than text takes its label from a column or expression.",
    ),
    *[
        (
            {"filter/0/name": name},
            f"filter.0: {name} is a reason of headrace's own; call the filter another.",
        )
        for name in [
            *["ragged_row", "bad_encoding", "nul_byte", "undecodable_image", "too_large_image"],
            *["unparsable_age", "non_finite_age", "no_label", "no_split", "missing_age"],
            "null_in_adult",
        ]
    ],
    *[
        (
            {"features/age/missing": value},
            f"features.age.missing: must be a finite number, but is {value}.",
        )
        for value in (math.inf, math.nan)
    ],
    (
        {"features/age/missing": 1e300},
        "features.age: missing must fit float32, but is 1e+300.",
    ),
    (
        {"features/age": {"dtype": "int64", "missing": 2**63}},
        "features.age: missing must fit int64, but is 9223372036854775808.",
    ),
    (
        {"features/age": {"dtype": "int64", "missing": -1, "transform": "log1p"}},
        "features.age: missing must be above -1 for log1p, but is -1.",
    ),
    (
        {"features/age/missing": -1.5, "features/age/transform": ["log1p", "center"]},
        "features.age: missing must be above -1 for log1p, but is -1.5.",
    ),
    (
        {"features/age/missing": -0.99999999, "features/age/transform": "log1p"},
        "features.age: missing must be above -1 for log1p, but is -0.99999999.",
    ),
    (
        {"features/age": {"dtype": "float32", "missing": 0, "transform": "log"}},
        "features.age: missing must be above 0 for log, but is 0.",
    ),
    (
        {"features/age": {"dtype": "float32", "missing": -1, "transform": ["sqrt", "log"]}},
        "features.age: missing must be above 0 for log, but is -1.",
    ),
    (
        {"features/age": {"dtype": "float32", "missing": -0.5, "transform": "sqrt"}},
        "features.age: missing must be at least 0 for sqrt, but is -0.5.",
    ),
    (
        {"features/age": {"dtype": "float32", "missing": 0, "transform": ["log1p", "box_cox"]}},
        "features.age: missing must be above 0 for box_cox, but is 0.",
    ),
    (
        {"features/age": {"dtype": "float32", "missing": 1, "transform": ["log", "log"]}},
        "features.age: missing must be above 1 for log, but is 1.",
    ),
    (
        {"features/age": {"dtype": "float32", "transform": ["clip", "log"], "clip_max": 0}},
        "features.age: clip_max must be above 0 for log, but is 0.",
    ),
    (
        {"features/age": {"dtype": "float32", "transform": "clip"}},
        "features.age: transform = 'clip' needs clip_min, clip_max or both.",
    ),
    (
        {"features/age": {"dtype": "float32", "transform": "log", "clip_min": 1}},
        "features.age: clip_min belongs to transform = 'clip'.",
    ),
    (
        {
            "features/age": {
                "dtype": "float32",
                "transform": "clip",
                "clip_min": 2,
                "clip_max": 1.5,
            }
        },
        "features.age: clip_min must not be above clip_max, but is 2 and 1.5.",
    ),
    *(
        (
            {"features/age": {"dtype": dtype, "transform": transform, option: value}},
            f"features.age: {option} must fit float32, but holds {shown}.",
        )
        for dtype, transform, option, value, shown in [
            ("float32", "clip", "clip_min", -1e39, "-1e+39"),
            ("int64", "clip", "clip_max", 10**39, 10**39),
            ("float32", "scale_by_min_max", "output_min", -3.5e38, "-3.5e+38"),
            ("float32", "scale_by_min_max", "output_max", 1e39, "1e+39"),
            ("float32", "apply_buckets", "boundaries", [0, 1e39], "1e+39"),
            ("int64", "apply_buckets", "boundaries", [0, 1e39], "1e+39"),
            ("int64", "apply_buckets_with_interpolation", "boundaries", [-1e39, 0], "-1e+39"),
        ]
    ),
    (
        {
            "features/age": {
                "dtype": "float32",
                "transform": ["clip", "center", "clip"],
                "clip_min": 2,
            }
        },
        "features.age: transform: clip stands there twice, but has one clip_min and clip_max.",
    ),
    (
        {
            "features/age": {
                "dtype": "float32",
                "transform": ["bucketize", "clip"],
                "num_buckets": 3,
                "clip_max": 1,
            }
        },
        "features.age: transform: bucketize must be the last of its chain, but is followed by "
        "clip.",
    ),
    (
        {"features/age": {"dtype": "float32", "transform": "scale_by_min_max", "output_min": 1}},
        "features.age: output_min must be less than output_max, but is 1 and 1.",
    ),
    (
        {"features/age": {"dtype": "float32", "transform": "center", "output_min": 1}},
        "features.age: output_min belongs to transform = 'scale_by_min_max' or "
        "'scale_by_min_max_per_key'.",
    ),
    (
        {"features/age": {"dtype": "float32", "transform": "apply_buckets"}},
        "features.age: transform = 'apply_buckets' needs boundaries.",
    ),
    (
        {
            "features/age": {
                "dtype": "int64",
                "transform": "apply_buckets_with_interpolation",
                "boundaries": [1, 3, 3],
            }
        },
        "features.age: boundaries must ascend, but are [1, 3, 3].",
    ),
    (
        {"features/age": {"dtype": "float32", "transform": "apply_buckets", "boundaries": []}},
        "features.age.boundaries: must not be empty; name at least one.",
    ),
    *[
        (
            {"features/age": {"dtype": "string", "transform": name, **options}},
            f"features.age: transform: {name} takes float32 or int64, but dtype is string.",
        )
        for name, options in {
            **dict.fromkeys(["log", "sqrt", "scale_by_min_max", "scale_to_gaussian"], {}),
            **dict.fromkeys(["robust_scale", "yeo_johnson", "box_cox"], {}),
            "clip": {"clip_min": 0},
            "apply_buckets": {"boundaries": [1]},
            "apply_buckets_with_interpolation": {"boundaries": [1]},
        }.items()
    ],
    ({"split/key": []}, "split.key: must not be empty; name at least one."),
    ({"output/shard_mb": math.inf}, "output.shard_mb: must be a finite number, but is inf."),
    ({"output/shard_mb": "4"}, "output.shard_mb: must be a number, but is '4'."),
    (
        {"features/age/missing": [1]},
        "features.age.missing: must be a text or a number, but is [1].",
    ),
    ({"source/paths": "a.csv"}, "source.paths: must be a list or a table, but is 'a.csv'."),
    ({"source/paths": ["a.csv", 1]}, "source.paths.1: must be a text, but is 1."),
    ({"source/paths": {"train": "a"}}, "source.paths.train: must be a list, but is 'a'."),
    ({"source/paths": []}, "source.paths: must not be empty; name at least one."),
    (
        {"features/age/transform": ["zscore"]},
        OF_TRANSFORM.replace("must", "features.age.transform.0: must"),
    ),
    ({"features/age/indicator": 1}, "features.age.indicator: must be true or false, but is 1."),
    ({"output/shard_mb": 4}, "output: takes num_shards or shard_mb, not both."),
    (
        {"output/shard_mb": 1e-7, "output/num_shards": None},
        "output.shard_mb: must be greater than or equal to 0.001, but is 1e-07.",
    ),
    (
        {"features/age/num_buckets": 10**12, "features/age/transform": "bucketize"},
        "features.age.num_buckets: must be less than or equal to 1000000, but is 1000000000000.",
    ),
    (
        {
            "features/age/dtype": "string",
            "features/age/transform": "hash_strings",
            "features/age/hash_buckets": 10**19,
        },
        "features.age.hash_buckets: must be less than or equal to 4611686018427387904, but is "
        "10000000000000000000.",
    ),
    ({"output/num_shards": "4"}, "output.num_shards: must be a whole number, but is '4'."),
]
IMAGE_MISTAKES = [
    (
        {"source/trim": True},
        "source: trim is not for format = 'images', but for csv, text, parquet, jsonl, avro, "
        "tfrecord, webdataset, numpy, keras, python, beam, bigquery.",
    ),
    (
        {"features/other": {"size": [1, 1]}},
        "an image dataset has one feature, but there are 2.",
    ),
    (
        {"features/image/anti_alias": True},
        "features.image.anti_alias: unknown key; did you mean 'antialias'?",
    ),
    ({"label": {"column": "a"}}, 'images take their label from = "directory" or by pattern.'),
    (
        {"label": {"pattern": "(x)"}},
        "label: pattern needs a group named label: (?P<label>...).",
    ),
    (
        {"features/image/rescale": math.inf},
        "features.image.rescale: must be a finite number, but is inf.",
    ),
    (
        {"features/image/rescale": 1e200},
        "features.image.rescale: must be less than or equal to 1000000000, but is 1e+200.",
    ),
    (
        {"features/image/size": [1, 9000]},
        "features.image.size.1: must be less than or equal to 8192, but is 9000.",
    ),
    ({"label/type": "int64"}, 'the label of an image is type = "class".'),
    (
        {"split": {"time": {"column": "day", "test": 3}}},
        "images are split by fractions, directory or paths.",
    ),
]
ALL = [(BASE, *m) for m in MISTAKES] + [(IMAGES, *m) for m in IMAGE_MISTAKES]


@pytest.mark.parametrize("base, changes, message", ALL, ids=[m[2][:40] for m in ALL])
def test_a_mistake_is_told_in_one_line(base, changes, message):
    parse_spec(copy.deepcopy(base), "a.toml")
    with pytest.raises(SpecError) as caught:
        parse_spec(changed(base, changes), "a.toml")
    assert str(caught.value) == f"a.toml: {message}"


def test_paths_are_relative_to_the_file(tmp_path):
    said = changed(BASE, {"source/paths": ["d/*.csv", "../e.csv", "/f.csv", "gs://b/*.csv"]})
    spec = parse_spec(said, str(tmp_path / "a.toml"))
    parent = tmp_path.parent
    expected = (f"{tmp_path}/d/*.csv", f"{parent}/e.csv", "/f.csv", "gs://b/*.csv")
    assert spec.source.paths == expected


def test_digest_is_of_everything_but_the_paths():
    def digest(changes):
        return parse_spec(changed(BASE, changes), "a.toml").digest

    same = digest({})
    assert len(same) == hashlib.sha256().digest_size * 2
    assert digest({"source/paths": ["other.csv"]}) == same
    assert digest({"output/num_shards": 5}) != same
    assert digest({"filter/0/where": "age >= 19"}) != same


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.toml"
    with pytest.raises(SpecError, match="a.toml: No such file or directory. Give the path"):
        load_spec(str(path))
    path.write_text("name = ")
    with pytest.raises(SpecError, match="a.toml: not a TOML file: "):
        load_spec(str(path))
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(SpecError, match="a.toml: not a TOML file: "):
        load_spec(str(path))
