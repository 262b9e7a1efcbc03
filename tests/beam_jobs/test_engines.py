"""Beam and TensorFlow set up for our threads, and left as they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_flags_for_beam_go_to_beam():
    given = ["--direct_runner_bundle_repeat=1", "--job_name=one"]
    said = engines.options("FnApiRunner", given).get_all_options()
    assert (said["direct_runner_bundle_repeat"], said["job_name"]) == (1, "one")
    assert engines.options("local", given[1:]).get_all_options()["job_name"] == "one"
    with pytest.raises(SpecError, match="--direct_runner_bundle_repeat: is ours to set"):
        engines.options("local", given)
    with pytest.raises(SpecError, match="--runner: is ours to set"):
        engines.options("local", ["--runner=FlinkRunner"])
    with pytest.raises(SpecError, match="--flnk_master: Beam has no such flag"):
        engines.options("local", ["--flnk_master=localhost:8081"])


@pytest.mark.parametrize("runner", ["prism", "FlinkRunner", "spark"])
def test_workers_are_processes_of_this_python_unless_the_flags_say_otherwise(runner):
    said = engines.options(runner).get_all_options()
    assert said["environment_type"] == "PROCESS"
    command = Path(json.loads(said["environment_config"])["command"])
    assert sys.executable in command.read_text() and os.access(command, os.X_OK)
    said = engines.options(runner, ["--environment_type=DOCKER"]).get_all_options()
    assert (said["environment_type"], said["environment_config"]) == ("DOCKER", None)


def test_secrets_are_not_described():
    said = {
        "s3_secret_access_key": "hush",
        "environment_config": '{"env": {"AWS_SECRET_ACCESS_KEY": "hush", "PLACE": "here"}}',
        "environment_options": ["AWS_SESSION_TOKEN=hush", "PLACE=here"],
    }
    assert engines._without_secrets(said) == {
        "s3_secret_access_key": "...",
        "environment_config": '{"env": {"AWS_SECRET_ACCESS_KEY": "...", "PLACE": "here"}}',
        "environment_options": ["AWS_SESSION_TOKEN=...", "PLACE=here"],
    }
