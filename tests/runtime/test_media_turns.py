"""Pictures and recordings in conversations: with tools in every turn, and decoded no further than the context goes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
from PIL import Image

import edgephi
from edgephi import ContextOverflow, MediaError, Session

CONTEXT = 2048
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"room": {"enum": ["hall", "bath"]}, "on": {"type": "boolean"}},
    "required": ["room", "on"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "set_light", "parameters": PARAMETERS, "strict": True}}
]
# What is begun as a call and is none; as a form of the answer the model may choose it instead of a call.
BROKEN = r"functools\[\{\"name\": 7, \"arguments\": \{\}\}\]"


@pytest.fixture(scope="module")
def folder(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle()


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[Session]:
    with edgephi.load(folder, threads=1, context=CONTEXT) as loaded:
        yield loaded


def _picture(seed: int = 0) -> dict[str, Any]:
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return {"type": "image", "image": Image.fromarray(np.kron(blocks, np.ones((32, 32, 1), np.uint8)))}


def _sound(seconds: float = 1.0) -> dict[str, Any]:
    samples = np.random.default_rng(1).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)
    return {"type": "audio", "audio": (samples, 16_000)}


def _user(*media: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*media, {"type": "text", "text": "Do what you see and hear."}]}


TURNS = {"picture": (_picture(),), "recording": (_sound(),), "both": (_picture(1), _sound())}


def test_tools_are_called_in_every_turn_whatever_it_shows(session: Session) -> None:
    """One conversation: media come and go between calls and their results."""
    messages: list[dict[str, Any]] = []
    asked: Any = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "temperature": 0}
    for media in (TURNS["recording"], (), TURNS["picture"], TURNS["recording"]):
        messages.append(_user(*media))
        in_turns = session.chat(messages, **asked)
        (call,) = in_turns.tool_calls
        jsonschema.validate(call.arguments, PARAMETERS)
        assert not in_turns.text and not in_turns.malformed_calls
        messages += [dict(in_turns.message), {"role": "tool", "content": '{"status": "ok"}'}]
    assert in_turns.usage.cached_tokens > 0.8 * in_turns.usage.prompt_tokens, "no medium was read again"
    session.clear()
    at_once = session.chat(messages[:-2], **asked)
    assert at_once.token_ids == in_turns.token_ids


@pytest.mark.parametrize("turn", TURNS)
def test_a_malformed_call_about_media_is_reported_and_not_guessed(session: Session, turn: str) -> None:
    seen = set()
    for seed in range(20):
        reply = session.chat(
            [_user(*TURNS[turn])], tools=TOOLS, regex=BROKEN, parallel_tool_calls=False, temperature=4.0, seed=seed
        )
        assert not reply.text, "no markup reaches the answer"
        for malformed in reply.malformed_calls:
            assert (malformed.text, malformed.reason) == ('{"name": 7, "arguments": {}}', "it has no name")
            assert not reply.tool_calls
        seen.add(bool(reply.malformed_calls))
        if seen == {True, False}:
            break
    assert seen == {True, False}, "a call was made, and one that is none"
    cut = session.chat([_user(*TURNS[turn])], tools=TOOLS, tool_choice="required", temperature=0, max_tokens=5)
    (unfinished,) = cut.malformed_calls
    assert unfinished.reason == "the answer ended inside the call" and not cut.tool_calls and not cut.text


def _flac(seconds: int) -> bytes:
    """Silence, which takes next to no bytes however long it is."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8_000 * seconds, np.int16), 8_000, format="FLAC")
    return file.getvalue()


def test_a_recording_is_decoded_only_as_far_as_the_context_goes(session: Session) -> None:
    """A token stands for 80 ms; what is longer than the tokens that are left is refused by its header."""
    long = {"type": "audio", "audio": _flac(3_600)}
    with pytest.raises(MediaError, match=r"messages\[0\]\.content\[1\]: audio of \d+ bytes is longer than the 1\d\d"):
        session.chat([_user(_picture(), long)])
    half = {"type": "audio", "audio": _flac(80)}
    assert len(session.encode([_user(half)])) > 1_000
    with pytest.raises(MediaError, match=r"messages\[0\]\.content\[2\]: audio .* is longer than the [34]\.?\d* s"):
        session.chat([_user(half, half, half)])


def test_no_medium_is_decoded_behind_a_full_context(session: Session) -> None:
    text = {"role": "user", "content": "a, b; " * CONTEXT}
    nothing = {"type": "image", "image": b"no picture at all"}
    with pytest.raises(ContextOverflow, match=r"messages\[1\]\.content\[0\]: what stands before it fills the context"):
        session.chat([text, _user(nothing)])
