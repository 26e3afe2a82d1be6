"""OpenAI's own Python client and LangChain's on the demo's checkpoint, which gives real answers and calls real tools.

What the session says without a server is what every client must get. Shapes that no small model would give come from a
script; pictures and recordings go to a tiny bundle of random weights. The rest of the API: test_chat.py and others.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pydantic
import pytest
import soundfile
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from PIL import Image

import edgephi
from edgephi.demo.showcase import conversation
from edgephi.demo.tasks import held_out

from .conftest import PATIENCE, Live, called, last, script, spoken, wait_until

Lang = Callable[..., ChatOpenAI]


class Verdict(pydantic.BaseModel):
    """What an answer is asked to look like."""

    verdict: Literal["yes", "no"]
    certain: bool


@pytest.fixture(scope="module")
def session(demo_bundle: Path) -> Iterator[edgephi.Session]:
    """The oracle: the same bundle without a server."""
    with edgephi.load(demo_bundle, threads=1, context=4096) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def client(both: Live) -> openai.OpenAI:
    return both.client()


@pytest.fixture
def lang() -> Lang:
    """(live, model, **options) → LangChain's model of it, greedy and without tries of its own."""

    def make(live: Live, model: str = "demo", **options: Any) -> ChatOpenAI:
        given: dict[str, Any] = {"temperature": 0, "max_retries": 0, "timeout": PATIENCE, "stream_usage": True}
        return ChatOpenAI(model=model, base_url=f"{live.url}/v1", api_key="none", **given | options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def asked(session: edgephi.Session) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any]:
    """A question that wants a tool, the tools, and the call that the model makes."""
    for example in held_out("tools", 20, 4):
        messages, tools = conversation(example)
        if not all("content" in message for message in messages):
            continue  # LangChain takes no message without
        reply = session.chat(messages, tools=tools, temperature=0, max_tokens=160)
        if len(reply.tool_calls) == 1 and reply.finish_reason == "stop":
            return messages, [{"type": "function", "function": tool.get("function", tool)} for tool in tools], reply
    raise AssertionError("the demo's checkpoint calls no tool")


@pytest.fixture(scope="module")
def sign() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "#2f6f4e").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def tone() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000), 16000, format="WAV")
    return file.getvalue()


# ---- OpenAI's client


def test_openai_chat_stream_usage_and_logprobs(client: openai.OpenAI, session: edgephi.Session) -> None:
    turns: Any = [{"role": "user", "content": "What is 64 plus 59?"}]
    expected = session.chat(turns, temperature=0, logprobs=True)
    whole = client.chat.completions.create(model="demo", messages=turns, temperature=0, logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.content == expected.text
    assert whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].logprobs is not None and whole.choices[0].logprobs.content
    for entry in whole.choices[0].logprobs.content:
        assert entry.logprob == max(other.logprob for other in entry.top_logprobs)
    *chunks, usage = client.chat.completions.create(
        model="demo", messages=turns, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert usage.choices == [] and usage.usage is not None and whole.usage is not None
    assert usage.usage.completion_tokens == expected.usage.completion_tokens == whole.usage.completion_tokens
    assert usage.usage.prompt_tokens == expected.usage.prompt_tokens


def test_openai_tools_whole_streamed_and_their_results(client: openai.OpenAI, asked: Any) -> None:
    messages, tools, expected = asked
    (call,) = expected.tool_calls
    options: dict[str, Any] = {"model": "demo", "messages": messages, "tools": tools, "temperature": 0}
    message = client.chat.completions.create(**options).choices[0].message
    assert message.tool_calls is not None and message.content is None
    assert message.tool_calls[0].function.name == call.name
    assert json.loads(message.tool_calls[0].function.arguments) == call.arguments
    with client.chat.completions.stream(**options) as stream:
        events = list(stream)
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls is not None
    assert json.loads(streamed.message.tool_calls[0].function.arguments) == call.arguments
    assert [event.type for event in events].count("tool_calls.function.arguments.done") == 1
    result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"answer": "rain, 7"}'}
    answer = client.chat.completions.create(**options | {"messages": [*messages, message, result]})
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls


def test_openai_parses_an_answer_by_its_schema(client: openai.OpenAI) -> None:
    turns: Any = [{"role": "user", "content": "Is snow cold?"}]
    parsed = client.chat.completions.parse(model="demo", messages=turns, response_format=Verdict, temperature=0)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    response = client.responses.parse(model="demo", input="Is snow cold?", text_format=Verdict, temperature=0)
    assert isinstance(response.output_parsed, Verdict)


def test_openai_stop_errors_and_leaving(both: Live, client: openai.OpenAI, session: edgephi.Session) -> None:
    turns: Any = [{"role": "user", "content": "Repeat after me: one two three"}]
    text = session.chat(turns, temperature=0).text
    stop = text[len(text) // 2 :][:3]
    cut = client.chat.completions.create(model="demo", messages=turns, temperature=0, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="demo", messages=turns, temperature=1000)
    worker = both.models.find("media").worker
    stream = client.chat.completions.create(model="media", messages=turns, temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: not worker.busy)


def test_openai_pictures_recordings_and_transcripts(
    client: openai.OpenAI, tiny_multimodal_bundle: Callable[..., Path], sign: str, tone: bytes
) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{sign}"}}
    sound: Any = {"type": "input_audio", "input_audio": {"data": base64.b64encode(tone).decode(), "format": "wav"}}
    with edgephi.load(tiny_multimodal_bundle(), threads=1, context=4096) as session:
        for parts in ([picture], [sound], [picture, sound]):
            turns: Any = [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it?"}]}]
            made = client.chat.completions.create(model="media", messages=turns, temperature=0, max_tokens=6)
            expected = session.chat(turns, temperature=0, max_tokens=6)
            assert made.choices[0].message.content == expected.text
            assert made.usage is not None and made.usage.prompt_tokens == expected.usage.prompt_tokens
        heard = client.audio.transcriptions.create(model="media", file=("tone.wav", tone), language="en")
        assert heard.text == session.transcribe(tone, language="en").text
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]\.content\[0\]"):
        client.chat.completions.create(model="text", messages=[{"role": "user", "content": [picture]}])


# ---- LangChain


def test_langchain_invokes_streams_and_counts(both: Live, lang: Lang, session: edgephi.Session) -> None:
    turns = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "What is 64 plus 59?"}]
    expected = session.chat(turns, temperature=0)
    model = lang(both)
    asked = [SystemMessage("Answer briefly."), HumanMessage("What is 64 plus 59?")]
    reply = model.invoke(asked)
    assert reply.content == expected.text
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == expected.usage.completion_tokens
    whole: Any = None
    count = 0
    for chunk in model.stream(asked):
        whole, count = chunk if whole is None else whole + chunk, count + 1
    assert whole.content == expected.text and count > 3
    assert whole.usage_metadata["input_tokens"] == expected.usage.prompt_tokens


def test_langchain_calls_tools(both: Live, lang: Lang, asked: Any) -> None:
    messages, tools, expected = asked
    (call,) = expected.tool_calls
    bound = lang(both).bind_tools(tools)
    reply = bound.invoke(messages)
    assert isinstance(reply, AIMessage)
    assert [(made["name"], made["args"]) for made in reply.tool_calls] == [(call.name, call.arguments)]
    whole: Any = None
    for chunk in bound.stream(messages):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert [(made["name"], made["args"]) for made in whole.tool_calls] == [(call.name, call.arguments)]
    result = ToolMessage("rain, 7", tool_call_id=str(reply.tool_calls[0]["id"]))
    answer = bound.invoke([*messages, reply, result])
    assert isinstance(answer, AIMessage) and answer.content and not answer.tool_calls


def test_langchain_gets_several_calls_at_once(start: Callable[..., Live], lang: Lang) -> None:
    live = start(script(called(0, "light", room="hall"), called(1, "heat", room="bath", degrees=21), last()))
    model = lang(live, "tiny")
    expected = [("light", {"room": "hall"}), ("heat", {"room": "bath", "degrees": 21})]
    reply = model.invoke("Make it cosy.")
    assert isinstance(reply, AIMessage)
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == expected
    whole: Any = None
    for chunk in model.stream("Make it cosy."):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == expected
    assert len({call["id"] for call in whole.tool_calls}) == 2


def test_langchain_structures_its_output(both: Live, lang: Lang) -> None:
    for method in ("json_schema", "function_calling"):
        structured = lang(both).with_structured_output(Verdict, method=method)  # type: ignore[arg-type]
        assert isinstance(structured.invoke("Is snow cold?"), Verdict), method


def test_langchain_sees_and_hears(both: Live, lang: Lang, sign: str, tone: bytes) -> None:
    model = lang(both, "media", max_tokens=4)
    counts = []
    for parts in (
        [],
        [{"type": "image", "base64": sign, "mime_type": "image/png"}],
        [{"type": "audio", "base64": base64.b64encode(tone).decode(), "mime_type": "audio/wav"}],
    ):
        reply = model.invoke([HumanMessage(content=[{"type": "text", "text": "what is it?"}, *parts])])
        assert reply.usage_metadata is not None
        counts.append(reply.usage_metadata["input_tokens"])
    assert counts[1] > counts[0] + 100 and counts[2] > counts[0] + 5
    with pytest.raises(openai.BadRequestError, match="text only"):
        lang(both, "text").invoke([HumanMessage(content=[{"type": "image", "base64": sign, "mime_type": "image/png"}])])


def test_langchain_logprobs_stop_and_leaving(start: Callable[..., Live], both: Live, lang: Lang) -> None:
    reply = lang(both).bind(logprobs=True).invoke("What is 64 plus 59?")
    assert reply.response_metadata["logprobs"]["content"]
    text = str(reply.content)
    assert lang(both, stop=[text[-1]]).invoke("What is 64 plus 59?").content == text[: text.index(text[-1])]
    engine = script(*spoken("a", "b", "c"), last(), gate=threading.Event())
    live = start(engine)
    stream = lang(live, "tiny").stream("Tell me a story.")
    assert next(stream) is not None
    stream.close()  # type: ignore[attr-defined]
    del stream
    wait_until(lambda: not live.models.find("tiny").worker.busy)
    assert engine.cancelled.is_set()
