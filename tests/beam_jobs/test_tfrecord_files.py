import bz2
import json

import numpy as np
import pytest
import tensorflow as tf

from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import tfrecord_files
from beam_jobs.sources.listing import list_files


def example(**features) -> bytes:
    """A serialized Example; a value is a list of bytes, floats or ints, or one of these."""
    message = tf.train.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = message.features.feature[name]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString()


def write(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression)) as file:
        for record in records:
            file.write(record)


def scanned(path, block_bytes=1 << 20, **kwargs):
    source = Source(format="tfrecord", paths=(str(path),), **kwargs)
    (file,) = list_files(source)
    return tfrecord_files.scan(file, source, block_bytes), source


def read(path, block_bytes=1 << 20, **kwargs):
    """The sound records as dicts of text or bytes, their numbers, and what is broken."""
    unit, source = scanned(path, block_bytes, **kwargs)
    rows, places, broken = [], [], []
    for part in tfrecord_files.units([unit]):
        for found in tfrecord_files.read(part, source):
            rows += found.values.to_pylist()
            places += found.places[found.sound].tolist()
            broken += [
                (int(found.places[p]), reason, found.raw(p)) for p, reason, _ in found.broken
            ]
    return rows, places, broken


@pytest.mark.parametrize("name", ["t.tfrecord", "t.tfrecord.gz"])
@pytest.mark.parametrize("block_bytes", [1, 300, 1 << 20])
def test_records_are_those_of_tensorflow(tmp_path, name, block_bytes):
    rng = np.random.default_rng(1)
    numbers = rng.integers(-(2**63), 2**63, 500).tolist()
    reals = rng.normal(size=500).astype(np.float32)
    images = [rng.bytes(rng.integers(0, 200)) for _ in range(500)]
    features = zip(numbers, reals.tolist(), images, strict=True)
    records = [example(i=i, f=f, image=image, s="é".encode()) for i, f, image in features]
    write(tmp_path / name, records, "GZIP" if name.endswith(".gz") else "")
    rows, places, broken = read(tmp_path / name, block_bytes)
    kinds = {"i": tf.int64, "f": tf.float32, "image": tf.string, "s": tf.string}
    spec = {key: tf.io.FixedLenFeature([], kind) for key, kind in kinds.items()}
    dataset = tf.data.TFRecordDataset(str(tmp_path / name), "GZIP" * name.endswith(".gz"))
    expected = [tf.io.parse_single_example(record, spec) for record in dataset]
    assert [int(row["i"]) for row in rows] == [int(row["i"]) for row in expected] == numbers
    assert [np.float32(float(row["f"])) for row in rows] == [row["f"].numpy() for row in expected]
    assert [row["image"] for row in rows] == [row["image"].numpy() for row in expected]
    assert {row["s"] for row in rows} == {"é".encode()}
    assert (places, broken) == (list(range(1, 501)), [])
    unit, _ = scanned(tmp_path / name, block_bytes)
    blocks = {1: 500, 300: len(unit.blocks), 1 << 20: 1}[block_bytes]
    assert len(unit.blocks) == blocks > (block_bytes == 300) * 100
    assert len(tfrecord_files.units([unit])) == (1 if name.endswith(".gz") else blocks)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_features_that_are_missing_of_two_types_or_of_several_values(tmp_path, block_bytes):
    records = [
        example(x=1, y=b"a"),
        example(x=1.5),
        b"",
        example(x=[1, 2], y=[b'"', "é".encode()]),
        example(x=[0.5, 1.0], y=[b"\xff", b"a"]),
        example(x=b"\xff\0"),
    ]
    write(tmp_path / "t.tfrecord", records)
    rows, places, broken = read(tmp_path / "t.tfrecord", block_bytes)
    assert rows == [
        {"x": b"1", "y": b"a"},
        {"x": b"1.5", "y": None},
        {"x": None, "y": None},
        {"x": b"[1,2]", "y": '["\\"","é"]'.encode()},
        {"x": b"[0.5,1.0]", "y": b'["\xff","a"]'},
        {"x": b"\xff\0", "y": None},
    ]
    assert json.loads(rows[3]["y"]) == ['"', "é"]
    assert (places, broken) == ([1, 2, 3, 4, 5, 6], [])
    chosen = read(tmp_path / "t.tfrecord", block_bytes, columns=("y", "z"))[0]
    assert chosen[0] == {"y": b"a", "z": None}


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_what_is_no_example_is_set_aside(tmp_path, block_bytes):
    write(tmp_path / "t.tfrecord", [example(x=1), b"garbage", example(x=2.5)])
    rows, places, broken = read(tmp_path / "t.tfrecord", block_bytes)
    assert rows == [{"x": b"1"}, {"x": b"2.5"}]
    assert places == [1, 3]
    assert broken == [(2, "undecodable_example", "garbage")]


def test_files_need_not_have_the_same_features(tmp_path):
    units = []
    for name, record in (("1", example(x=1)), ("2", example(y=1, z=2))):
        write(tmp_path / name, [record])
        unit, source = scanned(tmp_path / name)
        units.append(unit)
    found = tfrecord_files.units(units)
    assert [unit.columns for unit in found] == [("x", "y", "z")] * 2
    (structure,) = tfrecord_files.read(found[0], source)
    assert structure.values.to_pylist() == [{"x": b"1", "y": None, "z": None}]
    files = [unit.file for unit in units]
    assert list(tfrecord_files.columns(files, source)) == [("x",), ("x", "y", "z")]


RECORD_BYTES = 16 + len(example(x=1))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-1], "record 2 at byte {}: the file ends within its data"),
        (lambda data: data[: -RECORD_BYTES + 3], "record 2 at byte {}: the file ends within its h"),
        (lambda data: data[:-5] + b"\0" + data[-4:], "record 2 at byte {}: crc32c of its data is"),
        (lambda data: b"\x1f\x8b" + data, "record 0 at byte 0: crc32c of its length is"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, damage, message):
    write(tmp_path / "t.tfrecord", [example(x=1)] * 3)
    (tmp_path / "t.tfrecord").write_bytes(damage((tmp_path / "t.tfrecord").read_bytes()))
    with pytest.raises(DataError) as error:
        scanned(tmp_path / "t.tfrecord")
    wanted = f"{tmp_path}/t.tfrecord: {message.format(2 * RECORD_BYTES)}"
    assert str(error.value).startswith(wanted)
    assert str(error.value).endswith(". Mend or remove the file.")


def test_a_cut_gzip_file_stops(tmp_path):
    write(tmp_path / "t.tfrecord.gz", [example(x=1)] * 300, "GZIP")
    data = (tmp_path / "t.tfrecord.gz").read_bytes()
    (tmp_path / "t.tfrecord.gz").write_bytes(data[:-9])
    with pytest.raises(DataError, match="t.tfrecord.gz: .* the gzip stream ends too early. Mend"):
        scanned(tmp_path / "t.tfrecord.gz")


@pytest.mark.parametrize("ending", [".bz2", ".ZST"])
def test_a_compression_that_tensorflow_has_not(tmp_path, ending):
    (tmp_path / f"t{ending}").write_bytes(bz2.compress(b"x"))
    with pytest.raises(
        DataError, match=rf"a TFRecord file is plain or \.gz, not {ending.lower()}\."
    ):
        scanned(tmp_path / f"t{ending}")


@pytest.mark.parametrize("records", [[], [b"garbage"] * 3, [example()]])
def test_no_record_has_a_feature(tmp_path, records):
    write(tmp_path / "t.tfrecord", records)
    source = Source(format="tfrecord", paths=(f"{tmp_path}/t.tfrecord",))
    with pytest.raises(DataError, match=r"t\.tfrecord: no record here has a column. Give"):
        list(tfrecord_files.columns(list_files(source), source))


def test_a_file_without_records(tmp_path):
    write(tmp_path / "t.tfrecord", [])
    unit, _ = scanned(tmp_path / "t.tfrecord")
    assert (unit.columns, tfrecord_files.units([unit])) == ((), [])
