"""Stop strings: what comes out does not depend on how the text is cut, and nothing of a stop string is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.runtime.errors import RequestError
from edgephi.runtime.stops import MAXIMUM_STOPS, StopScanner


def _expected(text: str, stops: list[str]) -> str:
    """The definition, letter by letter: cut before the longest stop string that the text so far ends with."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


def _scanned(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    shown = ""
    for piece in pieces:
        text, stopped = scanner.push(piece)
        shown += text
        if stopped:
            assert scanner.push("more") == ("", True) and scanner.flush() == ""
            return shown, True
    return shown + scanner.flush(), False


@settings(max_examples=500, deadline=None, derandomize=True)
@given(pieces=st.lists(st.text("ab", max_size=5)), stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=4))
def test_the_answer_is_the_definition_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    expected = _expected(text, stops)
    assert _scanned(pieces, stops) == (expected, expected != text or any(text.endswith(stop) for stop in stops))


def test_text_that_may_begin_a_stop_waits_and_is_released() -> None:
    scanner = StopScanner(["\n\n"])
    assert scanner.push("a\n") == ("a", False)
    assert scanner.push("b\n") == ("\nb", False)
    assert scanner.flush() == "\n"


def test_without_stops_text_passes() -> None:
    assert StopScanner(()).push("text") == ("text", False)


@pytest.mark.parametrize("stops", [[""], ["a" * 1025], ["x"] * (MAXIMUM_STOPS + 1), [1]])
def test_what_cannot_be_a_stop_is_refused(stops: list[str]) -> None:
    with pytest.raises(RequestError, match="stop"):
        StopScanner(stops)


def test_one_string_is_one_stop() -> None:
    assert StopScanner("end").push("the end") == ("the ", True)
