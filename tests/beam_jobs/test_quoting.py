import csv
import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_jobs.sources import quoting
from beam_jobs.sources.quoting import Dialect, State

COMMA = Dialect()
SEMICOLON = Dialect(ord(";"), ord("'"))
TEXTS = st.text(alphabet='a",\n\r', max_size=24)


def array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def quotes_by_reader(text: str, delimiter=",", quote='"') -> list[int]:
    """The quotes that open and close, by a machine with one state a character."""
    found, state = [], "start"
    for position, character in enumerate(text):
        if state == "quoted":
            if character == quote:
                found.append(position)
                state = "closed"
        elif character == quote and state in ("start", "closed"):
            found.append(position)
            state = "quoted"
        else:
            state = "start" if character in (delimiter, "\n", "\r") else "text"
    return found


def rows(text: str, **kwargs) -> list[list[str]]:
    """The records by the csv module; blank lines are none."""
    return [row for row in csv.reader(io.StringIO(text, newline=""), **kwargs) if row]


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example('a"b",c\n"d"\n')
@example('"a"b,"c"')
@example('"a"b""",c')
@example('""""""')
def test_toggles_are_the_quotes_that_open_and_close(text):
    assert quoting.toggles(array(text), COMMA).tolist() == quotes_by_reader(text)


def test_a_text_that_breaks_the_parity_is_walked():
    text = 'it"s,"x,y"\n'
    assert quotes_by_reader(text) == [5, 9]
    assert quoting.toggles(array(text), COMMA).tolist() == [5, 9]


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_records_are_those_of_the_csv_module(text):
    if len(quotes_by_reader(text)) % 2:
        return  # Never closed: no whole text.
    starts, ends = quoting.record_spans(array(text), COMMA)
    expected = rows(text)
    assert starts.size == ends.size == len(expected)
    found = [rows(text[a:b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    assert found == [[row] for row in expected]
    num_fields = quoting.num_fields(array(text), starts, COMMA)
    assert num_fields.tolist() == [len(row) for row in expected]


def test_another_dialect():
    text = "a;'b;\nc';\"d\n'it''s';,\n"
    expected = rows(text, delimiter=";", quotechar="'")
    assert [len(row) for row in expected] == [3, 2]
    starts, ends = quoting.record_spans(array(text), SEMICOLON)
    assert (starts.tolist(), ends.tolist()) == ([0, 12], [11, 21])
    assert quoting.num_fields(array(text), starts, SEMICOLON).tolist() == [3, 2]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.lists(st.integers(1, 23), max_size=4, unique=True))
@example('"a\n', [2])
def test_pieces_give_what_the_whole_gives(text, cuts):
    toggled, ends, lines, state = [], [], 0, State()
    whole = array(text)
    places = [0, *(c for c in sorted(cuts) if c < len(text) and text[c - 1] != '"'), len(text)]
    for start, end in zip(places, places[1:], strict=False):
        piece = whole[start:end]
        if not piece.size:
            continue
        found = quoting.toggles(piece, COMMA, state)
        toggled += (found + start).tolist()
        ends += (quoting.record_ends(piece, found, state) + start).tolist()
        lines += quoting.num_lines(piece, state.last_byte)
        state = State(bool((found.size + state.is_quoted) % 2), int(piece[-1]))
    expected = quotes_by_reader(text)
    assert toggled == expected
    assert state.is_quoted == bool(len(expected) % 2)
    inside = [sum(q < p for q in expected) % 2 for p in range(len(text))]
    assert ends == [p for p, c in enumerate(text) if c in "\r\n" and not inside[p]]
    assert lines == text.replace("\r\n", "\n").replace("\r", "\n").count("\n")


@pytest.mark.parametrize(
    "text, lines", [("", 0), ("a", 0), ("a\r\nb\rc\nd", 3), ("\r\r\n\n", 3), ("\n\r", 2)]
)
def test_lines_end_in_crlf_cr_or_lf(text, lines):
    assert quoting.num_lines(array(text)) == lines


def test_a_newline_behind_a_return_in_the_piece_before_ends_no_second_line():
    assert quoting.num_lines(array("\na\n"), ord("\r")) == 1
    assert quoting.num_lines(array("\na\n"), ord("a")) == 2


def cut_by_reader(text: str) -> int | None:
    """The last position behind a line end outside quotes, not inside CRLF, nor behind a last CR."""
    toggled = quotes_by_reader(text)
    for end in range(len(text), 0, -1):
        last, following = text[end - 1], text[end : end + 1]
        is_quoted = sum(position < end for position in toggled) % 2
        is_end = last == "\n" or (last == "\r" and following not in ("\n", ""))
        if is_end and not is_quoted:
            return end
    return None


@pytest.mark.parametrize("tail_bytes", [1, 3, 1 << 14])
@settings(deadline=None)
@given(text=TEXTS.map(lambda text: text.rstrip('"')))
@example(text="a\r")
@example(text='"\n\n\n\n\n')
@example(text='\n"a\n\n\n\n\n')
def test_the_last_cut_is_behind_the_last_whole_record(text, tail_bytes):
    toggled = quoting.toggles(array(text), COMMA)
    quoting._TAIL_BYTES, before = tail_bytes, quoting._TAIL_BYTES
    try:
        assert quoting.last_cut(array(text), toggled) == cut_by_reader(text)
    finally:
        quoting._TAIL_BYTES = before
