"""The smart home of examples/: its loop over scripted answers, its tools over a real session."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

import edgephi
from edgephi.runtime.tools import MalformedCall, ToolCall
from edgephi.runtime.usage import Reply, Usage

EXAMPLES = Path(__file__).parents[2] / "examples"
USAGE = Usage(1, 0, 1, 0.1, 1.0, 1.0, 0, 0.0, 0, "cpu", 1)


@pytest.fixture(scope="module")
def smart_home() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("smart_home", EXAMPLES / "smart_home.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["smart_home"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["smart_home"]


class Scripted:
    """A session that gives the replies it was told and keeps what it was asked."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = iter(replies)
        self.asked: list[list[Any]] = []

    def chat(self, messages: list[Any], **options: Any) -> Reply:
        self.asked.append(list(messages))
        return next(self._replies)


def _reply(text: str, *calls: ToolCall, malformed: tuple[MalformedCall, ...] = ()) -> Reply:
    return Reply(text, (1,), "stop", USAGE, tool_calls=calls, malformed_calls=malformed)


def test_calls_are_carried_out_and_their_results_go_back(
    smart_home: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Scripted(
        _reply("", ToolCall(0, "set_light", {"room": "hall", "on": True}), ToolCall(1, "read_room", {"room": "hall"})),
        _reply("", ToolCall(0, "set_light", {"room": "cellar", "on": True}), ToolCall(1, "fly", {})),
        _reply("The light is on.", malformed=(MalformedCall("{", "it ended"),)),
    )
    home, messages = smart_home.Home(), []
    assert smart_home.ask(session, home, messages, "Light, please") == "The light is on."
    assert home.rooms["hall"].light
    assert [message["role"] for message in messages] == [
        "user", "assistant", "tool", "tool", "assistant", "tool", "tool", "assistant",
    ]
    assert messages[3]["content"] == '{"light": "on", "degrees": 18}'
    assert all("error" in message["content"] for message in messages[5:7])
    assert session.asked[1] == messages[:4], "the second answer follows the results of the first"
    assert "no call: it ended: {" in capsys.readouterr().err


def test_a_model_that_only_calls_is_stopped(smart_home: ModuleType) -> None:
    session = Scripted(*[_reply("", ToolCall(0, "read_room", {"room": "hall"}))] * smart_home.ROUNDS)
    assert "stopped" in smart_home.ask(session, smart_home.Home(), [], "?")


def test_the_home_can_do_whatever_a_strict_call_says(smart_home: ModuleType, tiny_bundle: Callable[..., Path]) -> None:
    home, messages = smart_home.Home(), [{"role": "user", "content": "It is cold."}]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in smart_home.TOOLS}
    with edgephi.load(tiny_bundle("mini"), context=4096) as session:
        for seed in range(3):
            reply = session.chat(
                messages, tools=smart_home.TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1.0,
                seed=seed,
            )
            assert len(reply.tool_calls) == 1 and not reply.text
            jsonschema.validate(reply.tool_calls[0].arguments, schemas[reply.tool_calls[0].name])
            assert "error" not in home.carry_out(reply.tool_calls[0])
            messages += [reply.message, {"role": "tool", "content": '{"status": "ok"}'}]
            # This template reads no calls: they go back as the text that begins with `functools`.
            written = session.encode(messages)
            assert len(written) > len(session.encode(messages[:1]))
