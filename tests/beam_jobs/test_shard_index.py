import numpy as np
import pytest

from beam_jobs.shard_index import ShardIndex


def _expected(sizes):
    """The index by its definition: the smallest step with at most 512 entries."""
    starts = np.cumsum(sizes) - sizes
    step = 16_384
    while True:
        last, entries = 0, []
        for record, start in enumerate(starts.tolist()):
            if start // step > last:
                entries.append(f"{record}:{start}")
                last = start // step
        if len(entries) <= 512:
            return " ".join(entries)
        step *= 2


SIZES = {
    "none": [],
    "one": [100],
    "few": [100] * 20,
    "rows": np.random.default_rng(0).integers(200, 400, 70_000),
    "photos": np.random.default_rng(1).integers(100_000, 160_000, 1_500),
    "of a step": [16_384] * 700,
    "mixed": np.random.default_rng(2).choice([20, 5_000, 3_000_000], 4_000),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_an_index_has_the_first_record_of_each_step(sizes):
    sizes = np.array(sizes, np.int64)
    index = ShardIndex()
    index.add(sizes)
    assert str(index) == _expected(sizes)


def test_the_sizes_make_indices_of_different_kinds():
    lengths = {name: len(_expected(np.array(s, np.int64)).split()) for name, s in SIZES.items()}
    assert lengths["none"] == lengths["one"] == lengths["few"] == 0
    assert all(256 <= lengths[name] <= 512 for name in ("rows", "photos", "of a step", "mixed"))


@pytest.mark.parametrize("cut", [1, 7, 5_000])
@pytest.mark.parametrize("name", ["rows", "photos", "mixed"])
def test_the_cuts_between_calls_leave_no_trace(name, cut):
    sizes = np.array(SIZES[name], np.int64)[:4_000]
    whole, parts = ShardIndex(), ShardIndex()
    whole.add(sizes)
    for start in range(0, len(sizes), cut):
        parts.add(sizes[start : start + cut])
        parts.add(sizes[:0])
    assert str(parts) == str(whole) != ""
