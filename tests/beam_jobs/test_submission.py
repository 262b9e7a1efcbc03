"""What is said of a job that failed on an engine."""

import pytest
from apache_beam.io.aws.clients.s3.messages import S3ClientError

from beam_jobs import submission
from beam_jobs.errors import DataError, SpecError


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (
            "x\nerrors.DataError: a.csv: is gone. [while running 'Scan-ptransform-1']\ny",
            DataError("a.csv: is gone."),
        ),
        ("java.Oh\nCaused by: SpecError: name: no.\nat z", SpecError("name: no.")),
        (
            "DataError: 12 cannot be read.\n  ragged_row    1,002\n  no_label   3\n  File 'a', 1",
            DataError("12 cannot be read.\n  ragged_row    1,002\n  no_label   3"),
        ),
        (
            "Unable to fetch remote prism binary at https://a.b/c.zip: <urlopen error>\nx",
            SpecError(
                "https://a.b/c.zip: cannot be fetched, and Beam needs it. deploy/README.md says "
                "what to give instead."
            ),
        ),
        (
            S3ClientError("Slow Down", 503),
            DataError("Slow Down. Run the same command again to go on."),
        ),
        ("java.lang.RuntimeException: lost", RuntimeError("java.lang.RuntimeException: lost")),
    ],
)
def test_what_a_worker_raised_is_found_in_what_an_engine_says(said, wanted):
    found = submission.told(said if isinstance(said, Exception) else RuntimeError(said))
    assert (type(found), str(found)) == (type(wanted), str(wanted))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "State: FAILED, Error:\nQUOTA_EXCEEDED: no CPUs.",
            "State: FAILED, Error: QUOTA_EXCEEDED: no CPUs",
        ),
        ("failed: java.lang.Oh\n  at x\nTraceback:\nTypeError: no\n\tat y", "TypeError: no"),
        ("at a\nCaused by: java.io.IOException: lost\n\tat b", "java.io.IOException: lost"),
    ],
)
def test_what_an_engine_says_of_a_failed_job_is_one_line(said, reason):
    found = submission.told(RuntimeError(said), "flink")
    assert isinstance(found, DataError)
    assert str(found) == f"the job failed on flink: {reason}. Its logs say more."
