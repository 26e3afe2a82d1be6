"""What the picture tasks draw with: canvas, colours and fonts. Some fonts are kept for held-out pictures.

Fonts are those of Debian's packages fonts-dejavu-extra, fonts-liberation, fonts-freefont-ttf and fonts-noto-core
(training), fonts-open-sans and fonts-roboto-unhinted (held out); all are free. None is part of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ..example import Example, Mark
from ..source import Source

SIDE = 112  # one crop of the demo's checkpoint
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
PALETTE = {
    "red": (205, 30, 35),
    "green": (35, 150, 60),
    "blue": (35, 75, 200),
    "yellow": (240, 205, 40),
    "orange": (240, 130, 25),
    "purple": (130, 50, 160),
    "black": (25, 25, 25),
    "grey": (140, 140, 140),
}
Color = tuple[int, int, int]

TRAINING_FONTS = (
    *(f"DejaVu{name}.ttf" for name in ("Sans", "Sans-Bold", "Serif", "SansCondensed", "SansMono")),
    *(f"Liberation{name}.ttf" for name in ("Sans-Regular", "Sans-Bold", "Serif-Regular", "Serif-Bold", "Mono-Bold")),
    *(f"Free{name}.ttf" for name in ("Sans", "SansBold", "SerifBold")),
    *(f"Noto{name}.ttf" for name in ("Sans-Regular", "Sans-Bold", "Serif-Regular")),
)
HELD_OUT_FONTS = ("OpenSans-Regular.ttf", "OpenSans-Semibold.ttf", "Roboto-Regular.ttf", "Roboto-Medium.ttf")


class FontMissing(OSError):
    """A font that the pictures need is not installed."""


def pick_font(source: Source, size: int) -> ImageFont.FreeTypeFont:
    """A font of the source's side of the split. Raises FontMissing."""
    return font(source.pick(HELD_OUT_FONTS if source.held_out else TRAINING_FONTS), size)


@lru_cache(maxsize=1024)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """The font in this file, wherever the system keeps it. Raises FontMissing."""
    try:
        return ImageFont.truetype(name, size)
    except OSError as error:
        raise FontMissing(
            f"the font {name} is not installed; install Debian's packages fonts-dejavu-extra, fonts-liberation, "
            "fonts-freefont-ttf, fonts-noto-core, fonts-open-sans and fonts-roboto-unhinted, or their fonts"
        ) from error


def shade(source: Source, color: Color, spread: int) -> Color:
    """The colour, each of its channels moved by at most `spread` levels."""
    red, green, blue = (min(255, max(0, level + source.between(-spread, spread))) for level in color)
    return red, green, blue


def ink(source: Source) -> Color:
    """A colour for letters, most often black."""
    return shade(source, PALETTE[source.pick(("black", "black", "blue", "red"))], 25)


def canvas(source: Source, width: int = SIDE, height: int = SIDE) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A picture of a light background, and what draws on it."""
    level = source.between(225, 255)
    image = Image.new("RGB", (width, height), shade(source, (level, level, level), 6))
    return image, ImageDraw.Draw(image)


def letter_marks(
    text: str, font: ImageFont.FreeTypeFont, place: tuple[float, float], height: tuple[float, float]
) -> list[Mark]:
    """A mark for each letter of one line that begins at `place`; `height` is the line's top and bottom."""
    edges = [place[0] + font.getlength(text[:count]) for count in range(len(text) + 1)]
    return [Mark(letter, edges[at], height[0], edges[at + 1], height[1]) for at, letter in enumerate(text)]


def pictured(task: str, image: Image.Image, question: str, answer: str, content: str, marks: Sequence[Mark]) -> Example:
    """An example of one question about one picture."""
    parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return Example(task, ({"role": "user", "content": parts},), answer, content, tuple(marks))
