"""Texts to words by NumPy and Arrow: those of the TF ops of `text.tokens`, in half the time."""

import string

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.config import Text

# Bytes that stand nowhere in UTF-8: they take the place of white space, and end a text.
_SPACE, _END = b"\xfe", b"\xff"
_SPACES = b" \t\n\v\f\r"
_OF_REGEX = frozenset(r"\.+*?()|[]{}^$")


def split(texts: pa.StringArray, feature: Text) -> tuple[pa.StringArray, np.ndarray]:
    """Splits texts at white space.

    Args:
      texts: string (num_texts,), without nulls.
      feature: What the spec says of them; `is_of_words`.

    Returns:
      Their words: string (num_words,); and the splits of the rows: int64 (num_texts + 1,).
    """
    for pattern, replacement in feature.replace:
        is_plain = not _OF_REGEX & {*pattern, *replacement}
        # Without RE2 in a third of the time.
        replace = pc.replace_substring if is_plain else pc.replace_substring_regex
        texts = replace(texts, pattern, replacement)
    ended = pa.concat_arrays([texts.cast(pa.binary()), pa.array([b""], pa.binary())])
    joined = pc.binary_join(pa.ListArray.from_arrays([0, len(ended)], ended), _END)[0].as_py()
    dropped = string.punctuation if feature.standardize.endswith("strip_punctuation") else ""
    joined = joined.translate(_table(feature), dropped.encode())
    codes = np.frombuffer(joined, np.uint8)
    is_gap = np.ones(codes.size + 1, bool)  # One before the first byte; the last is a gap itself.
    np.greater_equal(codes, _SPACE[0], out=is_gap[1:])
    edges = np.flatnonzero(is_gap[1:] != is_gap[:-1])
    starts, ends = edges[::2], edges[1::2]
    splits = np.append(0, np.searchsorted(starts, np.flatnonzero(codes == _END[0])))
    offsets = np.append(np.int32(0), np.cumsum(ends - starts, dtype=np.int32))
    data = joined.translate(None, _SPACE + _END)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.StringArray.from_buffers(starts.size, *buffers[1:]), splits


def _table(feature: Text) -> bytes:
    """Returns what each byte becomes; like TensorFlow, only ASCII gets lower."""
    table = bytes(range(256))
    if feature.standardize.startswith("lower"):
        table = table.lower()
    return table.translate(bytes.maketrans(_SPACES, _SPACE * len(_SPACES)))
