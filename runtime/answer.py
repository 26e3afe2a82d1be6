"""From the token ids of one answer to its text: whole characters, thought apart, tool calls read, stops obeyed.

Boundary: puts thinking.py, tools.py and stops.py one behind the other; runs no model and knows no session.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .stops import StopScanner
from .thinking import ThoughtReader
from .tokens import Tokenizer
from .tools import MalformedCall, ToolCall, ToolCallScanner

Kind = Literal["answer", "thinking", "tool_call", "malformed_call"]


@dataclass(frozen=True)
class Part:
    """A stretch of the answer; `call` is the tool call that a part of kind "tool_call" writes out as JSON, `malformed`
    says why a part of kind "malformed_call" is none.
    """

    kind: Kind
    text: str
    call: ToolCall | None = None
    malformed: MalformedCall | None = None


class AnswerReader:
    """Reads one answer token by token. Stop strings count in the answer, not in a thought or a tool call."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], prompt: Sequence[int], *, tools: bool) -> None:
        """`prompt`: what the answer follows. `tools`: tool calls are expected. Raises RequestError for bad
        stops.
        """
        self._thought = ThoughtReader(tokenizer, prompt)
        self._calls = ToolCallScanner() if tools else None
        self._stops = StopScanner(stops)
        self.stopped = False

    @property
    def kind(self) -> Kind:
        """What text that comes next belongs to."""
        return "thinking" if self._thought.splitter.thinking else "answer"

    @property
    def thinking_tokens(self) -> int:
        """How many tokens the thought has so far, without those that make up its tags."""
        return self._thought.splitter.tokens

    def push(self, token_id: int) -> list[Part]:
        """What is certain after this token; nothing any more once `stopped`."""
        return self._read(self._thought.push(token_id))

    def flush(self) -> list[Part]:
        """What was held back, at the end of the answer."""
        parts = self._read(self._thought.flush())
        if self._calls is not None and not self.stopped:
            parts += self._events_of(None)
        if not self.stopped and (held := self._stops.flush()):
            parts.append(Part("answer", held))
        return parts

    def _read(self, pieces: Sequence[tuple[Literal["answer", "thinking"], str]]) -> list[Part]:
        parts: list[Part] = []
        for kind, text in pieces:
            if self.stopped:
                break
            if kind == "thinking":
                parts.append(Part(kind, text))
            elif self._calls is None:
                parts += self._scan(text)
            else:
                parts += self._events_of(text)
        return parts

    def _events_of(self, text: str | None) -> list[Part]:
        """Parts of the answer text, or of what is still held."""
        if self._calls is None:
            return []
        parts: list[Part] = []
        for event in self._calls.flush() if text is None else self._calls.push(text):
            if isinstance(event, ToolCall):
                written = json.dumps({"name": event.name, "arguments": event.arguments}, ensure_ascii=False)
                parts.append(Part("tool_call", written, event))
            elif isinstance(event, MalformedCall):
                parts.append(Part("malformed_call", event.text, malformed=event))
            elif not self.stopped:
                parts += self._scan(event.text)
        return parts

    def _scan(self, text: str) -> list[Part]:
        shown, self.stopped = self._stops.push(text)
        return [Part("answer", shown)] if shown else []
