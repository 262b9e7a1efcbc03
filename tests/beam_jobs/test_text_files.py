import bz2
import codecs
import gzip

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_jobs.config import Source
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import formats, text_files
from beam_jobs.sources.listing import list_files

PIECES = ["a", " b", '"', ",", "\n", "\r\n", "\r", "é", "\u2028", "\x0b"]
COMPRESSED = {".gz": gzip.compress, ".bz2": bz2.compress}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def read(path, block_bytes=1 << 20, **kwargs):
    """Relative path, position and text of the sound records, and the same with their reasons."""
    source = Source(format="text", paths=(str(path),), **kwargs)
    files = list_files(source)
    groups = [files] if source.is_file_a_record else [[file] for file in files]
    scanned = [unit for group in groups for unit in formats.scan(group, source, block_bytes)]
    sound, broken = [], []
    for unit in text_files.units(scanned):
        for found in text_files.read(unit, source):
            assert found.values.schema.names == ["text", "path"]
            rows = zip(*(column.to_pylist() for column in found.values.columns), strict=True)
            for position, (text, relative) in zip(found.sound.tolist(), rows, strict=True):
                assert found.file(position).relative == relative
                sound.append((relative, int(found.places[position]), text))
            for position, reason, detail in found.broken:
                relative = found.file(position).relative
                broken.append((relative, int(found.places[position]), reason, detail))
    return sound, broken


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.sampled_from([1, 2, 7, 50]))
@example("a\r\n\r\nb\r", 1)
def test_lines_are_those_of_open(folder, text, block_bytes):
    path = folder / "x.txt"
    path.write_bytes(text.encode())
    with open(path, encoding="utf-8", newline=None) as file:
        lines = [line.rstrip("\n") for line in file]
    expected = [("x.txt", i, line) for i, line in enumerate(lines, 1) if line]
    assert read(path, block_bytes) == (expected, [])


@pytest.mark.parametrize("ending", ["", *COMPRESSED])
@pytest.mark.parametrize("records", ["lines", "files"])
def test_compressed_files(folder, ending, records):
    text = "".join(f"line {i} é\n" for i in range(2000))
    path = folder / f"long.txt{ending}"
    path.write_bytes(COMPRESSED.get(ending, bytes)(codecs.BOM_UTF8 + text.encode()))
    lines = [(path.name, 1 + i, f"line {i} é") for i in range(2000)]
    expected = lines if records == "lines" else [(path.name, 1, text)]
    assert read(path, 1000, records=records) == (expected, [])


@pytest.mark.parametrize("records", ["lines", "files"])
def test_a_cut_compressed_file_stops(folder, records):
    path = folder / "cut.txt.gz"
    path.write_bytes(gzip.compress(b"a\n" * 1000)[:-1])
    with pytest.raises(DataError, match=r"cut\.txt\.gz: cannot be read: Truncated"):
        read(path, records=records)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_an_empty_file_may_come_first(tmp_path, block_bytes):
    for name, text in [("a.txt", ""), ("b.txt", ""), ("c.txt", "hello"), ("d.txt", "")]:
        (tmp_path / name).write_text(text)
    texts = [("a.txt", None), ("b.txt", None), ("c.txt", "hello"), ("d.txt", None)]
    expected = [(name, 1, text) for name, text in texts]
    assert read(tmp_path, block_bytes, records="files") == (expected, [])


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_what_is_no_text_is_set_aside(folder, block_bytes):
    (folder / "bad.txt").write_bytes(b"a\ncaf\xe9\n\0b\nc\xe2\x82\n")
    sound, broken = read(folder / "bad.txt", block_bytes)
    assert sound == [("bad.txt", 1, "a")]
    assert broken == [
        ("bad.txt", 2, "bad_encoding", "byte 0xe9 at 3 is not utf-8"),
        ("bad.txt", 3, "nul_byte", "the record holds a NUL byte"),
        ("bad.txt", 4, "bad_encoding", "byte 0xe2 at 1 is not utf-8"),
    ]
    assert read(folder / "bad.txt", block_bytes, records="files") == (
        [],
        [("bad.txt", 1, "bad_encoding", "byte 0xe9 at 5 is not utf-8")],
    )


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_line_that_is_too_long_for_arrow_stops(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(text_files, "_LIMIT_BYTES", 1000)
    (tmp_path / "long.txt").write_bytes(b"short\n" * 3 + b"x" * 990 + b"\n")
    assert len(read(tmp_path / "long.txt", 6, encoding=encoding)[0]) == 4
    (tmp_path / "long.txt").write_bytes(b"short\n" * 3 + b"x" * 1001 + b"\n")
    with pytest.raises(DataError, match=r"long\.txt:4: a line here is longer than 2 GiB\. Cut"):
        read(tmp_path / "long.txt", 6, encoding=encoding)


@pytest.mark.parametrize("records", ["lines", "files"])
def test_encodings_and_what_is_missing(folder, records):
    (folder / "latin.txt").write_bytes("\xe9\xff".encode("latin-1"))
    expected = [("latin.txt", 1, "éÿ")], []
    assert read(folder / "latin.txt", records=records, encoding="latin-1") == expected
    (folder / "trim.txt").write_text("  ? ")
    trimmed = read(folder / "trim.txt", records=records, trim=True, null_values=("?",))
    assert trimmed == ([("trim.txt", 1, None)], [])
    with pytest.raises(SpecError, match="source.encoding: must be utf-8 or an encoding of one"):
        list(text_files.columns([], Source(format="text", paths=("x",), encoding="utf-16")))


@pytest.mark.feature(
    "keras.utils.text_dataset_from_directory", "directory", '`format = "text"`, `records = "files"`'
)
@pytest.mark.parametrize("block_bytes", [1, 500, 1 << 20])
def test_files_are_those_of_keras(tmp_path, block_bytes):
    rng = np.random.default_rng(1)
    for label in ("neg", "pos"):
        (tmp_path / label).mkdir()
        for number in range(40):
            text = "".join(rng.choice(["good ", "é", "\n", "\r\n"], size=rng.integers(1, 30)))
            (tmp_path / label / f"{number}.txt").write_bytes(text.encode())
    of_keras = keras.utils.text_dataset_from_directory(
        tmp_path, batch_size=None, shuffle=False, verbose=False
    )
    expected = [(text.numpy().decode(), int(label)) for text, label in of_keras]
    sound, broken = read(tmp_path, block_bytes, records="files")
    labels = {"neg": 0, "pos": 1}
    assert sorted((text, labels[path.split("/")[0]]) for path, _, text in sound) == sorted(expected)
    assert (len(sound), broken) == (80, [])
