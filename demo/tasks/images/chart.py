"""Reading a bar chart."""

from __future__ import annotations

from ..example import Example, Mark
from ..source import Source
from .drawing import PALETTE, SIDE, canvas, letter_marks, pick_font, pictured, shade

NAME = "chart"
RANGE = "3 or 4 bars from 1 to 9 with grid lines: the value of one bar, or which is the highest or the lowest"
BAR = "bar"
VALUES = range(1, 10)

_UNIT = 9  # pixels
_FOOT = 92
_VALUE = ("What is the value of {bar}?", "How high is bar {bar}?", "Read the value of {bar}.")
_EXTREME = ("Which bar is the {which}?", "Name the {which} bar.")


def make(source: Source) -> Example:
    """Bars A 3, B 7, C 5: `What is the value of B?` → `7`."""
    values = source.several(VALUES, source.between(3, 4))
    image, draw = canvas(source)
    for level in VALUES:
        draw.line((6, _FOOT - level * _UNIT, SIDE - 4, _FOOT - level * _UNIT), fill=(200, 200, 200))
    draw.line((6, _FOOT, SIDE - 4, _FOOT), fill=(60, 60, 60))
    font = pick_font(source, 15)
    color = shade(source, PALETTE[source.pick(("red", "green", "blue", "orange", "purple"))], 15)
    marks = []
    for place, value in enumerate(values):
        left = 8 + place * 26
        box = (left, _FOOT - value * _UNIT, left + 16, _FOOT)
        draw.rectangle(box, fill=color)
        letter = "ABCD"[place]
        x = left + 8 - font.getlength(letter) / 2
        draw.text((x, _FOOT + 1), letter, fill=(25, 25, 25), font=font)
        marks += [Mark(f"{BAR} {value}", *box), *letter_marks(letter, font, (x, _FOOT), (_FOOT + 3, SIDE))]
    if source.chance(0.7):
        place = source.below(len(values))
        question, answer = source.pick(_VALUE).format(bar="ABCD"[place]), str(values[place])
    else:
        which = source.pick(("highest", "lowest"))
        answer = "ABCD"[values.index((max if which == "highest" else min)(values))]
        question = source.pick(_EXTREME).format(which=which)
    return pictured(NAME, image, question, answer, f"chart {values}", marks)
