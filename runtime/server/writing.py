"""What the answers of all endpoints have in common: identity, sums over pieces, usage, logarithms of tokens.

Boundary: pieces in, plain data out; the shapes of each API are in its own *_answer.py.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from starlette.responses import Response

from ..tokens import Tokenizer
from .bundles import Bundle
from .problems import Problem

if TYPE_CHECKING:
    from ..session import Piece, Usage
    from ..tools import MalformedCall, ToolCall


P = TypeVar("P", contravariant=True)


class Writer(Protocol[P]):
    """Turns what a session makes of one request into one API's shapes. Events are complete server-sent events."""

    def begin(self) -> list[bytes]:
        """Events before the first part."""

    def push(self, number: int, made: P, /) -> list[bytes]:
        """Events for a part of answer `number`."""

    def end(self) -> list[bytes]:
        """Events behind the last part."""

    def failed(self, problem: Problem) -> list[bytes]:
        """Events for an error in the midst."""

    def response(self, headers: Mapping[str, str]) -> Response:
        """The answer as a whole, once all parts were pushed."""


@dataclass(frozen=True)
class Head:
    """What every part of an answer repeats."""

    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, prefix: str, bundle: Bundle) -> Head:
        """The head of an answer that begins now."""
        return cls(new_id(prefix), int(time.time()), bundle.name, bundle.fingerprint)


def new_id(prefix: str) -> str:
    """An identifier that nobody can guess."""
    return f"{prefix}{secrets.token_hex(12)}"


@dataclass
class Sums:
    """An answer so far."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, ToolCall]] = field(default_factory=list)
    malformed: list[MalformedCall] = field(default_factory=list)
    finish: str | None = None
    usage: Usage | None = None

    def push(self, piece: Piece) -> None:
        """Count a piece."""
        if piece.kind == "answer":
            self.text += piece.text
        elif piece.kind == "thinking":
            self.thinking += piece.text
        if piece.call is not None:
            self.calls.append((new_id("call_"), piece.call))
        if piece.malformed is not None:
            self.malformed.append(piece.malformed)
        if piece.finish_reason is not None:
            self.finish, self.usage = piece.finish_reason, piece.usage


def chat_usage(*answers: Sums) -> dict[str, object]:
    """OpenAI's usage of one or several answers to one request."""
    usages = [answer.usage for answer in answers if answer.usage is not None]
    prompt, made = sum(usage.prompt_tokens for usage in usages), sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.thinking_tokens for usage in usages)},
    }


def own_facts(answer: Sums) -> Mapping[str, object]:
    """What OpenAI's shapes have no place for: what the answer cost beyond its usage (device, threads, times, rates,
    memory), and `malformed_tool_calls`: the text of what was begun as a call and is none, and why.
    """
    if answer.usage is None:
        return {}
    told = ("prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens")
    facts = {name: value for name, value in dataclasses.asdict(answer.usage).items() if name not in told}
    return facts | ({"malformed_tool_calls": malformed(answer.malformed)} if answer.malformed else {})


def malformed(calls: Sequence[MalformedCall]) -> list[dict[str, object]]:
    """Calls that could not be read, as plain data."""
    return [dataclasses.asdict(call) for call in calls]


class Logprobs:
    """Entries for the tokens of an answer, given out with the text that they complete.

    Tokens of thoughts, of tool calls and of a stop string have none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[dict[str, object]] = []

    def push(self, piece: Piece) -> list[dict[str, object]]:
        """The entries that go with the text of `piece`."""
        token_id = piece.token_id
        if piece.kind == "answer" and token_id is not None and piece.logprob is not None:
            unseen = not piece.text and token_id in self._tokenizer.control_ids
            if not unseen:
                others = [self._entry(*pair) for pair in piece.top_logprobs or ()]
                self._held.append(self._entry(token_id, piece.logprob) | {"top_logprobs": others})
        if piece.kind != "answer" or not piece.text:
            return []
        given, self._held = self._held, []
        return given

    def _entry(self, token_id: int, logprob: float) -> dict[str, object]:
        raw = self._tokenizer.token_bytes(token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}
