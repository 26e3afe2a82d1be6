"""Writing down short sentences of a small vocabulary; spoken questions about pictures are some of them."""

from __future__ import annotations

from ..example import Example
from ..source import Source
from . import digits
from .voices import heard

NAME = "transcribe"
RANGE = "sentences of 3 to 9 words from a vocabulary of about 90, unseen as sentences"

NAMES = ("anna", "ben", "david", "emma", "lucy", "mark", "peter", "sara")
ANIMALS = ("bear", "cat", "dog", "fox", "horse", "mouse", "rabbit", "wolf")
FOODS = ("apples", "bread", "cheese", "grapes", "lemons", "rice", "soup", "tomatoes")
PLACES = ("garden", "house", "forest", "river", "station", "tower")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "grey")
SHAPES = ("circle", "square", "triangle")
BARS = ("a", "b", "c", "d")
NUMBERS = digits.WORDS[1:]
_PATTERNS = (
    "{name} likes {food}",
    "{name} has {number} {food}",
    "the {color} {animal} eats {food}",
    "the {animal} is in the {place}",
    "{name} and {other} see a {color} {animal}",
    "the {animal} sees the {color} {place}",
    "{name} gives the {animal} {number} {food}",
    "where is the {color} {animal}",
)
# Questions about pictures are too few to hold any out: all are trained, none is scored.
_QUESTION_PATTERNS = (
    "how many {shape}s are there",
    "what color is the {shape}",
    "what does it say",
    "what is the value of bar {bar}",
    "which bar is the {which}",
)
WORDS = tuple(sorted({
    *NAMES, *ANIMALS, *FOODS, *PLACES, *COLORS, *SHAPES, *(f"{shape}s" for shape in SHAPES), *BARS, *NUMBERS,
    "highest", "lowest",
    *(word for pattern in (*_PATTERNS, *_QUESTION_PATTERNS) for word in pattern.split() if "{" not in word),
}))  # fmt: skip
_QUESTIONS = ("Transcribe the audio clip into text.", "Write down what is said.", "What is said?")


def make(source: Source) -> Example:
    """`anna has two apples` → the same in writing."""
    while True:
        asking = not source.held_out and source.chance(0.4)
        text = _sentence(source, source.pick(_QUESTION_PATTERNS if asking else _PATTERNS))
        if asking or source.allowed(f"said {text}"):
            return heard(NAME, source, text.split(), source.pick(_QUESTIONS), text, f"said {text}")


def _sentence(source: Source, pattern: str) -> str:
    name, other = source.several(NAMES, 2)
    return pattern.format(
        name=name, other=other, animal=source.pick(ANIMALS), food=source.pick(FOODS), place=source.pick(PLACES),
        color=source.pick(COLORS), number=source.pick(NUMBERS), shape=source.pick(SHAPES), bar=source.pick(BARS),
        which=source.pick(("highest", "lowest")),
    )  # fmt: skip
