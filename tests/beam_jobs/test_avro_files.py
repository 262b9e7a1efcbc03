import datetime
import decimal
import io
import json
import uuid

import fastavro
import numpy as np
import pytest

from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import avro_files
from beam_jobs.sources.listing import list_files

UTC = datetime.UTC


def schema(**fields):
    return {
        "type": "record",
        "name": "row",
        "fields": [{"name": name, "type": kind} for name, kind in fields.items()],
    }


def write(path, of, records, codec="deflate", sync_interval=200):
    with open(path, "wb") as file:
        fastavro.writer(file, of, records, codec=codec, sync_interval=sync_interval)


def scanned(path, block_bytes=1 << 20, **kwargs):
    source = Source(format="avro", paths=(str(path),), **kwargs)
    (file,) = list_files(source)
    return avro_files.scan(file, source, block_bytes), source


def read(path, block_bytes=1 << 20, **kwargs):
    """The sound records as dicts, their numbers, and what is broken."""
    unit, source = scanned(path, block_bytes, **kwargs)
    rows, places, broken = [], [], []
    for part in avro_files.units([unit]):
        for found in avro_files.read(part, source):
            rows += found.values.to_pylist()
            places += found.places[found.sound].tolist()
            broken += [(int(found.places[p]), reason, detail) for p, reason, detail in found.broken]
    return rows, places, broken


TABLE = schema(
    i=["null", "long"],
    x="double",
    f="float",
    name=["string", "null"],
    image="bytes",
    flag="boolean",
    kind={"type": "enum", "name": "kind", "symbols": ["a", "b"]},
    vector={"type": "array", "items": "int"},
    of={"type": "record", "name": "of", "fields": [{"name": "x", "type": ["null", "string"]}]},
)


def made(num_records):
    rng = np.random.default_rng(1)
    for i in range(num_records):
        yield {
            "i": None if i % 7 == 3 else int(rng.integers(-(2**63), 2**63 - 1)),
            "x": float(rng.normal()),
            "f": float(np.float32(rng.normal())),
            "name": str(rng.choice(["é", "two\nlines", "", "😀"])) if i % 5 else None,
            "image": rng.bytes(int(rng.integers(0, 90))),
            "flag": bool(rng.integers(2)),
            "kind": "ab"[int(rng.integers(2))],
            "vector": rng.integers(-9, 9, int(rng.integers(0, 4))).tolist(),
            "of": {"x": f"{i}" if i % 2 else None},
        }


@pytest.mark.feature("fastavro", "writer", '`format = "avro"`')
@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
@pytest.mark.parametrize("block_bytes", [1, 3000, 1 << 20])
def test_records_are_those_of_fastavro(tmp_path, codec, block_bytes):
    write(tmp_path / "t.avro", TABLE, [*made(500)], codec)
    rows, places, broken = read(tmp_path / "t.avro", block_bytes)
    with open(tmp_path / "t.avro", "rb") as file:
        expected = [*fastavro.reader(file)]
    assert len(rows) == len(expected) == 500
    for row, record in zip(rows, expected, strict=True):
        assert row["i"] == (None if record["i"] is None else str(record["i"]))
        assert float(row["x"]) == record["x"]
        assert row["f"] == np.format_float_scientific(record["f"]) or (
            np.float32(float(row["f"])) == record["f"] and len(row["f"]) < 16
        )
        assert row["name"] == (record["name"] or None)
        assert row["image"] == record["image"]
        assert row["flag"] == json.dumps(record["flag"])
        assert row["kind"] == record["kind"]
        assert json.loads(row["vector"]) == record["vector"]
        assert row["of.x"] == record["of"]["x"]
    assert (places, broken) == ([*range(1, 501)], [])
    unit, _ = scanned(tmp_path / "t.avro", block_bytes)
    assert (len(unit.blocks) > 5) == (block_bytes < 4000)
    assert len(avro_files.units([unit])) == len(unit.blocks)


NOON = datetime.datetime(2020, 1, 2, 12, 0, 0, 250_000)


@pytest.mark.parametrize(
    "kind, value, found",
    [
        ({"type": "int", "logicalType": "date"}, datetime.date(1969, 12, 31), "1969-12-31"),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            NOON.replace(tzinfo=UTC),
            "2020-01-02 12:00:00.250Z",
        ),
        (
            {"type": "long", "logicalType": "timestamp-micros"},
            NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
            "2020-01-02 10:00:00.250000Z",
        ),
        (
            {"type": "long", "logicalType": "local-timestamp-micros"},
            NOON,
            "2020-01-02 12:00:00.250000",
        ),
        ({"type": "int", "logicalType": "time-millis"}, NOON.time(), "12:00:00.250"),
        ({"type": "long", "logicalType": "time-micros"}, NOON.time(), "12:00:00.250000"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 3},
            decimal.Decimal("-1234567890123456789012345678901234567.125"),
            "-1234567890123456789012345678901234567.125",
        ),
        (
            {"type": "fixed", "name": "d", "size": 4, "logicalType": "decimal", "precision": 6},
            decimal.Decimal(-12),
            "-12",
        ),
        (
            {"type": "string", "logicalType": "uuid"},
            uuid.UUID(int=7),
            "00000000-0000-0000-0000-000000000007",
        ),
        ({"type": "fixed", "name": "f", "size": 2}, b"\xff\0", b"\xff\0"),
        (["null", "int", "long"], 2**40, str(2**40)),
        (["float", "null", "double"], 0.1, "0.1"),
        ("null", None, None),
        ("double", float("nan"), "nan"),
        ("double", 12.0, "12"),
        (
            {"type": "map", "values": ["null", "string"]},
            {"a": "é", "b": None},
            '{"a":"é","b":null}',
        ),
        (
            {"type": "array", "items": {"type": "long", "logicalType": "timestamp-millis"}},
            [NOON.replace(tzinfo=UTC)],
            '["2020-01-02 12:00:00.25+00"]',
        ),
    ],
)
def test_what_becomes_of_a_value(tmp_path, kind, value, found):
    write(tmp_path / "t", schema(a=kind, z="int"), [{"a": value, "z": 1}])
    assert read(tmp_path / "t") == ([{"a": found, "z": "1"}], [1], [])


def write_as(path, of, records, said):
    """Writes records of a schema under a header that says another one for the same bytes."""
    sync = b"0123456789abcdef"
    with open(path, "wb") as file:
        fastavro.writer(file, said, [], sync_marker=sync)
        header_bytes = file.tell()
    whole = io.BytesIO()
    fastavro.writer(whole, of, records, sync_marker=sync)
    blocks = whole.getvalue().split(sync, 1)[1]
    assert header_bytes > 100
    with open(path, "ab") as file:
        file.write(blocks)


def test_a_time_that_python_cannot_say(tmp_path):
    said = schema(a={"type": "long", "logicalType": "timestamp-millis"})
    write_as(tmp_path / "t", schema(a="long"), [{"a": 3 * 10**14}], said)
    expected = str(np.datetime64(3 * 10**14, "ms")).replace("T", " ") + "Z"
    assert read(tmp_path / "t")[0] == [{"a": expected}]


def test_a_text_that_is_none_breaks_its_record(tmp_path):
    names = [b"a", b"caf\xe9", b"\0", "é".encode()]
    records = [{"a": name} for name in names]
    write_as(tmp_path / "t", schema(a="bytes"), records, schema(a="string"))
    rows, places, broken = read(tmp_path / "t", 1)
    assert (rows, places) == ([{"a": "a"}, {"a": "é"}], [1, 4])
    assert broken == [(2, "bad_encoding", "column 'a'"), (3, "nul_byte", "column 'a'")]


def test_records_within_records_and_names_that_are_used_again(tmp_path):
    point = {"type": "record", "name": "p", "fields": [{"name": "x", "type": "int"}]}
    of = schema(a=point, b=["null", "p"], c={"type": "array", "items": "p"})
    of["namespace"] = "some.where"
    write(tmp_path / "t", of, [{"a": {"x": 1}, "b": None, "c": [{"x": 2}]}])
    assert read(tmp_path / "t")[0] == [{"a.x": "1", "b.x": None, "c": '[{"x":2}]'}]
    assert read(tmp_path / "t", columns=("c", "a.x"))[0] == [{"c": '[{"x":2}]', "a.x": "1"}]


def test_files_of_other_columns_stop(tmp_path):
    units = []
    for name, of in (("1", schema(x="int", y="int")), ("2", schema(y="string", z="int"))):
        write(tmp_path / name, of, [])
        units.append(scanned(tmp_path / name)[0])
    message = f"{tmp_path}/2: the columns are ['y', 'z'], but those of {tmp_path}/1 are ['x', 'y']."
    with pytest.raises(DataError) as error:
        avro_files.units(units)
    assert str(error.value) == f"{message} Give files with one set of columns."
    assert avro_files.units(units[:1]) == []


def _of(kind):
    out = io.BytesIO()
    fastavro.writer(out, kind, [])
    return lambda data: out.getvalue()


LIST = schema(next=["null", "row"])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-1], "cannot be read: the file ends within block 4. Mend or remove"),
        (lambda data: data[:-17], "cannot be read: the file ends within block 4. Mend or remove"),
        (lambda data: data[:-3] + b"xxx", "cannot be read: block 4 does not end with the file's"),
        (lambda data: data + b"\x80", "cannot be read: a number in it has no end. Mend or remove"),
        (lambda data: data + b"\x02\x01", "cannot be read: block 5 has a size below zero."),
        (lambda data: data[:40], "cannot be read: "),
        (lambda data: b"", "cannot be read: "),
        (lambda data: b"a,b\n1,2\n", "cannot be read: "),
        (lambda data: data.replace(b'"a"', b'"\xff"'), "cannot be read: "),
        (_of("string"), "holds values of the type 'string'. Give a file of records."),
        (_of({"type": "array", "items": "int"}), "holds values of the type 'array'. Give a"),
        (_of(schema(a=["int", "string"])), "'a' is a union of int, string, which no column can"),
        (_of(LIST), "a record 'row' holds records of its own kind, which no columns can."),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    write(tmp_path / "t", schema(a="int"), [{"a": i} for i in range(500)], "null")
    (tmp_path / "t").write_bytes(damage((tmp_path / "t").read_bytes()))
    with pytest.raises(DataError) as error:
        scanned(tmp_path / "t")
    assert str(error.value).startswith(f"{tmp_path}/t: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2"])
def test_whatever_is_damaged_in_a_block_is_one_line(tmp_path, codec):
    write(tmp_path / "t", TABLE, [*made(60)], codec, 10**6)
    data = (tmp_path / "t").read_bytes()
    rng = np.random.default_rng(1)
    start = data.index(data[-16:]) + 20
    num_errors = 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(start, len(data) - 16, 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "t").write_bytes(damaged)
        try:
            rows, _, broken = read(tmp_path / "t")
            assert len(rows) + len(broken) <= 60
        except DataError as error:
            assert str(error).startswith(f"{tmp_path}/t: ")
            assert "\n" not in str(error)
            num_errors += 1
    assert num_errors > 10


def test_a_codec_that_is_not_there_is_said(tmp_path):
    write(tmp_path / "t", schema(a="int"), [{"a": 1}], "null")
    data = (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(data.replace(b"\x08null", b"\x08none"))
    with pytest.raises(DataError, match="t: cannot be read: .*none.* Mend or remove the file."):
        read(tmp_path / "t")
