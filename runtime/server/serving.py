"""The process that serves: a socket, signals, and an end that leaves no client waiting.

Boundary: runs the application of app.py under uvicorn; decides nothing about requests.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from typing import TypeGuard

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import RequestError
from .models import Models
from .settings import Limits

_HEADER_BYTES = 32 << 10
_KEEP_ALIVE_SECONDS = 15
_CONNECTIONS = 512
_TICKS_BETWEEN_LOOKS = 5  # uvicorn's ticks are a tenth of a second


def listen(host: str, port: int) -> socket.socket:
    """A socket on `port`, 0 for any that is free. Raises RequestError where there is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise RequestError(f"host {host!r} is no address of this machine ({error.strerror}): give one") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        raise RequestError(
            f"port {port} of {host} cannot be used ({error.strerror}): end what uses it, or give another --port"
        ) from error
    return found


def make_server(app: Starlette, limits: Limits) -> Server:
    """The server of an application that `app.build` made."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(limits.grace_seconds) + 2,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    return Server(config, app.state.models, limits)


def run(server: Server, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal comes. Ctrl-C raises KeyboardInterrupt at the end, SIGTERM is the ordinary end."""
    ready()
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn takes it over and raises it again when it is done
    try:
        asyncio.run(server.serve(sockets=[sock]))
    finally:
        signal.signal(signal.SIGTERM, before)


class Server(uvicorn.Server):
    """uvicorn's server, which waits for open responses when it ends: so they must be told to end."""

    def __init__(self, config: uvicorn.Config, models: Models, limits: Limits) -> None:
        super().__init__(config)
        self._models = models
        self._grace = limits.grace_seconds
        self._patience = limits.header_seconds
        self._silent_since: dict[H11Protocol, float] = {}

    async def on_tick(self, counter: int) -> bool:
        """Close connections whose first request does not come: uvicorn itself would wait for it for ever."""
        if counter % _TICKS_BETWEEN_LOOKS == 0:
            now = time.monotonic()
            silent = [connection for connection in self.server_state.connections if _is_silent(connection)]
            self._silent_since = {connection: self._silent_since.get(connection, now) for connection in silent}
            for connection, since in self._silent_since.items():
                if now - since > self._patience:
                    connection.transport.close()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what waits, give answers in progress `grace` seconds, then end them with an error."""
        self._models.stop(at_once=False)
        ending = asyncio.get_running_loop().call_later(self._grace, lambda: self._models.stop(at_once=True))
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


def _is_silent(connection: object) -> TypeGuard[H11Protocol]:
    """Whether no request came over a connection yet; its type says that there always is one."""
    return isinstance(connection, H11Protocol) and getattr(connection, "cycle", None) is None
