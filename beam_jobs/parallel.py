"""Threads inside a DoFn: where local parallelism comes from.

The work is native code that releases the GIL. Beam's own local parallelism loses elements
(`multi_processing`) or is slower than one worker (`multi_threading`).
"""

import collections
import concurrent.futures
import contextlib
import os
import queue
import threading
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

    _pool: Any = None  # The bundle's; there is none before the first.

    def __init__(
        self,
        function: Callable[..., Iterable[Any]],
        threads: int | None,
        most: int | None = None,
    ):
        """Keeps what to do.

        Args:
          function: Takes an element and the side inputs, returns an iterable of results.
          threads: How many elements are worked on at a time; None for one a core.
          most: More than these do not help.
        """
        self._function, self._threads, self._most = function, threads, most
        self._versions = versions.versions()

    def setup(self) -> None:
        """Makes this process ready, where it is another one than the launcher's."""
        versions.check(self._versions)
        run_ops_in_one_thread()

    def start_bundle(self) -> None:
        """Starts the threads."""
        threads = self._threads or os.cpu_count() or 1
        self._num_threads = min(threads, self._most or threads)
        self._pool = concurrent.futures.ThreadPoolExecutor(self._num_threads)
        self._pending: collections.deque[concurrent.futures.Future[list[Any]]] = collections.deque()

    def process(self, element: Any, *sides: Any) -> Iterator[Any]:
        """Hands the element to a thread, and passes on what is ready."""
        self._pending.append(self._pool.submit(lambda: list(self._function(element, *sides))))
        while len(self._pending) > 2 * self._num_threads:
            yield from self._next()
        progress.report()

    def teardown(self) -> None:
        """Lets the threads go, also those of a bundle that was broken off."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Passes on the rest."""
        while self._pending:
            yield from map(windowed, self._next())
        self._pool.shutdown()
        progress.report()

    def _next(self) -> list[Any]:
        try:
            return self._pending.popleft().result()
        except BaseException:  # The job ends here: do not start what is still waiting.
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise


class StreamInThreads(MapInThreads):
    """Applies a function in threads, and passes on each result as it comes: in any order.

    For elements of which one may have more results than memory holds.
    """

    _made: Any = None

    def start_bundle(self) -> None:
        """Starts the threads."""
        super().start_bundle()
        self._made = _Made(self._num_threads)
        self._unfinished = 0

    def teardown(self) -> None:
        """Lets the threads go, which wait for somebody to take what they have made."""
        if self._made:
            self._made.is_over.set()
        super().teardown()

    def process(self, element: Any, *sides: Any) -> Iterator[Any]:
        """Hands the element to a thread, and passes on what is ready."""
        self._unfinished += 1
        self._pool.submit(self._made.put_all, self._function, element, *sides)
        yield from self._until(2 * self._num_threads)
        progress.report()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Passes on the rest."""
        yield from map(windowed, self._until(0))
        self._pool.shutdown()
        progress.report()

    def _until(self, unfinished: int) -> Iterator[Any]:
        """Yields results until no more elements than that are unfinished."""
        try:
            while self._unfinished > unfinished:
                results = self._made.get()
                self._unfinished -= not results
                yield from results
        except BaseException:  # The job ends here, or nobody takes results any more.
            self._made.is_over.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Made:
    """Results on their way out of threads, which wait while there are enough."""

    def __init__(self, enough: int):
        self._ready: queue.Queue[tuple[Any, ...] | BaseException] = queue.Queue(enough)
        self.is_over = threading.Event()

    def put_all(self, function: Callable[..., Iterable[Any]], *arguments: Any) -> None:
        """Puts each result, and at the end an empty tuple; or what was raised."""
        try:
            for result in function(*arguments):
                self._put((result,))
            self._put(())
        except BaseException as error:
            self._put(error)

    def get(self) -> tuple[Any, ...]:
        """Returns a result, or an empty tuple for the end of an element."""
        said = self._ready.get()
        if isinstance(said, BaseException):
            raise said
        return said

    def _put(self, said: tuple[Any, ...] | BaseException) -> None:
        while not self.is_over.is_set():
            with contextlib.suppress(queue.Full):
                return self._ready.put(said, timeout=1)
        raise concurrent.futures.CancelledError


def windowed(result: Any) -> WindowedValue:
    """Returns a result as what the end of a bundle may yield."""
    return WindowedValue(result, GlobalWindow().max_timestamp(), [GlobalWindow()])
