"""Bytes that may be text."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def as_text(found: pa.BinaryArray) -> tuple[pa.StringArray, list[tuple[np.ndarray, str]]]:
    """Returns bytes as UTF-8, null where they are none or hold a NUL byte.

    Returns:
      The texts, and for each of the reasons `bad_encoding` and `nul_byte` the records that have it:
      bool (num_records,).
    """
    try:
        text, faults = found.cast(pa.string()), []
    except pa.ArrowInvalid:
        is_bad = np.array([not _is_text(value) for value in found.to_pylist()])
        found = pc.if_else(pa.array(is_bad), pa.scalar(None, pa.binary()), found)
        text, faults = found.cast(pa.string()), [(is_bad, "bad_encoding")]
    has_nul = pc.fill_null(pc.match_substring(text, "\0"), False).to_numpy(zero_copy_only=False)
    if has_nul.any():
        text = pc.if_else(pa.array(has_nul), pa.scalar(None, pa.string()), text)
        faults.append((has_nul, "nul_byte"))
    return text, faults


def _is_text(value: bytes | None) -> bool:
    """Whether bytes are UTF-8, or missing."""
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False
