"""Pieces → OpenAI's text_completion, one choice for each prompt.

Boundary: shapes alone. This API has no place for thoughts: they are part of the text, without their tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from .event_stream import DONE, event
from .problems import Problem
from .writing import Head, Logprobs, Sums, chat_usage, own_facts

if TYPE_CHECKING:
    from ..session import Piece


class CompletionWriter:
    """The answers to all prompts of a request. `echoes` are texts that come before them, `logprobs` one reader each."""

    def __init__(
        self, head: Head, echoes: Sequence[str], logprobs: Sequence[Logprobs] | None, *, include_usage: bool
    ) -> None:
        self._head = head
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._sums = [Sums() for _ in echoes]
        self._echoes = echoes
        self._texts = list(echoes)
        self._entries: list[list[dict[str, Any]]] = [[] for _ in echoes]
        self._offsets: list[list[int]] = [[] for _ in echoes]

    def begin(self) -> list[bytes]:
        """The prompts, where asked for."""
        return [self._chunk(number, echo, []) for number, echo in enumerate(self._echoes) if echo]

    def push(self, number: int, piece: Piece) -> list[bytes]:
        """Text as soon as it is there; at the end the reason."""
        self._sums[number].push(piece)
        entries = [] if self._logprobs is None else self._logprobs[number].push(piece)
        at = len(self._texts[number])
        for entry in entries:
            self._offsets[number].append(at)
            at += len(str(entry["token"]))
        self._entries[number] += entries
        self._texts[number] += piece.text
        if not piece.text and piece.finish_reason is None:
            return []
        return [self._chunk(number, piece.text, entries, piece.finish_reason)]

    def end(self) -> list[bytes]:
        """The usage where asked for, and OpenAI's mark of the end."""
        if not self._include_usage:
            return [DONE]
        return [event(self._frame([]) | {"usage": chat_usage(*self._sums)}), DONE]

    def failed(self, problem: Problem) -> list[bytes]:
        """The error, which OpenAI's clients raise."""
        return [event(problem.payload)]

    def response(self, headers: Mapping[str, str]) -> Response:
        """A text_completion."""
        choices = [
            self._choice(number, text, self._entries[number], self._offsets[number], self._sums[number].finish)
            for number, text in enumerate(self._texts)
        ]
        frame = self._frame(choices) | {"usage": chat_usage(*self._sums)}
        return JSONResponse(frame | {"edgephi": own_facts(self._sums[-1])}, headers=headers)

    def _chunk(self, number: int, text: str, entries: list[dict[str, Any]], finish: str | None = None) -> bytes:
        offsets = self._offsets[number][len(self._offsets[number]) - len(entries) :]
        frame = self._frame([self._choice(number, text, entries, offsets, finish)])
        return event(frame | ({"usage": None} if self._include_usage else {}))

    def _choice(
        self, number: int, text: str, entries: list[dict[str, Any]], offsets: list[int], finish: str | None
    ) -> dict[str, object]:
        logprobs = None
        if self._logprobs is not None:
            logprobs = {
                "tokens": [entry["token"] for entry in entries],
                "token_logprobs": [entry["logprob"] for entry in entries],
                "top_logprobs": _alternatives(entries),
                "text_offset": offsets,
            }
        return {"text": text, "index": number, "logprobs": logprobs, "finish_reason": finish}

    def _frame(self, choices: list[Any]) -> dict[str, object]:
        head = self._head
        return {
            "id": head.id, "object": "text_completion", "created": head.created, "model": head.model,
            "system_fingerprint": head.fingerprint, "choices": choices,
        }


def _alternatives(entries: list[dict[str, Any]]) -> list[dict[str, float]] | None:
    """The likeliest tokens at the place of each, where asked for; of two that read alike the likelier one."""
    if not any(entry["top_logprobs"] for entry in entries):
        return None
    return [{other["token"]: other["logprob"] for other in reversed(entry["top_logprobs"])} for entry in entries]
