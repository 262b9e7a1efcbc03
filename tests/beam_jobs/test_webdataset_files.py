import gzip
import io
import tarfile

import numpy as np
import pytest

from beam_jobs.config import Source
from beam_jobs.errors import DataError
from beam_jobs.sources import webdataset_files
from beam_jobs.sources.listing import list_files

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def packed(members, kind=tarfile.PAX_FORMAT, **options) -> bytes:
    """An archive of pairs of name and data; data None is a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind, **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return file.getvalue()


def scanned(path, block_bytes=1 << 20, **kwargs):
    source = Source(format="webdataset", paths=(str(path),), **kwargs)
    (file,) = list_files(source)
    return webdataset_files.scan(file, source, block_bytes), source


def read(path, block_bytes=1 << 20, **kwargs):
    """The records as dicts without what is missing, and their numbers."""
    unit, source = scanned(path, block_bytes, **kwargs)
    rows, places = [], []
    for part in webdataset_files.units([unit]):
        for found in webdataset_files.read(part, source):
            rows += found.values.to_pylist()
            places += found.places.tolist()
            assert not found.broken
    return [{key: value for key, value in row.items() if value is not None} for row in rows], places


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tgz"])
@pytest.mark.parametrize("block_bytes", [1, 5000, 1 << 24])
def test_members_side_by_side_are_a_record(tmp_path, kind, name, block_bytes):
    rng = np.random.default_rng(1)
    expected, members = [], []
    for number in range(200):
        stem = f"{'deep/' * (number % 40)}é{number:04d}"  # Long names take a header of their own.
        row = {"jpg": rng.bytes(rng.integers(0, 3000)), "cls": b"%d\n" % (number % 7)}
        row |= {"seg.png": b""} if number % 3 else {}
        expected.append({"__key__": stem.encode(), **row})
        members += [(f"{stem}.{kind}", data) for kind, data in row.items()]
    data = packed(members, kind)
    (tmp_path / name).write_bytes(data if name == "t.tar" else gzip.compress(data))
    assert read(tmp_path / name, block_bytes) == (expected, list(range(1, 201)))
    unit, _ = scanned(tmp_path / name, block_bytes)
    assert unit.columns == ("__key__", "cls", "jpg", "seg.png")
    wanted = {1: 200, 5000: len(unit.blocks), 1 << 24: 1}[block_bytes]
    assert len(unit.blocks) == wanted > (block_bytes == 5000) * 20
    assert len(webdataset_files.units([unit])) == (wanted if name == "t.tar" else 1)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_what_a_name_says(tmp_path, block_bytes):
    members = [
        ("./a/", None),
        ("./a/1.JPG", b"x"),
        ("./a/._1.jpg", b"of macOS"),
        ("./a/1.cls", b"2"),
        ("b.c/2.tar.gz", b"y"),
        ("README", b"z"),
        ("./a/1.cls", b"again"),
    ]
    (tmp_path / "t.tar").write_bytes(packed(members))
    assert read(tmp_path / "t.tar", block_bytes)[0] == [
        {"__key__": b"./a/1", "jpg": b"x", "cls": b"2"},
        {"__key__": b"b.c/2", "tar.gz": b"y"},
        {"__key__": b"README"},
        {"__key__": b"./a/1", "cls": b"again"},
    ]
    assert read(tmp_path / "t.tar", block_bytes, columns=("cls",))[0][0] == {"cls": b"2"}


def test_two_members_of_one_kind(tmp_path):
    (tmp_path / "t.tar").write_bytes(packed([("a.cls", b"1"), ("a.CLS", b"2")]))
    with pytest.raises(DataError, match=r"t\.tar: 'a' has two files of one extension. Rename one"):
        scanned(tmp_path / "t.tar")


MEMBERS = [(f"{number}.txt", b"x" * 600) for number in range(3)]  # 512 + 1024 bytes each.


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: b"", "empty file"),
        (lambda data: b"no archive" * 100, "invalid header|bad checksum|truncated header"),
        (lambda data: data[: 3 * 1536], "no header, and no end, at byte 4608"),
        (lambda data: data[: 3 * 1536 - 1], "unexpected end of data|no header, and no end"),
        (lambda data: data[: 2 * 1536 + 100], "no header, and no end, at byte 3072"),
        (lambda data: data[:1536] + b"\xff" * 512 + data[2048:], "no header, .* at byte 1536"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path, name, damage, message):
    data = damage(packed(MEMBERS, tarfile.USTAR_FORMAT))
    (tmp_path / name).write_bytes(data if name == "t.tar" else gzip.compress(data))
    with pytest.raises(DataError, match=rf"{name}: cannot be read: ({message})\S*\. Mend or"):
        scanned(tmp_path / name)


def member(name, data=b"", **header) -> bytes:
    """A header with these attributes, whatever they say, and data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in header.items():
        setattr(info, key, value)
    return info.tobuf(header.get("format", tarfile.GNU_FORMAT)) + data + bytes(-len(data) % 512)


def sparse(name, size) -> bytes:
    """A member of GNU's sparse format that holds nothing of its size."""
    header = bytearray(member(name, type=tarfile.GNUTYPE_SPARSE))
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(**fields) -> bytes:
    """A header that goes before another one."""
    return tarfile.TarInfo._create_pax_generic_header(fields, tarfile.XHDTYPE, "utf-8")


END = bytes(1024)
FIRST = member("a.txt", b"x")
HOSTILE = {  # From Python 3.11.14 on, a size below zero is no header.
    "'s.txt' is a sparse file, but must be": FIRST + sparse("s.txt", 1 << 40) + END,
    "'h.txt' is a hard link, but must be": FIRST
    + member("h.txt", type=tarfile.LNKTYPE, linkname="a.txt")
    + END,
    "('n.txt' has a size below zero|no header)": FIRST + member("n.txt", size=-512) + END,
    "('m.txt' has a size below zero|no header)": FIRST + member("m.txt", size=-1) + END,
    "there is more behind its end at byte 1024": (FIRST + END) * 2,
    "cannot fit 'int' into": FIRST + pax(size="9" * 20) + member("p.txt") + END,
    "not enough values to unpack": FIRST
    + pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    + member("q.txt")
    + END,
}


@pytest.mark.parametrize("message", HOSTILE)
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_nothing_of_an_archive_is_lost_or_guessed(tmp_path, message, block_bytes):
    (tmp_path / "t.tar").write_bytes(HOSTILE[message])
    with pytest.raises(DataError, match=rf"t\.tar: cannot be read: {message}[^\n]*\. Mend or"):
        read(tmp_path / "t.tar", block_bytes)


def test_an_extension_that_is_no_utf8(tmp_path):
    members = [("a.txt", b"x"), ("a.\udcffE", b"y")]
    (tmp_path / "t.tar").write_bytes(packed(members, tarfile.GNU_FORMAT))
    expected = [{"__key__": b"a", "txt": b"x", "\\xffe": b"y"}]
    assert read(tmp_path / "t.tar") == (expected, [1])


def test_an_archive_without_records(tmp_path):
    (tmp_path / "t.tar").write_bytes(packed([("a/", None)]))
    unit, _ = scanned(tmp_path / "t.tar")
    assert (unit.columns, webdataset_files.units([unit])) == ((), [])


def test_files_need_not_have_the_same_columns(tmp_path):
    units = []
    for name in ("a.jpg", "a.png"):
        (tmp_path / f"{name}.tar").write_bytes(packed([(name, b"x")]))
        units.append(scanned(tmp_path / f"{name}.tar")[0])
    found = webdataset_files.units(units)
    assert [unit.columns for unit in found] == [("__key__", "jpg", "png")] * 2
    source = Source(format="webdataset", paths=("x",))
    columns = webdataset_files.columns([unit.file for unit in units], source)
    assert list(columns) == [("__key__", "jpg"), ("__key__", "jpg", "png")]
