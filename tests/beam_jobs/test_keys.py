import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import hashing

from beam_jobs import keys

ROW = {"b": "x", "a": None, "é": "", "Z": "ü\n,"}
U64 = st.integers(0, 2**64 - 1)


def batch(*rows) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        list(rows), schema=pa.schema([(name, pa.string()) for name in rows[0]])
    )


def hashed(pairs) -> np.ndarray:
    return np.array(pairs, keys.HASH_DTYPE)


def test_key_is_names_digest_then_values_in_the_order_of_names():
    digest = hashlib.md5(b"Z\0a\0b\0" + "é".encode()).hexdigest().encode()
    expected = b"\0".join([digest, "ü\n,".encode(), b"\xff", b"x", b""])
    assert keys.row_keys(batch(ROW)).to_pylist() == [expected]
    assert hashing.row_key(ROW, ROW) == expected


def test_order_of_the_columns_counts_for_nothing():
    turned = dict(reversed(ROW.items()))
    assert list(turned) != list(ROW)
    assert keys.row_keys(batch(turned)).equals(keys.row_keys(batch(ROW)))


def test_some_columns_only():
    expected = hashlib.md5(b"a\0b").hexdigest().encode() + b"\0\xff\0x"
    assert keys.row_keys(batch(ROW), ["b", "a"]).to_pylist() == [expected]
    assert keys.row_keys(batch(ROW), ["a", "b"]).to_pylist() == [expected]


def test_missing_empty_text_and_other_names_are_distinct():
    rows = [{"a": x, "b": y} for x in (None, "", "ÿ", "a") for y in (None, "", "ÿ", "a")]
    found = keys.row_keys(batch(*rows)).to_pylist()
    found += keys.row_keys(batch(*({"a": r["a"], "c": r["b"]} for r in rows))).to_pylist()
    assert len(set(found)) == len(found) == 32


def test_a_slice_of_a_batch_has_the_keys_of_its_own_rows():
    rows = [{"a": str(i), "b": None if i % 3 else "x"} for i in range(50)]
    found = keys.row_keys(batch(*rows).slice(17, 20))
    assert found.to_pylist() == [hashing.row_key(row, "ab") for row in rows[17:37]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=100)))
def test_hashes_are_the_halves_of_md5(texts):
    found = keys.hashes(pa.array(texts, pa.binary()))
    assert found.dtype.names == ("first", "last")
    assert found.tolist() == [hashing.halves(text) for text in texts]


def test_hashes_of_many_keys_keep_their_order():
    texts = [b"%d" % number for number in range(10_000)]  # More than DuckDB's 2048 a chunk.
    found = keys.hashes(pa.array(texts, pa.binary()))
    assert found.tolist() == [hashing.halves(text) for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.lists(U64), st.integers(1, 99_999))
def test_shards_are_exact(lasts, num_shards):
    lasts = [0, 2**64 - 1, 2**32 - 1, 2**32, *lasts]
    # Just below and at the first hash of a shard, where rounding would show.
    edges = [-(-shard * 2**64 // num_shards) for shard in (1, num_shards // 2, num_shards - 1)]
    lasts += [x + d for x in edges for d in (-1, 0) if 0 <= x + d < 2**64]
    found = keys.shard_indices(hashed([(0, last) for last in lasts]), num_shards)
    assert found.dtype == np.int64
    assert found.tolist() == [last * num_shards >> 64 for last in lasts]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(U64, st.integers(0, 2**40))))
def test_order_keys_are_splitmix64(pairs):
    firsts, occurrences = [p[0] for p in pairs], [p[1] for p in pairs]
    found = keys.order_keys(hashed([(f, 0) for f in firsts]), np.array(occurrences, np.int64))
    assert found.tolist() == [hashing.splitmix64(f, o) for f, o in pairs]


def test_splitmix64_as_published():
    # The first numbers of the reference generator with the seed 1234567.
    seeds = hashed([(1234567, 0)] * 3)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert keys.order_keys(seeds, np.arange(3)).tolist() == expected


def test_bytes_that_are_text_are_as_text_and_others_stand_for_their_md5():
    values = ["é".encode(), b"\xff\0x", None, b"", b"a\0b", b"\xfe"]
    columns = {"a": pa.array(values), "b": pa.array(["x"] * 6)}
    digest = hashlib.md5(b"a\0b").hexdigest().encode()
    cells = [
        "é".encode(),
        b"\xfe" + hashlib.md5(b"\xff\0x").hexdigest().encode(),
        b"\xff",
        b"",
        b"\xfe" + hashlib.md5(b"a\0b").hexdigest().encode(),
        b"\xfe" + hashlib.md5(b"\xfe").hexdigest().encode(),
    ]
    expected = [b"\0".join([digest, cell, b"x"]) for cell in cells]
    assert keys.row_keys(pa.record_batch(columns)).to_pylist() == expected
    one = pa.record_batch({"a": pa.array(values[:1]), "b": ["x"]})
    assert keys.row_keys(one).to_pylist() == expected[:1]  # Without a look at any md5.
