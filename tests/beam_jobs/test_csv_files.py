import bz2
import csv
import gzip
import io

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import csv_files
from beam_jobs.sources.listing import list_files

MANY = b"a,b\n" + b"".join(b'%d,"x\n%d"\n' % (i, i * 7919) for i in range(3000))
PIECES = ["a", '"', '"a"', ",", ",", "\n", "\r\n", "\r", '"x\ny"', '""', "é"]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


COMPRESSED = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("csv")


def scanned(path, block_bytes, **kwargs):
    source = Source(format="csv", paths=(str(path),), **kwargs)
    return csv_files.scan(list_files(source)[0], source, block_bytes), source


def read(folder, data: bytes, block_bytes=1 << 20, name="x.csv", **kwargs):
    """Columns, (line, values) of the sound records, (line, reason) of the others, all units."""
    path = folder / name
    path.write_bytes(data)
    unit, source = scanned(path, block_bytes, **kwargs)
    if unit is None:
        return None
    rows, broken = [], []
    for part in csv_files.units([unit]):
        for found in csv_files.read(part, source):
            columns = [column.to_pylist() for column in found.values.columns]
            values = list(zip(*columns, strict=True))
            rows += zip(found.places[found.sound].tolist(), values, strict=True)
            broken += [(int(found.places[p]), reason, why) for p, reason, why in found.broken]
    return unit.columns, rows, broken


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.sampled_from([1, 2, 7, 50]))
@example('"x\r\ny",a,b\r\n\r\na,b,c', 1)
def test_any_text_is_read_as_by_the_csv_module(folder, body, block_bytes):
    text = "c1,c2,c3\n" + body
    try:
        _, rows, broken = read(folder, text.encode(), block_bytes, null_values=())
    except DataError as error:
        assert "is never closed" in str(error)
        with pytest.raises(csv.Error):
            list(csv.reader(io.StringIO(text, newline=""), strict=True))
        return
    reader = csv.reader(io.StringIO(text, newline=""))
    expected = [tuple(row) for row in reader if row][1:]
    assert [values for _, values in rows] == [row for row in expected if len(row) == 3]
    assert [r[1] for r in broken] == ["ragged_row"] * sum(len(row) != 3 for row in expected)


@pytest.mark.parametrize("block_bytes", [1, 5, 1 << 20])
def test_line_ends_bom_quoted_newlines_and_lines(folder, block_bytes):
    data = b'\xef\xbb\xbfa,b\r\n1,2\r3,"x\r\ny"\n\n5,6'
    rows = [(2, ("1", "2")), (3, ("3", "x\r\ny")), (6, ("5", "6"))]
    assert read(folder, data, block_bytes) == (("a", "b"), rows, [])


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_reasons_and_their_lines(folder, block_bytes):
    data = b'a,b\n1,2\n\xff,3\n4,\x00\n1,2,3\n"q\nq",\xc3\x28\n9\n1,2'
    _, rows, broken = read(folder, data, block_bytes)
    assert rows == [(2, ("1", "2")), (9, ("1", "2"))]
    assert broken == [
        (3, "bad_encoding", "byte 0xff at 0 is not utf-8"),
        (4, "nul_byte", "the record holds a NUL byte"),
        (5, "ragged_row", "3 fields, but there are 2 columns"),
        (6, "bad_encoding", "byte 0xc3 at 6 is not utf-8"),
        (8, "ragged_row", "1 fields, but there are 2 columns"),
    ]


@pytest.mark.parametrize(
    "data, expected",
    [(b"", None), (b"\n\n", None), (b"a,b", ("a", "b")), (b"\n\na,b\r\n", ("a", "b"))],
)
def test_files_without_records(folder, data, expected):
    assert read(folder, data) == (expected and (expected, [], []))


def test_a_column_of_one_that_is_empty_is_no_blank_line(folder):
    assert read(folder, b'a\n\n1\n""\n') == (("a",), [(3, ("1",)), (4, (None,))], [])


def test_options(folder):
    latin = read(folder, "a,b\né,\xff\n".encode("latin-1"), encoding="latin-1")
    assert latin[1:] == ([(2, ("é", "ÿ"))], [])
    named = read(folder, b"1,2\n3,4\n", header=False, columns=("p", "q"))
    assert named == (("p", "q"), [(1, ("1", "2")), (2, ("3", "4"))], [])
    other = read(folder, b"a;b\n'x;y';\"\n", delimiter=";", quote="'")
    assert other[1] == [(2, ("x;y", '"'))]
    trimmed = read(folder, b' a , b \n 1 ,  \n"",? \n', trim=True, null_values=("?", ""))
    assert trimmed == (("a", "b"), [(2, ("1", None)), (3, (None, None))], [])
    kept = read(folder, b"a,b\n ?,\n", null_values=("?",))
    assert kept[1] == [(2, (" ?", ""))]


@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
def test_an_open_quote_stops_with_its_line(folder, block_bytes):
    with pytest.raises(DataError, match=r"x\.csv:4: the quote that opens here is never closed"):
        read(folder, b'a,b\n"1\n",2\nx,"y\n3,4\n', block_bytes)


def test_an_open_quote_in_the_header_stops(folder):
    with pytest.raises(DataError, match=r"x\.csv:1: the quote that opens here is never closed"):
        read(folder, b'a,"b\n1,2\n3,4\n')


@pytest.mark.parametrize(
    "data, message",
    [
        (b"a,a\n1,2\n", "header: column 'a' stands there twice"),
        (b"\xff,a\n1,2\n", "the header is not utf-8"),
        (b"a,\0\n1,2\n", r"header: column '\\x00' has a NUL byte"),
        (b"a," + b"b" * 200_000 + b"\n1,2\n", r"x\.csv: header: field larger than field limit"),
        (b'a,"b\n' + b"1,2\n" * 5_000_000, r"x\.csv: the header has no end in 16 MiB"),
        (b"\0" * 17_000_000, r"x\.csv: the header has no end in 16 MiB"),
    ],
)
def test_headers_that_cannot_be_used(folder, data, message):
    with pytest.raises(DataError, match=message):
        read(folder, data)


NO_SINGLE_BYTES = (
    "nope shift_jis gbk big5 euc-jp johab utf-7 unicode_escape punycode idna undefined rot13 cp037"
).split()


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "koi8-r", "cp1255", "ascii"])
def test_encodings_of_one_byte_a_character(encoding):
    csv_files.dialect(Source(format="csv", paths=("x",), encoding=encoding))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"delimiter": "€"}, "source.delimiter: must be one ASCII character, but is '€'"),
        ({"quote": "\n"}, r"source.quote: must be one ASCII character, but is '\\n'"),
        ({"quote": ","}, "source.quote: must differ from delimiter, but both are ','"),
        ({"encoding": "utf-16"}, "encoding of one byte a character .* but is 'utf-16'"),
        *(({"encoding": name}, f"but is '{name}'") for name in NO_SINGLE_BYTES),
    ],
)
def test_options_that_cannot_be_used(kwargs, message):
    with pytest.raises(SpecError, match=message):
        csv_files.dialect(Source(format="csv", paths=("x",), **kwargs))


@pytest.mark.parametrize("name", ["x.csv", *(f"x.csv{ext}" for ext in COMPRESSED)])
def test_blocks_of_plain_and_compressed_files(folder, name):
    ending = name.removeprefix("x.csv")
    data = COMPRESSED[ending](MANY) if ending else MANY
    columns, rows, broken = read(folder, data, 1000, name)
    unit, _ = scanned(folder / name, 1000)
    assert len(unit.blocks) > 20
    assert len(csv_files.units([unit])) == (1 if ending else len(unit.blocks))
    expected = [(2 + 2 * i, (str(i), f"x\n{i * 7919}")) for i in range(3000)]
    assert (columns, rows, broken) == (("a", "b"), expected, [])


@pytest.mark.parametrize("ending", COMPRESSED)
@pytest.mark.parametrize("cut", ["last byte", "half", "start"])
def test_a_cut_compressed_file_stops(folder, ending, cut):
    data = COMPRESSED[ending](MANY)
    end = {"last byte": len(data) - 1, "half": len(data) // 2, "start": 3}[cut]
    with pytest.raises(DataError, match=f"x.csv{ending}: cannot be read: Truncated"):
        read(folder, data[:end], 1000, f"x.csv{ending}")


def test_a_file_that_shrinks_after_its_scan(folder):
    (folder / "y.csv").write_bytes(b"a\n1\n2\n")
    unit, source = scanned(folder / "y.csv", 100)
    (folder / "y.csv").write_bytes(b"a\n1\n")
    with pytest.raises(DataError, match="became shorter while it was read"):
        list(csv_files.read(unit, source))


def test_columns_may_stand_in_another_order_but_be_no_others(folder):
    units = []
    for name, header in (("1.csv", "a,b"), ("2.csv", "b,a"), ("3.csv", "a,c")):
        (folder / name).write_text(header + "\n1,2\n")
        units.append(scanned(folder / name, 100)[0])
    assert len(csv_files.units(units[:2])) == 2
    assert read(folder, b"b,a\n1,2\n")[0] == ("b", "a")
    with pytest.raises(DataError, match=r"3\.csv: .* \['a', 'c'\], .*1\.csv are \['a', 'b'\]"):
        csv_files.units(units)
