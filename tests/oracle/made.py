"""Tables made in code, so that every rule and every trap has its rows."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

RARE = [f"Course {i:02d}" for i in range(40)]  # A few of each: ties in the vocabulary.
AGES = [str(age) for age in range(15, 93)]
# Column -> (values, weights); each weight stands for the values up to the next one's.
ADULT = {
    "age": ([*AGES, "38", "?"], [*[1] * len(AGES), 40, 1]),  # Many of one age: edges meet.
    "workclass": (["Private", "State-gov", "Self-emp", "?", "été"], [6, 2, 1, 1, 1]),
    "fnlwgt": (["?", "12285"], [1, 12]),  # Replaced by numbers that no float32 holds.
    "education": (
        ["HS-grad", "Bachelors", "9th, or less", "two\nlines", 'a "quoted" word', "?", *RARE],
        [30, 20, 10, 5, 5, 1, *[0.2] * len(RARE)],
    ),
    "education_num": ([str(i) for i in range(1, 17)], [1] * 16),
    "marital_status": (["Never-married", "Divorced", "Widowed"], [3, 2, 1]),
    "occupation": ([f"Job-{i:02d}" for i in range(30)] + ["?"], [1] * 30 + [6]),
    "relationship": (["Husband", "Wife", "Own-child"], [2, 1, 1]),
    "race": (["White", "Black", "Other"], [6, 2, 1]),
    "sex": (["Male", "Female", "Other", "?"], [10, 9, 0.5, 0.3]),
    "capital_gain": (["0", "2174", "14084.5", "99999", ".5e2", "7."], [20, 2, 2, 1, 1, 1]),
    "capital_loss": (["0", "1902", "1977.1", "0.1"], [20, 2, 1, 1]),
    "hours_per_week": (["40", "4e1", "+50", "1", "0", "20.5", "?"], [9, 2, 4, 0.4, 0.3, 3, 0.2]),
    "native_country": (
        ["United-States", "Côte d'Ivoire", "Lao, PDR", "Cuba", "Peru", "?", *RARE[:20]],
        [30, 4, 3, 1, 1, 2, *[0.1] * 20],
    ),
    "income": (["<=50K", ">50K", "?"], [3, 1, 0.02]),
}
PLAIN_ADULT = "30,Private,5,HS-grad,9,Divorced,Job-01,Wife,White,Male,0,0,40,Cuba,>50K".split(",")
ADULT_FAULTS = (
    {"education": '""'},  # Quoted or not, nothing is missing.
    {"education": '"caf\xe9"'},  # Written as latin-1: no UTF-8.
    {"race": "a\0b"},
    {"age": "abc"},
    {"age": "1_0"},
    {"fnlwgt": "0x10"},
    {"capital_gain": "1e39"},  # A float64, but no float32.
    {"capital_loss": "-inf"},
    {"hours_per_week": "1e999"},
    {"age": "nan"},
    {"capital_gain": "NaN"},
    {"age": "?", "hours_per_week": "0"},  # NULL AND FALSE is FALSE.
    {"age": "89.000001"},  # Above 89 in float64, 89 in float32.
    {"hours_per_week": "1.00000001"},  # Above 1 in float64, 1 in float32.
)
LATITUDES = [f"{41.7 + i * 0.00937:.9f}" for i in range(40)]
TAXI = {
    "pickup_community_area": (["8"], [1]),  # One value: scale_to_0_1 has no range, z no std.
    "fare": (["3.25", "5", "12.45", "27.05", "0", "-3", "1e2", "45.1"], [9, 9, 5, 3, 1, 0.3, 1, 2]),
    "trip_start_month": ([*map(str, range(1, 13)), "13", "", "07"], [*[3] * 12, 0.2, 0.2, 0.5]),
    "trip_start_hour": ([*map(str, range(24)), "007", "+9"], [1] * 26),
    "trip_start_day": ([str(day) for day in range(1, 8)], [5, 4, 3, 2, 2, 1, 1]),
    "trip_start_timestamp": ([str(1380593700 + 900 * i) for i in range(5000)], [1] * 5000),
    "pickup_latitude": ([*LATITUDES, LATITUDES[9], ""], [*[1] * 40, 15, 2]),
    "pickup_longitude": (["-87.632746489", "junk", ""], [3, 1, 1]),  # Nothing uses it.
    "dropoff_latitude": ([*LATITUDES, ""], [*[1] * 40, 5]),
    "dropoff_longitude": ([*(f"-{text}" for text in LATITUDES), "nan", ""], [*[1] * 40, 1, 5]),
    "trip_miles": (["0.0", "0.1", "1.7", "12.6", "3.14159265", ""], [9, 2, 3, 3, 3, 0.2]),
    "pickup_census_tract": ([""], [1]),
    "dropoff_census_tract": (["17031839100", "not a number", ""], [3, 1, 1]),
    "payment_type": (["Cash", "Credit Card", "Unknown", "Dispute", ""], [9, 5, 0.1, 0.1, 0.2]),
    "company": (
        ["Taxi, Affiliation", "Blue\r\nRibbon", "Cab 7", "", *RARE, "[MISSING]"],
        [9, 5, 3, 5, *[0.08] * len(RARE), 0.5],
    ),
    "trip_seconds": (["300", "420", "0", "480.5", "", "6e2"], [9, 5, 0.5, 3, 0.3, 1]),
    "dropoff_community_area": (["8", "32", ""], [3, 2, 1]),
    "tips": (["0.0", "2.0", "1", "9.02", "20", "nan", ""], [9, 3, 3, 2, 2, 0.05, 0.05]),
}
TAXI_FAULTS = (
    {"fare": "inf"},
    {"fare": "12,45"},
    {"trip_start_hour": "7.5"},
    {"trip_start_timestamp": "now"},
    {"trip_start_timestamp": "99999999999999999999"},  # No int64 holds it.
    {"pickup_community_area": "-Infinity"},
    {"fare": "0", "trip_seconds": ""},  # FALSE AND NULL is FALSE.
    {"fare": "3", "trip_seconds": ""},
    {"fare": "5", "tips": "1"},  # As much as 0.2 of it, and no more.
    {"fare": "3", "tips": "0.6"},
    {"trip_start_month": "11", "pickup_community_area": "9"},  # In test alone: no train range.
)


def _rows(columns: dict, num_rows: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, (values, weights) in columns.items():
        share = np.array(weights, float) / np.sum(weights)
        drawn[name] = [values[i] for i in rng.choice(len(values), num_rows, p=share)]
    return [dict(zip(drawn, row, strict=True)) for row in zip(*drawn.values(), strict=True)]


def _with_repeats(rows: list, seed: int) -> list:
    """The rows and, among them, a twentieth more that repeat the first 200."""
    rng = np.random.default_rng(seed)
    rows = rows + [rows[i] for i in rng.integers(0, 200, len(rows) // 20)]
    return [rows[i] for i in rng.permutation(len(rows))]


def line(fields: Sequence[str], end: str = "\n") -> bytes:
    """One CSV record, quoted where it must be."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerow(fields)
    return text.getvalue().encode()


def adult_lines(num_rows: int = 3000, seed: int = 5) -> list[bytes]:
    """The records (some hold newlines) of an adult-like CSV without a header."""
    rng = np.random.default_rng(seed)
    rows = _rows(ADULT, num_rows, seed)
    for row in rows:
        if row["fnlwgt"] != "?":
            row["fnlwgt"] = f"{rng.uniform(12_000, 1_500_000):.3f}"
    spaces = rng.choice(["", " ", "  "], num_rows)
    spaced = [
        [space + field for field in row.values()] for row, space in zip(rows, spaces, strict=True)
    ]
    lines = [line(fields) for fields in _with_repeats(spaced, seed)]
    plain = dict(zip(ADULT, PLAIN_ADULT, strict=True))
    faults = [
        ",".join({**plain, **fault}.values()).encode("latin-1") + b"\n" for fault in ADULT_FAULTS
    ]
    faults += [b"1,2,3\n", line([*PLAIN_ADULT, "one more"]), b"\n"]  # A blank line is no record.
    for fault in faults:
        lines.insert(int(rng.integers(0, len(lines))), fault)
    return lines


def write_cut(folder: Path, lines: Sequence[bytes], num_files: int) -> list[Path]:
    """Writes the lines as num_files files of growing length; returns their paths."""
    folder.mkdir(parents=True)
    cuts = [len(lines) * i * i // num_files**2 for i in range(num_files + 1)]
    paths = []
    for i, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        paths.append(folder / f"part-{i}.csv")
        paths[-1].write_bytes(b"".join(lines[start:end]))
    return paths


def records_of(file: Path) -> list[bytes]:
    """The raw records of a CSV, blank lines dropped; each ends with a newline."""
    found, inside = [b""], False
    for part in file.read_bytes().splitlines(keepends=True):
        found[-1] += part
        inside ^= part.count(b'"') % 2 == 1
        if not inside:
            found.append(b"")
    return [
        record if record.endswith(b"\n") else record + b"\n" for record in found if record.strip()
    ]


def taxi_rows(num_rows: int = 5000, seed: int = 2) -> list[dict[str, str]]:
    """The rows of a taxi-like table, by column."""
    rows = _with_repeats(_rows(TAXI, num_rows, seed), seed)
    plain = {name: values[0] for name, (values, _) in TAXI.items()}
    rng = np.random.default_rng(seed)
    for fault in TAXI_FAULTS:
        rows.insert(int(rng.integers(0, len(rows))), {**plain, **fault})
    return rows


def write_taxi(folder: Path, num_files: int = 1) -> list[Path]:
    """Writes the taxi-like table as num_files files, each with its columns in an order of its own.

    Every file begins with a BOM and a header, ends its lines with CRLF, and has a blank line.
    """
    folder.mkdir(parents=True)
    rows, paths = taxi_rows(), []
    for i in range(num_files):
        columns = [*list(TAXI)[i:], *list(TAXI)[:i]]
        part = rows[len(rows) * i // num_files : len(rows) * (i + 1) // num_files]
        lines = [line(columns, "\r\n")]
        lines += [line([row[column] for column in columns], "\r\n") for row in part]
        lines.insert(len(lines) // 2, b"\r\n")
        paths.append(folder / f"taxi-{i}.csv")
        paths[-1].write_bytes(b"\xef\xbb\xbf" + b"".join(lines).removesuffix(b"\r\n"))
    return paths
