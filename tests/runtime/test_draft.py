"""Drafting: guesses come from the sequence itself, and their length follows what pays."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.draft import LOOKED_BACK, MAXIMUM_DRAFT, STEP_COST, Drafter

PHRASE = [101, 102, 103, 104, 105, 106, 107, 108]


def _answered(prompt: list[int], made: list[int]) -> Drafter:
    drafter = Drafter(prompt)
    drafter.learn(made)
    return drafter


def _rate(prompt: list[int], answer: list[int]) -> float:
    """Tokens in the time of one-row steps, by STEP_COST, of an answer that says `answer`."""
    drafter, at, cost = Drafter(prompt), 1, 0.0
    drafter.learn(answer[:1])
    while at < len(answer):
        guess = drafter.guess(len(answer) - at - 1)
        right = next((n for n, token in enumerate(guess) if token != answer[at + n]), len(guess))
        drafter.learn(answer[at : at + right + 1])
        at, cost = at + right + 1, cost + STEP_COST[len(guess)]
    return (len(answer) - 1) / cost


def test_what_followed_a_long_context_is_guessed() -> None:
    prompt = [*PHRASE, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert _answered(prompt, PHRASE).guess(3) == [1, 2, 3]
    assert _answered(prompt, PHRASE).guess(0) == []


def test_a_longer_context_outweighs_a_shorter_one() -> None:
    prompt = [*PHRASE, 50, 51, 0, *PHRASE[-1:], 60, 61, *PHRASE[-1:], 60, 61]
    assert _answered(prompt, PHRASE).guess(2) == [50, 51]
    assert _answered(prompt, [1, 2, 3, 4, 5, 6, 7, PHRASE[-1]]).guess(1) in ([60], [])


def test_what_follows_most_often_outlasts_an_exception() -> None:
    often = [*PHRASE, 1, *PHRASE, 1, *PHRASE, 1]
    assert _answered([*often, *PHRASE, 2], PHRASE).guess(1) == [1]
    assert _answered([*often, *PHRASE, 2, *PHRASE, 2, *PHRASE, 2, *PHRASE, 2, *PHRASE, 2], PHRASE).guess(1) == [2]


def test_a_repetition_runs_on() -> None:
    assert _answered([], [1, 2, 3] * 8).guess(5) == [1, 2, 3, 1, 2]


def test_nothing_is_guessed_where_nothing_is_known() -> None:
    assert Drafter().guess(8) == []
    assert _answered(list(range(50)), [60, 61]).guess(8) == []


def test_media_are_never_guessed() -> None:
    drafter = _answered([*PHRASE, 1, 2, -1, -1, -1], PHRASE)
    assert drafter.guess(8) == [1, 2]
    drafter.learn([1, 2])
    assert drafter.guess(8) == []


def test_only_the_end_of_a_long_prompt_is_learned() -> None:
    beginning = [*PHRASE, 1, 2, 3]
    assert _answered([*beginning, *range(200, 200 + LOOKED_BACK - 11)], PHRASE).guess(2) == [1, 2]
    assert _answered([*beginning, *range(200, 200 + LOOKED_BACK)], PHRASE).guess(2) == []


def test_what_the_model_says_behind_a_wrong_guess_replaces_what_was_said_once() -> None:
    pairs = [(number, 100 + number) for number in range(60)]
    drafter = Drafter(token for number, pair in enumerate(pairs) for token in (*pair, 1000 + number))
    drafter.learn(token for number, pair in enumerate(pairs[:40]) for token in (2000 + number, *pair))
    drafter.learn([3000, 50])
    assert drafter.guess(1) == [150]
    drafter.recycle([50], [7])
    assert drafter.guess(1) == [7]
    drafter.learn([3001, 10])
    drafter.recycle([10], [7])
    assert drafter.guess(1) == [110], "what was said twice outlasts one opinion"


@given(st.lists(st.integers(0, 4), max_size=60), st.lists(st.integers(0, 4), max_size=60), st.integers(0, 12))
def test_a_guess_is_no_longer_than_asked_and_follows_what_was_said(
    prompt: list[int], made: list[int], limit: int
) -> None:
    guess = _answered(prompt, made).guess(limit)
    said = [*prompt, *made]
    assert len(guess) <= min(limit, MAXIMUM_DRAFT)
    for index, token in enumerate(guess):
        before = [*said, *guess[:index]][-1]
        assert (before, token) in pairwise(said)


@given(st.lists(st.integers(0, 9), max_size=80), st.integers(0, 80))
def test_learning_step_by_step_equals_learning_at_once(made: list[int], cut: int) -> None:
    at_once, by_step = Drafter(PHRASE), Drafter(PHRASE)
    at_once.learn(made)
    by_step.learn(made[:cut])
    by_step.learn(made[cut:])
    assert at_once.guess(8) == by_step.guess(8)


def test_guesses_are_longest_while_they_are_right() -> None:
    answer = list(range(1000, 1300))
    drafter = Drafter(answer)
    drafter.learn(answer[:40])
    assert drafter.guess(20) == answer[40 : 40 + MAXIMUM_DRAFT]
    assert _rate(answer, answer) > 3


@pytest.mark.parametrize("words", [2, 20, 400])
def test_words_in_random_order_cost_next_to_nothing(words: int) -> None:
    """Every context has been seen, and what followed it says nothing. The bound is that of the design, 3 %."""
    drawn = random.Random(words)
    prompt = [drawn.randrange(words) for _ in range(1000)]
    assert _rate(prompt, [drawn.randrange(words) for _ in range(1000)]) > 0.97


def test_a_text_that_contradicts_its_prompt_stops_the_guessing() -> None:
    """What followed 1, 2, 3, … in the prompt is never what follows it in the answer."""
    drawn = random.Random(1)
    prompt = [token for number in range(400) for token in (number, 1000 + number)]
    answer = [token for number in range(400) for token in (number, 5000 + drawn.randrange(400))]
    assert _rate(prompt, answer) > 0.97
