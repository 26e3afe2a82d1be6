"""Pages full of letters: no question, but what an image encoder learns letters from, many in one picture."""

from __future__ import annotations

from ..example import Example, Mark
from ..source import Source
from .drawing import LETTERS, SIDE, canvas, ink, letter_marks, pick_font, pictured

NAME = "page"
_SIZES = (16, 40)
_FREQUENT = "abcdefghijklmnoprstuvwz0123456789ABCD"  # what words, numbers and charts are written with


def make(source: Source) -> Example:
    """Lines of random letters and digits of one size, from the top of the picture to its bottom."""
    image, draw = canvas(source)
    font = pick_font(source, source.between(*_SIZES))
    color, text, y = ink(source), "", float(source.between(-4, 8))
    marks: list[Mark] = []
    while True:
        line = "".join(source.pick(_FREQUENT if source.chance(0.9) else LETTERS) for _ in range(source.between(2, 12)))
        x = float(source.between(-4, 16))
        _, top, _, bottom = font.getbbox(line)
        if y + bottom > SIDE:
            return pictured(NAME, image, "", "", text, marks)
        draw.text((x, y), line, fill=color, font=font)
        marks += letter_marks(line, font, (x, y), (y + top, y + bottom))
        text, y = text + line, y + bottom - top + source.between(1, 8)
