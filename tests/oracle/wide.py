"""A table of 2,000 numeric columns, and what a dataset made from it must hold."""

import json
import math
from pathlib import Path

import numpy as np

from oracle import moments, records

NUM_ROWS, NUM_COLUMNS = 1_000, 2_000
_SPEC = """\
name = "wide"

[source]
format = "csv"
paths = ["wide.csv"]

[split]
column = "fold"
values = { train = ["a"], test = ["b"] }

[output]
num_shards = 3
compression = "none"

[features]
row = { dtype = "int64" }
"""


def write(folder: Path) -> tuple[Path, np.ndarray]:
    """Writes the table and its spec; returns that and the values, float32 (rows, columns)."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((NUM_ROWS, NUM_COLUMNS)) + np.arange(NUM_COLUMNS)
    values = (values * 10.0 ** rng.integers(-9, 9, NUM_COLUMNS)).astype(np.float32)
    names = [f"x{column}" for column in range(NUM_COLUMNS)]
    with open(folder / "wide.csv", "w") as file:
        file.write(",".join(["row", "fold", *names]) + "\n")
        for row, numbers in enumerate(values):
            cells = [str(row), "b" if row % 5 == 0 else "a", *map(str, numbers)]
            file.write(",".join(cells) + "\n")
    z_score = '= { dtype = "float32", transform = "scale_to_z_score" }\n'
    spec = folder / "wide.toml"
    spec.write_text(_SPEC + "".join(f"{name} {z_score}" for name in names))
    return spec, values


def check(folder: Path, values: np.ndarray) -> None:
    """Compares every value and statistic with NumPy, and some with exact fractions."""
    info = json.loads((folder / "dataset_info.json").read_text())
    is_train = np.arange(NUM_ROWS) % 5 != 0
    train = values[is_train].astype(np.float64)
    found = [info["features"][f"x{column}"]["statistics"] for column in range(NUM_COLUMNS)]
    means = np.array([statistics["mean"] for statistics in found])
    stds = np.array([statistics["std"] for statistics in found])
    assert means.tolist() == [math.fsum(column) / len(column) for column in train.T]
    np.testing.assert_allclose(stds, train.std(axis=0), rtol=1e-12)
    for column in range(0, NUM_COLUMNS, 97):
        assert found[column] == moments.moments(moments.counted(train[:, column]))
    wanted = ((values - means) / stds).astype(np.float32)
    dtypes = {f"x{column}": "float32" for column in range(NUM_COLUMNS)} | {"row": "int64"}
    for split, rows in ("train", np.flatnonzero(is_train)), ("test", np.flatnonzero(~is_train)):
        shards = info["splits"][split]["shards"]
        assert sum(shard["num_examples"] > 0 for shard in shards) == 3
        stored = [records.parsed(folder / shard["file"], dtypes) for shard in shards]
        order = np.concatenate([shard["row"] for shard in stored])
        assert sorted(order.tolist()) == rows.tolist()
        for column in range(NUM_COLUMNS):
            values_there = np.concatenate([shard[f"x{column}"] for shard in stored])
            assert values_there.tobytes() == wanted[order, column].tobytes(), (split, column)
