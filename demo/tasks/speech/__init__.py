"""Spoken requests: one file a task, like the tasks of text. Needs espeak-ng (see voices.py).

The recording is a content part of the question's turn, as a session takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..example import Example
from ..source import Source
from . import commands, digits, sentences, translation

_MODULES = (digits, sentences, commands, translation)

TASKS: Mapping[str, Callable[[Source], Example]] = {module.NAME: module.make for module in _MODULES}
RANGES: Mapping[str, str] = {module.NAME: module.RANGE for module in _MODULES}
WORDS = tuple(sorted({word for module in _MODULES for word in module.WORDS}))
