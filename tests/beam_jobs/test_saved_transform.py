"""Tracing leaves the process as it was."""

import subprocess
import sys

import pytest
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from oracle.command import ROOT

from beam_jobs import engines, saved_transform


def test_tracing_leaves_the_options_of_the_file_systems():
    before = FileSystems._pipeline_options
    said = engines.options("local", ["--hdfs_host=h", "--hdfs_port=1", "--hdfs_user=u"])
    FileSystems.set_options(said)
    try:
        spec = {"x": tf.io.FixedLenFeature([], tf.float32)}
        made = saved_transform.trace(lambda _: lambda inputs: {"y": inputs["x"] + 1}, spec, None)
        assert FileSystems._pipeline_options is said
    finally:
        FileSystems.set_options(before)
    assert "transform_fn/saved_model.pb" in made.contents
    found = made.load().transform_fn({"x": tf.constant([1.0, 2.5])})
    assert found["y"].numpy().tolist() == [2.0, 3.5]


def test_tracing_imports_no_ops_that_the_graph_has_not():
    pytest.importorskip("tensorflow_text", exc_type=ImportError)
    code = (
        "import sys; import tensorflow as tf; from beam_jobs import saved_transform; "
        "spec = {'x': tf.io.FixedLenFeature([], tf.float32)}; "
        "saved_transform.trace(lambda _: lambda inputs: {'y': inputs['x']}, spec, None); "
        "print('tensorflow_text' in sys.modules); import tensorflow_text"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
