"""Where a shard can be entered: the bytes at which some of its records begin."""

from __future__ import annotations

import numpy as np

MAX_ENTRIES = 512  # 7 KB of the manifest for each shard.
SMALLEST_STEP_BYTES = 16 << 10


class ShardIndex:
    """Notes the first record that begins in each step of some bytes, the first step left out.

    A step is 16 KiB times a power of two, the smallest with which there are at most 512 entries.
    They follow from the records alone, not from how these were handed over.
    """

    def __init__(self) -> None:
        """Begins with an empty shard."""
        self._entries = np.empty((0, 2), np.int64)
        self._step = SMALLEST_STEP_BYTES
        self._last_start = 0
        self._num_records = self._num_bytes = 0

    def add(self, sizes: np.ndarray) -> None:
        """Appends records of these sizes, in bytes with their framing: int64 (num_records,)."""
        if not len(sizes):
            return
        ends = self._num_bytes + np.cumsum(sizes)
        starts = ends - sizes
        steps = starts // self._step
        first = np.flatnonzero(np.diff(steps, prepend=self._last_start // self._step))
        new = np.stack([self._num_records + first, starts[first]], axis=1)
        self._entries = np.concatenate([self._entries, new])
        while len(self._entries) > MAX_ENTRIES:
            self._step *= 2
            steps = self._entries[:, 1] // self._step
            self._entries = self._entries[np.diff(steps, prepend=0) > 0]
        self._num_records += len(sizes)
        self._num_bytes, self._last_start = int(ends[-1]), int(starts[-1])

    def __str__(self) -> str:
        """Returns the entries as in the manifest: `record:byte record:byte ...`."""
        return " ".join(f"{record}:{byte}" for record, byte in self._entries.tolist())
