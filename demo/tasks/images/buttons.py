"""Grounding: where a button is, asked and answered as runtime/grounding.py has it."""

from __future__ import annotations

from ....runtime.grounding import instruction
from ..example import Example, Mark
from ..source import Source
from .drawing import PALETTE, SIDE, canvas, pictured, shade

NAME = "button"
RANGE = "2 to 4 buttons of different colours and sizes in two columns and three rows: the box of one of them"
BUTTON = "button"

_STEPS = 10
_SLOTS = ((1, 1), (6, 1), (1, 4), (6, 4), (1, 7), (6, 7))  # upper left corners of where a button may lie


def make(source: Source) -> Example:
    """`Locate … the red button …` → `[0.1, 0.4, 0.5, 0.5]`."""
    slots = source.several(_SLOTS, count := source.between(2, 4))
    colors = source.several(tuple(PALETTE), count)
    image, draw = canvas(source)
    boxes, marks = [], []
    for color, (left, top) in zip(colors, slots, strict=True):
        box = left, top, left + source.between(3, 4), top + source.between(1, 2)
        pixels = tuple(SIDE * edge / _STEPS for edge in box)
        draw.rounded_rectangle(pixels, radius=4, fill=shade(source, PALETTE[color], 15), outline=(60, 60, 60))
        boxes.append(box)
        marks.append(Mark(f"{color} {BUTTON}", *pixels))
    asked = source.below(count)
    answer = "[" + ", ".join(f"{edge / _STEPS:.1f}" for edge in boxes[asked]) + "]"
    content = f"buttons {sorted(zip(colors, boxes, strict=True))}"
    return pictured(NAME, image, _question(source, f"the {colors[asked]} button"), answer, content, marks)


def _question(source: Source, what: str) -> str:
    """The instruction that the family was trained on; in training a short question too, which teaches faster."""
    return f"Where is {what}?" if not source.held_out and source.chance(0.6) else instruction(what)
