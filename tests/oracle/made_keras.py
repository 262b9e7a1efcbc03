"""The files of keras.datasets, made small in the form in which Keras reads them."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np

NUM_WORDS = 300
BATCH = 10_000  # Keras counts on the length of a batch of CIFAR's.


def write(dataset: str, home: Path) -> None:
    """Writes the files of a data set below home, the folder that KERAS_HOME names."""
    folder = home / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[dataset](folder, np.random.default_rng(len(dataset)))


def _digits(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), labels


def _mnist(folder: Path, rng: np.random.Generator) -> None:
    (x, y), (x_test, y_test) = _digits(rng, 50), _digits(rng, 20)
    np.savez(folder / "mnist.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)


def _fashion_mnist(folder: Path, rng: np.random.Generator) -> None:
    (folder / "fashion-mnist").mkdir()
    for part, count in (("train", 120), ("t10k", 30)):
        images, labels = _digits(rng, count)
        for name, header, array in (
            ("labels-idx1", (2049, count), labels),
            ("images-idx3", (2051, count, 28, 28), images),
        ):
            data = np.array(header, ">i4").tobytes() + array.tobytes()
            path = folder / "fashion-mnist" / f"{part}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(data, 1))


def _cifar(folder: Path, name: str, batches: dict[str, dict[bytes, object]]) -> None:
    with tarfile.open(folder / f"{name}-target_archive", "w") as archive:
        for batch, values in batches.items():
            data = pickle.dumps(values, protocol=3)
            member = tarfile.TarInfo(f"{name}/{batch}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _cifar10(folder: Path, rng: np.random.Generator) -> None:
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    batches: dict[str, dict[bytes, object]] = {
        name: {
            b"data": rng.integers(0, 256, (BATCH, 3072), np.uint8),
            b"labels": rng.integers(0, 10, BATCH).tolist(),
        }
        for name in names
    }
    _cifar(folder, "cifar-10-batches-py", batches)


def _cifar100(folder: Path, rng: np.random.Generator) -> None:
    batches: dict[str, dict[bytes, object]] = {
        name: {
            b"data": rng.integers(0, 256, (count, 3072), np.uint8),
            b"fine_labels": rng.permutation(np.arange(count) % 100).tolist(),
            b"coarse_labels": rng.integers(0, 20, count).tolist(),
        }
        for name, count in (("train", 400), ("test", 200))
    }
    _cifar(folder, "cifar-100-python", batches)


def _sequences(rng: np.random.Generator, count: int) -> np.ndarray:
    found = np.empty(count, object)
    found[:] = [rng.integers(1, NUM_WORDS, rng.integers(1, 40)).tolist() for _ in range(count)]
    return found


def _write_index(path: Path) -> None:
    odd = ["'", "café", "\x96", "it's"]
    words = [*odd, *(f"word{i}" for i in range(NUM_WORDS))][: NUM_WORDS - 1]
    path.write_text(json.dumps({word: i + 1 for i, word in enumerate(words)}))


def _imdb(folder: Path, rng: np.random.Generator) -> None:
    parts = {
        f"{name}_{part}": _sequences(rng, count) if name == "x" else rng.integers(0, 2, count)
        for part, count in (("train", 60), ("test", 25))
        for name in "xy"
    }
    np.savez(folder / "imdb.npz", **parts)
    _write_index(folder / "imdb_word_index.json")


def _reuters(folder: Path, rng: np.random.Generator) -> None:
    labels = rng.permutation(np.arange(120) % 46)
    np.savez(folder / "reuters.npz", x=_sequences(rng, 120), y=labels)
    _write_index(folder / "reuters_word_index.json")


def _california_housing(folder: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((200, 8)) * [3, 10, 2, 1, 1000, 2, 5, 5]
    np.savez(folder / "california_housing.npz", x=x, y=rng.uniform(15_000, 500_001, 200))


_WRITERS = {
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imdb": _imdb,
    "reuters": _reuters,
    "california_housing": _california_housing,
}
