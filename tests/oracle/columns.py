"""A table of a few hundred records by column: written, stored, served, and made by TFT."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from beam_jobs.config import parse_spec
from beam_jobs.run import run
from oracle import compare, records, served

NUM_TRAIN, NUM_ROWS = 300, 401


@dataclasses.dataclass(frozen=True)
class Made:
    columns: dict[str, np.ndarray]
    stored: dict[str, np.ndarray]  # All records, in the order of their ids.
    info: dict
    folder: Path

    def train(self, name: str) -> np.ndarray:
        """What a column holds in train, float64."""
        return self.columns[name][:NUM_TRAIN].astype(np.float64)

    def all(self, name: str) -> np.ndarray:
        return self.columns[name].astype(np.float64)


def write(folder: Path, columns: dict, features: dict, name: str = "made") -> dict:
    """Writes a table, its first NUM_TRAIN rows for train, and returns the spec."""
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "fold", *columns])
        for row in range(len(columns[next(iter(columns))])):
            fold = "train" if row < NUM_TRAIN else "test"
            values = [columns[c][row] for c in columns]
            writer.writerow([row, fold, *("" if v is None else v for v in values)])
    return {
        "name": name,
        "source": {"format": "csv", "paths": [f"{name}.csv"]},
        "split": {"column": "fold", "values": {"train": ["train"], "test": ["test"]}},
        "features": {"id": {"dtype": "int64"}} | features,
    }


def make(folder: Path, columns: dict, features: dict, outputs: dict[str, str]) -> Made:
    """Runs the job over a table of NUM_ROWS records, none of which may be rejected.

    Args:
      folder: Where the table and the dataset come to lie.
      columns: Name -> its values, None where missing; an `id` is added.
      features: What the spec says of them.
      outputs: Name -> dtype of every stored feature, `id` among them.
    """
    spec = parse_spec(write(folder, columns, features), str(folder / "made.toml"))
    info = run(spec, str(folder / "out"), num_threads=2, block_mb=0.002)
    assert info["read"] == NUM_ROWS and not sum(info["rejected"].values())
    found = records.by_id(folder / "out", outputs)
    assert found["id"].tolist() == list(range(NUM_ROWS))
    assert all(np.isfinite(v).all() for n, v in found.items() if outputs[n] == "float32")
    return Made(columns, found, info, folder)


def _bits(values: np.ndarray) -> tuple:
    """What two arrays must have in common to be the same to the last bit."""
    return values.dtype, values.tolist() if values.dtype == object else values.tobytes()


def check_served(made: Made, dtypes: dict[str, str]) -> None:
    """transform_fn gives the stored bits, of all records at once and of one alone.

    Args:
      made: A finished dataset.
      dtypes: What is not float32 of the columns that may be missing.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(made.folder / "out" / "transform_fn"))
    columns = {"id": np.arange(NUM_ROWS)} | made.columns

    def serve(rows: slice) -> dict[str, np.ndarray]:
        inputs = {
            name: served.column(values[rows], dtypes.get(name, "float32"))
            if None in values
            else tf.constant(values[rows])
            for name, values in columns.items()
        }
        return {name: values.numpy() for name, values in loaded.transform_fn(inputs).items()}

    together = serve(slice(None))
    assert together.keys() == made.stored.keys()
    for name, values in made.stored.items():
        assert _bits(together[name]) == _bits(values), name
    for row in range(0, NUM_ROWS, 7):
        for name, values in serve(slice(row, row + 1)).items():
            assert _bits(values) == _bits(made.stored[name][row : row + 1]), (row, name)


def check_partition(made: Made, folder: Path) -> None:
    """The same records in three files, in another order, give the same bytes."""
    header, *rows = _written(made.folder / "made.csv")
    for number, part in enumerate((rows[250:], rows[:90], rows[90:250])):
        with open(folder / f"part{number}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *part])
    said = made.info["spec"] | {"source": {"format": "csv", "paths": ["part*.csv"]}}
    info = run(parse_spec(said, str(folder / "spec.toml")), str(folder / "out"), num_threads=3)
    cut = compare.bytes_of_shards(folder / "out", info)
    assert cut == compare.bytes_of_shards(made.folder / "out", made.info)
    assert info["features"] == made.info["features"]


def _written(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def transformed_by_tft(made, preprocess, columns, folder, rows) -> dict[str, np.ndarray]:
    """What TFT makes of the first rows, all of which it analyzes, in their order."""
    import tensorflow as tf
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    given = {"id": np.arange(rows)} | {name: made.columns[name][:rows] for name in columns}
    dtypes = {name: tf.constant(values).dtype for name, values in given.items()}
    spec = {name: tf.io.FixedLenFeature([], dtype) for name, dtype in dtypes.items()}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    data = [{name: given[name][row] for name in given} for row in range(rows)]
    # One batch: of several, TFT averages the L-moments, which is not those of all together.
    with tft_beam.Context(temp_dir=str(folder), desired_batch_size=NUM_ROWS):
        (found, _), _ = (data, metadata) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: preprocess(inputs) | {"id": inputs["id"]}
        )
    found.sort(key=lambda row: row["id"])
    return {name: np.array([row[name] for row in found]) for name in found[0]}
