"""How far a job is, told while it runs.

Beam's local runner reports nothing before the end, so the work counts itself in the process; other
engines gather Beam's counters from their workers. These counts are for the eye alone, and a retried
task counts twice: what the manifest says is counted from the data.
"""

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from apache_beam.metrics import Metrics

NAMESPACE = "headrace"


@dataclasses.dataclass
class Progress:
    """Counts of one job.

    Attributes:
      input_bytes: Bytes of the input; 0 where nobody knows.
      num_passes: How often a job works through them.
      bytes: Bytes that were worked through so far; writing a record counts like reading it.
      records: Records so far, in the current pass.
      rejected: Records rejected so far.
      stage: What is being done.
    """

    input_bytes: int = 0
    num_passes: int = 0
    bytes: int = 0
    records: int = 0
    rejected: int = 0
    stage: str = "starting"
    started: float = dataclasses.field(default_factory=time.monotonic)

    def line(self) -> str:
        """Returns where the job is, in one line."""
        seconds = time.monotonic() - self.started
        parts = [f"{seconds:7.1f} s  {self.stage}", f"{self.records:,} records"]
        if self.bytes and seconds:
            parts.append(f"{self.bytes / seconds / 1e6:.1f} MB/s")
        if self.rejected:
            parts.append(f"{self.rejected:,} rejected")
        total = self.input_bytes * self.num_passes
        if 0 < self.bytes < total:
            left = seconds * (total - self.bytes) / self.bytes
            parts.append(f"{self.bytes / total:.0%}, about {left:.0f} s left")
        return "  ".join(parts)


_current = Progress()  # A worker's functions are pickled: only a module can hold what they share.
_unreported: Counter[str] = Counter()  # Records by stage, and the rejected ones.
_lock = threading.Lock()


def count(stage: str, num_bytes: int, records: int = 0, rejected: int = 0) -> None:
    """Notes that so much is done; a new stage counts its records from 0."""
    with _lock:
        if stage != _current.stage:
            _current.stage, _current.records = stage, 0
        _current.bytes += num_bytes
        _current.records += records
        _current.rejected += rejected
        _unreported.update({stage: records, "rejected": rejected})


def count_written(records: int, total: int) -> None:
    """Notes that records out of a total were written, which counts like reading their bytes."""
    count("writing", _current.input_bytes * records // total, records)


def report() -> None:
    """Tells Beam what this process has counted; only the thread that Beam calls can."""
    with _lock:
        counted = +_unreported
        _unreported.clear()
    for name, number in counted.items():
        Metrics.counter(NAMESPACE, name).inc(number)


def engine_line(seconds: float, state: str, counted: Mapping[str, int]) -> str:
    """Returns where a job on another engine is, in one line."""
    parts = [f"{seconds:7.1f} s  {state.lower()}"]
    parts += [f"{name}: {number:,}" for name, number in sorted(counted.items())]
    return "  ".join(parts)


@contextmanager
def reported(
    input_bytes: int, num_passes: int, show: Callable[[str], None] | None, seconds: float
) -> Iterator[None]:
    """Shows a line every so many seconds while the job runs.

    Args:
      input_bytes: Of all files.
      num_passes: How often the job works through them.
      show: Takes a line; None for silence.
      seconds: Between two lines.
    """
    global _current
    _current = Progress(input_bytes, num_passes)
    stopped = threading.Event()

    def loop() -> None:
        while show and not stopped.wait(seconds):
            show(_current.line())

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
