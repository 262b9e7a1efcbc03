"""Features of categories against Keras, TensorFlow, TFT and scikit-learn, value by value."""

import collections
import csv
import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from oracle import records, served
from sklearn.preprocessing import MultiLabelBinarizer, OneHotEncoder
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from beam_jobs.config import parse_spec
from beam_jobs.counts import TokenCounts, by_information
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run
from beam_jobs.verify import verify

NUM_TRAIN, NUM_ROWS = 240, 300
COLORS = ["red", "green", "blue", "grün", "", "a_X_b"]
STRING, INT64 = {"dtype": "string"}, {"dtype": "int64"}
VOCABULARY = STRING | {"transform": "compute_and_apply_vocabulary"}
FEATURES = {
    "id": INT64,
    "color": STRING,
    "town": STRING | {"missing": "token"},
    "number": INT64,
    "holes": INT64 | {"missing": -1},
    "color_id": VOCABULARY | {"column": "color"},
    "town_id": VOCABULARY | {"column": "town", "missing": "token"},
    "bucket": {"dtype": "float32", "column": "x", "transform": "bucketize", "num_buckets": 5},
    "hashed": STRING | {"column": "color", "transform": "hash_strings", "hash_buckets": 7},
    "town_hashed": {"dtype": "string", "column": "town", "missing": "token"}
    | {"transform": "hash_strings", "hash_buckets": 11},
}
RANKED = {
    "ranked": {},
    "ranked_top": {"top_k": 5},
    "ranked_frequent": {"frequency_threshold": 12, "num_oov_buckets": 2},
    "ranked_filled": {"missing": "w1"},
    "ranked_hot": {"output_mode": "one_hot"},
}
RANKED = {
    name: VOCABULARY
    | {"column": "word", "missing": "token", "rank_by": "mutual_information"}
    | said
    for name, said in RANKED.items()
}
WORDS = ["w0", "w1", "über", "w 3", *(f"rare{k}" for k in range(6))]
ONE_HOT = {  # The same, each as a number for each of its indices.
    "color_hot": FEATURES["color_id"],
    "town_hot": FEATURES["town_id"] | {"indicator": True, "num_oov_buckets": 3, "top_k": 4},
    "bucket_hot": FEATURES["bucket"],
    "holes_hot": FEATURES["holes"]
    | {"column": "holes", "transform": "bucketize", "num_buckets": 3},
    "hashed_hot": FEATURES["hashed"],
}
CROSSES = {
    "of_strings": {"of": ["color", "town"], "hash_buckets": 50},
    "of_ids": {"of": ["town_id", "color_id"], "hash_buckets": 1000},
    "of_numbers": {"of": ["number", "bucket", "holes"], "hash_buckets": 10**12},
    "of_all": {"of": ["color", "number", "town", "bucket", "hashed"], "hash_buckets": 97},
    "of_hashed": {"of": ["hashed", "town_hashed"], "hash_buckets": 60},
    "in_one": {"of": ["color", "number"], "hash_buckets": 1},
}
ITEMS = ["drama", "Drama", "sci-fi, new", " war ", "日本", "[UNK]", "x", "?"]
TAGS = {  # Lists of items, divided by "|".
    "ids": {"output_sequence_length": 4},
    "tail": {"output_sequence_length": 3, "truncate": "start"},
    "hot": {"output_mode": "multi_hot"},
    "numbers": {"output_mode": "count"},
    "weights": {"output_mode": "tf_idf"},
    "top": {"output_mode": "multi_hot", "max_tokens": 4},
    "frequent": {"output_mode": "count", "frequency_threshold": 80},
    "given": {"output_mode": "multi_hot", "vocabulary": ["x", "drama", "never"]},
    "lower": {"output_mode": "count", "standardize": "lower"},
    "long": {"output_mode": "count", "separator": "|x|"},
    "filled": {"output_mode": "count", "column": "gaps", "missing": "x|x|drama"},
    "pairs": {"output_mode": "count", "ngrams": 2},
}
UNIQUE = {
    "unique_ids": {"output_sequence_length": 4},
    "unique_tail": {"output_sequence_length": 3, "truncate": "start"},
    "unique_hot": {"output_mode": "multi_hot"},
    "unique_numbers": {"output_mode": "count"},
    "unique_weights": {"output_mode": "tf_idf"},
    "unique_frequent": {"output_mode": "count", "frequency_threshold": 70},
    "unique_words": {"output_mode": "count", "separator": None, "standardize": "none"},
    "unique_filled": {"output_mode": "count", "column": "gaps", "missing": "x|x|drama"},
}
TOKENS = {
    name: {"type": "text", "column": "tags", "separator": "|"} | said for name, said in TAGS.items()
}
TOKENS |= {
    name: {"type": "text", "column": "tags", "separator": "|", "deduplicate": True} | said
    for name, said in UNIQUE.items()
}


def table() -> list[dict]:
    rng = np.random.default_rng(5)
    rows = []
    for row in range(NUM_ROWS):
        color = COLORS[min(int(rng.exponential(1.2)), 4)] if row < NUM_TRAIN else COLORS[row % 6]
        rows.append(
            {
                "id": row,
                "color": color,
                "town": None if row % 7 == 3 else f"T{rng.integers(6)}",
                "number": int(rng.integers(-(2**63), 2**63 - 1) if row % 2 else rng.integers(4)),
                "holes": None if row % 5 == 1 else int(rng.integers(3)),
                "x": float(np.float32(rng.normal())),
                "tags": "|".join(rng.choice([*ITEMS, ""], rng.integers(1, 7))),
                "gaps": None if row % 6 == 5 else "|".join(rng.choice(ITEMS, rng.integers(1, 5))),
                "fold": "train" if row < NUM_TRAIN else "test",
            }
        )
    for row, tags in enumerate(["", "|", "||", "x|x", "x||x", "|x", "x|", "drama"]):
        rows[row]["tags"] = tags
    rows[-1]["tags"] = "new|x|new|newer"
    for row in rows:  # A word says more or less of what is liked; the rare ones tie.
        liked = rng.integers(3)
        words = [None, *WORDS[: 2 + 2 * liked]] if rng.random() < 0.9 else WORDS[3:]
        row["word"] = words[rng.integers(len(words))]
        row["liked"] = ["no", "maybe", "yes"][liked]
    for row in rows[NUM_TRAIN : NUM_TRAIN + 9]:
        row["word"] = "never"
    return rows


def indices() -> dict[str, dict]:
    """The features of ONE_HOT as indices, each under another name."""
    return {f"{name}_as_int": said | {"indicator": False} for name, said in ONE_HOT.items()}


def spec(paths: list[str]) -> dict:
    crosses = {name: {"type": "cross"} | said for name, said in CROSSES.items()}
    one_hot = {name: said | {"output_mode": "one_hot"} for name, said in ONE_HOT.items()}
    return {
        "name": "made",
        "source": {"format": "csv", "paths": paths, "null_values": ["NA"]},
        "split": {"column": "fold", "values": {"train": ["train"], "test": ["test"]}},
        "features": FEATURES | indices() | one_hot | RANKED | TOKENS | crosses,
        "label": {"column": "liked"},
        "output": {"num_shards": 3},
    }


def write(folder: Path, cuts: list[int]) -> list[str]:
    """Writes the records as files that end at these rows; returns their names."""
    rows = table()
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, NUM_ROWS], strict=True)):
        with open(folder / f"part-{number}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(rows[0])
            for row in rows[start:end]:
                writer.writerow("NA" if value is None else value for value in row.values())
    return [f"part-{number}.csv" for number in range(len(cuts) + 1)]


SPARSE = {"town": tf.string, "holes": tf.int64, "gaps": tf.string, "word": tf.string}


@dataclasses.dataclass(frozen=True)
class Made:
    folder: Path
    info: dict
    stored: dict[str, np.ndarray]  # All records in the order of their ids; sparse ones dense.
    transform_fn: object

    def serve(self, chosen: list[int]) -> dict[str, np.ndarray]:
        """What transform_fn makes of these rows in one batch."""
        rows = [table()[row] for row in chosen]
        fed = {"id": tf.int64, "color": tf.string, "number": tf.int64, "x": tf.float32}
        fed["tags"] = tf.string
        given = {k: tf.constant([row[k] for row in rows], dtype) for k, dtype in fed.items()}
        for name, dtype in SPARSE.items():
            given[name] = served.column([row[name] for row in rows], dtype)
        return {name: records.dense(value) for name, value in self.transform_fn(given).items()}

    def vocabulary(self, name: str) -> list[str]:
        return json.loads((self.folder / f"vocabulary-{name}.json").read_text())["vocabulary"]

    def idf(self, name: str) -> list[float]:
        return json.loads((self.folder / f"vocabulary-{name}.json").read_text())["idf_weights"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    said = parse_spec(spec(write(folder, [NUM_ROWS // 3])), str(folder / "made.toml"))
    info = run(said, str(folder / "out"), num_threads=2, block_mb=0.003)
    assert {name: split["num_examples"] for name, split in info["splits"].items()} == {
        "train": NUM_TRAIN,
        "test": NUM_ROWS - NUM_TRAIN,
    }
    loaded = tf.saved_model.load(str(folder / "out" / "transform_fn"))
    columns = {"label": "int64"} | records.described(folder / "out")
    found = records.by_id(folder / "out", columns)
    assert found["id"].tolist() == list(range(NUM_ROWS))
    return Made(folder / "out", info, found, loaded.transform_fn)


def crossed(made: Made, name: str) -> list[np.ndarray]:
    """What a cross is made of, from the raw rows where it is as it was there."""
    raw = {
        "color": np.array([row["color"].encode() for row in table()], object),
        "town": np.array([(row["town"] or "[MISSING]").encode() for row in table()], object),
        "number": np.array([row["number"] for row in table()]),
        "holes": np.array([-1 if row["holes"] is None else row["holes"] for row in table()]),
    }
    return [raw.get(other, made.stored[other]) for other in CROSSES[name]["of"]]


@pytest.mark.feature("keras.layers", "HashedCrossing", '`type = "cross"`')
@pytest.mark.parametrize("name", CROSSES)
def test_a_cross_is_that_of_hashed_crossing(made, name):
    layer = keras.layers.HashedCrossing(num_bins=CROSSES[name]["hash_buckets"])
    expected = np.array(layer([tf.constant(column) for column in crossed(made, name)]))
    assert len(set(expected.tolist())) >= 20 or name == "in_one"
    assert made.stored[name].dtype == np.int64
    assert made.stored[name].tolist() == expected.tolist()
    entry = made.info["features"][name]
    assert entry["num_categories"] == CROSSES[name]["hash_buckets"]
    assert (entry["dtype"], entry["shape"], entry["stored_as"]) == ("int64", [], "int64_list")


@pytest.mark.feature("tf.sparse", "cross_hashed", '`type = "cross"`')
@pytest.mark.parametrize("name", CROSSES)
def test_a_cross_is_that_of_cross_hashed(made, name):
    columns = [tf.constant(column)[:, tf.newaxis] for column in crossed(made, name)]
    expected = tf.sparse.cross_hashed(columns, CROSSES[name]["hash_buckets"]).values.numpy()
    assert made.stored[name].tolist() == expected.tolist()


@pytest.mark.feature("keras.layers", "CategoryEncoding", '`output_mode = "one_hot"` of an index')
@pytest.mark.parametrize("name", ONE_HOT)
def test_one_hot_is_that_of_category_encoding(made, name):
    index = made.stored[f"{name}_as_int"]
    depth = made.info["features"][f"{name}_as_int"]["num_categories"]
    layer = keras.layers.CategoryEncoding(num_tokens=depth, output_mode="one_hot")
    expected = np.array(layer(tf.constant(index)))
    assert 2 < len(set(index.tolist())) <= depth
    assert made.stored[name].dtype == expected.dtype == np.float32
    assert made.stored[name].tolist() == expected.tolist()
    entry = made.info["features"][name]
    assert (entry["stored_as"], entry["shape"]) == ("sparse", [depth])
    assert "num_categories" not in entry


def frequent(name: str) -> list[str]:
    """The texts of train by count, then by UTF-8."""
    found = [row[ONE_HOT[name]["column"]] for row in table()[:NUM_TRAIN]]
    counts = collections.Counter("[MISSING]" if text is None else text for text in found)
    ordered = sorted(counts, key=lambda text: (-counts[text], text.encode()))
    return ordered[: ONE_HOT[name].get("top_k")]


@pytest.mark.feature("keras.layers", "StringLookup", '`output_mode = "one_hot"`: unknown last')
@pytest.mark.parametrize("name, unknown", [("color_hot", 1), ("town_hot", 3)])
def test_one_hot_is_that_of_string_lookup_but_for_the_place_of_unknown_ones(made, name, unknown):
    found = [row[ONE_HOT[name]["column"]] for row in table()]
    texts = ["[MISSING]" if text is None else text for text in found]
    layer = keras.layers.StringLookup(
        vocabulary=frequent(name), output_mode="one_hot", num_oov_indices=unknown
    )
    expected = np.array(layer(texts))
    ours = made.stored[name]
    assert ours[:, :-unknown].tolist() == expected[:, unknown:].tolist()
    is_unknown = expected[:, :unknown].sum(1)  # Which of its buckets, another hash decides.
    assert ours[:, -unknown:].sum(1).tolist() == is_unknown.tolist() and is_unknown.sum() > 5


@pytest.mark.feature("sklearn OneHotEncoder", "fit_transform", '`output_mode = "one_hot"`')
@pytest.mark.feature(
    "sklearn OneHotEncoder", "handle_unknown", "unknown texts have a column of their own, the last"
)
def test_one_hot_is_that_of_one_hot_encoder_with_the_vocabularys_order(made):
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    colors = np.array([[row["color"]] for row in table()], object)
    encoder.fit(colors[:NUM_TRAIN])
    columns = [encoder.categories_[0].tolist().index(text) for text in frequent("color_hot")]
    assert columns != sorted(columns) and len(columns) == 5
    expected = encoder.transform(colors)[:, columns]
    assert made.stored["color_hot"][:, :-1].tolist() == expected.tolist()
    assert made.stored["color_hot"][:, -1].tolist() == (expected.sum(1) == 0).tolist()


@pytest.mark.feature("tft", "hash_strings", '`transform = "hash_strings"`')
@pytest.mark.feature("keras.layers", "Hashing", '`transform = "hash_strings"`')
def test_hashes_are_those_of_tft_and_of_keras(made):
    colors = tf.constant([row["color"] for row in table()])
    expected = tft.hash_strings(colors, 7).numpy().tolist()
    assert made.stored["hashed"].tolist() == expected and len(set(expected)) > 3
    assert np.array(keras.layers.Hashing(7)(colors)).tolist() == expected


@pytest.mark.feature("tf.lookup", "StaticVocabularyTable: num_oov_buckets", "`num_oov_buckets`")
def test_unknown_texts_are_where_the_table_that_tft_uses_has_them(made):
    found = [row["town"] or "[MISSING]" for row in table()]
    known = frequent("town_hot")
    initializer = tf.lookup.KeyValueTensorInitializer(known, tf.range(4, dtype=tf.int64))
    lookup = tf.lookup.StaticVocabularyTable(initializer, 3).lookup(tf.constant(found))
    assert made.stored["town_hot_as_int"].tolist() == lookup.numpy().tolist()
    assert set(lookup.numpy().tolist()) > {0, 1, 2, 3}


@pytest.mark.feature("keras.utils.FeatureSpace", "cross", '`type = "cross"`')
@pytest.mark.feature("keras.utils.FeatureSpace", "string_hashed", '`transform = "hash_strings"`')
@pytest.mark.feature(
    "keras.utils.FeatureSpace",
    "string_categorical",
    '`compute_and_apply_vocabulary`, `output_mode = "one_hot"`: unknown last',
)
def test_columns_are_those_of_feature_space(made):
    kinds = keras.utils.FeatureSpace
    space = kinds(
        features={
            "color": kinds.string_hashed(7, output_mode="int"),
            "town": kinds.string_hashed(11, output_mode="int"),
            "kind": kinds.string_categorical(output_mode="one_hot"),
        },
        crosses=[kinds.cross(("color", "town"), 60, output_mode="int")],
        output_mode="dict",
    )
    colors = [row["color"] for row in table()]
    columns = {"color": colors, "town": [r["town"] or "[MISSING]" for r in table()]}
    columns["kind"] = colors
    train = tf.data.Dataset.from_tensor_slices({k: v[:NUM_TRAIN] for k, v in columns.items()})
    space.adapt(train.batch(50))
    theirs = {
        k: v.numpy() for k, v in space({k: tf.constant(v) for k, v in columns.items()}).items()
    }
    assert made.stored["hashed"].tolist() == theirs["color"][:, 0].tolist()
    assert made.stored["town_hashed"].tolist() == theirs["town"][:, 0].tolist()
    assert made.stored["of_hashed"].tolist() == theirs["color_X_town"][:, 0].tolist()
    vocabulary = [str(token) for token in space.preprocessors["kind"].get_vocabulary()]
    columns_of = [vocabulary.index(color) for color in [*frequent("color_hot"), "[UNK]"]]
    assert made.stored["color_hot"].tolist() == theirs["kind"][:, columns_of].tolist()


def test_an_indicator_stands_beside_one_hot(made):
    is_missing = [float(row["town"] is None) for row in table()]
    assert made.stored["town_hot_missing"].tolist() == is_missing
    assert made.info["features"]["town_hot_missing"]["dtype"] == "int64"


@pytest.mark.parametrize(
    "features, message",
    [
        ({"it": STRING | {"output_mode": "one_hot"}}, 'features.it: output_mode = "one_hot" needs'),
        (
            {"it": {"dtype": "float32", "transform": "center", "output_mode": "one_hot"}},
            "needs an index: transform = 'apply_buckets' or 'bucketize' or ",
        ),
        (
            {"it": VOCABULARY | {"output_mode": "multi_hot"}},
            "features.it.output_mode: must be 'int",
        ),
        (
            {"it": VOCABULARY | {"output_mode": "one_hot"}, "it/values": STRING},
            "it/values is the list of values of it, and a feature",
        ),
        (
            {"it": VOCABULARY | {"output_mode": "one_hot"}, "other": STRING}
            | {"both": {"type": "cross", "of": ["it", "other"], "hash_buckets": 9}},
            "features.both.of: crosses categories, but features.it gives numbers",
        ),
    ],
)
def test_one_hot_of_what_is_no_index_is_one_line(features, message):
    with pytest.raises(SpecError) as caught:
        parse_spec(spec(["made.csv"]) | {"features": features}, "made.toml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said, message",
    [
        ({"of": ["color", "towm"]}, "features.it.of: there is no feature 'towm' of a column"),
        ({"of": ["color", "it"]}, "features.it.of: there is no feature 'it' of a column"),
        ({"of": ["color", "other"]}, "features.it.of: there is no feature 'other' of a column"),
        ({"of": ["color", "x"]}, "features.it.of: crosses categories, but features.x gives num"),
        ({"of": ["color", "z"]}, "features.it.of: crosses categories, but features.z gives num"),
        ({"of": ["color", "words"]}, "categories, but features.words gives tokens. Give it"),
        ({"of": ["color"]}, "features.it.of: "),
        ({"of": ["color", "town"], "hash_buckets": 0}, "features.it.hash_buckets: must be greater"),
        ({"of": ["color", "town"], "buckets": 9}, "features.it.buckets: unknown key; did you mean"),
    ],
)
def test_a_cross_of_what_is_no_category_is_one_line(said, message):
    cross = {"type": "cross", "hash_buckets": 9}
    others = {
        "x": {"dtype": "float32"},
        "z": {"dtype": "int64", "transform": "scale_to_z_score"},
        "words": {"type": "text", "output_sequence_length": 3},
        "other": cross | {"of": ["color", "town"]},
    }
    features = {"color": STRING, "town": STRING, **others, "it": cross | said}
    with pytest.raises(SpecError) as caught:
        parse_spec(spec(["made.csv"]) | {"features": features}, "made.toml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_cross_needs_its_buckets():
    features = {"color": STRING, "town": STRING, "it": {"type": "cross", "of": ["color", "town"]}}
    with pytest.raises(SpecError, match=r"features.it.hash_buckets: missing; add it\.$"):
        parse_spec(spec(["made.csv"]) | {"features": features}, "made.toml")


def words_of_train(name: str) -> tuple[list[str], list[str]]:
    """The words that a feature's vocabulary is made of, and the class of each."""
    fill = RANKED[name]["missing"].replace("token", "[MISSING]")
    rows = table()[:NUM_TRAIN]
    return [row["word"] or fill for row in rows], [row["liked"] for row in rows]


def information(name: str) -> dict[str, float]:
    """What each word tells of the class, in bits times records: by NumPy."""
    words, classes = map(np.array, words_of_train(name))
    found = {}
    for word in dict.fromkeys(words.tolist()):
        cells = [
            (np.sum((words == word) & (classes == of)), np.sum(classes == of))
            for of in set(classes.tolist())
        ]
        times = np.sum(words == word)
        found[word] = sum(n * np.log2(n * NUM_TRAIN / (times * of)) for n, of in cells if n)
    return found


def expected_words(name: str) -> list[str]:
    """The vocabulary; words that are equally common in each class differ in nothing but bytes."""
    of, counts = information(name), collections.Counter(words_of_train(name)[0])
    kept = [w for w in of if counts[w] >= RANKED[name].get("frequency_threshold", 1)]
    ordered = sorted(kept, key=lambda word: (-round(of[word], 9), word.encode()))
    return ordered[: RANKED[name].get("top_k")]


@pytest.mark.parametrize("name", [name for name in RANKED if name != "ranked_hot"])
def test_a_vocabulary_by_mutual_information_is_in_the_order_of_numpy(made, name):
    expected = expected_words(name)
    assert len(expected) > 4
    words, _ = words_of_train(name)
    by_count = [word for word, _ in collections.Counter(words).most_common()]
    assert expected != by_count[: len(expected)]
    places = {word: place for place, word in enumerate(expected)}
    found = made.stored[name][:NUM_TRAIN]
    known = [places[word] if word in places else len(expected) for word in words]
    assert np.minimum(found, len(expected)).tolist() == known
    assert (made.stored[name][NUM_TRAIN : NUM_TRAIN + 9] >= len(expected)).all()
    categories = len(expected) + RANKED[name].get("num_oov_buckets", 1)
    assert made.info["features"][name]["num_categories"] == categories


def test_a_vocabulary_by_mutual_information_can_be_one_hot(made):
    assert made.stored["ranked_hot"].argmax(1).tolist() == made.stored["ranked"].tolist()
    assert (made.stored["ranked_hot"].sum(1) == 1).all()


@pytest.mark.feature("tft", "vocabulary: labels", '`rank_by = "mutual_information"`')
@pytest.mark.feature("tft", "vocabulary: top_k", "`top_k`")
@pytest.mark.parametrize("top_k", [None, 5])
def test_what_a_word_tells_is_what_tft_computes(tmp_path, top_k):
    def preprocess(inputs):
        tft.vocabulary(
            inputs["word"],
            labels=inputs["label"],
            top_k=top_k,
            use_adjusted_mutual_info=False,
            min_diff_from_avg=0.0,
            store_frequency=True,
            vocab_filename="words",
        )
        return {"label": inputs["label"]}

    words, classes = words_of_train("ranked")
    ordered = sorted({*classes})
    rows = [
        {"word": word, "label": ordered.index(of)} for word, of in zip(words, classes, strict=True)
    ]
    dtypes = {"word": tf.string, "label": tf.int64}
    schema = schema_utils.schema_from_feature_spec(
        {name: tf.io.FixedLenFeature([], dtype) for name, dtype in dtypes.items()}
    )
    with tft_beam.Context(temp_dir=str(tmp_path / "temp")):
        transform_fn = (
            rows,
            dataset_metadata.DatasetMetadata(schema),
        ) | tft_beam.AnalyzeDataset(preprocess)
        transform_fn | tft_beam.WriteTransformFn(str(tmp_path / "out"))
    output = tft.TFTransformOutput(str(tmp_path / "out"))
    lines = Path(output.vocabulary_file_by_name("words")).read_text().splitlines()
    theirs = {word: float(value) for value, word in (line.split(" ", 1) for line in lines)}
    expected = information("ranked")
    # It adds up shares of each class in float32.
    np.testing.assert_allclose([expected[word] for word in theirs], [*theirs.values()], rtol=1e-4)
    assert expected_words("ranked" if top_k is None else "ranked_top") == [*theirs]  # No ties.
    of_pairs = TokenCounts.of_pairs(pa.array(classes), pa.array(words))
    counts, told = by_information(of_pairs, "")
    np.testing.assert_allclose(told, [expected[w] for w in counts.tokens.to_pylist()], atol=1e-12)


def test_a_word_that_tells_nothing_has_0_and_equal_counts_have_equal_bits():
    classes = ["a"] * 30 + ["b"] * 70
    words = ["x"] * 3 + ["y"] * 27 + ["x"] * 7 + ["y"] * 63
    for parts in (1, 4):
        step = 100 // parts
        found = TokenCounts.sum(
            [
                TokenCounts.of_pairs(pa.array(classes[k : k + step]), pa.array(words[k : k + step]))
                for k in range(0, 100, step)
            ]
        )
        counts, told = by_information(found, "")
        assert dict(zip(counts.tokens.to_pylist(), told.tolist(), strict=True)) == {"x": 0, "y": 0}
    classes = ["a", "b", "c"] * 20
    words = [f"{k % 3}{k // 20}" for k in range(60)]
    counts, told = by_information(TokenCounts.of_pairs(pa.array(classes), pa.array(words)), "")
    assert len(told) == 9 and len(set(told.tolist())) == 2
    by_word = dict(zip(counts.tokens.to_pylist(), told.tolist(), strict=True))
    expected = sorted(by_word, key=lambda word: (-by_word[word], word))
    found = counts.vocabulary("it", None, None, ranks=told)
    assert [word.decode() for word in found] == expected


@pytest.mark.parametrize("label", [None, {"column": "number", "type": "int64"}])
def test_mutual_information_without_classes_is_one_line(tmp_path, label):
    said = spec(write(tmp_path, [])) | {"features": {"ranked": RANKED["ranked"]}, "label": label}
    with pytest.raises(SpecError) as caught:
        run(parse_spec(said, str(tmp_path / "made.toml")), str(tmp_path / "out"))
    message = "features.ranked.rank_by: 'mutual_information' needs a [label] of type = 'class'"
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [{}, {"rank_by": "mutual_information"}])
def test_a_vocabulary_without_a_token_is_one_line(tmp_path, more):
    feature = VOCABULARY | {"column": "word", "missing": "token", "frequency_threshold": 500} | more
    said = spec(write(tmp_path, [])) | {"features": {"it": feature}}
    with pytest.raises(DataError) as caught:
        run(parse_spec(said, str(tmp_path / "made.toml")), str(tmp_path / "out"))
    assert str(caught.value).startswith(
        "features.it: the vocabulary has no token: of 11 distinct tokens in train none stands "
        "there frequency_threshold = 500 times. Lower it."
    )


@pytest.mark.parametrize("missing", ["reject", "token"])
def test_a_column_without_a_value(tmp_path, missing):
    (tmp_path / "made.csv").write_text("text,n\n" + ",1\n" * 40)
    feature = VOCABULARY | {"missing": missing}
    said = {
        "name": "made",
        "source": {"format": "csv", "paths": ["made.csv"]},
        "split": {"fractions": {"train": 1.0}},
        "features": {"n": INT64, "text": feature},
        "output": {"max_rejected": 1.0},
    }
    made = parse_spec(said, str(tmp_path / "made.toml"))
    if missing == "reject":
        with pytest.raises(DataError, match="missing_text"):
            run(made, str(tmp_path / "out"))
        return
    info = run(made, str(tmp_path / "out"))
    assert info["features"]["text"]["num_categories"] == 2
    assert info["features"]["text"]["raw_statistics"] == {"count": 0, "missing": 40}


@pytest.mark.parametrize(
    "said, message",
    [
        (INT64 | {"transform": "compute_and_apply_vocabulary"}, "takes string, but dtype is int64"),
        (INT64 | {"transform": "hash_strings", "hash_buckets": 3}, "takes string, but dtype is i"),
        (STRING | {"rank_by": "frequency"}, "rank_by belongs to transform = 'compute_and_apply_v"),
        (VOCABULARY | {"rank_by": "count"}, "rank_by: must be 'frequency' or 'mutual_information'"),
    ],
)
def test_another_dtype_or_value_is_one_line(said, message):
    with pytest.raises(SpecError) as caught:
        parse_spec(spec(["made.csv"]) | {"features": {"it": said}}, "made.toml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def lists(name: str) -> list[str]:
    """The raw lists that a feature of tokens is made of."""
    said = TOKENS[name]
    filled = [row[said["column"]] for row in table()]
    return [said["missing"] if text is None else text for text in filled]


def items(name: str) -> list[list[str]]:
    """Their items by Python's own split; those of a list that are equal once, the first."""
    said = TOKENS[name]
    texts = [t.lower() if said.get("standardize") == "lower" else t for t in lists(name)]
    found = [text.split(said["separator"]) for text in texts]
    return [list(dict.fromkeys(of)) for of in found] if said.get("deduplicate") else found


def layer(made: Made, name: str) -> keras.layers.TextVectorization:
    """Keras' own, which takes a function to split, with the vocabulary that was learned."""
    said = TOKENS[name]
    kept = {"ngrams", "output_mode", "output_sequence_length"}
    more = {key: value for key, value in said.items() if key in kept}
    return keras.layers.TextVectorization(
        standardize=said.get("standardize"),
        split=lambda texts: tf.strings.split(texts, said["separator"]),
        vocabulary=made.vocabulary(name)[said.get("output_mode") == "tf_idf" :],
        idf_weights=made.idf(name)[1:] if said.get("output_mode") == "tf_idf" else None,
        **more,
    )


@pytest.mark.feature("TextVectorization", "split", "a function: the text between, `separator`")
@pytest.mark.parametrize("name", [name for name in TAGS if name != "tail"])
def test_a_list_is_what_keras_makes_of_it(made, name):
    expected = np.array(layer(made, name)(tf.constant(lists(name))[:, tf.newaxis]))
    ours = made.stored[name]
    assert ours.shape == expected.shape and len({row.tobytes() for row in ours}) > 6
    assert (ours == expected).all()


@pytest.mark.parametrize("name", [name for name in TOKENS if name not in ("given", "pairs")])
def test_a_vocabulary_is_the_items_of_train_by_count_then_by_utf_8(made, name):
    counts = collections.Counter(item for of in items(name)[:NUM_TRAIN] for item in of)
    del counts["[UNK]"]
    counts.pop("", None)
    least = TOKENS[name].get("frequency_threshold", 1)
    kept = [item for item, count in counts.items() if count >= least]
    expected = sorted(kept, key=lambda item: (-counts[item], item.encode()))
    special = ["[UNK]"] if "output_mode" in TOKENS[name] else ["", "[UNK]"]
    assert made.vocabulary(name) == (special + expected)[: TOKENS[name].get("max_tokens")]
    assert len(expected) > 3 and (least == 1 or len(expected) < len(counts))


@pytest.mark.feature(
    "sklearn MultiLabelBinarizer", "fit_transform", '`separator`, `output_mode = "multi_hot"`'
)
@pytest.mark.parametrize("name", ["hot", "unique_hot"])
def test_multi_hot_lists_are_those_of_multi_label_binarizer(made, name):
    found = [[item for item in of if item not in ("", "[UNK]")] for of in items(name)]
    binarizer = MultiLabelBinarizer().fit(found[:NUM_TRAIN])
    known = [[item for item in of if item in binarizer.classes_] for of in found]
    columns = [binarizer.classes_.tolist().index(item) for item in made.vocabulary(name)[1:]]
    assert sorted(columns) == list(range(len(ITEMS) - 1)) != columns
    assert (made.stored[name][:, 1:] == binarizer.transform(known)[:, columns]).all()
    unknown = [any(item in ("[UNK]", "new", "newer") for item in of) for of in items(name)]
    assert made.stored[name][:, 0].tolist() == unknown and sum(unknown) > 50


@pytest.mark.feature("tft", "deduplicate_tensor_per_row", "`deduplicate`")
@pytest.mark.parametrize("name", UNIQUE)
def test_equal_items_count_once_as_tft_has_it(made, name):
    split = tf.strings.split(tf.constant(lists(name)), TOKENS[name]["separator"])
    theirs = tf.RaggedTensor.from_sparse(tft.deduplicate_tensor_per_row(split.to_sparse()))
    once = [[item.decode() for item in of] for of in theirs.to_list()]
    # It does not promise their order.
    assert [sorted(of) for of in once] == [sorted(of) for of in items(name)] != split.to_list()
    counted = [collections.Counter(of) for of in items(name)]
    vocabulary = made.vocabulary(name)
    if "output_mode" not in TOKENS[name]:
        length = TOKENS[name]["output_sequence_length"]
        cut = slice(-length, None) if "truncate" in TOKENS[name] else slice(length)
        places = {item: place for place, item in enumerate(vocabulary)}
        expected = [[places.get(item, 1) for item in of[cut]] for of in items(name)]
        padded = [of + [0] * (length - len(of)) for of in expected]
        assert made.stored[name].tolist() == padded
        return
    expected = [[of[item] for item in vocabulary[1:]] for of in counted]
    weights = np.float32(made.idf(name)) if TOKENS[name]["output_mode"] == "tf_idf" else [1]
    assert (
        made.stored[name][:, 1:] == np.float32(expected) * weights[-len(vocabulary) + 1 :]
    ).all()
    others = [sum(of[i] for i in of if i and i not in vocabulary[1:]) for of in counted]
    if TOKENS[name]["output_mode"] == "count":
        assert made.stored[name][:, 0].tolist() == others


def test_empty_items_are_padding_in_a_sequence_and_nothing_elsewhere(made):
    x, drama = (made.vocabulary("ids").index(item) for item in ("x", "drama"))
    expected = [[0] * 4] * 3 + [[x, x, 0, 0], [x, 0, x, 0], [0, x, 0, 0], [x, 0, 0, 0]]
    assert made.stored["ids"][:8].tolist() == [*expected, [drama, 0, 0, 0]]
    counts = made.stored["numbers"][:8]
    assert counts.sum(1).tolist() == [0, 0, 0, 2, 2, 1, 1, 1]
    assert counts[:7, made.vocabulary("numbers").index("x")].tolist() == [0, 0, 0, 2, 2, 1, 1]


def test_a_list_is_not_standardized_unless_it_is_said(made):
    assert {"Drama", "drama", "sci-fi, new", " war ", "?"} <= set(made.vocabulary("hot"))
    assert made.info["spec"]["features"]["hot"]["standardize"] == "none"
    assert "Drama" not in made.vocabulary("lower") and "sci-fi, new" in made.vocabulary("lower")


def test_transform_fn_gives_the_stored_bits_row_by_row_and_at_once(made):
    together = made.serve(list(range(NUM_ROWS)))
    assert {*together, "label"} == set(made.stored)
    for name, stored in made.stored.items():
        if name == "label":
            continue
        assert together[name].dtype == stored.dtype, name
        assert together[name].tolist() == stored.tolist(), name
    for row in range(0, NUM_ROWS, 7):
        alone = made.serve([row])
        for name, found in alone.items():
            assert found.tolist() == made.stored[name][row : row + 1].tolist(), (row, name)


def shards(folder: Path) -> dict[str, bytes]:
    names = [*folder.glob("*.tfrecord"), *folder.glob("vocabulary-*.json")]
    return {path.name: path.read_bytes() for path in names}


@pytest.mark.parametrize("cuts, block_mb, threads", [([], 1.0, 1), ([3, 150, 290], 0.001, 4)])
def test_the_same_bytes_however_it_was_cut(made, tmp_path, cuts, block_mb, threads):
    said = parse_spec(spec(write(tmp_path, cuts)[::-1]), str(tmp_path / "made.toml"))
    info = run(said, str(tmp_path / "out"), num_threads=threads, block_mb=block_mb)
    assert info["features"] == made.info["features"]
    found = shards(tmp_path / "out")
    of_strings = [of.get("transform") for of in spec([])["features"].values()]
    num_vocabularies = len(TOKENS) + of_strings.count("compute_and_apply_vocabulary")
    assert num_vocabularies == 31
    assert len(found) == 6 + num_vocabularies and found == shards(made.folder)


def test_the_same_bytes_through_an_engine(made, tmp_path):
    said = parse_spec(spec(write(tmp_path, [9])), str(tmp_path / "made.toml"))
    run(said, str(tmp_path / "out"), runner="FnApiRunner", num_threads=2)
    assert shards(tmp_path / "out") == shards(made.folder)


def test_verify_accepts_it_and_a_manifest_says_the_spec_again(made):
    assert verify(str(made.folder)) == []
    said = json.loads((made.folder / "dataset_info.json").read_text())
    assert parse_spec(said["spec"], "/made.toml").digest == said["spec_digest"]
