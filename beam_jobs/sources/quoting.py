"""Where the records of a CSV text begin and end, in NumPy.

The rules are those of Python's `csv` module and of pyarrow: a quote opens a quoted field only at
the start of a field, a doubled quote inside one stands for itself, and any other quote is text.
"""

import dataclasses

import numpy as np

NEWLINE, RETURN = 0x0A, 0x0D
_TAIL_BYTES = 1 << 14


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The two bytes that give a CSV text its structure."""

    delimiter: int = ord(",")
    quote: int = ord('"')


@dataclasses.dataclass(frozen=True)
class State:
    """What the lexer knows between two pieces of one text."""

    is_quoted: bool = False
    last_byte: int = NEWLINE  # A text starts where a field may start.


def toggles(text: np.ndarray, dialect: Dialect, state: State = State()) -> np.ndarray:
    """Returns the positions of the quotes that open or close a quoted field, ascending: int64.

    Escaped quotes appear as a pair that closes and opens again, which changes nothing for what lies
    between two toggles. Nearly every text obeys the rule that each second quote opens a field; that
    is checked for all quotes at once, and only a text that breaks it is walked quote by quote.

    Args:
      text: uint8 (num_bytes,); unless it ends the file, its last byte is no quote.
      dialect: Delimiter and quote.
      state: What came before.
    """
    quotes = np.flatnonzero(text == dialect.quote)
    opening = quotes[int(state.is_quoted) :: 2]
    before = text[opening - 1]
    if opening.size and opening[0] == 0:
        before[0] = state.last_byte
    starts_field = (before == dialect.delimiter) | (before == NEWLINE) | (before == RETURN)
    # A quote right behind the one that closed is the second half of an escaped quote.
    is_escape = np.zeros(opening.size, bool)
    first = 1 - int(state.is_quoted)  # The first opening quote that has a quote before it.
    previous = quotes[int(not state.is_quoted) :: 2][: opening.size - first]
    is_escape[first:] = opening[first:] == previous + 1
    if (starts_field | is_escape).all():
        return quotes
    return _walk(text, quotes, dialect, state)


def _walk(text: np.ndarray, quotes: np.ndarray, dialect: Dialect, state: State) -> np.ndarray:
    """Returns what `toggles` returns, one quote after the other."""
    found: list[int] = []
    is_quoted, closed_at = state.is_quoted, -2
    field_starts = (dialect.delimiter, NEWLINE, RETURN)
    for position in quotes.tolist():
        before = text[position - 1] if position else state.last_byte
        if is_quoted or closed_at == position - 1 or before in field_starts:
            closed_at = position if is_quoted else -2
            is_quoted = not is_quoted
            found.append(position)
    return np.array(found, np.int64)


def unquoted(positions: np.ndarray, toggled: np.ndarray, state: State = State()) -> np.ndarray:
    """Returns those of the ascending positions that lie outside quoted fields."""
    if not toggled.size:
        return positions[:0] if state.is_quoted else positions
    depth = np.searchsorted(toggled, positions) + int(state.is_quoted)
    return positions[depth % 2 == 0]


def record_ends(text: np.ndarray, toggled: np.ndarray, state: State = State()) -> np.ndarray:
    """Returns the positions of the line ends outside quoted fields, both bytes of CRLF: int64."""
    return unquoted(line_ends(text), toggled, state)


def line_ends(text: np.ndarray) -> np.ndarray:
    """Returns the positions of all CR and LF, both bytes of CRLF, ascending: int64."""
    newlines, returns = np.flatnonzero(text == NEWLINE), np.flatnonzero(text == RETURN)
    return np.sort(np.concatenate([newlines, returns]), kind="stable") if returns.size else newlines


def record_spans(text: np.ndarray, dialect: Dialect) -> tuple[np.ndarray, np.ndarray]:
    """Returns the starts and the ends of the records of a whole text; blank lines are none.

    Args:
      text: uint8 (num_bytes,), starting outside a quoted field.
      dialect: Delimiter and quote.

    Returns:
      int64 (num_records,) twice; an end is the position behind the last byte.
    """
    ends = record_ends(text, toggles(text, dialect))
    starts = np.concatenate([[0], ends + 1])
    ends = np.concatenate([ends, [text.size]])
    is_record = ends > starts
    return starts[is_record], ends[is_record]


def num_fields(text: np.ndarray, starts: np.ndarray, dialect: Dialect) -> np.ndarray:
    """Returns the number of fields of each record that starts there: int64 (num_records,)."""
    delimiters = unquoted(np.flatnonzero(text == dialect.delimiter), toggles(text, dialect))
    return np.diff(np.searchsorted(delimiters, np.append(starts, text.size))) + 1


def last_cut(text: np.ndarray, toggled: np.ndarray, state: State = State()) -> int | None:
    """Returns the last position behind a record of a piece of text; None if none ends in it.

    Never between CR and LF, so that lines are counted right: a CR that ends the piece does not
    count. Looks at the end of the piece first, and at more of it only where no record ends there.
    """
    size = _TAIL_BYTES
    while True:
        start = max(0, text.size - size)
        tail = text[start:]
        ends = start + np.flatnonzero((tail == NEWLINE) | (tail == RETURN))
        following = text[np.minimum(ends + 1, text.size - 1)]
        is_newline = text[ends] == NEWLINE
        ends = ends[is_newline | ((ends + 1 < text.size) & (following != NEWLINE))]
        ends = unquoted(ends, toggled, state)
        if ends.size:
            return int(ends[-1]) + 1
        if not start:
            return None
        size *= 16


def num_lines(text: np.ndarray, last_byte: int = NEWLINE) -> int:
    """Returns how many lines end in the text; CRLF, CR and LF each end one.

    Args:
      text: uint8 (num_bytes,).
      last_byte: The byte before it: a LF behind a CR ends no second line.
    """
    if not text.size:
        return 0
    num_newlines = np.count_nonzero(text == NEWLINE)
    is_return = text == RETURN
    num_returns = np.count_nonzero(is_return)
    num_pairs = int(last_byte == RETURN and text[0] == NEWLINE)
    if num_returns:
        num_pairs += int(np.count_nonzero(is_return[:-1] & (text[1:] == NEWLINE)))
    return int(num_newlines + num_returns - num_pairs)
