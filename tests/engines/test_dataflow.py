"""A job of `headrace run` on the stand-in for Dataflow: what goes wrong there is said here."""

from oracle import made
from oracle.command import headrace

from engines import jobs, started


def test_what_fails_on_the_service_is_one_line_here(tmp_path):
    lines = made.adult_lines(2000) + [b"1,2,3\n"] * 500
    spec = jobs.adult_spec(tmp_path, lines)
    wanted = headrace("run", spec, "--output", tmp_path / "local", "--quiet")
    assert wanted.returncode == 1 and "records cannot be read" in wanted.stdout
    with started.dataflow(tmp_path) as there:
        options = ("--output", there.output, "--quiet", *there.words)
        done = headrace("run", there.spec(spec), *options)
        assert there.states() == ["JOB_STATE_FAILED"]
        assert not (there.fetched() / "dataset_info.json").exists()
    place = str(tmp_path / "local"), there.output
    assert (done.returncode, done.stdout) == (1, wanted.stdout.replace(*place))
