"""Answers of a given form over HTTP: schemas, forced and strict calls, alternatives, penalties, calls that are none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest

import edgephi
from edgephi.runtime.session import Piece
from edgephi.runtime.tools import MalformedCall

from .conftest import Live, called, last, script, spoken

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
ASKED: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 300}
LIGHT: dict[str, Any] = {
    "type": "object",
    "properties": {"room": {"enum": ["hall", "bath"]}, "on": {"type": "boolean"}},
    "required": ["room", "on"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "set_light", "parameters": LIGHT}},
    {"type": "function", "function": {"name": "stop"}},
]
FLAT: Any = [{"type": "function", "name": "set_light", "parameters": LIGHT, "strict": True}]
MALFORMED = MalformedCall('{"name": 3}', "it has no name")
SPOILT = Piece(MALFORMED.text, 70, -0.5, "malformed_call", malformed=MALFORMED)


class Light(pydantic.BaseModel):
    """What a client of pydantic asks for."""

    model_config = pydantic.ConfigDict(extra="forbid")
    room: Literal["hall", "bath"]
    on: bool


def _format(schema: object, **more: object) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "light", "schema": schema, **more}}


def test_openai_s_client_parses_its_own_models(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(**ASKED, response_format=Light).choices[0].message.parsed
    assert isinstance(parsed, Light)
    response = client.responses.parse(model="tiny", input="hello", text_format=Light)
    assert isinstance(response.output_parsed, Light)


@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_holds_for_drawn_and_for_streamed_answers(client: openai.OpenAI, strict: bool) -> None:
    form = _format(LIGHT, strict=strict)
    for seed in range(4):
        stream = client.chat.completions.create(**ASKED, response_format=form, seed=seed, temperature=1.5, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        jsonschema.validate(json.loads(text), LIGHT)


def test_json_mode_begins_an_object_and_says_when_it_was_cut(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        **ASKED | {"max_tokens": 5}, response_format={"type": "json_object"}
    ).choices[0]
    assert choice.message.content is not None and choice.message.content.startswith("{")
    assert choice.finish_reason == "length"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"guided_choice": ["north", "south"]}, r"north|south"),
        ({"guided_regex": "[0-9]{3}-x"}, r"[0-9]{3}-x"),
        ({"guided_json": {"enum": [7, 8]}}, "7|8"),
        ({"json_schema": {"enum": [7, 8]}}, "7|8"),
        ({"structured_outputs": {"choice": ["up", "down"]}}, "up|down"),
        ({"response_format": {"type": "json_object", "schema": {"const": 5}}}, "5"),
    ],
)
def test_the_names_of_other_servers_are_known(live: Live, given: dict[str, Any], expected: str) -> None:
    raw = {"model": "tiny", "prompt": "a", "max_tokens": 50}
    for path, body in (("chat/completions", ASKED), ("completions", raw)):
        choice = live.post(f"/v1/{path}", body | given).json()["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        assert re.fullmatch(expected, text), text


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"response_format": _format({"type": "strin"}, strict=True)}, "response_format.json_schema.schema"),
        ({"response_format": _format({"type": "array", "uniqueItems": True}, strict=True)}, "response_format.json_sch"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.sch"),
        ({"response_format": _format("no JSON")}, "response_format.json_schema.schema"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice.type"),
    ],
)
def test_a_form_that_cannot_be_followed_is_an_error_naming_it(live: Live, given: dict[str, Any], param: str) -> None:
    response = live.post("/v1/chat/completions", ASKED | given)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)


def test_what_is_not_strict_may_hold_what_nobody_follows(live: Live) -> None:
    body = ASKED | {"response_format": _format({"type": "array", "uniqueItems": True, "maxItems": 1})}
    message = live.post("/v1/chat/completions", body).json()["choices"][0]["message"]
    assert isinstance(message["content"], str) and message["content"].startswith("[")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "set_light"}}])
def test_a_forced_call_follows_the_parameters(client: openai.OpenAI, choice: Any) -> None:
    for seed in range(3):
        reply = client.chat.completions.create(
            **ASKED, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, seed=seed, temperature=1.5
        ).choices[0]
        assert reply.finish_reason == "tool_calls" and not reply.message.content
        call: Any = (reply.message.tool_calls or [])[0]
        arguments = json.loads(call.function.arguments)
        if call.function.name == "set_light":
            jsonschema.validate(arguments, LIGHT)
        else:
            assert (call.function.name, arguments) == ("stop", {}) and choice == "required"


def test_forced_calls_stream_and_come_as_items_of_a_response(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        **ASKED, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, stream=True
    )
    calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    assert [call.index for call in calls] == [0, 0]
    response = client.responses.create(
        model="tiny", input="hello", tools=FLAT, tool_choice={"type": "function", "name": "set_light"},
        parallel_tool_calls=False,
    )
    item: Any = response.output[0]
    assert (item.type, item.name) == ("function_call", "set_light")
    jsonschema.validate(json.loads(item.arguments), LIGHT)


def test_alternatives_are_those_of_the_session(client: openai.OpenAI, bundle: Path) -> None:
    with edgephi.load(bundle, threads=1, context=4096) as session:
        expected = session.chat(MESSAGES, temperature=0, max_tokens=8, top_logprobs=3)
    assert expected.top_logprobs is not None
    given = ASKED | {"max_tokens": 8, "temperature": 0}
    content = client.chat.completions.create(**given, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert content is not None and content.content is not None
    for entry, alternatives in zip(content.content, expected.top_logprobs, strict=False):
        logprobs = [logprob for _, logprob in alternatives]
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(logprobs, abs=1e-4)
        assert entry.top_logprobs[0].token == entry.token  # greedy takes the likeliest
    old = client.completions.create(model="tiny", prompt="hello", max_tokens=4, logprobs=2, temperature=0).choices[0]
    assert old.logprobs is not None and old.logprobs.top_logprobs is not None
    assert all(1 <= len(top) <= 2 for top in old.logprobs.top_logprobs)
    response = client.responses.create(
        model="tiny", input="hello", max_output_tokens=16, temperature=0, top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    part: Any = response.output[0]
    assert all(len(entry.top_logprobs) == 2 for entry in part.content[0].logprobs)


def test_penalties_change_what_is_repeated(client: openai.OpenAI) -> None:
    given = ASKED | {"max_tokens": 40, "temperature": 0}
    plain = client.chat.completions.create(**given, logprobs=True).choices[0].logprobs
    penalties: Any = {"frequency_penalty": 2, "presence_penalty": 2}
    punished = client.chat.completions.create(**given, logprobs=True, **penalties).choices[0]
    assert plain is not None and plain.content and punished.logprobs is not None and punished.logprobs.content
    assert len({entry.token for entry in punished.logprobs.content}) > len({entry.token for entry in plain.content})


def test_a_call_that_cannot_be_read_is_reported_and_never_content(start: Callable[..., Live]) -> None:
    made = start(script(*spoken("Well."), SPOILT, called(0, "stop"), last()))
    expected = [{"text": MALFORMED.text, "reason": MALFORMED.reason}]
    whole = made.post("/v1/chat/completions", ASKED | {"tools": TOOLS}).json()
    message = whole["choices"][0]["message"]
    assert message["content"] == "Well." and len(message["tool_calls"]) == 1
    assert whole["edgephi"]["malformed_tool_calls"] == expected
    client = made.client()
    chunks = list(client.chat.completions.create(**ASKED, tools=TOOLS, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Well."
    told = [chunk.model_extra["edgephi"] for chunk in chunks if chunk.model_extra and "edgephi" in chunk.model_extra]
    assert told == [{"malformed_tool_calls": expected}]
    response = client.responses.create(model="tiny", input="hello", tools=FLAT)
    assert response.output_text == "Well." and [item.type for item in response.output] == ["message", "function_call"]
    assert response.model_extra is not None
    assert response.model_extra["edgephi"]["malformed_tool_calls"] == expected


def test_an_answer_that_is_no_more_than_a_spoilt_call_has_no_content(start: Callable[..., Live]) -> None:
    choice = start(script(SPOILT, last())).post("/v1/chat/completions", ASKED | {"tools": TOOLS}).json()["choices"][0]
    assert choice["message"]["content"] is None and choice["finish_reason"] == "stop"
