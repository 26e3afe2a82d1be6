"""The requests of two applications, replayed: Open WebUI's and Continue's, as their sources and threads describe them.

Answers are read as these applications read them: pieces from `choices[0].delta`, usage in a chunk of its own. What
they send and what changes nothing may be named as ignored, but nothing may be refused.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from .conftest import PATIENCE, Live

FOLDER = Path(__file__).parent / "requests"
REQUESTS: list[dict[str, Any]] = [
    {"who": path.stem, **request}
    for path in sorted(FOLDER.glob("*.json"))
    for request in json.loads(path.read_bytes())
]


def _filled(value: Any, names: dict[str, str]) -> Any:
    """The request with its placeholders filled."""
    text = json.dumps(value)
    for name, given in names.items():
        text = text.replace(f"{{{name}}}", given)
    return json.loads(text)


def _png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "#2f6f4e").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(np.arange(16000) / 20), 16000, format="WAV")
    return file.getvalue()


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        assert not line or line.startswith(("data: ", ":")), line
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: f"{each['who']}: {each['what']}")
def test_a_request_is_answered_as_its_application_reads_it(both: Live, request_: dict[str, Any]) -> None:
    model = request_.get("model", "demo")
    given = _filled(request_, {"model": model, "png": _png()})
    options: dict[str, Any] = {"headers": given["headers"], "timeout": PATIENCE}
    if "form" in given:
        options |= {"data": given["form"], "files": {"file": ("recording.wav", _wav(), "audio/wav")}}
    elif "body" in given:
        options["json"] = given["body"]
    with httpx.stream(given["method"], both.url + given["path"], **options) as response:
        if response.status_code != 200:
            pytest.fail(response.read().decode())
        if given.get("body", {}).get("stream"):
            _check_stream(list(_chunks(response)), given["body"])
            return
        told = json.loads(response.read())
    if given["path"] == "/v1/models":
        assert {"demo", "media"} <= {entry["id"] for entry in told["data"]}
    elif "form" in given:
        assert isinstance(told["text"], str)
    else:
        assert isinstance(told["choices"][0]["message"]["content"], str)


def _check_stream(chunks: list[dict[str, Any]], body: dict[str, Any]) -> None:
    text, calls, finish, usage = "", [], None, None
    for chunk in chunks:
        assert isinstance(chunk["choices"], list)
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            assert not chunk.get("usage"), "text beside a usage would be held back to the end"
            delta = choice.get("delta", choice)
            text += delta.get("content") or delta.get("text") or ""
            calls += delta.get("tool_calls") or []
            finish = choice["finish_reason"] or finish
    assert finish in ("stop", "length", "tool_calls")
    assert text or calls or "prompt" in body
    assert (usage is not None) == bool(body.get("stream_options"))
    if calls:
        assert body["tools"] and finish == "tool_calls"
        assert json.loads("".join(call["function"]["arguments"] for call in calls)).keys()
        assert "tool_call" not in text and "functools" not in text
    assert not any(stop in text for stop in body.get("stop", ()))


def test_both_applications_are_there() -> None:
    assert {request["who"] for request in REQUESTS} == {"open_webui", "continue"}
