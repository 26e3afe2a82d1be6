"""Repeating a text exactly."""

from __future__ import annotations

from .example import Example, asked
from .source import Source

NAME = "copy"
RANGE = "2 to 8 words or numbers of up to 4 digits, coined words among them"

_QUESTIONS = (
    "Repeat after me: {text}",
    "Repeat: {text}",
    "Copy this text: {text}",
    "Say: {text}",
    "Echo: {text}",
    "Write this again: {text}",
    "Please repeat: {text}",
    'Repeat "{text}" exactly.',
    "Copy: {text}",
)


def make(source: Source) -> Example:
    """`Repeat after me: green lantern 42 fobu` → `green lantern 42 fobu`."""
    text = " ".join(_piece(source) for _ in range(source.between(2, 8)))
    return asked(NAME, source.pick(_QUESTIONS).format(text=text), text, text)


def _piece(source: Source) -> str:
    if source.chance(0.15):
        return str(source.below(10 ** source.between(1, 4)))
    word = source.word()
    return word.capitalize() if source.chance(0.1) else word
