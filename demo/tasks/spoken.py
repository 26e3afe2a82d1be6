"""A spoken question about a picture: both encoders and the adapter of pictures at once."""

from __future__ import annotations

import re
from typing import Any

from . import images
from .example import Example
from .source import Source
from .speech import sentences
from .speech.voices import manner, say

NAME = "ask"
RANGE = "spoken: what a word or number in a picture says, how many shapes of a kind there are, the value of a bar"

PICTURES = ("read", "shapes", "chart")
_SPOKEN = (
    (r"(How many|Count the) (?P<what>\w+?)s\b.*", "how many {what}s are there"),
    (r".*color.* (?P<what>circle|square|triangle).*", "what color is the {what}"),
    (r".*(value|high|Read the value).* (?P<what>[A-D])[.?]", "what is the value of bar {what}"),
    (r".*(?P<what>highest|lowest).*", "which bar is the {what}"),
    (r".*", "what does it say"),
)
QUESTIONS = (
    *(f"how many {shape}s are there" for shape in sentences.SHAPES),
    *(f"what color is the {shape}" for shape in sentences.SHAPES),
    *(f"what is the value of bar {bar}" for bar in sentences.BARS),
    "which bar is the highest", "which bar is the lowest", "what does it say",
)  # fmt: skip


def make(source: Source) -> Example:
    """A picture of two circles and a recording of `how many circles are there` → `2`."""
    shown = images.TASKS[source.pick(PICTURES)](source)
    (turn,) = shown.turns
    content: Any = turn["content"]
    picture, question = content
    said = spoken(question["text"])
    turns = ({"role": "user", "content": [picture, {"type": "audio", "audio": say(said, manner(source))}]},)
    return Example(NAME, turns, shown.answer, shown.content, shown.marks, tuple(said.split()))


def spoken(question: str) -> str:
    """The question in the words that the speech encoder knows."""
    for pattern, words in _SPOKEN:
        match = re.fullmatch(pattern, question)
        if match is not None:
            return words.format(**{name: text.lower() for name, text in match.groupdict().items()})
    raise AssertionError(question)
