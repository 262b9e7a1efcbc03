import concurrent.futures
import dataclasses
import gzip
import os
import struct
import zlib

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.localfilesystem import LocalFileSystem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_jobs.errors import DataError
from beam_jobs.shards import (
    MEMBER_BYTES,
    ShardInfo,
    ShardReader,
    ShardWriter,
    frame_records,
    is_intact,
    read_records,
    shard_name,
)

RECORDS = st.lists(st.binary(max_size=300), max_size=20)


def crc32c(data: bytes) -> str:
    return f"{google_crc32c.value(data):08x}"


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def large_binary(records):
    return pa.array(records, pa.large_binary())


def sizes_of(framed) -> np.ndarray:
    """The sizes of framed records, hopping from one to the next."""
    sizes, position = [], 0
    while position < len(framed):
        sizes.append(16 + int.from_bytes(framed[position : position + 8], "little"))
        position += sizes[-1]
    return np.array(sizes, np.int64)


def write(directory, framed, compression="none", cut=None, pool=None) -> ShardInfo:
    """Writes records; with a cut, in pieces that end within records, and their sizes in threes."""
    name = shard_name("train", 0, 1, compression)
    sizes, none = sizes_of(framed), np.empty(0, np.int64)
    with ShardWriter(str(directory), name, compression, pool=pool) as writer:
        for start in range(0, len(framed), cut or max(len(framed), 1)):
            writer.write(framed[start : start + cut] if cut else framed, none)
        for start in range(0, len(sizes), 3 if cut else max(len(sizes), 1)):
            writer.write(b"", sizes[start : start + 3] if cut else sizes)
        return writer.close()


def files(directory) -> list[str]:
    return sorted(name for _, _, names in os.walk(directory) for name in names)


def numbers(count, width=40) -> list[bytes]:
    return [b"%0*d" % (width, number) for number in range(count)]


# Framing


@settings(deadline=None)
@given(RECORDS)
@example([b""])
@example([])
def test_framing_is_length_crc_data_crc(records):
    assert bytes(frame_records(large_binary(records))) == b"".join(map(frame, records))


@pytest.mark.parametrize("sizes", [[700_000, 3], [3072] * 700, [40] * 9000, [0, 5_000_000, 1]])
def test_framing_of_long_and_of_many_records(sizes):
    records = [bytes([size % 251]) * (size - 1) + b"x" if size else b"" for size in sizes]
    assert bytes(frame_records(large_binary(records))) == b"".join(map(frame, records))


@pytest.mark.parametrize("width", [1, 64, 65, 327, 8000])
@pytest.mark.parametrize("num_differing", [0, 1, 64, 65, 8000])
def test_framing_of_records_that_are_alike(width, num_differing):
    random = np.random.default_rng(width + num_differing)
    records = np.tile(random.integers(0, 256, width, np.uint8), (300, 1))
    where = random.permutation(width)[:num_differing]  # Also where the probe sees none of them.
    records[70:, where] = random.integers(0, 256, (230, len(where)), np.uint8)
    data = [record.tobytes() for record in records]
    assert bytes(frame_records(large_binary(data))) == b"".join(map(frame, data))
    assert len(set(data)) > 100 or num_differing < 2 or width < 2


@pytest.mark.parametrize("width", [40, 20_000])
@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()])
def test_framing_of_a_slice_frames_only_the_slice(type_, width):
    records = numbers(10, width)
    framed = frame_records(pa.array(records, type_).slice(3, 4))
    assert bytes(framed) == b"".join(map(frame, records[3:7]))


def test_framing_a_null_is_an_error():
    with pytest.raises(ValueError, match="must not be null, but 1 are"):
        frame_records(large_binary([b"a", None]))


# Writing


def test_the_name_of_a_shard():
    assert shard_name("train", 3, 12, "gzip") == "train-00003-of-00012.tfrecord.gz"
    assert shard_name("test", 0, 1, "none") == "test-00000-of-00001.tfrecord"


def test_an_uncompressed_shard_is_what_tensorflow_writes(tmp_path):
    records = [b"", b"a", *numbers(500), bytes(300_000)]
    with tf.io.TFRecordWriter(str(tmp_path / "expected")) as writer:
        for record in records:
            writer.write(record)
    expected = (tmp_path / "expected").read_bytes()
    info = write(tmp_path, frame_records(large_binary(records)))
    assert (tmp_path / info.file).read_bytes() == expected
    crc = crc32c(expected)
    starts = [0, 16, *range(33, 33 + 501 * 56, 56)]
    entered = next(number for number, start in enumerate(starts) if start >= 16_384)
    index = f"{entered}:{starts[entered]}"  # The last one begins before byte 32,768.
    assert info == ShardInfo("train-00000-of-00001.tfrecord", 503, len(expected), crc, crc, index)


@pytest.mark.parametrize("compression, tf_name", [("none", ""), ("gzip", "GZIP")])
@pytest.mark.parametrize("records", [[], numbers(60_000, width=50)], ids=["empty", "many"])
def test_tensorflow_reads_what_was_written(tmp_path, compression, tf_name, records):
    info = write(tmp_path, frame_records(large_binary(records)), compression)
    path = str(tmp_path / info.file)
    batches = tf.data.TFRecordDataset(path, tf_name).batch(10_000)
    assert [record for batch in batches for record in batch.numpy()] == records
    assert list(read_records(path, compression)) == records


def test_a_gzip_shard_has_members_of_1_mib_and_the_checksums_of_both_streams(tmp_path):
    framed = bytes(frame_records(large_binary(numbers(60_000, width=50))))
    assert len(framed) > 3 * MEMBER_BYTES
    info = write(tmp_path, framed, "gzip")
    data = (tmp_path / info.file).read_bytes()
    assert gzip.decompress(data) == framed
    assert (info.bytes, info.crc32c) == (len(data), crc32c(data))
    assert info.crc32c_uncompressed == crc32c(framed)
    sizes = []
    while data:
        assert data[:10] == bytes([31, 139, 8, 0, 0, 0, 0, 0, 0, 255])  # No time, no name, no OS.
        member = zlib.decompressobj(wbits=31)
        sizes.append(len(member.decompress(data)))
        data = member.unused_data
    assert sizes == [1 << 20, 1 << 20, 1 << 20, len(framed) - 3 * (1 << 20)]


def test_an_empty_shard_is_an_empty_file_or_one_empty_member(tmp_path):
    plain, packed = write(tmp_path, b"", "none"), write(tmp_path, b"", "gzip")
    assert plain == ShardInfo(plain.file, 0, 0, "00000000", "00000000")
    assert (tmp_path / plain.file).read_bytes() == b""
    assert gzip.decompress((tmp_path / packed.file).read_bytes()) == b""
    assert packed.bytes == 20


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1000, 3 * MEMBER_BYTES), threads=st.sampled_from([0, 1, 4]))
@example(cut=MEMBER_BYTES, threads=0)
@example(cut=MEMBER_BYTES + 1, threads=4)
def test_the_bytes_do_not_depend_on_the_cuts_or_the_threads(tmp_path_factory, cut, threads):
    stream = frame(bytes(range(256)) * 100) * 130
    assert len(stream) > 3 * MEMBER_BYTES
    whole = tmp_path_factory.mktemp("whole")
    parts = tmp_path_factory.mktemp("parts")
    info = write(whole, stream, "gzip")
    with concurrent.futures.ThreadPoolExecutor(max(threads, 1)) as pool:
        assert write(parts, stream, "gzip", cut, pool if threads else None) == info
    assert (parts / info.file).read_bytes() == (whole / info.file).read_bytes()


def test_counts_add_up_over_calls(tmp_path):
    with ShardWriter(str(tmp_path), "train-00000-of-00001.tfrecord", "none") as writer:
        writer.write(frame(b"a") + frame(b"b"), np.array([17, 17]))
        writer.write(memoryview(frame(b"c")), np.array([17]))
        info = writer.close()
    assert (info.num_examples, info.bytes) == (3, 51)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_nothing_stands_under_the_name_before_close(tmp_path, compression):
    name = shard_name("train", 0, 1, compression)
    with ShardWriter(str(tmp_path), name, compression) as writer:
        writer.write(frame(b"a") * 100_000, np.full(100_000, 17))
        assert not (tmp_path / name).exists()
        writer.close()
        assert files(tmp_path) == [name]


@pytest.mark.parametrize("folder", ["out", "run[1]"])
@pytest.mark.parametrize("threads", [0, 2])
def test_an_aborted_shard_leaves_nothing(tmp_path, folder, threads):
    directory = tmp_path / folder
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with pytest.raises(RuntimeError, match="the job failed"):
            with ShardWriter(str(directory), "x", "gzip", pool=pool if threads else None) as writer:
                writer.write(frame(b"a") * 100_000, np.full(100_000, 17))
                assert len(files(directory)) == 1
                raise RuntimeError("the job failed")
    assert files(directory) == []


def test_a_leftover_of_the_same_name_is_replaced(tmp_path):
    (tmp_path / "train-00000-of-00001.tfrecord").write_bytes(b"left over")
    info = write(tmp_path, frame(b"a"))
    assert (tmp_path / info.file).read_bytes() == frame(b"a")


def test_two_attempts_at_once_do_not_meet(tmp_path):
    first = ShardWriter(str(tmp_path), "x", "none")
    second = ShardWriter(str(tmp_path), "x", "none")
    first.write(frame(b"a"), np.array([17]))
    second.write(frame(b"a"), np.array([17]))
    assert first.close() == second.close()
    assert (tmp_path / "x").read_bytes() == frame(b"a")


def test_a_shard_that_cannot_be_put_into_place_leaves_nothing(tmp_path):
    (tmp_path / "x" / "occupied").mkdir(parents=True)
    writer = ShardWriter(str(tmp_path), "x", "none")
    with pytest.raises(BeamIOError, match="Rename operation failed"):
        writer.close()
    assert files(tmp_path) == []
    assert (tmp_path / "x" / "occupied").is_dir()


class StrictFileSystem(LocalFileSystem):
    """A disk that, like HDFS, does not rename onto a file that exists."""

    @classmethod
    def scheme(cls):
        return "strict"

    def join(self, basepath, *paths):
        return "/".join((basepath, *paths))

    def create(self, path, *args, **kwargs):
        return super().create(path.removeprefix("strict:/"), *args, **kwargs)

    def exists(self, path):
        return super().exists(path.removeprefix("strict:/"))

    def delete(self, paths):
        super().delete([path.removeprefix("strict:/") for path in paths])

    def rename(self, source_file_names, destination_file_names):
        if any(map(self.exists, destination_file_names)):
            raise BeamIOError("a file exists", {})
        names = [
            [path.removeprefix("strict:/") for path in paths]
            for paths in (source_file_names, destination_file_names)
        ]
        super().rename(*names)


def test_a_leftover_is_replaced_where_a_rename_does_not_replace(tmp_path):
    (tmp_path / "x").write_bytes(b"left over")
    with ShardWriter(f"strict:/{tmp_path}", "x", "none") as writer:
        writer.write(frame(b"a"), np.array([17]))
        writer.close()
    assert (tmp_path / "x").read_bytes() == frame(b"a")
    with ShardWriter(f"strict:/{tmp_path}", "y", "none"):
        assert len(files(tmp_path)) == 2
    assert files(tmp_path) == ["x"]


def test_info_to_json_and_back():
    info = ShardInfo("f", 1, 2, "0000000a", "0000000b", "3:99")
    entry = {
        "file": "f",
        "num_examples": 1,
        "bytes": 2,
        "crc32c": "0000000a",
        "crc32c_uncompressed": "0000000b",
        "index": "3:99",
    }
    assert info.to_json() == entry
    del entry["index"]
    assert ShardInfo.from_json(entry) == dataclasses.replace(info, index="")
    assert ShardInfo.from_json(info.to_json() | {"future": 1}) == info


def test_a_shard_is_intact_until_a_byte_changes(tmp_path):
    info = write(tmp_path, frame(b"a") * 9, "gzip")
    path = tmp_path / info.file
    data = path.read_bytes()
    assert is_intact(str(tmp_path), info)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not is_intact(str(tmp_path), info)
    path.write_bytes(data[:-1])
    assert not is_intact(str(tmp_path), info)
    path.unlink()
    assert not is_intact(str(tmp_path), info)


# Reading


@settings(max_examples=50, deadline=None)
@given(RECORDS, st.sampled_from(["none", "gzip"]))
def test_reading_gives_what_tensorflow_wrote(tmp_path_factory, records, compression):
    path = str(tmp_path_factory.mktemp("read") / "file")
    with tf.io.TFRecordWriter(path, "GZIP" if compression == "gzip" else "") as writer:
        for record in records:
            writer.write(record)
    assert list(read_records(path, compression)) == records


def test_reading_records_longer_than_the_buffer(tmp_path):
    records = [bytes(3 << 20), b"a", b"b" * (5 << 20), b"c"]
    (tmp_path / "x").write_bytes(b"".join(map(frame, records)))
    assert list(read_records(str(tmp_path / "x"), "none")) == records


def test_the_reader_knows_the_file_afterwards(tmp_path):
    info = write(tmp_path, b"".join(map(frame, numbers(60_000))), "gzip")
    with ShardReader(str(tmp_path / info.file), "gzip") as reader:
        assert sum(map(len, reader)) == 60_000 * 40
        assert reader.info() == info


def test_the_size_and_checksum_cover_what_follows_damaged_gzip(tmp_path):
    members = [gzip.compress(frame(os.urandom(600_000))) for _ in range(3)]
    data = bytearray(b"".join(members))
    data[len(members[0])] ^= 1  # The second member's magic number.
    (tmp_path / "x").write_bytes(data)
    with ShardReader(str(tmp_path / "x"), "gzip") as reader:
        with pytest.raises(DataError, match="record 1 at uncompressed byte 600016: the gzip stre"):
            list(reader)
        info = reader.info()
    assert (info.num_examples, info.bytes, info.crc32c) == (1, len(data), crc32c(bytes(data)))


# Three records of 40 bytes: 56 bytes each in the file.
@pytest.mark.parametrize(
    "damage, where",
    [
        (lambda b: b[:57] + b"\1" + b[58:], "record 1 at byte 56: crc32c of its length is"),
        (lambda b: b[:65] + b"\1" + b[66:], "record 1 at byte 56: crc32c of its length is"),
        (lambda b: b[:80] + b"\1" + b[81:], "record 1 at byte 56: crc32c of its data is"),
        (lambda b: b[:-1] + b"\1", "record 2 at byte 112: crc32c of its data is"),
        (lambda b: b[:117], "record 2 at byte 112: the file ends within its header (5 of 12"),
        (lambda b: b[:130], "record 2 at byte 112: the file ends within its data (6 of 40"),
        (lambda b: b[:-2], "record 2 at byte 112: the file ends within its data (40 of 40"),
        (lambda b: b + b"\0", "record 3 at byte 168: the file ends within its header (1 of 12"),
        (lambda b: b"x" + b, "record 0 at byte 0: crc32c of its length is"),
    ],
)
def test_damage_is_named_with_record_and_byte(tmp_path, damage, where):
    stream = b"".join(map(frame, numbers(3)))
    assert len(stream) == 168
    path = tmp_path / "train-00000-of-00001.tfrecord"
    path.write_bytes(damage(stream))
    with pytest.raises(DataError) as caught:
        list(read_records(str(path), "none"))
    message = str(caught.value)
    assert message.startswith(f"{path}: {where}")
    assert message.endswith(": the file is damaged. Run `headrace verify` on its folder.")
    assert "\n" not in message


def test_the_records_before_the_damage_are_read(tmp_path):
    stream = bytearray(b"".join(map(frame, numbers(50_000))))
    stream[49_990 * 56 + 20] ^= 64
    (tmp_path / "x").write_bytes(stream)
    found = []
    with pytest.raises(DataError, match="record 49990 at byte 2799440: crc32c of its data is"):
        found.extend(read_records(str(tmp_path / "x"), "none"))
    assert found == numbers(49_990)


def test_the_checksums_of_a_message_are_those_of_the_data_and_the_footer(tmp_path):
    (tmp_path / "x").write_bytes(frame(b"abc")[:12] + b"abd" + frame(b"abc")[15:])
    with pytest.raises(DataError) as caught:
        list(read_records(str(tmp_path / "x"), "none"))
    expected = f"crc32c of its data is {crc32c(b'abd')}, but its footer says {crc32c(b'abc')}:"
    assert expected in str(caught.value)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize(
    "length, message",
    [
        (2**64 - 1, "its length is 18446744073709551615 bytes, but an example has under 2 GiB"),
        (2**31 - 1, "the file ends within its data (3 of 2147483647 bytes)"),
    ],
)
def test_a_hostile_length_reserves_no_memory(tmp_path, compression, length, message):
    header = struct.pack("<Q", length)
    stream = frame(b"first") + header + masked(header) + b"end"
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(stream) if compression == "gzip" else stream)
    unit = "uncompressed byte" if compression == "gzip" else "byte"
    with pytest.raises(DataError) as caught:
        list(read_records(str(path), compression))
    assert f"record 1 at {unit} 21: {message}" in str(caught.value)


def test_a_cut_gzip_file(tmp_path):
    stream = b"".join(map(frame, numbers(3)))
    (tmp_path / "x").write_bytes(gzip.compress(stream)[:-3])
    with pytest.raises(DataError, match="record 3 at uncompressed byte 168: .* ends too early"):
        list(read_records(str(tmp_path / "x"), "gzip"))


@pytest.mark.parametrize("position", [0, 40, -6])
def test_a_corrupt_gzip_file(tmp_path, position):
    data = bytearray(gzip.compress(b"".join(map(frame, numbers(3)))))
    data[position] ^= 0xFF
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=r"x: record \d at uncompressed byte \d+: "):
        list(read_records(str(tmp_path / "x"), "gzip"))


def test_garbage_after_the_last_member(tmp_path):
    (tmp_path / "x").write_bytes(gzip.compress(frame(b"a")) + b"garbage")
    with pytest.raises(DataError, match="record 1 at uncompressed byte 17: the gzip stream is cor"):
        list(read_records(str(tmp_path / "x"), "gzip"))


def test_a_bomb_of_one_record_is_read_in_pieces(tmp_path):
    # 64 MiB of zeros: headers of length 0 whose checksum is wrong. The first one stops the reader.
    (tmp_path / "x").write_bytes(gzip.compress(bytes(64 << 20)))
    with ShardReader(str(tmp_path / "x"), "gzip") as reader:
        with pytest.raises(DataError, match="record 0 at uncompressed byte 0: crc32c of its len"):
            list(reader)
        assert len(reader._buffer) <= 2 << 20


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="nowhere: cannot be opened: .*No such file"):
        list(read_records(str(tmp_path / "nowhere"), "none"))
