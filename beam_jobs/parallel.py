"""Threads inside a DoFn: where local parallelism comes from.

The work is native code that releases the GIL. Beam's own local parallelism loses elements
(`multi_processing`) or is slower than one worker (`multi_threading`).
"""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs import progress, versions


def run_ops_in_one_thread() -> None:
    """Keeps TensorFlow from splitting an op: its threads and ours would wait for each other.

    To decode images takes a fifth more the other way. It is for a process that runs no op yet; in
    another one nothing changes.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)


class MapInThreads(beam.DoFn):
    """Applies a function to the elements of a bundle in threads; results keep their order."""

    def __init__(self, function: Callable[..., Iterable[Any]], num_threads: int):
        """Keeps what to do.

        Args:
          function: Takes an element and the side inputs, returns an iterable of results.
          num_threads: How many elements are worked on at a time.
        """
        self._function, self._num_threads = function, num_threads
        self._versions = versions.versions()

    def setup(self) -> None:
        """Makes this process ready, where it is another one than the launcher's."""
        versions.check(self._versions)
        run_ops_in_one_thread()

    def start_bundle(self) -> None:
        """Starts the threads."""
        self._pool = concurrent.futures.ThreadPoolExecutor(self._num_threads)
        self._pending: collections.deque[concurrent.futures.Future[list[Any]]] = collections.deque()

    def process(self, element: Any, *sides: Any) -> Iterator[Any]:
        """Hands the element to a thread, and passes on what is ready."""
        self._pending.append(self._pool.submit(lambda: list(self._function(element, *sides))))
        while len(self._pending) > 2 * self._num_threads:
            yield from self._next()
        progress.report()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Passes on the rest."""
        while self._pending:
            for result in self._next():
                yield WindowedValue(result, GlobalWindow().max_timestamp(), [GlobalWindow()])
        self._pool.shutdown()
        progress.report()

    def _next(self) -> list[Any]:
        try:
            return self._pending.popleft().result()
        except BaseException:  # The job ends here: do not start what is still waiting.
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise
