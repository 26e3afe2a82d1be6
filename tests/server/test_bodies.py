"""Bodies that are too large, too slow, of another kind, or no JSON object; media inside them."""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import edgephi
from edgephi.runtime.server.models import load_engine
from edgephi.runtime.server.settings import Loading, Settings

from .conftest import QUICK, Live, serving

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def _png(size: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 40)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def multimodal(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle()


@pytest.fixture(scope="module")
def seeing(multimodal: Path) -> Iterator[Live]:
    with serving(Settings({"eyes": multimodal}, limits=QUICK, loading=Loading(threads=1)), load_engine) as live:
        yield live


def _raw(live: Live, head: str, *bodies: bytes) -> bytes:
    """Send a request as it is and read the answer."""
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\n".encode())
        for body in bodies:
            try:
                connection.sendall(body)
            except OSError:
                break
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
            if b"\r\n\r\n" in answer and b"error" in answer:
                break
        return answer


def test_a_body_that_says_it_is_too_large_is_not_read(live: Live) -> None:
    answer = _raw(live, f"content-type: application/json\r\ncontent-length: {1 << 40}")
    assert b" 413 " in answer.splitlines()[0]
    assert b"request_too_large" in answer


def test_a_body_that_grows_too_large_is_not_kept(live: Live) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = _raw(live, "content-type: application/json\r\ntransfer-encoding: chunked", *([chunk] * 20))
    assert b" 413 " in answer.splitlines()[0]


def test_a_body_that_does_not_come_is_not_waited_for(live: Live) -> None:
    answer = _raw(live, "content-type: application/json\r\ncontent-length: 100", b"{")
    assert b" 408 " in answer.splitlines()[0]


def test_headers_that_do_not_come_are_not_waited_for(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    for sent in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx: "):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent)
            assert connection.recv(1) == b"", "the server closed it"


def test_oversized_content_is_refused_through_the_client_too(live: Live) -> None:
    response = live.post(CHAT, {"messages": [{"role": "user", "content": "x" * (1 << 20)}]})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"text"', b"null", b"{'a': 1}", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}',
        b'{"a": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}",
        b"\xef\xbb\xbf{}", b'{"model": "tiny"} x',
    ],
)
def test_what_is_no_json_object_is_an_error(live: Live, body: bytes) -> None:
    response = live.post(CHAT, content=body, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_type_of_body_is_refused(live: Live, kind: str) -> None:
    """These are the types that a web page can send without asking first."""
    response = live.post(CHAT, content=b"{}", headers={"content-type": kind})
    assert response.status_code == 415


def test_a_packed_body_is_refused(live: Live) -> None:
    response = live.post(CHAT, content=b"{}", headers={**JSON, "content-encoding": "gzip"})
    assert response.status_code == 415


def test_an_unknown_address_and_method_are_json_too(live: Live) -> None:
    for response, status in ((live.get("/v1/embeddings"), 404), (live.get(CHAT), 405), (live.post("/v1/models"), 405)):
        assert response.status_code == status
        assert response.json()["error"]["code"] == "unknown_url"


def test_errors_name_no_memory_and_no_file(live: Live, bundle: Path) -> None:
    broken = {"model": "tiny", "messages": [{"role": "user", "content": "\ud800"}]}
    response = live.post(CHAT, content=json.dumps(broken).encode(), headers=JSON)
    assert response.status_code == 400
    assert str(bundle) not in response.text and "0x" not in response.text


def _asked(part: dict[str, Any], **options: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is it?"}, part]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 6, "temperature": 0, **options}


def test_a_picture_reaches_the_model(seeing: Live, multimodal: Path) -> None:
    encoded = base64.b64encode(_png()).decode()
    urls = [f"data:image/png;base64,{encoded}", encoded]
    replies = [seeing.post(CHAT, _asked({"type": "image_url", "image_url": {"url": url}})).json() for url in urls]
    with edgephi.load(multimodal, threads=1) as session:
        content = [{"type": "text", "text": "What is it?"}, {"type": "image", "image": _png()}]
        expected = session.chat([{"role": "user", "content": content}], temperature=0, max_tokens=6)
    for reply in replies:
        assert reply["choices"][0]["message"]["content"] == expected.text
        assert reply["usage"]["prompt_tokens"] == expected.usage.prompt_tokens > 100


def test_a_picture_is_an_input_of_responses(seeing: Live) -> None:
    url = f"data:image/png;base64,{base64.b64encode(_png()).decode()}"
    content = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": url}]
    turns: Any = [{"role": "user", "content": content}]
    reply = seeing.client().responses.create(model="eyes", input=turns, max_output_tokens=4)
    assert reply.usage is not None and reply.usage.input_tokens > 100


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x.png", "https://example.com/x.png", "file:///etc/passwd", "/etc/passwd", "ftp://x/y",
        "http://169.254.169.254/latest", "data:image/png,notbase64", "data:text/html;base64,aGk=",
        "data:image/png;base64,%%%", "data:image/png;base64,aGVsbG8gd29ybGQ=",
    ],
)
def test_nothing_is_fetched_and_no_file_is_opened(seeing: Live, url: str) -> None:
    for part in ({"type": "image_url", "image_url": {"url": url}}, {"type": "image", "path": url}):
        response = seeing.post(CHAT, _asked(part))
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith("messages[0].content[1]")


def test_a_damaged_picture_names_its_place_in_a_stream_too(seeing: Live) -> None:
    cut = base64.b64encode(_png(64)[:60]).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{cut}"}}
    response = seeing.post(CHAT, _asked(part, stream=True))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[1]"
    assert response.json()["error"]["code"] == "invalid_media"
