"""The Responses API: real answers of a tiny bundle, and items that a script has to play."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from edgephi import NonFiniteLogits

from .conftest import Live, called, last, script, spoken

ASKED: dict[str, Any] = {"model": "tiny", "input": "hello there", "temperature": 0, "max_output_tokens": 24}
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


@pytest.fixture(scope="module")
def response(client: openai.OpenAI) -> Any:
    return client.responses.create(**ASKED)


def test_a_response_is_the_answer_of_a_chat(client: openai.OpenAI, response: Any) -> None:
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello there"}], temperature=0, max_tokens=24
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert chat.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (chat.usage.prompt_tokens, 24)


def test_a_stream_builds_the_same_response(client: openai.OpenAI, response: Any) -> None:
    events: list[Any] = list(client.responses.create(**ASKED, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == events[-4].text == events[-1].response.output_text == response.output_text


def test_the_helper_for_streams_works(client: openai.OpenAI, response: Any) -> None:
    text = response.output_text
    with client.responses.stream(**ASKED, extra_body={"stop": text[-4:]}) as stream:
        final = stream.get_final_response()
    assert final.output_text == text[: text.index(text[-4:])]
    assert final.status == "completed"


def test_a_conversation_is_brought_whole(client: openai.OpenAI, response: Any) -> None:
    items = [
        {"role": "user", "content": "hello there"},
        *[item.model_dump() for item in response.output],
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go on"}]},
    ]
    again = client.responses.create(**ASKED | {"input": items}, instructions="Be brief.")
    assert again.usage is not None and again.usage.input_tokens > response.usage.input_tokens + 24
    assert again.instructions == "Be brief."


def test_calls_and_thoughts_are_items_of_their_own(start: Callable[..., Live]) -> None:
    said = (*spoken("hm", kind="thinking"), *spoken("Let me", " see."), called(0, "weather", city="Oslo"))
    live = start(script(*said, last(thought=1)))
    whole = live.client().responses.create(**ASKED, tools=[TOOL])
    *_, streamed = live.client().responses.create(**ASKED, tools=[TOOL], stream=True)
    assert streamed.type == "response.completed"
    for made in (whole, streamed.response):
        thought, message, call = made.output
        assert (thought.type, message.type, call.type) == ("reasoning", "message", "function_call")
        assert thought.type == "reasoning" and thought.content and thought.content[0].text == "hm"
        assert made.output_text == "Let me see."
        assert made.usage is not None and made.usage.output_tokens_details.reasoning_tokens == 1
        assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Oslo"}


def test_a_result_goes_with_its_call(start: Callable[..., Live]) -> None:
    engine = script(*spoken("Rain."), last())
    start(engine).client().responses.create(**ASKED | {"input": [
        {"role": "user", "content": "How is the weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ]}, tools=[TOOL])
    prompt, _ = engine.asked[0]
    assert [message["role"] for message in prompt] == ["user", "assistant", "tool"]
    assert prompt[1]["content"] == "Let me see."
    (call,) = prompt[1]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert prompt[2]["content"] == "rain"


def test_an_error_in_the_midst_fails_the_response(start: Callable[..., Live]) -> None:
    live = start(script(*spoken("a", "b"), error=NonFiniteLogits("the model gave NaN")))
    events = list(live.client().responses.create(**ASKED, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None and "NaN" in events[-1].response.error.message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"include": ["file_search_call.results"]}, "include"),
    ],
)
def test_what_cannot_be_honoured_is_an_error_that_names_it(live: Live, change: dict[str, Any], named: str) -> None:
    response = live.post("/v1/responses", {**ASKED, **change})
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]
