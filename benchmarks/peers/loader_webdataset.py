"""WebDataset over tar files, read by the workers of PyTorch's DataLoader.

    python -m benchmarks.peers.loader_webdataset KIND FOLDER

FOLDER is what `loader_forms` wrote. A pass takes the tar files in a random order and shuffles in a
buffer; batches are made in the workers, as the documents advise. Prints one line: examples,
passes, examples/s.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from benchmarks.peers import loader_passes
from benchmarks.peers.loader_passes import SIZE, batch_size, print_rate

_BUFFER = 1_000  # Examples: WebDataset's own documents advise as many.


def _pixels(sample: dict[str, Any]) -> dict[str, Any]:
    image = np.frombuffer(sample["raw"], np.uint8).reshape(SIZE, SIZE, 3)
    return {"image": image, "label": int(sample["cls"])}


def _normalized(sample: dict[str, Any]) -> dict[str, Any]:
    values = _pixels(sample)
    return {**values, "image": loader_passes.normalize(values["image"])}


def _jpeg(sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": loader_passes.random_crop(sample["jpg"]), "label": sample["cls"]}


def _row(sample: dict[str, Any]) -> dict[str, Any]:
    return sample["json"]


def _examples(kind: str, folder: Path) -> webdataset.WebDataset:
    paths = sorted(map(str, folder.glob("train-*.tar")))
    samples = webdataset.WebDataset(paths, shardshuffle=len(paths)).shuffle(_BUFFER)
    if kind == "table":
        return samples.decode().map(_row)
    if kind == "jpeg":
        return samples.decode("rgb8").map(_jpeg)
    return samples.map(_normalized if kind == "normalized" else _pixels)


def _passes(kind: str, folder: Path) -> Callable[[], Iterator[int]]:
    batches = _examples(kind, folder).batched(batch_size(kind))
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=4, persistent_workers=True)
    return lambda: (len(batch["label"]) for batch in loader)


def main(kind: str, folder: str) -> None:
    """Times the passes."""
    print_rate(f"webdataset {kind}", _passes(kind, Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
