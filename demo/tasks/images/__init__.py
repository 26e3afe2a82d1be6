"""Questions about generated pictures: one file a task, like the tasks of text.

Needs Pillow and the fonts of drawing.py. The picture is a content part of the question's turn, as a session takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..example import Example
from ..source import Source
from . import buttons, chart, lettering, shapes
from .drawing import LETTERS, PALETTE

_MODULES = (lettering, shapes, chart, buttons)

TASKS: Mapping[str, Callable[[Source], Example]] = {module.NAME: module.make for module in _MODULES}
RANGES: Mapping[str, str] = {module.NAME: module.RANGE for module in _MODULES}

# What marks can say, in a fixed order: the first is for where nothing is.
LABELS = (
    "", *LETTERS,
    *(f"{color} {thing}" for thing in (*shapes.SHAPES, buttons.BUTTON) for color in PALETTE),
    *(f"{chart.BAR} {value}" for value in chart.VALUES),
)  # fmt: skip


def draw(task: str, source: Source) -> Example:
    """An example of this task whose content is on the source's side of the split."""
    while True:
        example = TASKS[task](source)
        if source.allowed(example.content):
            return example
