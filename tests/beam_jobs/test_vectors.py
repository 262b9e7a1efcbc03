"""Vectors: parsed, and transformed as NumPy, scikit-learn and TFT do it."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from oracle import compare
from sklearn import decomposition, preprocessing
from sklearn.datasets import load_svmlight_file
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from beam_jobs import vector_graph, vectors
from beam_jobs.config import Vector, parse_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run
from beam_jobs.verify import verify
from trainer.input_pipeline import Options, load

NUM_TRAIN, NUM_ROWS, SIZE = 140, 200, 4
PCA = {"type": "vector", "column": "v", "size": SIZE, "transform": "pca", "output_dim": 2}
SPEC = {
    "name": "made",
    "source": {"format": "csv", "paths": ["made.csv"]},
    "split": {"column": "fold", "values": {"train": ["train"], "test": ["test"]}},
    "features": {
        "id": {"dtype": "int64"},
        "ab": {"type": "vector", "columns": ["a", "b"], "transform": "scale_to_z_score"},
        "v": {"type": "vector", "size": SIZE, "covariance": True},
        "z": {"type": "vector", "column": "v", "size": SIZE, "transform": "scale_to_z_score"},
        "unit": {"type": "vector", "column": "v", "size": SIZE, "transform": "scale_to_0_1"},
        "centered": {"type": "vector", "column": "v", "size": SIZE, "transform": "center"},
        "pca": PCA,
        "pca_z": PCA | {"transform": ["scale_to_z_score", "pca"], "output_dim": 3},
        "holes": {"type": "vector", "size": 2, "missing": 0.1, "transform": "scale_to_z_score"},
        "ints": {"type": "vector", "size": 2, "separator": " ", "dtype": "int64"},
        "ragged": {"type": "vector", "column": "list"},
        "ragged_z": {"type": "vector", "column": "list", "transform": "scale_to_z_score"},
    },
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Raw values that float32 holds, by record; the last ones are test."""

    a: np.ndarray
    b: np.ndarray
    v: np.ndarray
    holes: list[np.ndarray | None]
    ints: np.ndarray
    lists: list[np.ndarray]

    def write(self, path: Path, rows: list[int]) -> None:
        """Writes a CSV, with lists as JSON and delimited."""
        with open(path, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "a", "b", "v", "holes", "ints", "list", "fold"])
            for row in rows:
                holes = "" if self.holes[row] is None else ",".join(map(str, self.holes[row]))
                ints, fold = " ".join(map(str, self.ints[row])), _fold(row)
                numbers = json.dumps(self.lists[row].astype(float).tolist())
                v = " , ".join(map(str, self.v[row]))
                table.writerow([row, self.a[row], self.b[row], v, holes, ints, numbers, fold])

    def inputs(self, rows: list[int]) -> dict:
        """What transform_fn takes of these records."""
        lengths = [0 if self.holes[row] is None else 2 for row in rows]
        return {
            "id": tf.constant(rows, tf.int64),
            "a": tf.constant(self.a[rows]),
            "b": tf.constant(self.b[rows]),
            "v": tf.constant(self.v[rows]),
            "ints": tf.constant(self.ints[rows]),
            "holes": _sparse(
                [self.holes[r] for r, n in zip(rows, lengths, strict=True) if n], lengths
            ),
            "list": _sparse([self.lists[row] for row in rows], [self.lists[r].size for r in rows]),
        }


def _fold(row: int) -> str:
    return "train" if row < NUM_TRAIN else "test"


def _sparse(lists: list[np.ndarray], lengths: list[int]) -> tf.SparseTensor:
    values = np.concatenate([np.zeros(0, np.float32), *lists]).astype(np.float32)
    return tf.RaggedTensor.from_row_lengths(values, lengths).to_sparse()


def table() -> Table:
    rng = np.random.default_rng(0)
    v = rng.normal(size=(NUM_ROWS, SIZE)) @ rng.normal(size=(SIZE, SIZE)) * [1, 20, 0.01, 3]
    v[NUM_TRAIN:] *= 5  # Beyond what train saw.
    holes = [None if row % 5 == 2 else rng.normal(size=2) for row in range(NUM_ROWS)]
    return Table(
        a=rng.normal(50, 20, NUM_ROWS).astype(np.float32),
        b=np.full(NUM_ROWS, 7.25, np.float32),
        v=(v + [1, 1000, 0, -5]).astype(np.float32),
        holes=[None if pair is None else pair.astype(np.float32) for pair in holes],
        ints=rng.integers(-(2**62), 2**62, (NUM_ROWS, 2)),
        lists=[rng.normal(3, 2, row * 7 % 6).astype(np.float32) for row in range(NUM_ROWS)],
    )


@dataclasses.dataclass(frozen=True)
class Made:
    table: Table
    folder: Path
    info: dict
    stored: dict[str, list[np.ndarray]]  # All records, in the order of their ids.

    def array(self, name: str) -> np.ndarray:
        return np.stack(self.stored[name])

    def statistics(self, name: str) -> dict[str, np.ndarray]:
        return {k: np.array(v) for k, v in self.info["features"][name]["statistics"].items()}


def _examples(folder: Path) -> list[dict[str, np.ndarray]]:
    found = []
    for path in sorted(folder.glob("*.tfrecord")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(data).features.feature
            found.append(
                {
                    name: np.array(f.float_list.value, np.float32)
                    if f.WhichOneof("kind") == "float_list"
                    else np.array(f.int64_list.value, np.int64)
                    for name, f in features.items()
                }
            )
    return sorted(found, key=lambda record: record["id"].item())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    table().write(folder / "made.csv", [*range(NUM_ROWS)])
    spec = parse_spec(SPEC, str(folder / "made.toml"))
    info = run(spec, str(folder / "out"), num_threads=2, block_mb=0.002)
    assert info["read"] == NUM_ROWS and not any(info["rejected"].values())
    assert info["splits"]["train"]["num_examples"] == NUM_TRAIN
    examples = _examples(folder / "out")
    assert [record["id"].item() for record in examples] == [*range(NUM_ROWS)]
    stored = {name: [record[name] for record in examples] for name in examples[0]}
    return Made(table(), folder / "out", info, stored)


def test_transform_fn_gives_the_stored_bits_row_by_row_and_at_once(made):
    loaded = tf.saved_model.load(str(made.folder / "transform_fn"))
    for rows in ([*range(NUM_ROWS)], *([row] for row in range(0, NUM_ROWS, 7))):
        found = loaded.transform_fn(made.table.inputs(rows))
        assert found.keys() == made.stored.keys()
        for name, values in found.items():
            if isinstance(values, tf.SparseTensor):
                values = values.values
            wanted = np.concatenate([made.stored[name][row] for row in rows])
            assert values.numpy().ravel().tobytes() == wanted.tobytes(), (rows, name)


def test_a_projection_knows_no_batch():
    size, feature = 300, Vector(size=300, transform="pca", output_dim=3)
    rng = np.random.default_rng(5)
    x, matrix = rng.normal(size=(50, size)), rng.normal(size=(size, 3))
    graph = tf.function(lambda x: vector_graph._projected(x, tf.constant(matrix), feature))
    together = graph(x).numpy()
    np.testing.assert_allclose(together, x @ matrix, rtol=1e-10, atol=1e-12)
    for row in range(50):
        assert graph(x[row : row + 1]).numpy().tobytes() == together[row].tobytes()


@pytest.mark.feature("numpy", "np.stack(columns, axis=1)", '`type = "vector"`, `columns`')
@pytest.mark.feature("numpy", "np.mean, np.std, axis=0", "`statistics` of a vector in the manifest")
@pytest.mark.feature("numpy", "np.cov(bias=True)", '`covariance` of `type = "vector"`')
def test_vectors_and_statistics_against_numpy(made):
    given = made.table
    assert made.array("v").tobytes() == given.v.tobytes()
    assert made.array("ints").tobytes() == given.ints.tobytes()
    train = given.v[:NUM_TRAIN].astype(np.float64)
    for name in ("v", "z", "unit", "centered", "pca"):
        found = made.statistics(name)
        np.testing.assert_allclose(found["mean"], train.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(found["std"], train.std(axis=0), rtol=1e-13)
        np.testing.assert_array_equal(found["min"], train.min(axis=0))
        np.testing.assert_array_equal(found["max"], train.max(axis=0))
        assert found["count"] == NUM_TRAIN
    covariance = made.statistics("v")["covariance"]
    np.testing.assert_allclose(covariance, np.cov(train.T, bias=True), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(np.sqrt(np.diag(covariance)), made.statistics("v")["std"])
    both = np.stack([given.a, given.b], axis=1).astype(np.float64)
    expected = (both - both[:NUM_TRAIN].mean(axis=0)) / [both[:NUM_TRAIN, 0].std(), 1]
    np.testing.assert_allclose(made.array("ab"), expected, rtol=2e-7, atol=1e-7)
    assert not made.array("ab")[:, 1].any()  # A constant is 0.


@pytest.mark.feature("sklearn StandardScaler", "StandardScaler", '`transform = "scale_to_z_score"`')
@pytest.mark.feature("sklearn MinMaxScaler", "MinMaxScaler", '`transform = "scale_to_0_1"`')
@pytest.mark.feature("sklearn StandardScaler", "with_std=False", '`transform = "center"`')
def test_elements_are_scaled_as_scikit_learn_does(made):
    x = made.table.v.astype(np.float64)
    scalers = {
        "z": preprocessing.StandardScaler(),
        "centered": preprocessing.StandardScaler(with_std=False),
        "unit": preprocessing.MinMaxScaler(),
    }
    for name, scaler in scalers.items():
        expected = scaler.fit(x[:NUM_TRAIN]).transform(x)
        np.testing.assert_allclose(made.array(name), expected, rtol=2e-7, atol=1e-6)


@pytest.mark.feature("sklearn PCA", "n_components", '`transform = "pca"`, `output_dim`')
@pytest.mark.feature("sklearn PCA", "components_", "`statistics.components` in the manifest")
@pytest.mark.feature(
    "sklearn PCA", "explained_variance_", "`statistics.explained_variance`, of the population"
)
def test_principal_components_are_those_of_scikit_learn_with_their_signs(made):
    x = made.table.v.astype(np.float64)
    scaled = preprocessing.StandardScaler().fit(x[:NUM_TRAIN]).transform(x)
    for name, given, output_dim in (("pca", x, 2), ("pca_z", scaled, 3)):
        pca = decomposition.PCA(output_dim, svd_solver="full").fit(given[:NUM_TRAIN])
        found = made.statistics(name)
        np.testing.assert_allclose(found["components"], pca.components_, atol=1e-9)
        of_population = pca.explained_variance_ * (NUM_TRAIN - 1) / NUM_TRAIN
        np.testing.assert_allclose(found["explained_variance"], of_population, rtol=1e-9)
        expected = pca.transform(given)
        np.testing.assert_allclose(made.array(name), expected, rtol=2e-7, atol=1e-5)
        assert made.info["features"][name]["shape"] == [output_dim]


def _with_tft(preprocess, rows: list[dict], features: dict, folder: Path) -> list[dict]:
    schema = schema_utils.schema_from_feature_spec(features)
    data = rows, dataset_metadata.DatasetMetadata(schema)
    with tft_beam.Context(temp_dir=str(folder)):
        (found, _), _ = data | tft_beam.AnalyzeAndTransformDataset(preprocess)
    return found


@pytest.mark.feature("tft.scale_to_z_score", "elementwise", '`type = "vector"`, `scale_to_z_score`')
@pytest.mark.feature("tft.scale_to_0_1", "elementwise", '`type = "vector"`, `scale_to_0_1`')
@pytest.mark.feature("tft.covariance", "x", '`covariance` of `type = "vector"`')
@pytest.mark.feature("tft.pca", "output_dim", '`transform = "pca"`, `output_dim`')
def test_agrees_with_tft(made, tmp_path):
    def preprocess(inputs):
        x = inputs["x"]
        matrix = tft.pca(tf.cast(x, tf.float64), 2, tf.float64)
        covariance = tft.covariance(tf.cast(x, tf.float64), tf.float64)
        each = tf.zeros([tf.shape(x)[0], 1, 1], tf.float64)
        return {
            "id": inputs["id"],
            "z": tft.scale_to_z_score(x, elementwise=True),
            "unit": tft.scale_to_0_1(x, elementwise=True),
            "matrix": tf.cast(each + matrix, tf.float32),
            "covariance": tf.cast(each + covariance, tf.float32),
        }

    features = {
        "x": tf.io.FixedLenFeature([SIZE], tf.float32),
        "id": tf.io.FixedLenFeature([], tf.int64),
    }
    train = [{"x": x, "id": row} for row, x in enumerate(made.table.v[:NUM_TRAIN])]
    found = _with_tft(preprocess, train, features, tmp_path)
    assert len(found) == NUM_TRAIN
    for record in found:
        for name in ("z", "unit"):
            ours = made.stored[name][record["id"]]
            np.testing.assert_allclose(ours, record[name], rtol=1e-4, atol=2e-4, err_msg=name)
    ours = made.statistics("pca")
    np.testing.assert_allclose(found[0]["covariance"], ours["covariance"], rtol=1e-5, atol=1e-6)
    theirs = found[0]["matrix"].T
    signs = np.sign((theirs * ours["components"]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(theirs * signs, ours["components"], atol=1e-5)


def test_what_stands_in_for_a_missing_vector_counts(made):
    given = [np.full(2, 0.1, np.float32) if x is None else x for x in made.table.holes]
    x = np.stack(given).astype(np.float64)
    train = x[:NUM_TRAIN]
    expected = (x - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(made.array("holes"), expected, rtol=2e-7, atol=1e-7)
    raw = made.info["features"]["holes"]["raw_statistics"]
    num_missing = sum(x is None for x in made.table.holes[:NUM_TRAIN])
    assert raw == {"count": NUM_TRAIN - num_missing, "missing": num_missing}
    assert made.statistics("holes")["count"] == NUM_TRAIN


@pytest.mark.feature(
    "tft.scale_to_z_score", "x: a SparseTensor", '`type = "vector"` without `size`'
)
def test_ragged_vectors_keep_their_lengths_and_have_one_statistic(made, tmp_path):
    lists = made.table.lists
    assert {len(numbers) for numbers in lists} == {0, 1, 2, 3, 4, 5}
    train = np.concatenate(lists[:NUM_TRAIN]).astype(np.float64)
    for row, numbers in enumerate(lists):
        assert made.stored["ragged"][row].tobytes() == numbers.tobytes()
        assert made.stored["ragged_length"][row].tolist() == [len(numbers)]
        expected = (numbers - train.mean()) / train.std()
        np.testing.assert_allclose(made.stored["ragged_z"][row], expected, rtol=2e-7, atol=1e-6)
    entry = made.info["features"]["ragged_z"]
    assert (entry["shape"], entry["stored_as"], entry["longest"]) == ([None], "float_list", 5)
    assert entry["raw_statistics"] == {"count": NUM_TRAIN, "missing": 0}
    told = entry["statistics"]
    assert (told["count"], told["min"], told["max"]) == (train.size, train.min(), train.max())
    np.testing.assert_allclose([told["mean"], told["std"]], [train.mean(), train.std()], rtol=1e-14)

    def preprocess(inputs):
        scaled = tft.scale_to_z_score(inputs["x"])
        return {"id": inputs["id"], "z": scaled}

    features = {"x": tf.io.VarLenFeature(tf.float32), "id": tf.io.FixedLenFeature([], tf.int64)}
    rows = [{"x": numbers, "id": row} for row, numbers in enumerate(lists[:NUM_TRAIN])]
    for record in _with_tft(preprocess, rows, features, tmp_path):
        ours = made.stored["ragged_z"][record["id"]]
        theirs = np.asarray(record["z"]).ravel()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.feature(
    "keras.utils", "pad_sequences(padding='post')", '`type = "vector"` without `size`, when read'
)
def test_the_trainer_reads_vectors_and_pads_ragged_ones(made):
    from keras.utils import pad_sequences

    batches = load(made.folder, "train", NUM_TRAIN, Options(training=False))
    assert batches.element_spec["ragged"].shape.as_list() == [None, 5]
    assert batches.element_spec["z"].shape.as_list() == [None, SIZE]
    for alone in load(made.folder, "train", 1, Options(training=False)):
        assert alone["ragged"].shape == (1, 5)
    (batch,) = batches
    rows = batch["id"].numpy()
    for name in ("v", "pca", "ints"):
        assert batch[name].numpy().tobytes() == made.array(name)[rows].tobytes()
    for name in ("ragged", "ragged_z"):
        lists = [made.stored[name][row] for row in rows]
        expected = pad_sequences(lists, maxlen=5, dtype="float32", padding="post")
        assert batch[name].numpy().tobytes() == expected.tobytes()


def test_verify_schema_and_statistics_know_vectors(made):
    from google.protobuf import text_format

    assert verify(str(made.folder)) == []
    schema = text_format.Parse((made.folder / "schema.pbtxt").read_text(), schema_pb2.Schema())
    spec = schema_utils.schema_as_feature_spec(schema).feature_spec
    assert spec["z"] == tf.io.FixedLenFeature([SIZE], tf.float32)
    assert spec["ragged"] == tf.io.VarLenFeature(tf.float32)
    found = statistics_pb2.DatasetFeatureStatisticsList.FromString(
        (made.folder / "statistics.pb").read_bytes()
    )
    told = {f.path.step[0]: f.num_stats for d in found.datasets[:1] for f in d.features}
    lists = made.table.lists[:NUM_TRAIN]
    common, numbers = told["list"].common_stats, np.concatenate(lists).astype(np.float64)
    assert (common.num_non_missing, common.min_num_values, common.max_num_values) == (140, 0, 5)
    assert common.tot_num_values == numbers.size
    np.testing.assert_allclose(common.avg_num_values, numbers.size / 140)
    np.testing.assert_allclose(told["list"].mean, numbers.mean(), rtol=1e-13)
    assert told["holes"].common_stats.num_missing == 28


def test_a_longer_list_than_the_manifest_knows_is_a_fault(made, tmp_path):
    info = json.loads((made.folder / "dataset_info.json").read_text())
    info["features"]["ragged"]["longest"] = 4
    for path in made.folder.glob("*.tfrecord"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    problems = verify(str(tmp_path))
    assert problems and all("must have at most 4 values, but has 5" in line for line in problems)


@pytest.mark.parametrize("num_files, block_mb", [(1, 0.0005), (3, 16), (7, 0.001)])
def test_the_bytes_do_not_depend_on_files_and_blocks(made, tmp_path, num_files, block_mb):
    rows = np.random.default_rng(num_files).permutation(NUM_ROWS)
    for number, part in enumerate(np.array_split(rows, num_files)):
        made.table.write(tmp_path / f"{number}.csv", part.tolist())
    said = SPEC | {"source": {"format": "csv", "paths": ["*.csv"]}}
    spec = parse_spec(said, str(tmp_path / "made.toml"))
    info = run(spec, str(tmp_path / "out"), num_threads=4, block_mb=block_mb)
    assert info["features"] == made.info["features"]
    ours, theirs = tmp_path / "out", made.folder
    assert compare.bytes_of_shards(ours, info) == compare.bytes_of_shards(theirs, made.info)


def _parquet(path: Path, given: Table) -> None:
    pq.write_table(
        pa.table(
            {
                "v": pa.array([*given.v], pa.list_(pa.float32())),
                "list": pa.array([*given.lists], pa.list_(pa.float32())),
            }
        ),
        path,
    )


def _arrow(path: Path, given: Table) -> None:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(given.v.ravel()), SIZE)
    found = pa.table({"v": fixed, "list": pa.array([*given.lists], pa.list_(pa.float32()))})
    with pa.ipc.new_file(str(path), found.schema) as file:
        file.write_table(found)


def _tfrecord(path: Path, given: Table) -> None:
    with tf.io.TFRecordWriter(str(path)) as file:
        for v, numbers in zip(given.v, given.lists, strict=True):
            example = tf.train.Example()
            example.features.feature["v"].float_list.value.extend(v)
            example.features.feature["list"].float_list.value.extend(numbers)
            file.write(example.SerializeToString())


@pytest.mark.feature("pyarrow.parquet", "list columns", '`type = "vector"`')
@pytest.mark.feature("tf.io", "FixedLenFeature([n]), VarLenFeature", '`type = "vector"`, `size`')
@pytest.mark.parametrize(
    "name, write, kind",
    [
        ("data.parquet", _parquet, "parquet"),
        ("data.arrow", _arrow, "parquet"),
        ("data.tfrecord", _tfrecord, "tfrecord"),
    ],
)
def test_lists_of_other_formats(tmp_path, name, write, kind):
    given = table()
    write(tmp_path / name, given)
    features = {key: {"type": "vector", "column": key} for key in ("v", "list")}
    features["v"] |= {"size": SIZE}
    features["list"] |= {"missing": "empty"}  # As an empty list of a TFRecord is.
    said = SPEC | {"source": {"format": kind, "paths": [name]}, "features": features}
    said["split"] = {"fractions": {"train": 1.0}}
    info = run(parse_spec(said, str(tmp_path / "x.toml")), str(tmp_path / "out"))
    assert info["splits"]["train"]["num_examples"] == NUM_ROWS
    found = set()
    for path in sorted((tmp_path / "out").glob("*.tfrecord")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            record = tf.train.Example.FromString(data).features.feature
            found.add(tuple((*record["v"].float_list.value, *record["list"].float_list.value)))
    assert found == {(*v.tolist(), *x.tolist()) for v, x in zip(given.v, given.lists, strict=True)}


def test_arrays_of_numpy_are_columns_that_a_vector_joins(tmp_path):
    v = table().v
    np.savez(tmp_path / "data.npz", v=v)
    columns = [f"v_{place}" for place in range(SIZE)]
    said = SPEC | {"source": {"format": "numpy", "paths": ["data.npz"]}}
    said |= {"features": {"v": {"type": "vector", "columns": columns}}}
    said["split"] = {"fractions": {"train": 1.0}}
    info = run(parse_spec(said, str(tmp_path / "x.toml")), str(tmp_path / "out"))
    assert info["features"]["v"]["shape"] == [SIZE]
    (batch,) = load(tmp_path / "out", "train", NUM_ROWS, Options(training=False))
    assert {*map(bytes, batch["v"].numpy())} == {*map(bytes, v)}


TEXTS = ["1, 2.5,-3", "[1,2.5,-3.0]", None, "", "[]", "1,2", "1,x,3", "1,nan,3", "1,inf,3", "1,,3"]
TEXTS += ["[1,null,3]", "1e39,1,1", "[1,2,3", " [ 1 , 2 , 3 ] ", "1e-44,-0,0x10", "1e-44,-0,3"]


@pytest.mark.parametrize(
    "feature, parsed, faults",
    [
        (
            Vector(size=3),
            {0: [1, 2.5, -3], 1: [1, 2.5, -3], 13: [1, 2, 3], 15: [0, -0.0, 3]},
            {
                "unparsable": {6, 9, 10, 12, 14},
                "non_finite": {7, 8, 11},
                "wrong_size": {3, 4, 5},
            },
        ),
        (
            Vector(),
            {
                0: [1, 2.5, -3],
                1: [1, 2.5, -3],
                3: [],
                4: [],
                5: [1, 2],
                13: [1, 2, 3],
                15: [0, -0.0, 3],
            },
            {"unparsable": {6, 9, 10, 12, 14}, "non_finite": {7, 8, 11}},
        ),
        (
            Vector(dtype="int64"),
            {3: [], 4: [], 5: [1, 2], 13: [1, 2, 3]},
            {"unparsable": {0, 1, 6, 9, 10, 11, 12, 14, 15}, "non_finite": {7, 8}},
        ),
    ],
)
def test_lists_of_numbers_are_read_by_the_grammar_of_numbers(feature, parsed, faults):
    lists, found = vectors.parse(pa.array(TEXTS, pa.string()), feature)
    by_cause: dict[str, set[int]] = {}
    for where, cause in found:
        by_cause.setdefault(cause, set()).update(np.flatnonzero(where).tolist())
    assert by_cause == faults
    assert {
        row: value for row, value in enumerate(lists.to_pylist()) if value is not None
    } == parsed


def test_white_space_separates_any_number_of_times():
    text = pa.array(["[ 1.  -2.5\t3]", "1 2\n 3", "   "])
    lists, faults = vectors.parse(text, Vector(separator=" ", size=3))
    assert lists.to_pylist() == [[1, -2.5, 3], [1, 2, 3], None]
    assert [cause for _, cause in faults] == ["wrong_size"]


def _rejected(folder: Path) -> dict[int, str]:
    lines = [p.read_text().splitlines() for p in (folder / "rejected").glob("*.jsonl")]
    found = [json.loads(line) for line in sum(lines, [])]
    return {line["position"]: line["reason"] for line in found}


def _run(folder: Path, text: str, features: dict) -> dict:
    (folder / "made.csv").write_text(text)
    said = SPEC | {"features": features, "output": {"max_rejected": 1}}
    said["split"] = {"fractions": {"train": 1.0}}
    return run(parse_spec(said, str(folder / "made.toml")), str(folder / "out"))


def test_a_record_whose_vector_does_not_fit_is_rejected_with_the_reason(tmp_path):
    text = 'v,a,b\n"1,2",1,2\n"1,2,3",1,2\n"1,x",1,2\n"1,inf",1,2\n,1,2\n"1,2",x,2\n"1,2",1,\n'
    features = {
        "v": {"type": "vector", "size": 2},
        "ab": {"type": "vector", "columns": ["a", "b"]},
    }
    info = _run(tmp_path, text, features)
    assert _rejected(tmp_path / "out") == {
        3: "wrong_size_v",
        4: "unparsable_v",
        5: "non_finite_v",
        6: "missing_v",
        7: "unparsable_a",
        8: "missing_b",
    }
    assert info["read"] == 7 and info["splits"]["train"]["num_examples"] == 1


def test_missing_numbers_of_columns_are_filled_one_by_one(tmp_path):
    feature = {"type": "vector", "columns": ["a", "b"], "missing": 3, "transform": "scale_to_0_1"}
    info = _run(tmp_path, "a,b\n1,2\n,5\n,\n5,1\n", {"ab": feature})
    assert info["features"]["ab"]["raw_statistics"] == {"count": [2, 3], "missing": [2, 1]}
    (batch,) = load(tmp_path / "out", "train", 4, Options(training=False))
    expected = {(0.0, 0.25), (0.5, 1.0), (0.5, 0.5), (1.0, 0.0)}
    assert set(map(tuple, batch["ab"].numpy().tolist())) == expected


@pytest.mark.parametrize(
    "text, feature, message",
    [
        (
            'v\n"1,2"\n"3,4"\n"5,6"\n',
            {"size": 2, "transform": "pca", "output_dim": 2},
            "features.v: output_dim is 2, but the vectors of train differ in 1 directions. Lower "
            "it, or give more records.",
        ),
        (
            'v\n"1,2"\n"1,2"\n',
            {"size": 2, "transform": ["scale_to_z_score", "pca"], "output_dim": 1},
            "output_dim is 1, but the vectors of train differ in 0 directions. Leave out pca",
        ),
        ('v\n"1"\n', {"size": 2}, r"no record is left in train: 1 were read, and 1 rejected"),
        (
            "v,w\n[],1\n[],1\n",
            {"transform": "center"},
            "features.v: train has no number in column 'v', so there is no statistic",
        ),
        (
            'v\n"3e38"\n"3e38"\n"-3e38"\n"-3e38"\n"-3e38"\n"-3e38"\n',
            {"size": 1, "transform": "center"},
            "features.v: a value becomes NaN or infinite as float32 after center",
        ),
    ],
)
def test_what_no_transform_can_take_ends_the_job_with_a_line(tmp_path, text, feature, message):
    with pytest.raises(DataError, match=message):
        _run(tmp_path, text, {"v": {"type": "vector"} | feature})


@pytest.mark.parametrize(
    "feature, message",
    [
        ({"columns": ["a"], "size": 1}, "takes columns, or one column and its size, not both"),
        ({"columns": ["a"], "column": "b"}, "takes columns, or one column and its size, not both"),
        ({"columns": ["a", "a"]}, "columns names one twice"),
        ({"columns": ["a"], "separator": ";"}, "separator belongs to one column of lists"),
        ({"columns": []}, "features.v.columns: must not be empty; name at least one."),
        ({"size": 0}, "features.v.size: must be greater than or equal to 1, but is 0."),
        ({"size": 2, "dtype": "string"}, "must be 'float32' or 'int64', but is 'string'"),
        (
            {"size": 2, "dtype": "int64", "transform": "center"},
            "transform and covariance take float32, but dtype is int64",
        ),
        ({"size": 2, "transform": "pca"}, 'transform = "pca" and output_dim go together'),
        ({"size": 2, "output_dim": 2}, 'transform = "pca" and output_dim go together'),
        (
            {"size": 2, "transform": "pca", "output_dim": 3},
            "output_dim must be at most the 2 elements of the vector, but is 3",
        ),
        ({"transform": "pca", "output_dim": 3}, "pca and covariance need size"),
        ({"size": 1025, "covariance": True}, "at most 1024 elements, but there are 1025"),
        (
            {"size": 2, "transform": ["pca", "center"], "output_dim": 1},
            "transform must be one step",
        ),
        ({"missing": 0}, 'missing must be "reject" or "empty" for vectors without a size'),
        ({"size": 2, "missing": "empty"}, 'missing = "empty" is for vectors without a size'),
        ({"size": 2, "missing": 1e39}, "missing must fit float32, but is 1e"),
        ({"size": 2, "missing": 0.5, "dtype": "int64"}, "missing must fit int64, but is 0.5"),
        ({"size": 2, "transform": "log1p"}, "features.v.transform: must be"),
    ],
)
def test_a_mistake_in_the_spec_is_one_line(feature, message):
    said = SPEC | {"features": {"v": {"type": "vector"} | feature}}
    with pytest.raises(SpecError) as caught:
        parse_spec(said, "made.toml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "features, message",
    [
        ({"v": {"dtype": "float32"}}, "column 'v' is float32 for v and float32 lists of 2 numbers"),
        ({"w": {"type": "vector", "column": "v", "size": 3}}, "float32 lists of 3 numbers"),
        ({"x_length": {"dtype": "int64"}, "x": {"type": "vector"}}, "x_length is the length of x"),
    ],
)
def test_features_of_one_column_agree_on_what_it_holds(features, message):
    given = {"u": {"type": "vector", "column": "v", "size": 2}}
    with pytest.raises(SpecError, match=message):
        parse_spec(SPEC | {"features": features | given}, "made.toml")


def _svm_lines(num_rows: int = 80) -> list[str]:
    """Records as LIBSVM writes them, without the label; some have no pair."""
    rng = np.random.default_rng(6)
    lines = []
    for row in range(num_rows):
        columns = rng.permutation(30)[: row % 7]
        numbers = rng.normal(size=len(columns)) * 10.0 ** rng.integers(-5, 5, len(columns))
        texts = [f"{number:+.17g}" if row % 2 else f"{number:.3e}" for number in numbers]
        lines.append(" ".join(f"{c + 1}:{t}" for c, t in zip(columns, texts, strict=True)))
    return lines


@pytest.mark.feature(
    "sklearn load_svmlight_file",
    "n_features, zero_based",
    '`type = "sparse"`, `size`, `zero_based`',
)
def test_pairs_of_index_and_value_are_those_of_scikit_learn(tmp_path):
    lines = _svm_lines()
    assert "" in lines
    with open(tmp_path / "made.csv", "w") as file:
        file.writelines(["id,x\n", *(f"{row},{line}\n" for row, line in enumerate(lines))])
    rising = [sorted(line.split(), key=lambda pair: int(pair.split(":")[0])) for line in lines]
    assert any(line.split() != pairs for line, pairs in zip(lines, rising, strict=True))
    text = "".join(f"{row} {' '.join(pairs)}\n" for row, pairs in enumerate(rising))
    (tmp_path / "made.svm").write_text(text)  # Which scikit-learn wants in order.
    matrix, ids = load_svmlight_file(
        str(tmp_path / "made.svm"), n_features=30, zero_based=False, dtype=np.float64
    )
    assert ids.tolist() == [*range(len(lines))]
    expected = matrix.toarray().astype(np.float32)
    feature = {"type": "sparse", "size": 30, "zero_based": False, "missing": ""}
    said = SPEC | {"features": {"id": {"dtype": "int64"}, "x": feature}}
    said["split"] = {"fractions": {"train": 1.0}}
    info = run(parse_spec(said, str(tmp_path / "x.toml")), str(tmp_path / "out"))
    entry = info["features"]["x"]
    assert (entry["shape"], entry["stored_as"], entry["dtype"]) == ([30], "sparse", "float32")
    assert verify(str(tmp_path / "out")) == []
    (batch,) = load(tmp_path / "out", "train", len(lines), Options(training=False))
    assert batch["x"].numpy().tobytes() == expected[batch["id"].numpy()].tobytes()
    graph = tf.saved_model.load(str(tmp_path / "out" / "transform_fn")).transform_fn
    for row in range(0, len(lines), 5):
        given = [lines[row]] if lines[row] else []
        places = np.zeros((len(given), 2), np.int64)
        texts = tf.SparseTensor(places, tf.constant(given, tf.string, [len(given)]), [1, 1])
        found = graph({"id": tf.constant([row], tf.int64), "x": texts})["x"]
        assert tf.sparse.to_dense(found).numpy().tobytes() == expected[row].tobytes()


def test_pairs_that_are_none_or_name_no_element_are_rejected_with_the_reason(tmp_path):
    cells = ["1:0.5 7:-2", "8:1", "1:2 3:1 1:3", "1:x", "1", "1:nan", "1:1e39", "-1:2", "1:2:3", ""]
    text = "".join(f"{row},{cell}\n" for row, cell in enumerate(cells))
    info = _run(tmp_path, f"id,x\n{text}", {"x": {"type": "sparse", "size": 8}})
    assert _rejected(tmp_path / "out") == {
        3: "wrong_index_x",
        4: "wrong_index_x",
        5: "unparsable_x",
        6: "unparsable_x",
        7: "non_finite_x",
        8: "non_finite_x",
        9: "unparsable_x",
        10: "unparsable_x",
        11: "missing_x",
    }
    assert info["splits"]["train"]["num_examples"] == 1


@pytest.mark.parametrize(
    "feature, message",
    [
        ({}, "features.x.size: missing; add it."),
        ({"size": 0}, "features.x.size: must be greater than or equal to 1, but is 0."),
        ({"size": 3, "missing": "0:1"}, 'missing must be "reject", or "" for no pair'),
        ({"size": 3, "transform": "center"}, "features.x.transform: unknown key"),
    ],
)
def test_a_mistake_about_pairs_is_one_line(feature, message):
    said = SPEC | {"features": {"x": {"type": "sparse"} | feature}}
    with pytest.raises(SpecError) as caught:
        parse_spec(said, "made.toml")
    assert message in str(caught.value) and "\n" not in str(caught.value)
