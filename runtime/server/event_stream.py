"""Server-sent events: pieces to the client as they are made, signs of life in between, an end when it leaves.

Boundary: sends text of events; knows nothing of models. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from .answering import gone

PING = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, object], name: str | None = None) -> bytes:
    """One event with JSON data; never longer than a line, because JSON has no raw line breaks."""
    kind = "" if name is None else f"event: {name}\n"
    return f"{kind}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode("utf-8", "replace")


class EventStream:
    """A response, as an ASGI application."""

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        end: Callable[[], None],
        *,
        ping: float,
        stall: float,
    ) -> None:
        """`end` is called in any case. `ping`: seconds of silence before a sign of life; `stall`: seconds that the
        client may leave data untaken.
        """
        self._events = events
        self._end = end
        self._headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        self._ping = ping
        self._stall = stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, until the end or until the client is gone."""
        watching = asyncio.ensure_future(gone(receive))
        try:
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": [
                (b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"), *self._headers,
            ]})
            await self._pump(send, watching)
        except (TimeoutError, OSError):
            pass  # the client takes nothing any more
        finally:
            self._end()
            watching.cancel()
            await self._events.aclose()

    async def _pump(self, send: Send, watching: asyncio.Future[None]) -> None:
        while not watching.done():
            coming = asyncio.ensure_future(self._next())
            try:
                either: set[asyncio.Future[Any]] = {coming, watching}
                while not coming.done():
                    await asyncio.wait(either, timeout=self._ping, return_when=asyncio.FIRST_COMPLETED)
                    if watching.done():
                        return
                    if not coming.done():
                        await self._send_body(send, PING)
                data = coming.result()
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
            await self._send_body(send, data or b"", more=data is not None)
            if data is None:
                return

    async def _next(self) -> bytes | None:
        return await anext(self._events, None)

    async def _send_body(self, send: Send, data: bytes, *, more: bool = True) -> None:
        await self._send(send, {"type": "http.response.body", "body": data, "more_body": more})

    async def _send(self, send: Send, message: dict[str, object]) -> None:
        async with asyncio.timeout(self._stall):
            await send(message)
