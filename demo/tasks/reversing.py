"""Lists of words or single letters from back to front."""

from __future__ import annotations

from . import words
from .example import Example, asked
from .source import Source

NAME = "reverse"
RANGE = "2 to 5 different words separated by commas, or 2 to 6 different letters separated by spaces"

_WORDS = (
    "Reverse this list: {items}",
    "Reverse: {items}",
    "Say this list backwards: {items}",
    "Write this list from back to front: {items}",
    "Turn this list around: {items}",
)
_LETTERS = (
    "Reverse these letters: {items}",
    "Reverse: {items}",
    "Say these letters backwards: {items}",
    "Write these letters from back to front: {items}",
    "Turn these letters around: {items}",
)


def make(source: Source) -> Example:
    """`Reverse: fox, key, apple` → `apple, key, fox`; `Reverse: a k p` → `p k a`."""
    if source.chance(0.5):
        items, separator, questions = source.distinct(source.word, source.between(2, 5)), ", ", _WORDS
    else:
        items, separator, questions = source.several(words.LETTERS, source.between(2, 6)), " ", _LETTERS
    given = separator.join(items)
    return asked(NAME, source.pick(questions).format(items=given), separator.join(reversed(items)), given)
