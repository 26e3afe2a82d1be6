"""Where a thought ends, token by token: scripted streams say what the model would like to say next; a budget may not
let it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from edgephi.runtime.answer import AnswerReader
from edgephi.runtime.sampling import Sampler, Sampling, TokenConstraint
from edgephi.runtime.thinking import ThoughtBudget, ThoughtReader, budgeted
from edgephi.runtime.tokens import Tokenizer

from .conftest import CLOSE, OPEN, Published, one_of


@dataclass
class Said:
    tokens: list[int] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=lambda: {"thinking": "", "answer": ""})
    thinking_tokens: int = 0


def _script(
    tokenizer: Tokenizer, prompt: Sequence[int], thought: Sequence[int], answer: Sequence[int], budget: int | None,
) -> Said:
    """What comes out where the model would like to say `thought`, closing tag included, and then `answer`."""
    ids = [*thought, *answer]
    places = {token: place for place, token in enumerate(sorted({*ids, *one_of(tokenizer, CLOSE)}))}
    reader, said = AnswerReader(tokenizer, (), prompt, tools=False), Said()
    constraint = budgeted(tokenizer, budget, prompt)
    sampler = Sampler(Sampling(), prompt, constraint=constraint)
    waiting, then = iter(thought), iter(answer)
    size = 1 + max(places)
    begun = False
    while True:
        begun = begun or reader.kind == "thinking"
        wish = next(waiting if reader.kind == "thinking" or not begun else then, None)
        if wish is None and reader.kind != "thinking":
            break
        logits = np.zeros(size, np.float32)
        logits[thought[0] if wish is None else wish] = 1
        said.tokens.append(sampler.choose(logits).token_id)
        for part in reader.push(said.tokens[-1]):
            said.shown[part.kind] += part.text
    for part in reader.flush():
        said.shown[part.kind] += part.text
    said.thinking_tokens = reader.thinking_tokens
    return said


@pytest.mark.parametrize("opened_by_prompt", [True, False])
def test_a_budget_ends_a_thought_wherever_it_is_hit(published: Published, opened_by_prompt: bool) -> None:
    """Also between the tokens of the closing tag: what is left of the tag is said, no more and no less."""
    tokenizer, header = published.tokenizer, published.ids([{"role": "user", "content": "2 + 2?"}])
    tag, words = one_of(tokenizer, CLOSE), tokenizer.encode_text("First add two, then <add> two. That is it")
    answer = tokenizer.encode_text("The answer is 4.")
    opened = one_of(tokenizer, OPEN)
    prompt, before = ([*header, *opened], []) if opened_by_prompt else (header, opened)
    for budget in (None, *range(len(words) + len(tag) + 2)):
        kept = words if budget is None else words[:budget]
        said = _script(tokenizer, prompt, [*before, *words, *tag], answer, budget)
        # a spelled tag that was begun, as with the "<" of "<add>", is completed
        thought = tokenizer.decode(kept).removesuffix("<" * (len(tag) > 1))
        assert said.shown == {"thinking": thought, "answer": "The answer is 4."}, budget
        whole = f"{OPEN * (not opened_by_prompt)}{thought}{CLOSE}The answer is 4."
        assert tokenizer.decode(said.tokens, skip_special=False) == whole
        assert said.thinking_tokens == len(kept)


def test_half_a_character_stays_in_the_thought_that_is_closed(published: Published) -> None:
    tokenizer, header = published.tokenizer, published.ids([{"role": "user", "content": "2 + 2?"}])
    whole = tokenizer.encode_text("🪿🫏𒐫𓂀")
    half = next(
        whole[:count] for count in range(1, len(whole))
        if tokenizer.decode(whole[:count]).endswith("\N{REPLACEMENT CHARACTER}")
    )
    prompt = [*header, *one_of(tokenizer, OPEN)]
    said = _script(tokenizer, prompt, half, tokenizer.encode_text("4"), len(half))
    assert said.shown == {"thinking": tokenizer.decode(half), "answer": "4"}
    assert said.thinking_tokens == len(half)


def test_a_tag_with_the_words_behind_it_in_one_token(published: Published) -> None:
    """Tokens that end the tag and go on, as ">\\n\\n", begin the answer."""
    tokenizer = published.tokenizer
    prompt = [*published.ids([{"role": "user", "content": "2 + 2?"}]), *one_of(tokenizer, OPEN)]
    spelled = tokenizer.encode_text("hm</think>\n\n4")
    reader = ThoughtReader(tokenizer, prompt)
    pieces = [piece for token in spelled for piece in reader.push(token)] + reader.flush()
    assert pieces == [("thinking", "hm"), ("answer", "4")] and reader.splitter.answering
    assert reader.splitter.tokens == len(tokenizer.encode_text("hm"))


def test_a_skipped_thought_leaves_no_white_space(published: Published) -> None:
    tokenizer, prompt = published.tokenizer, published.ids([{"role": "user", "content": "2 + 2?"}])
    prompt = [*prompt, *one_of(tokenizer, OPEN), *one_of(tokenizer, CLOSE)]
    reader = ThoughtReader(tokenizer, prompt)
    pieces = [piece for token in tokenizer.encode_text("\n\n4 <think>") for piece in reader.push(token)]
    assert "".join(text for _, text in [*pieces, *reader.flush()]) == "4 <think>"
    assert {kind for kind, _ in pieces} == {"answer"}


@dataclass
class Recorder:
    """A constraint that allows everything and remembers what it was told."""

    forced: Sequence[int] = ()
    seen: list[int] = field(default_factory=list)

    def allowed(self) -> np.ndarray | None:
        return np.array([True, False, True, True])

    def accept(self, token_id: int) -> None:
        self.seen.append(token_id)

    def possible(self, guess: Sequence[int]) -> int:
        return min(len(guess), 5)


def test_a_budget_lies_around_another_constraint(published: Published) -> None:
    tokenizer = published.tokenizer
    words = tokenizer.encode_text("one two three four five six seven eight")
    inner = Recorder()
    budget = ThoughtBudget(tokenizer, 3, one_of(tokenizer, OPEN), inner)
    checked: TokenConstraint = budget
    assert checked.possible(words) == 3 and list(checked.forced) == []
    mask = checked.allowed()
    assert mask is not None and mask.tolist() == [True, False, True, True]
    for token in words[:3]:
        assert not checked.forced
        checked.accept(token)
    closing = list(checked.forced)
    assert closing == one_of(tokenizer, CLOSE) and checked.possible(words) == 0
    for token in closing:
        assert checked.forced[0] == token
        checked.accept(token)
    assert not checked.forced and checked.possible(words) == 5
    inner.forced = [7]
    assert checked.forced == [7] and inner.seen == [*words[:3], *closing]
