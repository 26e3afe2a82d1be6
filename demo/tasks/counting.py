"""How often a word is in a list, and how many words a list has, counted aloud."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from . import words
from .example import Example, asked
from .source import Source

NAME = "count"
RANGE = "lists of 1 to 6 common words; the number of all words or of one of them, counted aloud"

_ONE = (
    "How many times is {word} in this list: {items}",
    "How often does {word} appear: {items}",
    "Count {word} in this list: {items}",
    "Count how often {word} appears: {items}",
)
_ALL = (
    "How many words are in this list: {items}",
    "Count the words: {items}",
    "How many words are there: {items}",
    "How long is this list: {items}",
)


def make(source: Source) -> Example:
    """`Count fox in this list: fox, key, fox` → `fox 1, key, fox 2. The number is 2.`"""
    length = source.between(1, 6)
    if source.chance(0.4):
        items = source.several(words.WORDS, length)
        given = ", ".join(items)
        return asked(NAME, source.pick(_ALL).format(items=given), counted(items, set(items)), f"all {given}")
    times = source.between(0, length)
    word, *others = source.several(words.WORDS, 1 + length - times)
    items = source.several([word] * times + others, length)
    given = ", ".join(items)
    question = source.pick(_ONE).format(word=word, items=given)
    return asked(NAME, question, counted(items, {word}), f"{word}: {given}")


def counted(items: Sequence[str], wanted: Collection[str]) -> str:
    """The list with a running number behind each wanted word, then the last number."""
    number, said = 0, []
    for item in items:
        number += item in wanted
        said.append(f"{item} {number}" if item in wanted else item)
    return f"{', '.join(said)}. The number is {number}."
