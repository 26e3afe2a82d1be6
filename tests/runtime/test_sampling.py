"""Sampling against transformers' own LogitsProcessor classes, and what is promised beyond them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi import RequestError
from edgephi.runtime.sampling import Sampler, Sampling, log_normaliser

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

VOCABULARY = 1000


def _logits(seed: int, spread: float = 3.0, size: int = VOCABULARY) -> np.ndarray:
    drawn: np.ndarray = np.random.default_rng(seed).standard_normal(size).astype(np.float32) * np.float32(spread)
    return drawn


def _theirs(logits: np.ndarray, sampling: Sampling, seen: Sequence[int]) -> np.ndarray:
    """Probabilities by transformers, in the order in which its generate() applies the processors."""
    processors: list[Any] = []
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    process: Any = LogitsProcessorList(processors)
    scores = process(torch.tensor([list(seen)], dtype=torch.long), torch.tensor(logits[None]))
    probabilities: np.ndarray = torch.softmax(scores[0].double(), 0).numpy()
    return probabilities


def _ours(logits: np.ndarray, sampling: Sampling, seen: Sequence[int]) -> np.ndarray:
    ids, weights = Sampler(sampling, seen).distribution(logits)
    probabilities = np.zeros(len(logits))
    probabilities[ids] = weights / weights.sum(dtype=np.float64)
    return probabilities


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 50, VOCABULARY, 5000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.7])
def test_the_distribution_is_that_of_transformers(
    temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty)
    for seed in range(3):
        logits = _logits(seed)
        seen = [1, 5, 5, 17, int(logits.argmax())]
        theirs = _theirs(logits, sampling, seen)
        ours = _ours(logits, sampling, seen)
        # The same tokens survive; both compute in float32, so probabilities agree to a few of its steps (6e-8).
        assert np.array_equal(ours > 0, theirs > 0)
        assert np.abs(ours - theirs).max() < 2e-6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 20.0), st.floats(0.01, 0.999), st.integers(1, 3000))
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(seed: int, spread: float, top_p: float, size: int) -> None:
    logits = _logits(seed, spread, size)
    ours = _ours(logits, Sampling(temperature=1.0, top_p=top_p), ())
    full = np.exp((logits - logits.max()).astype(np.float64))
    full /= full.sum()
    kept = ours > 0
    assert full[kept].sum() >= top_p - 1e-6
    # without its smallest member it would not reach
    assert full[kept].sum() - full[kept].min() < top_p + 1e-6
    # weights are computed in float32: those closer than a few of its steps may change places
    assert full[kept].min() >= full[~kept].max(initial=0.0) * (1 - 1e-6)


def test_tokens_that_tie_with_the_last_of_top_k_stay() -> None:
    logits = np.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0], np.float32)
    ids, _ = Sampler(Sampling(temperature=1.0, top_k=2)).distribution(logits)
    assert ids.tolist() == [1, 2, 3, 4]
    assert np.array_equal(_theirs(logits, Sampling(temperature=1.0, top_k=2), [0]) > 0, np.isin(np.arange(6), ids))


def test_greedy_takes_the_largest_and_obeys_the_repetition_penalty() -> None:
    logits = np.array([0.5, 3.0, 2.5, -4.0], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=1.5))
    assert [sampler.choose(logits).token_id for _ in range(3)] == [1, 2, 1]  # 3.0 → 2.0, then 2.5 → 1.67
    assert Sampler(Sampling()).choose(logits).token_id == 1
    assert logits.tolist() == [0.5, 3.0, 2.5, -4.0]  # the model's logits are not written to


def test_frequencies_follow_the_distribution() -> None:
    logits = _logits(4, 1.0, 12)
    sampler = Sampler(Sampling(temperature=0.8, seed=1))
    drawn = np.bincount([sampler.choose(logits).token_id for _ in range(20000)], minlength=12) / 20000
    wanted = _theirs(logits, Sampling(temperature=0.8), [0])
    # five standard deviations of a frequency over 20,000 draws
    assert (np.abs(drawn - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 20000) + 1e-9).all()


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    def run(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(_logits(step)).token_id for step in range(40)]

    assert run(3) == run(3) != run(4)
    assert run(None) != run(None)


def test_a_tiny_temperature_neither_overflows_nor_warns() -> None:
    logits = _logits(2)
    sampler = Sampler(Sampling(temperature=1e-30, top_p=0.9))
    assert sampler.choose(logits).token_id == int(logits.argmax())


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5, 10, 0.9, 0.1, 1.3, 0)])
def test_log_probabilities_are_those_of_the_model_itself(sampling: Sampling) -> None:
    logits = _logits(9)
    choice = Sampler(sampling, [3, 4], logprobs=True).choose(logits)
    wanted = torch.log_softmax(torch.tensor(logits).double(), 0)
    assert choice.logprob is not None and math.isclose(choice.logprob, float(wanted[choice.token_id]), abs_tol=1e-5)
    assert math.isclose(float(logits[7]) - log_normaliser(logits), float(wanted[7]), abs_tol=1e-5)
    assert Sampler(sampling).choose(logits).logprob is None


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", -0.1, "0 (greedy) to 100"), ("temperature", math.nan, "greedy"),
        ("temperature", "hot", "greedy"),
        ("temperature", True, "greedy"), ("temperature", math.inf, "greedy"), ("top_p", 0.0, "above 0, up to 1"),
        ("top_p", 1.01, "above 0, up to 1"), ("min_p", -1e-9, "0 (off) to 1"), ("min_p", 2, "0 (off) to 1"),
        ("repetition_penalty", 1e-300, "0.01 to 100"), ("repetition_penalty", math.nan, "0.01 to 100"),
        ("top_k", -1, "from 0 (off)"), ("top_k", 2.0, "from 0 (off)"), ("top_k", True, "from 0 (off)"),
        ("seed", -1, "from 0 to"), ("seed", 2**64, "from 0 to"), ("seed", 0.5, "from 0 to"),
    ],
)
def test_values_out_of_range_name_the_range(name: str, value: object, allowed: str) -> None:
    with pytest.raises(RequestError) as caught:
        Sampling(**{name: value})  # type: ignore[arg-type]  # what a caller may pass by mistake
    text = str(caught.value)
    assert text.startswith(f"{name} is {value!r}; allowed is ") and allowed in text and "\n" not in text


def test_numbers_of_numpy_are_numbers() -> None:
    assert Sampling(np.float32(0.5), np.int64(4), np.float64(0.5)).top_k == 4  # type: ignore[arg-type]  # numpy scalars


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(temperature=2.0, seed=1), Sampling(temperature=5.0, top_k=3, top_p=0.9, min_p=0.01, seed=2),
    Sampling(temperature=0.7, repetition_penalty=1.3, seed=3),
], ids=str)
def test_forbidden_tokens_are_never_chosen_and_the_others_as_without_them(sampling: Sampling) -> None:
    logits = _logits(11, size=50)
    never = np.argsort(-logits)[[0, 1, 7]]
    allowed = np.delete(np.arange(50), never)
    seen = [int(allowed[4])]
    sampler, without = Sampler(sampling, seen, never=never.tolist()), Sampler(sampling, [4])
    chosen = [sampler.choose(logits).token_id for _ in range(200)]
    assert chosen == [int(allowed[without.choose(logits[allowed]).token_id]) for _ in range(200)]
    assert not set(chosen) & set(never.tolist())


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-7, 100.0])
@pytest.mark.parametrize("further", [{"top_p": 5e-324}, {"min_p": 1.0}, {"repetition_penalty": 0.01}, {}])
def test_the_smallest_values_leave_a_token_to_choose(temperature: float, further: dict[str, float]) -> None:
    logits = np.random.default_rng(3).normal(0, 4, 50).astype(np.float32)
    logits[7] = 0.0  # what a penalty would divide by 0
    sampler = Sampler(Sampling(temperature=temperature, seed=1, **further), prompt=[7])  # type: ignore[arg-type]
    chosen = sampler.choose(logits).token_id
    if temperature < 1e-6 or "top_p" in further or "min_p" in further:
        assert chosen == int(logits.argmax())
    else:
        assert 0 <= chosen < len(logits)


@given(
    presence=st.floats(-2, 2), frequency=st.floats(-2, 2), said=st.lists(st.integers(0, 5), max_size=12),
    seed=st.integers(0, 9),
)
def test_presence_and_frequency_penalties_are_openai_s(
    presence: float, frequency: float, said: list[int], seed: int
) -> None:
    sampler = Sampler(Sampling(presence_penalty=presence, frequency_penalty=frequency), [0, 1, 2])
    for token_id in said:  # greedy, so this is what it says; the prompt does not count
        row = np.full(VOCABULARY, -1e9, np.float32)
        row[token_id] = 1e9
        assert sampler.choose(row).token_id == token_id
    logits = _logits(seed)
    expected = [
        value - said.count(token_id) * frequency - (said.count(token_id) > 0) * presence
        for token_id, value in enumerate(logits.astype(np.float64))
    ]
    chosen = sampler.choose(logits).token_id
    assert expected[chosen] >= max(expected) - 1e-4  # float32


def test_alternatives_are_the_likeliest_under_the_model_itself() -> None:
    logits = _logits(3)
    sampling = Sampling(temperature=2.0, top_k=1, seed=0, frequency_penalty=2.0)
    choice = Sampler(sampling, alternatives=5, never=[int(logits.argmax())]).choose(logits)
    theirs = torch.log_softmax(torch.tensor(logits).double(), 0)
    values, ids = theirs.topk(5)
    assert [number for number, _ in choice.alternatives] == ids.tolist()
    assert [logprob for _, logprob in choice.alternatives] == pytest.approx(values.tolist(), abs=1e-5)
    assert choice.logprob == pytest.approx(float(theirs[choice.token_id]), abs=1e-5)


class _Even:
    """A constraint: even ids alone, and 8 behind 6."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    @property
    def forced(self) -> Sequence[int]:
        return (8,) if self.taken[-1:] == [6] else ()

    def allowed(self) -> np.ndarray:
        return np.arange(VOCABULARY) % 2 == 0

    def accept(self, token_id: int) -> None:
        self.taken.append(token_id)

    def possible(self, guess: Sequence[int]) -> int:
        return next((place for place, token_id in enumerate(guess) if token_id % 2), len(guess))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_a_constraint_decides_what_is_left_to_choose_from(temperature: float) -> None:
    constraint = _Even()
    sampler = Sampler(Sampling(temperature=temperature, top_k=3, top_p=0.9, seed=1), constraint=constraint)
    chosen = [sampler.choose(_logits(seed)).token_id for seed in range(60)]
    assert all(token_id % 2 == 0 for token_id in chosen) and constraint.taken == chosen
    row = np.zeros(VOCABULARY, np.float32)
    row[[6, 7]] = 5000, 6000
    assert [sampler.choose(row).token_id, sampler.choose(row).token_id] == [6, 8]
    assert list(sampler.possible([2, 4, 5, 6])) == [2, 4]


def test_what_a_constraint_leaves_is_drawn_as_transformers_would_draw_it() -> None:
    """The distribution over the allowed tokens is the one of logits where all others are minus infinity."""
    logits, sampling = _logits(8), Sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.01)
    ids, weights = Sampler(sampling, constraint=_Even()).distribution(logits)
    masked = logits.copy()
    masked[1::2] = -np.inf
    expected = _theirs(masked, sampling, [0])
    ours = np.zeros(VOCABULARY)
    ours[ids] = weights / weights.sum()
    assert np.abs(ours - expected).max() < 1e-6
