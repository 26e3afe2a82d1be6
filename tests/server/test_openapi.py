"""The API's document against the API: routes, members of requests, shapes of answers; then requests by schemathesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from edgephi.runtime.server.app import build
from edgephi.runtime.server.bundles import Bundle
from edgephi.runtime.server.chat_request import read_chat
from edgephi.runtime.server.completion_request import read_completion
from edgephi.runtime.server.content import _KINDS
from edgephi.runtime.server.fields import Fields
from edgephi.runtime.server.page import INDEX, PATHS
from edgephi.runtime.server.parameters import REFUSED
from edgephi.runtime.server.responses_request import read_responses
from edgephi.runtime.server.settings import Loading, Settings
from edgephi.runtime.server.speech_request import read_speech

from .conftest import Live

DOCUMENT: dict[str, Any] = json.loads(files("edgephi.runtime.server").joinpath("openapi.json").read_bytes())
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def _valid(name: str, value: object) -> None:
    """Raises where `value` is not what the document says of `name`."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_every_route_is_described_and_nothing_else(bundle: Path) -> None:
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in build(Settings({"tiny": bundle})).routes
        if isinstance(route, Route) and (route.path == INDEX or route.path not in PATHS)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == routes


# What is refused whatever it holds is not part of the API.
NOT_OFFERED = REFUSED.keys() | {
    "suffix", "previous_response_id", "conversation", "prompt", "background", "truncation", "max_tool_calls",
    "context_management",
}
FLAT_TOOL: dict[str, Any] = {
    "type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True
}
# Requests with everything in them that has members of its own; one cannot ask for two forms, so there are several.
FULL: list[tuple[str, Callable[[Fields, Bundle], object], list[dict[str, Any]]]] = [
    ("ChatRequest", read_chat, [
        {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "tool_choice": {
            "type": "function", "function": {"name": "f"},
        }, "tools": [{"type": "function", "function": {key: FLAT_TOOL[key] for key in FLAT_TOOL if key != "type"}}]},
        {**CHAT, "response_format": {
            "type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {}, "strict": True},
        }},
        {**CHAT, "structured_outputs": {"json_object": True}},
    ]),
    ("CompletionRequest", read_completion, [
        {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}},
        {"prompt": "x", "response_format": {
            "type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {}, "strict": True},
        }},
        {"prompt": "x", "structured_outputs": {"regex": "a"}},
    ]),
    ("ResponsesRequest", read_responses, [
        {"input": "x", "tools": [FLAT_TOOL], "tool_choice": {"type": "function", "name": "f"}, "reasoning": {
            "effort": "none", "summary": "auto", "generate_summary": "auto",
        }, "text": {"verbosity": "medium", "format": {
            "type": "json_schema", "name": "n", "description": "d", "schema": {}, "strict": True,
        }}},
        {"input": "x", "structured_outputs": {"choice": ["a"]}},
    ]),
]


def _read_members(fields: Fields, prefix: str = "") -> set[str]:
    """Every member that was asked for, at any depth, as "text.format.type"; of lists, members of their items."""
    found = {f"{prefix}{name}" for name in fields._read}
    for inner in fields._inner:
        found |= _read_members(inner, re.sub(r"\[[0-9]+\]", "", inner._where) + ".")
    return found


def _described_members(schema: dict[str, Any], prefix: str = "") -> set[str]:
    """The same of the document; what a schema of the client's own may hold is not told."""
    if "$ref" in schema:
        return _described_members(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]], prefix)
    found = set[str]()
    for name, value in schema.get("properties", {}).items():
        found |= {f"{prefix}{name}"} | _described_members(value, f"{prefix}{name}.")
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        found |= _described_members(option, prefix)
    return found | (_described_members(schema["items"], prefix) if "items" in schema else set())


@pytest.mark.parametrize(("name", "read", "requests"), FULL, ids=[name for name, _, _ in FULL])
def test_members_that_are_read_are_those_that_are_described(
    bundle: Path, name: str, read: Callable[[Fields, Bundle], object], requests: list[dict[str, Any]]
) -> None:
    taken = {"model", "adapter", "user", "safety_identifier"}  # by the endpoint
    for request in requests:
        _valid(name, request)
        fields = Fields(request)
        read(fields, Bundle.open("tiny", bundle, Loading()))
        taken |= _read_members(fields)
        assert set(fields.unread()) <= {"model", "user"}
    # Messages are read as a whole, by test_what_a_message_may_hold.
    described = {
        each for each in _described_members({"$ref": f"#/components/schemas/{name}"})
        if not each.startswith(("messages.", "input."))
    }
    assert described - taken == set()
    assert taken - described - NOT_OFFERED == set()


def test_members_of_a_form_with_a_recording_are_those_that_are_described() -> None:
    form = {"language": "en", "response_format": "text", "stream": "false", "model": "x", "adapter": "y",
            "prompt": "", "other": "1"}
    assert read_speech(form, b"recording", translate=False).ignored == ("other",)
    described = _described_members({"$ref": "#/components/schemas/SpeechRequest"})
    assert described == {"file", *form} - {"prompt", "other"}


PARTS = {each["properties"]["type"]["enum"][0]: each for each in DOCUMENT["components"]["schemas"]["Part"]["oneOf"]}


def test_what_a_message_may_hold(live: Live) -> None:
    """Every member and every part that is described is taken, and nothing else stands for a medium there."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "x", "name": "n"}, {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "x", "tool_calls": [call], "reasoning_content": "x"},
        {"role": "tool", "content": "x", "tool_call_id": "1"}, {"role": "developer", "content": "x"},
    ]
    held = {name for message in messages for name in message}
    assert held == set(DOCUMENT["components"]["schemas"]["Message"]["properties"])
    response = live.post("/v1/chat/completions", CHAT | {"messages": messages, "tools": [TOOL]})
    assert response.status_code == 200, response.text
    for kind in PARTS.keys() - {"text"}:
        assert kind in _KINDS
        part = {"type": kind, kind: {"url": "data:image/png;base64,aGk=", "data": "aGk="}}
        refused = live.post("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": [part]}]})
        assert f"is of type '{kind}', but this bundle takes text only" in refused.json()["error"]["message"]


def test_answers_have_the_shapes_that_are_described(live: Live) -> None:
    made = live.post("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}).json()
    _valid("Chat", made)
    measured = DOCUMENT["components"]["schemas"]["Measurements"]["properties"].keys()
    assert made["edgephi"].keys() == measured - {"malformed_tool_calls"}
    _valid("Completion", live.post("/v1/completions", {"prompt": ["a", "b"], "logprobs": 1}).json())
    _valid("Responses", live.post("/v1/responses", {"input": "hello", "max_output_tokens": 3}).json())
    _valid("Models", live.get("/v1/models").json())
    _valid("Model", live.get("/v1/models/tiny").json())
    _valid("Health", live.get("/health").json())
    _valid("Error", live.get("/v1/models/none").json())
    assert live.get("/openapi.json").json() == DOCUMENT
    with pytest.raises(jsonschema.ValidationError):
        _valid("Chat", made | {"choices": []})


def test_requests_of_every_kind_fit_the_description(live: Live) -> None:
    """What the document allows in words the server takes in fact."""
    further: list[dict[str, Any]] = [
        {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": -1, "stop": ["a", "b"]},
        {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "boolean"}}}},
        {"presence_penalty": 1.5, "frequency_penalty": -1, "repetition_penalty": 1.1, "reasoning_effort": "none"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "user": "me"},
    ]
    for members in further:
        _valid("ChatRequest", CHAT | members)
        assert live.post("/v1/chat/completions", CHAT | members).status_code == 200, members


def test_schemathesis_finds_no_defect(bundle: Path, start: Callable[..., Live]) -> None:
    """Requests made from the document, valid and not: no status of 500, and no status, type or shape that is not told.

    A run of two examples an operation, drawn always alike; EDGEPHI_FUZZ_EXAMPLES asks for more.
    """
    live = start(context=96, body_seconds=20.0, header_seconds=20.0)
    examples = os.environ.get("EDGEPHI_FUZZ_EXAMPLES", "2")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json", "--max-examples", examples,
        "--seed", "1", "--phases", "examples,fuzzing", "--no-color", "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--generation-database", "none", "--request-timeout", "60",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=bundle.parent)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None and int(generated[1]) >= len(DOCUMENT["paths"]), done.stdout[-2000:]


def test_limits_are_those_of_the_server() -> None:
    """Numbers that stand in the document and in the code."""
    from edgephi.runtime.sampling import MAXIMUM_ALTERNATIVES
    from edgephi.runtime.server.completion_request import MAXIMUM_PROMPTS
    from edgephi.runtime.server.content import MAXIMUM_MESSAGES
    from edgephi.runtime.server.tool_fields import MAXIMUM_TOOLS

    chat, raw = (DOCUMENT["components"]["schemas"][name]["properties"] for name in ("ChatRequest", "CompletionRequest"))
    assert chat["messages"]["maxItems"] == MAXIMUM_MESSAGES
    assert chat["tools"]["maxItems"] == MAXIMUM_TOOLS
    assert chat["top_logprobs"]["maximum"] == MAXIMUM_ALTERNATIVES
    assert raw["prompt"]["anyOf"][1]["maxItems"] == MAXIMUM_PROMPTS


@pytest.mark.parametrize("name", ["", " ", "x ", "\n", "é", "a" * 5000, "y" * 999 + " z"])
def test_no_name_of_a_member_spoils_the_header_that_names_it(live: Live, name: str) -> None:
    for more in ({name: None}, {"first": None, name: None}):
        assert live.post("/v1/completions", {"prompt": "x", "max_tokens": 1, **more}).status_code == 200
