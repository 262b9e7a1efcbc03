"""What a user of Keras writes today.

    python -m benchmarks.peers.loader_keras WHAT KIND FOLDER

WHAT is `directory` (image_dataset_from_directory), `generator` (ImageDataGenerator), `pydataset`
(a PyDataset) or `csv` (tf.data's make_csv_dataset). FOLDER holds `<class>/<file>` for the first
two, which decode the files in every pass, resize the photos where KIND is not `jpeg`, and
return float32; otherwise it is what `loader_forms` wrote, and for a PyDataset of JPEG files again
class folders. Prints one line: examples, passes, examples/s.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.peers import loader_passes
from benchmarks.peers.loader_passes import MEAN, SIZE, STD, STORED_SIZE, batch_size, print_rate

_CORES = len(os.sched_getaffinity(0))


def _directory(kind: str, folder: Path) -> Callable[[], Iterator[int]]:
    size = STORED_SIZE if kind == "jpeg" else SIZE
    batches = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=batch_size(kind), seed=0, verbose=False
    )
    layers = {
        "normalized": keras.layers.Rescaling((1 / 255 / STD).tolist(), (-MEAN / STD).tolist()),
        "jpeg": keras.layers.RandomCrop(SIZE, SIZE),
    }
    if kind in layers:
        batches = batches.map(
            lambda image, label: (layers[kind](image, training=True), label),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    batches = batches.prefetch(tf.data.AUTOTUNE)
    return lambda: (len(label) for _, label in batches)


def _csv(kind: str, folder: Path) -> Callable[[], Iterator[int]]:
    batches = tf.data.experimental.make_csv_dataset(
        str(folder / "train-*.csv"),
        batch_size(kind),
        label_name="label",
        num_epochs=1,
        num_parallel_reads=_CORES,
    )
    return lambda: (len(label) for _, label in batches)


class _Nothing(keras.Model):
    """A model that takes a batch and learns nothing: only `fit` starts a PyDataset's workers."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Returns the last label."""
        return {"label": data[1][-1]}


def _fitted(batches: keras.utils.PyDataset, num_examples: int) -> Callable[[], Iterator[int]]:
    """Returns what makes a pass over batches as `fit` does."""
    model = _Nothing()
    model.built = True
    model.compile(steps_per_execution=32, jit_compile=False)  # What `fit` does besides is little.

    def one_pass() -> Iterator[int]:
        model.fit(batches, verbose=0)
        yield num_examples

    return one_pass


class _Cropped(keras.utils.PyDataset):
    """Batches of another PyDataset, each image cropped at random."""

    def __init__(self, batches: keras.utils.PyDataset, **options: Any):
        super().__init__(**options)
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._batches[index]
        return np.stack([loader_passes.random_crop(image) for image in images]), labels

    def on_epoch_end(self) -> None:
        """Shuffles."""
        self._batches.on_epoch_end()


def _generator(kind: str, folder: Path) -> Callable[[], Iterator[int]]:
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(
        preprocessing_function=loader_passes.normalize if kind == "normalized" else None
    )
    size = STORED_SIZE if kind == "jpeg" else SIZE
    batches = generator.flow_from_directory(
        str(folder),
        target_size=(size, size),
        batch_size=batch_size(kind),
        class_mode="sparse",
        interpolation="bilinear",
    )
    num_examples = batches.samples
    if kind == "jpeg":
        batches = _Cropped(batches)
    batches.workers = _CORES
    return _fitted(batches, num_examples)


class _Examples(keras.utils.PyDataset):
    """Batches of examples in another order in every pass; `read` makes a batch of positions."""

    def __init__(
        self, read: Callable[[np.ndarray], Any], num_examples: int, size: int, **options: Any
    ):
        super().__init__(**options)
        self._read = read
        self._size = size
        self._order = np.arange(num_examples)
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._size)

    def __getitem__(self, index: int) -> Any:
        return self._read(self._order[index * self._size : (index + 1) * self._size])

    def on_epoch_end(self) -> None:
        """Shuffles."""
        np.random.default_rng().shuffle(self._order)


def _photos(folder: Path) -> tuple[Callable[[np.ndarray], Any], int]:
    """Returns what decodes and crops a batch of JPEG files, and the number of files."""
    paths = sorted(folder.glob("*/*"))
    classes = sorted({path.parent.name for path in paths})
    labels = np.array([classes.index(path.parent.name) for path in paths])

    def read(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([_photo(paths[position]) for position in positions]), labels[positions]

    return read, len(paths)


def _photo(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return loader_passes.random_crop(np.asarray(image))


def _columns(kind: str, folder: Path) -> tuple[Callable[[np.ndarray], Any], int]:
    """Returns what reads a batch of NumPy files, and the number of examples."""
    columns: Mapping[str, np.ndarray] = {
        path.stem: np.load(path, mmap_mode="r" if kind != "table" else None)
        for path in folder.glob("*.npy")
        if path.stem != "row"
    }

    def read(positions: np.ndarray) -> Any:
        values = {name: column[positions] for name, column in columns.items()}
        label = values.pop("label")
        if kind == "normalized":
            values["image"] = loader_passes.normalize(values["image"])
        return values, label

    return read, len(columns["label"])


def _pydataset(kind: str, folder: Path) -> Callable[[], Iterator[int]]:
    read, num_examples = _photos(folder) if kind == "jpeg" else _columns(kind, folder)
    # Threads: Pillow and NumPy leave the interpreter's lock, and processes are slower.
    workers = 1 if kind == "table" else _CORES
    examples = _Examples(
        read, num_examples, batch_size(kind), workers=workers, max_queue_size=2 * workers
    )
    return _fitted(examples, num_examples)


def main(what: str, kind: str, folder: str) -> None:
    """Times the passes."""
    start = {
        "directory": _directory,
        "generator": _generator,
        "pydataset": _pydataset,
        "csv": _csv,
    }
    print_rate(f"{what} {kind}", start[what](kind, Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
