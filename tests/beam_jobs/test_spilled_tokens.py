"""Vocabularies of more texts than memory should hold: what is spilled is counted all the same."""

import collections
import os

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import spilled_tokens
from beam_jobs.config import parse_spec
from beam_jobs.counts import TokenCounts
from beam_jobs.errors import DataError
from beam_jobs.run import run
from beam_jobs.summaries import Summary

NUM_TEXTS, NUM_BLOCKS = 30_000, 4


def spec_of(features):
    said = {name: {"dtype": "string", "column": "word"} | of for name, of in features.items()}
    said["other"] = {"dtype": "string", "transform": "compute_and_apply_vocabulary"}
    source = {"format": "csv", "paths": ["in.csv"]}
    split = {"key": "*", "fractions": {"train": 1.0}}
    return {"name": "made", "source": source, "split": split, "features": said}


def drawn() -> list[list[str]]:
    """Texts of blocks: few stand there often, most once; the last block has few distinct ones."""
    rng = np.random.default_rng(2)
    ranks = (NUM_TEXTS ** rng.random((NUM_BLOCKS, 20_000))).astype(int)
    ranks[-1] %= 50
    return [[f"wört {rank * 7919 % NUM_TEXTS}" for rank in block] for block in ranks.tolist()]


def vocabulary(counted, least=1, most=None) -> list[bytes]:
    kept = [(-count, text.encode()) for text, count in counted.items() if count >= least]
    return [text for _, text in sorted(kept)][:most]


def summary_of(block) -> Summary:
    few = pa.array(["a", "b", "a"])
    return Summary(tokens={"word": TokenCounts.of(pa.array(block)), "other": TokenCounts.of(few)})


FEATURES = {
    "all": ({}, 1, None),
    "least": ({"frequency_threshold": 9}, 9, None),
    "most": ({"top_k": 7}, 1, 7),
    "both": ({"top_k": 900, "frequency_threshold": 3}, 3, 900),
}


@pytest.mark.parametrize("num_buckets", [1, 16])
@pytest.mark.parametrize("name", FEATURES)
def test_a_vocabulary_of_spilled_texts_is_that_of_all(name, num_buckets, tmp_path, monkeypatch):
    """Of one bucket, texts that are as frequent as the last one taken are on both sides."""
    monkeypatch.setattr(spilled_tokens, "_NUM_BUCKETS", num_buckets)
    options, least, most = FEATURES[name]
    transform = {"transform": "compute_and_apply_vocabulary"}
    spec = parse_spec(spec_of({"word": options | transform}), str(tmp_path / "s.toml"))
    counted = collections.Counter(text for block in drawn() for text in block)
    blocks = [spilled_tokens.spill(summary_of(b), spec, str(tmp_path)) for b in drawn()]
    assert ["word" in block.tokens for block in blocks] == [False, False, False, True]
    assert len(os.listdir(tmp_path)) == num_buckets
    found = spilled_tokens.gather(sum(blocks, Summary()), spec, str(tmp_path), 2)
    assert os.listdir(tmp_path) == []
    assert dict(zip(*map(pa.Array.to_pylist, found.tokens["other"]._arrays), strict=True)) == {
        "a": 2 * NUM_BLOCKS,
        "b": NUM_BLOCKS,
    }
    tokens = found.tokens["word"]
    assert tokens.num_distinct == len(counted) > 12_000
    wanted = vocabulary(counted, least, most)
    assert tokens.vocabulary("word", most, least) == wanted
    if name != "all":
        assert len(wanted) < len(counted) / 10 and len(tokens.tokens) < len(counted) / 3


def test_what_stands_in_for_a_missing_text_is_kept_however_rare(tmp_path):
    features = {
        "word": {"missing": "wört 0", "transform": "compute_and_apply_vocabulary", "top_k": 5},
        "same": {"missing": "token", "transform": "compute_and_apply_vocabulary", "top_k": 3},
        "mode": {"missing": "mode", "transform": "hash_strings", "hash_buckets": 5},
    }
    spec = parse_spec(spec_of(features), str(tmp_path / "s.toml"))
    block = [*drawn()[0], "wört 0", "[MISSING]"]
    counted = collections.Counter(block)
    assert counted["wört 0"] < 3 and counted["[MISSING]"] == 1
    folder = str(tmp_path)
    found = spilled_tokens.gather(
        spilled_tokens.spill(summary_of(block), spec, folder), spec, folder, 1
    )
    tokens = found.tokens["word"]
    kept = dict(zip(tokens.tokens.to_pylist(), tokens.counts.to_pylist(), strict=True))
    assert kept.items() <= counted.items() and kept.keys() >= {"wört 0", "[MISSING]"}
    assert tokens.vocabulary("word", 5, None) == vocabulary(counted, most=5)
    assert len(kept) < 16 * 5 + 3


@pytest.mark.parametrize("without", [pa.nulls(5, pa.string()), pa.array([], pa.string())])
def test_a_block_without_a_text_adds_nothing(without, tmp_path):
    features = {"word": {"missing": "token", "transform": "compute_and_apply_vocabulary"}}
    spec, folder = parse_spec(spec_of(features), str(tmp_path / "s.toml")), str(tmp_path)
    [block, *_] = drawn()
    empty = Summary(tokens={"word": TokenCounts.of(without)})
    spilled = spilled_tokens.spill(summary_of(block), spec, folder) + empty
    assert len(spilled.tokens["word"].tokens) == 0
    tokens = spilled_tokens.gather(spilled, spec, folder, 1).tokens["word"]
    assert tokens.vocabulary("word", None, None) == vocabulary(collections.Counter(block))


def test_a_mode_is_the_most_frequent_of_all(tmp_path):
    features = {"word": {"missing": "mode", "transform": "hash_strings", "hash_buckets": 5}}
    spec, folder = parse_spec(spec_of(features), str(tmp_path / "s.toml")), str(tmp_path)
    [block, *_] = drawn()
    spilled = spilled_tokens.spill(summary_of(block), spec, folder)
    tokens = spilled_tokens.gather(spilled, spec, folder, 1).tokens["word"]
    assert tokens.vocabulary("word", 1, None) == vocabulary(collections.Counter(block), most=1)
    assert 1 < len(tokens.tokens) <= 16 and tokens.num_distinct == len({*block})


def written(path, number) -> dict:
    """Writes a column of texts, of which some thousands stand there twice."""
    words = [f"word {index % number}" for index in range(number + 5_000)]
    path.write_text("word,other\n" + "".join(f"{word},x\n" for word in words))
    return collections.Counter(words)


def shards(folder) -> dict:
    names = [*folder.glob("*.tfrecord"), *folder.glob("vocabulary-*.json")]
    return {path.name: path.read_bytes() for path in names}


def test_the_same_bytes_with_and_without_a_disk_to_spill_on(tmp_path):
    """An engine adds the counts up in memory; the local runner does not."""
    counted = written(tmp_path / "in.csv", 40_000)
    options = {"transform": "compute_and_apply_vocabulary", "frequency_threshold": 2}
    spec = parse_spec(spec_of({"word": options}), str(tmp_path / "s.toml"))
    info = run(spec, str(tmp_path / "local"), num_threads=2)
    run(spec, str(tmp_path / "engine"), runner="FnApiRunner", num_threads=2)
    assert info["features"]["word"]["num_categories"] == sum(n > 1 for n in counted.values()) + 1
    found = shards(tmp_path / "local")
    assert len(found) == 3 and found == shards(tmp_path / "engine")
    assert info == run(spec, str(tmp_path / "again"), num_threads=4, block_mb=0.2)


def test_a_vocabulary_without_a_token_says_how_many_there_were(tmp_path):
    written(tmp_path / "in.csv", 40_000)
    options = {"transform": "compute_and_apply_vocabulary", "frequency_threshold": 3}
    spec = parse_spec(spec_of({"word": options}), str(tmp_path / "s.toml"))
    with pytest.raises(DataError, match="of 40000 distinct tokens in train none .* = 3 times"):
        run(spec, str(tmp_path / "out"), num_threads=2)
