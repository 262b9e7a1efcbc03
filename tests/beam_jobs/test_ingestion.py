import hashlib
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.config import Spec, parse_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.sources import arrays, ingestion
from beam_jobs.sources.ingestion import Ingested
from beam_jobs.sources.listing import File

MODULE = """
import numpy as np
import keras

class Items(keras.utils.PyDataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (16, 8, 8, 3)), rng.standard_normal(16)

def items():
    return Items()

def records():
    for index in range(40):
        images, numbers = items()[index]
        for image, number in zip(images, numbers):
            yield image, number

def none():
    return iter(())
"""


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "ingested_here", raising=False)


def spec(folder: Path, **source) -> Spec:
    (folder / "ingested_here.py").write_text(MODULE)
    features = {"y": {"dtype": "float32"}}
    said = {"name": "x", "source": source, "split": {"fractions": {"train": 1}}}
    return parse_spec({**said, "features": features}, str(folder / "spec.toml"))


def ingest(folder: Path, name: str, num_threads: int = 1, **source) -> Ingested:
    (folder / name).mkdir()
    return ingestion.ingest(spec(folder, **source), str(folder / name), num_threads)


def read(found: Ingested) -> pa.Table:
    return pa.concat_tables(pa.ipc.open_file(file.path).read_all() for file in found.files)


def place(file: File) -> tuple[str, int]:
    """Whence the records of a file come, and the number of the first one there."""
    said = pa.ipc.open_file(file.path).schema.metadata
    return said[b"headrace.source"].decode(), int(said[b"headrace.first"])


def hashes(found: Ingested) -> list[str]:
    return [hashlib.sha256(Path(file.path).read_bytes()).hexdigest() for file in found.files]


def test_files_are_the_same_for_any_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(ingestion, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(ingestion, "FILE_BYTES", 30_000)
    source = {"format": "python", "function": "ingested_here:items"}

    one, four = (ingest(tmp_path, str(n), n, **source) for n in (1, 4))

    assert len(one.files) > 2
    assert [file.relative for file in one.files[:2]] == [
        "records-00000.arrow",
        "records-00001.arrow",
    ]
    assert hashes(one) == hashes(four)
    assert [place(file) for file in one.files[:2]] == [
        (source["function"], 1),
        (source["function"], 1 + pa.ipc.open_file(one.files[0].path).read_all().num_rows),
    ]
    assert one.fingerprint == four.fingerprint
    assert [file.size_bytes for file in one.files] == [
        Path(file.path).stat().st_size for file in one.files
    ]


def test_a_generator_gives_what_its_items_give(tmp_path):
    source = {"format": "python"}
    items = ingest(tmp_path, "a", function="ingested_here:items", **source)
    records = ingest(tmp_path, "b", function="ingested_here:records", **source)

    assert read(items).num_rows == 640
    assert read(items).equals(read(records))


def test_arrays_of_several_files_and_splits(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.array(["a", "b", "c"]))
    np.savez(tmp_path / "b.npz", y=np.array(["d"]), x=np.array([3]))
    np.savez(tmp_path / "c.npz", y=np.array(["e"]), x=np.array([4]))
    paths = {"train": ["a.npz", "b.npz"], "test": ["c.npz"]}
    said = {"name": "x", "source": {"format": "numpy", "paths": paths}}
    several = parse_spec({**said, "features": {"x": {"dtype": "int64"}}}, f"{tmp_path}/spec.toml")

    found = ingestion.ingest(several, str(tmp_path), 1)

    assert [file.split for file in found.files] == ["train", "train", "test"]
    assert [place(file) for file in found.files] == [
        (str(tmp_path / f"{name}.npz"), 1) for name in "abc"
    ]
    assert read(found).to_pydict() == {"x": [*"01234"], "y": [*"abcde"]}


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    found = []
    for name, last in (("first", 1.0), ("again", 1.0), ("changed", 2.0)):
        np.savez(tmp_path / "a.npz", x=np.array([0.5, last]))
        found.append(ingest(tmp_path, name, format="numpy", paths=["a.npz"]).fingerprint)

    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 32


def test_other_columns_in_a_later_file(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    np.savez(tmp_path / "b.npz", x=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(DataError) as error:
        ingest(tmp_path, "out", format="numpy", paths=["*.npz"])
    assert str(error.value) == (
        f"{tmp_path}/b.npz: the columns are x (binary), but those before it have x (string). "
        "Give one set of columns."
    )


def test_no_record(tmp_path):
    with pytest.raises(DataError, match="there is no record"):
        ingest(tmp_path, "out", format="python", function="ingested_here:none")


@pytest.mark.parametrize(
    "source, message",
    [
        ({"format": "keras"}, "source: format = 'keras' needs dataset"),
        ({"format": "python"}, "source: format = 'python' needs function"),
        ({"format": "beam"}, "source: format = 'beam' needs transform"),
        ({"format": "bigquery"}, "source: format = 'bigquery' needs either query or table"),
        (
            {"format": "bigquery", "query": "SELECT 1", "table": "a:b.c"},
            "source: format = 'bigquery' needs either query or table",
        ),
        ({"format": "numpy"}, "source: format = 'numpy' needs paths"),
        (
            {"format": "numpy", "paths": ["a"], "dataset": "imdb"},
            "source: dataset is not for format = 'numpy', but for keras",
        ),
        (
            {"format": "keras", "dataset": "imdb", "paths": ["a"]},
            "source: paths is not for format = 'keras', but for csv, .*, numpy",
        ),
        ({"format": "keras", "dataset": "minst"}, "source.dataset: must be 'mnist', .*'minst'"),
    ],
)
def test_what_a_source_needs(tmp_path, source, message):
    with pytest.raises(SpecError, match=message):
        spec(tmp_path, **source)


def test_memory_is_flat(tmp_path, monkeypatch):
    """What is written is 20 times as much as a file has, and is not held."""
    monkeypatch.setattr(ingestion, "PIECE_BYTES", 200_000)
    monkeypatch.setattr(arrays, "PIECE_BYTES", 200_000)
    monkeypatch.setattr(ingestion, "FILE_BYTES", 1_000_000)
    pool = pa.default_memory_pool()
    held = []

    def watched(*arguments, **named):
        held.append(pool.bytes_allocated())
        return write(*arguments, **named)

    write = ingestion.files.write
    monkeypatch.setattr(ingestion.files, "write", watched)
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(1).standard_normal(1_000_000))
    before = pool.bytes_allocated()

    found = ingest(tmp_path, "out", format="numpy", paths=["a.npz"])

    assert sum(file.size_bytes for file in found.files) > 20_000_000
    assert max(held) - before < 4_000_000
