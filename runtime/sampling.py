"""From logits to the next token: greedy or drawn, in numpy alone.

Boundary: one row of logits in, one token id out; knows no model and no text. Filters mean what those of transformers
mean and are applied in its order: repetition penalty, temperature, top-k, top-p, min-p; the two penalties of OpenAI's
API come behind the first, what a constraint forbids is left out before the temperature. No pass sorts the whole
vocabulary unless the distribution is flat.

Repetition penalty: Keskar et al. 2019 (arXiv 1909.05858); top-p: Holtzman et al. 2019 (arXiv 1904.09751);
min-p: Nguyen et al. 2024 (arXiv 2407.01082). Presence and frequency penalty: OpenAI's API reference, a token's logit
less count * frequency_penalty + (count > 0) * presence_penalty, where count says how often the answer has it so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Protocol, TypeGuard

import numpy as np

from .errors import RequestError

MAXIMUM_SEED = (1 << 64) - 1
MAXIMUM_ALTERNATIVES = 20  # OpenAI's limit of top_logprobs
# Below it nothing but ties is left to draw from, and a still smaller one would be 0 in float32.
_COLDEST = 1e-6


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1 and
    the other penalties at 0 are off.

    `seed` None draws differently each time. Raises RequestError naming the range of a value that is outside.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= _number(self.temperature) <= 100, "0 (greedy) to 100")
        _check("top_p", self.top_p, 0 < _number(self.top_p) <= 1, "above 0, up to 1 (off)")
        _check("min_p", self.min_p, 0 <= _number(self.min_p) <= 1, "0 (off) to 1")
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            0.01 <= _number(self.repetition_penalty) <= 100,
            "0.01 to 100; 1 is off",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _check(name, value, -2 <= _number(value) <= 2, "-2 to 2; 0 is off")
        _check("top_k", self.top_k, is_whole(self.top_k) and self.top_k >= 0, "a whole number from 0 (off)")
        seed_fits = self.seed is None or (is_whole(self.seed) and 0 <= self.seed <= MAXIMUM_SEED)
        _check("seed", self.seed, seed_fits, f"a whole number from 0 to {MAXIMUM_SEED}, or None")


class TokenConstraint(Protocol):
    """What may come next in an answer, and next. It has seen exactly the tokens that were accepted."""

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that come next whatever the model says; empty where it has a choice."""

    def allowed(self) -> np.ndarray | None:
        """Which tokens may come next, bool (vocab,), valid until the next call; None for all of them."""

    def accept(self, token_id: int) -> None:
        """Take a token that was allowed. Raises RequestError where what follows cannot be told any more."""

    def possible(self, guess: Sequence[int]) -> int:
        """How many tokens of `guess` may come next, one after the other."""


@dataclass(frozen=True)
class Choice:
    """A chosen token and, where asked for, its log-probability under the model itself: no penalty, no filter, no
    constraint, temperature 1. `alternatives`: the likeliest tokens under the model and theirs, best first.
    """

    token_id: int
    logprob: float | None
    alternatives: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer. Two samplers with the same seed choose alike from the same logits."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Iterable[int] = (),
        *,
        logprobs: bool = False,
        alternatives: int = 0,
        never: Iterable[int] = (),
        constraint: TokenConstraint | None = None,
    ) -> None:
        """`prompt` counts as repeated by the repetition penalty, as in transformers. `alternatives`: how many to tell
        of, with the log-probabilities. `never`: ids not to choose. `constraint`: what else may not be chosen. Raises
        RequestError.
        """
        fits = is_whole(alternatives) and 0 <= alternatives <= MAXIMUM_ALTERNATIVES
        _check("top_logprobs", alternatives, fits, f"a whole number from 0 to {MAXIMUM_ALTERNATIVES}")
        self._sampling = sampling
        self._never = list(never)
        self.logprobs = logprobs or alternatives > 0
        self._alternatives = alternatives
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else None
        self._counts: dict[int, int] | None = {} if sampling.presence_penalty or sampling.frequency_penalty else None
        self._constraint = constraint
        self._random = np.random.default_rng(sampling.seed)

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that are chosen next whatever the logits are."""
        return () if self._constraint is None else self._constraint.forced

    def possible(self, guess: Sequence[int]) -> Sequence[int]:
        """As much of `guess` as the constraint allows."""
        return guess if self._constraint is None or not guess else guess[: self._constraint.possible(guess)]

    def choose(self, logits: np.ndarray) -> Choice:
        """Choose from finite float logits (vocab,) and remember the choice for penalties and constraint."""
        if self.forced:
            token_id = self.forced[0]
        elif self._sampling.temperature == 0:
            allowed, scores = self._allowed(), self._scores(logits)
            token_id = int((scores if allowed is None else np.where(allowed, scores, -np.inf)).argmax())
        else:
            ids, weights = self.distribution(logits)
            cumulative = weights.cumsum()
            drawn = int(cumulative.searchsorted(self._random.random() * cumulative[-1], side="right"))
            token_id = int(ids[min(drawn, len(ids) - 1)])
        self._remember(token_id)
        if not self.logprobs:
            return Choice(token_id, None)
        normaliser = log_normaliser(logits)
        return Choice(
            token_id, float(logits[token_id]) - normaliser, _likeliest(logits, self._alternatives, normaliser)
        )

    def distribution(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids that survive all filters and their weights, float64, not normalised. Temperature is above 0."""
        sampling, scores, allowed = self._sampling, self._scores(logits), self._allowed()
        ids = np.arange(len(scores))
        if allowed is not None:
            ids = np.flatnonzero(allowed)
            scores = scores[ids]
        if 0 < sampling.top_k < len(scores):
            # all that equal the k-th best stay, as in transformers
            threshold = np.partition(scores, len(scores) - sampling.top_k)[len(scores) - sampling.top_k]
            kept = np.flatnonzero(scores >= threshold)
            ids, scores = ids[kept], scores[kept]
        # shifted before it is divided: a small temperature cannot overflow
        weights = np.exp((scores - scores.max()) / np.float32(max(sampling.temperature, _COLDEST))).astype(np.float64)
        if sampling.top_p < 1:
            kept = _nucleus(weights, sampling.top_p)
            ids, weights = ids[kept], weights[kept]
        if sampling.min_p > 0:
            kept = np.flatnonzero(weights >= sampling.min_p * weights.max())
            ids, weights = ids[kept], weights[kept]
        return ids, weights

    def _allowed(self) -> np.ndarray | None:
        return None if self._constraint is None else self._constraint.allowed()

    def _remember(self, token_id: int) -> None:
        if self._seen is not None:
            self._seen.add(token_id)
        if self._counts is not None:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1
        if self._constraint is not None:
            self._constraint.accept(token_id)

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        if not self._seen and not self._counts and not self._never:
            return logits
        scores = logits.copy()
        if self._seen:
            self._penalise(scores, self._seen)
        if self._counts:
            sampling, ids = self._sampling, np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            scores[ids] -= counts * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty)
        scores[self._never] = -np.inf
        return scores

    def _penalise(self, scores: np.ndarray, repeated: set[int]) -> None:
        seen = np.fromiter(repeated, np.int64, len(repeated))
        values, penalty = scores[seen], self._sampling.repetition_penalty
        scores[seen] = np.where(values < 0, values * penalty, values / penalty)


def log_normaliser(logits: np.ndarray) -> float:
    """What to take from a logit of (vocab,) for the natural logarithm of its softmax."""
    largest = float(logits.max())
    return largest + math.log(np.exp(logits - np.float32(largest)).sum(dtype=np.float64))


def _likeliest(logits: np.ndarray, count: int, normaliser: float) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens and their log-probabilities, best first; of equal ones the lower id."""
    if count == 0:
        return ()
    count = min(count, len(logits))
    ids = np.argpartition(logits, len(logits) - count)[len(logits) - count :]
    best = ids[np.lexsort((ids, -logits[ids]))]
    return tuple((int(number), float(logits[number]) - normaliser) for number in best)


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Indices, in order, of the fewest largest weights that together reach `top_p` of all, at least one."""
    total = float(weights.sum())
    able, some, spare = np.arange(len(weights)), weights, (1 - top_p) * total
    while True:
        # Whatever is below this bound adds up to less than may be left out, so it is not needed.
        needed = some >= spare / len(some)
        count = int(np.count_nonzero(needed))
        if not 0 < 2 * count <= len(some):
            break
        kept = some[needed]
        able, some, spare = able[needed], kept, spare - (float(some.sum()) - float(kept.sum()))
    order = np.argsort(-some, kind="stable")
    above = np.concatenate(([0.0], some[order].cumsum()[:-1]))
    return np.sort(able[order[above < top_p * total]])


def _number(value: object) -> float:
    return math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value that a caller gave is an integer, numpy's included, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check(name: str, value: object, fits: bool, allowed: str) -> None:
    if not fits:
        raise RequestError(f"{name} is {value!r:.60}; allowed is {allowed}")
