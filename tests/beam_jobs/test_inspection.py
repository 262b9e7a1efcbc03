import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle.protos import floats, ints, texts
from PIL import Image

from beam_jobs.errors import DataError, SpecError
from beam_jobs.inspection import Values, decode_example, feature_entries, inspect, printable

FLOAT32 = st.floats(width=32, allow_nan=False)
INT64 = st.integers(-(2**63), 2**63 - 1)


def serialized(features) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def by_protobuf(data: bytes) -> dict[str, Values]:
    parsed = tf.train.Example.FromString(data).features.feature
    kinds = {name: feature.WhichOneof("kind") for name, feature in parsed.items()}
    return {
        name: Values(kind or "", list(getattr(parsed[name], kind).value) if kind else [])
        for name, kind in kinds.items()
    }


FEATURE = st.one_of(
    st.lists(FLOAT32, max_size=4).map(lambda values: floats(*values)),
    st.lists(INT64, max_size=4).map(lambda values: ints(*values)),
    st.lists(st.binary(max_size=9), max_size=4).map(lambda values: texts(*values)),
    st.just(tf.train.Feature()),
)
FEATURES = st.dictionaries(st.text(max_size=5), FEATURE, max_size=5)


# Decoding


@settings(deadline=None)
@given(FEATURES, FEATURES)
def test_decoding_is_what_protobuf_decodes(first, second):
    data = serialized(first) + serialized(second)  # Joined: later entries of a name win.
    assert decode_example(data) == by_protobuf(data)


def message(field, data: bytes) -> bytes:
    """A length-delimited field of fewer than 128 bytes."""
    return bytes([field << 3 | 2, len(data)]) + data


def entry(feature: bytes) -> bytes:
    return message(1, message(1, message(1, b"a") + message(2, feature)))


@pytest.mark.parametrize(
    "feature, expected",
    [
        (message(2, b"\r" + struct.pack("<f", 1.5) + b"\r" + struct.pack("<f", -2)), [1.5, -2.0]),
        (message(2, message(1, struct.pack("<2f", 1.5, -2)) + b"\r\0\0\0\0"), [1.5, -2.0, 0.0]),
        (message(3, b"\x08\x05\x08" + b"\xff" * 9 + b"\x01"), [5, -1]),
        (message(3, message(1, b"\x05\x96\x01") + b"\x08\x07"), [5, 150, 7]),
        (message(3, b"\x08\x05") + message(2, message(1, bytes(4))), [0.0]),
        (message(2, message(1, bytes(4))) + message(2, message(1, bytes(4))), [0.0, 0.0]),
        (b"\x20\x01" + message(1, message(1, b"b") + b"\x11" + bytes(8)), [b"b"]),
    ],
    ids=["unpacked", "both", "varints", "packed", "the last kind", "merged", "unknown fields"],
)
def test_decoding_of_what_other_encoders_write(feature, expected):
    data = entry(feature)
    assert decode_example(data)["a"].values == expected
    assert decode_example(data) == by_protobuf(data)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(FEATURES, st.data())
@example({"a": ints(1)}, None)
def test_damaged_data_raises_or_decodes_as_protobuf_does(features, data):
    damaged = bytearray(serialized(features) or b"\0")
    if data is None:
        damaged[0] = 0xFF
    for _ in range(data.draw(st.integers(1, 3)) if data else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_example(bytes(damaged))
    except DataError as error:
        assert str(error).startswith("is no tf.train.Example: ")
        return
    try:
        expected = by_protobuf(bytes(damaged))
    except DecodeError:
        return
    # Python's protobuf drops an entry with an unknown field from the map; C++ keeps it, as we do.
    names = [name for name, _ in feature_entries(bytes(damaged))]
    once = {name for name in expected if names.count(name) == 1}
    assert expected.keys() <= found.keys()
    assert repr([found[name] for name in once]) == repr([expected[name] for name in once])


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"\n\x05ab", "a field ends at byte 7 of 4"),
        (b"\n" + b"\xff" * 9 + b"\x01", "a field ends at byte 18446744073709551626 of 11"),
        (b"\n" + b"\xff" * 11, "a number is too long before byte 11"),
        (b"\n", "it ends within a number"),
        (b"\x0b", "tag 11 before byte 1"),
        (b"\x00", "tag 0 before byte 1"),
        (entry(message(2, message(1, b"abc"))), "a float_list of 3 bytes"),
        (message(1, message(1, message(1, b"\xff"))), "a feature is called b'\\xff'"),
    ],
)
def test_data_that_is_no_example(data, problem):
    with pytest.raises(DataError) as caught:
        decode_example(data)
    assert str(caught.value) == f"is no tf.train.Example: {problem}"


# Text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
        ("a\nb\t\x1b[31m\x7f", "a\\nb\\t\\x1b[31m\\x7f"),
        ("a\u202eb\u2028", "a\\u202eb\\u2028"),
        ("a\udc80", "a\\udc80"),
    ],
)
def test_printable_text_has_no_control_characters(text, expected):
    assert printable(text) == expected


PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
SCALED = np.array([[-1.0, 0.0], [0.5, 1.0]], "<f4")
ADULT = {
    "age": {"dtype": "float32", "shape": [], "stored_as": "float_list"},
    "education": {"dtype": "int64", "shape": [], "stored_as": "int64_list", "num_categories": 17},
    "note": {"dtype": "string", "shape": [], "stored_as": "bytes_list"},
}
LABEL = {"name": "label", "dtype": "int64", "type": "class", "classes": ["<=50K", "../\x1b[31m>"]}


def raw(dtype, *shape):
    return {"dtype": dtype, "shape": list(shape), "stored_as": "raw"}


def write_dataset(directory, features, records, label=LABEL, compression="none"):
    shards = [records[:2], records[2:]]
    suffix = ".gz" if compression == "gzip" else ""
    names = [f"train-{index:05d}-of-00002.tfrecord{suffix}" for index in range(2)]
    entries = []
    for name, shard in zip(names, shards, strict=True):
        with tf.io.TFRecordWriter(str(directory / name), "GZIP" if suffix else "") as writer:
            for record in shard:
                writer.write(record)
        crcs = {"crc32c": "00000000", "crc32c_uncompressed": "00000000"}
        entries.append({"file": name, "num_examples": len(shard), "bytes": 0} | crcs)
    splits = {
        "train": {"num_examples": len(records), "shards": entries},
        "test": {"num_examples": 0, "shards": []},
    }
    manifest = {"format_version": 1, "name": "made", "read": len(records), "rejected": {}}
    manifest |= {"compression": compression, "splits": splits, "features": features}
    manifest |= {"label": label} if label else {}
    (directory / "dataset_info.json").write_text(json.dumps(manifest))


def adult(number) -> bytes:
    return serialized({
        "age": floats(number / 10),
        "education": ints(number),
        "note": texts(b"a\nb\xff" * (1 + 99 * (number == 2))),
        "label": ints(number % 2),
    })  # fmt: skip


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_records_as_text(tmp_path, compression):
    write_dataset(tmp_path, ADULT, [adult(number) for number in range(4)], LABEL, compression)
    suffix = ".gz" if compression == "gzip" else ""
    blocks = list(inspect(str(tmp_path), "train", 3, str(tmp_path / "out")))
    assert blocks[:2] == [
        f"train record 0 (train-00000-of-00002.tfrecord{suffix}, record 0)\n"
        "  age        0.0\n"
        "  education  0 (of 17)\n"
        '  note       "a\\nb\\xff"\n'
        "  label      0 (<=50K)",
        f"train record 1 (train-00000-of-00002.tfrecord{suffix}, record 1)\n"
        "  age        0.1\n"
        "  education  1 (of 17)\n"
        '  note       "a\\nb\\xff"\n'
        "  label      1 (../\\x1b[31m>)",
    ]
    assert len(blocks) == 3
    assert f"(train-00001-of-00002.tfrecord{suffix}, record 0)" in blocks[2]
    (note,) = (line for line in blocks[2].splitlines() if line.startswith("  note"))
    assert note.endswith('…"') and len(note) < 300
    assert not (tmp_path / "out").exists()


def test_lists_missing_features_and_features_that_are_not_in_the_manifest(tmp_path):
    record = serialized({"many": floats(*range(12)), "few": ints(1, 2), "extra\x1b": ints(1)})
    features = {
        "many": {"dtype": "float32", "shape": [12], "stored_as": "float_list"},
        "few": {"dtype": "int64", "shape": [2], "stored_as": "int64_list"},
        "gone": {"dtype": "int64", "shape": [], "stored_as": "int64_list"},
    }
    write_dataset(tmp_path, features, [record], label=None)
    assert list(inspect(str(tmp_path))) == [
        "train record 0 (train-00000-of-00002.tfrecord, record 0)\n"
        "  few        [1, 2]\n"
        "  gone       (missing)\n"
        "  many       [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, …]\n"
        "  extra\\x1b  (not in the manifest)"
    ]


# Images


def test_an_image_is_written_as_it_is_with_a_safe_name(tmp_path):
    data = {"image": texts(PIXELS.tobytes()), "label": ints(1)}
    write_dataset(tmp_path, {"image": raw("uint8", 2, 4, 3)}, [serialized(data)])
    out = tmp_path / "out"
    (block,) = inspect(str(tmp_path), output=str(out))
    assert block.splitlines()[1] == (
        f"  image  uint8 (2, 4, 3), 0 to 23, {out}/train-00000-31m.png"
    )
    assert os.listdir(out) == ["train-00000-31m.png"]
    image = Image.open(out / "train-00000-31m.png")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), PIXELS)


def test_a_float_image_is_stretched_and_the_text_says_so(tmp_path):
    features = {"image": raw("float32", 2, 2, 1)}
    write_dataset(tmp_path, features, [serialized({"image": texts(SCALED.tobytes())})], label=None)
    (block,) = inspect(str(tmp_path), output=str(tmp_path / "out"))
    path = tmp_path / "out" / "train-00000.png"
    assert block.splitlines()[1] == (
        f"  image  float32 (2, 2, 1), -1.0 to 1.0, {path} (smallest value black, largest white)"
    )
    assert np.asarray(Image.open(path)).tolist() == [[0, 128], [191, 255]]


@pytest.mark.parametrize(
    "values, expected",
    [
        ([[3, 3], [3, 3]], [[0, 0], [0, 0]]),
        ([[0, np.nan], [1, np.inf]], [[0, 0], [255, 255]]),
        ([[np.nan, np.nan], [np.nan, np.inf]], [[0, 0], [0, 0]]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_float_images_without_a_range(tmp_path, values, expected):
    data = np.array(values, "<f4").tobytes()
    features = {"image": raw("float32", 2, 2)}
    write_dataset(tmp_path, features, [serialized({"image": texts(data)})], label=None)
    list(inspect(str(tmp_path), output=str(tmp_path)))
    assert np.asarray(Image.open(tmp_path / "train-00000.png")).tolist() == expected


def test_two_images_a_record_and_an_array_that_is_none(tmp_path):
    features = {"a/b": raw("uint8", 2, 4, 3), "a.b": raw("uint8", 2, 4), "c": raw("float32", 2)}
    data = {
        "a/b": texts(PIXELS.tobytes()),
        "a.b": texts(bytes(8)),
        "c": texts(np.array([1.5, 2], "<f4").tobytes()),
        "label": ints(0),
    }
    write_dataset(tmp_path, features, [serialized(data)])
    (block,) = inspect(str(tmp_path), output=str(tmp_path / "out"))
    assert "  c      float32 (2,), 1.5 to 2.0\n" in block
    assert sorted(os.listdir(tmp_path / "out")) == [
        "train-00000-0-a_b-50K.png",
        "train-00000-1-a_b-50K.png",
    ]


# Errors


def test_a_split_without_records(tmp_path):
    write_dataset(tmp_path, ADULT, [])
    assert list(inspect(str(tmp_path), "test")) == ["test has no records."]


@pytest.mark.parametrize(
    "split, count, message",
    [
        ("dev", 1, "--split must be one of train, test, but is 'dev'."),
        ("train", 0, "-n must be at least 1, but is 0."),
    ],
)
def test_wrong_calls(tmp_path, split, count, message):
    write_dataset(tmp_path, ADULT, [adult(0)])
    with pytest.raises(SpecError) as caught:
        list(inspect(str(tmp_path), split, count))
    assert str(caught.value) == message


def test_no_dataset(tmp_path):
    with pytest.raises(SpecError, match="is no dataset: it holds no dataset_info.json"):
        list(inspect(str(tmp_path)))


@pytest.mark.parametrize(
    "record, message",
    [
        (b"\x0b", "is no tf.train.Example: tag 11 before byte 1"),
        (
            serialized({"image": texts(b"abc")}),
            "feature 'image' must be one value of 24 bytes, but is bytes_list of [3]",
        ),
        (
            serialized({"image": ints(1, 2)}),
            "feature 'image' must be one value of 24 bytes, but is int64_list of 2",
        ),
    ],
)
def test_damaged_records(tmp_path, record, message):
    write_dataset(tmp_path, {"image": raw("uint8", 2, 4, 3)}, [record], label=None)
    with pytest.raises(DataError) as caught:
        list(inspect(str(tmp_path), output=str(tmp_path)))
    assert str(caught.value) == (
        f"train-00000-of-00002.tfrecord, record 0: {message}. Run `headrace verify` on its folder."
    )


def test_a_shard_elsewhere_is_not_read(tmp_path):
    write_dataset(tmp_path, ADULT, [adult(0)])
    path = tmp_path / "dataset_info.json"
    path.write_text(path.read_text().replace("train-00000-of", "../train-00000-of"))
    with pytest.raises(DataError, match="a shard is called '../train-00000-of-00002.tfrecord'"):
        list(inspect(str(tmp_path)))


def test_inspect_imports_no_tensorflow(tmp_path):
    write_dataset(tmp_path, ADULT, [adult(number) for number in range(5)])
    code = (
        "import sys; from beam_jobs.inspection import inspect;"
        f"blocks = list(inspect({str(tmp_path)!r})); assert 'tensorflow' not in sys.modules;"
        "print(len(blocks))"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == b"5\n"
