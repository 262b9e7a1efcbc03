import bz2
import gzip
import json
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import jsonl_files
from beam_jobs.sources.listing import list_files


def scanned(path, block_bytes=1 << 20, **kwargs):
    source = Source(format="jsonl", paths=(str(path),), **kwargs)
    (file,) = list_files(source)
    return jsonl_files.scan(file, source, block_bytes), source


def read(path, block_bytes=1 << 20, **kwargs):
    """The sound records as dicts, their lines, and what is broken: line, reason, detail, text."""
    unit, source = scanned(path, block_bytes, **kwargs)
    rows, places, broken = [], [], []
    for part in jsonl_files.units([unit]):
        for found in jsonl_files.read(part, source):
            rows += found.values.to_pylist()
            places += found.places[found.sound].tolist()
            broken += [
                (int(found.places[p]), reason, detail, found.raw(p))
                for p, reason, detail in found.broken
            ]
    return rows, places, broken


def text(value):
    """What a column holds of one of Python's values."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def made(num_records):
    rng = np.random.default_rng(1)
    for i in range(num_records):
        record = {
            "i": int(rng.integers(-(2**63), 2**63 - 1)),
            "x": float(rng.integers(-99999, 99999)) / 1000,
            "name": str(rng.choice(["é", 'a "quoted", word', "two\nlines", "\\", "", "😀"])),
            "is_new": bool(rng.integers(2)),
            "vector": rng.integers(-9, 9, 3).tolist(),
            "of": {"a": 1, "b": [None, True, "x"]},
            "none": None,
        }
        if i % 7 == 3:
            del record["x"]
        yield dict(sorted(record.items(), reverse=bool(i % 2)))  # Keys in another order.


CODECS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}


@pytest.mark.feature("json", "dumps", '`format = "jsonl"`: a line each')
@pytest.mark.parametrize("codec", [*CODECS])
@pytest.mark.parametrize("block_bytes", [100, 3000, 1 << 20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_records_are_those_of_pythons_json(tmp_path, codec, block_bytes, line_end):
    records = [*made(300)]
    lines = [json.dumps(r, ensure_ascii=bool(i % 3)) for i, r in enumerate(records)]
    lines[5:5] = ["", " \t "]  # Blank ones are no records.
    whole = "\ufeff" + line_end.join(lines)  # A mark, and no line end at the end.
    path = tmp_path / f"t.jsonl{codec}"
    path.write_bytes(CODECS[codec](whole.encode()))
    rows, places, broken = read(path, block_bytes)
    names = sorted({name for record in records for name in record})
    expected = [{name: text(json.loads(line).get(name)) for name in names} for line in lines[7:]]
    assert rows[5:] == expected
    assert (places, broken) == ([1, 2, 3, 4, 5, *range(8, 303)], [])
    unit, _ = scanned(path, block_bytes)
    assert (len(unit.blocks) > 10) == (block_bytes < 4000)
    assert len(jsonl_files.units([unit])) == (1 if codec else len(unit.blocks))


@pytest.mark.parametrize(
    "written, found",
    [
        ("0.1", "0.1"),
        ("-7", "-7"),
        ("1e400", "1e400"),
        ("12345678901234567890", "12345678901234567890"),
        ("1" * 400, "1" * 400),
        ("9007199254740993", "9007199254740993"),
        ("12.0", "12.0"),
        ("1.50", "1.5"),
        ("1E5", "100000.0"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("true", "true"),
        ("null", None),
        ('""', None),
        ('"007"', "007"),
        ('"\\ud83d\\ude00\\/"', "😀/"),
        ("[1, [2.50]]", "[1,[2.5]]"),
        ('{"b": {"c": "\\u0000"}}', '{"b":{"c":"\\u0000"}}'),
        ("[]", "[]"),
    ],
)
def test_what_becomes_of_a_value(tmp_path, written, found):
    (tmp_path / "t").write_text(f'{{"a": {written}, "z": 1}}\n')
    assert read(tmp_path / "t") == ([{"a": found, "z": "1"}], [1], [])


BROKEN = [
    (b'{"a": 1', "broken_json", "Expecting ',' delimiter at character 8"),
    (b'{"a": 1,}', "broken_json", "Expecting property name enclosed in double quotes at"),
    (b'{"a": [1,\t]}', "broken_json", "Expecting value at character 11"),
    (b'{"a": 1} {}', "broken_json", "Extra data at character 10"),
    (b"{'a': 1}", "broken_json", "Expecting property name"),
    (b'{"a": 01}', "broken_json", "Expecting ',' delimiter"),
    (b'{"a": "\t"}', "broken_json", "Invalid control character at"),
    (b'{"a": "\\ud83d"}', "broken_json", "an escape in it is no character"),
    (b"[" * 50_000, "broken_json", "an escape in it is no character, or it is nested too deeply"),
    (b"[1]", "broken_json", "an array, but must be an object"),
    (b'"{}"', "broken_json", "a string, but must"),
    (b"null", "broken_json", "null, but must"),
    (b"3", "broken_json", "a number, but must"),
    (b'{"a": 1, "b": 2, "a": 1}', "broken_json", "the key 'a' is there twice"),
    (b'{"a": 1, "\\u0061": 1}', "broken_json", "the key 'a' is there twice"),
    (b'{"a": "caf\xe9"}', "bad_encoding", "byte 0xe9 at 10 is not utf-8"),
    (b'{"a": "\0"}', "nul_byte", "the record holds a NUL byte"),
    (b'{"a": "x\\u0000"}', "nul_byte", "column 'a'"),
    (b'{"a\\u0000": 1}', "nul_byte", "the record holds a NUL byte"),
    (b'\xef\xbb\xbf{"a": 1}', "broken_json", "Unexpected UTF-8 BOM"),
]


@pytest.mark.parametrize("line, reason, detail", BROKEN)
def test_a_broken_line_is_set_aside(tmp_path, line, reason, detail):
    (tmp_path / "t").write_bytes(b'{"a": ", ]"}\n' + line + b'\n{"a": 2}')
    for block_bytes in (1, 1 << 20):
        rows, places, broken = read(tmp_path / "t", block_bytes, columns=("a",))
        assert (rows, places) == ([{"a": ", ]"}, {"a": "2"}], [1, 3])
        ((where, found, said, raw),) = broken
        assert (where, found) == (2, reason)
        assert said.startswith(detail)
        assert raw == line[:4096].decode("utf-8", "backslashreplace")


def test_all_kinds_of_broken_lines_in_one_block(tmp_path):
    (tmp_path / "t").write_bytes(b"\n".join(line for line, _, _ in BROKEN))
    rows, _, broken = read(tmp_path / "t")
    assert rows == []
    assert [reason for _, reason, _, _ in broken] == [reason for _, reason, _ in BROKEN]


def test_columns_may_be_chosen(tmp_path):
    (tmp_path / "t").write_text('{"b": 1, "a": 2, "B": 3}\n{"A": 4}\n')
    assert read(tmp_path / "t")[0] == [
        {"A": None, "B": "3", "a": "2", "b": "1"},
        {"A": "4", "B": None, "a": None, "b": None},
    ]
    chosen = read(tmp_path / "t", 1, columns=("z", "b"))[0]
    assert chosen == [{"b": "1", "z": None}, {"b": None, "z": None}]


def test_files_need_not_have_the_same_keys(tmp_path):
    units = []
    for name, line in (("1", '{"x": 1}'), ("2", '{"y": 1, "/z~ \\"": 2}')):
        (tmp_path / name).write_text(line)
        unit, source = scanned(tmp_path / name)
        units.append(unit)
    found = jsonl_files.units(units)
    assert [unit.columns for unit in found] == [('/z~ "', "x", "y")] * 2
    (structure,) = jsonl_files.read(found[1], source)
    assert structure.values.to_pylist() == [{'/z~ "': "2", "x": None, "y": "1"}]
    files = [unit.file for unit in units]
    assert list(jsonl_files.columns(files, source)) == [("x",), ('/z~ "', "x", "y")]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"{}\n", b"[1]", '{"a": 1}\n'.encode("utf-16")])
def test_no_record_has_a_key(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    source = Source(format="jsonl", paths=(f"{tmp_path}/t",))
    with pytest.raises(DataError) as told:
        list(jsonl_files.columns(list_files(source), source))
    assert str(told.value) == (
        f"{tmp_path}/t: no record here has a column. Give files with a JSON object on each line, "
        "in UTF-8."
    )


def test_a_cut_gzip_file_stops(tmp_path):
    data = gzip.compress(b'{"a": 1}\n' * 9999)
    (tmp_path / "t.gz").write_bytes(data[:-9])
    with pytest.raises(DataError, match=r"t\.gz: cannot be read: .*\. Mend or remove the file\."):
        scanned(tmp_path / "t.gz")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
LINES = st.lists(
    st.one_of(
        st.dictionaries(st.text(max_size=5), VALUES, max_size=4).map(json.dumps),
        st.text('{}[]:,"\\ \tu0a1e.-', max_size=12),
        st.builds(
            lambda found, where, what: found[: where % (len(found) + 1)] + what + found[where:],
            st.dictionaries(st.text(max_size=3), VALUES, max_size=3).map(json.dumps),
            st.integers(0, 40),
            st.text('{}[]:,"\\ 0a', max_size=2),
        ),
    ),
    max_size=8,
)


def accepted(line):
    """Whether Python's json takes a line for an object that text columns can hold."""

    def unique(pairs):
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        found = json.loads(line)
        pairs = json.loads(line, object_pairs_hook=lambda pairs: pairs)
        json.dumps(found, ensure_ascii=False).encode()
    except ValueError:  # Of surrogates alone, too.
        return False
    if not isinstance(found, dict) or len({name for name, _ in pairs}) < len(pairs):
        return False
    strings = [*found, *(value for value in found.values() if isinstance(value, str))]
    return not any("\0" in value for value in strings)


@given(LINES, st.sampled_from([1, 20, 1 << 20]))
@settings(max_examples=150, deadline=None)
def test_what_is_a_record_is_what_python_takes_for_one(tmp_path_factory, lines, block_bytes):
    path = tmp_path_factory.mktemp("t") / "t"
    lines = [*lines, '{"k": 1}']  # Else there may be no column, and no record then.
    path.write_text("\n".join(lines), newline="")
    rows, places, broken = read(path, block_bytes)
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip(" \t")]
    assert places == [i for i, line in numbered if accepted(line)]
    assert sorted([*places, *(i for i, *_ in broken)]) == [i for i, _ in numbered]
    for row, place in zip(rows, places, strict=True):
        record = json.loads(lines[place - 1])
        strings = {name: value for name, value in record.items() if isinstance(value, str)}
        assert {name: row[name] or "" for name in strings} == strings
        for name, value in record.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert str(float(row[name])) == str(float(value)) or int(row[name]) == value
    assert {name for row in rows for name in row} >= {
        name for i, line in numbered if accepted(line) for name in json.loads(line)
    }


def test_memory_is_that_of_a_block(tmp_path):
    with open(tmp_path / "t", "w") as file:
        for i in range(400_000):
            file.write(f'{{"a": {i}, "b": "some words that take room {i}"}}\n')
    tracemalloc.start()
    unit, _ = scanned(tmp_path / "t", 1 << 18)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "t").stat().st_size > 20e6
    assert len(unit.blocks) > 60
    assert peak < 5e6
