"""Words by NumPy and Arrow against the TF ops of transform_fn, on every byte of UTF-8."""

import itertools

import pyarrow as pa
import pytest
import tensorflow as tf

from beam_jobs import text, words
from beam_jobs.config import Text

STANDARDIZE = ("lower_and_strip_punctuation", "lower", "strip_punctuation", "none")
ASCII = [chr(code) for code in range(128)]
TEXTS = [
    "",
    " ",
    "...",
    " . ! \t",
    "the end",
    " Both  sides\r\n",
    *ASCII,
    *(f"a{one}b{one}{one}C D" for one in ASCII),
    *(f"{one}{two}" for one, two in itertools.product("aB ,\n\0\x1c", repeat=2)),
    # All lead and continuation bytes; white space, case and punctuation that are not ASCII.
    *(chr(code) + "x Y" for code in range(128, 0x800)),
    *(f"a{chr(code)}B" for code in range(0x800, 0x110000, 977) if not 0xD800 <= code < 0xE000),
    "É\u00a0é\u2003ß\u0130 «x» ﹏ ǅ\u0085y",
]


def test_every_byte_that_utf_8_has_is_there():
    assert {*"".join(TEXTS).encode()} == {*range(256)} - {0xC0, 0xC1, *range(0xF5, 256)}


@pytest.mark.parametrize("standardize", STANDARDIZE)
@pytest.mark.parametrize(
    "replace",
    [(), (("(?i)c|É", " \\0,"), ("a+", ""), (",", "<>")), (("aa", "é "), (".", "\\0"))],
)
@pytest.mark.parametrize("start, end", [(0, None), (3, 700), (1, 1)])
def test_words_are_those_of_the_tf_ops(standardize, replace, start, end):
    feature = Text(standardize=standardize, replace=replace, output_sequence_length=1)
    given = TEXTS[start:end]
    expected = text.tokens(tf.constant(given, tf.string), feature)
    found, splits = words.split(pa.array(TEXTS, pa.string())[start:end], feature)
    assert splits.tolist() == expected.row_splits.numpy().tolist()
    assert found.cast(pa.binary()).to_pylist() == expected.flat_values.numpy().tolist()


@pytest.mark.parametrize(
    "said",
    [
        {"output_sequence_length": 2},
        {"output_sequence_length": 2, "truncate": "start"},
        {"output_mode": "multi_hot"},
        {"output_mode": "count"},
        {"output_mode": "tf_idf"},
    ],
)
@pytest.mark.parametrize("rows", [1, len(TEXTS)])
@pytest.mark.parametrize("vocabulary", [(), (b"b", b"the", b"\xc3\xa9", b"d")])
def test_lists_are_those_of_the_graph(said, rows, vocabulary):
    feature = Text(**said)
    idf = tf.linspace(0.3, 1.7, len(vocabulary) + 1).numpy()
    dtypes = {"tokens": tf.string, "fingerprints": tf.int64, "indices": tf.int64}
    found = text.by_fingerprint(vocabulary)
    known = {key: tf.constant(found[key], dtype) for key, dtype in dtypes.items()}
    known |= {"depth": tf.constant(idf.size, tf.int64), "idf": tf.constant(idf)}
    graph = tf.function(lambda given: text.vectorized(given, feature, known))
    expected = text.to_lists(graph(tf.constant(TEXTS[:rows], tf.string)))
    given = pa.array(TEXTS[:rows], pa.string())
    weights = idf if feature.output_mode == "tf_idf" else None
    assert text.word_lists(given, feature, vocabulary, idf.size, weights) == expected
