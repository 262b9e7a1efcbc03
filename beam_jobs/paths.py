"""What the path of a file says of its records."""

import re

import numpy as np
import pyarrow as pa

from beam_jobs import splits
from beam_jobs.config import Spec


def label_of(relative: str, spec: Spec) -> str | None:
    """Returns the label that a path stands for."""
    if spec.label is None:
        return None
    if spec.label.pattern is not None:
        match = re.search(spec.label.pattern, relative)
        return match["label"] if match else None
    folders = relative.split("/")[:-1]
    position = 1 if spec.split.directory else 0
    return folders[position] if len(folders) > position else None


def labels(relative: pa.StringArray, spec: Spec) -> pa.StringArray:
    """Returns the label that the path of each record stands for, null where it stands for none."""
    encoded = relative.dictionary_encode()
    found = [label_of(path, spec) for path in encoded.dictionary.to_pylist()]
    return pa.array(found, pa.string()).take(encoded.indices)


def directory_splits(relative: pa.StringArray) -> np.ndarray:
    """Returns the split that the first folder of each path names: int8 (num_records,)."""
    encoded = relative.dictionary_encode()
    found = splits.by_names([path.split("/")[0] for path in encoded.dictionary.to_pylist()])
    return found[encoded.indices.to_numpy()]
