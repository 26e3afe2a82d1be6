"""Conversations that take turns on one session: the keys and values of one are kept while another is answered.

Boundary: decides what is worth a copy and which copy to bring back; that a copy fits a prompt is for the session to
find out, which compares positions. So a wrong guess here costs time and never an answer.

A session computes only what a prompt does not share with what it did last. Two conversations in turn share little, and
each turn would compute a whole conversation again. Copying costs about a thousandth of that, so whatever another
conversation is about to overwrite is copied first, as far as the budget of bytes goes, the least recently used going
first. A conversation alone never pays for a copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..messages import Message

if TYPE_CHECKING:
    from ..session import Kept

WORTH = 512  # characters, about a hundred tokens: less is computed again as fast as it is copied
_PIECE = 256


class Rewindable(Protocol):
    """The part of a session that is needed here."""

    def snapshot(self) -> Kept:
        """A copy of what is cached."""

    def restore(self, kept: Kept) -> None:
        """Return to a copy."""


@dataclass(frozen=True)
class Conversation:
    """A prompt as a chain of steps: each digest stands for all that was said up to it, each size for its characters."""

    digests: tuple[bytes, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of_messages(
        cls, messages: Sequence[Message], tools: Sequence[Mapping[str, object]], variables: Mapping[str, object]
    ) -> Conversation:
        """One step for each message; tools and variables come before all of them in every template."""
        start = json.dumps([list(tools), dict(variables)], sort_keys=True, default=_digest_of)
        return cls._of([start, *(json.dumps(dict(item), sort_keys=True, default=_digest_of) for item in messages)])

    @classmethod
    def of_prompt(cls, prompt: str | Sequence[int]) -> Conversation:
        """One step for every few characters or token ids."""
        starts = range(0, len(prompt), _PIECE)
        return cls._of([str(prompt[start : start + _PIECE]) for start in starts])

    @classmethod
    def _of(cls, steps: Sequence[str]) -> Conversation:
        digests: list[bytes] = []
        for step in steps:
            before = digests[-1] if digests else b""
            digests.append(hashlib.sha256(before + step.encode("utf-8", "surrogatepass")).digest())
        return cls(tuple(digests), tuple(map(len, steps)))

    @property
    def size(self) -> int:
        """Characters of the whole."""
        return sum(self.sizes)

    def shared(self, other: Conversation) -> int:
        """Characters that both begin with."""
        pairs = zip(self.digests, other.digests, strict=False)
        steps = next((index for index, (mine, its) in enumerate(pairs) if mine != its), None)
        return sum(self.sizes[: min(len(self.digests), len(other.digests)) if steps is None else steps])


@dataclass(frozen=True)
class _Copy:
    conversation: Conversation
    kept: Kept
    size: int


class Shelf:
    """Copies of conversations that one session was interrupted in, in the order of their last use."""

    def __init__(self, budget: int, bytes_per_token: int) -> None:
        """`budget` in bytes; 0 keeps nothing. `bytes_per_token` of keys and values, at most."""
        self._budget = budget
        self._bytes_per_token = bytes_per_token
        self._copies: list[_Copy] = []
        self._live: Conversation | None = None
        self._live_tokens = 0

    @property
    def size(self) -> int:
        """Bytes that the copies take."""
        return sum(copy.size for copy in self._copies)

    def prepare(self, session: Rewindable, coming: Conversation) -> None:
        """Make `session` hold what is known of the beginning of `coming`, and keep what that overwrites."""
        shared = 0 if self._live is None else self._live.shared(coming)
        found = max(self._copies, key=lambda copy: copy.conversation.shared(coming), default=None)
        better = found is not None and found.conversation.shared(coming) >= shared + WORTH
        if self._live is not None and self._live.size - shared >= WORTH:
            self._keep(session, self._live)
        if better and found is not None:
            self._copies = [copy for copy in self._copies if copy is not found]
            session.restore(found.kept)
        self._live, self._live_tokens = coming, 0

    def computed(self, tokens: int) -> None:
        """What `prepare` announced is in the session now, with its answer, `tokens` in all."""
        self._live_tokens = tokens

    def clear(self) -> None:
        """Forget everything; the session is gone."""
        self._copies.clear()
        self._live, self._live_tokens = None, 0

    def _keep(self, session: Rewindable, conversation: Conversation) -> None:
        size = self._live_tokens * self._bytes_per_token
        if not 0 < size <= self._budget:
            return
        # An earlier state of the same conversation is of no more use.
        self._copies = [
            copy for copy in self._copies if copy.conversation.digests[-1] not in conversation.digests
        ]
        while self._copies and self.size + size > self._budget:
            del self._copies[0]
        try:
            copied = session.snapshot()
        except MemoryError:
            self._copies.clear()
            return
        taken = sum(array.nbytes for array in copied.snapshot.arrays)
        self._copies.append(_Copy(conversation, copied, max(size, taken)))


def _digest_of(value: object) -> str:
    """Media are bytes, which JSON does not know."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)
