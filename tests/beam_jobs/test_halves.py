import dataclasses
import functools

import pytest

from beam_jobs.halves import Sums

NUMBERS = range(1, 101)


@dataclasses.dataclass(frozen=True)
class Copied:
    """A sum that knows how often each number in it was copied: whenever it was added to another."""

    times: dict[int, int]

    def __add__(self, other: "Copied") -> "Copied":
        return Copied({number: n + 1 for number, n in {**self.times, **other.times}.items()})


ONES = [Copied({number: 0}) for number in NUMBERS]
NONE = Copied({})


def added(values) -> Sums:
    return functools.reduce(Sums.add, values, Sums())


def test_every_value_is_added_once_and_copied_few_times():
    one_by_one = functools.reduce(Copied.__add__, ONES, NONE)
    assert max(one_by_one.times.values()) == 100
    total = added(ONES).total(NONE)
    assert sorted(total.times) == [*NUMBERS]
    assert max(total.times.values()) <= 9  # 100 are 7 digits in base 2.
    assert added([]).total(NONE) == NONE


@pytest.mark.parametrize("size", [1, 3, 8, 50, 100])
def test_parts_that_were_added_elsewhere_come_together(size):
    parts = [added(ONES[start : start + size]).compact() for start in range(0, 100, size)]
    assert {len(part.pending) for part in parts} == {1}
    total = functools.reduce(Sums.merge, [*parts, Sums().compact()], Sums()).total(NONE)
    assert sorted(total.times) == [*NUMBERS]
    assert max(total.times.values()) <= 18
