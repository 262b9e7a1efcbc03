"""What differs between a dataset folder and what it should hold: one line per difference."""

import collections
import gzip
import hashlib
import itertools
import json
import math
from pathlib import Path

import google_crc32c
import numpy as np

from oracle import records
from oracle.expected import Expected

KINDS = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}


def _unequal(found: dict, wanted: dict) -> list[str]:
    """Where the named values differ, by name."""
    return [
        f"{name}: {found.get(name)!r}, not {value!r}"
        for name, value in wanted.items()
        if found.get(name) != value or name not in found
    ]


def counts(folder: Path, manifest: dict, expected: Expected) -> list[str]:
    """Read, written and rejected records, in the manifest and in rejected/."""
    rejected = {reason: n for reason, n in manifest["rejected"].items() if n}
    found = {"read": manifest["read"], "rejected": rejected, "splits": sorted(manifest["splits"])}
    wanted = {"read": expected.read, "rejected": dict(expected.rejected)}
    found["set aside"] = dict(collections.Counter(line["reason"] for line in set_aside(folder)))
    wanted |= {"splits": sorted(expected.splits()), "set aside": dict(expected.rejected)}
    for name, split in manifest["splits"].items():
        found[name] = split["num_examples"], sum(s["num_examples"] for s in split["shards"])
        wanted[name] = (sum(record.split == name for record in expected.records),) * 2
        if expected.classes is not None:
            classes = {c: n for c, n in split["class_counts"].items() if n}
            found[f"{name} classes"], wanted[f"{name} classes"] = (
                classes,
                expected.class_counts(name),
            )
    written = sum(split["num_examples"] for split in manifest["splits"].values())
    found["sum"], wanted["sum"] = written + sum(rejected.values()), expected.read
    return _unequal(found, wanted)


def set_aside(folder: Path) -> list[dict]:
    """Every line under rejected/."""
    found = []
    for file in sorted((folder / "rejected").rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            data = gzip.decompress(data) if file.suffix == ".gz" else data
            found += [json.loads(line) for line in data.decode().splitlines()]
    return found


def shard_files(folder: Path, manifest: dict) -> list[str]:
    """The manifest's sizes, CRCs, counts and names against the files' own bytes."""
    found, wanted = {}, {}
    for name, split in manifest["splits"].items():
        for i, shard in enumerate(split["shards"]):
            path, suffix = folder / shard["file"], "gz" if manifest["compression"] == "gzip" else ""
            stem = f"{name}-{i:05d}-of-{len(split['shards']):05d}.tfrecord"
            stream, file = records.stream(path), path.read_bytes()
            found[stem] = shard
            wanted[stem] = {
                "file": f"{stem}.{suffix}".rstrip("."),
                "num_examples": len(records.frames(stream)),
                "bytes": len(file),
                "crc32c": f"{google_crc32c.value(file):08x}",
                "crc32c_uncompressed": f"{google_crc32c.value(stream):08x}",
                "index": "" if suffix else index(records.frames(stream)),
            }
    on_disk = sorted(path.name for path in folder.glob("*tfrecord*"))
    found["files"], wanted["files"] = on_disk, sorted(s["file"] for s in wanted.values())
    return _unequal(found, wanted)


def index(frames: list[bytes]) -> str:
    """`record:byte` of the first record that begins in each step, but for the first step."""
    starts = [0, *itertools.accumulate(len(frame) + 16 for frame in frames)][: len(frames)]
    step = 16_384
    while True:
        first = {start // step: (i, start) for i, start in reversed(list(enumerate(starts)))}
        first.pop(0, None)
        if len(first) <= 512:
            return " ".join(f"{i}:{start}" for i, start in sorted(first.values()))
        step *= 2


def bytes_of_shards(folder: Path, manifest: dict) -> dict[str, tuple]:
    """File -> what must not change between two runs, split by split, in order."""
    return {
        shard["file"]: (
            shard["num_examples"],
            shard["crc32c"],
            shard["crc32c_uncompressed"],
            hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest(),
        )
        for split in manifest["splits"].values()
        for shard in split["shards"]
    }


def placed(manifest: dict, expected: Expected):
    """Yields (file, indices of the records that it must hold, in order) of every shard."""
    for split, content in manifest["splits"].items():
        shards = content["shards"]
        num_shards = expected.spec["output"].get("num_shards", len(shards))
        yield from zip(
            [shard["file"] for shard in shards], expected.shards(split, num_shards), strict=True
        )


def distance(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many float32 values apart: int64, 0 for equal bits."""

    def ordered(values):
        bits = values.view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(2**31) - bits, bits) - (bits < 0)  # -0.0 is not 0.0.

    return np.abs(ordered(found) - ordered(wanted))


def _far(found: np.ndarray, feature, rows: list[int]) -> np.ndarray:
    wanted = feature.values[rows]
    if feature.dtype == "float32":
        return distance(found, wanted) > feature.is_rounded
    return found != wanted


def values(folder: Path, manifest: dict, expected: Expected) -> list[str]:
    """Every value of every record of a table, at its place, read by TensorFlow alone."""
    columns = {**expected.features, "label": expected.label}
    dtypes = {name: feature.dtype for name, feature in columns.items()}
    wanted_names = {name: feature.stored_as for name, feature in columns.items()}
    differences = []
    for file, rows in placed(manifest, expected):
        raw = records.frames(records.stream(folder / file))
        if any(records.names(record) != wanted_names for record in raw):
            differences.append(f"{file}: an example has other features than {wanted_names}")
        if len(raw) != len(rows):
            differences.append(f"{file}: {len(raw)} examples, not {len(rows)}")
            continue
        found = records.parsed(folder / file, dtypes)
        for name, feature in columns.items():
            far = np.flatnonzero(_far(found[name], feature, rows))
            if len(far):
                at, wanted = far[0], feature.values[rows[far[0]]]
                differences.append(
                    f"{file}: {name} differs in {len(far)} of {len(rows)} examples, first in "
                    f"{at}: {found[name][at]!r}, not {wanted!r}"
                )
    return differences


def _statistics(name: str, found: dict | None, wanted: dict, tolerance: float) -> list[str]:
    if found is None:
        return [f"{name}: absent, not {wanted}"]
    return [
        f"{name}.{key}: {found.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if key not in found or not math.isclose(found[key], value, rel_tol=tolerance, abs_tol=0)
    ]


def features(manifest: dict, expected: Expected) -> list[str]:
    """What the manifest says of every feature of a table and of the label."""
    described = manifest["features"]
    if set(described) != set(expected.features):
        return [f"features: {sorted(described)}, not {sorted(expected.features)}"]
    differences = []
    for name, feature in expected.features.items():
        found = described[name]
        wanted = {"dtype": feature.dtype, "shape": [], "stored_as": feature.stored_as}
        differences += [f"{name}.{line}" for line in _unequal(found, wanted)]
        if (categories := found.get("num_categories")) != feature.num_categories:
            differences.append(f"{name}.num_categories: {categories}, not {feature.num_categories}")
        if feature.raw_statistics:
            raw = found.get("raw_statistics")
            differences += _statistics(f"{name}.raw_statistics", raw, feature.raw_statistics, 0)
        if feature.statistics:
            tolerance = 1e-12 if feature.is_rounded else 0
            last = found.get("statistics")
            differences += _statistics(f"{name}.statistics", last, feature.statistics, tolerance)
    return differences + label(manifest, expected)


def label(manifest: dict, expected: Expected) -> list[str]:
    """What the manifest says of the label."""
    wanted = {"name": "label", "dtype": "int64", "type": expected.spec["label"]["type"]}
    if expected.classes is not None:
        wanted["classes"] = expected.classes
    return [f"label.{line}" for line in _unequal(manifest["label"], wanted)]


def schema(folder: Path, manifest: dict, expected: Expected) -> list[str]:
    """What schema.pbtxt describes, and whether it parses every record of every shard."""
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tensorflow_transform.tf_metadata import schema_utils

    proto = text_format.Parse((folder / "schema.pbtxt").read_text(), schema_pb2.Schema())
    described = schema_utils.schema_as_feature_spec(proto).feature_spec
    columns = {**expected.features, "label": expected.label}
    wanted = {name: tf.as_dtype(feature.dtype) for name, feature in columns.items()}
    found = {name: feature.dtype for name, feature in described.items()}
    if found != wanted:
        return [f"schema.pbtxt describes {found}, not {wanted}"]
    differences = []
    for file, rows in placed(manifest, expected):
        raw = records.frames(records.stream(folder / file))
        parsed = tf.io.parse_example(tf.constant(raw, tf.string), described)
        shapes = {name: tuple(value.shape) for name, value in parsed.items()}
        if shapes != {name: (len(rows),) for name in wanted}:
            differences.append(f"{file}: the schema's shapes are {shapes}")
    return differences
