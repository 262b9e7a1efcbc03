import zipfile

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.errors import DataError
from beam_jobs.sources import arrays, npz_files


def read(path) -> list[pa.RecordBatch]:
    return list(npz_files.batches(str(path)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_records_are_those_of_the_arrays_in_pieces(tmp_path, save, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE_BYTES", 1000)
    rng = np.random.default_rng(5)
    saved = {
        "a": rng.standard_normal(101),
        "across": np.asfortranarray(rng.integers(0, 9, (101, 2))),
        "name": rng.choice(["x", "éé", ""], 101),
        "none": rng.integers(0, 9, (101, 1)),
    }
    save(tmp_path / "a.npz", **saved)

    found = read(tmp_path / "a.npz")

    table = pa.Table.from_batches(found)
    assert len(found) == 5
    assert table.column_names == ["a", "across_0", "across_1", "name", "none"]
    assert [float(text) for text in table["a"].to_pylist()] == saved["a"].tolist()
    for i in range(2):
        assert [*map(int, table[f"across_{i}"].to_pylist())] == saved["across"][:, i].tolist()
    assert table["name"].to_pylist() == saved["name"].tolist()


def damaged(path) -> None:
    np.savez(path, x=np.zeros(100_000))
    path.write_bytes(path.read_bytes()[:50_000])


def changed(path) -> None:
    np.savez(path, x=np.zeros(100_000))
    data = bytearray(path.read_bytes())
    data[50_000] = 1
    path.write_bytes(data)


def changed_lzma(path) -> None:
    np.savez(path, x=np.zeros(100_000))
    with zipfile.ZipFile(path) as archive:
        data = archive.read("x.npy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", data)
    written = bytearray(path.read_bytes())
    written[60:80] = b"\xff" * 20
    path.write_bytes(written)


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: np.savez(path, x=np.zeros(2), y=np.zeros(3)), "y has 3 records, but x has 2"),
        (lambda path: np.savez(path, x=np.array([{}], object)), "x holds Python objects, which"),
        (lambda path: np.savez(path, x=np.array(1)), "x is one value, but must have one a record"),
        (lambda path: np.savez(path), "there is no array"),
        (lambda path: np.savez(path, x=np.zeros(2, "c8")), "x has the dtype complex64"),
        (lambda path: path.write_bytes(b"no archive"), "cannot be read: File is not a zip file"),
        (damaged, "cannot be read: File is not a zip file"),
        (changed, "cannot be read: Bad CRC-32 for file 'x.npy'"),
        (changed_lzma, "cannot be read: Corrupt input data"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, write, message):
    path = tmp_path / "a.npz"
    write(path)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("descr", ["'<f8'", "'<U0'", "'|V8'", "'zz'", "[('a', '<i4')]"])
@pytest.mark.parametrize("shape", ["(-1,)", "(2, -3)", f"({10**30},)", f"({2**62},)", "()", "3"])
def test_a_hostile_header_is_one_line(tmp_path, descr, shape):
    header = f"{{'descr': {descr}, 'fortran_order': True, 'shape': {shape}}}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(DataError, match=r"a\.npz: [^\n]*\.$"):
        read(tmp_path / "a.npz")


def test_a_pickle_is_never_loaded(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    np.savez(tmp_path / "a.npz", x=np.array([Harmful()], object))
    with pytest.raises(DataError, match="Python objects"):
        read(tmp_path / "a.npz")
    assert not (tmp_path / "harmed").exists()
