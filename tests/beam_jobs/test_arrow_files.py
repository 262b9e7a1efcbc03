import datetime
import decimal
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import arrow_files
from beam_jobs.sources.listing import list_files

ROWS = 1000


def write(path, table: pa.Table, rows: int, **options) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows, **options)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, rows)


def scanned(path, block_bytes=1 << 20, **kwargs):
    source = Source(format="parquet", paths=(str(path),), **kwargs)
    (file,) = list_files(source)
    return arrow_files.scan(file, source, block_bytes), source


def read(path, block_bytes=1 << 20, **kwargs):
    """The columns, by name, of all sound records, their numbers, and what is broken."""
    unit, source = scanned(path, block_bytes, **kwargs)
    values = {name: [] for name in unit.columns}
    places, broken = [], []
    for part in arrow_files.units([unit]):
        for found in arrow_files.read(part, source):
            for name, column in zip(found.values.schema.names, found.values.columns, strict=True):
                values[name] += column.to_pylist()
            places += found.places[found.sound].tolist()
            broken += [(int(found.places[p]), reason, detail) for p, reason, detail in found.broken]
    return values, places, broken


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_a_category_that_is_no_utf8_breaks_its_records_only(tmp_path, name, block_bytes):
    names = pa.array([b"ok", b"\xff", b"x"]).view(pa.string())
    indices = pa.array([0, 1, None, 2, 1], pa.int8())
    table = pa.table(
        {
            "c": pa.DictionaryArray.from_arrays(indices, names),
            "n": pa.DictionaryArray.from_arrays(indices, pa.array([1, 2, 3])),
        }
    )
    write(tmp_path / name, table, 3)
    values, places, broken = read(tmp_path / name, block_bytes)
    assert (values, places) == ({"c": ["ok", None, "x"], "n": ["1", None, "3"]}, [1, 3, 4])
    assert [(place, reason) for place, reason, _ in broken] == [
        (2, "bad_encoding"),
        (5, "bad_encoding"),
    ]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 20])
def test_numbers_parse_back_to_themselves(tmp_path, name, block_bytes):
    rng = np.random.default_rng(1)
    bits = rng.integers(-(2**63), 2**63, ROWS, np.int64, endpoint=False)
    doubles = np.where(np.isfinite(bits.view(np.float64)), bits.view(np.float64), 1e300)
    singles = bits.view(np.float32)[:ROWS]
    singles = np.where(np.isfinite(singles), singles, np.float32(0.1))
    table = pa.table({"i": bits, "d": doubles, "f": singles, "u": bits.view(np.uint64)})
    write(tmp_path / name, table, 300)
    values, places, broken = read(tmp_path / name, block_bytes)
    assert [int(text) for text in values["i"]] == bits.tolist()
    assert [int(text) for text in values["u"]] == bits.view(np.uint64).tolist()
    assert [float(text) for text in values["d"]] == doubles.tolist()
    assert np.array_equal(np.array([float(text) for text in values["f"]], np.float32), singles)
    assert (places, broken) == (list(range(1, ROWS + 1)), [])


UTC_2020 = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "values, expected",
    [
        (pa.array([True, None, False]), ["true", None, "false"]),
        (pa.array([1.0, -0.0, 0.1]), ["1", "-0", "0.1"]),
        (pa.array([1.5, None], pa.float16()), ["1.5", None]),
        (pa.array([decimal.Decimal("1.50")]), ["1.50"]),
        (pa.array([datetime.date(2020, 1, 2)]), ["2020-01-02"]),
        (pa.array([UTC_2020], pa.timestamp("s", "Asia/Tokyo")), ["2020-01-02 03:04:05Z"]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array(["é"], pa.large_string()), ["é"]),
        (pa.array(["é"], pa.string_view()), ["é"]),
        (pa.array([b"\xff\0"], pa.binary(2)), [b"\xff\0"]),
        (pa.array([b"\xff", None], pa.large_binary()), [b"\xff", None]),
        (pa.nulls(2), [None, None]),
        (pa.array([[1.5, None], None, []]), ["[1.5,null]", None, "[]"]),
    ],
)
def test_types_as_text(tmp_path, values, expected):
    write(tmp_path / "t.arrow", pa.table({"x": values}), 100)
    assert read(tmp_path / "t.arrow")[0] == {"x": expected}


def test_lists_are_json_and_fields_of_a_struct_columns(tmp_path):
    boxes = [[[1, 2, 3, 4]], [], None, [[0, 0, 5, 5], [1, 1, 2, 2]]]
    images = [{"bytes": b"\xff\xd8", "path": {"of": "a.jpg"}}, None, {"bytes": None}, {}]
    table = pa.table({"boxes": boxes, "image": images})
    write(tmp_path / "t.parquet", table, 3)
    values, _, broken = read(tmp_path / "t.parquet")
    assert [text and json.loads(text) for text in values["boxes"]] == boxes
    assert values["image.bytes"] == [b"\xff\xd8", None, None, None]
    assert values["image.path.of"] == ["a.jpg", None, None, None]
    assert not broken


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_only_the_columns_that_are_named(tmp_path, name):
    table = pa.table({"a": [1], "st": [{"b": 2, "c": 3}], "st.d": [4]})
    write(tmp_path / name, table, 1)
    assert read(tmp_path / name, columns=("st.c", "st.d"))[0] == {"st.c": ["3"], "st.d": ["4"]}
    with pytest.raises(DataError, match=r"there is no column 'st.e'. Correct source.columns."):
        read(tmp_path / name, columns=("st.e",))


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_texts_that_are_none_are_set_aside(tmp_path, name):
    raw = pa.array([b"a", b"caf\xe9", b"a\0", None, b"", "é".encode()])
    text = pa.Array.from_buffers(pa.string(), 6, raw.buffers())
    write(tmp_path / name, pa.table({"x": text, "raw": raw}), 4)
    values, places, broken = read(tmp_path / name)
    assert values == {"x": ["a", None, None, "é"], "raw": [b"a", None, b"", "é".encode()]}
    assert places == [1, 4, 5, 6]
    assert broken == [(2, "bad_encoding", "column 'x'"), (3, "nul_byte", "column 'x'")]


def test_nothing_that_a_number_says_is_lost(tmp_path):
    write(tmp_path / "t.parquet", pa.table({"x": [math.nan, math.inf, -math.inf]}), 3)
    assert read(tmp_path / "t.parquet")[0] == {"x": ["nan", "inf", "-inf"]}


def test_row_groups_are_units_and_parts_of_them_blocks(tmp_path):
    table = pa.table({"x": np.arange(ROWS), "s": ["x" * 100] * ROWS})
    write(tmp_path / "t.parquet", table, 400, use_dictionary=False)
    unit, _ = scanned(tmp_path / "t.parquet", 10_000)
    parts = arrow_files.units([unit])
    assert [part.blocks[-1].end for part in parts] == [400, 400, 200]
    assert [len(part.blocks) for part in parts] == [5, 5, 3]
    assert [part.blocks[0].first for part in parts] == [1, 401, 801]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_files_without_rows(tmp_path, name):
    write(tmp_path / name, pa.table({"x": pa.array([], pa.int64())}), 3)
    unit, _ = scanned(tmp_path / name)
    assert (unit.columns, arrow_files.units([unit])) == (("x",), [])


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize("keep", [0, 3, 8, 100, -1])
def test_a_damaged_file_is_named(tmp_path, name, keep):
    write(tmp_path / name, pa.table({"x": np.arange(ROWS)}), 100)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{name}: cannot be read: .*Mend or remove the file\.$"):
        scanned(tmp_path / name)


def test_a_page_that_is_damaged_stops(tmp_path):
    write(tmp_path / "t.parquet", pa.table({"x": np.arange(ROWS)}), 1000, compression="gzip")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[100:200] = bytes(100)
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read: .*Mend or remove the file"):
        read(tmp_path / "t.parquet")


def test_a_file_that_changes_after_its_scan(tmp_path):
    write(tmp_path / "t.parquet", pa.table({"x": np.arange(100)}), 100)
    unit, source = scanned(tmp_path / "t.parquet")
    write(tmp_path / "t.parquet", pa.table({"x": np.arange(90)}), 100)
    with pytest.raises(DataError, match="changed while it was read. Run again"):
        list(arrow_files.read(unit, source))


def test_files_have_one_set_of_columns(tmp_path):
    units = []
    for name, columns in (("1", "ab"), ("2", "ba"), ("3", "ac")):
        write(tmp_path / f"{name}.parquet", pa.table({c: [1] for c in columns}), 1)
        units.append(scanned(tmp_path / f"{name}.parquet")[0])
    assert len(arrow_files.units(units[:2])) == 2
    with pytest.raises(DataError, match=r"3\.parquet: .* \['a', 'c'\], .*1\.parquet are"):
        arrow_files.units(units)


def test_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])
    write(tmp_path / "t.parquet", table, 1)
    with pytest.raises(DataError, match=r"t\.parquet: column 'x' stands there twice. Rename it"):
        scanned(tmp_path / "t.parquet")
