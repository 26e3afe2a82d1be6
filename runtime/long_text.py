"""Texts that are longer than the context: cut where a reader would, and condensed part by part.

Boundary: text in, parts out; what is asked about a part, and how, is the caller's. A session only counts tokens here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from .errors import ContextOverflow
from .messages import Message
from .usage import Reply

# Where a text may be cut, the best places first: behind an empty line, a line, a sentence, a word.
_SENTENCE = r"[.!?…]['\")\]]*\s+|[\u3002\uff01\uff1f]"  # the last three are those of Chinese and Japanese
_PLACES = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", _SENTENCE, r"\s+"))
_MIDDLE = 0.25  # a place counts if it leaves each half at least so much of the text

Ask = Callable[[str], Sequence[Message]]
# Prompt, most tokens of the answer, whether it is the last one.
Answer = Callable[[Sequence[Message], int, bool], Reply]


class Counting(Protocol):
    """What is needed of a session."""

    @property
    def context(self) -> int:
        """Longest conversation, in tokens."""

    def encode(self, prompt: Sequence[Message], /) -> list[int]:
        """The token ids of a prompt."""


def split_to_fit(session: Counting, text: str, ask: Ask, room: Callable[[int], int]) -> list[str]:
    """The text in parts, joined they are it, each of which `ask` turns into a prompt that leaves `room(prompt)` tokens.

    `room` is told the tokens of the prompt. Raises ContextOverflow where not even a character would.
    """
    prompt = len(session.encode(ask(text)))
    if prompt + room(prompt) <= session.context:
        return [text]
    if len(text) < 2:
        raise ContextOverflow(
            f"the context of {session.context} tokens has no room for what is asked about a text: load the bundle with"
            " a larger context"
        )
    at = _place(text)
    return [part for half in (text[:at], text[at:]) for part in split_to_fit(session, half, ask, room)]


def condense(session: Counting, text: str, ask: Ask, room: int, answer: Answer, whole: Ask | None = None) -> Reply:
    """One answer about all of the text: if it does not fit, about the answers about its parts, and so on.

    `ask` makes the prompt about a part, `whole` the last one, by default the same; every answer may take `room` tokens.
    Returns a cancelled answer as it is. Raises ContextOverflow where answers are no shorter than what they are about.
    """
    last = ask if whole is None else whole
    while len(split_to_fit(session, text, last, lambda _: room)) > 1:
        replies = []
        for part in split_to_fit(session, text, ask, lambda _: room):
            replies.append(answer(ask(part), room, False))
            if replies[-1].finish_reason == "cancelled":
                return replies[-1]
        shorter = "\n".join(reply.text.strip() for reply in replies)
        if len(shorter) >= len(text):
            raise ContextOverflow(
                f"a text of {len(text)} characters does not fit the context of {session.context} tokens, nor do"
                " summaries of its parts: load the bundle with a larger context"
            )
        text = shorter
    return answer(last(text), room, True)


def _place(text: str) -> int:
    """Where to cut a text of at least two characters in two: near its middle, at the best place that is there."""
    middle, margin = len(text) // 2, int(len(text) * _MIDDLE)
    for place in _PLACES:
        ends = [found.end() for found in place.finditer(text, margin) if found.end() <= len(text) - max(1, margin)]
        if ends:
            return min(ends, key=lambda end: abs(end - middle))
    return middle
