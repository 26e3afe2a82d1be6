"""What `edgephi demo` asks: one held-out example of each task, and whether the answer is the right one.

Boundary: messages, tools and expected answers in and out of a session; prints nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .tasks import TASKS, held_out
from .tasks.example import Example

if TYPE_CHECKING:
    from ..runtime.session import Piece, Session
    from ..runtime.usage import Usage

MAXIMUM_TOKENS = 160


@dataclass(frozen=True)
class Answer:
    """One answered example; `text` is what the model wrote in `seconds`, tool calls in the published format."""

    example: Example
    text: str
    right: bool
    finish_reason: str
    usage: Usage
    seconds: float


def examples(seed: int) -> list[Example]:
    """One held-out example of each task."""
    return [example for task in TASKS for example in held_out(task, 1, seed)]


def conversation(example: Example) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The example as a session takes it: messages, and the tools that its system turn offers."""
    turns = [dict(turn) for turn in example.turns]
    tools: list[dict[str, Any]] = json.loads(str(turns[0].pop("tools", "[]")))
    return turns, tools


def answer(session: Session, example: Example, show: Callable[[str], None]) -> Answer:
    """Answer one example greedily; `show` gets the text as it is made."""
    messages, tools = conversation(example)
    started = time.perf_counter()
    pieces: list[Piece] = []
    texts: list[str] = []
    for piece in session.stream(messages, tools=tools or None, temperature=0, max_tokens=MAXIMUM_TOKENS):
        pieces.append(piece)
        texts.append(f"<|tool_call|>[{piece.text}]<|/tool_call|>" if piece.call is not None else piece.text)
        show(texts[-1])
    last = pieces[-1]
    assert last.usage is not None and last.finish_reason is not None
    text = "".join(texts)
    right = text == example.answer and last.finish_reason == "stop"
    return Answer(example, text, right, last.finish_reason, last.usage, time.perf_counter() - started)
