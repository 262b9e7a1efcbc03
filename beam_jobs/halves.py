"""Adds up many values in halves, so that none is added, and copied, again and again."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums of values that add up in any order, each of more values than the next.

    Attributes:
      pending: Each with its level, descending: 2**level values or more.
    """

    pending: tuple[tuple[int, Any], ...] = ()

    def add(self, value: Any, level: int = 0) -> "Sums":
        """Adds a value, or a sum of so many."""
        pending = [*self.pending]
        while pending and pending[-1][0] <= level:
            below, other = pending.pop()
            value = other + value
            level += below == level
        return Sums((*pending, (level, value)))

    def merge(self, other: "Sums") -> "Sums":
        """Adds all of another one's."""
        for level, value in other.pending:
            self = self.add(value, level)
        return self

    def compact(self) -> "Sums":
        """Returns the same as one sum at most."""
        if not self.pending:
            return self
        (level, largest), *others = self.pending
        return Sums(((level, Sums(tuple(others)).total(largest)),))

    def total(self, zero: Any) -> Any:
        """Returns the sum of all, and of `zero`."""
        pending = [zero, *(value for _, value in self.pending)]
        total = pending.pop()
        while pending:
            total = pending.pop() + total
        return total
