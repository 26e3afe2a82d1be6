"""Thoughts on demand: modes, budgets, and what of a thought is counted, shown and kept.

Scripted streams say what the model would like to say next; a budget or a mode may not let it. With the tiny model the
oracle is a straight run over a prompt that holds the closed thought.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgephi
from edgephi import Reply, RequestError, Session
from edgephi.runtime.answer import AnswerReader
from edgephi.runtime.chat import ChatTemplate
from edgephi.runtime.manifest import Thinking
from edgephi.runtime.sampling import Sampler, Sampling, TokenConstraint
from edgephi.runtime.thinking import ThoughtBudget, ThoughtReader, answers_alone, budgeted, opening, wanted
from edgephi.runtime.tokens import Tokenizer

BESIDE = Path(edgephi.__file__).parent.parent / "shared" / "data"
DATA = Path(os.environ.get("EDGEPHI_SHARED_DATA", BESIDE))
OPEN, CLOSE, SKIP = "<think>", "</think>", "<|dummy_84|>"
TAGS = Thinking(OPEN, CLOSE, None)
QUESTION = "What does the sign say? What does the sign say? What does the sign say?"
# Model → its tokenizer, its template, spare tokens that its own tokenizer renames to the tags, what skips a thought.
PUBLISHED: dict[str, tuple[str, str, dict[str, str], str | None]] = {
    "phi-4-mini-reasoning": ("phi-4-mini", "phi-4-mini-reasoning/ortx-chat_template.jinja", {}, None),
    "phi-4-reasoning": (
        "phi-4", "phi-4-reasoning/chat_template.jinja",
        {"<|dummy_86|>": OPEN, "<|dummy_87|>": CLOSE}, None,
    ),
    "phi-4-reasoning-vision-15b": (
        "phi-4", "phi-4-reasoning-vision-15b/chat_template.jinja",
        {"<|dummy_86|>": OPEN, "<|dummy_87|>": CLOSE}, SKIP,
    ),
}


@dataclass(frozen=True)
class Published:
    tokenizer: Tokenizer
    template: ChatTemplate
    thinking: Thinking

    def ids(self, messages: Sequence[Any]) -> list[int]:
        return self.tokenizer.encode_segments(self.template.render(messages))

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special=False)


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    name, template, renamed, skip = PUBLISHED[request.param]
    if not (DATA / name / "tokenizer.json.xz").is_file():
        pytest.skip(f"no published tokenizers under {DATA}; set EDGEPHI_SHARED_DATA")
    folder = tmp_path_factory.mktemp(request.param)
    spec = json.loads(lzma.decompress((DATA / name / "tokenizer.json.xz").read_bytes()))
    for token in spec["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
    for old, new in renamed.items():
        if old in spec["model"]["vocab"]:
            spec["model"]["vocab"][new] = spec["model"]["vocab"].pop(old)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    shutil.copy(DATA / template, folder / "chat_template.jinja")
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer = Tokenizer.open(folder)
    opened = ChatTemplate.open(folder, tokenizer.controls)
    assert opened is not None
    return Published(tokenizer, opened, Thinking(OPEN, CLOSE, skip))


def _one_of(tokenizer: Tokenizer, text: str) -> list[int]:
    number = tokenizer.control_id(text)
    return tokenizer.encode_text(text) if number is None else [number]


# --- what stands behind a prompt ---


def test_the_modes_of_each_family(published: Published) -> None:
    tokenizer, trained = published.tokenizer, published.thinking
    prompt = published.ids([{"role": "user", "content": f"2 + 2? {OPEN}"}])
    assert published.text(prompt).endswith(("<|assistant|>", "<|im_start|>assistant<|im_sep|>"))
    thought, tags = _one_of(tokenizer, OPEN), [*_one_of(tokenizer, OPEN), *_one_of(tokenizer, CLOSE)]
    assert opening(tokenizer, prompt, None, trained) == []
    assert opening(tokenizer, prompt, True, trained) == thought
    skipped = tags if trained.skip is None else _one_of(tokenizer, trained.skip)
    assert opening(tokenizer, prompt, False, trained) == skipped
    if trained.skip is not None:
        assert len(skipped) == 1
    # where the prompt itself opened one
    for space in ("", "\n"):
        opened = [*prompt, *thought, *tokenizer.encode_text(space)]
        assert opening(tokenizer, opened, True, trained) == opening(tokenizer, opened, None, None) == []
        assert opening(tokenizer, opened, False, trained) == opening(tokenizer, opened, False, None) == (
            _one_of(tokenizer, CLOSE)
        )


def test_old_thoughts_leave_the_conversation(published: Published) -> None:
    thought = f"{OPEN}\nTwo and two …\n{CLOSE}\n\n"
    question, again = {"role": "user", "content": "2 + 2?"}, {"role": "user", "content": f"Why {OPEN}a{CLOSE}b?"}
    expected = published.ids([question, {"role": "assistant", "content": "4"}, again])
    parts = [{"type": "text", "text": f"{thought}4"}]
    for content in ("4", f"{thought}4", parts):
        assert published.ids(answers_alone([question, {"role": "assistant", "content": content}, again])) == expected
    assert "Two and two" not in published.text(expected) and f"Why {OPEN}a{CLOSE}b?" in published.text(expected)


def test_only_a_thought_at_the_beginning_of_an_answer_is_old() -> None:
    kept: list[Any] = [
        1, "text", {"role": "user", "content": f"{OPEN}a{CLOSE}b"}, {"role": "assistant", "content": None},
        {"role": "assistant", "content": f"A tag: {OPEN}a{CLOSE}"}, {"role": "assistant", "content": []}, {},
        {"role": "assistant", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": OPEN}]},
    ]
    assert answers_alone(kept) == kept
    assert answers_alone([{"role": "assistant", "content": f"{OPEN}cut in the middle"}])[0]["content"] == ""


@pytest.mark.parametrize(("think", "budget", "expected"), [
    (None, None, None), (True, None, True), (False, None, False), (None, 5, None), (None, 0, False),
    (False, 0, False), (False, 5, False), (True, 5, True),
])
def test_the_two_options_together(think: bool | None, budget: int | None, expected: bool | None) -> None:
    assert wanted(think, budget) is expected


@pytest.mark.parametrize(("think", "budget", "message"), [
    (True, 0, "think is True and think_budget 0"),
    ("yes", None, "think is 'yes'; allowed is True, False, or None"),
    (1, None, "think is 1"),
    (None, -1, "think_budget is -1; allowed is a whole number from 0"),
    (None, True, "think_budget is True"),
    (None, 2.5, r"think_budget is 2\.5"),
])
def test_what_is_no_wish_is_refused(think: Any, budget: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        wanted(think, budget)


# --- scripted streams ---


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
    places = {token: place for place, token in enumerate(sorted({*ids, *_one_of(tokenizer, CLOSE)}))}
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
    tag, words = _one_of(tokenizer, CLOSE), tokenizer.encode_text("First add two, then <add> two. That is it")
    answer = tokenizer.encode_text("The answer is 4.")
    opened = _one_of(tokenizer, OPEN)
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
    prompt = [*header, *_one_of(tokenizer, OPEN)]
    said = _script(tokenizer, prompt, half, tokenizer.encode_text("4"), len(half))
    assert said.shown == {"thinking": tokenizer.decode(half), "answer": "4"}
    assert said.thinking_tokens == len(half)


def test_a_tag_with_the_words_behind_it_in_one_token(published: Published) -> None:
    """Tokens that end the tag and go on, as ">\\n\\n", begin the answer."""
    tokenizer = published.tokenizer
    prompt = [*published.ids([{"role": "user", "content": "2 + 2?"}]), *_one_of(tokenizer, OPEN)]
    spelled = tokenizer.encode_text("hm</think>\n\n4")
    reader = ThoughtReader(tokenizer, prompt)
    pieces = [piece for token in spelled for piece in reader.push(token)] + reader.flush()
    assert pieces == [("thinking", "hm"), ("answer", "4")] and reader.splitter.answering
    assert reader.splitter.tokens == len(tokenizer.encode_text("hm"))


def test_a_skipped_thought_leaves_no_white_space(published: Published) -> None:
    tokenizer, prompt = published.tokenizer, published.ids([{"role": "user", "content": "2 + 2?"}])
    prompt = [*prompt, *_one_of(tokenizer, OPEN), *_one_of(tokenizer, CLOSE)]
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
    budget = ThoughtBudget(tokenizer, 3, _one_of(tokenizer, OPEN), inner)
    checked: TokenConstraint = budget
    assert checked.possible(words) == 3 and list(checked.forced) == []
    mask = checked.allowed()
    assert mask is not None and mask.tolist() == [True, False, True, True]
    for token in words[:3]:
        assert not checked.forced
        checked.accept(token)
    closing = list(checked.forced)
    assert closing == _one_of(tokenizer, CLOSE) and checked.possible(words) == 0
    for token in closing:
        assert checked.forced[0] == token
        checked.accept(token)
    assert not checked.forced and checked.possible(words) == 5
    inner.forced = [7]
    assert checked.forced == [7] and inner.seen == [*words[:3], *closing]


# --- the tiny model ---


@dataclass(frozen=True)
class Thinker:
    session: Session
    tokenizer: Tokenizer

    @property
    def open(self) -> list[int]:
        return _one_of(self.tokenizer, OPEN)

    @property
    def close(self) -> list[int]:
        return _one_of(self.tokenizer, CLOSE)

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
