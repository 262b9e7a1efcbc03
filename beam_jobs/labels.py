"""From what a table says of its labels to what records hold: indices of classes, numbers, lists."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.config import Label, Weight


def classes_of(texts: pa.StringArray, label: Label) -> tuple[str, ...]:
    """Returns the classes that texts name, each once."""
    distinct = pc.unique(texts)
    if label.type == "multi_label":
        distinct = pc.unique(_split(distinct, label).flatten())
    return tuple(name for name in distinct.to_pylist() if name or label.type == "class")


def stored(found: pa.Array, said: Label | Weight, classes: Sequence[str]) -> pa.Array:
    """Returns a label, or a weight, as records hold it.

    Args:
      found: string (num_records,) for classes, int64 or float32 for numbers; without nulls.
      said: What the spec says of it.
      classes: All of them, in the order of their indices.

    Returns:
      Of a class its index, int64 (num_records,); of several lists of int64, ascending and
      distinct; numbers as they are.
    """
    if said.type == "class":
        return pc.index_in(found, pa.array(classes, pa.string())).cast(pa.int64())
    if not isinstance(said, Label) or said.type != "multi_label":
        return found
    encoded = found.dictionary_encode()
    return _indices(_split(encoded.dictionary, said), classes).take(encoded.indices)


def are_known(texts: pa.StringArray, label: Label, classes: Sequence[str]) -> np.ndarray:
    """Returns whether each text names but these classes: bool (num_records,), False for null."""
    known = pa.array(classes, pa.string())
    if label.type == "class":
        return pc.is_in(texts, known).to_numpy(zero_copy_only=False)
    encoded = texts.dictionary_encode()
    lists = _split(encoded.dictionary, label)
    flat = lists.flatten()
    is_new = pc.and_not(pc.not_equal(flat, ""), pc.is_in(flat, known)).to_numpy(
        zero_copy_only=False
    )
    owners = pc.list_parent_indices(lists).to_numpy()[is_new]
    is_known = np.bincount(owners, minlength=len(lists)) == 0
    codes = pc.fill_null(encoded.indices, len(lists)).to_numpy()
    return np.append(is_known, False)[codes]


def num_classes(texts: pa.StringArray, label: Label) -> np.ndarray:
    """Returns how many classes each text of a multi_label names: int64 (num_records,)."""
    encoded = texts.dictionary_encode()
    lists = _split(encoded.dictionary, label)
    counts = pc.list_value_length(_indices(lists, classes_of(encoded.dictionary, label)))
    return counts.to_numpy().astype(np.int64)[encoded.indices.to_numpy()]


def counts(indices: pa.Array) -> dict[int, int]:
    """Returns how many records have each class, by what `stored` returned."""
    flat = indices.flatten() if pa.types.is_list(indices.type) else indices
    values, numbers = np.unique(flat.to_numpy(), return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def _split(texts: pa.StringArray, label: Label) -> pa.ListArray:
    return pc.split_pattern(texts, label.between)


def _indices(lists: pa.ListArray, classes: Sequence[str]) -> pa.ListArray:
    """Returns the indices of the classes that stand in lists, each list ascending and distinct."""
    owners = pc.list_parent_indices(lists).to_numpy()
    indices = pc.index_in(lists.flatten(), pa.array(classes, pa.string()))
    is_class = indices.is_valid().to_numpy(zero_copy_only=False)  # An empty text is none.
    codes = indices.drop_null().to_numpy().astype(np.int64)
    size = max(1, len(classes))
    pairs = np.unique(owners[is_class] * size + codes)
    counts = np.bincount(pairs // size, minlength=len(lists))
    ends = np.append(0, np.cumsum(counts)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(pairs % size, pa.int64()))


def class_weights(counts: Sequence[int]) -> list[float]:
    """Returns for each class the weight with which all classes count alike.

    As scikit-learn's compute_class_weight("balanced"): all examples by the number of classes by
    the examples of the class. A class without examples has weight 0, and is none of that number.
    """
    num_present = sum(count > 0 for count in counts)
    return [sum(counts) / (num_present * count) if count else 0.0 for count in counts]
