import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from oracle import moments as oracle

from beam_jobs import keys, rows, summaries
from beam_jobs.config import SPLITS, parse_spec
from beam_jobs.summaries import Numbers, Summary, Texts

SPEC = parse_spec(
    {
        "name": "s",
        "source": {"format": "csv", "paths": ["a.csv"]},
        "split": {"fractions": {"train": 0.5, "test": 0.5}},
        "features": {
            "x": {"dtype": "float32", "transform": "scale_to_z_score", "missing": "median"},
            "x_log": {"column": "x", "dtype": "float32", "transform": "log1p", "missing": 0},
            "n": {"dtype": "int64", "transform": "bucketize", "num_buckets": 3},
            "t": {"dtype": "string", "transform": "compute_and_apply_vocabulary"},
        },
    },
    "s.toml",
)
REASONS = ["unparsable_x", "no_label", "unparsable_x"]


def outcome(seed: int) -> rows.Outcome:
    """A block of records with missing numbers, of two splits."""
    rng = np.random.default_rng(seed)
    size = 5 + 3 * seed
    x = pa.array(10.0 ** rng.uniform(0, 30, size), pa.float32(), mask=rng.random(size) < 0.3)
    raw = {"x": x, "n": rng.integers(-(2**60), 2**60, size), "t": rng.choice(list("abc"), size)}
    codes = rng.choice([SPLITS.index("train"), SPLITS.index("test")], size).astype(np.int8)
    kept = rows.Records(pa.record_batch(raw), {}, codes, np.zeros(size, keys.HASH_DTYPE))
    rejected = pa.table({"reason": pa.array(REASONS[:seed], pa.string())})
    return rows.Outcome(
        size + seed, kept, rejected, {"label": tuple("pq"[:seed])}, np.ones(size, bool)
    )


OUTCOMES = [outcome(seed) for seed in range(4)]


def known(summary: Summary) -> tuple:
    """All that a summary says, as plain comparable values."""
    numbers = {
        chain: (counts.values.tolist(), counts.counts.tolist(), counts.is_grid)
        for chain, counts in summary.numbers.items()
    }
    tokens = {
        column: dict(zip(counts.tokens.to_pylist(), counts.counts.to_pylist(), strict=True))
        for column, counts in summary.tokens.items()
    }
    said = (summary.read, summary.rejected, summary.num_examples, summary.classes)
    return *said, summary.columns, summary.chains, numbers, tokens


def test_any_order_and_any_grouping_give_the_same():
    parts = [summaries.summarize(part, SPEC) for part in OUTCOMES]
    expected = known(sum(parts, Summary()))
    assert expected[0] == sum(part.num_read for part in OUTCOMES) > 0
    for order in itertools.permutations(parts):
        assert known(sum(order, Summary())) == expected
        assert known((order[0] + order[1]) + (order[2] + order[3])) == expected
        assert known(order[0] + (order[1] + (order[2] + order[3]))) == expected
    assert known(sum([*parts, Summary()], Summary())) == expected


def test_the_sum_is_of_all_records():
    total = sum((summaries.summarize(part, SPEC) for part in OUTCOMES), Summary())
    assert total.rejected == Counter(unparsable_x=4, no_label=2)
    assert total.classes == {"label": {"p", "q"}}
    found = {}
    for split in ("train", "test"):
        chosen = [part.kept.splits == SPLITS.index(split) for part in OUTCOMES]
        assert total.num_examples[split] == sum(map(np.count_nonzero, chosen)) > 2
        for name in ("x", "n", "t"):
            columns = [
                p.kept.raw[name].filter(pa.array(c)) for p, c in zip(OUTCOMES, chosen, strict=True)
            ]
            found[split, name] = [v for column in columns for v in column.to_pylist()]
        for name in ("x", "n"):
            check(total.columns[split, name], found[split, name])
    train = [value for value in found["train", "x"] if value is not None]
    assert total.numbers["x", ()].values.tolist() == sorted(set(train))
    assert set(total.numbers) == {("x", ()), ("n", ())}
    tokens = known(total)[-1]
    assert tokens == {"t": Counter(found["train", "t"])}
    logs = total.chains["x", (("log1p",),)]
    assert logs.moments.count == len(train)
    assert logs.moments.mean == pytest.approx(np.log1p(train).mean(), rel=1e-14)


def check(numbers: Numbers, values: list) -> None:
    present = [value for value in values if value is not None]
    expected = oracle.moments(Counter(present))
    assert numbers.missing == len(values) - len(present)
    assert (numbers.min, numbers.max) == (expected["min"], expected["max"])
    assert numbers.moments.count == expected["count"]
    assert (numbers.moments.mean, numbers.moments.std) == (expected["mean"], expected["std"])


def test_copies_are_as_if_written_out():
    for value in (0.1, 0.0, 3, 0, -(2**63)):
        assert Numbers.of_copies(value, 3) == Numbers.of(np.full(3, value))
    assert Numbers.of_copies(5, 0) == Numbers.of(np.empty(0)) == Numbers()


def test_zeros_and_the_sign_of_zero():
    found = Numbers.of(np.array([-0.0, 0.0]), missing=2)
    assert (found.zeros, found.missing, str(found.min), str(found.max)) == (2, 2, "0.0", "0.0")


def test_texts():
    found = Texts.of(pa.array(["é", "", None, "abc"]))
    assert found == Texts(count=3, missing=1, bytes=5)
    assert found + Texts.of(pa.array([None], pa.string())) == Texts(3, 2, 5)
