"""Cutting texts: nothing is lost, every part leaves its room, and cuts are where a reader would make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi import ContextOverflow
from edgephi.runtime.long_text import split_to_fit


class Counting:
    """A token is a character."""

    def __init__(self, context: int) -> None:
        self.context = context

    def encode(self, prompt: Sequence[Any], /) -> list[int]:
        return [0] * len(prompt[0]["content"])


def _ask(part: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": f"?{part}"}]


@given(st.text(alphabet="ab \n.!。é", max_size=400), st.integers(4, 60))
def test_parts_are_the_text_and_leave_their_room(text: str, context: int) -> None:
    parts = split_to_fit(Counting(context), text, _ask, lambda prompt: prompt // 3)
    assert "".join(parts) == text
    assert all(len(part) + 1 + (len(part) + 1) // 3 <= context for part in parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one two.\n\nthree\nfour. five", ["one two.\n\n", "three\nfour. five"]),
        ("one two\nthree four. five six", ["one two\n", "three four. five six"]),
        ("one two. three four five", ["one two. ", "three four five"]),
        ("one two three four", ["one two ", "three four"]),
        ("一二三四。五六七八九", ["一二三四。", "五六七八九"]),
        ("abcdefgh", ["abcd", "efgh"]),
    ],
)
def test_the_best_place_near_the_middle_is_cut(text: str, parts: list[str]) -> None:
    assert split_to_fit(Counting(len(text)), text, _ask, lambda _: 0) == parts


def test_no_room_for_a_character_is_an_error() -> None:
    with pytest.raises(ContextOverflow, match="no room"):
        split_to_fit(Counting(3), "ab", _ask, lambda _: 2)
