"""Pieces → OpenAI's chat.completion and chat.completion.chunk.

Boundary: shapes alone. Thoughts go by both names that clients know: `reasoning_content` and `reasoning`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from .event_stream import DONE, event
from .problems import Problem
from .writing import Head, Logprobs, Sums, chat_usage, malformed, own_facts

if TYPE_CHECKING:
    from ..session import Piece, ToolCall


class ChatWriter:
    """One chat answer. `logprobs` is None where nobody asked for them."""

    def __init__(self, head: Head, logprobs: Logprobs | None, *, include_usage: bool) -> None:
        self._head = head
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._sums = Sums()
        self._entries: list[dict[str, object]] = []

    def begin(self) -> list[bytes]:
        """The role."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def push(self, number: int, piece: Piece) -> list[bytes]:
        """Text, thought or call as soon as it is there; at the end the reason, and the usage where asked for."""
        self._sums.push(piece)
        entries = [] if self._logprobs is None else self._logprobs.push(piece)
        self._entries += entries
        events = []
        if piece.call is not None:
            events += self._call_chunks(piece.call)
        elif piece.malformed is not None:
            events.append(self._chunk({}, facts={"malformed_tool_calls": malformed([piece.malformed])}))
        elif piece.text and piece.kind == "thinking":
            events.append(self._chunk({"reasoning_content": piece.text, "reasoning": piece.text}))
        elif piece.text:
            events.append(self._chunk({"content": piece.text}, entries=entries))
        if piece.finish_reason is not None:
            events.append(self._chunk({}, finish=self._finish))
        return events

    def end(self) -> list[bytes]:
        """The usage where asked for, and OpenAI's mark of the end."""
        if not self._include_usage:
            return [DONE]
        frame = self._frame("chat.completion.chunk", [])
        return [event(frame | {"usage": chat_usage(self._sums), "edgephi": own_facts(self._sums)}), DONE]

    def failed(self, problem: Problem) -> list[bytes]:
        """The error, which OpenAI's clients raise."""
        return [event(problem.payload)]

    def response(self, headers: Mapping[str, str]) -> Response:
        """A chat.completion."""
        sums = self._sums
        message: dict[str, object] = {"role": "assistant", "content": sums.text, "refusal": None}
        if sums.thinking:
            message |= {"reasoning_content": sums.thinking, "reasoning": sums.thinking}
        if sums.calls or sums.malformed:
            message["content"] = sums.text or None
        if sums.calls:
            message["tool_calls"] = [
                {"id": name, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
                for name, call in sums.calls
            ]
        logprobs = None if self._logprobs is None else {"content": self._entries, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": self._finish}
        frame = self._frame("chat.completion", [choice])
        whole = frame | {"usage": chat_usage(sums), "edgephi": own_facts(sums)}
        return JSONResponse(whole, headers=headers)

    @property
    def _finish(self) -> str | None:
        return "tool_calls" if self._sums.calls and self._sums.finish == "stop" else self._sums.finish

    def _call_chunks(self, call: ToolCall) -> list[bytes]:
        """Name and id once, the arguments behind them, both under the same index."""
        name, _ = self._sums.calls[-1]
        opening = {"id": name, "type": "function", "function": {"name": call.name, "arguments": ""}}
        return [
            self._chunk({"tool_calls": [{"index": call.index, **part}]})
            for part in (opening, {"function": {"arguments": _arguments(call)}})
        ]

    def _chunk(
        self, delta: dict[str, Any], *, finish: str | None = None, entries: list[Any] | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> bytes:  # fmt: skip
        logprobs = {"content": entries, "refusal": None} if entries else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        own = {} if facts is None else {"edgephi": facts}
        usage = {"usage": None} if self._include_usage else {}
        return event(self._frame("chat.completion.chunk", [choice]) | usage | own)

    def _frame(self, kind: str, choices: list[Any]) -> dict[str, object]:
        head = self._head
        return {
            "id": head.id, "object": kind, "created": head.created, "model": head.model,
            "system_fingerprint": head.fingerprint, "choices": choices,
        }


def _arguments(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)
