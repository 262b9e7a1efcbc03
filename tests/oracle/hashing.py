"""Split, shard and place of a record, from the written definition of its hash."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

SPLITS = ("train", "validation", "test")
MASK = 2**64 - 1


def row_key(values: Mapping[str, str | None], columns: Iterable[str]) -> bytes:
    """The key bytes of a row: its values in the order of the sorted names, a missing one 0xff."""
    names = sorted(name.encode() for name in columns)
    fields = [hashlib.md5(b"\0".join(names)).hexdigest().encode()]
    for name in names:
        value = values[name.decode()]
        fields.append(b"\xff" if value is None else value.encode())
    return b"\0".join(fields)


def halves(key: bytes) -> tuple[int, int]:
    """The two big-endian 64-bit halves of the key's md5."""
    digest = hashlib.md5(key).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def below(first: int, fraction: Fraction) -> bool:
    return first < fraction * 2**64


def fraction_split(first: int, fractions: Mapping[str, Fraction]) -> str:
    """The split that the hash falls into: cumulated fractions, train, validation, test."""
    total = Fraction(0)
    for name in SPLITS:
        if name in fractions:
            total += fractions[name]
            if below(first, total):
                return name
    raise AssertionError(f"fractions do not sum to 1: {fractions}")


def strata(firsts: Sequence[int], shares: Mapping[str, Fraction]) -> list[str]:
    """The split of each record of a class: in the order of their hashes, cut at the shares."""
    totals = itertools.accumulate(shares.values())
    ends = [int(total * len(firsts) + Fraction(1, 2)) for total in totals]
    ordered = sorted(firsts)
    places = [sum(ordered.index(first) >= end for end in ends) for first in firsts]
    return [list(shares)[place] for place in places]


def splitmix64(first: int, occurrence: int) -> int:
    z = (first + (occurrence + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def shards(hashes: Sequence[tuple[int, int]], members: Iterable[int], num_shards: int):
    """The members (indices into hashes) of each shard, in the order in which they are written."""
    seen: dict[tuple[int, int], int] = {}
    places: list[list[tuple]] = [[] for _ in range(num_shards)]
    for member in members:
        first, last = hashes[member]
        occurrence = seen.get((first, last), 0)
        seen[first, last] = occurrence + 1
        order = (splitmix64(first, occurrence), first, last, occurrence)
        places[(last * num_shards) >> 64].append((order, member))
    return [[member for _, member in sorted(place)] for place in places]
