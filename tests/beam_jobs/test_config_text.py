"""What a spec may say of texts, and what becomes of files that are no vocabularies."""

import pickle

import pytest

from beam_jobs.config import parse_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run

INT = {"output_sequence_length": 4}
BAG = {"output_mode": "count"}
WEIGHTS = {"output_mode": "tf_idf", "vocabulary": ["a", "b"]}
WORDPIECE = INT | {"tokenizer": "wordpiece", "vocabulary": ["[PAD]", "[UNK]", "a"]}


def spec(said: dict, **others) -> dict:
    return {
        "name": "made",
        "source": {"format": "csv", "paths": ["made.csv"]},
        "split": {"fractions": {"train": 1.0}},
        "features": {"text": {"type": "text"} | said} | others,
    }


@pytest.mark.parametrize(
    "said, message",
    [
        ({}, 'output_mode = "int" needs output_sequence_length'),
        (BAG | INT, 'output_sequence_length belongs to output_mode = "int"'),
        (BAG | {"truncate": "start"}, 'truncate belongs to output_mode = "int"'),
        (INT | {"max_tokens": 2}, "max_tokens must be more than 2, which are no tokens, but is 2"),
        (BAG | {"max_tokens": 1}, "max_tokens must be more than 1, which are no tokens, but is 1"),
        (BAG | {"pad_to_max_tokens": True}, "pad_to_max_tokens needs max_tokens"),
        (INT | {"pad_to_max_tokens": True, "max_tokens": 9}, "and an output_mode but int"),
        (INT | {"missing": "token"}, "missing must be \"reject\" or a text, but is 'token'"),
        (INT | {"replace": [["(", ""]]}, "['(', ''] is no regular expression and its replacement"),
        (INT | {"replace": [["a", "\\1"]]}, "Rewrite schema requests 1 matches"),
        (INT | {"split": "none", "ngrams": 2}, "ngrams join the tokens of a text"),
        (INT | {"ngrams": 0}, "features.text.ngrams: must be greater than or equal to 1"),
        (INT | {"vocabulary": []}, "features.text.vocabulary: must not be empty"),
        (INT | {"vocabulary": ["", "[UNK]"]}, "the vocabulary holds no token"),
        (INT | {"vocabulary": ["a", "b", "a"]}, "the vocabulary holds 'a' twice"),
        (INT | {"vocabulary": ["a", ""]}, "the vocabulary holds the empty text"),
        (INT | {"vocabulary": ["a"], "max_tokens": 9}, "max_tokens is for a vocabulary that train"),
        (
            INT | {"vocabulary": ["a"], "frequency_threshold": 9},
            "frequency_threshold is for a vocabulary that train tells",
        ),
        (
            BAG | {"vocabulary": ["a", "b"], "max_tokens": 2, "pad_to_max_tokens": True},
            "the vocabulary has 2 tokens and 1 special ones, more than max_tokens = 2",
        ),
        (WEIGHTS | {"idf_weights": [1.0]}, "as many as the 2 tokens of the vocabulary, but are 1"),
        (INT | {"idf_weights": [1.0]}, 'idf_weights need output_mode = "tf_idf" and a vocabulary'),
        (INT | {"model": "it.model"}, 'model belongs to tokenizer = "sentencepiece"'),
        (WORDPIECE | {"ngrams": 2}, "tokenizer brings its own tokens: leave out ngrams"),
        (WORDPIECE | {"vocabulary": ["[UNK]", "a"]}, "must begin with [PAD] and hold [UNK]"),
        (
            INT | {"tokenizer": "wordpiece"},
            "tokenizer = 'wordpiece' takes vocabulary, and no model",
        ),
        (INT | {"tokenizer": "sentencepiece"}, "takes model, and no vocabulary"),
        (BAG | {"separator": ""}, "features.text.separator: "),
        (BAG | {"separator": "|", "split": "none"}, "separator splits a text, and so does split"),
        (
            BAG | {"separator": "|", "standardize": "strip_punctuation"},
            "'strip_punctuation' comes before the split, and would change the separator '|'. Leave",
        ),
        (BAG | {"separator": " OR ", "standardize": "lower"}, "would change the separator ' OR '"),
        (WORDPIECE | {"separator": "|"}, "tokenizer brings its own tokens: leave out separator"),
        (BAG | {"deduplicate": 1}, "features.text.deduplicate: must be true or false, but is 1"),
        (INT | {"ngram": 2}, "features.text.ngram: unknown key; did you mean 'ngrams'?"),
    ],
)
def test_what_cannot_be_is_one_line(said, message):
    with pytest.raises(SpecError) as caught:
        parse_spec(spec(said), "made.toml")
    assert str(caught.value).startswith("made.toml: features.text")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_no_feature_is_called_as_a_part_of_another():
    others = {"text/indices": {"dtype": "int64"}}
    with pytest.raises(SpecError, match="text/indices is the list of indices of text, and a feat"):
        parse_spec(spec(BAG, **others), "made.toml")


def test_a_manifest_says_it_again():
    lists = BAG | {"separator": "|"}, INT | {"separator": " ", "standardize": "lower"}
    for said in (INT, BAG | {"ngrams": [1, 3]}, WORDPIECE, WEIGHTS, *lists):
        once = parse_spec(spec(said), "/made.toml")
        again = parse_spec(
            once.model_dump(mode="json", by_alias=True, exclude_none=True), "/m.toml"
        )
        assert again == once and again.digest == once.digest


def _run(tmp_path, said: dict, text: str = "text\na b\nb\n") -> dict:
    (tmp_path / "made.csv").write_text(text, encoding="utf-8")
    return run(parse_spec(spec(said), str(tmp_path / "made.toml")), str(tmp_path / "out"))


@pytest.mark.parametrize(
    "data, message",
    [
        (None, "there is no such file"),
        (b"", "the vocabulary holds no token"),
        (b"[UNK]\n", "the vocabulary holds no token"),
        (b"a\nb\na\n", "the vocabulary holds 'a' twice"),
        (b"a\n\nb\n", "the vocabulary holds the empty text, which stands for padding"),
        (b"a\n\xff\n", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_one_line(tmp_path, data, message):
    if data is not None:
        (tmp_path / "tokens.txt").write_bytes(data)
    with pytest.raises(SpecError) as caught:
        _run(tmp_path, INT | {"vocabulary": "tokens.txt"})
    found = str(caught.value)
    assert found.startswith(f"features.text: {tmp_path / 'tokens.txt'}: ")
    assert message in found and "\n" not in found
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_model_is_one_line(tmp_path):
    pytest.importorskip("tensorflow_text")
    (tmp_path / "it.model").write_bytes(b"no model at all")
    with pytest.raises(SpecError, match="^features.text: model: is no unigram model of Sentence"):
        _run(tmp_path, INT | {"tokenizer": "sentencepiece", "model": "it.model"})


@pytest.mark.parametrize(
    "said, text, message",
    [
        (INT | {"frequency_threshold": 3}, "text\na b\nb\n", "of 2 distinct tokens in train none"),
        (BAG, "text\n!!!\n...\n", "the texts of train hold none"),
        (BAG | {"replace": [["[a-z]", ""]]}, "text\na b\nb\n", "the texts of train hold none"),
    ],
)
def test_a_vocabulary_without_a_token_stops_the_job(tmp_path, said, text, message):
    with pytest.raises(DataError) as caught:
        _run(tmp_path, said, text)
    assert str(caught.value).startswith("features.text: the vocabulary has no token: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_counts_by_what_it_holds_and_goes_with_the_spec(tmp_path):
    digests = []
    for folder, tokens in (("a", "x\ny\n"), ("[b]", "x\r\ny"), ("c", "x\nz\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokens.txt").write_bytes(tokens.encode())
        said = spec(INT | {"vocabulary": "tokens.txt"})
        parsed = parse_spec(said, str(tmp_path / folder / "made.toml"))
        digests.append(parsed.digest)
        (tmp_path / folder / "tokens.txt").unlink()
        travelled = pickle.loads(pickle.dumps(parsed))
        assert travelled.texts["text"].given == ("x", tokens.split()[1])
    assert digests[0] == digests[1] != digests[2]
    assert parse_spec(spec(INT | {"vocabulary": ["x", "y"]}), "/m.toml").digest not in digests


def test_text_that_is_no_utf_8_is_set_aside(tmp_path):
    rows = b"text\n" + b"good one\n" * 20 + b"bad \xff one\n"
    (tmp_path / "made.csv").write_bytes(rows)
    made = parse_spec(spec(INT), str(tmp_path / "made.toml"))
    info = run(made, str(tmp_path / "out"))
    assert info["rejected"] == {"bad_encoding": 1}
    assert info["splits"]["train"]["num_examples"] == 20
