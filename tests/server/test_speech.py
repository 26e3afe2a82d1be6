"""Transcriptions and translations: a bundle without ears, a real tiny one with them, and shapes that a script plays."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile

import edgephi
from edgephi.runtime.server.models import load_engine
from edgephi.runtime.server.settings import Loading, Settings
from edgephi.runtime.transcribe import TranscriptSegment

from .conftest import QUICK, USAGE, Live, Script, serving

SEGMENTS = (
    TranscriptSegment(0.0, 2.5, "Hello there.", "stop", USAGE),
    TranscriptSegment(2.5, 3.0, "", "stop", None),
    TranscriptSegment(3.0, 5.25, "How are you?", "stop", USAGE),
)


class Listener(Script):
    """An engine that hears what it was told to."""

    def stream_transcript(self, source: Any, **options: Any) -> Generator[TranscriptSegment, None, None]:
        self.asked.append((source, options))
        yield from SEGMENTS


def _wav(seconds: float = 1.2) -> bytes:
    file = io.BytesIO()
    times = np.arange(int(16000 * seconds)) / 16000
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * times), 16000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def multimodal(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle()


@pytest.fixture(scope="module")
def hearing(multimodal: Path) -> Iterator[Live]:
    with serving(Settings({"ears": multimodal}, limits=QUICK, loading=Loading(threads=1)), load_engine) as live:
        yield live


@pytest.fixture
def listener() -> Listener:
    return Listener(())


@pytest.fixture
def scripted(multimodal: Path, listener: Listener) -> Iterator[Live]:
    with serving(Settings({"ears": multimodal}, limits=QUICK), lambda _: listener) as live:
        yield live


def _create(live: Live, **options: Any) -> Any:
    return live.client().audio.transcriptions.create(model="ears", file=("a.wav", _wav()), **options)


def test_a_model_without_ears_says_so(live: Live) -> None:
    for kind in ("transcriptions", "translations"):
        response = live.post(f"/v1/audio/{kind}", files={"file": ("a.wav", _wav())}, data={"model": "tiny"})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "audio_not_supported"
        assert response.headers["x-should-retry"] == "false"


def test_a_transcript_is_that_of_the_session(hearing: Live, multimodal: Path) -> None:
    with edgephi.load(multimodal, threads=1) as session:
        expected = session.transcribe(_wav(), language="en")
    assert _create(hearing, language="en").text == expected.text
    assert expected.text


def test_a_recording_in_a_chat_reaches_the_model(hearing: Live) -> None:
    part: Any = {"type": "input_audio", "input_audio": {"data": base64.b64encode(_wav()).decode(), "format": "wav"}}
    content = [part, {"type": "text", "text": "What is said?"}]
    ask = hearing.client().chat.completions.create
    reply = ask(model="ears", messages=[{"role": "user", "content": content}], max_tokens=4)
    short = ask(model="ears", messages=[{"role": "user", "content": content[1:]}], max_tokens=4)
    assert reply.usage is not None and short.usage is not None
    assert reply.usage.prompt_tokens >= short.usage.prompt_tokens + 10


def test_a_recording_beyond_the_context_is_refused_by_its_header(hearing: Live) -> None:
    """Two hours of silence, which take less than a megabyte to send."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8_000 * 7_200, np.int16), 8_000, format="FLAC")
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(file.getvalue()).decode()}}
    response = hearing.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("messages[0].content[0]", "invalid_media")
    assert "is longer than the" in error["message"]


def test_tools_are_called_about_a_recording_and_broken_calls_told(hearing: Live) -> None:
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(_wav()).decode()}}
    function = {"name": "play", "parameters": {"type": "object", "properties": {"again": {"type": "boolean"}},
                "required": ["again"], "additionalProperties": False}, "strict": True}
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": [part, {"type": "text", "text": "Do it."}]}], "temperature": 0,
        "tools": [{"type": "function", "function": function}], "tool_choice": "required", "parallel_tool_calls": False,
    }
    choice = hearing.post("/v1/chat/completions", asked).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert set(json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])) == {"again"}
    cut = hearing.post("/v1/chat/completions", {**asked, "max_tokens": 4}).json()
    assert cut["choices"][0]["finish_reason"] == "length" and "tool_calls" not in cut["choices"][0]["message"]
    (broken,) = cut["edgephi"]["malformed_tool_calls"]
    assert "ended inside the call" in broken["reason"]


def test_the_forms_of_a_transcript(scripted: Live) -> None:
    assert _create(scripted).text == "Hello there. How are you?"
    assert _create(scripted, response_format="text") == "Hello there. How are you?\n"
    assert _create(scripted, response_format="srt").splitlines()[:3] == [
        "1", "00:00:00,000 --> 00:00:02,500", "Hello there.",
    ]
    assert _create(scripted, response_format="vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.500")
    verbose = _create(scripted, response_format="verbose_json", language="de", timestamp_granularities=["segment"])
    assert (verbose.duration, verbose.language) == (5.25, "de")
    assert [(part.start, part.end, part.text) for part in verbose.segments][2] == (3.0, 5.25, "How are you?")


def test_a_transcript_can_be_streamed(scripted: Live) -> None:
    events = list(_create(scripted, stream=True))
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert deltas == events[-1].text == "Hello there. How are you?"
    assert events[-1].usage.total_tokens == 24


def test_a_translation_is_into_english(scripted: Live, listener: Listener) -> None:
    # OpenAI's client calls this endpoint deprecated; other clients do not.
    reply = scripted.post("/v1/audio/translations", files={"file": ("a.wav", _wav())}, data={"model": "ears"})
    assert reply.json()["text"] == "Hello there. How are you?"
    recording, options = listener.asked[0]
    assert recording == _wav()
    assert options == {"language": None, "translate": "en", "adapter": None}


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"prompt": "Names: Jo"}, "prompt"),
        ({"temperature": "0.7"}, "temperature"),
        ({"language": "tlh"}, "language"),
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "srt", "stream": "true"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
    ],
)
def test_what_cannot_be_honoured_is_an_error_that_names_it(scripted: Live, data: dict[str, str], named: str) -> None:
    response = scripted.post("/v1/audio/transcriptions", files={"file": ("a.wav", _wav())}, data=data)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


def test_forms_that_are_none(hearing: Live) -> None:
    path = "/v1/audio/transcriptions"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for response in (
        hearing.post(path, data={"model": "ears"}, files={"other": ("a.wav", _wav())}),
        hearing.post(path, files={"file": ("a.wav", b"")}),
        hearing.post(path, files={"model": (None, "ears")}),
        hearing.post(path, content=b"--x\r\nbroken", headers=kind),
        hearing.post(path, content=b"no form", headers={"content-type": "multipart/form-data"}),
    ):
        assert response.status_code == 400, response.text
    assert hearing.post(path, {"model": "ears"}).status_code == 415


def test_a_recording_that_is_none_is_the_client_s_mistake(hearing: Live) -> None:
    with pytest.raises(openai.BadRequestError):
        hearing.client().audio.transcriptions.create(model="ears", file=("a.wav", b"RIFF....WAVEnothing"))
