"""Boxes in an answer: where a vision model says that something is, in relative coordinates → in pixels.

Boundary: text in, boxes out; knows no model, no session and no picture but its size. Phi-4-reasoning-vision answers the
question for a place with `[x1, y1, x2, y2]`, each from 0 to 1, from the upper left corner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# The wording that the model was trained with, its doubled article included.
INSTRUCTION = (
    "Locate the the UI element this instruction describes: {instruction}. Output its bbox coordinates using the format"
    " of [x1, y1, x2, y2] using relative coordinates from 0.0000 to 1.0000."
)

_NUMBER = r"\s*([0-9]{0,4}\.?[0-9]{1,16})\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")


@dataclass(frozen=True)
class Box:
    """A rectangle in relative coordinates: 0 ≤ x1 ≤ x2 ≤ 1 from the left, 0 ≤ y1 ≤ y2 ≤ 1 from the top."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def centre(self) -> tuple[float, float]:
        """Where to click."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in a picture of that size, rounded to the nearest pixel edge."""
        return round(self.x1 * width), round(self.y1 * height), round(self.x2 * width), round(self.y2 * height)


def instruction(text: str) -> str:
    """The question for the place of what `text` describes, as the model was trained to answer it."""
    return INSTRUCTION.format(instruction=text.strip().rstrip("."))


def find_boxes(answer: str) -> list[Box]:
    """Every `[x1, y1, x2, y2]` of an answer, in order; lists of four numbers that are no rectangle are left out."""
    return list(_boxes(answer))


def _boxes(answer: str) -> Iterator[Box]:
    for match in _BOX.finditer(answer):
        x1, y1, x2, y2 = (float(number) for number in match.groups())
        if x1 <= x2 <= 1 and y1 <= y2 <= 1:
            yield Box(x1, y1, x2, y2)
