"""What a random tiny model does not say: tool calls, thoughts, errors in the midst. The engine is a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest

from edgephi import BundleError, NonFiniteLogits

from .conftest import Live, called, last, script, spoken, wait_until

ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "How is the weather?"}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
}
CALLS = [called(0, "weather", city="Oslo"), called(1, "weather", city="Århus")]

Start = Callable[..., Live]


def test_tool_calls_of_a_whole_answer(start: Start) -> None:
    live = start(script(*CALLS, last()))
    choice = live.client().chat.completions.create(**ASKED).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls: Any = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "Århus"}]
    assert len({call.id for call in calls}) == 2


def test_tool_calls_of_a_stream_have_an_index_and_one_name(start: Start) -> None:
    live = start(script(*spoken("Let me see."), *CALLS, last()))
    seen: dict[int, dict[str, str]] = {}
    chunks = list(live.client().chat.completions.create(**ASKED, stream=True))
    for chunk in chunks:
        for part in chunk.choices[0].delta.tool_calls or ():
            assert isinstance(part.index, int) and part.function is not None
            call = seen.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += part.id or ""
            call["name"] += part.function.name or ""
            call["arguments"] += part.function.arguments or ""
    assert [(call["name"], json.loads(call["arguments"])["city"]) for call in seen.values()] == [
        ("weather", "Oslo"), ("weather", "Århus"),
    ]
    assert list(seen) == [0, 1] and all(call["id"].startswith("call_") for call in seen.values())
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me see."


def test_a_single_call_where_only_one_is_wanted(start: Start) -> None:
    engine = script(CALLS[0], *CALLS[1:], *spoken("x"), last())
    live = start(engine)
    for stream in (False, True):
        reply: Any = live.client().chat.completions.create(**ASKED, parallel_tool_calls=False, stream=stream)
        chunks = list(reply) if stream else []
        choice = chunks[-1].choices[0] if stream else reply.choices[0]
        assert choice.finish_reason == "tool_calls"
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        calls = calls if stream else reply.choices[0].message.tool_calls
        assert {call.id for call in calls if call.id} and {call.index for call in calls if stream} <= {0}
        assert len([call for call in calls if call.id]) == 1


def test_an_answer_that_was_cut_says_so_even_with_calls(start: Start) -> None:
    live = start(script(CALLS[0], last("length")))
    assert live.client().chat.completions.create(**ASKED).choices[0].finish_reason == "length"


def test_thoughts_go_by_both_names_and_not_into_the_answer(start: Start) -> None:
    live = start(script(*spoken("I ", "wonder", kind="thinking"), *spoken("Rain."), last(thought=2)))
    reply: Any = live.client().chat.completions.create(**ASKED)
    message = reply.choices[0].message
    assert (message.content, message.reasoning_content, message.reasoning) == ("Rain.", "I wonder", "I wonder")
    assert reply.usage.completion_tokens_details.reasoning_tokens == 2
    deltas: list[Any] = [
        chunk.choices[0].delta for chunk in live.client().chat.completions.create(**ASKED, stream=True)
    ]
    assert "".join(getattr(delta, "reasoning_content", "") or "" for delta in deltas) == "I wonder"
    assert "".join(delta.content or "" for delta in deltas) == "Rain."


def test_usage_is_what_the_session_counted(start: Start) -> None:
    usage = start(script(*spoken("a"), last())).client().chat.completions.create(**ASKED).usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 5, 12)
    assert usage.prompt_tokens_details.cached_tokens == 3


def test_an_error_in_the_midst_of_a_stream_is_raised_by_the_client(start: Start) -> None:
    live = start(script(*spoken("Well", ", "), error=NonFiniteLogits("the model gave NaN")))
    stream = live.client().chat.completions.create(**ASKED, stream=True)
    texts = []
    with pytest.raises(openai.APIError, match="NaN"):
        for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "Well", ", "]


def test_an_error_that_asking_again_does_not_mend_is_not_asked_again(start: Start) -> None:
    engine = script(*spoken("a"), error=NonFiniteLogits("the model gave NaN"))
    live = start(engine)
    with pytest.raises(openai.InternalServerError) as caught:
        live.client(max_retries=2).chat.completions.create(**ASKED)
    assert caught.value.code == "nonfinite_logits"
    assert len(engine.asked) == 1


@pytest.mark.parametrize("error", [RuntimeError("secret path /home/me"), BundleError("/home/me/bundle is damaged")])
def test_what_is_not_the_client_s_doing_is_not_told_in_full(start: Start, error: Exception) -> None:
    engine = script(*spoken("a"), error=error)
    live = start(engine)
    response = live.post("/v1/chat/completions", ASKED)
    assert response.status_code == 500
    assert "/home" not in response.text
    engine.error = None
    engine.pieces = [*spoken("a"), last()]
    assert live.post("/v1/chat/completions", ASKED).status_code == 200


def test_a_stream_that_is_silent_shows_that_it_lives(start: Start) -> None:
    gate = threading.Event()
    live = start(script(*spoken("a", "b"), last(), gate=gate), ping_seconds=0.05)
    pings, text = 0, ""
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as client:
        raw = client.chat.completions.with_streaming_response.create(**ASKED, stream=True)
        with raw as response:
            for line in response.iter_lines():
                pings += line.startswith(": ")
                if pings == 3:
                    gate.set()
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    assert pings >= 3
    assert text == "ab"


def test_leaving_during_a_whole_answer_ends_the_work(start: Start) -> None:
    engine = script(*spoken("a", "b"), last(), gate=threading.Event())
    live = start(engine)
    with pytest.raises(openai.APITimeoutError):
        live.client(timeout=0.3).chat.completions.create(**ASKED)
    wait_until(engine.cancelled.is_set)
    wait_until(lambda: not live.models.find("tiny").worker.busy)


def test_leaving_during_a_stream_ends_the_work(start: Start) -> None:
    engine = script(*spoken("a", "b"), last(), gate=threading.Event())
    live = start(engine)
    stream = live.client().chat.completions.create(**ASKED, stream=True)
    assert next(iter(stream)).choices
    stream.close()
    wait_until(engine.cancelled.is_set)


def test_options_reach_the_session_as_they_were_given(start: Start) -> None:
    engine = script(last())
    start(engine).client().chat.completions.create(
        **ASKED, temperature=0.5, top_p=0.9, seed=3, stop=["x", "y"], max_completion_tokens=9, logprobs=True,
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1},
    )
    prompt, options = engine.asked[0]
    assert list(prompt) == ASKED["messages"]
    expected = {
        "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ("x", "y"), "max_tokens": 9, "logprobs": True, "top_k": 5,
        "min_p": 0.1, "repetition_penalty": 1.1,
    }
    assert {name: options[name] for name in expected} == expected
    assert [tool["function"]["name"] for tool in options["tools"]] == ["weather"]


def test_calls_of_earlier_answers_go_to_the_session_with_their_results(start: Start) -> None:
    engine = script(last())
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        *ASKED["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    start(engine).client().chat.completions.create(**ASKED | {"messages": turns})
    prompt, _ = engine.asked[0]
    assert prompt[1]["tool_calls"] == [call]
    assert prompt[2]["content"] == "rain"
