"""What a session hands out: pieces of an answer, the whole of it, and what it cost.

Boundary: data, and the clock of one answer; nothing here runs a model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .answer import Kind
from .generation import Step
from .memory import peak_memory
from .tools import MalformedCall, ToolCall, answer_message

TopLogprobs: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Usage:
    """The cost of one answer. Rates are tokens per second, None where nothing was measured; times are seconds.

    `prompt_tokens` counts all of the prompt, `cached_tokens` those of it that were known from the turn before or the
    prefix cache.
    `recomputed_tokens` were known too and had to be computed again in `recompute_seconds`, because the conversation
    crossed the length up to which a LongRoPE model uses its short rotary table; `decode_rate` leaves that time out.
    `drafted_tokens` of the answer were guessed and cost no step of their own. `thinking_tokens` of it are its thought,
    without the tags around that. `encoder_devices`: what encoded its media, by "vision" and "speech"; `device` did the
    rest.
    `peak_memory` is the largest resident set of the process so far in bytes, mapped files included; 0 where unknown.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    time_to_first_token: float | None
    prefill_rate: float | None
    decode_rate: float | None
    recomputed_tokens: int
    recompute_seconds: float
    peak_memory: int
    device: str
    threads: int
    drafted_tokens: int = 0
    thinking_tokens: int = 0
    encoder_devices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer as it is made.

    Every token gives at least one piece, with empty text while a character or a possible stop string is incomplete;
    text that a token completes beyond that comes in further pieces without a `token_id`. `logprob` is the natural
    logarithm of the token's probability under the model, where asked for, `top_logprobs` the likeliest tokens at its
    place and theirs, best first. `kind` is "answer", "thinking", "tool_call" (then `call` is set and `text` is its
    JSON) or "malformed_call": what was begun as a call and cannot be read as one, with the reason in `malformed`. The
    last piece alone has `finish_reason` ("stop", "length" or "cancelled") and `usage`.
    """

    text: str
    token_id: int | None
    logprob: float | None
    kind: Kind
    call: ToolCall | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    malformed: MalformedCall | None = None
    top_logprobs: TopLogprobs | None = None


@dataclass(frozen=True)
class Reply:
    """A whole answer: `text` without thoughts and tool calls; `token_ids` (and `logprobs`, `top_logprobs`) with the end
    token, if one came. `malformed_calls` could not be read as calls.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[float, ...] | None = None
    malformed_calls: tuple[MalformedCall, ...] = ()
    top_logprobs: tuple[TopLogprobs, ...] | None = None

    @property
    def message(self) -> dict[str, object]:
        """The answer as the message that the next turn of the conversation brings along."""
        return answer_message(self.text, self.tool_calls)


def joined(pieces: Sequence[Piece], *, logprobs: bool, top_logprobs: bool) -> Reply:
    """The answer that all the pieces of one stream make; `logprobs`, `top_logprobs`: they were asked for."""
    last, made = pieces[-1], [piece for piece in pieces if piece.token_id is not None]
    assert last.finish_reason is not None and last.usage is not None
    found = tuple(piece.logprob for piece in made if piece.logprob is not None)
    return Reply(
        text="".join(piece.text for piece in pieces if piece.kind == "answer"),
        token_ids=tuple(piece.token_id for piece in made if piece.token_id is not None),
        finish_reason=last.finish_reason,
        usage=last.usage,
        thinking="".join(piece.text for piece in pieces if piece.kind == "thinking"),
        tool_calls=tuple(piece.call for piece in pieces if piece.call is not None),
        logprobs=found if logprobs else None,
        malformed_calls=tuple(piece.malformed for piece in pieces if piece.malformed is not None),
        top_logprobs=tuple(piece.top_logprobs or () for piece in made) if top_logprobs else None,
    )


class Meter:
    """Measures one answer: the time that its steps take, not what the caller does between them."""

    def __init__(self, prompt_tokens: int, spent: float) -> None:
        """`spent`: seconds that went into the prompt already."""
        self._prompt = prompt_tokens
        self._spent = spent
        self._first: Step | None = None
        self._first_seconds = self._later_seconds = self._recompute_seconds = 0.0
        self._tokens = self._recomputed = self._drafted = 0

    def timed(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The same steps, measured."""
        while True:
            started = time.perf_counter()
            step = next(steps, None)
            seconds = time.perf_counter() - started
            if step is None:
                return
            self._tokens += 1
            self._drafted += step.drafted
            if step.work.recomputed:
                self._recomputed += step.work.recomputed
                self._recompute_seconds += step.work.seconds
            if self._first is None:
                self._first, self._first_seconds = step, seconds
            else:
                self._later_seconds += seconds - (step.work.seconds if step.work.recomputed else 0.0)
            yield step

    def usage(
        self, device: str, threads: int, thinking_tokens: int = 0, encoder_devices: Mapping[str, str] = {}
    ) -> Usage:
        """The measurements so far, and what was counted elsewhere."""
        first, later = self._first, self._tokens - 1
        return Usage(
            prompt_tokens=self._prompt,
            cached_tokens=0 if first is None else first.work.reused,
            completion_tokens=self._tokens,
            time_to_first_token=None if first is None else self._spent + self._first_seconds,
            prefill_rate=None if first is None else first.work.computed / first.work.seconds,
            decode_rate=later / self._later_seconds if later > 0 and self._later_seconds > 0 else None,
            recomputed_tokens=self._recomputed,
            recompute_seconds=self._recompute_seconds,
            peak_memory=peak_memory(),
            device=device,
            threads=threads,
            drafted_tokens=self._drafted,
            thinking_tokens=thinking_tokens,
            encoder_devices=dict(encoder_devices),
        )
