"""Drafting: guesses come from the sequence itself, and their length follows what pays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.draft import MAXIMUM_DRAFT, SHORTEST, DraftLength, PromptLookup


def _lookup(ids: list[int]) -> PromptLookup:
    lookup = PromptLookup()
    lookup.extend(ids)
    return lookup


def test_what_followed_the_last_occurrence_is_proposed() -> None:
    assert _lookup([1, 2, 3, 4, 9, 1, 2, 3]).propose(2) == [4, 9]


def test_the_most_recent_occurrence_wins() -> None:
    assert _lookup([1, 2, 7, 0, 1, 2, 8, 0, 1, 2]).propose(1) == [8]


def test_the_longest_match_wins() -> None:
    assert _lookup([5, 1, 2, 7, 0, 6, 1, 2, 8, 0, 5, 1, 2]).propose(1) == [7]


def test_a_repetition_runs_on() -> None:
    assert _lookup([1, 2, 3, 1, 2, 3, 1, 2]).propose(5) == [3, 1, 2, 3, 1]


def test_nothing_is_proposed_where_nothing_repeats() -> None:
    assert _lookup([1, 2, 3, 4]).propose(4) == []
    assert _lookup([]).propose(4) == []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 6), st.integers(0, 40))
def test_growing_step_by_step_equals_starting_again(ids: list[int], limit: int, cut: int) -> None:
    grown = _lookup(ids[:cut])
    grown.extend(ids[cut:])
    again = PromptLookup()
    again.reset(ids)
    assert grown.propose(limit) == again.propose(limit)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_a_proposal_follows_an_earlier_occurrence_of_the_end(ids: list[int], limit: int) -> None:
    guess = _lookup(ids).propose(limit)
    if not guess:
        return
    assert len(guess) == limit
    places = [at for at in range(SHORTEST, len(ids)) if ids[at - SHORTEST:at] == ids[-SHORTEST:]]
    assert guess[0] in {ids[at] for at in places}


def test_drafts_grow_while_they_are_right_and_stop_when_they_are_wrong() -> None:
    length = DraftLength()
    length.observe(0, 0, 0.1)
    for _ in range(60):
        length.observe(4, 4, 0.15)
    assert length.choose() == MAXIMUM_DRAFT
    for _ in range(60):
        length.observe(4, 0, 0.15)
    choices = [length.choose() for _ in range(200)]
    assert choices.count(0) > 190
    assert max(choices) == 1  # now and then one token is tried again


def test_no_draft_where_every_row_costs_a_whole_step() -> None:
    length = DraftLength(acceptance=0.9)
    length.observe(0, 0, 0.1)
    for drafted in range(1, MAXIMUM_DRAFT + 1):
        for _ in range(60):
            length.observe(drafted, drafted, 0.1 * (1 + drafted) * 1.05)
    assert length.choose() == 0
