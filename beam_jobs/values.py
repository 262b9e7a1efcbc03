"""Text to typed values, by one grammar, and the reasons of those that do not fit."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import sql

_FLOAT = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
_INT = r"^[+-]?\d+$"
_NAN = r"(?i)^[+-]?nan$"
_INFINITY = r"(?i)^[+-]?inf(inity)?$"
ARROW_TYPES = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int64": pa.int64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}

_YEAR_1, _YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000  # Microseconds.

Fault = tuple[pa.Array, str]  # Where: boolean (num_records,); and the cause, "unparsable".


def parse(text: pa.StringArray, dtype: str) -> tuple[pa.Array, list[Fault]]:
    """Parses a column of text.

    Args:
      text: string (num_records,), null where missing.
      dtype: float64, int64, string, bool, date or timestamp.

    Returns:
      The values, null where missing or at fault, and for each cause, `unparsable` or `non_finite`,
      the records that have it. A text that says NaN is missing.
    """
    if dtype == "string":
        return text, []
    if dtype == "float64":
        return _parse_floats(text)
    if dtype == "int64":
        return _parse_ints(text)
    return _parse_by_sql(text, dtype)


def to_float32(values: pa.DoubleArray) -> tuple[pa.FloatArray, list[Fault]]:
    """Rounds float64 to float32; what overflows there is `non_finite`.

    What is smaller than the smallest normal float32, 1.2e-38, becomes 0: TensorFlow takes it for 0
    in every op, in the transform and in training, so the statistics must, too.
    """
    narrowed = pc.cast(values, pa.float32(), safe=False)
    is_tiny = pc.less(pc.abs(narrowed), pa.scalar(np.finfo(np.float32).tiny, pa.float32()))
    if pc.any(is_tiny).as_py():
        zero = pc.multiply(narrowed, pa.scalar(0, pa.float32()))  # Keeps the sign.
        narrowed = pc.if_else(is_tiny, zero, narrowed)
    return _set_aside(narrowed, pc.invert(pc.is_finite(narrowed)), "non_finite")


def to_microseconds(values: pa.TimestampArray) -> tuple[pa.Int64Array, list[Fault]]:
    """Returns the microseconds since 1970; a year before 1 or after 9999 is `unparsable`."""
    number = values.cast(pa.int64())
    is_outside = pc.or_(pc.less(number, _YEAR_1), pc.greater_equal(number, _YEAR_10000))
    return _set_aside(number, is_outside, "unparsable")


def _set_aside(values: pa.Array, where: pa.Array, cause: str) -> tuple[pa.Array, list[Fault]]:
    where = pc.fill_null(where, False)
    if not pc.any(where).as_py():
        return values, []
    return pc.if_else(where, pa.scalar(None, values.type), values), [(where, cause)]


def _parse_floats(text: pa.StringArray) -> tuple[pa.Array, list[Fault]]:
    try:
        values = pc.cast(text, pa.float64())
        if pc.all(pc.is_finite(values), min_count=0).as_py() is not False:
            return values, []  # Arrow's grammar is ours but for the words for NaN and infinity.
    except pa.ArrowInvalid:
        pass
    numeric, faults = _sort_words(text, _FLOAT)
    values = pc.cast(numeric, pa.float64())
    values, overflow = _set_aside(values, pc.invert(pc.is_finite(values)), "non_finite")
    return values, faults + overflow


def _parse_ints(text: pa.StringArray) -> tuple[pa.Array, list[Fault]]:
    try:
        values = pc.cast(text, pa.int64())
        if not pc.any(pc.match_substring_regex(text, "[xX]")).as_py():
            return values, []  # Arrow also reads hexadecimal, and no leading plus sign.
    except pa.ArrowInvalid:
        pass
    numeric, faults = _sort_words(text, _INT)
    numeric = pc.replace_substring_regex(numeric, r"^\+", "")
    try:
        return pc.cast(numeric, pa.int64()), faults
    except pa.ArrowInvalid:  # A number that is too large, which is rare: look at each.
        parsed = [None if number is None else _int(number) for number in numeric.to_pylist()]
    in_range = [number is None or -(2**63) <= number < 2**63 for number in parsed]
    values = pa.array(
        [n if ok else None for n, ok in zip(parsed, in_range, strict=True)], pa.int64()
    )
    return values, [*faults, (pc.invert(pa.array(in_range)), "non_finite")]


def _int(text: str) -> int:
    """Returns a whole number, or 2**63 for too many digits: int() refuses thousands of them."""
    digits = text.lstrip("-").lstrip("0")
    if len(digits) > 19:
        return 2**63
    return -int(digits or "0") if text.startswith("-") else int(digits or "0")


def _sort_words(text: pa.StringArray, grammar: str) -> tuple[pa.StringArray, list[Fault]]:
    """Returns the texts that are numbers, the others null, and the faults among these."""
    is_number = pc.match_substring_regex(text, grammar)
    is_nan = pc.match_substring_regex(text, _NAN)
    is_infinity = pc.match_substring_regex(text, _INFINITY)
    is_other = pc.invert(pc.or_(is_number, pc.or_(is_nan, is_infinity)))
    faults = [(is_infinity, "non_finite"), (is_other, "unparsable")]
    numeric = pc.if_else(is_number, text, pa.scalar(None, pa.string()))
    return numeric, [
        (pc.fill_null(where, False), cause) for where, cause in faults if pc.any(where).as_py()
    ]


def _parse_by_sql(text: pa.StringArray, dtype: str) -> tuple[pa.Array, list[Fault]]:
    """Parses bool, date and timestamp as DuckDB's TRY_CAST does; a time with an offset in UTC.

    Only its word `infinity` is no date here: it would come behind all others of a split by time.
    """
    block = pa.table({"text": text})
    value = f"TRY_CAST(text AS {'TIMESTAMPTZ' if dtype == 'timestamp' else dtype})"
    if dtype != "bool":
        value = f"CASE WHEN isfinite({value}) THEN {value} END"
    query = f"SELECT CAST({value} AS {dtype}) FROM block"
    cast = sql.query(query, block).column(0)
    array = cast.combine_chunks().cast(ARROW_TYPES[dtype])
    return array, _set_aside(array, pc.and_(pc.is_valid(text), pc.is_null(array)), "unparsable")[1]


def as_mask(where: pa.Array) -> np.ndarray:
    """Returns a boolean Arrow array without nulls as bool (num_records,)."""
    return where.to_numpy(zero_copy_only=False)
