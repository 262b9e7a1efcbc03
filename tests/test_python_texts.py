"""Keras' reviews by one job: the ids of a text feature are the words that Keras documents."""

import collections
import importlib
import sys

import numpy as np
import tensorflow as tf
from oracle import made_keras

from beam_jobs.config import load_spec
from beam_jobs.run import run

LENGTH = 45  # Longer than any text, so that nothing is cut off.
SPEC = f"""\
name = "reviews"
[source]
format = "keras"
dataset = "imdb"
[split]
column = "split"
values = {{ train = ["train"], test = ["test"] }}
[features.text]
type = "text"
standardize = "none"
split = "whitespace"
output_sequence_length = {LENGTH}
[label]
column = "label"
[output]
num_shards = 1
"""


def test_ids_are_those_of_a_layer_that_is_adapted_to_the_words_of_keras(tmp_path, monkeypatch):
    keras = importlib.import_module("keras")
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    # The made files are not those whose hash Keras knows.
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)
    made_keras.write("imdb", tmp_path / "keras")
    (tmp_path / "reviews.toml").write_text(SPEC)

    info = run(load_spec(str(tmp_path / "reviews.toml")), str(tmp_path / "out"))

    imdb = keras.datasets.imdb
    train, test = imdb.load_data(num_words=sys.maxsize, start_char=None, index_from=0)
    words = {number: word for word, number in imdb.get_word_index().items()}
    texts = {
        split: ([" ".join(words[i] for i in one) for one in x], y)
        for split, (x, y) in (("train", train), ("test", test))
    }
    index = _index(texts["train"][0])
    for split, (wanted, labels) in texts.items():
        ids = np.zeros((len(wanted), LENGTH), np.int64)
        for row, text in enumerate(wanted):
            found = [index.get(word, 1) for word in text.split()]
            ids[row, : len(found)] = found
        pairs = collections.Counter(
            (row.tobytes(), label) for row, label in zip(ids, labels, strict=True)
        )
        assert _stored(tmp_path / "out", info, split) == pairs
    assert info["read"] == len(train[1]) + len(test[1])


def _index(texts) -> dict[str, int]:
    """Ids from 2 on, by descending count, then by ascending bytes."""
    counts = collections.Counter(word for text in texts for word in text.split())
    ordered = sorted(counts, key=lambda word: (-counts[word], word.encode()))
    return {word: place + 2 for place, word in enumerate(ordered)}


def _stored(folder, info, split) -> collections.Counter:
    spec = {
        "text": tf.io.FixedLenFeature([LENGTH], tf.int64),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    files = [str(folder / shard["file"]) for shard in info["splits"][split]["shards"]]
    records = list(tf.data.TFRecordDataset(files).as_numpy_iterator())
    values = tf.io.parse_example(records, spec)
    rows = zip(values["text"].numpy(), values["label"].numpy().tolist(), strict=True)
    return collections.Counter((row.tobytes(), label) for row, label in rows)
