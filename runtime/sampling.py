"""From logits to the next token: greedy or drawn, in numpy alone.

Boundary: one row of logits in, one token id out; knows no model and no text. Filters mean what those of transformers
mean and are applied in its order: repetition penalty, temperature, top-k, top-p, min-p. No pass sorts the whole
vocabulary unless the distribution is flat.

Repetition penalty: Keskar et al. 2019 (arXiv 1909.05858); top-p: Holtzman et al. 2019 (arXiv 1904.09751);
min-p: Nguyen et al. 2024 (arXiv 2407.01082).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeGuard

import numpy as np

from .errors import RequestError

MAXIMUM_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1 are
    off.

    `seed` None draws differently each time. Raises RequestError naming the range of a value that is outside.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= _number(self.temperature) <= 100, "0 (greedy) to 100")
        _check("top_p", self.top_p, 0 < _number(self.top_p) <= 1, "above 0, up to 1 (off)")
        _check("min_p", self.min_p, 0 <= _number(self.min_p) <= 1, "0 (off) to 1")
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            0 < _number(self.repetition_penalty) <= 100,
            "above 0, up to 100; 1 is off",
        )
        _check("top_k", self.top_k, is_whole(self.top_k) and self.top_k >= 0, "a whole number from 0 (off)")
        seed_fits = self.seed is None or (is_whole(self.seed) and 0 <= self.seed <= MAXIMUM_SEED)
        _check("seed", self.seed, seed_fits, f"a whole number from 0 to {MAXIMUM_SEED}, or None")


@dataclass(frozen=True)
class Choice:
    """A chosen token and, where asked for, its log-probability under the model itself: no penalty, no filter,
    temperature 1.
    """

    token_id: int
    logprob: float | None


class Sampler:
    """Chooses the tokens of one answer. Two samplers with the same seed choose alike from the same logits."""

    def __init__(
        self, sampling: Sampling, prompt: Iterable[int] = (), *, logprobs: bool = False, never: Iterable[int] = ()
    ) -> None:
        """`prompt` counts as repeated by the repetition penalty, as in transformers. `never`: ids not to choose."""
        self._sampling = sampling
        self._never = list(never)
        self._logprobs = logprobs
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else None
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: np.ndarray) -> Choice:
        """Choose from finite float logits (vocab,) and remember the choice for the repetition penalty."""
        if self._sampling.temperature == 0:
            token_id = int(self._scores(logits).argmax())
        else:
            ids, weights = self.distribution(logits)
            cumulative = weights.cumsum()
            drawn = int(cumulative.searchsorted(self._random.random() * cumulative[-1], side="right"))
            token_id = int(ids[min(drawn, len(ids) - 1)])
        if self._seen is not None:
            self._seen.add(token_id)
        return Choice(token_id, log_probability(logits, token_id) if self._logprobs else None)

    def distribution(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids that survive all filters and their weights, float64, not normalised. Temperature is above 0."""
        sampling, scores = self._sampling, self._scores(logits)
        ids = np.arange(len(scores))
        if 0 < sampling.top_k < len(scores):
            # all that equal the k-th best stay, as in transformers
            threshold = np.partition(scores, len(scores) - sampling.top_k)[len(scores) - sampling.top_k]
            ids = np.flatnonzero(scores >= threshold)
            scores = scores[ids]
        # shifted before it is divided: a small temperature cannot overflow
        weights = np.exp((scores - scores.max()) / np.float32(sampling.temperature)).astype(np.float64)
        if sampling.top_p < 1:
            kept = _nucleus(weights, sampling.top_p)
            ids, weights = ids[kept], weights[kept]
        if sampling.min_p > 0:
            kept = np.flatnonzero(weights >= sampling.min_p * weights.max())
            ids, weights = ids[kept], weights[kept]
        return ids, weights

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        if not self._seen and not self._never:
            return logits
        scores = logits.copy()
        if self._seen:
            self._penalise(scores, self._seen)
        scores[self._never] = -np.inf
        return scores

    def _penalise(self, scores: np.ndarray, repeated: set[int]) -> None:
        seen = np.fromiter(repeated, np.int64, len(repeated))
        values, penalty = scores[seen], self._sampling.repetition_penalty
        scores[seen] = np.where(values < 0, values * penalty, values / penalty)


def log_probability(logits: np.ndarray, token_id: int) -> float:
    """Natural logarithm of softmax(logits)[token_id], logits (vocab,)."""
    largest = float(logits.max())
    total = np.exp(logits - np.float32(largest)).sum(dtype=np.float64)
    return float(logits[token_id]) - largest - math.log(total)


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
