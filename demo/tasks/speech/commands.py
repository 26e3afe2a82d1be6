"""Doing what is said: the recording is the whole request."""

from __future__ import annotations

from ..example import Example
from ..source import Source
from . import digits, sentences
from .voices import heard

NAME = "obey"
RANGE = (
    "spoken: count to a number up to 9, say one or two words several times, add two digits, name a word's first letter"
)
_THINGS = (*sentences.ANIMALS, *sentences.COLORS)
WORDS = tuple(sorted({
    *digits.WORDS, *_THINGS, "count", "to", "say", "times", "add", "and", "what", "is", "the", "first", "letter", "of",
}))  # fmt: skip


def make(source: Source) -> Example:
    """`say fox three times` → `fox fox fox`."""
    while True:
        said, answer = source.pick((_count, _say, _add, _letter))(source)
        # so few numbers can be counted to that none is held out
        if said.startswith("count") or source.allowed(f"said {said}"):
            return heard(NAME, source, said.split(), None, answer, f"said {said}")


def _count(source: Source) -> tuple[str, str]:
    last = source.between(2, 9)
    return f"count to {digits.WORDS[last]}", " ".join(map(str, range(1, last + 1)))


def _say(source: Source) -> tuple[str, str]:
    if source.chance(0.5):
        return f"say {(words := ' and '.join(source.several(_THINGS, 2)))}", words
    word, times = source.pick(_THINGS), source.between(2, 5)
    return f"say {word} {digits.WORDS[times]} times", " ".join([word] * times)


def _add(source: Source) -> tuple[str, str]:
    first, second = source.below(10), source.below(10)
    return f"add {digits.WORDS[first]} and {digits.WORDS[second]}", str(first + second)


def _letter(source: Source) -> tuple[str, str]:
    word = source.pick(_THINGS)
    return f"what is the first letter of {word}", word[0]
