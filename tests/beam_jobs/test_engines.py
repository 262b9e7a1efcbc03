"""Beam and TensorFlow set up for our threads, and left as they were."""

import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import userstate

from beam_jobs import engines
from beam_jobs.errors import SpecError

_ONE_THREAD = """
import tensorflow as tf
from beam_jobs.parallel import run_ops_in_one_thread

if {is_late}:
    tf.constant(1) + 1
run_ops_in_one_thread()
print(tf.config.threading.get_intra_op_parallelism_threads())
"""


_STATE = userstate.CombiningValueStateSpec("seen", sum)
_SEEN = beam.DoFn.StateParam(_STATE)


class _Counting(beam.DoFn):
    def process(self, element, seen=_SEEN):
        seen.add(1)
        yield seen.read()


def test_beam_says_the_same_when_it_is_quick_and_is_left_as_it_was():
    before = userstate.get_dofn_specs, StateSampler.__init__.__defaults__
    dofn = _Counting()
    wanted = userstate.get_dofn_specs(dofn)
    assert wanted == ({_STATE}, set())
    with pytest.raises(ZeroDivisionError), engines.quick_beam():
        assert (userstate.get_dofn_specs, StateSampler.__init__.__defaults__) != before
        assert userstate.get_dofn_specs(dofn) == wanted
        assert userstate.get_dofn_specs(dofn) is userstate.get_dofn_specs(dofn)
        assert StateSampler("one", None).sampling_period_ms == 5
        raise ZeroDivisionError
    assert (userstate.get_dofn_specs, StateSampler.__init__.__defaults__) == before
    assert StateSampler("one", None).sampling_period_ms == 200


@pytest.mark.parametrize(("is_late", "threads"), [(False, "1"), (True, "0")])
def test_ops_run_in_one_thread_unless_tensorflow_runs_already(is_late, threads):
    command = [sys.executable, "-c", _ONE_THREAD.format(is_late=is_late)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [threads], done.stderr[-2000:]


def test_another_runner_is_refused():
    assert engines.options("DirectRunner").get_all_options()["runner"] == "FnApiRunner"
    with pytest.raises(SpecError, match="--runner must be local, .* but is 'flnk'"):
        engines.options("flnk")
