"""What a user sees while a job runs elsewhere comes from the engine, and ends with its counts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from oracle import made
from oracle.command import arguments

from engines import jobs, started

# `headrace run` with a line every second instead of every ten.
RUN = """
import sys
from beam_jobs import run
from beam_jobs.config import load_spec
spec, output, runner, *flags = sys.argv[1:]
run.run(load_spec(spec), output, runner=runner, beam_args=flags, block_mb=1, show=print, seconds=1)
"""


def lines_of(spec: Path, there: started.Engine) -> list[str]:
    _, runner, _, *flags = there.words  # --runner NAME -- FLAGS
    settings = arguments()
    settings["args"] = [sys.executable, "-c", RUN, str(spec), there.output, runner, *flags]
    done = subprocess.run(**settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def counts_of(line: str) -> dict[str, int]:
    return {
        name: int(number.replace(",", "")) for name, number in re.findall(r"(\w+): ([\d,]+)", line)
    }


@pytest.mark.parametrize("engine", ["prism", "flink", "spark", "dataflow stand-in"])
def test_an_engine_counts_while_it_works(engine, tmp_path):
    spec = jobs.adult_spec(tmp_path, made.adult_lines(100_000))
    try:
        with started.ENGINES[engine](tmp_path) as there:
            lines = lines_of(there.spec(spec), there)
            manifest = jobs.manifest(there.fetched())
    except started.NotThereError as why:
        pytest.skip(str(why))
    assert " done  " in lines[-1]
    assert counts_of(lines[-1]) == {
        "statistics": manifest["read"],
        "transforming": manifest["read"],
        "writing": sum(split["num_examples"] for split in manifest["splits"].values()),
        "rejected": sum(manifest["rejected"].values()),
    }
    if engine == "spark":
        return  # Its driver tells Beam nothing before the end.
    before = [counts_of(line) for line in lines[:-1]]
    first = next((counts for counts in before if counts.get("statistics")), {})
    assert first and "transforming" not in first, lines
    if engine == "flink":
        said = [re.search(r"running, (\d+) of (\d+) tasks", line) for line in lines]
        tasks = [int(found[1]) for found in said if found]
        assert tasks == sorted(tasks) and len(set(tasks)) > 5, lines
