"""Reading one word or number."""

from __future__ import annotations

from ..example import Example
from ..source import Source
from .drawing import PALETTE, SIDE, canvas, letter_marks, pick_font, pictured, shade

NAME = "read"
RANGE = "one word of up to 8 letters or one number of up to 5 digits, known or coined, fonts that were never seen"

_QUESTIONS = (
    "What does it say?",
    "What does the sign say?",
    "Read the text.",
    "What is written here?",
    "Read this.",
    "Which word or number is this?",
)
_MARGIN = 5
_LONGEST = 8
_SIZES = ((SIDE, SIDE), (2 * SIDE, SIDE), (SIDE, SIDE // 2))  # one crop, two, and one of which half is padding


def make(source: Source) -> Example:
    """A picture of `fobu` and `What does it say?` → `fobu`."""
    text, content = _text(source)
    width, height = (2 * SIDE, SIDE) if len(text) > 6 else source.weighted(_SIZES, (8, 1, 1))
    image, draw = canvas(source, width, height)
    font = pick_font(source, size := source.between(20, 32))
    while font.getlength(text) > width - 2 * _MARGIN:
        size -= 1
        font = font.font_variant(size=size)
    _, top, right, bottom = font.getbbox(text)
    x = source.between(_MARGIN, int(width - _MARGIN - right))
    y = source.between(_MARGIN, int(height - _MARGIN - bottom))
    draw.text((x, y), text, fill=shade(source, PALETTE[source.pick(("black", "black", "blue", "red"))], 25), font=font)
    marks = letter_marks(text, font, (x, y), (y + top, y + bottom))
    return pictured(NAME, image, source.pick(_QUESTIONS), text, content, marks)


def _text(source: Source) -> tuple[str, str]:
    """What to write, and the content that decides its side; drawing is too slow to find that out afterwards."""
    while True:
        if source.chance(0.3):
            word = str(source.below(10 ** source.between(1, 5)))
        else:
            word = source.word() if source.chance(0.5) else source.coined()
        if len(word) <= _LONGEST and source.allowed(f"word {word}"):
            return source.pick((word, word.lower(), word.capitalize())), f"word {word}"
