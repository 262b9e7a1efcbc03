"""The saved transform_fn, given one raw row at a time, and an exported model, given all of them."""

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from oracle import compare, only_tensorflow, records
from oracle.expected import Expected


def as_input(spec, value):
    """One raw value as the tensor that transform_fn takes: a missing one is absent."""
    import tensorflow as tf

    if isinstance(spec, tf.SparseTensorSpec):
        present = [] if value is None else [value]
        indices = np.zeros((len(present), 2), np.int64)
        return tf.SparseTensor(indices, tf.constant(present, spec.dtype), (1, 1))
    shape = (1,) if spec.shape.rank == 1 else (1, 1)
    return tf.constant([value], spec.dtype, shape)


def column(values: Sequence, dtype: str):
    """A column as transform_fn takes it where some may be missing: None."""
    import tensorflow as tf

    there = [(row, value) for row, value in enumerate(values) if value is not None]
    indices = np.array([(row, 0) for row, _ in there], np.int64).reshape(-1, 2)
    present = tf.constant([value for _, value in there], dtype)
    return tf.SparseTensor(indices, present, (len(values), 1))


def signature(function) -> dict:
    """Input name -> its TensorSpec or SparseTensorSpec."""
    concrete = (
        function.concrete_functions[0] if hasattr(function, "concrete_functions") else function
    )
    positional, named = concrete.structured_input_signature
    return positional[0] if positional else named


def sample(manifest: dict, expected: Expected, num_rows: int):
    """(file, place, record) of about num_rows records, taken evenly, and all with a missing value.

    The latter are cut to num_rows as well.
    """
    places = [
        (file, at, row)
        for file, rows in compare.placed(manifest, expected)
        for at, row in enumerate(rows)
    ]
    holes = [p for p in places if None in expected.records[p[2]].numbers.values()]
    even = places[:: max(1, len(places) // num_rows)]
    return sorted(set(even) | set(holes[:: max(1, len(holes) // num_rows)]))


def differences(folder: Path, manifest: dict, expected: Expected, places) -> list[str]:
    """Where transform_fn's output for one raw row has other bits than the stored record."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "transform_fn"))
    inputs = signature(loaded.transform_fn)
    dtypes = {name: feature.dtype for name, feature in expected.features.items()}
    stored = {
        file: records.parsed(folder / file, dtypes)
        for file in sorted({place[0] for place in places})
    }
    found = []
    for file, at, row in places:
        numbers = {column: value for (column, _), value in _raw(expected, row).items()}
        served = loaded.transform_fn(
            {name: as_input(inputs[name], numbers[name]) for name in inputs}
        )
        for name in expected.features:
            value = served[name].numpy().reshape(-1)
            kept = stored[file][name][at : at + 1]
            if value.dtype != kept.dtype or value.tobytes() != kept.tobytes():
                if value.dtype != object or value[0] != kept[0]:
                    found.append(f"{file} {at}: {name} served {value}, stored {kept}")
    return found


def _raw(expected: Expected, row: int) -> dict:
    """(column, dtype) -> raw value, in the types of the features."""
    features = expected.spec["features"]
    wanted = {(f.get("column", name), f["dtype"]) for name, f in features.items()}
    return {key: value for key, value in expected.records[row].numbers.items() if key in wanted}


def image_differences(folder: Path, stored: np.ndarray, paths: Sequence[Path]) -> list[str]:
    """The images that transform_fn, given one encoded file at a time, turns into other values.

    Args:
      folder: The dataset.
      stored: What its records hold, (num_images, height, width, channels).
      paths: The file of each of them.
    """
    import tensorflow as tf

    transform_fn = tf.saved_model.load(str(folder / "transform_fn")).transform_fn
    different = []
    for values, path in zip(stored, paths, strict=True):
        orientation = Image.open(path).getexif().get(0x0112, 1)
        inputs = {
            "image": tf.constant([path.read_bytes()]),
            "image_orientation": tf.constant([orientation], tf.int64),
        }
        served = transform_fn(inputs)["image"].numpy()[0]
        if served.astype(stored.dtype).tobytes() != values.tobytes():
            different.append(str(path))
    return different


def by_tensorflow_alone(
    saved: Path, dataset: Path, shards: Sequence[str], raw: dict[str, list], work: Path
) -> dict[str, list]:
    """The predictions of an exported model, in a process that has only TensorFlow.

    Those of a raw record, of a tf.train.Example of it and of the stored one must have the same
    bits.

    Args:
      saved: The exported model.
      dataset: What it learned from.
      shards: Files of the dataset.
      raw: Name -> the value of each of their records, in their order, None where missing.
      work: An empty folder.

    Returns:
      Name -> the output for each record.
    """
    described = json.loads((saved / "assets.extra" / "headrace.json").read_text())
    info = json.loads((dataset / "dataset_info.json").read_text())
    used = described["signatures"]["stored_features"]
    job = {
        "saved_model": str(saved),
        "raw": str(work / "raw"),
        "predictions": str(work / "predictions"),
        "shards": [str(dataset / file) for file in shards],
        "features": {name: entry for name, entry in info["features"].items() if name in used},
        "missing": described.get("missing", {}),
        "batch_size": 100,
    }
    (work / "raw").write_bytes(pickle.dumps(raw))
    (work / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-I", only_tensorflow.__file__, str(work / "job.json")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=work, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (num_records,) = {len(values) for values in raw.values()}
    assert json.loads(ended.stdout.splitlines()[-1]) == {
        "records": num_records,
        "stored": num_records,
        "different": {"raw": 0, "examples": 0},
        "imported": [],
    }
    return pickle.loads((work / "predictions").read_bytes())
