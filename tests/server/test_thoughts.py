"""How much to think: the words of OpenAI's, vLLM's and Qwen's clients, and what comes back of a thought."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import edgephi
from edgephi.runtime.errors import RequestError
from edgephi.runtime.manifest import Thinking
from edgephi.runtime.server.bundles import Bundle
from edgephi.runtime.server.fields import Fields
from edgephi.runtime.server.models import load_engine
from edgephi.runtime.server.settings import Loading, Settings
from edgephi.runtime.server.thoughts import read_thinking

from .conftest import QUICK, Live, serving

HELLO: Any = [{"role": "user", "content": "hello there"}]
ASKED: dict[str, Any] = {"model": "thinker", "messages": HELLO, "temperature": 0, "max_tokens": 24}
BUDGET: dict[str, Any] = {"thinking_budget": 6}


@pytest.fixture(scope="module")
def thinker(thinking_bundle: Callable[..., Path]) -> Path:
    return thinking_bundle()


@pytest.fixture(scope="module")
def both(thinker: Path, bundle: Path) -> Iterator[Live]:
    """A model that thinks, and one that does not."""
    settings = Settings({"thinker": thinker, "plain": bundle}, limits=QUICK, loading=Loading(threads=1, context=4096))
    with serving(settings, load_engine) as made:
        yield made


@pytest.fixture(scope="module")
def session(thinker: Path) -> Iterator[edgephi.Session]:
    """The oracle: the same bundle without a server."""
    with edgephi.load(thinker, threads=1, context=4096) as loaded:
        yield loaded


def _message(reply: Any) -> tuple[str, str, int]:
    """Thought, answer, and how many tokens of the whole are thought."""
    message = reply.choices[0].message
    return getattr(message, "reasoning_content", ""), message.content, (
        reply.usage.completion_tokens_details.reasoning_tokens
    )


def test_an_effort_asks_for_a_thought_and_a_budget_ends_it(both: Live, session: edgephi.Session) -> None:
    expected = session.chat(HELLO, temperature=0, max_tokens=24, think=True, think_budget=6)
    assert expected.thinking and expected.text
    create = both.client().chat.completions.create
    reply = create(**ASKED, reasoning_effort="high", extra_body=BUDGET)
    assert _message(reply) == (expected.thinking, expected.text, 6)
    chunks = create(
        **ASKED, reasoning_effort="high", extra_body=BUDGET, stream=True, stream_options={"include_usage": True}
    )
    *parts, end = chunks
    deltas: list[Any] = [chunk.choices[0].delta for chunk in parts]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == expected.thinking
    assert "".join(delta.content or "" for delta in deltas) == expected.text
    assert end.usage is not None and end.usage.completion_tokens_details is not None
    assert end.usage.completion_tokens_details.reasoning_tokens == 6


@pytest.mark.parametrize(("words", "think"), [
    ({"reasoning_effort": "none"}, False),
    ({"reasoning_effort": "low"}, True),
    ({"chat_template_kwargs": {"enable_thinking": False}}, False),
    ({"chat_template_kwargs": {"enable_thinking": True}}, True),
    ({"enable_thinking": False}, False),
    ({"thinking_budget": 0}, False),
    ({}, None),
])
def test_every_client_s_words_mean_the_same(
    words: dict[str, Any], think: bool | None, both: Live, session: edgephi.Session
) -> None:
    expected = session.chat(HELLO, temperature=0, max_tokens=24, think=think)
    reply = both.client().chat.completions.create(**ASKED, extra_body=words)
    assert _message(reply) == (expected.thinking, expected.text, expected.usage.thinking_tokens)
    assert bool(expected.thinking) is bool(think)


def test_a_thought_is_an_item_of_a_response(both: Live, session: edgephi.Session) -> None:
    expected = session.chat(HELLO, temperature=0, max_tokens=24, think=True, think_budget=6)
    create = both.client().responses.create
    asked: dict[str, Any] = {
        "model": "thinker", "input": "hello there", "temperature": 0, "max_output_tokens": 24,
        "reasoning": {"effort": "medium", "summary": "auto"}, "extra_body": BUDGET,
    }
    whole = create(**asked)
    *events, end = create(**asked, stream=True)
    assert "".join(each.delta for each in events if each.type == "response.reasoning_text.delta") == expected.thinking
    for response in (whole, end.response):
        thought, message = response.output
        assert (thought.type, thought.content[0].text, message.type) == ("reasoning", expected.thinking, "message")
        assert response.output_text == expected.text and response.reasoning.effort == "medium"
        assert response.usage.output_tokens_details.reasoning_tokens == 6
    # what comes back of it with the next question is no part of that
    items = [{"role": "user", "content": "hello there"}, *(item.model_dump() for item in whole.output)]
    again = create(**{**asked, "input": [*items, {"role": "user", "content": "more"}]})
    turns = [*HELLO, {"role": "assistant", "content": expected.text}, {"role": "user", "content": "more"}]
    assert again.usage is not None and again.usage.input_tokens == 1 + len(session.encode(turns))


@pytest.mark.parametrize(("model", "words", "complaint"), [
    ("thinker", {"reasoning_effort": "none", "enable_thinking": True}, "enable_thinking asks for a thought and"),
    ("thinker", {"reasoning_effort": "high", "thinking_budget": 0}, "thinking_budget for none"),
    ("thinker", {"reasoning_effort": "much"}, "reasoning_effort is 'much'; allowed is one of none, minimal"),
    ("thinker", {"chat_template_kwargs": {"enable_thinking": "no"}}, "allowed is true or false"),
    ("thinker", {"thinking_budget": -2}, "thinking_budget is -2"),
    ("plain", {"reasoning_effort": "low"}, "'plain' was not trained to think, which reasoning_effort asks for"),
    ("plain", {"chat_template_kwargs": {"enable_thinking": True}}, "was not trained to think"),
])
def test_what_cannot_be_honoured_is_an_error(model: str, words: dict[str, Any], complaint: str, both: Live) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        both.client().chat.completions.create(**{**ASKED, "model": model}, extra_body=words)
    assert complaint in refused.value.message


def test_a_model_that_does_not_think_is_asked_not_to(both: Live) -> None:
    for words in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}, BUDGET):
        reply = both.client().chat.completions.create(**{**ASKED, "model": "plain"}, extra_body=words)
        assert reply.choices[0].message.content and _message(reply)[2] == 0


def test_completions_and_summaries_take_no_such_words(both: Live) -> None:
    for words in (BUDGET, {"enable_thinking": True}):
        assert both.post("/v1/completions", {"model": "thinker", "prompt": "a", **words}).status_code == 400
    refused = both.post("/v1/responses", {"model": "thinker", "input": "a", "reasoning": {"summary": "detailed"}})
    assert refused.status_code == 400 and "reasoning.summary" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("effort", "think", "budget"), [
    (None, None, None), ("none", False, None), ("minimal", True, 256), ("low", True, 1024), ("medium", True, 4096),
    ("high", True, None), ("xhigh", True, None),
])
def test_efforts_are_budgets(effort: str | None, think: bool | None, budget: int | None, thinker: Path) -> None:
    fields = Fields({"reasoning_effort": effort})
    read = read_thinking(fields, fields, "reasoning_effort", Bundle.open("thinker", thinker, Loading()))
    assert read == {"variables": {}, "think": think, "think_budget": budget}


def test_a_number_counts_more_than_an_effort(thinker: Path) -> None:
    bundle = Bundle.open("thinker", thinker, Loading())
    for number, budget in ((7, 7), (-1, None)):
        for name in ("thinking_budget", "reasoning_budget", "thinking_token_budget"):
            fields = Fields({"reasoning_effort": "low", name: number})
            assert read_thinking(fields, fields, "reasoning_effort", bundle).get("think_budget") == budget


def test_a_template_that_reads_the_switch_gets_it(bundle: Path) -> None:
    plain = Bundle.open("plain", bundle, Loading())
    reading = dataclasses.replace(plain, template="{{ enable_thinking }}")
    fields = Fields({"chat_template_kwargs": {"enable_thinking": True, "other": 1}})
    read = read_thinking(fields, None, "effort", reading)
    assert read == {"variables": {"enable_thinking": True, "other": 1}, "think": None, "think_budget": None}
    with pytest.raises(RequestError, match="was not trained to think"):
        read_thinking(fields, None, "effort", plain)
    trained = dataclasses.replace(plain, manifest=dataclasses.replace(
        plain.manifest, thinking=Thinking("<think>", "</think>", None)
    ))
    assert read_thinking(fields, None, "effort", trained).get("variables") == {"other": 1}
