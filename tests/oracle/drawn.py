"""Random specs over random tables, and what their raw texts mean by docs/spec.md alone.

The column `id` has a number for each row; every other cell may be missing or broken.
"""

import datetime
import math
import random
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from oracle import hashing

Row = dict[str, str]
Said = dict[str, Any]  # A section of a spec.
SHARES = {"train": Fraction(6, 10), "validation": Fraction(2, 10), "test": Fraction(2, 10)}
_FRACTIONS = {name: float(share) for name, share in SHARES.items()}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
_MICROSECOND = datetime.timedelta(microseconds=1)
_EPOCH = datetime.datetime(1970, 1, 1)
_LIMIT = "2010-01-01"  # Of a split by time, and of later ones ten years after it.
_LATER = "2020-01-01"

# The step of a feature of column f, and of one of column i; `key` and `missing` are drawn.
FLOATS: dict[str, Said] = {
    "none": {},
    "center": {"transform": "center"},
    "scale_to_z_score": {"transform": "scale_to_z_score"},
    "scale_to_0_1": {"transform": "scale_to_0_1"},
    "scale_by_min_max": {"transform": "scale_by_min_max", "output_min": -1, "output_max": 3},
    "log1p": {"transform": ["log1p", "scale_to_z_score"]},
    "log": {"transform": "log"},
    "sqrt": {"transform": ["sqrt", "center"]},
    "clip": {"transform": ["clip", "scale_to_0_1"], "clip_min": -2, "clip_max": 4.5},
    "robust_scale": {"transform": "robust_scale"},
    "yeo_johnson": {"transform": "yeo_johnson"},
    "box_cox": {"transform": "box_cox"},
    "scale_to_gaussian": {"transform": "scale_to_gaussian"},
    "bucketize": {"transform": "bucketize", "num_buckets": 4},
    "apply_buckets": {"transform": "apply_buckets", "boundaries": [-1, 0, 2.5]},
    "interpolation": {"transform": "apply_buckets_with_interpolation", "boundaries": [-3, 0, 9]},
    "one_hot": {"transform": "bucketize", "num_buckets": 3, "output_mode": "one_hot"},
    "z_per_key": {"transform": "scale_to_z_score_per_key"},
    "0_1_per_key": {"transform": "scale_to_0_1_per_key"},
    "min_max_per_key": {"transform": "scale_by_min_max_per_key", "output_max": 7},
    "bucketize_per_key": {"transform": "bucketize_per_key", "num_buckets": 3},
}
_OF_INTS = (
    "none center scale_to_z_score scale_to_0_1 bucketize apply_buckets robust_scale one_hot "
    "z_per_key 0_1_per_key bucketize_per_key"
)
INTS = {name: FLOATS[name] for name in _OF_INTS.split()}
_VOCABULARY = {"transform": "compute_and_apply_vocabulary"}
STRINGS: dict[str, Said] = {
    "none": {},
    "vocabulary": _VOCABULARY,
    "top_k": _VOCABULARY | {"top_k": 2, "num_oov_buckets": 3},
    "threshold": _VOCABULARY | {"frequency_threshold": 2},
    "one_hot": _VOCABULARY | {"top_k": 4, "output_mode": "one_hot"},
    "hash_strings": {"transform": "hash_strings", "hash_buckets": 7},
}
_LISTS = {"type": "vector", "column": "v", "size": 3}
_RAGGED = {"type": "vector", "column": "r", "separator": " "}
_BAG = {"type": "text", "column": "s", "missing": ""}
OTHERS: dict[str, Said] = {
    "day": {"type": "date", "column": "d", "parts": ["month", "week"], "cycles": ["year"]},
    "day_filled": {"type": "date", "column": "d", "parts": ["year"], "missing": "2001-02-03"},
    "less": {"expression": "i - 1", "dtype": "int64", "transform": "scale_to_z_score"},
    "both": {"type": "cross", "of": ["s_none", "b"], "hash_buckets": 9},
    "b": {"column": "g", "dtype": "float32", "missing": 0} | FLOATS["bucketize"],
    "pair": {"type": "vector", "columns": ["x1", "x2"], "transform": "scale_to_z_score"},
    "pair_filled": {"type": "vector", "columns": ["x1", "x2"], "missing": 2.5, "covariance": True},
    "v": _LISTS,
    "v_filled": _LISTS | {"missing": -1.25, "transform": "scale_to_0_1"},
    "v_pca": _LISTS | {"transform": "pca", "output_dim": 2},
    "v_z_pca": _LISTS | {"transform": ["scale_to_z_score", "pca"], "output_dim": 1, "missing": 2},
    "whole": {"type": "vector", "column": "n", "size": 2, "dtype": "int64"},
    "r": _RAGGED | {"transform": "scale_to_z_score"},
    "r_empty": _RAGGED | {"missing": "empty"},
    "p": {"type": "sparse", "size": 5},
    "p_empty": {"type": "sparse", "column": "p", "size": 5, "missing": ""},
    "tf_idf": _BAG | {"output_mode": "tf_idf"},
    "multi_hot": _BAG | {"output_mode": "multi_hot", "separator": "|", "max_tokens": 3},
    "count": _BAG | {"output_mode": "count", "ngrams": 2, "split": "character"},
    "sequence": {"type": "text", "column": "s", "output_sequence_length": 2},
}
SPLITS: dict[str, Said] = {
    "fractions": {"key": "id", "fractions": _FRACTIONS},
    "record": {"fractions": _FRACTIONS},
    "group": {"key": ["k", "s"], "fractions": _FRACTIONS},
    "time": {"time": {"column": "d", "validation": _LIMIT, "test": _LATER}},
    "column": {"column": "k", "values": {"train": ["a", "é"], "test": ["b"]}},
    "carve": {"key": "id", "time": {"column": "d", "test": _LATER}, "carve": {"validation": 0.3}},
    "files": {},
    "stratified": {"key": "id", "fractions": _FRACTIONS, "stratified": True},
}
LABELS: dict[str, Said] = {
    "none": {},
    "class": {"label": {"column": "c"}},
    "multi_label": {"label": {"column": "t", "type": "multi_label"}},
    "float32": {"label": {"column": "y", "type": "float32"}},
    "int64": {"label": {"column": "i", "type": "int64"}},
    "several": {
        "labels": {
            "kind": {"column": "c"},
            "tags": {"column": "t", "type": "multi_label"},
            "far": {"expression": "abs(i) > 3", "type": "int64"},
        }
    },
}
FILTERS: dict[str, tuple[str, Callable[[dict[str, Any]], bool | None]]] = {
    "not_three": ("i <> 3", lambda raw: None if raw["i"] is None else raw["i"] != 3),
    "far_or_a": ("f > -40 OR s = 'a'", lambda raw: _or(_above(raw["f"], -40), _is(raw["s"], "a"))),
    "keyed": ("k IS NOT NULL", lambda raw: raw["k"] is not None),
}
_SOUND = {
    "s": [
        "a",
        "b",
        "B",
        "é",
        "a|b",
        "b|b|c",
        "\N{GREEK SMALL LETTER PI}",
        'say "hi"',
        "two\nlines",
    ],
    "k": ["a", "b", "é"],
    "c": ["x", "y", "ä"],
    "t": ["p|q", "q", "|", "q||q|r"],
    "w": ["1", "0.5", "0", "3"],
    "d": ["2003-05-06", "2010-01-01", "2019-12-31 23:59:59.5", "2020-01-01", "2001-02-28"],
    "r": ["1", "1 2", "-2.5  3 4", "[]", "0.1 0.1"],
    "p": ["0:1", "3:0.5 1:-2", "4:1e3"],
    "n": ["1,2", "[9007199254740993, -1]"],
}
_BROKEN = {
    "f": ["", "nan", "inf", "x", "1e400", "-0", "1e-40", "16777217", "0.1"],
    "i": ["", "nan", "2.5", "9223372036854775808", "9223372036854775807"],
    "s": [""],
    "k": [""],
    "c": [""],
    "t": [""],
    "y": ["", "nan", "-inf", "x"],
    "w": ["", "nan", "-1", "inf", "heavy"],
    "d": ["", "soon", "2020-02-30"],
    "v": ["", "1,2", "1,2,3,4", "1,x,2", "1,,2", "1,2,nan", "1,2,1e39"],
    "r": ["", "1 x", "1 inf"],
    "p": ["", "5:1", "0:1 0:2", "1", "1:x", "1:nan"],
    "n": ["", "1,2.5", "1,9223372036854775808", "1"],
}


_POLICIES = {
    "float32": ["reject", "mode", 3, "mean", "median"],
    "int64": ["reject", "mode", 3],
    "string": ["token", "none", "mode"],
}


class Case(NamedTuple):
    """A table and the sections of a spec for it, with the names by which they were drawn."""

    rows: list[Row]
    sections: Said
    drawn: frozenset[str]


def case(key: int, split: str) -> Case:
    """Returns the table and the spec of a key, with one of SPLITS."""
    rng = random.Random(f"{key} {split}")
    names = ("f", "g", "i", "s", "k", "c", "t", "y", "w", "d", "v", "r", "p", "n")
    rows = []
    for place in range(rng.randint(20, 60)):
        row = {"id": str(place)} | {name: _cell(rng, name) for name in names}
        rows.append(row | {"x1": row["i"], "x2": row["g"]})
    features = {"id": {"dtype": "int64"}} | _features(rng)
    label = "class" if split == "stratified" else rng.choice([*LABELS])
    filters = rng.sample([*FILTERS], rng.randint(0, 2))
    sections: Said = {"features": features, "split": SPLITS[split], **LABELS[label]}
    sections["filter"] = [{"name": name, "where": FILTERS[name][0]} for name in filters]
    drawn = {f"label {label}", *(f"filter {name}" for name in filters), *features}
    if rng.random() < 0.5:
        sections["weight"] = {"column": "w"}
        drawn.add("weight")
    for name, said in features.items():
        drawn |= {f"{name[:2]}missing {said.get('missing')}", f"indicator {said.get('indicator')}"}
    return Case(rows, sections, frozenset(drawn))


def _cell(rng: random.Random, name: str) -> str:
    """A text of a column, which is broken or missing now and then."""
    if rng.random() < (0.1 if name in "fgis" else 0.03):
        return rng.choice(_BROKEN[{"g": "f"}.get(name, name)])
    match name:
        case "f" | "g" | "y":
            return f"{rng.uniform(-50, 50):.2f}"
        case "i":
            return str(rng.choice([7, rng.randint(-5, 5)]))
        case "v":
            return ",".join(str(rng.randint(-99, 99)) for _ in range(3))
        case _:
            return rng.choice(_SOUND[name])


def _features(rng: random.Random) -> Said:
    found: Said = {}
    for column, dtype, of, most in (("f", "float32", FLOATS, 4), ("i", "int64", INTS, 3)):
        for name in rng.sample([*of], rng.randint(2, most)):
            missing = rng.choice(_POLICIES[dtype])
            said = {"column": column, "dtype": dtype, "missing": missing} | of[name]
            keyed = {"key": "k"} if name.endswith("per_key") else {}
            has_indicator = missing != "reject" and rng.random() < 0.5
            found[f"{column}_{name}"] = said | keyed | {"indicator": has_indicator}
    for name in rng.sample([*STRINGS], rng.randint(1, 2)):
        missing = rng.choice(_POLICIES["string"])
        found[f"s_{name}"] = {"column": "s", "dtype": "string", "missing": missing} | STRINGS[name]
    found |= {name: OTHERS[name] for name in rng.sample([*OTHERS], rng.randint(2, 4))}
    if "both" in found:
        found["b"] = OTHERS["b"]
        found.setdefault("s_none", {"column": "s", "dtype": "string", "missing": "token"})
    return found


class Fault(Exception):
    """Why a text cannot be read: `unparsable`, `non_finite`, `wrong_size` or `wrong_index`."""


def number(text: str, dtype: str) -> float | int | None:
    """Returns the number of a text, None if it is missing.

    Raises:
      Fault: There is none.
    """
    if text == "" or re.fullmatch("[+-]?nan", text, re.I):
        return None
    if dtype == "int64":
        if not _INTEGER.fullmatch(text):
            raise Fault("unparsable")
        if not -(2**63) <= int(text) < 2**63:
            raise Fault("non_finite")
        return int(text)
    if re.fullmatch("[+-]?inf", text):
        raise Fault("non_finite")
    if not _NUMBER.fullmatch(text):
        raise Fault("unparsable")
    if not abs(float(text)) < 3.4028235677973366e38:
        raise Fault("non_finite")
    found = float(np.float32(text))
    return math.copysign(0.0, found) if abs(found) < np.finfo(np.float32).tiny else found


def _numbers(text: str, said: Said) -> list[float | int] | None:
    """The numbers of a list; None if it is missing."""
    if text == "":
        return None
    text = text.strip().removeprefix("[").removesuffix("]")
    parts = text.split() if said.get("separator") == " " else text.split(",")
    found = [number(part.strip(), said.get("dtype", "float32")) for part in parts]
    if None in found:
        raise Fault("unparsable" if "" in parts else "non_finite")
    if "size" in said and len(found) != said["size"]:
        raise Fault("wrong_size")
    return [each for each in found if each is not None]


def _pairs(text: str, size: int) -> str | None:
    pairs = [pair.split(":") for pair in text.split()]
    if any(len(pair) != 2 for pair in pairs):
        raise Fault("unparsable")
    if None in [number(value, "float32") for _, value in pairs]:
        raise Fault("non_finite")
    indices = [int(index) for index, _ in pairs]
    if len(set(indices)) < len(indices) or not set(indices) <= set(range(size)):
        raise Fault("wrong_index")
    return text or None


def _moment(text: str) -> int | None:
    try:
        return (datetime.datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND if text else None
    except ValueError:
        raise Fault("unparsable") from None


def _readers(sections: Said) -> dict[str, Callable[[str], Any]]:
    """Returns how to read each column that the spec names, by column."""

    def of(dtype: str) -> Callable[[str], Any]:
        return lambda text: number(text, dtype)

    readers: dict[str, Callable[[str], Any]] = dict.fromkeys("skct", lambda text: text or None)
    for name, said in sections["features"].items():
        column = said.get("column", name)
        match said.get("type", "column"):
            case "column" if "expression" not in said and said["dtype"] != "string":
                readers[column] = of(said["dtype"])
            case "date":
                readers[column] = _moment
            case "vector" if "columns" in said:
                readers |= dict.fromkeys(said["columns"], of("float32"))
            case "vector":
                readers[column] = lambda text, said=said: _numbers(text, said)
            case "sparse":
                readers[column] = lambda text, said=said: _pairs(text, said["size"])
    if "time" in sections["split"]:
        readers["d"] = _moment
    if sections.get("label", {}).get("column") == "y":
        readers["y"] = of("float32")
    if "weight" in sections:
        readers["w"] = of("float32")
    return readers


def read(case: Case, row: Row) -> tuple[dict[str, Any], set[str]]:
    """Returns the raw values of a row by column, and the reasons that it may be rejected for."""
    raw: dict[str, Any] = {}
    faults: set[str] = set()
    for column, reader in _readers(case.sections).items():
        try:
            raw[column] = reader(row[column])
        except Fault as fault:
            faults.add(f"{fault}_{column}")
    for reasons in _rules(case.sections, raw, row) if not faults else ():
        if faults := set(reasons):
            break
    return raw, faults


def _rules(sections: Said, raw: dict[str, Any], row: Row):
    """Yields what each rule behind the reading of numbers says of a row, in their order."""
    for said in sections["filter"]:
        met = FILTERS[said["name"]][1](raw)
        yield {True: [], False: [said["name"]], None: [f"null_in_{said['name']}"]}[met]
    labels = [sections["label"]] if "label" in sections else [*sections.get("labels", {}).values()]
    yield ["no_label" for said in labels if raw[said.get("column", "i")] is None]
    if "weight" in sections:
        yield ["no_weight"] * (raw["w"] is None)
        yield ["negative_weight"] * (raw["w"] < 0)
    if "time" in sections["split"]:
        yield ["missing_d"] * (raw["d"] is None)
    yield ["no_split"] * (placed(sections, row, raw) is None)
    features = sections["features"].items()
    yield [reason for name, said in features for reason in _missing(name, said, raw)]
    bounds = {"log": (0, True), "box_cox": (0, True), "log1p": (-1, True), "sqrt": (0, False)}
    for name, _ in features:
        low, is_open = bounds.get(name.removeprefix("f_"), (-math.inf, True))
        value = raw.get("f")
        if value is not None and (value <= low if is_open else value < low):
            yield ["non_finite_f"]


def _missing(name: str, said: Said, raw: dict[str, Any]) -> list[str]:
    """The reasons of what a feature may not miss."""
    keyed = ["missing_k"] * ("key" in said and raw["k"] is None)
    if "expression" in said:
        return [f"missing_{name}"] * (raw["i"] is None)
    if said.get("missing", "reject") != "reject" or said.get("type") == "cross":
        return keyed
    columns = said.get("columns", [said.get("column", name)])
    return keyed + [f"missing_{column}" for column in columns if raw[column] is None]


def placed(sections: Said, row: Row, raw: dict[str, Any]) -> str | None:
    """The split of a row by what it holds itself; None for none. Of a stratified one any."""
    split = sections["split"]
    names = split.get("key", [*row])
    names = [names] if isinstance(names, str) else names
    first, _ = hashing.halves(hashing.row_key({n: row[n] or None for n in names}, names))
    if split.get("stratified"):
        return "train"
    if "fractions" in split:
        return hashing.fraction_split(first, SHARES)
    if "values" in split:
        found = [name for name, values in split["values"].items() if raw["k"] in values]
        return found[0] if found else None
    if "time" not in split:
        return "test" if of_test_file(row) else "train"
    starts = [split["time"].get(name) for name in ("validation", "test")]
    passed = [name for name, start in zip(("validation", "test"), starts, strict=True) if start]
    found = ["train", *(n for n in passed if raw["d"] >= _moment(split["time"][n]))]
    share = Fraction(str(split.get("carve", {}).get("validation", 0)))
    is_carved = found[-1] == "train" and hashing.below(first, share)
    return "validation" if is_carved else found[-1]


def of_test_file(row: Row) -> bool:
    """Whether a row stands in a file of test where the files say the split."""
    return int(row["id"]) % 3 == 0


def _or(one: bool | None, other: bool | None) -> bool | None:
    if one or other:
        return True
    return None if None in (one, other) else False


def _above(value: float | None, low: float) -> bool | None:
    return None if value is None else value > low


def _is(value: str | None, text: str) -> bool | None:
    return None if value is None else value == text
