"""The order of an epoch, as numbers: no file is read here."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from trainer import order as orders
from trainer.order import Order, Runs


def _runs(counts, *, runs_a_shard=4):
    """Runs of these many records; a record's number is its byte in its shard, for brevity."""
    shard = np.arange(len(counts)) // runs_a_shard
    offset = np.array([sum(counts[s * runs_a_shard : i]) for i, s in enumerate(shard)])
    return Runs(shard, offset, np.array(counts))


def _records(reads):
    """The records of some reads: (shard, number in it)."""
    return [
        (shard, offset + skip + number)
        for shard, offset, skip, take in zip(*(a.tolist() for a in reads), strict=True)
        for number in range(take)
    ]


def _epoch(order, epoch):
    """All records of an epoch by place, put together here from lanes and windows."""
    lanes = [_records(order.reads(epoch, lane, 0)) for lane in range(order.num_lanes)]
    found = []
    for window in itertools.count():
        cut = slice(window * order.window, (window + 1) * order.window)
        read = list(itertools.chain.from_iterable(lane[cut] for lane in lanes))
        if not read:
            return found
        places = order.arrangement(epoch, window, range(order.num_lanes))
        found += [read[place] for place in places.tolist()]


COUNTS = [5, 1, 9, 0, 13, 2, 2, 30, 7, 8, 1, 1, 22]  # 101 records, a prime.
ORDERS = [Order(_runs(COUNTS), lanes, window, 7) for lanes, window in [(1, 101), (4, 3), (8, 1)]]


@pytest.mark.parametrize("order", ORDERS)
def test_an_epoch_has_every_record_once(order):
    everything = sorted(
        _records(Runs(*order.runs[:2], 0 * order.runs.num_records) + (order.runs.num_records,))
    )
    assert len(set(everything)) == 101
    epochs = [_epoch(order, epoch) for epoch in range(3)]
    assert [sorted(found) for found in epochs] == [everything] * 3
    assert len(set(map(tuple, epochs))) == 3


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_differ_by_one_record_at_most(order):
    sizes = [sum(order.reads(0, lane, 0).take) for lane in range(order.num_lanes)]
    assert sum(sizes) == 101
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    assert sizes == [order.lane_size(lane) for lane in range(order.num_lanes)]


@pytest.mark.parametrize("order", ORDERS)
def test_a_lane_can_be_entered_anywhere(order):
    for lane in range(order.num_lanes):
        whole = _records(order.reads(1, lane, 0))
        for start in range(len(whole) + 2):
            assert _records(order.reads(1, lane, start)) == whole[start:]


def test_a_run_is_entered_at_the_last_entry_before():
    entries = _runs(COUNTS)
    joined = Runs(np.arange(4), np.zeros(4, int), np.array([15, 47, 17, 22]))  # A run a shard.
    order, plain = (Order(joined, 4, 1, 7, given) for given in (entries, None))
    for lane in range(4):
        for start in range(order.lane_size(lane)):
            reads = order.reads(0, lane, start)
            assert _records(reads) == _records(plain.reads(0, lane, start))
            assert reads.skip[0] < 30  # The longest entry: 47 records are not read over.
    assert max(plain.reads(0, lane, 9).skip[0] for lane in range(4)) > 30


def test_places_are_dealt_to_lanes_in_turn():
    order = Order(_runs(COUNTS), 4, 3, 7)
    lanes = [set(_records(order.reads(2, lane, 0))) for lane in range(4)]
    assert all(record in lanes[place % 4] for place, record in enumerate(_epoch(order, 2)))


def test_some_lanes_alone_are_arranged_as_among_all():
    order = Order(_runs(COUNTS), 4, 3, 7)
    whole = _epoch(order, 0)
    mine = []
    for window in range(9):
        cut = slice(window * 3, window * 3 + 3)
        read = [r for lane in (1, 3) for r in _records(order.reads(0, lane, 0))[cut]]
        mine += [read[place] for place in order.arrangement(0, window, range(1, 4, 2))]
    assert mine == whole[1::2]


def test_seed_and_epoch_decide_and_nothing_else():
    runs = _runs(COUNTS)
    first = _epoch(Order(runs, 4, 3, 7), 0)
    assert first == _epoch(Order(runs, 4, 3, 7), 0)
    others = [(8, 0), (7, 1), (-7, 0), (7 + 2**64, 1), (0, 7)]
    found = [tuple(_epoch(Order(runs, 4, 3, seed), epoch)) for seed, epoch in others]
    assert len({tuple(first), *found}) == 5  # Seeds count modulo 2^64.


def test_the_hash_is_splitmix64():
    # The first numbers of the published C code with the state 1234567.
    state = (1234567 + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype("u8")
    assert orders._mix(state).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_the_order_of_the_manifest():
    order = Order(_runs(COUNTS), 1, 1, None)
    assert _epoch(order, 5) == sorted(_epoch(order, 0))


@pytest.mark.parametrize(
    "counts, record_bytes, lanes, window, num_runs",
    [
        ([4] * 1000, 64 << 10, 1, 4000, 250),  # 250 MiB: in memory, shard by shard.
        ([4] * 1050, 64 << 10, 16, 64, 1050),
        ([1024] * 128, 100, 1, 131_072, 32),
        ([1024] * 129, 100, 16, 41_943, 97),  # To fill a window takes time for each record, too.
        ([40] * 1000, 150_528, 16, 1, 1000),  # Large records are not copied once more.
        ([4] * 1000, 150_528, 16, 1, 500),  # 602 kB each: two join within 1 MiB.
        ([5] * 20_000, 3_100, 16, 1353, 5000),  # 15 kB each, in shards of 62 kB.
        ([100_000] * 12, 600, 8, 13_981, 12),  # Few shards without index.
        ([10_000_000], 600, 1, 111_848, 1),
        ([0, 0], 600, 1, 1, 1),
    ],
)
def test_lanes_windows_and_runs_follow_from_the_size(counts, record_bytes, lanes, window, num_runs):
    runs = _runs(counts)
    order = orders.shuffled(runs._replace(offset=runs.offset * record_bytes), record_bytes, 0)
    assert (order.num_lanes, order.window, len(order.runs.shard)) == (lanes, window, num_runs)
    assert order.num_records == sum(counts)
    assert order.num_lanes * order.window * record_bytes <= (256 if lanes == 1 else 64) << 20


@pytest.mark.parametrize(
    "counts, runs_a_shard, record_bytes, num_runs",
    [
        ([5] * 1000, 4, 60_000, 250),  # 300 kB each, in shards of 1.2 MB: one of 1 MiB.
        ([1] * 3000, 3000, 150_528, 7),  # 452 MB in one shard, by 64 MiB.
    ],
)
def test_runs_are_long_in_random_order(counts, runs_a_shard, record_bytes, num_runs):
    runs = _runs(counts, runs_a_shard=runs_a_shard)
    runs = runs._replace(offset=runs.offset * record_bytes)
    order = orders.shuffled(runs, record_bytes, 0, is_random=True)
    assert len(order.runs.shard) == num_runs


# What follows compares an epoch of records that were written class by class with random orders.

NUM_CLASSES = 10


def _position_correlation(numbers):
    return stats.spearmanr(np.arange(len(numbers)), numbers).statistic


def _runs_of_one_class(classes):
    return 1 + np.count_nonzero(np.diff(classes))


def _longest_run(classes):
    cuts = np.flatnonzero(np.diff(classes)) + 1
    return np.diff([0, *cuts, len(classes)]).max()


def _spread_of_batches(classes, batch_size=100):
    """The variance of the number of each class in a batch, over that of drawing at random."""
    batches = classes[: len(classes) // batch_size * batch_size].reshape(-1, batch_size)
    counts = np.stack([(batches == c).sum(axis=1) for c in range(NUM_CLASSES)])
    share = 1 / NUM_CLASSES
    return counts.var() / (batch_size * share * (1 - share))


@pytest.mark.parametrize(
    "record_bytes", [3_100, 12_000, 150_600], ids=["memory", "windows", "lanes"]
)
@pytest.mark.parametrize("epoch", range(3))
def test_an_epoch_is_as_random_as_a_random_permutation(record_bytes, epoch):
    # 50,000 records in 10 shards, one for each class, each with 500 places to enter it.
    runs = Runs(np.repeat(np.arange(10), 500), np.tile(np.arange(500) * 10, 10), np.full(5000, 10))
    shuffled = orders.shuffled(runs._replace(offset=runs.offset * record_bytes), record_bytes, 3)
    assert (shuffled.num_lanes == 1) == (record_bytes == 3_100)
    order = dataclasses.replace(
        shuffled,
        runs=shuffled.runs._replace(offset=shuffled.runs.offset // record_bytes),
        entries=None,
    )
    found = np.array(_epoch(order, epoch))
    numbers, classes = found @ [5_000, 1], found[:, 0]
    assert np.array_equal(np.sort(numbers), np.arange(50_000))
    n, p = len(numbers), 1 / NUM_CLASSES
    # Larger than memory, the 10 records of a run share a window: what is random are 5,000 runs.
    num_random = n if order.num_lanes == 1 else n / 10
    assert abs(_position_correlation(numbers)) < 4 / math.sqrt(num_random)
    assert abs(_position_correlation(np.arange(n))) == 1  # As written: the test can fail.
    # Neighbors are of one class with the probability p; without windows, this holds of runs.
    num_random = n if order.window > 1 else n / 10
    expected, error = 1 + (n - 1) * (1 - p), n * math.sqrt(p * (1 - p) / num_random)
    assert abs(_runs_of_one_class(classes) - expected) < 5 * error
    assert _runs_of_one_class(np.sort(classes)) == NUM_CLASSES
    assert 4 <= _longest_run(classes) <= 8  # log(50,000) / log(10) = 4.7 for a random order.
    # Batches of a random order have the spread 1; 16 lanes alone bring 6 of a run into one.
    assert _spread_of_batches(classes) < (1.2 if order.window > 1 else 7)
    assert _spread_of_batches(np.sort(classes)) > 50
