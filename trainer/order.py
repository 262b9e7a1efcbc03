"""Which record of a split is read when: arithmetic on the manifest, a pure function of a seed.

An epoch is cut into places 0, 1, 2, ... A batch takes the next places; of several hosts, host h
takes the places p with p % num_hosts == h. What stands at a place depends on nothing but the
manifest, the seed and the epoch, so that any number of hosts sees one order, and an epoch can be
entered anywhere.

A shard is cut into runs: consecutive records that can be read from a byte of their own. The epoch
puts all runs of the split in a random order and deals their records, one after the other, to
lanes of equal length. Place p belongs to lane p % num_lanes: a host whose number divides that of
the lanes reads its own lanes and nothing else. Each lane is cut into windows, whose records are put
in a random order. A split that fits into memory is one lane and one window: any order of its
records is as likely as any other.

Orders come from sorting splitmix64 hashes (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"), which are the same on every machine and in every version of NumPy.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

# A split up to this is one window. Its first batch waits for all of it: a second of one core.
WHOLE_BYTES, WHOLE_RECORDS = 256 << 20, 1 << 17
WINDOW_BYTES = 64 << 20
MAX_LANES = 16  # More would not fit into a processor's cache: a quarter slower with photos.
# To begin with another run costs 0.1 ms of a core, as much as reading 150 kB, and a slow disk more.
# Where neighbors have nothing in common, runs may be long.
_RUN_BYTES, _RANDOM_RUN_BYTES = 1 << 17, 1 << 20
# Large records are not arranged in windows, since that would copy them once more.
_LARGE_RECORD_BYTES = 1 << 17
_LONG_RUN_BYTES, _LONG_RANDOM_RUN_BYTES = 1 << 20, 1 << 26
_RUNS, _WINDOWS, _DRAWS = range(3)  # What a random number is for.


class Runs(NamedTuple):
    """Consecutive records, each array int64 (num_runs,): shard, byte of the first, number."""

    shard: np.ndarray
    offset: np.ndarray
    num_records: np.ndarray


class Reads(NamedTuple):
    """What to read, in turn, each array int64 (num_reads,).

    Of `shard`, from the byte `offset` on, leave out `skip` records and take `take`.
    """

    shard: np.ndarray
    offset: np.ndarray
    skip: np.ndarray
    take: np.ndarray


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of a split's records in every epoch.

    Attributes:
      runs: All records of the split, in the order of the manifest.
      num_lanes: A power of two.
      window: Records of a lane that are put in a random order together; 1 leaves them as they are.
      seed: Any integer; None: the order of the manifest (with one lane and a window of 1).
      entries: Shorter runs of the same records: where a run can be entered in its middle.
    """

    runs: Runs
    num_lanes: int
    window: int
    seed: int | None
    entries: Runs | None = None
    _kept: dict[int, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    @functools.cached_property
    def num_records(self) -> int:
        """The number of places in an epoch."""
        return int(self.runs.num_records.sum())

    @functools.cached_property
    def _entry_starts(self) -> np.ndarray:
        """The first record of each entry, by its number in the split."""
        counts = (self.entries or self.runs).num_records
        return np.cumsum(counts) - counts

    def lane_size(self, lane: int) -> int:
        """Returns how many records a lane has in an epoch."""
        return (self.num_records - lane + self.num_lanes - 1) // self.num_lanes

    def reads(self, epoch: int, lane: int, start: int) -> Reads:
        """Returns where the records of a lane are, from its record `start` on."""
        order, ends = self._dealt(epoch)
        before = sum(map(self.lane_size, range(lane)))
        first, last = before + start, before + self.lane_size(lane)
        begin, end = np.searchsorted(ends, (first, last - 1), side="right") + (0, 1)
        chosen = slice(begin, end if first < last else begin)
        run = order[chosen]
        begins = ends[chosen] - self.runs.num_records[run]
        skip = np.maximum(first - begins, 0)
        take = np.minimum(ends[chosen], last) - begins - skip
        offset = self.runs.offset[run]
        if self.entries is not None and len(run) and skip[0]:
            record = int(self.runs.num_records[: run[0]].sum()) + skip[0]
            entry = np.searchsorted(self._entry_starts, record, side="right") - 1
            offset[0] = self.entries.offset[entry]
            skip[0] = record - self._entry_starts[entry]
        return Reads(self.runs.shard[run], offset, skip, take)

    def arrangement(self, epoch: int, window: int, lanes: range) -> np.ndarray:
        """Returns the places of a window's records.

        Args:
          epoch: From 0.
          window: Its number in the lanes.
          lanes: Some of the lanes.

        Returns:
          int64 (num_records,): which of the records, as they are read, one lane of `lanes` after
          the other, comes first, second, and so on.
        """
        sizes = [self._window_size(lane, window) for lane in lanes]
        within = [
            np.argsort(self._random(size, _WINDOWS, epoch, window, lane), kind="stable")
            for lane, size in zip(lanes, sizes, strict=True)
        ]
        begins = np.cumsum([0, *sizes[:-1]])
        rank = np.concatenate([np.arange(size) for size in sizes])  # Rounds first, then lanes.
        records = np.concatenate([w + b for w, b in zip(within, begins, strict=True)])
        return records[np.argsort(rank, kind="stable")]

    def draw_seed(self, epoch: int, lane: int) -> np.ndarray:
        """Returns a seed for what is drawn at random in a lane: int64 (2,)."""
        return self._random(2, _DRAWS, epoch, lane).view(np.int64)

    def _dealt(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the runs in the order in which lanes get them, and where each ends in it."""
        dealt = self._kept.get(epoch)
        if dealt is None:
            order = np.arange(len(self.runs.num_records))
            if self.seed is not None:
                order = np.argsort(self._random(len(order), _RUNS, epoch), kind="stable")
            dealt = order, np.cumsum(self.runs.num_records[order])
            self._kept.clear()  # All lanes of an epoch ask one after the other.
            self._kept[epoch] = dealt
        return dealt

    def _window_size(self, lane: int, window: int) -> int:
        return int(np.clip(self.lane_size(lane) - window * self.window, 0, self.window))

    def _random(self, size: int, *what: int) -> np.ndarray:
        """Returns one random number each, uint64 (size,), for something that numbers describe."""
        key = np.zeros(1, np.uint64)
        for number in (self.seed or 0, *what):
            key = _mix(key ^ np.uint64(number & 0xFFFFFFFFFFFFFFFF))
        return _mix(key + np.arange(size, dtype=np.uint64))


def shuffled(
    runs: Runs,
    record_bytes: float,
    seed: int,
    *,
    is_random: bool = False,
    one_lane: bool = False,
) -> Order:
    """Returns the order of training.

    Args:
      runs: All records of the split.
      record_bytes: What a record takes in memory, on average.
      seed: Any integer.
      is_random: Whether the records were written in a random order.
      one_lane: Whether what is done lane by lane has to see the whole split.
    """
    num_records = int(runs.num_records.sum())
    if num_records <= WHOLE_RECORDS and num_records * record_bytes <= WHOLE_BYTES:
        return Order(_joined(runs, None), 1, max(1, num_records), seed)
    is_large = record_bytes >= _LARGE_RECORD_BYTES
    lengths = (_LONG_RUN_BYTES, _LONG_RANDOM_RUN_BYTES)
    if not is_large:
        lengths = (_RUN_BYTES, _RANDOM_RUN_BYTES)
    entries, runs = runs, _joined(runs, lengths[is_random])
    num_lanes = 1 if one_lane else min(MAX_LANES, 1 << int(math.log2(len(runs.shard))))
    window = max(1, int(WINDOW_BYTES / record_bytes / num_lanes))
    window = 1 if is_large and num_lanes == MAX_LANES else window
    return Order(runs, num_lanes, window, seed, entries)


def _joined(runs: Runs, step: int | None) -> Runs:
    """Joins the runs of a shard that begin in the same step of so many bytes; None: all."""
    steps = runs.offset // step if step else np.zeros_like(runs.offset)
    is_first = (np.diff(runs.shard, prepend=-1) != 0) | (np.diff(steps, prepend=-1) != 0)
    first = np.flatnonzero(is_first)
    return Runs(runs.shard[first], runs.offset[first], np.add.reduceat(runs.num_records, first))


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Returns splitmix64's hashes: uint64, same shape."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
