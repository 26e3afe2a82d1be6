"""Colour and number of simple shapes."""

from __future__ import annotations

from PIL import ImageDraw

from ..example import Example, Mark
from ..source import Source
from .drawing import PALETTE, SIDE, Color, canvas, pictured, shade

NAME = "shapes"
RANGE = "1 to 5 circles, squares and triangles in 8 colours: how many of one kind, or the colour of the only one"
SHAPES = ("circle", "square", "triangle")

_GRID = 3
_CELL = SIDE / _GRID
_MANY = ("How many {what}s are there?", "Count the {what}s.", "How many {what}s do you see?")
_COLOR = ("What color is the {what}?", "Which color does the {what} have?", "What is the color of the {what}?")


def make(source: Source) -> Example:
    """Two circles and a square: `How many circles are there?` → `2`."""
    drawn, marks, image = [], [], None
    image, draw = canvas(source)
    for cell in sorted(source.several(range(_GRID**2), source.between(1, 5))):
        shape, color = source.pick(SHAPES), source.pick(tuple(PALETTE))
        box = _box(source, cell)
        _draw(draw, shape, box, shade(source, PALETTE[color], 15))
        drawn.append((color, shape, cell))
        marks.append(Mark(f"{color} {shape}", *box))
    question, answer = _ask(source, [(color, shape) for color, shape, _ in drawn])
    return pictured(NAME, image, question, answer, f"{drawn} {question.split()[-1]}", marks)


def _box(source: Source, cell: int) -> tuple[float, float, float, float]:
    size = source.between(22, 33)
    room = int(_CELL - size)
    left = cell % _GRID * _CELL + source.between(1, max(1, room))
    top = cell // _GRID * _CELL + source.between(1, max(1, room))
    return left, top, left + size, top + size


def _draw(draw: ImageDraw.ImageDraw, shape: str, box: tuple[float, float, float, float], color: Color) -> None:
    left, top, right, bottom = box
    if shape == "circle":
        draw.ellipse(box, fill=color)
    elif shape == "square":
        draw.rectangle(box, fill=color)
    else:
        draw.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=color)


def _ask(source: Source, drawn: list[tuple[str, str]]) -> tuple[str, str]:
    """A question with its answer; the colour is asked for where a shape is there once."""
    shapes = [shape for _, shape in drawn]
    alone = [(color, shape) for color, shape in drawn if shapes.count(shape) == 1]
    if alone and source.chance(0.5):
        color, shape = source.pick(alone)
        return source.pick(_COLOR).format(what=shape), color
    what = source.pick((*SHAPES, *shapes))
    return source.pick(_MANY).format(what=what), str(shapes.count(what))
