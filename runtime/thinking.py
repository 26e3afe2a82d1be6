"""Thoughts on demand: what behind a prompt opens or skips the thought of its answer, and whether one is open already.

Boundary: token ids in and out; the text of an answer is split by reasoning.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from .reasoning import CLOSE, OPEN
from .tokens import Tokenizer


def opening(
    tokenizer: Tokenizer, prompt: Sequence[int], think: bool | None, skip: str | None = None
) -> list[int]:
    """What to put behind a prompt so that its answer thinks (True), does not (False), or does as it likes (None).

    `skip` is the control token with which a model was trained to begin an answer without a thought (the manifest's
    `thinking.skip`). Another model cannot be asked not to think but by a thought that is over already.
    """
    opened = inside_thought(tokenizer, prompt)
    if think is None or (think and opened):
        return []
    if not think and not opened and skip is not None:
        return _tag(tokenizer, skip)
    return [*([] if opened else _tag(tokenizer, OPEN)), *([] if think else _tag(tokenizer, CLOSE))]


def inside_thought(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends with the opening tag of a thought, as some templates write it."""
    return tokenizer.decode(prompt[-8:], skip_special=False).rstrip().endswith(OPEN)


def _tag(tokenizer: Tokenizer, text: str) -> list[int]:
    """The token that is the tag, or the tokens that spell it."""
    number = tokenizer.control_id(text)
    return tokenizer.encode_text(text) if number is None else [number]
