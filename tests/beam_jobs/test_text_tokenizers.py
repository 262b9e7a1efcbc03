"""Tokenizers of tensorflow-text: what is stored is what they say."""

import collections
import csv
import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from oracle import records

from beam_jobs.config import parse_spec
from beam_jobs.run import run

tensorflow_text = pytest.importorskip("tensorflow_text")

NUM_TRAIN = 60
PIECES = ["[PAD]", "[UNK]", "the", "movie", "##s", "good", "##ness", ",", "!", "a", "bad", "##l"]
WORDS = "The movie movies goodness, good! a badly bad zebra café".split(" ")
ROWS = [" ".join(WORDS[(row * k) % 10] for k in range(1, 3 + row % 9)) for row in range(80)]


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def sentencepiece_model() -> bytes:
    """A unigram model, as the protocol buffer `sentencepiece.ModelProto`."""
    model = b""
    scores = [("<pad>", 0.0, 3), ("<unk>", 0.0, 2), ("</s>", 0.0, 3)]
    scores += [(piece, -1.0 - k / 8, 1) for k, piece in enumerate(["▁good", "▁movie", "s", "▁a"])]
    scores += [
        (letter, -6.0 - k / 16, 1) for k, letter in enumerate("▁themovigdnsbaly,!") if letter != "s"
    ]
    seen = set()
    for piece, score, kind in scores:
        if piece not in seen:
            seen.add(piece)
            fields = _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score)
            model += _field(1, fields + bytes([3 << 3, kind]))
    ids = b"".join(bytes([*_tag(number), value]) for number, value in ((40, 1), (42, 2), (43, 0)))
    return model + _field(2, ids)


def _tag(number: int) -> bytes:
    tag = number << 3
    return bytes([tag & 0x7F | 0x80, tag >> 7])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    with open(folder / "made.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "fold"])
        for row, text in enumerate(ROWS):
            writer.writerow([row, text, "train" if row < NUM_TRAIN else "test"])
    (folder / "pieces.txt").write_text("\n".join(PIECES) + "\n")
    (folder / "unigram.model").write_bytes(sentencepiece_model())
    wordpiece = {"type": "text", "column": "text", "tokenizer": "wordpiece"}
    wordpiece |= {"vocabulary": "pieces.txt", "standardize": "lower"}
    sentencepiece = {"type": "text", "column": "text", "tokenizer": "sentencepiece"}
    sentencepiece |= {"model": "unigram.model", "standardize": "lower"}
    spec = {
        "name": "made",
        "source": {"format": "csv", "paths": ["made.csv"]},
        "split": {"column": "fold", "values": {"train": ["train"], "test": ["test"]}},
        "features": {
            "id": {"dtype": "int64"},
            "pieces": wordpiece | {"output_sequence_length": 6},
            "weights": wordpiece | {"output_mode": "tf_idf"},
            "unigrams": sentencepiece | {"output_sequence_length": 20},
            "bag": sentencepiece | {"output_mode": "count"},
        },
    }
    said = parse_spec(spec, str(folder / "made.toml"))
    info = run(said, str(folder / "out"), num_threads=2, block_mb=0.001)
    return folder / "out", info


def test_later_texts_get_the_same_ids_and_unknown_pieces_are_counted(made, tmp_path):
    folder, info = made
    texts = [*ROWS, "an unheard-of \u4e16 thing"]
    with open(tmp_path / "later.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    said = info["spec"] | {
        "source": {"format": "csv", "paths": ["later.csv"]},
        "split": {"fractions": {"test": 1}},
    }
    spec = parse_spec(said, str(tmp_path / "later.toml"), learns=False)
    found = run(spec, str(tmp_path / "out"), transform_from=str(folder))
    before, after = records.by_id(folder), records.by_id(tmp_path / "out")
    for name, values in before.items():
        assert np.array_equal(after[name][: len(ROWS)], values)
    model = (folder.parent / "unigram.model").read_bytes()
    tokenizers = {
        "pieces": tensorflow_text.FastWordpieceTokenizer(PIECES, token_out_type=tf.int64),
        "unigrams": tensorflow_text.FastSentencepieceTokenizer(model),
    }
    for feature, other in (("pieces", "weights"), ("unigrams", "bag")):
        ids = tokenizers[feature].tokenize(_lower(texts)).flat_values.numpy()
        count = int(np.sum(ids == 1))  # Both have it as their second piece.
        assert count > 1
        for name in (feature, other):
            assert found["features"][name]["out_of_vocabulary"] == {"test": count}


def test_a_transform_with_a_tokenizer_is_loaded_by_a_process_that_had_none(made):
    code = (
        "import sys, apache_beam as beam\n"
        "from headrace.beam import ApplyTransform\n"
        "with beam.Pipeline() as pipeline:\n"
        "    rows = pipeline | beam.Create([{'id': 1, 'text': 'a'}])\n"
        "    rows | ApplyTransform(sys.argv[1]) | beam.Map(lambda row: print(row['id']))\n"
    )
    words = [sys.executable, "-c", code, str(made[0])]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "1\n"


def _padded(ids: list[list[int]], length: int) -> list[list[int]]:
    return [(row + [0] * length)[:length] for row in ids]


def _lower(rows: list[str]) -> list[str]:
    return [text.decode() for text in tf.strings.lower(tf.constant(rows)).numpy()]


@pytest.mark.feature("tensorflow_text", "BertTokenizer", '`tokenizer = "wordpiece"`')
def test_ids_are_those_of_wordpiece(made):
    folder, info = made
    path = str(folder.parent / "pieces.txt")
    tokenizer = tensorflow_text.BertTokenizer(path, token_out_type=tf.int64)
    ids = tokenizer.tokenize(_lower(ROWS)).merge_dims(-2, -1).to_list()
    assert {1, 2, 4, 6, 7, 8} <= {i for row in ids for i in row}
    assert max(map(len, ids)) > 6 > min(map(len, ids))
    assert records.by_id(folder)["pieces"].tolist() == _padded(ids, 6)
    assert info["features"]["pieces"]["num_categories"] == len(PIECES)


def test_tf_idf_of_pieces(made):
    folder, info = made
    tokenizer = tensorflow_text.FastWordpieceTokenizer(PIECES, token_out_type=tf.int64)
    ids = tokenizer.tokenize(_lower(ROWS)).to_list()
    documents = collections.Counter(i for row in ids[:NUM_TRAIN] for i in set(row))
    expected = np.zeros((len(ROWS), len(PIECES)), np.float32)
    for row, found in enumerate(ids):
        for i, count in collections.Counter(found).items():
            weight = math.log(1 + NUM_TRAIN / (1 + documents[i]))
            expected[row, i] = np.float32(count) * np.float32(weight)
    assert records.by_id(folder)["weights"].tolist() == expected.tolist()


@pytest.mark.feature("tensorflow_text", "SentencepieceTokenizer", '`tokenizer = "sentencepiece"`')
def test_ids_are_those_of_sentencepiece(made):
    folder, info = made
    tokenizer = tensorflow_text.SentencepieceTokenizer(sentencepiece_model())
    ids = tokenizer.tokenize(_lower(ROWS)).to_list()
    assert {1, 3, 4, 5, 6} <= {i for row in ids for i in row}
    stored = records.by_id(folder)
    assert stored["unigrams"].tolist() == _padded(ids, 20)
    size = int(tokenizer.vocab_size())
    assert info["features"]["bag"]["shape"] == [size]
    counts = [np.bincount(row, minlength=size) for row in ids]
    assert stored["bag"].tolist() == np.array(counts, np.float32).tolist()


def test_transform_fn_gives_the_stored_values_in_a_process_of_its_own(made):
    folder, info = made
    program = (
        "import json, sys, tensorflow as tf, tensorflow_text\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "texts = json.loads(sys.stdin.read())\n"
        "ids = tf.range(len(texts), dtype=tf.int64)\n"
        "found = loaded.transform_fn({'id': ids, 'text': tf.constant(texts)})\n"
        "print(json.dumps({n: found[n].numpy().tolist() for n in ('pieces', 'unigrams')}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(folder / "transform_fn")],
        input=json.dumps(ROWS),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, stored = json.loads(done.stdout.splitlines()[-1]), records.by_id(folder)
    assert {name: stored[name].tolist() for name in found} == found
