"""edgephi run: answers of a given form, tools on the command line and in a conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Program = Callable[..., Any]
LIGHT: dict[str, Any] = {
    "type": "object",
    "properties": {"room": {"enum": ["hall", "bath"]}, "on": {"type": "boolean"}},
    "required": ["room", "on"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"name": "set_light", "parameters": LIGHT, "strict": True}]


def test_a_schema_from_a_file_or_as_text(program: Program, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "light.json").write_text(json.dumps(LIGHT))
    for given in (tmp_path / "light.json", json.dumps(LIGHT)):
        done = program("run", bundle, "--schema", given, "Light?")
        assert done.code == 0, done.err
        jsonschema.validate(json.loads(done.out), LIGHT)


def test_a_regex_and_choices(program: Program, bundle: Path) -> None:
    assert re.fullmatch(r"[0-9]{2}/[a-c]\n", program("run", bundle, "--regex", "[0-9]{2}/[a-c]", "?").out)
    assert program("run", bundle, "--choice", "north", "--choice", "south", "?").out in ("north\n", "south\n")


def test_a_call_is_one_line_of_json(program: Program, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps({"tools": TOOLS}))
    done = program("run", bundle, "--tools", tmp_path / "tools.json", "--tool-choice", "set_light", "--json", "?")
    assert done.code == 0, done.err
    calls = json.loads(done.out)["tool_calls"]
    assert calls
    for call in calls:
        jsonschema.validate(call["arguments"], LIGHT)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--schema", "nowhere.json"], "--schema nowhere.json cannot be read"),
        (["--schema", "[1]"], "--schema [1] is no JSON object"),
        (["--schema", '{"type": '], "is not JSON"),
        (["--schema", '{"type": "strin"}'], "schema cannot be followed: Invalid type: strin"),
        (["--schema", "{}", "--regex", "a"], "schema and regex are both given"),
        (["--tools", "{}"], "--tools {} is no list of functions"),
        (["--tool-choice", "required"], "there are no tools"),
        (["--presence-penalty", "3"], "presence_penalty is 3.0"),
    ],
)
def test_what_cannot_be_followed_is_one_line(program: Program, bundle: Path, arguments: list[str], found: str) -> None:
    done = program("run", bundle, *arguments, "?")
    assert done.code != 0 and found in done.err and done.err.count("\n") == 1 and not done.out


@pytest.mark.parametrize("shape", [[], ["--json"], ["--stream-json"]])
def test_an_answer_that_was_cut_has_not_its_form_and_a_code_of_its_own(
    program: Program, bundle: Path, shape: list[str]
) -> None:
    done = program("run", bundle, "--schema", json.dumps(LIGHT), "-n", "3", *shape, "Light?")
    assert done.code == 3 and done.out
    assert "error: the answer was cut by the limit" in done.err and "does not follow --schema" in done.err
    assert program("run", bundle, "-n", "3", *shape, "Light?").code == 0, "any text may be cut"


@pytest.mark.parametrize("form", [["--regex", "[a-c]{60}"], ["--choice", "north " * 20], ["--tool-choice", "required"]])
def test_every_form_can_be_cut(program: Program, bundle: Path, form: list[str]) -> None:
    done = program("run", bundle, "--tools", json.dumps(TOOLS), "-n", "3", *form, "Light?")
    assert done.code == 3 and f"does not follow {form[0]}" in done.err


def test_results_are_typed_in_a_conversation(terminal: Program, bundle: Path, tmp_path: Path) -> None:
    talk = terminal(
        "run", bundle, "--tools", json.dumps(TOOLS), "--tool-choice", "set_light", "--regex", "[ab]{3}", "--temp", "0",
    )
    talk.wait_for(">>> ")
    talk.type("Light, please\n")
    calls = talk.wait_for("returns: ").count('"arguments"')
    for _ in range(calls):
        talk.type('{"status": "ok"}\n')
        talk.wait_for("returns: ")  # of the next call; the choice is forced, so the answer to results calls again
    talk.type("\n")
    talk.wait_for("(no result)")
    talk.wait_for(">>> ")
    saved = tmp_path / "talk.json"
    talk.type(f"/save {saved}\n")
    talk.wait_for(">>> ")
    roles = [message["role"] for message in json.loads(saved.read_text())["messages"]]
    assert calls and roles == ["user", "assistant", *["tool"] * calls, "assistant"]
    assert json.loads(saved.read_text())["messages"][1]["tool_calls"][0]["function"]["name"] == "set_light"
    talk.type(f"/load {saved}\n")
    assert f"loaded {len(roles)} messages" in talk.wait_for(">>> ")
    talk.type("/undo\n")
    talk.wait_for(">>> ")
    talk.type("/bye\n")
    assert talk.end() == 0
