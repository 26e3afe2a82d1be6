"""Separates a model's thought from its answer while both are streamed.

Boundary: ids and text pieces in, labelled text pieces out; knows nothing of sessions, templates or sampling.
Reasoning checkpoints write `<think>…</think>` before the answer. Some hold the two tags as single tokens, which a
detokenizer that skips control tokens would swallow, others spell them with ordinary tokens: a tag is recognised by its
id or by its text, wherever the text was cut into tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .stops import possible_start

OPEN, CLOSE = "<think>", "</think>"

Kind = Literal["answer", "thinking"]


@dataclass(frozen=True)
class ThoughtTags:
    """Token ids of the two tags, None where the vocabulary spells them with several tokens."""

    open_id: int | None = None
    close_id: int | None = None


def without_thought(text: str) -> str:
    """The answer in a whole text that may begin with a thought."""
    splitter = ThoughtSplitter(ThoughtTags())
    return "".join(part for kind, part in [*splitter.push(None, text), *splitter.flush()] if kind == "answer")


class ThoughtSplitter:
    """Labels the pieces of one answer; `thinking` is True where the prompt itself ends with the opening tag, `over`
    where it ends with the closing one.

    Only white space may come before the opening tag; later in an answer `<think>` is plain text, as inside a thought.
    """

    def __init__(self, tags: ThoughtTags, *, thinking: bool = False, over: bool = False) -> None:
        self._tags = tags
        self._held = ""
        self._thinking = thinking
        self._may_open = not (thinking or over)
        self._skip_space = thinking or over
        self._tokens = self._doubtful = 0

    @property
    def thinking(self) -> bool:
        """Whether the next text belongs to the thought."""
        return self._thinking

    @property
    def answering(self) -> bool:
        """Whether all text that comes next is answer: there was a thought, or it is too late for one."""
        return not self._thinking and not self._may_open

    @property
    def held(self) -> str:
        """The text that may yet turn out to be the beginning of a tag."""
        return self._held

    @property
    def tokens(self) -> int:
        """How many tokens the thought has so far, without those that make up its tags."""
        return self._tokens + self._doubtful

    def push(self, token_id: int | None, text: str) -> list[tuple[Kind, str]]:
        """The labelled pieces that are certain after this token; what might begin a tag is held back."""
        if token_id is None or not self._thinking:
            return self._label(token_id, text)
        pieces = self._label(token_id, text)
        if token_id == self._tags.close_id:
            self._tokens, self._doubtful = self.tokens, 0
        elif any(kind == "thinking" for kind, _ in pieces) or (self.thinking and not self._held):
            self._tokens, self._doubtful = self.tokens + 1, 0
        else:
            self._doubtful = self._doubtful + 1 if self.thinking else 0
        return pieces

    def _label(self, token_id: int | None, text: str) -> list[tuple[Kind, str]]:
        if token_id is not None and token_id == self._tags.open_id and self._may_open:
            return [*self.flush(), *self._enter()]
        if token_id is not None and token_id == self._tags.close_id and self._thinking:
            return [*self.flush(), *self._leave()]
        self._held += text
        pieces: list[tuple[Kind, str]] = []
        while (switched := self._switch()) is not None:
            pieces += switched
        return pieces + self._emit(self._certain())

    def flush(self) -> list[tuple[Kind, str]]:
        """What was held back, at the end of the answer."""
        return self._emit(len(self._held))

    def _switch(self) -> list[tuple[Kind, str]] | None:
        """Handle one complete tag in the held text, if there is one that counts."""
        tag = CLOSE if self._thinking else OPEN
        place = self._held.find(tag)
        if place < 0 or (not self._thinking and (not self._may_open or self._held[:place].strip())):
            return None
        pieces = self._emit(place) if self._thinking else []
        self._held = self._held[len(tag):] if self._thinking else self._held[place + len(tag):]
        pieces += self._leave() if self._thinking else self._enter()
        return pieces

    def _certain(self) -> int:
        """How many characters of the held text cannot be part of a tag any more."""
        if self._thinking:
            return len(self._held) - possible_start(self._held, (CLOSE,))
        if self._may_open and OPEN.startswith(self._held.lstrip()):
            return 0
        return len(self._held)

    def _enter(self) -> list[tuple[Kind, str]]:
        self._thinking, self._may_open, self._skip_space = True, False, True
        return []

    def _leave(self) -> list[tuple[Kind, str]]:
        self._thinking, self._skip_space = False, True
        return []

    def _emit(self, length: int) -> list[tuple[Kind, str]]:
        text, self._held = self._held[:length], self._held[length:]
        if self._skip_space:
            text = text.lstrip()
        if not text:
            return []
        self._skip_space = False
        if not self._thinking:
            self._may_open = False
        return [("thinking" if self._thinking else "answer", text)]
