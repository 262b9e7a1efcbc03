"""How many values of later records the train split of an earlier dataset never saw."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import text, vectors
from beam_jobs.config import SPLITS, Column, Date, Sparse, Spec, Text
from beam_jobs.config_text import PADDING
from beam_jobs.earlier import OUT_OF_RANGE, Earlier, novelties
from beam_jobs.rows import Records

_Apply = Callable[[Sequence[str]], Mapping[str, pa.Array]]


def count(records: Records, spec: Spec, earlier: Earlier, apply: _Apply) -> Counter:
    """Counts, by split and feature: numbers out of range, strings and tokens out of vocabulary.

    Of a vector each number counts, what stands in for a missing one, too.

    Args:
      records: Later ones, as they are kept.
      spec: Theirs.
      earlier: The dataset whose transform they get.
      apply: Returns what that makes of them for some of the features.
    """
    found: Counter[tuple[str, str]] = Counter()
    indices = apply(_indexed(spec))
    for name, kind in novelties(spec).items():
        if name in spec.vectors:
            counts = _out_of_vector(records, name, spec, earlier)
            found.update({(split, name): int(n) for split, n in zip(SPLITS, counts, strict=True)})
            continue
        feature, entry = spec.columns[name], earlier.info["features"][name]
        column = records.raw.column(str(feature.column))
        if isinstance(feature, Date | Sparse):
            continue
        if isinstance(feature, Text):
            for split, texts in _by_split(column, records.splits):
                found[split, name] = _unknown_tokens(texts, name, feature, earlier)
            continue
        if kind == OUT_OF_RANGE:
            is_new = _out_of_range(column, entry["raw_statistics"])
        else:
            size = entry["num_categories"] if "num_categories" in entry else entry["shape"][0]
            is_new = _index(indices, name) >= size - feature.oov_buckets
        for code, times in enumerate(np.bincount(records.splits[is_new], minlength=len(SPLITS))):
            found[SPLITS[code], name] = int(times)
    return found


def _indexed(spec: Spec) -> list[str]:
    """Returns the features whose vocabulary is known to transform_fn alone."""
    columns = ((name, spec.columns.get(name)) for name in novelties(spec))
    return [
        name
        for name, feature in columns
        if isinstance(feature, Column) and feature.last_step == "compute_and_apply_vocabulary"
    ]


def _index(stored: Mapping[str, pa.Array], name: str) -> np.ndarray:
    """Returns the index of each record; of a feature that is stored sparse the only one it has."""
    column = stored[name] if name in stored else stored[f"{name}/indices"].flatten()
    return column.to_numpy()


def _by_split(column: pa.Array, codes: np.ndarray) -> list[tuple[str, pa.Array]]:
    found = np.unique(codes).tolist()
    return [(SPLITS[code], column.filter(pa.array(codes == code))) for code in found]


def _out_of_range(column: pa.Array, seen: Mapping[str, Any]) -> np.ndarray:
    """Returns which of the values lie below or above all that train has: bool (num_records,)."""
    if "min" not in seen:
        return pc.is_valid(column).to_numpy(zero_copy_only=False)
    wide = pa.float64() if pa.types.is_floating(column.type) else column.type
    column = column.cast(wide)
    outside = pc.or_(
        pc.less(column, pa.scalar(seen["min"], wide)),
        pc.greater(column, pa.scalar(seen["max"], wide)),
    )
    return pc.fill_null(outside, False).to_numpy(zero_copy_only=False)


def _out_of_vector(records: Records, name: str, spec: Spec, earlier: Earlier) -> np.ndarray:
    """Returns how many numbers lie outside what train has in their place: (len(SPLITS),)."""
    vector, column, seen = spec.vectors[name], spec.column_of(name), earlier.ends(name)
    numbers, splits = vectors.matrix(records.raw, column, vector), records.splits
    if vector.is_ragged:
        splits = np.repeat(splits, vectors.lengths_of(records.raw.column(column)))
    is_new = np.ones_like(numbers, bool)
    if seen is not None:
        is_new = (numbers < seen[0]) | (numbers > seen[1])
    return np.bincount(splits, is_new.sum(axis=1), len(SPLITS))


def _unknown_tokens(texts: pa.StringArray, name: str, feature: Text, earlier: Earlier) -> int:
    if feature.missing != "reject":
        texts = texts.fill_null(feature.missing)
    counts = text.count(texts, feature)
    if feature.tokenizer is not None:  # Its ids.
        is_known = pc.not_equal(counts.tokens, str(text.unknown_id(feature)))
    else:
        learned = earlier.vocabulary(name)[feature.num_special :]
        is_known = pc.is_in(counts.tokens, pa.array([PADDING, *learned], pa.string()))
    return pc.sum(counts.counts.filter(pc.invert(is_known))).as_py() or 0
