"""Answers with thoughts of the tiny model: what of a thought is counted, shown and kept.

The oracle is a straight run over a prompt that holds the closed thought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgephi
from edgephi import Reply, RequestError, Session
from edgephi.runtime.tokens import Tokenizer

from .conftest import CLOSE, OPEN, one_of

QUESTION = "What does the sign say? What does the sign say? What does the sign say?"


@dataclass(frozen=True)
class Thinker:
    session: Session
    tokenizer: Tokenizer

    @property
    def open(self) -> list[int]:
        return one_of(self.tokenizer, OPEN)

    @property
    def close(self) -> list[int]:
        return one_of(self.tokenizer, CLOSE)

    def budgeted(self, budget: int, behind: int, **options: Any) -> Reply:
        """An answer with a thought of `budget` tokens and `behind` tokens behind it."""
        most = budget + len(self.close) + behind
        return self.session.generate(QUESTION, think=True, think_budget=budget, max_tokens=most, **options)


@pytest.fixture(scope="module", params=[True, False], ids=["single tokens", "spelled"])
def thinker(request: pytest.FixtureRequest, thinking_bundle: Callable[[bool], Path]) -> Iterator[Thinker]:
    folder = thinking_bundle(request.param)
    with edgephi.load(folder, threads=2) as session:
        yield Thinker(session, Tokenizer.open(folder))


@pytest.mark.parametrize("draft", [True, False])
@pytest.mark.parametrize("budget", [1, 9, 24])
def test_behind_the_budget_comes_what_a_straight_run_says(thinker: Thinker, budget: int, draft: bool) -> None:
    phi, prompt = thinker.session, [*thinker.session.encode(QUESTION), *thinker.open]
    thought = phi.generate(prompt, max_tokens=budget, draft=False)
    closed = [*prompt, *thought.token_ids, *thinker.close]
    behind = phi.generate(closed, max_tokens=20, draft=False)
    assert thought.finish_reason == behind.finish_reason == "length" and thought.text == behind.thinking == ""
    phi.clear()
    reply = thinker.budgeted(budget, 20, draft=draft)
    assert reply.token_ids == (*thought.token_ids, *thinker.close, *behind.token_ids)
    assert (reply.thinking, reply.text) == (thought.thinking, behind.text)
    assert (reply.usage.thinking_tokens, reply.usage.completion_tokens) == (budget, len(reply.token_ids))
    assert reply.usage.prompt_tokens == len(prompt)


def test_drawing_with_a_seed_is_the_same_with_and_without_drafts(thinker: Thinker) -> None:
    replies = [thinker.budgeted(12, 20, temperature=1.0, seed=seed, draft=draft)
               for seed in (3, 4) for draft in (True, False)]
    assert replies[0].token_ids == replies[1].token_ids != replies[2].token_ids == replies[3].token_ids
    for reply in replies:
        assert reply.usage.thinking_tokens <= 12 and reply.finish_reason in ("length", "stop")


def test_the_closing_tag_has_the_probability_that_the_model_gives_it(thinker: Thinker) -> None:
    reply = thinker.budgeted(5, 4, logprobs=True)
    prompt = [*thinker.session.encode(QUESTION), *thinker.open]
    rows = thinker.session.logits([*prompt, *reply.token_ids])[len(prompt) - 1 : -1].astype(np.float64)
    rows -= np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) + rows.max(1, keepdims=True)
    expected = [row[token] for row, token in zip(rows, reply.token_ids, strict=True)]
    assert reply.logprobs is not None
    # rows are computed one by one there and all at once here: float32 rounding apart
    assert np.allclose(reply.logprobs, expected, atol=1e-4, rtol=0)


def test_a_thought_is_free_and_the_answer_behind_it_has_its_form(thinker: Thinker) -> None:
    pytest.importorskip("llguidance", reason="the extra edgephi[schema] is not installed")
    choice, free = ("yes, it does", "no"), thinker.budgeted(12, 1)
    for draft in (True, False):
        reply = thinker.budgeted(12, 40, choice=choice, draft=draft)
        assert reply.text in choice and reply.finish_reason == "stop"
        assert (reply.thinking, reply.usage.thinking_tokens) == (free.thinking, 12)
        assert reply.token_ids[:12] == free.token_ids[:12]
        skipped = thinker.session.generate(QUESTION, think=False, choice=choice, max_tokens=40, draft=draft)
        assert skipped.text in choice and skipped.thinking == ""


def test_stops_count_in_the_answer_alone(thinker: Thinker) -> None:
    plain = thinker.budgeted(16, 16)
    stop = next(letter for letter in plain.thinking if letter in plain.text and not letter.isspace())
    stopped = thinker.budgeted(16, 16, stop=stop)
    assert stopped.thinking == plain.thinking and stopped.finish_reason == "stop"
    assert stopped.text == plain.text[: plain.text.index(stop)]


def test_a_limit_inside_the_thought_ends_it_all(thinker: Thinker) -> None:
    reply = thinker.session.generate(QUESTION, think=True, think_budget=50, max_tokens=8)
    assert (reply.text, reply.finish_reason, reply.usage.thinking_tokens) == ("", "length", 8)
    # in the middle of the tag, where it has several tokens, and behind it
    for more in range(1, len(thinker.close) + 1):
        reply = thinker.session.generate(QUESTION, think=True, think_budget=8, max_tokens=8 + more)
        assert reply.token_ids[8:] == tuple(thinker.close[:more])
        assert (reply.text, reply.finish_reason) == ("", "length")


def test_a_thought_can_be_cancelled(thinker: Thinker) -> None:
    stream = thinker.session.stream(QUESTION, think=True, max_tokens=200)
    first = next(piece for piece in stream if piece.text)
    thinker.session.cancel()
    last = list(stream)[-1]
    assert first.kind == "thinking" and last.finish_reason == "cancelled"
    assert last.usage is not None and 0 < last.usage.thinking_tokens < 200


@pytest.mark.parametrize("options", [{"think": False}, {"think_budget": 0}])
def test_no_thought_at_all(thinker: Thinker, options: dict[str, Any]) -> None:
    phi = thinker.session
    prompt = [*phi.encode(QUESTION), *thinker.open, *thinker.close]
    reply = phi.generate(QUESTION, max_tokens=20, **options)
    assert reply.token_ids == phi.generate(prompt, max_tokens=20).token_ids
    assert (reply.thinking, reply.usage.thinking_tokens, reply.usage.prompt_tokens) == ("", 0, len(prompt))
    opened = phi.generate(prompt[: -len(thinker.close)], max_tokens=20, **options)  # the prompt began one
    assert opened.token_ids == reply.token_ids


def test_old_thoughts_are_no_part_of_the_prompt(thinker: Thinker) -> None:
    def ids(content: str) -> list[int]:
        return thinker.session.encode([
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": content},
            {"role": "user", "content": "go on"},
        ])

    assert ids(f"{OPEN}\nwell\n{CLOSE}\n\nhello") == ids("hello") != ids(f"hello {OPEN}well{CLOSE}")


def test_a_model_that_was_not_trained_to_think(tiny_bundle: Callable[..., Path]) -> None:
    with edgephi.load(tiny_bundle("mini"), threads=2) as phi:
        plain = phi.generate(QUESTION, max_tokens=12)
        for options in ({"think": False}, {"think_budget": 0}, {"think_budget": 5}, {"think": None}):
            reply = phi.generate(QUESTION, max_tokens=12, **options)
            assert (reply.token_ids, reply.usage.prompt_tokens) == (plain.token_ids, plain.usage.prompt_tokens)
        with pytest.raises(RequestError, match="think is True, but the model of this bundle was not trained to think"):
            phi.stream(QUESTION, think=True)
        # a prompt that says by itself that a thought is open has it closed
        tokenizer = Tokenizer.open(tiny_bundle("mini"))
        reply = phi.generate([*phi.encode(QUESTION), *tokenizer.encode_text(OPEN)], max_tokens=40, think_budget=6)
        assert reply.usage.thinking_tokens == 6 and CLOSE in tokenizer.decode(reply.token_ids)
        kept = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"{OPEN}a{CLOSE}b"}]
        assert OPEN in tokenizer.decode(phi.encode([*kept, {"role": "user", "content": "go on"}]))
