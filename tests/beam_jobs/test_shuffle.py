import collections
import os

import numpy as np
import pyarrow as pa
import pytest
from oracle import hashing

from beam_jobs import keys, shuffle
from beam_jobs.errors import DataError
from beam_jobs.keys import with_hashes
from beam_jobs.shuffle import Place, Spill, hash_buckets, ordered

NUM_RECORDS, NUM_DISTINCT = 3000, 50
PLACE = Place("train", 3)


def hashes() -> np.ndarray:
    rng = np.random.default_rng(1)
    hashed = np.empty(NUM_DISTINCT, keys.HASH_DTYPE)
    for half in ("first", "last"):
        hashed[half] = rng.integers(0, 2**64, NUM_DISTINCT, dtype=np.uint64)
    hashed["first"][:5] = hashed["first"][0]  # Equal first halves are no equal hashes.
    return hashed


def records(seed) -> np.ndarray:
    """Numbers of records in some order; a third of them are one record."""
    ids = np.random.default_rng(5).integers(0, NUM_DISTINCT, NUM_RECORDS)
    ids[: NUM_RECORDS // 3] = 7
    return np.random.default_rng(seed).permutation(ids)


def shuffled(folder, ids, num_buckets, num_blocks) -> list[int]:
    folder.mkdir(exist_ok=True)
    spill, hashed = Spill(str(folder)), hashes()
    for part in np.array_split(ids, num_blocks):
        block = with_hashes(pa.record_batch({"id": pa.array(part)}), hashed[part])
        spill.write(PLACE, block, hash_buckets(hashed[part], num_buckets))
    batches = list(ordered(spill, PLACE, num_buckets))
    assert all(batch.schema.names == ["id"] for batch in batches)
    return [number for batch in batches for number in batch["id"].to_pylist()]


def expected() -> list[int]:
    seen: collections.Counter = collections.Counter()
    placed = []
    pairs = hashes().tolist()
    for number in records(0).tolist():
        first, last = pairs[number]
        order = hashing.splitmix64(first, seen[number]), first, last, seen[number], number
        seen[number] += 1
        placed.append(order)
    return [order[-1] for order in sorted(placed)]


@pytest.mark.parametrize(
    "num_buckets, bucket_bytes, num_blocks, part_bytes",
    [
        (1, 32 << 20, 5, 8 << 20),
        (1, 32 << 20, 5, 1_000),
        (1, 20_000, 1, 8 << 20),
        (3, 20_000, 50, 1),
        (1, 5_000, 1, 8 << 20),
        (7, 1_000, 9, 100),
        (4, 1, 3, 8 << 20),
    ],
)
def test_order_depends_on_nothing_but_the_records(
    tmp_path, monkeypatch, num_buckets, bucket_bytes, num_blocks, part_bytes
):
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", bucket_bytes)
    monkeypatch.setattr(shuffle, "_PART_BYTES", part_bytes)
    found = shuffled(tmp_path / "spill", records(num_blocks), num_buckets, num_blocks)
    assert found == expected()
    assert os.listdir(tmp_path / "spill") == []


def test_equal_records_do_not_stand_side_by_side():
    order = expected()
    assert order.count(7) > NUM_RECORDS // 3
    pairs = sum(a == b == 7 for a, b in zip(order, order[1:], strict=False))
    assert pairs < order.count(7) / 2


def test_order_differs_from_the_input(tmp_path):
    assert shuffled(tmp_path, records(0), 1, 1) != records(0).tolist()


def test_a_shard_without_records(tmp_path):
    assert list(ordered(Spill(str(tmp_path)), PLACE, 1)) == []
    assert list(ordered(Spill(str(tmp_path)), PLACE, 3)) == []


def test_places_do_not_mix(tmp_path):
    spill, hashed = Spill(str(tmp_path)), hashes()[:1]
    places = [Place("train", 0), Place("train", 1), Place("test", 0)]
    for number, place in enumerate(places):
        block = with_hashes(pa.record_batch({"id": [number]}), hashed)
        spill.write(place, block, np.zeros(1, np.int64))
    found = [[b["id"].to_pylist() for b in ordered(spill, place, 1)] for place in places]
    assert found == [[[0]], [[1]], [[2]]]


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_hash_buckets_come_from_the_low_half_of_last(count):
    hashed = hashes()
    exact = [(last & 0xFFFFFFFF) * count >> 32 for _, last in hashed.tolist()]
    assert hash_buckets(hashed, count).tolist() == exact


@pytest.mark.parametrize(
    "records, shards, size, buckets",
    [(0, 1, 100, 1), (32 << 20, 1, 1, 1), ((32 << 20) + 1, 1, 1, 2), (10**9, 4, 1000, 7451)],
)
def test_num_buckets_rounds_up(records, shards, size, buckets):
    assert shuffle.num_buckets(records, shards, size) == buckets


def test_a_full_disk_is_told_beforehand(tmp_path):
    shuffle.check_space(str(tmp_path), 0)
    with pytest.raises(DataError, match=r"needs 1000000000\.00 GB of disk, but only .* are free"):
        shuffle.check_space(str(tmp_path), 10**18)


def test_groups_hold_all_records_in_order_and_are_packed_without_the_others():
    texts = [f"text {number}" * 10 for number in range(10_000)]
    group = np.arange(10_000) * 7 % 100
    batch = pa.record_batch({"text": pa.array(texts)})
    found = dict(shuffle.groups(batch, group))
    assert list(found) == list(range(100))
    packed = {number: shuffle.packed(part) for number, part in found.items()}
    for number, data in packed.items():
        there = np.flatnonzero(group == number)
        assert shuffle.unpacked(data).to_pydict() == {"text": [texts[k] for k in there]}
    assert sum(map(len, packed.values())) < 1.2 * len(shuffle.packed(batch))
