"""Ctrl-C ends the job on the engine, too, and says so."""

import time

import pytest
from oracle import made

from engines import jobs, started

WANTED = "headrace: interrupted, the job is canceled; run the same command again to go on.\n"
SECONDS = 20  # Until an engine has noticed.


@pytest.mark.parametrize(
    ("engine", "running", "canceled"),
    [
        ("flink", "RUNNING", "CANCELED"),
        ("spark", "RUNNING", "FINISHED"),  # Its master believes the driver, who says goodbye.
        ("dataflow stand-in", "JOB_STATE_RUNNING", "JOB_STATE_CANCELLED"),
    ],
)
def test_ctrl_c_cancels_the_job(engine, running, canceled, tmp_path):
    spec = jobs.adult_spec(tmp_path, made.adult_lines(1_600_000))
    try:
        with started.ENGINES[engine](tmp_path) as there:
            job = jobs.started(there.spec(spec), there, "--quiet")
            status, said = jobs.interrupted(job, lambda: running in there.states())
            end = time.monotonic() + SECONDS
            while there.states() != [canceled] and time.monotonic() < end:
                time.sleep(0.2)
            assert there.states() == [canceled]
            assert not (there.fetched() / "dataset_info.json").exists()
    except started.NotThereError as why:
        pytest.skip(str(why))
    assert (status, said) == (130, WANTED)
