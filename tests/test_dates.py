"""Parts of dates and their cycles, against datetime and pandas."""

import csv
import datetime
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from oracle import records
from oracle.command import headrace

from beam_jobs import dates
from beam_jobs.config_dates import PARTS, Date

EPOCH = datetime.datetime(1970, 1, 1)
MICROSECOND = datetime.timedelta(microseconds=1)
CYCLES = ("year", "month", "week", "day", "hour")
SPEC = f"""
name = "visits"
[source]
format = "csv"
paths = ["visits.csv"]
[split]
fractions = {{ train = 1.0 }}
[features.number]
dtype = "int64"
[features.start]
type = "date"
missing = "2024-02-29 23:00"
parts = {json.dumps(list(PARTS))}
cycles = {json.dumps(CYCLES)}
[output]
max_rejected = 1
num_shards = 1
"""


def _moments(count: int, first: int = 1, last: int = 9999) -> list[datetime.datetime]:
    rng = random.Random(5)
    start, end = datetime.datetime(first, 1, 1), datetime.datetime(last, 12, 31, 23, 59, 59, 999999)
    span = (end - start) // MICROSECOND
    found = [start, end, *(start + rng.randint(0, span) * MICROSECOND for _ in range(count))]
    for year in (1600, 1900, 1969, 1970, 2000, 2020, 2023, 2024):
        if first <= year <= last:
            found += [datetime.datetime(year, 12, 31, 23, 59, 59, 999999)]
            found += [datetime.datetime(year, *day) for day in ((1, 1), (2, 28), (3, 1), (12, 29))]
    return found


def _parts(moment: datetime.datetime) -> dict[str, int]:
    named = {name: getattr(moment, name) for name in ("year", "month", "day", "hour", "minute")}
    return named | {
        "second": moment.second,
        "quarter": -(-moment.month // 3),
        "week": moment.isocalendar().week,
        "dayofyear": moment.timetuple().tm_yday,
        "dayofweek": moment.weekday(),
    }


def _share(moment: datetime.datetime, cycle: str) -> float:
    """Returns how much of a cycle has passed."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = {
        "year": day.replace(month=1, day=1),
        "month": day.replace(day=1),
        "week": day - datetime.timedelta(days=day.weekday()),
        "day": day,
        "hour": moment.replace(minute=0, second=0, microsecond=0),
    }
    start = starts[cycle]
    days = {"week": 7, "day": 1}.get(cycle)
    if cycle == "year":
        days = 366 if _is_leap(moment.year) else 365
    if cycle == "month":
        days = (datetime.date(2024, moment.month % 12 + 1, 1) - datetime.timedelta(1)).day
        days -= moment.month == 2 and not _is_leap(moment.year)
    length = datetime.timedelta(days=days) if days else datetime.timedelta(hours=1)
    return ((moment - start) // MICROSECOND) / (length // MICROSECOND)


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _features(moments: list[datetime.datetime]) -> dict[str, np.ndarray]:
    numbers = [(moment - EPOCH) // MICROSECOND for moment in moments]
    found = dates.features(tf.constant(numbers, tf.int64), Date(parts=tuple(PARTS), cycles=CYCLES))
    return {ending: values.numpy() for ending, values in found.items()}


def test_parts_are_those_of_datetime_in_every_year():
    moments = _moments(20_000)
    assert min(moments).year == 1 and max(moments).year == 9999
    expected = [_parts(moment) for moment in moments]
    found = _features(moments)
    for part in PARTS:
        wanted = np.array([parts[part] for parts in expected])
        assert len(set(wanted.tolist())) >= 4
        np.testing.assert_array_equal(found[f"_{part}"], wanted, strict=True)
        assert PARTS[part] is None or wanted.max() < PARTS[part]


def _of_pandas(part: str):
    called = "isocalendar().week" if part == "week" else part
    mark = pytest.mark.feature("pandas.Series.dt", called, f'`type = "date"`, parts `"{part}"`')
    return pytest.param(part, marks=mark)


@pytest.mark.parametrize("part", [_of_pandas(part) for part in PARTS])
def test_parts_are_those_of_pandas(part):
    pandas = pytest.importorskip("pandas")
    moments = _moments(5_000, 1700, 2200)
    of = pandas.Series(moments).dt
    wanted = (of.isocalendar().week if part == "week" else getattr(of, part)).to_numpy(np.int64)
    np.testing.assert_array_equal(_features(moments)[f"_{part}"], wanted, strict=True)


@pytest.mark.parametrize("cycle", CYCLES)
def test_a_cycle_is_sine_and_cosine_of_what_has_passed(cycle):
    moments = _moments(5_000)
    angles = np.array([_share(moment, cycle) for moment in moments]) * 2 * np.pi
    assert 0 == angles.min() and 6.2 < angles.max() < 2 * np.pi
    found = _features(moments)
    for ending, of in (("sin", np.sin), ("cos", np.cos)):
        values = found[f"_{cycle}_{ending}"]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, of(angles), rtol=0, atol=6.1e-8)


def test_a_moment_has_the_same_bits_alone_and_among_others():
    moments = _moments(61)
    together = _features(moments)
    for index, moment in enumerate(moments):
        for ending, values in _features([moment]).items():
            assert values.tobytes() == together[ending][index : index + 1].tobytes()


def _texts() -> list[str]:
    moments = [str(moment) for moment in _moments(300)]
    moments += [str(moment.date()) for moment in _moments(20)]
    moments += ["2024-05-06T07:08:09Z", "2024-05-06 07:08:09+02:00", "", "", "soon", "infinity"]
    return [*moments, "2023-02-29", "12345-01-01"]


def _run(folder: Path, spec: str = SPEC, *words):
    with open(folder / "visits.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["number", "start"])
        table.writerows(enumerate(_texts()))
    (folder / "visits.toml").write_text(spec)
    return headrace("run", folder / "visits.toml", "--output", folder / "data", *words)


def test_every_record_of_a_table(tmp_path):
    done = _run(tmp_path)
    assert done.returncode == 0, done.stdout
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    assert info["rejected"] == {"unparsable_start": 4}
    assert info["features"]["start_month"]["num_categories"] == 13
    assert "num_categories" not in info["features"]["start_year"]
    assert info["features"]["start_year"]["raw_statistics"] == {"min": 1, "max": 9999}
    dtypes = {name: entry["dtype"] for name, entry in info["features"].items()}
    (shard,) = (tmp_path / "data").glob("*.tfrecord")
    stored = records.parsed(shard, dtypes)
    assert stored["number"].size == len(_texts()) - 4
    for row, number in enumerate(stored["number"].tolist()):
        moment = datetime.datetime.fromisoformat(_texts()[number] or "2024-02-29 23:00")
        if moment.tzinfo:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
        for part, value in _parts(moment).items():
            assert stored[f"start_{part}"][row] == value
        angle = _share(moment, "day") * 2 * math.pi
        assert stored["start_day_sin"][row] == pytest.approx(math.sin(angle), abs=6.1e-8)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"year", "quarter"', '"century"', "features.start.parts.0: must be 'year', 'quarter'"),
        ('"year", "quarter"', '"year", "year"', "features.start: parts names 'year' twice."),
        ("2024-02-29 23:00", "2023-02-29", 'missing must be "reject" or a moment in UTC as "20'),
        (
            "[output]",
            '[features.start_day]\ndtype = "string"\n[output]',
            "start_day is the part of",
        ),
        (
            "[output]",
            '[features.day]\ncolumn = "start"\ndtype = "string"\n[output]',
            "is timestamp",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, old, new, message):
    done = _run(tmp_path, SPEC.replace(old, new))
    assert (done.returncode, done.stdout.count("\n")) == (2, 1), done.stdout
    assert message in done.stdout


def test_a_column_without_a_date(tmp_path):
    spec = SPEC.replace("[features.start]", '[features.start]\ncolumn = "number"').replace(
        '[features.number]\ndtype = "int64"\n', ""
    )
    done = _run(tmp_path, spec)
    assert done.returncode == 1
    assert "train" in done.stdout and done.stdout.count("Traceback") == 0
