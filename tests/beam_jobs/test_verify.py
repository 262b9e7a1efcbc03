import copy
import gzip
import io
import json
import math
import pickle

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from oracle.protos import floats, ints, texts

from beam_jobs.errors import DataError, SpecError
from beam_jobs.verify import verify

FEATURES = {
    "age": {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True},
    "education": {
        "dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": True,
        "num_categories": 17,
    },
    "hours": {"dtype": "int64", "shape": [], "stored_as": "int64_list", "normalized": False},
    "note": {"dtype": "string", "shape": [], "stored_as": "bytes_list", "normalized": False},
    "pixels": {"dtype": "uint8", "shape": [2, 2, 3], "stored_as": "raw", "normalized": False},
    "scaled": {"dtype": "float32", "shape": [2], "stored_as": "raw", "normalized": True},
}  # fmt: skip
LABEL = {"name": "label", "dtype": "int64", "type": "class", "classes": ["cat", "dog"]}
TRAIN_0 = "train-00000-of-00002.tfrecord"
TRAIN_1 = "train-00001-of-00002.tfrecord"
AGAIN = "Run `headrace run` with --overwrite."


def record(number, **changes) -> dict:
    features = {
        "age": floats(number / 7),
        "education": ints(number % 17),
        "hours": ints(-number),
        "note": texts(b"note %d" % number),
        "pixels": texts(bytes(range(12))),
        "scaled": texts(np.array([number, -1.5], "<f4").tobytes()),
        "label": ints(number % 2),
    }
    return {name: value for name, value in (features | changes).items() if value is not None}


def example(features) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_dataset(directory, shards, *, compression="none", label=LABEL, features=FEATURES):
    """Writes shards {split: [[serialized example]]} with TensorFlow and their manifest."""
    suffix = ".gz" if compression == "gzip" else ""
    splits = {}
    for split, contents in shards.items():
        entries = []
        for index, examples in enumerate(contents):
            name = f"{split}-{index:05d}-of-{len(contents):05d}.tfrecord{suffix}"
            path = directory / name
            with tf.io.TFRecordWriter(str(path), "GZIP" if suffix else "") as writer:
                for data in examples:
                    writer.write(data)
            data = path.read_bytes()
            plain = gzip.decompress(data) if suffix else data
            entries.append({
                "file": name, "num_examples": len(examples), "bytes": len(data),
                "crc32c": f"{google_crc32c.value(data):08x}",
                "crc32c_uncompressed": f"{google_crc32c.value(plain):08x}",
            })  # fmt: skip
        total = sum(map(len, contents))
        splits[split] = {"num_examples": total, "shards": entries}
        if label and "classes" in label:
            splits[split]["class_counts"] = {"cat": (total + 1) // 2, "dog": total // 2}
    manifest = {
        "format_version": 1, "name": "made", "read": 3 + sum(
            info["num_examples"] for info in splits.values()
        ),
        "rejected": {"a": 1, "b": 2}, "compression": compression, "splits": splits,
        "features": copy.deepcopy(features), "versions": {},
    }  # fmt: skip
    if label:
        manifest["label"] = dict(label)
    save(directory, manifest)
    return manifest


def save(directory, manifest):
    (directory / "dataset_info.json").write_text(json.dumps(manifest))


def numbered(start, stop) -> list[bytes]:
    return [example(record(number)) for number in range(start, stop)]


@pytest.fixture
def dataset(tmp_path):
    shards = {"train": [numbered(0, 10), numbered(10, 30)], "test": [numbered(0, 4), []]}
    return tmp_path, write_dataset(tmp_path, shards)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_sound_dataset_has_no_problems_and_progress_counts_every_record(tmp_path, compression):
    shards = {"train": [numbered(0, 500), numbered(500, 800), []], "test": [numbered(0, 40)]}
    write_dataset(tmp_path, shards, compression=compression)
    calls = []
    progress = lambda num_examples, num_bytes: calls.append((num_examples, num_bytes))  # noqa: E731
    assert verify(str(tmp_path), on_progress=progress) == []
    expected = [data for contents in shards.values() for shard in contents for data in shard]
    assert sum(num_examples for num_examples, _ in calls) == 840
    assert sum(num_bytes for _, num_bytes in calls) == sum(map(len, expected))


def test_records_without_a_label_or_with_a_number_as_label(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "float").mkdir()
    bare = [example(record(number, label=None)) for number in range(5)]
    write_dataset(tmp_path / "none", {"train": [bare]}, label=None)
    assert verify(str(tmp_path / "none")) == []
    label = {"name": "label", "dtype": "float32", "type": "float32"}
    labeled = [example(record(number, label=floats(0.5))) for number in range(5)]
    write_dataset(tmp_path / "float", {"train": [labeled]}, label=label)
    assert verify(str(tmp_path / "float")) == []


def test_examples_that_were_joined_from_parts_are_sound(tmp_path):
    parts = [
        b"".join(example({name: value}) for name, value in record(number).items())
        for number in range(50)
    ]
    write_dataset(tmp_path, {"train": [parts]})
    assert verify(str(tmp_path)) == []


def test_records_above_the_batch_limit_are_checked(tmp_path):
    shape = [1100, 1300, 3]
    features = {"pixels": {"dtype": "uint8", "shape": shape, "stored_as": "raw"}}
    size = math.prod(shape)
    assert size > 4 << 20
    good, bad = ({"pixels": texts(bytes(size - short))} for short in (0, 1))
    shard = list(map(example, [good, bad, good]))
    write_dataset(tmp_path, {"train": [shard]}, label=None, features=features)
    assert verify(str(tmp_path)) == [
        f"train-00000-of-00001.tfrecord: record 1: feature 'pixels' must have {size} bytes "
        f"(uint8 [1100, 1300, 3]), but has {size - 1}. {AGAIN}"
    ]


# The file against its entry


def flip(path, position) -> tuple[str, str]:
    """Flips one bit and returns the checksum before and after."""
    data = bytearray(path.read_bytes())
    before = google_crc32c.value(bytes(data))
    data[position] ^= 1
    path.write_bytes(data)
    return f"{before:08x}", f"{google_crc32c.value(bytes(data)):08x}"


def test_a_flipped_byte_in_the_data(dataset):
    directory, _ = dataset
    sizes = [len(data) + 16 for data in numbered(10, 30)]
    start = sum(sizes[:13])
    before, after = flip(directory / TRAIN_1, start + 40)
    data = example(record(23))
    wrong = data[:28] + bytes([data[28] ^ 1]) + data[29:]
    crcs = [f"{google_crc32c.value(part):08x}" for part in (wrong, data)]
    assert verify(str(directory)) == [
        f"{TRAIN_1}: crc32c is {after}, but dataset_info.json says {before}: the file is damaged "
        f"(record 13 at byte {start}: crc32c of its data is {crcs[0]}, but its footer says "
        f"{crcs[1]}). {AGAIN}"
    ]


def test_a_flipped_byte_in_a_length(dataset):
    directory, _ = dataset
    before, after = flip(directory / TRAIN_0, 1)
    (problem,) = verify(str(directory))
    assert problem.startswith(
        f"{TRAIN_0}: crc32c is {after}, but dataset_info.json says {before}: the file is damaged "
        "(record 0 at byte 0: crc32c of its length is "
    )


def test_a_flipped_byte_in_gzip(tmp_path):
    write_dataset(tmp_path, {"train": [numbered(0, 300)]}, compression="gzip")
    name = "train-00000-of-00001.tfrecord.gz"
    before, after = flip(tmp_path / name, 1000)
    (problem,) = verify(str(tmp_path))
    assert problem.startswith(
        f"{name}: crc32c is {after}, but dataset_info.json says {before}: the file is damaged (rec"
    )
    assert problem.endswith(AGAIN)


def test_a_shard_cut_at_a_record_boundary(dataset):
    directory, _ = dataset
    path = directory / TRAIN_0
    data = path.read_bytes()
    short = len(data) - len(example(record(9))) - 16
    path.write_bytes(data[:short])
    assert len(list(tf.data.TFRecordDataset(str(path)))) == 9  # TensorFlow sees nothing.
    assert verify(str(directory)) == [
        f"{TRAIN_0} has {short} bytes, but dataset_info.json says {len(data)}: the file is cut "
        f"or was replaced. {AGAIN}"
    ]


def test_a_shard_cut_within_a_header(dataset):
    directory, _ = dataset
    path = directory / TRAIN_0
    data = path.read_bytes()
    start = len(data) - len(example(record(9))) - 16
    path.write_bytes(data[: start + 5])
    assert verify(str(directory)) == [
        f"{TRAIN_0} has {start + 5} bytes, but dataset_info.json says {len(data)}: the file is cut "
        f"or was replaced (record 9 at byte {start}: the file ends within its header "
        f"(5 of 12 bytes)). {AGAIN}"
    ]


def test_a_missing_shard(dataset):
    directory, _ = dataset
    (directory / TRAIN_0).unlink()
    assert verify(str(directory)) == [
        f"{TRAIN_0}: is listed in dataset_info.json, but is missing. {AGAIN}"
    ]


def test_two_shards_that_changed_places(dataset):
    directory, manifest = dataset
    shards = manifest["splits"]["train"]["shards"]
    first, second = (directory / TRAIN_0).read_bytes(), (directory / TRAIN_1).read_bytes()
    (directory / TRAIN_0).write_bytes(second)
    (directory / TRAIN_1).write_bytes(first)
    a, b = (shard["bytes"] for shard in shards)
    assert a != b
    what = f"the file is cut or was replaced. {AGAIN}"
    assert verify(str(directory)) == [
        f"{TRAIN_0} has {b} bytes, but dataset_info.json says {a}: {what}",
        f"{TRAIN_1} has {a} bytes, but dataset_info.json says {b}: {what}",
    ]


def test_a_checksum_of_the_uncompressed_stream_that_is_wrong(dataset):
    directory, manifest = dataset
    shard = manifest["splits"]["train"]["shards"][0]
    right, shard["crc32c_uncompressed"] = shard["crc32c_uncompressed"], "0\x1b[31m"
    save(directory, manifest)
    assert verify(str(directory)) == [
        f"{TRAIN_0}: crc32c_uncompressed is {right}, but dataset_info.json says 0\\x1b[31m. {AGAIN}"
    ]


def test_a_damaged_record_that_was_already_damaged_when_the_manifest_was_written(dataset):
    directory, manifest = dataset
    _, after = flip(directory / TRAIN_0, 1)
    shard = manifest["splits"]["train"]["shards"][0]
    shard["crc32c"] = shard["crc32c_uncompressed"] = after
    save(directory, manifest)
    (problem,) = verify(str(directory))
    assert problem.startswith(
        f"{TRAIN_0}: crc32c is right, but its records are damaged (record 0 at byte 0: crc32c of "
    )


# The manifest's own counts


def test_a_shard_with_another_number_of_records(dataset):
    directory, manifest = dataset
    manifest["splits"]["train"]["shards"][0]["num_examples"] = 11
    save(directory, manifest)
    assert verify(str(directory)) == [
        "dataset_info.json: splits.train.num_examples must be the sum over its shards, 31, but is "
        f"30. {AGAIN}",
        f"{TRAIN_0} has 10 records, but dataset_info.json says 11. {AGAIN}",
    ]


def test_read_is_not_written_plus_rejected(dataset):
    directory, manifest = dataset
    assert manifest["read"] == 37
    manifest["rejected"]["a"] = 5
    save(directory, manifest)
    assert verify(str(directory)) == [
        f"dataset_info.json: read must be written + rejected, 34 + 7 = 41, but is 37. {AGAIN}"
    ]


def test_class_counts_that_are_not_those_of_the_labels(dataset):
    directory, manifest = dataset
    assert manifest["splits"]["train"]["class_counts"] == {"cat": 15, "dog": 15}
    manifest["splits"]["train"]["class_counts"] = {"cat": 14, "eel\n": 16}
    save(directory, manifest)
    must = "must be {}, as in the records, but is {}. " + AGAIN
    assert verify(str(directory)) == [
        "dataset_info.json: splits.train.class_counts of 'cat' " + must.format(15, 14),
        "dataset_info.json: splits.train.class_counts of 'dog' " + must.format(15, 0),
        "dataset_info.json: splits.train.class_counts of 'eel\\n' " + must.format(0, 16),
    ]


def test_a_file_that_is_not_listed(dataset):
    directory, _ = dataset
    (directory / "train-00002-of-00003.tfrecord").write_bytes(b"")
    (directory / "report.html").write_bytes(b"")
    assert verify(str(directory)) == [
        "train-00002-of-00003.tfrecord: is not listed in dataset_info.json, so that no reader "
        "opens it. Delete it."
    ]


def test_a_listed_file_outside_of_the_folder_is_not_opened(dataset):
    directory, manifest = dataset
    manifest["splits"]["train"]["shards"][1]["file"] = "../\x07" + TRAIN_1
    save(directory, manifest)
    (directory / TRAIN_1).rename(directory / "aside")
    assert verify(str(directory)) == [
        f"dataset_info.json: splits.train.shards[1].file must be {TRAIN_1}, but is "
        f"../\\x07{TRAIN_1}. {AGAIN}",
        f"dataset_info.json: splits.train.class_counts of 'cat' must be 5, as in the records, but "
        f"is 15. {AGAIN}",
        f"dataset_info.json: splits.train.class_counts of 'dog' must be 5, as in the records, but "
        f"is 15. {AGAIN}",
    ]


# Every record against the features


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"age": None}, "feature 'age' must be there once, but is missing"),
        (
            {"x\n": ints(1)},
            "features must be those of dataset_info.json, but 'x\\n' is none of them",
        ),
        ({"age": ints(1)}, "feature 'age' must be float_list of 1, but is int64_list of 1"),
        ({"age": floats()}, "feature 'age' must be float_list of 1, but is float_list of 0"),
        (
            {"age": floats(1, 2)},
            "feature 'age' must be float_list of 1, but is float_list of 2",
        ),
        (
            {"age": tf.train.Feature()},
            "feature 'age' must be float_list of 1, but is empty",
        ),
        ({"age": floats(math.nan)}, "feature 'age' must be finite, but holds nan"),
        ({"age": floats(-math.inf)}, "feature 'age' must be finite, but holds -inf"),
        ({"education": ints(17)}, "feature 'education' must be from 0 to 16, but is 17"),
        ({"education": ints(-1)}, "feature 'education' must be from 0 to 16, but is -1"),
        ({"note": ints(1)}, "feature 'note' must be bytes_list of 1, but is int64_list of 1"),
        (
            {"pixels": texts(bytes(11))},
            "feature 'pixels' must have 12 bytes (uint8 [2, 2, 3]), but has 11",
        ),
        (
            {"pixels": texts(b"", b"")},
            "feature 'pixels' must be bytes_list of 1, but is bytes_list of 2",
        ),
        (
            {"scaled": texts(np.array([0, np.inf], "<f4").tobytes())},
            "feature 'scaled' must be finite, but holds inf",
        ),
        ({"label": ints(2)}, "feature 'label' must be from 0 to 1, but is 2"),
        ({"label": None}, "feature 'label' must be there once, but is missing"),
    ],
)
def test_a_record_that_is_not_as_the_manifest_says(tmp_path, changes, problem):
    shard = numbered(0, 6) + [example(record(6, **changes))] + numbered(7, 10)
    write_dataset(tmp_path, {"train": [shard]})
    name = "train-00000-of-00001.tfrecord"
    assert verify(str(tmp_path)) == [f"{name}: record 6: {problem}. {AGAIN}"]


def test_a_feature_that_is_written_twice(tmp_path):
    shard = [*numbered(0, 6), example(record(6)) + example({"hours": ints(3)})]
    write_dataset(tmp_path, {"train": [shard]})
    assert verify(str(tmp_path)) == [
        "train-00000-of-00001.tfrecord: record 6: feature 'hours' must be there once, but is there "
        f"2 times. {AGAIN}"
    ]


def test_a_record_that_is_no_example(tmp_path):
    write_dataset(tmp_path, {"train": [[*numbered(0, 3), b"\n\x05ab"]]})
    assert verify(str(tmp_path)) == [
        "train-00000-of-00001.tfrecord: record 3: must be a tf.train.Example, but a field ends at "
        f"byte 7 of 4. {AGAIN}"
    ]


def test_many_records_with_the_same_fault_are_one_line(tmp_path):
    wrong = [example(record(number, education=ints(number))) for number in range(15, 40)]
    write_dataset(tmp_path, {"train": [wrong]})
    assert verify(str(tmp_path)) == [
        "train-00000-of-00001.tfrecord: record 2: feature 'education' must be from 0 to 16, but is "
        f"17 (and 22 more records). {AGAIN}"
    ]


def test_labels_are_counted_over_several_batches(tmp_path):
    shard = numbered(0, 2) * 15_000
    manifest = write_dataset(tmp_path, {"train": [shard]})
    assert manifest["splits"]["train"]["shards"][0]["bytes"] > 4 << 20
    assert verify(str(tmp_path)) == []
    manifest["splits"]["train"]["class_counts"]["cat"] = 1
    save(tmp_path, manifest)
    assert verify(str(tmp_path)) == [
        "dataset_info.json: splits.train.class_counts of 'cat' must be 15000, as in the records, "
        f"but is 1. {AGAIN}"
    ]


# No dataset


def test_no_dataset(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SpecError) as caught:
            verify(str(folder))
        assert str(caught.value) == (
            f"{folder}: is no dataset: it holds no dataset_info.json, which comes last. "
            "Name the --output of a `headrace run` that has finished."
        )


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not readable: Expecting property name"),
        ("[]", "is not readable: "),
        ("[" * 100_000, "is not readable: "),
        ('{"format_version": 2}', "format_version must be 1, but is 2. Read the dataset with"),
        (
            '{"format_version": 1}',
            "name: must be there, but is missing. Run `headrace run` with --overwrite.",
        ),
    ],
)
def test_a_manifest_that_is_not_readable(tmp_path, text, message):
    path = tmp_path / "dataset_info.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        verify(str(tmp_path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "where, value, message",
    [
        (["read"], "x\n", "read: Input should be a valid integer, but is 'x\\n'. "),
        (["read"], -1, "read: Input should be greater than or equal to 0, but is -1. "),
        (
            ["splits", "dev"],
            {},
            "splits.dev.[key]: Input should be 'train', 'validation' or 'test'",
        ),
        (["splits", "train", "shards", 0, "bytes"], None, "splits.train.shards.0.bytes: Input sh"),
        (["features", "age", "shape"], [-1], "features.age.shape.0: Input should be greater than"),
        (
            ["features", "pixels", "dtype"],
            "bool",
            "features.pixels: dtype must be uint8, bfloat16 or float32",
        ),
        (["label", "classes"], None, "label: classes must stand where type is class"),
    ],
)
def test_a_manifest_with_a_wrong_value(dataset, where, value, message):
    directory, manifest = dataset
    *folders, last = where
    part = manifest
    for folder in folders:
        part = part[folder]
    part[last] = value
    save(directory, manifest)
    with pytest.raises(DataError) as caught:
        verify(str(directory))
    assert str(caught.value).startswith(f"{directory / 'dataset_info.json'}: {message}")
    assert "\n" not in str(caught.value)


BAG = {"dtype": "float32", "shape": [20], "stored_as": "sparse", "normalized": True}


def bag(indices, values) -> dict:
    return {"bag/indices": ints(*indices), "bag/values": floats(*values)}


def test_a_sparse_feature_is_indices_and_values(tmp_path):
    lists = [range(0, number % 20, 2) for number in range(30)]
    shard = [example(record(n) | bag(i, np.ones(len(i)))) for n, i in enumerate(lists)]
    write_dataset(tmp_path, {"train": [shard]}, features=FEATURES | {"bag": BAG})
    assert verify(str(tmp_path)) == []


@pytest.mark.parametrize(
    "indices, values, problem",
    [
        ([1, 20], [1, 1], "feature 'bag/indices' must be from 0 to 19, but is 20"),
        ([1, 2], [1, np.nan], "feature 'bag/values' must be finite, but holds nan"),
        ([1, 2], [1], "feature 'bag' must have as many values as indices, but has 1 and 2"),
        ([2, 2], [1, 1], "feature 'bag' must have rising indices, but 2 follows 2"),
        ([2, 1], [1, 1], "feature 'bag' must have rising indices, but 1 follows 2"),
    ],
)
def test_what_is_wrong_with_a_sparse_feature(tmp_path, indices, values, problem):
    shard = [example(record(n) | bag([0, 19], [1, 2])) for n in range(9)]
    shard[4] = example(record(4) | bag(indices, values))
    write_dataset(tmp_path, {"train": [shard]}, features=FEATURES | {"bag": BAG})
    name = "train-00000-of-00001.tfrecord"
    assert verify(str(tmp_path)) == [f"{name}: record 4: {problem}. {AGAIN}"]


# The files beside the shards


def array_file(directory, array) -> dict:
    """Saves statistics beside the manifest and returns how it lists them."""
    data = io.BytesIO()
    np.save(data, array)
    return listed(directory, data.getvalue(), list(np.shape(array)))


def listed(directory, data, shape) -> dict:
    crc = f"{google_crc32c.value(data):08x}"
    (directory / f"statistics-{crc}.npy").write_bytes(data)
    return {"file": f"statistics-{crc}.npy", "shape": shape, "crc32c": crc}


def verified(directory, feature) -> list[str]:
    """Returns the problems of a dataset whose only remarkable feature this is."""
    features = {"pixels": FEATURES["pixels"] | feature}
    shard = [example({"pixels": texts(bytes(12))})]
    write_dataset(directory, {"train": [shard]}, label=None, features=features)
    return verify(str(directory))


MEAN = np.arange(12.0).reshape(2, 2, 3)


def test_statistics_of_each_pixel_are_checked(tmp_path):
    mean = array_file(tmp_path, MEAN)
    path = tmp_path / mean["file"]
    feature = {"statistics": {"count": 3, "mean": mean, "std": [1.0]}, "normalization": {
        "rescale": 0.5, "mean": mean, "std": None, "samplewise_center": False,
    }}  # fmt: skip
    assert verified(tmp_path, feature) == []
    before, after = flip(path, 150)
    assert verify(str(tmp_path)) == [
        f"{path.name}: crc32c is {after}, but dataset_info.json says {before}: the file is "
        f"damaged. {AGAIN}"
    ]
    path.unlink()
    assert verify(str(tmp_path)) == [
        f"{path.name}: is listed in dataset_info.json, but is missing. {AGAIN}"
    ]
    path.mkdir()
    (problem,) = verify(str(tmp_path))
    assert problem.startswith(f"{path.name}: cannot be read: ") and "\n" not in problem
    elsewhere = {"normalization": {"std": mean | {"file": "../" + path.name}}}
    assert verified(tmp_path, elsewhere) == [
        f"../{path.name}: stands in dataset_info.json, but is no name of a file beside it. {AGAIN}"
    ]
    with pytest.raises(DataError, match=r"features.pixels.statistics.mean\.ArrayFile.crc32c: must"):
        verified(tmp_path, {"statistics": {"mean": {"file": path.name, "shape": [2, 2, 3]}}})


@pytest.mark.parametrize(
    "array, shape, problem",
    [
        (MEAN.astype("f4"), None, "holds float32 [2, 2, 3], but dataset_info.json says float64 [2"),
        (MEAN, [3, 2, 2], "holds float64 [2, 2, 3], but dataset_info.json says float64 [3, 2, 2]"),
        (np.where(MEAN == 7, np.nan, MEAN), None, "holds a value that is not finite"),
    ],
)
def test_statistics_of_another_form(tmp_path, array, shape, problem):
    mean = array_file(tmp_path, array)
    mean["shape"] = shape or mean["shape"]
    (found,) = verified(tmp_path, {"normalization": {"mean": mean}})
    assert found.startswith(f"{mean['file']}: {problem}")


def test_statistics_whose_header_lies(tmp_path):
    header = io.BytesIO()
    said = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, said)
    for data, shape, problem in [
        (header.getvalue(), [10**12], f"holds 0 bytes for float64 [{10**12}]"),
        (b"", [3], "crc32c is right, but it is no array as np.save writes it"),
        (pickle.dumps([1.0]), [1], "crc32c is right, but it is no array as np.save writes it"),
    ]:
        mean = listed(tmp_path, data, shape)
        assert verified(tmp_path, {"normalization": {"mean": mean}}) == [
            f"{mean['file']}: {problem}. {AGAIN}"
        ]


@pytest.mark.parametrize(
    "said, problem",
    [
        ({"vocabulary": ["", "[UNK]", "a"]}, None),
        ({"vocabulary": ["", "[UNK]"]}, "holds 2 tokens, but dataset_info.json says 3"),
        ({"vocabulary": list("abcd")}, "holds 4 tokens, but dataset_info.json says 3"),
        ({"vocabulary": list("abc"), "idf_weights": [1.0]}, "holds 1 weights, but dataset_info.js"),
        ({"vocabulary": "abc"}, "is no vocabulary: a JSON object that has a list of tokens, and"),
        (None, "is listed in dataset_info.json, but is missing"),
    ],
)
def test_the_vocabulary_of_indices(tmp_path, said, problem):
    name = "vocabulary-word.json"
    if said is not None:
        (tmp_path / name).write_text(json.dumps(said))
    word = {"dtype": "int64", "shape": [2], "stored_as": "int64_list", "num_categories": 3}
    shard = [example({"word": ints(1, 2)})]
    features = {"word": word | {"vocabulary_file": name}}
    write_dataset(tmp_path, {"train": [shard]}, label=None, features=features)
    problems = verify(str(tmp_path))
    assert len(problems) == (problem is not None)
    assert all(line.startswith(f"{name}: {problem}") for line in problems)


@pytest.mark.parametrize("num_tokens, is_sound", [(20, True), (12, True), (21, False)])
def test_the_vocabulary_of_a_sparse_text_may_be_padded(tmp_path, num_tokens, is_sound):
    name = "vocabulary-bag.json"
    said = {"vocabulary": list(map(str, range(num_tokens))), "idf_weights": [1.0] * 20}
    (tmp_path / name).write_text(json.dumps(said))
    shard = [example(bag([0, 19], [1, 2]))]
    features = {"bag": BAG | {"vocabulary_file": name}}
    write_dataset(tmp_path, {"train": [shard]}, label=None, features=features)
    problem = f"{name}: holds 21 tokens, but dataset_info.json says 20. {AGAIN}"
    assert verify(str(tmp_path)) == ([] if is_sound else [problem])
