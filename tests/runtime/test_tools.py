"""Tool calls in streamed text: both spellings, any cut, no markup in the answer, nothing guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.tools import Answer, Event, MalformedCall, ToolCall, ToolCallScanner

LIGHT = '{"name": "light", "arguments": {"room": "hall", "on": true}}'
TRICKY = '{"name": "say", "arguments": {"text": "a ] } \\" <|/tool_call|> b", "list": [1, [2], {"x": "]"}]}}'


def _events(pieces: list[str]) -> tuple[str, list[Event]]:
    scanner = ToolCallScanner()
    events = [event for piece in pieces for event in scanner.push(piece)] + scanner.flush()
    answer = "".join(event.text for event in events if isinstance(event, Answer))
    return answer, [event for event in events if not isinstance(event, Answer)]


def _every_cut(text: str) -> tuple[str, list[Event]]:
    whole = _events([text])
    for size in (1, 2, 3, 7):
        assert _events([text[start:start + size] for start in range(0, len(text), size)]) == whole
    return whole


@pytest.mark.parametrize("text", [
    f"<|tool_call|>[{LIGHT}]<|/tool_call|>", f"functools[{LIGHT}]", f" \nfunctools[{LIGHT}]",
])
def test_both_spellings(text: str) -> None:
    answer, events = _every_cut(text)
    assert events == [ToolCall(0, "light", {"room": "hall", "on": True})]
    assert not answer.strip()


def test_several_calls_come_one_by_one() -> None:
    scanner = ToolCallScanner()
    assert len(scanner.push(f"<|tool_call|>[{LIGHT},")) == 1
    assert [event.index for event in scanner.push(f" {LIGHT}]<|/tool_call|>") if isinstance(event, ToolCall)] == [1]
    assert scanner.flush() == []


def test_a_single_object_needs_no_list() -> None:
    assert _every_cut(f"<|tool_call|>{LIGHT}<|/tool_call|>")[1] == [ToolCall(0, "light", {"room": "hall", "on": True})]


def test_brackets_and_markup_inside_strings_are_data() -> None:
    answer, events = _every_cut(f"<|tool_call|>[{TRICKY}]<|/tool_call|>done")
    assert events == [ToolCall(0, "say", json.loads(TRICKY)["arguments"])]
    assert answer == "done"


def test_parameters_and_text_arguments_are_read() -> None:
    parameters = '{"name": "a", "parameters": {"x": 1}}'
    text = '{"name": "b", "arguments": "{\\"y\\": 2}"}'
    assert _every_cut(f"functools[{parameters}, {text}]")[1] == [ToolCall(0, "a", {"x": 1}), ToolCall(1, "b", {"y": 2})]


@pytest.mark.parametrize(("inside", "reason"), [
    ('[{"name": 3}]', "no name"), ("[{name: 3}]", "not valid JSON"),
    ('[{"name": "a", "arguments": [1]}]', "not an object"),
    ("light on", "not a JSON object"), ('[{"name": "a"', "ended inside"),
])
def test_what_cannot_be_read_is_reported(inside: str, reason: str) -> None:
    closer = "" if reason == "ended inside" else "<|/tool_call|>"
    answer, events = _every_cut(f"<|tool_call|>{inside}{closer}")
    assert not answer
    assert events
    for event in events:
        assert isinstance(event, MalformedCall)
        assert reason in event.reason


@pytest.mark.parametrize("text", [
    "plain text", "use functools[0] of Python", "<|tool", "a < b", "func", "see functools for more",
])
def test_other_text_is_answer_text(text: str) -> None:
    assert _every_cut(text) == (text, [])


def test_text_before_and_after_the_call_stays() -> None:
    answer, events = _every_cut(f"I will. <|tool_call|>[{LIGHT}]<|/tool_call|> Done.")
    assert answer == "I will.  Done."
    assert len(events) == 1


@given(st.text(alphabet='<>|/tool_call[]{}",:\\ fun', max_size=60), st.data())
def test_any_text_in_any_cut_gives_the_same_events(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert _events(pieces) == _events([text])
