"""All tasks with pictures or recordings, by name, beside the tasks of text. Needs Pillow, fonts and espeak-ng."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import images, speech, spoken
from .example import Example
from .source import Source

TASKS: Mapping[str, Callable[[Source], Example]] = {**images.TASKS, **speech.TASKS, spoken.NAME: spoken.make}
RANGES: Mapping[str, str] = {**images.RANGES, **speech.RANGES, spoken.NAME: spoken.RANGE}


def held_out(task: str, count: int, seed: int) -> list[Example]:
    """The first `count` held-out examples of this task and seed: unseen words, sentences, fonts and voices."""
    source = Source(f"held-out {seed} {task}", held_out=True)
    if task in images.TASKS:
        return [images.draw(task, source) for _ in range(count)]
    return [TASKS[task](source) for _ in range(count)]
