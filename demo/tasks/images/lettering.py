"""Reading one word or number."""

from __future__ import annotations

from ..example import Example
from ..source import Source
from .drawing import SIDE, canvas, ink, letter_marks, pick_font, pictured

NAME = "read"
RANGE = "one coined word of 4 or 5 small letters or one number of up to 4 digits, in fonts that were never seen"

_QUESTIONS = (
    "What does it say?",
    "What does the sign say?",
    "Read the text.",
    "What is written here?",
    "Read this.",
    "Which word or number is this?",
)
_MARGIN = 5
_LONGEST = 5  # letters
_SIZES = ((SIDE, SIDE), (2 * SIDE, SIDE), (SIDE, SIDE // 2))  # one crop, two, and one of which half is padding


def make(source: Source) -> Example:
    """A picture of `fobu` and `What does it say?` → `fobu`."""
    text, content = _text(source)
    width, height = source.weighted(_SIZES, (8, 1, 1))
    image, draw = canvas(source, width, height)
    font = pick_font(source, size := source.between(28, 40))
    while True:
        _, top, right, bottom = font.getbbox(text)
        if right <= width - 2 * _MARGIN and bottom <= height - 2 * _MARGIN:
            break
        size -= 1
        font = font.font_variant(size=size)
    x = source.between(_MARGIN, int(width - _MARGIN - right))
    y = source.between(_MARGIN, int(height - _MARGIN - bottom))
    draw.text((x, y), text, fill=ink(source), font=font)
    marks = letter_marks(text, font, (x, y), (y + top, y + bottom))
    return pictured(NAME, image, source.pick(_QUESTIONS), text, content, marks)


def _text(source: Source) -> tuple[str, str]:
    """What to write, and the content that decides its side; drawing is too slow to find that out afterwards."""
    number = source.chance(0.35)  # first, so that both sides of the split have as many
    while True:
        word = str(source.below(10 ** source.between(1, 4))) if number else source.coined()
        if len(word) <= _LONGEST and source.allowed(f"word {word}"):
            return word, f"word {word}"
