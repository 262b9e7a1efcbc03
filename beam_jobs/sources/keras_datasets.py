"""The data sets that come with Keras, which finds, downloads, checks and reads their files."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import functions
from beam_jobs.errors import SpecError
from beam_jobs.sources import arrays

# Where Keras keeps each of them, below its folder.
_FASHION = ("train-labels-idx1", "train-images-idx3", "t10k-labels-idx1", "t10k-images-idx3")
FILES = {
    "mnist": ("mnist.npz",),
    "fashion_mnist": tuple(f"fashion-mnist/{name}-ubyte.gz" for name in _FASHION),
    "cifar10": ("cifar-10-batches-py-target_archive",),
    "cifar100": ("cifar-100-python-target_archive",),
    "imdb": ("imdb.npz", "imdb_word_index.json"),
    "reuters": ("reuters.npz", "reuters_word_index.json"),
    "california_housing": ("california_housing.npz",),
}
_TEXTS = ("imdb", "reuters")
_HOUSING = (
    *("MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup"),
    *("Latitude", "Longitude"),
)
_UNKNOWN = "[OOV]"  # As Keras' documentation decodes its sequences.
_TEXTS_AT_ONCE = 10_000


def batches(dataset: str) -> Iterator[pa.RecordBatch]:
    """Yields the records of a data set: those of Keras' training part, then those of its test part.

    Args:
      dataset: One of `FILES`.

    Yields:
      Of images `image`, of texts `text`, of california_housing a column for each number; and
      `label` and `split`, which is train or test. Labels are Keras' integers, with zeros before
      them where some have two digits, so that a class has the index that Keras gives it.

    Raises:
      SpecError: Keras neither finds nor gets its files.
    """
    with _told(dataset), contextlib.redirect_stdout(sys.stderr):  # Where Keras says what it loads.
        keras = importlib.import_module("keras")
        module = getattr(keras.datasets, dataset)
        parts, words = _load(module, dataset)
    last_label = max(int(np.max(labels, initial=0)) for _, labels in parts)
    for split, (values, labels) in zip(("train", "test"), parts, strict=True):
        size = _TEXTS_AT_ONCE
        if dataset not in _TEXTS:
            size = arrays.records_of_a_piece(values[:1].nbytes)
        for start in range(0, len(labels), size):
            here = slice(start, start + size)
            if dataset in _TEXTS:
                found = {"text": _texts(values[here], words)}
            elif dataset == "california_housing":
                found = _numbers(values[here])
            else:
                found = arrays.columns("image", _channels_last(keras, values[here]))
            found["label"] = _labels(labels[here], last_label)
            found["split"] = pa.array([split]).take(pa.array(np.zeros(len(labels[here]), np.int64)))
            yield pa.record_batch(found)


def _load(module: Any, dataset: str) -> tuple[Any, Mapping[str, int]]:
    """Returns Keras' two parts, and for texts the index of each word."""
    if dataset not in _TEXTS:
        return module.load_data(), {}
    # All words, numbered as in the index: without Keras' start of a text and its offset for that.
    every = {"num_words": sys.maxsize, "start_char": None, "oov_char": None, "index_from": 0}
    return module.load_data(**every), module.get_word_index()


@contextlib.contextmanager
def _told(dataset: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Keras raises plain ones where there is no network.
        home = os.path.expanduser(os.environ.get("KERAS_HOME") or os.path.join("~", ".keras"))
        raise SpecError(
            f"source.dataset: Keras cannot load {dataset}: {functions.said(error)}. It looks for "
            f"{' and '.join(FILES[dataset])} in {os.path.join(home, 'datasets')}: put that there, "
            "or run this once where there is network."
        ) from error


def _texts(sequences: Sequence[Sequence[int]], index: Mapping[str, int]) -> pa.StringArray:
    """Returns the words of sequences with a space between two: string (num_records,)."""
    words = [_UNKNOWN] * (1 + max(index.values(), default=0))
    for word, number in index.items():
        words[number] = word
    numbers = np.fromiter((number for one in sequences for number in one), np.int64)
    is_unknown = (numbers < 0) | (numbers >= len(words))
    found = pa.array(words).take(pa.array(np.where(is_unknown, 0, numbers)))
    ends = np.cumsum([0, *map(len, sequences)], dtype=np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), found), " ")


def _numbers(values: np.ndarray) -> dict[str, pa.Array]:
    columns = arrays.columns("x", values).values()
    return dict(zip(_HOUSING, columns, strict=True))


def _channels_last(keras: Any, images: np.ndarray) -> np.ndarray:
    """Returns images as they are in files, whatever Keras was told to prefer."""
    is_first = images.ndim == 4 and keras.config.image_data_format() == "channels_first"
    return images.transpose(0, 2, 3, 1) if is_first else images


def _labels(labels: np.ndarray, last: int) -> pa.Array:
    """Returns Keras' labels as texts whose order is that of the numbers."""
    if labels.dtype.kind == "f":
        return arrays.columns("label", labels)["label"]
    return pa.array(np.char.zfill(labels.reshape(-1).astype(str), len(str(last))))
