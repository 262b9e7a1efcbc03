"""2,000 numeric columns on Flink: the transform and the groups of records travel."""

import pytest
from oracle import wide
from oracle.command import headrace

from engines import started


def test_two_thousand_columns_on_flink(tmp_path, say):
    spec, values = wide.write(tmp_path)
    try:
        with started.flink(tmp_path) as there:
            options = ("--output", there.output, "--workers", "2", *there.words)
            done = headrace("run", spec, *options)
    except started.NotThereError as why:
        say("2,000 columns on flink", f"not run: {why}")
        pytest.skip(str(why))
    assert done.returncode == 0, done.stdout[-3000:]
    wide.check(tmp_path / "out", values)
    say("2,000 columns on flink", "every value is right")
