"""Texts against keras.layers.TextVectorization, scikit-learn and NumPy, value by value."""

import collections
import csv
import dataclasses
import json
import random
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from oracle import records, served
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from beam_jobs import text
from beam_jobs.config import Text, parse_spec
from beam_jobs.run import run
from beam_jobs.verify import verify

NUM_TRAIN, NUM_ROWS = 300, 400
WORDS = (
    "the a The movie film good GOOD! good, bad. great; terrible <br /> plot actor's café CAFÉ "
    "straße it's 10/10 12 1234 -- ... [UNK] [MISSING] naïve 日本語 映画 🎬 o_o a\u00a0b C++ don't"
).split(" ")
SPACES = [" ", " ", " ", "  ", "\t", "\n", "\r\n", " \v "]
GIVEN = ["good", "plot", "unseen", "日本語", "movie", "a"]
WEIGHTS = [0.5, 1.25, 3.0, 1e-3, 2.7182818284, 1.0]
REPLACE = [["<br />", " "], ["(\\d)\\d*", "\\1"], ["(?i)CAFÉ", "bar"]]
FEATURES = {
    "ids": {"output_sequence_length": 8},
    "lower": {"standardize": "lower", "output_sequence_length": 8},
    "strip": {"standardize": "strip_punctuation", "output_sequence_length": 30},
    "plain": {"standardize": "none", "output_mode": "count"},
    "replaced": {"replace": REPLACE, "output_mode": "count"},
    "chars": {"split": "character", "output_mode": "count"},
    "char_ids": {"split": "character", "output_sequence_length": 40},
    "whole": {"split": "none", "output_sequence_length": 2},
    "whole_bag": {"split": "none", "output_mode": "tf_idf"},
    "bigrams": {"ngrams": 2, "output_mode": "multi_hot"},
    "pairs": {"ngrams": 2, "output_mode": "count"},
    "skipping": {"ngrams": [1, 3], "output_sequence_length": 12},
    "triples": {"ngrams": [3], "split": "character", "output_mode": "tf_idf"},
    "top": {"max_tokens": 12, "output_sequence_length": 8},
    "top_bag": {"max_tokens": 12, "output_mode": "tf_idf"},
    "padded": {"max_tokens": 1000, "pad_to_max_tokens": True, "output_mode": "tf_idf"},
    "frequent": {"frequency_threshold": 40, "output_mode": "count"},
    "tail": {"truncate": "start", "output_sequence_length": 5},
    "given": {"vocabulary": GIVEN, "output_sequence_length": 8},
    "given_idf": {"vocabulary": ["", "[UNK]", *GIVEN], "output_mode": "tf_idf"},
    "weighted": {"vocabulary": GIVEN, "idf_weights": WEIGHTS, "output_mode": "tf_idf"},
    "filed": {"vocabulary": "tokens.txt", "output_mode": "multi_hot"},
    "hot": {"output_mode": "multi_hot"},
    "count": {"output_mode": "count"},
    "tf_idf": {"output_mode": "tf_idf"},
    "filled": {"column": "gaps", "missing": "No good, 12!", "output_mode": "tf_idf"},
}
OURS = ("replace", "truncate", "frequency_threshold", "column", "missing", "vocabulary")


def texts() -> tuple[list[str], list[str | None]]:
    """Of each record a text that is never missing, and one that may be."""
    rng = random.Random(3)
    rows = []
    for row in range(NUM_ROWS):
        words = rng.choices(
            WORDS, [1 / (1 + k % 9) for k in range(len(WORDS))], k=rng.randint(1, 25)
        )
        rows.append("".join(word + rng.choice(SPACES) for word in words) + str(row % 60))
    rows[:4] = ["...", " ", "?!\n", "GOOD " * 300]
    rows[NUM_TRAIN] = "only in test"
    return rows, [None if row % 5 == 2 else text for row, text in enumerate(rows)]


def spec(paths: list[str]) -> dict:
    features = {"id": {"dtype": "int64"}}
    for name, said in FEATURES.items():
        features[name] = {"type": "text", "column": "text"} | said
    return {
        "name": "made",
        "source": {"format": "csv", "paths": paths, "null_values": ["NA"]},
        "split": {"column": "fold", "values": {"train": ["train"], "test": ["test"]}},
        "features": features,
        "output": {"num_shards": 3},
    }


def write(folder: Path, cuts: list[int]) -> list[str]:
    """Writes the records as files that end at these rows; returns their names."""
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, NUM_ROWS], strict=True)):
        with open(folder / f"part-{number}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(["id", "text", "gaps", "fold"])
            for row, (text, gap) in list(enumerate(zip(*texts(), strict=True)))[start:end]:
                fold = "train" if row < NUM_TRAIN else "test"
                writer.writerow([row, text, "NA" if gap is None else gap, fold])
    (folder / "tokens.txt").write_text("\n".join(GIVEN) + "\n", encoding="utf-8")
    return [f"part-{number}.csv" for number in range(len(cuts) + 1)]


@dataclasses.dataclass(frozen=True)
class Made:
    folder: Path
    info: dict
    stored: dict[str, np.ndarray]  # All records in the order of their ids; sparse ones dense.
    transform_fn: object

    def vocabulary(self, name: str) -> list[str]:
        return json.loads((self.folder / f"vocabulary-{name}.json").read_text())["vocabulary"]

    def idf(self, name: str) -> list[float]:
        return json.loads((self.folder / f"vocabulary-{name}.json").read_text())["idf_weights"]

    def texts(self, name: str) -> list[str]:
        plain, gaps = texts()
        if name != "filled":
            return plain
        return [FEATURES[name]["missing"] if gap is None else gap for gap in gaps]

    def serve(self, rows: list[int]) -> dict[str, np.ndarray]:
        """What transform_fn makes of these records in one batch."""
        plain, gaps = texts()
        found = self.transform_fn(
            {
                "id": tf.constant(rows, tf.int64),
                "text": tf.constant([plain[row] for row in rows]),
                "gaps": served.column([gaps[row] for row in rows], tf.string),
            }
        )
        return {name: records.dense(value) for name, value in found.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    said = spec(write(folder, [NUM_ROWS // 3]))
    info = run(
        parse_spec(said, str(folder / "made.toml")),
        str(folder / "out"),
        num_threads=2,
        block_mb=0.01,
    )
    assert {name: split["num_examples"] for name, split in info["splits"].items()} == {
        "train": NUM_TRAIN,
        "test": NUM_ROWS - NUM_TRAIN,
    }
    loaded = tf.saved_model.load(str(folder / "out" / "transform_fn"))
    found = records.by_id(folder / "out")
    assert found["id"].tolist() == list(range(NUM_ROWS))
    return Made(folder / "out", info, found, loaded.transform_fn)


def replaced(rows: list[str], name: str) -> list[str]:
    """What stands before TextVectorization here, by its own ops."""
    found = tf.constant(rows)
    for pattern, replacement in FEATURES[name].get("replace", []):
        found = tf.strings.regex_replace(found, pattern, replacement)
    return [text.decode() for text in found.numpy()]


def layer(name: str, **more) -> keras.layers.TextVectorization:
    """Keras' own, with the arguments that the spec has."""
    said = {key: value for key, value in FEATURES[name].items() if key not in OURS}
    for key in ("standardize", "split"):
        if said.get(key) == "none":
            said[key] = None
    if isinstance(said.get("ngrams"), list):
        said["ngrams"] = tuple(said["ngrams"])
    return keras.layers.TextVectorization(**said | more)


def with_vocabulary(made: Made, name: str, **more) -> keras.layers.TextVectorization:
    given = {"vocabulary": made.vocabulary(name), "idf_weights": None} | more
    if FEATURES[name].get("output_mode") == "tf_idf":
        special = 0 if "idf_weights" not in FEATURES[name] else 1
        weights = made.idf(name)[: len(given["vocabulary"])]
        given["idf_weights"] = FEATURES[name].get("idf_weights", weights)
        given["vocabulary"] = given["vocabulary"][special:]
    return layer(name, **given)


def called(of: keras.layers.TextVectorization, rows: list[str]) -> np.ndarray:
    return np.array(of(tf.constant(rows)[:, tf.newaxis]))


@pytest.mark.feature("TextVectorization", "max_tokens", "`max_tokens`")
@pytest.mark.feature("TextVectorization", "standardize", '`standardize`, `"none"` for None')
@pytest.mark.feature(
    "TextVectorization", "standardize", "a function: regular expressions, `replace`"
)
@pytest.mark.feature("tf.strings", "regex_replace", "`replace`")
@pytest.mark.feature("TextVectorization", "split", '`split`, `"none"` for None')
@pytest.mark.feature("TextVectorization", "ngrams", "`ngrams`")
@pytest.mark.feature("TextVectorization", "output_mode", "`output_mode`")
@pytest.mark.feature(
    "TextVectorization", "output_sequence_length", '`output_sequence_length`, needed for `"int"`'
)
@pytest.mark.feature("TextVectorization", "pad_to_max_tokens", "`pad_to_max_tokens`")
@pytest.mark.feature("TextVectorization", "vocabulary", "`vocabulary`: a list or a file")
@pytest.mark.feature("TextVectorization", "idf_weights", "`idf_weights`, else those of train")
@pytest.mark.feature("TextVectorization", "name", "the name of the feature")
@pytest.mark.parametrize("name", [name for name in FEATURES if name != "tail"])
def test_every_value_is_that_of_keras_with_the_same_vocabulary(made, name):
    of_keras = called(with_vocabulary(made, name), replaced(made.texts(name), name))
    ours = made.stored[name]
    assert ours.shape == of_keras.shape
    assert len({row.tobytes() for row in ours}) > 20
    assert (ours == of_keras).all()


def test_truncated_at_the_start_it_has_the_last_tokens(made):
    length = FEATURES["tail"]["output_sequence_length"]
    whole = with_vocabulary(made, "tail", output_sequence_length=None, ragged=True)
    expected = np.zeros((NUM_ROWS, length), np.int64)
    for row, ids in enumerate(whole(tf.constant(made.texts("tail"))).to_list()):
        last = ids[-length:]
        expected[row, : len(last)] = last
    assert made.stored["tail"].tolist() == expected.tolist()


@pytest.mark.feature("TextVectorization", "ragged", "ids are padded to `output_sequence_length`")
def test_without_padding_ids_are_those_of_a_ragged_layer(made):
    ragged = with_vocabulary(made, "strip", output_sequence_length=None, ragged=True)
    for ids, theirs in zip(
        made.stored["strip"], ragged(tf.constant(made.texts("strip"))).to_list(), strict=True
    ):
        num_tokens = min(len(theirs), ids.size)
        assert ids.tolist() == theirs[:num_tokens] + [0] * (ids.size - num_tokens)


@pytest.mark.feature("TextVectorization", "sparse", "always: stored as indices and values")
def test_transform_fn_gives_the_sparse_tensor_of_a_sparse_layer(made):
    plain, gaps = texts()
    found = made.transform_fn(
        {
            "id": tf.range(NUM_ROWS, dtype=tf.int64),
            "text": tf.constant(plain),
            "gaps": tf.sparse.from_dense(tf.constant([[gap or ""] for gap in gaps])),
        }
    )["count"]
    theirs = with_vocabulary(made, "count", sparse=True)(tf.constant(plain))
    assert found.dense_shape.numpy().tolist() == theirs.dense_shape.numpy().tolist()
    assert found.indices.numpy().tolist() == theirs.indices.numpy().tolist()
    assert found.values.numpy().tolist() == theirs.values.numpy().tolist()


def tokens_of_train(made: Made, name: str) -> list[list[str]]:
    """The tokens of each text of train, by Keras' own standardization and splits."""
    rows = tf.constant(replaced(made.texts(name), name)[:NUM_TRAIN])
    found = layer(name, idf_weights=None)._preprocess(rows[:, tf.newaxis])
    found = found.to_list() if isinstance(found, tf.RaggedTensor) else found.numpy().tolist()
    return [[token.decode() for token in row] for row in found]


LEARNED = [n for n, said in FEATURES.items() if "vocabulary" not in said]


@pytest.mark.parametrize("name", LEARNED)
def test_a_vocabulary_is_by_count_in_train_then_by_utf_8(made, name):
    documents = tokens_of_train(made, name)
    counts = collections.Counter(token for document in documents for token in document)
    for special in ("", "[UNK]"):
        counts.pop(special, None)
    least = FEATURES[name].get("frequency_threshold", 1)
    kept = [token for token, count in counts.items() if count >= least]
    expected = sorted(kept, key=lambda token: (-counts[token], token.encode()))
    is_sparse = FEATURES[name].get("output_mode", "int") != "int"
    special = ["[UNK]"] if is_sparse else ["", "[UNK]"]
    most = FEATURES[name].get("max_tokens")
    assert made.vocabulary(name) == (special + expected)[:most]
    assert len(expected) > 5


@pytest.mark.parametrize("name", ["ids", "bigrams", "chars", "tf_idf"])
def test_keras_learns_the_same_counts_and_other_ties(made, name):
    adapted = layer(name)
    adapted.adapt(tf.constant(made.texts(name)[:NUM_TRAIN]))
    theirs = adapted.get_vocabulary()
    assert set(theirs) == set(made.vocabulary(name)) and theirs != made.vocabulary(name)
    if name == "tf_idf":
        weights = dict(zip(theirs, adapted._lookup_layer.idf_weights.numpy(), strict=True))
        ours = dict(zip(made.vocabulary(name), np.float32(made.idf(name)), strict=True))
        assert {t: w for t, w in ours.items() if t != "[UNK]"} == {
            t: w for t, w in weights.items() if t != "[UNK]"
        }
        np.testing.assert_allclose(ours["[UNK]"], weights["[UNK]"], rtol=1e-6)


@pytest.mark.feature("sklearn CountVectorizer", "fit_transform", '`output_mode = "count"`')
@pytest.mark.feature("sklearn CountVectorizer", "binary", '`output_mode = "multi_hot"`')
@pytest.mark.feature("sklearn CountVectorizer", "ngram_range", "`ngrams`")
@pytest.mark.parametrize(
    "name, single, said",
    [
        ("plain", "plain", {}),
        ("count", "count", {}),
        ("bigrams", "count", {"binary": True, "ngram_range": (1, 2)}),
    ],
)
def test_counts_are_those_of_scikit_learn(made, name, single, said):
    vectorizer = CountVectorizer(
        tokenizer=lambda row: row, preprocessor=lambda row: row, token_pattern=None, **said
    )
    expected = vectorizer.fit_transform(tokens_of_train(made, single)).toarray()
    columns = [vectorizer.vocabulary_[token] for token in made.vocabulary(name)[1:]]
    assert set(vectorizer.vocabulary_) - {"[UNK]"} == set(made.vocabulary(name)[1:])
    assert made.stored[name][:NUM_TRAIN, 1:].tolist() == expected[:, columns].tolist()


@pytest.mark.feature(
    "sklearn TfidfVectorizer", "fit", '`output_mode = "tf_idf"`: its df, by Keras\' formula'
)
@pytest.mark.parametrize("name", ["tf_idf", "triples", "filled", "given_idf"])
def test_tf_idf_is_its_formula_on_the_document_frequencies_of_scikit_learn(made, name):
    tokens = tokens_of_train(made, name)
    vectorizer = TfidfVectorizer(
        analyzer=lambda row: row,
        norm=None,
        smooth_idf=False,
        lowercase=False,
        vocabulary=sorted(set(made.vocabulary(name)[1:])),
    )
    with np.errstate(divide="ignore"):
        vectorizer.fit(tokens)
        frequencies = np.round(NUM_TRAIN / np.exp(vectorizer.idf_ - 1))  # idf = ln(n / df) + 1
    columns = [vectorizer.vocabulary_[token] for token in made.vocabulary(name)[1:]]
    idf = np.log(1 + NUM_TRAIN / (1 + frequencies[columns]))
    assert len(set(idf)) > 5
    np.testing.assert_allclose(made.idf(name)[1:], idf, rtol=1e-7)
    np.testing.assert_allclose(made.idf(name)[0], idf.mean(), rtol=1e-6)
    counts = CountVectorizer(
        analyzer=lambda row: row, vocabulary=vectorizer.vocabulary_, lowercase=False
    )
    expected = counts.fit_transform(tokens).toarray()[:, columns].astype(np.float32)
    expected *= np.float32(made.idf(name)[1:])
    assert made.stored[name][:NUM_TRAIN, 1:].tobytes() == expected.tobytes()


def sparse(rows: list[list[str]]) -> tf.SparseTensor:
    return tf.ragged.constant(rows, dtype=tf.string).to_sparse()


def stored_tokens(made: Made, name: str) -> list[collections.Counter]:
    """The tokens of each record of train, and their numbers."""
    vocabulary = made.vocabulary(name)
    assert not made.stored[name][:NUM_TRAIN, 0].any()  # None of them is unknown.
    return [
        collections.Counter({vocabulary[i]: int(row[i]) for i in np.flatnonzero(row)})
        for row in made.stored[name][:NUM_TRAIN]
    ]


@pytest.mark.feature("tft", "ngrams", "`ngrams`, always joined by a space")
def test_ngrams_are_those_of_tft(made):
    theirs = tft.ngrams(sparse(tokens_of_train(made, "count")), (1, 2), " ")
    rows = tf.RaggedTensor.from_sparse(theirs).to_list()
    expected = [collections.Counter(token.decode() for token in row) for row in rows]
    assert stored_tokens(made, "pairs") == expected
    assert max(max(row.values(), default=0) for row in expected) > 2


@pytest.mark.feature("tft", "bag_of_words", '`ngrams`, `output_mode = "multi_hot"`')
def test_a_bag_of_words_is_that_of_tft(made):
    theirs = tft.bag_of_words(sparse(tokens_of_train(made, "count")), (1, 2), " ")
    rows = tf.RaggedTensor.from_sparse(theirs).to_list()
    expected = [{token.decode() for token in row} for row in rows]
    assert [set(row) for row in stored_tokens(made, "bigrams")] == expected
    assert all(set(row.values()) <= {1} for row in stored_tokens(made, "bigrams"))


@pytest.mark.feature(
    "tft", "tfidf", '`output_mode = "tf_idf"`: of the same counts, by Keras\' formula'
)
def test_tf_idf_has_the_counts_of_tft_in_another_formula(made, tmp_path):
    vocabulary = made.vocabulary("tf_idf")
    tokens = tokens_of_train(made, "tf_idf")
    ids = [[vocabulary.index(token) for token in row] for row in tokens]

    def preprocess(inputs):
        places, weights = tft.tfidf(inputs["ids"], len(vocabulary), smooth=True)
        return {"row": inputs["row"], "places": places, "weights": weights}

    schema = schema_utils.schema_from_feature_spec(
        {"ids": tf.io.VarLenFeature(tf.int64), "row": tf.io.FixedLenFeature([], tf.int64)}
    )
    rows = [{"ids": of, "row": row} for row, of in enumerate(ids)]
    with tft_beam.Context(temp_dir=str(tmp_path)):
        (found, _), _ = (
            rows,
            dataset_metadata.DatasetMetadata(schema),
        ) | tft_beam.AnalyzeAndTransformDataset(preprocess)
    assert len(found) == NUM_TRAIN
    idf = np.array(made.idf("tf_idf"))
    frequency = np.round(NUM_TRAIN / np.expm1(idf) - 1)  # From idf = log(1 + n / (1 + df)).
    theirs = np.log((1 + NUM_TRAIN) / (1 + frequency)) + 1
    for row in found:
        of = np.zeros(len(vocabulary))
        of[row["places"]] = row["weights"]
        counts = made.stored["count"][row["row"]]
        np.testing.assert_allclose(of, counts / max(counts.sum(), 1) * theirs, rtol=1e-5)
        ours = made.stored["tf_idf"][row["row"]]
        np.testing.assert_allclose(ours, counts * idf, rtol=1e-6)
    assert made.vocabulary("count") == vocabulary


def test_tft_counts_the_same_and_has_other_ties(made, tmp_path):
    def preprocess(inputs):
        rows = tf.strings.regex_replace(tf.strings.lower(inputs["text"]), "[[:punct:]]", "")
        tokens = tf.strings.split(rows).to_sparse()
        return {"id": inputs["id"], "ids": tft.compute_and_apply_vocabulary(tokens)}

    dtypes = {"id": tf.int64, "text": tf.string}
    schema = schema_utils.schema_from_feature_spec(
        {name: tf.io.FixedLenFeature([], dtype) for name, dtype in dtypes.items()}
    )
    rows = [{"id": k, "text": t} for k, t in enumerate(made.texts("ids")[:NUM_TRAIN])]
    with tft_beam.Context(temp_dir=str(tmp_path)):
        (found, _), _ = (
            rows,
            dataset_metadata.DatasetMetadata(schema),
        ) | tft_beam.AnalyzeAndTransformDataset(preprocess)
    documents = tokens_of_train(made, "ids")
    counts = collections.Counter(token for document in documents for token in document)
    theirs = sorted(counts, key=lambda token: (counts[token], token.encode()), reverse=True)
    ours = made.vocabulary("ids")
    assert len(found) == NUM_TRAIN and theirs != ours[2:]
    for row in found:
        expected = [theirs[i] for i in row["ids"]][:8]
        assert [ours[i] for i in made.stored["ids"][row["id"]] if i] == expected


def test_transform_fn_gives_the_stored_bits_row_by_row_and_at_once(made):
    together = made.serve(list(range(NUM_ROWS)))
    for name in FEATURES:
        assert together[name].dtype == made.stored[name].dtype
        assert together[name].tobytes() == made.stored[name].tobytes(), name
    for row in range(0, NUM_ROWS, 7):
        alone = made.serve([row])
        for name in FEATURES:
            assert alone[name].tobytes() == made.stored[name][row].tobytes(), (row, name)


def shards(folder: Path) -> dict[str, bytes]:
    names = [*folder.glob("*.tfrecord"), *folder.glob("vocabulary-*.json")]
    return {path.name: path.read_bytes() for path in names}


@pytest.mark.parametrize("cuts, block_mb, threads", [([], 1.0, 1), ([3, 150, 390], 0.002, 4)])
def test_the_same_bytes_however_it_was_cut(made, tmp_path, cuts, block_mb, threads):
    paths = write(tmp_path, cuts)[::-1]
    said = parse_spec(spec(paths), str(tmp_path / "made.toml"))
    info = run(said, str(tmp_path / "out"), num_threads=threads, block_mb=block_mb)
    assert info["features"] == made.info["features"]
    found = shards(tmp_path / "out")
    assert len(found) == 6 + len(FEATURES) and found == shards(made.folder)


def test_each_vocabulary_is_as_long_as_the_manifest_says(made):
    assert verify(str(made.folder)) == []


def test_the_same_bytes_through_an_engine(made, tmp_path):
    said = parse_spec(spec(write(tmp_path, [9])), str(tmp_path / "made.toml"))
    run(said, str(tmp_path / "out"), runner="FnApiRunner", num_threads=2)
    assert shards(tmp_path / "out") == shards(made.folder)


@pytest.mark.feature("TextVectorization", "encoding", "`[source] encoding`")
def test_another_encoding_gives_the_same_records(tmp_path):
    rows = ["café good", "Straße!", "naïve café", "good"] * 20
    found = []
    for encoding in ("utf-8", "latin-1"):
        folder = tmp_path / encoding
        folder.mkdir()
        (folder / "made.csv").write_text("text\n" + "\n".join(rows) + "\n", encoding=encoding)
        said = {
            "name": "made",
            "source": {"format": "csv", "paths": ["made.csv"], "encoding": encoding},
            "split": {"fractions": {"train": 1.0}},
            "features": {"text": {"type": "text", "output_mode": "count"}},
        }
        run(parse_spec(said, str(folder / "made.toml")), str(folder / "out"))
        found.append(shards(folder / "out"))
    assert found[0] == found[1]
    vocabulary = json.loads(found[0]["vocabulary-text.json"])["vocabulary"]
    assert vocabulary == ["[UNK]", "café", "good", "naïve", "straße"]
    learned = keras.layers.TextVectorization(encoding="latin-1")
    learned.adapt(tf.constant([row.encode("latin-1") for row in rows]))
    assert sorted(learned.get_vocabulary()) == sorted(["", *vocabulary])


def test_tokens_of_many_pieces_are_counted_as_of_one():
    rng = np.random.default_rng(0)
    words = np.array([f"word{k}" for k in range(500)], object)
    documents = [" ".join(words[rng.integers(0, 500, 100)]) for _ in range(6000)]
    column = pa.array([*documents, None, ""])
    parts = list(text.pieces(column))
    assert len(parts) > 2 and pa.concat_arrays(parts) == column
    counts = text.count(column, Text(output_mode="tf_idf"))
    found = zip(*(array.to_pylist() for array in counts._arrays), strict=True)
    tokens = collections.Counter(token for document in documents for token in document.split())
    texts = collections.Counter(token for document in documents for token in {*document.split()})
    assert {token: (n, d) for token, n, d in found} == {t: (tokens[t], texts[t]) for t in tokens}
    assert [len(part) for part in text.pieces(column.slice(0, 0))] == [0]


@pytest.mark.parametrize("whole", [False, True])
def test_lines_and_files_of_text(tmp_path, whole):
    rows = [
        f"{'good' if k % 3 else 'bad'} film {k % 7}, <br /> the {'end ' * (k % 4)}"
        for k in range(60)
    ]
    folder = tmp_path / "reviews"
    folder.mkdir()
    if whole:
        for number, row in enumerate(rows):
            (folder / f"{number:03d}.txt").write_text(f"{row}\nlast line {number % 5}")
        rows = [f"{row}\nlast line {number % 5}" for number, row in enumerate(rows)]
    else:
        (folder / "all.txt").write_text("\n".join(rows) + "\n")
    said = {
        "name": "made",
        "source": {"format": "text", "paths": ["reviews"]},
        "split": {"fractions": {"train": 1.0}},
        "features": {"text": {"type": "text", "output_sequence_length": 9}},
    }
    if whole:
        said["source"]["records"] = "files"
    run(parse_spec(said, str(tmp_path / "made.toml")), str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "vocabulary-text.json").read_text())["vocabulary"]
    keras_layer = keras.layers.TextVectorization(output_sequence_length=9)
    keras_layer.adapt(tf.constant(rows))
    assert set(written) == set(keras_layer.get_vocabulary())
    keras_layer.set_vocabulary(written)
    (shard,) = (tmp_path / "out").glob("*.tfrecord")
    serialized = records.frames(records.stream(shard))
    feature = {"text": tf.io.FixedLenFeature([9], tf.int64)}
    found = tf.io.parse_example(tf.constant(serialized), feature)["text"].numpy()
    assert sorted(found.tolist()) == sorted(np.array(keras_layer(tf.constant(rows))).tolist())
