"""Grounding: where a button is, asked and answered as runtime/grounding.py has it."""

from __future__ import annotations

from ....runtime.grounding import instruction
from ..example import Example, Mark
from ..source import Source
from .drawing import PALETTE, SIDE, canvas, pictured, shade

NAME = "button"
RANGE = "one button of 8 colours and 4 sizes in two columns and three rows: its box"
BUTTON = "button"

_STEPS = 10
_SLOTS = ((1, 1), (6, 1), (1, 4), (6, 4), (1, 7), (6, 7))  # upper left corners of where the button may lie


def make(source: Source) -> Example:
    """`Locate … the red button …` → `[0.1, 0.4, 0.5, 0.5]`."""
    (left, top), color = source.pick(_SLOTS), source.pick(tuple(PALETTE))
    box = left, top, left + source.between(3, 4), top + source.between(1, 2)
    image, draw = canvas(source)
    pixels = tuple(SIDE * edge / _STEPS for edge in box)
    draw.rounded_rectangle(pixels, radius=4, fill=shade(source, PALETTE[color], 15), outline=(60, 60, 60))
    answer = "[" + ", ".join(f"{edge / _STEPS:.1f}" for edge in box) + "]"
    mark = Mark(f"{color} {BUTTON}", *pixels)
    return pictured(NAME, image, _question(source, f"the {color} button"), answer, f"button {color} {box}", (mark,))


def _question(source: Source, what: str) -> str:
    """The instruction that the family was trained on; in training a short question too, which teaches faster."""
    return f"Where is {what}?" if not source.held_out and source.chance(0.6) else instruction(what)
