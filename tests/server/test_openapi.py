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
from edgephi.runtime.server.fields import Fields
from edgephi.runtime.server.page import INDEX, PATHS
from edgephi.runtime.server.parameters import REFUSED
from edgephi.runtime.server.responses_request import read_responses
from edgephi.runtime.server.settings import Loading, Settings

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


@pytest.mark.parametrize(
    ("name", "read", "minimal"),
    [
        ("ChatRequest", read_chat, CHAT),
        ("CompletionRequest", read_completion, {"prompt": "x"}),
        ("ResponsesRequest", read_responses, {"input": "x"}),
    ],
)
def test_members_that_are_read_are_those_that_are_described(
    bundle: Path, name: str, read: Callable[[Fields, Bundle], object], minimal: dict[str, object]
) -> None:
    fields = Fields(minimal)
    fields.raw("model"), fields.raw("user"), fields.raw("safety_identifier")  # by the endpoint
    read(fields, Bundle.open("tiny", bundle, Loading()))
    described = DOCUMENT["components"]["schemas"][name]["properties"].keys()
    # What is refused whatever it holds is not part of the API.
    refused = REFUSED.keys() | {
        "suffix", "previous_response_id", "conversation", "prompt", "background", "truncation", "max_tool_calls",
        "context_management",
    }
    assert set(described) - fields._read == set()
    assert fields._read - set(described) <= refused, fields._read - set(described) - refused
    _valid(name, minimal)


def test_answers_have_the_shapes_that_are_described(live: Live) -> None:
    made = live.post("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}).json()
    _valid("Chat", made)
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
