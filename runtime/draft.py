"""Speculative drafting without a second model: guesses how a sequence goes on from what it already said.

Boundary: token ids in, token ids out; runs no model and knows no logits. The decode loop verifies a guess in one step
of several rows and keeps only what the model would have said itself, so a bad guess costs time, never correctness.
Prompt lookup: Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

LONGEST, SHORTEST = 4, 2
MAXIMUM_DRAFT = 8
# Time of a step over 1, 2, ... rows against one row, at full Phi-4-mini shape on 2 threads: where drafting starts from.
INITIAL_COST = (1.0, 1.15, 1.3, 1.45, 1.65, 1.8, 2.0, 2.2, 2.4)


class PromptLookup:
    """Continues a sequence with what followed the last earlier occurrence of its end, longest match first."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def extend(self, ids: Iterable[int]) -> None:
        """Append tokens of the sequence; the cost does not depend on its length."""
        for token in ids:
            for size in range(SHORTEST, LONGEST + 1):
                if len(self._ids) >= size:
                    self._after[tuple(self._ids[-size:])] = len(self._ids)
            self._ids.append(token)

    def reset(self, ids: Iterable[int]) -> None:
        """Start again with another sequence."""
        self._ids, self._after = [], {}
        self.extend(ids)

    def propose(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; empty where nothing repeats."""
        for size in range(min(LONGEST, len(self._ids)), SHORTEST - 1, -1):
            position = self._after.get(tuple(self._ids[-size:]))
            if position is not None:
                return self._from(position, limit)
        return []

    def _from(self, position: int, limit: int) -> list[int]:
        """What stands at `position`; runs on into its own guess where the repetition reaches the end."""
        guess: list[int] = []
        period = len(self._ids) - position
        while len(guess) < limit:
            index = position + len(guess)
            guess.append(self._ids[index] if index < len(self._ids) else guess[len(guess) - period])
        return guess


@dataclass
class DraftLength:
    """How many tokens to draft: as many as pay, by the acceptance and the step times seen so far; none when none pays.

    A guess of n tokens yields 1 + p + p² + … + pⁿ tokens for the cost of a step over n + 1 rows, where p is the chance
    that a drafted token is right. After a pause a short guess is tried again, ever more rarely while it keeps failing.
    """

    acceptance: float = 0.6
    cost: list[float] = field(default_factory=lambda: list(INITIAL_COST))
    _single: float | None = None
    _idle: int = 0
    _patience: int = 8

    def choose(self) -> int:
        """The number of tokens worth drafting now, 0 to MAXIMUM_DRAFT."""
        best = max(range(MAXIMUM_DRAFT + 1), key=self._yield_per_cost)
        if best:
            return best
        self._idle += 1
        if self._idle < self._patience:
            return 0
        self._idle, self._patience = 0, min(4 * self._patience, 256)
        return 1

    def observe(self, drafted: int, accepted: int, seconds: float) -> None:
        """Learn from one step that verified `drafted` tokens and kept `accepted` of them."""
        if drafted == 0:
            self._single = seconds if self._single is None else 0.9 * self._single + 0.1 * seconds
            return
        tried = min(drafted, accepted + 1)
        weight = 0.85**tried
        self.acceptance = weight * self.acceptance + (1 - weight) * accepted / tried
        if accepted == drafted:
            self._patience = 8
        if self._single is not None and drafted < len(self.cost):
            self.cost[drafted] = 0.8 * self.cost[drafted] + 0.2 * max(1.0, seconds / self._single)

    def _yield_per_cost(self, drafted: int) -> float:
        expected = sum(self.acceptance**power for power in range(drafted + 1))
        return expected / self.cost[drafted]
