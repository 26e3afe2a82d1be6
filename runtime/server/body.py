"""The body of a request, under limits of size and time, as JSON or as a form.

Boundary: bytes in, plain data out; knows no endpoint.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from ..errors import RequestError
from ..manifest import parse_object
from .answering import ClientGone
from .fields import Fields
from .problems import Problem, Refused
from .settings import Limits

_FORM_FIELDS = 32
_FIELD_BYTES = 64 << 10
_ASIDE_BYTES = 1 << 20  # larger bodies are parsed in a thread, so that other streams go on


@dataclass(frozen=True)
class Form:
    """A form with one file. `texts` by name; `file` is None where none was sent."""

    texts: dict[str, str]
    file: bytes | None


async def read_json(request: Request, limits: Limits) -> Fields:
    """The body as one JSON object. Raises Refused (408, 413, 415), RequestError, ClientGone."""
    _require_type(request, "application/json")
    body = await _read(request, limits)
    if len(body) < _ASIDE_BYTES:
        return _parsed(body)
    return await asyncio.to_thread(_parsed, body)


async def read_form(request: Request, limits: Limits) -> Form:
    """The body as a form whose file is named "file". Raises Refused (408, 413, 415), RequestError, ClientGone."""
    _require_type(request, "multipart/form-data")
    body = await _read(request, limits)

    async def once() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    texts: dict[str, str] = {}
    file: bytes | None = None
    try:
        parts = Request(request.scope, once).form(max_files=1, max_fields=_FORM_FIELDS, max_part_size=_FIELD_BYTES)
        async with parts as form:
            for name, value in form.multi_items():
                if isinstance(value, str):
                    texts[name] = value
                elif name == "file":
                    file = await value.read()
                else:
                    raise RequestError(f"{name[:80]} is a file, which this endpoint does not take; upload it as 'file'")
    except HTTPException as error:
        raise RequestError(f"the form cannot be read: {error.detail}") from error
    return Form(texts, file)


def _parsed(body: bytes) -> Fields:
    return Fields(parse_object(body, "the body", RequestError, "send one JSON object in UTF-8"))


def _require_type(request: Request, wanted: str) -> None:
    """Another type is also what a web page can send to any server without being asked whether it may."""
    given = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if given != wanted:
        text = f"content-type is {given[:60]!r}; this endpoint takes {wanted}"
        raise Refused(Problem(415, text, "unsupported_media_type"))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(Problem(415, "content-encoding is not read: send the body as it is", "unsupported_media_type"))


async def _read(request: Request, limits: Limits) -> bytes:
    length = request.headers.get("content-length", "0")
    too_large = Refused(Problem(
        413, f"the body has more than {limits.body_bytes} bytes, the largest allowed", "request_too_large"
    ))
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError as error:
        text = f"the body did not arrive within {limits.body_seconds:.0f} s"
        raise Refused(Problem(408, text, "request_timeout")) from error
    except ClientDisconnect as error:
        raise ClientGone from error
    return bytes(body)
