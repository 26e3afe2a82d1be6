"""Answers of a given form from a model of random weights: they follow it, however they are made and end."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import edgephi
from edgephi import MissingDependency, RequestError, Session
from edgephi.benchmarks.form_schemas import SCHEMAS
from edgephi.runtime.manifest import Thinking
from edgephi.runtime.tokens import Tokenizer

LIGHT = SCHEMAS["weather_call"]
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 6}}, "required": ["city"],
        "additionalProperties": False,
    }}},
    # as model cards describe them
    {"name": "set_timer", "parameters": {"minutes": {"type": "int"}, "name": {"type": "str", "default": "tea"}}},
    {"name": "stop"},
]
ARGUMENTS = {
    "get_weather": TOOLS[0]["function"]["parameters"],
    "set_timer": {
        "type": "object", "properties": {"minutes": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["minutes"], "additionalProperties": False,
    },
    "stop": {"type": "object", "maxProperties": 0},
}


@pytest.fixture(scope="module")
def folder(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini")


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[Session]:
    with edgephi.load(folder, threads=1, context=16384) as loaded:
        yield loaded


def _valid(text: str, schema: Mapping[str, Any]) -> None:
    judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    judge.validate(json.loads(text))


def test_a_hundred_answers_under_fifty_schemas_are_valid(session: Session) -> None:
    answers = 0
    for name, schema in SCHEMAS.items():
        for seed in (0, 1):
            reply = session.generate(f"Example {seed}", schema=schema, temperature=1.0, seed=seed)
            assert reply.finish_reason == "stop", name
            _valid(reply.text, schema)
            answers += 1
    assert answers == 100


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("name", ["invoice", "tagged_union", "enum_of_kinds", "nested"])
def test_what_is_said_does_not_depend_on_drafting(session: Session, name: str, temperature: float) -> None:
    asked: Any = {"schema": SCHEMAS[name], "temperature": temperature, "seed": 5, "top_p": 0.9}
    fast = session.generate("Example", **asked)
    slow = session.generate("Example", draft=False, **asked)
    assert fast.token_ids == slow.token_ids and fast.text == slow.text
    _valid(fast.text, SCHEMAS[name])


def test_forced_tokens_cost_no_step_of_their_own(session: Session) -> None:
    # After one choice everything is forced, the end included: the model is asked once.
    reply = session.generate("?", choice=["a long text without any choice", "b"], seed=1, temperature=1.0)
    usage = reply.usage
    assert usage.drafted_tokens == usage.completion_tokens - 1


def test_a_limit_leaves_the_beginning_of_an_answer_and_says_so(session: Session) -> None:
    whole = session.generate("?", schema=LIGHT, temperature=0)
    for limit in (1, 2, 5, whole.usage.completion_tokens - 1):
        part = session.generate("?", schema=LIGHT, temperature=0, max_tokens=limit)
        assert part.finish_reason == "length" and part.usage.completion_tokens == limit
        assert part.token_ids == whole.token_ids[:limit]


def test_a_stop_string_ends_it_all_the_same(session: Session) -> None:
    reply = session.generate("?", schema=LIGHT, temperature=0, stop='"arguments"')
    assert reply.finish_reason == "stop" and reply.text == '{"name": "get_weather", '


def test_logprobs_are_the_model_s_own(session: Session) -> None:
    prompt = session.encode("?")
    reply = session.generate(prompt, schema=LIGHT, temperature=0, top_logprobs=3)
    assert reply.logprobs is not None and reply.top_logprobs is not None
    logits = session.logits([*prompt, *reply.token_ids])[len(prompt) - 1 : -1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    logprobs -= logits.max(1, keepdims=True)
    for row, token_id, logprob, alternatives in zip(
        logprobs, reply.token_ids, reply.logprobs, reply.top_logprobs, strict=True
    ):
        # float32 sums cut in other ways: rounding apart
        assert logprob == pytest.approx(row[token_id], abs=1e-4)
        assert [number for number, _ in alternatives] == list(np.argsort(-row)[:3])


def test_the_end_comes_only_where_the_grammar_may_stop(session: Session) -> None:
    ends = set(session.manifest.tokens.eos)
    for seed in range(20):
        reply = session.generate("?", regex="(ab){2,4}", temperature=1.0, seed=seed)
        assert re.fullmatch("(ab){2,4}", reply.text)
        assert [token_id in ends for token_id in reply.token_ids].index(True) == len(reply.token_ids) - 1


def test_no_control_token_stands_for_text(session: Session, folder: Path) -> None:
    controls = Tokenizer.open(folder).control_ids - set(session.manifest.tokens.eos)
    for seed in range(10):
        reply = session.generate("?", regex="(?s:.){0,40}", temperature=2.0, seed=seed)
        assert not controls & set(reply.token_ids)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"choice": ["yes", "no", 'a "quoted" one', "ünïcode/slash"]}, r'yes|no|a "quoted" one|ünïcode/slash'),
        ({"regex": r"[0-9]{3}/[a-c]\\"}, r"[0-9]{3}/[a-c]\\"),
        ({"regex": "a\nb|c\\/d"}, "a\nb|c/d"),
        ({"grammar": 'start: "x" DIGITS\nDIGITS: /[0-9]{2}/'}, "x[0-9]{2}"),
        ({"schema": '{"enum": [1, 2]}'}, "1|2"),
    ],
)
def test_other_forms(session: Session, asked: Any, expected: str) -> None:
    for seed in range(6):
        assert re.fullmatch(expected, session.generate("?", temperature=1.5, seed=seed, **asked).text)


def test_a_class_that_knows_its_schema_is_one(session: Session) -> None:
    class Model:
        @staticmethod
        def model_json_schema() -> Mapping[str, object]:
            return {"const": {"a": 1}}

    assert session.generate("?", schema=Model()).text == '{"a": 1}'


@pytest.mark.parametrize("choice", ["required", "set_timer", "stop"])
def test_forced_calls_follow_the_parameters(session: Session, choice: str) -> None:
    messages = [{"role": "user", "content": "?"}]
    for seed in range(4):
        reply = session.chat(messages, tools=TOOLS, tool_choice=choice, temperature=1.0, seed=seed, max_tokens=4000)
        assert reply.finish_reason == "stop" and not reply.text and reply.tool_calls and not reply.malformed_calls
        for call in reply.tool_calls:
            assert choice in ("required", call.name)
            jsonschema.validate(call.arguments, ARGUMENTS[call.name])
        one = session.chat(
            messages, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, temperature=1.0, seed=seed
        )
        assert len(one.tool_calls) == 1


def test_tools_and_a_schema_leave_the_model_one_or_the_other(session: Session) -> None:
    seen = set()
    for seed in range(12):
        reply = session.chat(
            [{"role": "user", "content": f"{seed}?"}], tools=TOOLS[:1], schema=LIGHT, temperature=3.0, seed=seed,
            parallel_tool_calls=False,
        )
        assert bool(reply.text) != bool(reply.tool_calls) and not reply.malformed_calls
        seen.add(bool(reply.text))
        if reply.text:
            _valid(reply.text, LIGHT)
        for call in reply.tool_calls:
            jsonschema.validate(call.arguments, ARGUMENTS["get_weather"])
    assert seen == {True, False}


def test_calls_of_a_strict_tool_are_right_wherever_they_are_made(session: Session) -> None:
    calls = 0
    for seed in range(30):
        reply = session.chat(
            [{"role": "user", "content": f"{seed}"}], tools=TOOLS[:1], temperature=2.0, seed=seed, max_tokens=400
        )
        cut = reply.finish_reason == "length"
        assert cut or not reply.malformed_calls
        calls += len(reply.tool_calls)
        for call in reply.tool_calls:
            jsonschema.validate(call.arguments, ARGUMENTS["get_weather"])
    assert calls, "no answer of thirty made a call: the test shows nothing"


def test_a_thought_is_free_and_the_answer_is_not(session: Session, folder: Path) -> None:
    tokenizer = Tokenizer.open(folder)
    prompt = [*session.encode("?"), *tokenizer.encode_text("<think>")]
    for seed in range(4):
        reply = session.generate(prompt, schema=LIGHT, think_budget=20, temperature=1.0, seed=seed)
        assert reply.finish_reason == "stop" and reply.usage.thinking_tokens <= 20 and reply.thinking
        assert not reply.thinking.startswith("{")
        _valid(reply.text, LIGHT)
    cut = session.generate(prompt, schema=LIGHT, temperature=1.0, seed=0, max_tokens=30)
    assert cut.finish_reason == "length" and not cut.text, "the thought did not end, and no end token ended it"


def test_a_model_that_always_thinks_does_so_before_a_form(folder: Path) -> None:
    with edgephi.load(folder, threads=1, context=4096) as always:
        always.manifest = dataclasses.replace(always.manifest, thinking=Thinking("<think>", "</think>", None))
        asked: Any = {"schema": LIGHT, "temperature": 1.0, "seed": 2}
        thoughtful = always.generate("?", think_budget=12, **asked)
        assert thoughtful.thinking
        _valid(thoughtful.text, LIGHT)
        told_not_to = always.generate("?", think=False, **asked)
        assert not told_not_to.thinking
        _valid(told_not_to.text, LIGHT)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"schema": {"type": "strin"}}, "schema cannot be followed: Invalid type: strin"),
        ({"schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"schema": {"$ref": "http://example.org/schema"}}, "schema cannot be followed"),
        ({"schema": {"$ref": "#"}}, "schema cannot be followed"),
        ({"schema": "{"}, "schema is text that is not JSON"),
        ({"schema": [1]}, "schema is a list"),
        ({"schema": {"enum": ["x" * 70000]}}, "at most 65536"),
        ({"regex": "(?=a)b"}, "regex cannot be followed"),
        ({"regex": ""}, "regex is ''"),
        ({"choice": []}, "choice is []"),
        ({"choice": ["a", 1]}, r"choice[1] is 1"),
        ({"grammar": "start"}, "grammar cannot be followed"),
        ({"schema": {}, "choice": ["a"]}, "schema and choice are both given"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": "fly", "tools": TOOLS}, "none of the tools; allowed are auto, none, required, get_weather"),
        ({"top_logprobs": 21}, "top_logprobs is 21; allowed is a whole number from 0 to 20"),
    ],
)
def test_what_cannot_be_followed_is_an_error_at_once(session: Session, asked: Any, found: str) -> None:
    with pytest.raises(RequestError, match=re.escape(found)) as caught:
        session.stream([{"role": "user", "content": "?"}], **asked)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with edgephi.load(folder, threads=1) as fresh:
        assert fresh.generate("?", max_tokens=1).finish_reason == "length"
        with pytest.raises(MissingDependency, match=r"pip install 'edgephi\[schema\]'"):
            fresh.stream("?", choice=["a"])
