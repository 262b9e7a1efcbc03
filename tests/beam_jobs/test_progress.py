"""A job on this machine says how far it is."""

import re

from beam_jobs.config import parse_spec
from beam_jobs.run import run


def test_a_job_passes_all_its_stages_and_never_goes_back(tmp_path):
    rows = "".join(f"word {index},{index % 7}\n" for index in range(40_000))
    (tmp_path / "in.csv").write_text("word,count\n" + rows)
    spec = {
        "name": "made",
        "source": {"format": "csv", "paths": ["in.csv"]},
        "split": {"key": "*", "fractions": {"train": 0.9, "test": 0.1}},
        "features": {"count": {"dtype": "int64"}},
    }
    lines: list[str] = []
    said = parse_spec(spec, str(tmp_path / "made.toml"))
    run(said, str(tmp_path / "out"), num_threads=1, block_mb=0.05, show=lines.append, seconds=0.002)
    found = [re.search(r" s  (\w+)  ([\d,]+) records", line) for line in lines]
    stages = [match[1] for match in found if match]
    in_turn = ["starting", "scanning", "statistics", "transforming", "writing"]
    assert list(dict.fromkeys(stages)) == in_turn, lines
    counted = {match[1]: int(match[2].replace(",", "")) for match in found if match}
    assert counted["statistics"] == counted["transforming"] == counted["writing"] == 40_000
    shares = [int(match[1]) for line in lines if (match := re.search(r"(\d+)%, about", line))]
    assert shares == sorted(shares) and len(set(shares)) > 5 and shares[-1] > 75
