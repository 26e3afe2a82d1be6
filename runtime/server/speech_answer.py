"""Pieces → the answers of OpenAI's audio API.

Boundary: shapes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .event_stream import event
from .problems import Problem
from .writing import Sums, measurements

if TYPE_CHECKING:
    from ..session import Piece


class SpeechWriter:
    """One transcript or translation."""

    def __init__(self) -> None:
        self._sums = Sums()

    def begin(self) -> list[bytes]:
        """Nothing: the first event is text."""
        return []

    def push(self, number: int, piece: Piece) -> list[bytes]:
        """Text as soon as it is there."""
        self._sums.push(piece)
        return [event({"type": "transcript.text.delta", "delta": piece.text})] if piece.text else []

    def end(self) -> list[bytes]:
        """The whole text."""
        return [event({"type": "transcript.text.done", **self.whole()})]

    def failed(self, problem: Problem) -> list[bytes]:
        """The error, which OpenAI's clients raise."""
        return [event(problem.payload)]

    def whole(self) -> dict[str, object]:
        """The text and what it cost."""
        usage = self._sums.usage
        counts = {} if usage is None else {
            "type": "tokens",
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return {"text": self._sums.text.strip(), "usage": counts, "edgephi": measurements(usage)}
