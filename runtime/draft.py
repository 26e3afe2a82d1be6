"""Speculative drafting without a second model: guesses how a sequence goes on from what it already said.

Boundary: token ids in, token ids out; runs no model and knows no logits. The decode loop verifies a guess in one step
of several rows and keeps only what the model would have said itself, so a bad guess costs time, never correctness.

Every context of 16, 8, 4, 2 and 1 tokens remembers what followed it: the long ones find literal repetitions (prompt
lookup: Saxena 2023, "Prompt Lookup Decoding"), the short ones are statistics of the language of this sequence. A guess
follows the longest context that is known, token after token. How often contexts of each kind were right is counted at
every token of the answer, guessed or not, so what a guess would gain is known without trying it. What the model itself
says behind wrong guesses is not thrown away (recycled logits).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# Tokens of a context → how often its first guess is right, before anything was counted.
CONTEXTS = {16: 0.9, 8: 0.8, 4: 0.6, 2: 0.35, 1: 0.15}
MAXIMUM_DRAFT = 8
# Time of a step over 1, 2, ... rows against one row, at full Phi-4-mini shape on 2 threads while memory was slow; while
# it was fast, up to 2.85. Guesses by either table differ by a hundredth in speed. The clock is not asked: the same
# calls give the same steps and so the same rounding.
STEP_COST = (1.0, 1.1, 1.22, 1.32, 1.48, 1.6, 1.78, 1.92, 2.1)
LOOKED_BACK = 1 << 15  # tokens of a prompt that are learned from: more would take seconds
_BITS = 24  # of a token id in a context
_NO_TOKEN = (1 << _BITS) - 1
_SURE = 3  # a context that was right this often in a row is surest
_PRIOR_WEIGHT, _DECAY = 4.0, 0.97


@dataclass
class _Contexts:
    """What followed each context of one length: token · (_SURE + 1) + how sure, a counter that errors wear down."""

    mask: int
    prior: float
    after: dict[int, int] = field(default_factory=dict)
    right: list[float] = field(default_factory=lambda: [0.0] * (_SURE + 1))
    counted: list[float] = field(default_factory=lambda: [0.0] * (_SURE + 1))

    def learn(self, tail: int, token: int) -> None:
        key = tail & self.mask
        known, sure = divmod(self.after.get(key, -1), _SURE + 1)
        if known == token:
            sure = min(sure + 1, _SURE)
        elif sure == 0 or known < 0:
            known, sure = token, 0
        else:
            sure -= 1
        self.after[key] = known * (_SURE + 1) + sure

    def trust(self, sure: int) -> float:
        """The chance that such a guess is right."""
        return (self.right[sure] + _PRIOR_WEIGHT * self.prior) / (self.counted[sure] + _PRIOR_WEIGHT)

    def count(self, sure: int, right: bool) -> None:
        self.right[sure] = _DECAY * self.right[sure] + right
        self.counted[sure] = _DECAY * self.counted[sure] + 1


class Drafter:
    """Guesses the next tokens of one sequence, as many as pay; none where none does."""

    def __init__(self, prompt: Iterable[int] = ()) -> None:
        """Learn from the end of `prompt`; what is no token, a row of a picture, is negative."""
        self._kinds = [_Contexts((1 << _BITS * size) - 1, prior) for size, prior in CONTEXTS.items()]
        self._longest = self._kinds[0].mask
        self._tail = self._longest  # nothing but places without a token
        for token in list(prompt)[-LOOKED_BACK:]:
            self._append(token)

    def learn(self, made: Iterable[int]) -> None:
        """Append tokens of the answer."""
        for token in made:
            found = self._next(self._tail)
            if found is not None:
                kind, guess, sure = found
                kind.count(sure, guess == token)
            self._append(token)

    def recycle(self, wrong: Iterable[int], best: Iterable[int]) -> None:
        """Learn what the model would have said behind guesses that were `wrong`: its `best` token behind each.

        It takes the place of what followed such a token once only (recycled logits: Luo et al. 2024, "Turning Trash
        into Treasure: Accelerating Inference of Large Language Models with Token Recycling").
        """
        shortest = self._kinds[-1]
        for token, following in zip(wrong, best, strict=True):
            known, sure = divmod(shortest.after.get(token, 0), _SURE + 1)
            if known != following and sure == 0:
                shortest.after[token] = following * (_SURE + 1)

    def guess(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next: the number with the most tokens for the time of the step.

        A guess of n tokens yields 1 + p₁ + p₁p₂ + … tokens, where pᵢ is the chance that its i-th token is right.
        """
        tail, chance, tokens = self._tail, 1.0, 1.0
        guess: list[int] = []
        best, best_rate = 0, 1.0
        for length in range(1, min(limit, MAXIMUM_DRAFT) + 1):
            found = self._next(tail)
            if found is None or found[1] == _NO_TOKEN:
                break
            kind, token, sure = found
            chance *= kind.trust(sure)
            tokens += chance
            guess.append(token)
            tail = (tail << _BITS | token) & self._longest
            if tokens / STEP_COST[length] > best_rate:
                best, best_rate = length, tokens / STEP_COST[length]
        return guess[:best]

    def _append(self, token: int) -> None:
        token = token if token >= 0 else _NO_TOKEN
        for kind in self._kinds:
            kind.learn(self._tail, token)
        self._tail = (self._tail << _BITS | token) & self._longest

    def _next(self, tail: int) -> tuple[_Contexts, int, int] | None:
        """What follows the longest context that is known, and how sure that is."""
        for kind in self._kinds:
            known = kind.after.get(tail & kind.mask)
            if known is not None:
                return kind, *divmod(known, _SURE + 1)
        return None
