"""Numbers from small to large and letters in alphabetical order."""

from __future__ import annotations

from . import words
from .example import Example, asked
from .source import Source

NAME = "sort"
RANGE = "2 to 4 different numbers of two digits, or 2 to 5 different letters"

_NUMBERS = (
    "Sort these numbers: {items}",
    "Sort: {items}",
    "Put these numbers in order: {items}",
    "Order these numbers from small to large: {items}",
)
_LETTERS = (
    "Sort these letters: {items}",
    "Sort: {items}",
    "Put these letters in order: {items}",
    "Put these letters in alphabetical order: {items}",
)


def make(source: Source) -> Example:
    """`Sort these numbers: 42 7 19` → `7 19 42`."""
    if source.chance(0.5):
        numbers = source.several(range(10, 100), source.between(2, 4))
        given, answer, questions = " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers))), _NUMBERS
    else:
        letters = source.several(words.LETTERS, source.between(2, 5))
        given, answer, questions = " ".join(letters), " ".join(sorted(letters)), _LETTERS
    return asked(NAME, source.pick(questions).format(items=given), answer, given)
