"""Generated tasks with checkable answers: one file a task. Standard library only.

A task is a module with NAME, RANGE (what it covers, in words) and `make(source) -> Example`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import addition, columns, copying, counting, followup, reading, results, reversing, sorting, story, talk, tools
from .example import Example
from .source import Source

_MODULES = (addition, columns, copying, reversing, sorting, counting, reading, followup, tools, results, story, talk)

TASKS: Mapping[str, Callable[[Source], Example]] = {module.NAME: module.make for module in _MODULES}
RANGES: Mapping[str, str] = {module.NAME: module.RANGE for module in _MODULES}


def held_out(task: str, count: int, seed: int) -> list[Example]:
    """The first `count` held-out examples of this task and seed: nothing like them was trained on."""
    source = Source(f"held-out {seed} {task}", held_out=True)
    return [draw(task, source) for _ in range(count)]


def draw(task: str, source: Source) -> Example:
    """An example of this task whose content is on the source's side of the split."""
    make = TASKS[task]
    while True:
        example = make(source)
        if source.allowed(example.content):
            return example
