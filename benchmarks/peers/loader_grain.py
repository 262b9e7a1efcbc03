"""grain over an ArrayRecord, in an order that is random over all of it.

    python -m benchmarks.peers.loader_grain KIND FOLDER

FOLDER is what `loader_forms` wrote. Prints one line: examples, passes, examples/s.
"""

import io
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags  # type: ignore[import-untyped]
from PIL import Image

from benchmarks.peers import loader_passes
from benchmarks.peers.loader_passes import SIZE, batch_size, print_rate


def _pixels(record: bytes) -> dict[str, Any]:
    image = np.frombuffer(record, np.uint8, count=SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
    return {"image": image, "label": np.frombuffer(record[-8:], np.int64)[0]}


def _normalized(record: bytes) -> dict[str, Any]:
    values = _pixels(record)
    return {**values, "image": loader_passes.normalize(values["image"])}


def _jpeg(record: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(record[:-8])) as image:
        pixels = np.asarray(image)
    label = np.frombuffer(record[-8:], np.int64)[0]
    return {"image": loader_passes.random_crop(pixels), "label": label}


class _Rows:
    """Reads a batch of rows in one go: one by one they take nine times as long."""

    def __init__(self, source: grain.sources.ArrayRecordDataSource, dtype: np.dtype):
        self._source = source
        self._dtype = dtype

    def __call__(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Returns arrays (num_positions,) by name."""
        records = self._source.__getitems__(positions.tolist())
        rows = np.frombuffer(b"".join(records), self._dtype)
        return {name: rows[name] for name in rows.dtype.names or ()}


def _batches(kind: str, folder: Path, source: Any) -> grain.MapDataset:
    """Returns batches without end, in another order in each epoch."""
    if kind == "table":
        rows = _Rows(source, np.load(folder / "row.npy").dtype)
        positions = grain.MapDataset.range(len(source)).seed(0).shuffle().repeat()
        return positions.batch(batch_size(kind)).map(rows)
    parse = {"uint8": _pixels, "normalized": _normalized, "jpeg": _jpeg}[kind]
    records = grain.MapDataset.source(source).seed(0).shuffle().repeat()
    return records.map(parse).batch(batch_size(kind))


def _started(kind: str, batches: grain.MapDataset) -> Any:
    """Returns an iterator with as many threads or processes as there are cores.

    Threads are faster for images, which processes hand over; processes for rows.
    """
    cores = len(os.sched_getaffinity(0))
    threads = grain.ReadOptions(num_threads=cores, prefetch_buffer_size=2 * cores)
    dataset = batches.to_iter_dataset(threads)
    if kind == "table":
        flags.FLAGS.mark_as_parsed()  # The processes ask for grain's own.
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=cores))
    return iter(dataset)


def main(kind: str, folder: str) -> None:
    """Times the passes, all of one iterator: starting it is not timed."""
    source = grain.sources.ArrayRecordDataSource(f"{folder}/train.array_record")
    batches = _started(kind, _batches(kind, Path(folder), source))
    num_batches = len(source) // batch_size(kind)

    def one_pass() -> Iterator[int]:
        return (len(next(batches)["label"]) for _ in range(num_batches))

    print_rate(f"grain {kind}", one_pass)
    for process in multiprocessing.active_children():
        process.kill()
    sys.stdout.flush()
    os._exit(0)  # Grain waits for its processes, up to half a minute for each.


if __name__ == "__main__":
    main(*sys.argv[1:])
