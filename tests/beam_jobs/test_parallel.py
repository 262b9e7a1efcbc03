"""Threads inside a DoFn: what they make, how much of it at a time, and how they end."""

import subprocess
import sys
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.parallel import MapInThreads, StreamInThreads

THREADS = 3
RESULTS = 50  # Of an element.


def squares(number, offset):
    for step in range(number % 4):  # Some elements have no result.
        yield number * number + step + offset


@pytest.mark.parametrize("kind", [MapInThreads, StreamInThreads])
@pytest.mark.parametrize("threads", [1, THREADS, None])
def test_every_result_comes_out_once(kind, threads):
    wanted = [n * n + step + 7 for n in range(100) for step in range(n % 4)]
    assert len(wanted) == 150
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        numbers = pipeline | beam.Create(range(100))
        offset = beam.pvalue.AsSingleton(pipeline | "Offset" >> beam.Create([7]))
        assert_that(numbers | beam.ParDo(kind(squares, threads), offset), equal_to(wanted))


def bundle(dofn, elements):
    """Yields what a runner would be given."""
    dofn.setup()
    dofn.start_bundle()
    for element in elements:
        yield from dofn.process(element)
    for windowed in dofn.finish_bundle():
        yield windowed.value


def test_results_keep_their_order():
    def late(number):
        time.sleep(0.002 * (10 - number % 10))
        return [number]

    assert list(bundle(MapInThreads(late, THREADS), range(40))) == list(range(40))


def test_threads_wait_for_whoever_takes_their_results():
    lock, alive, most = threading.Lock(), set(), 0

    def make(element):
        nonlocal most
        for index in range(RESULTS):
            with lock:
                alive.add((element, index))
                most = max(most, len(alive))
            yield element, index

    taken = []
    for result in bundle(StreamInThreads(make, THREADS), range(20)):
        time.sleep(0.0002)
        with lock:
            alive.discard(result)
        taken.append(result)
    assert sorted(taken) == [(element, index) for element in range(20) for index in range(RESULTS)]
    # In the queue, in the hand of each thread, and in that of the taker.
    assert THREADS < most <= THREADS + THREADS + 1


@pytest.mark.parametrize("kind", [MapInThreads, StreamInThreads])
def test_an_error_is_raised_and_leaves_no_thread(kind):
    def fails(number):
        if number == 5:
            raise ValueError("five")
        return range(RESULTS)

    before = threading.active_count()
    with pytest.raises(ValueError, match="five"):
        list(bundle(kind(fails, THREADS), range(20)))
    wait_until_threads(before)


def test_whoever_stops_taking_stops_the_threads():
    before = threading.active_count()
    results = bundle(StreamInThreads(lambda _: iter(range(10_000)), THREADS), range(20))
    assert next(results) == 0
    results.close()
    wait_until_threads(before)


def wait_until_threads(count: int) -> None:
    end = time.monotonic() + 10
    while threading.active_count() > count:
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.05)


_BROKEN_OFF = """
import logging
import apache_beam as beam
from beam_jobs.parallel import StreamInThreads

def refuse_the_last(number):
    assert number < 5
    return number

logging.disable()
try:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        numbers = pipeline | beam.Impulse() | beam.FlatMap(lambda _: range(6))
        stream = StreamInThreads(lambda _: range(1000), 4)
        numbers | beam.Map(refuse_the_last) | beam.ParDo(stream) | beam.Map(lambda result: result)
except RuntimeError:
    print("broken off", flush=True)
"""


def test_a_process_ends_after_a_bundle_that_another_step_broke_off():
    done = subprocess.run(
        [sys.executable, "-c", _BROKEN_OFF], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "broken off\n"), done.stderr[-2000:]
