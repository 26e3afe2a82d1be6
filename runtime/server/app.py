"""The routes, and what is around every one of them: guards, errors in OpenAI's shape, a line in the log.

Boundary: puts the parts together as an ASGI application; runs no server.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answering import ClientGone
from .endpoints import IGNORED_HEADER, Endpoints
from .event_stream import EventStream
from .guard import AddressGuard, KeyGuard
from .metrics import Metrics
from .models import Models, OpenEngine, load_engine
from .openapi import openapi_route
from .page import INDEX, PATHS, page_routes
from .problems import Problem, problem_of
from .remote import Remote
from .settings import Settings
from .writing import new_id

LOG = logging.getLogger("edgephi.server")
OPEN_PATHS = ("/health", *PATHS)
GONE = 499  # the status that nginx logs for a client that left; nobody receives it

Endpoint = Callable[[Request], Awaitable["Response | EventStream"]]


def build(settings: Settings, open_engine: OpenEngine = load_engine) -> Starlette:
    """The application. Raises BundleError for a folder that is none; loads no model before it is asked for."""
    metrics = Metrics()
    models = Models.open(settings, metrics, open_engine)
    limits = settings.limits
    remote = Remote(settings.media_from, limits.body_bytes, limits.fetch_seconds)
    endpoints = Endpoints(settings, models, metrics, remote)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        models.start(preload=settings.preload)
        yield
        models.stop(at_once=True)
        models.join(limits.grace_seconds)

    access = settings.access
    routes = _routes(endpoints)
    guards = [
        Middleware(Observed, metrics=metrics, routes=frozenset(route.path for route in routes)),
        Middleware(AddressGuard, access=access, page=INDEX),
    ]
    if access.origins:
        guards.append(Middleware(
            CORSMiddleware, allow_origins=list(access.origins), allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["x-request-id", IGNORED_HEADER, "retry-after"],
        ))
    if access.keys:
        guards.append(Middleware(KeyGuard, keys=access.keys, open_paths=OPEN_PATHS))
    app = Starlette(
        routes=routes, middleware=guards, lifespan=lifespan, exception_handlers={HTTPException: _no_route}
    )
    app.state.models = models
    return app


def _routes(endpoints: Endpoints) -> list[Route]:
    posts: dict[str, Endpoint] = {
        "/v1/chat/completions": endpoints.chat,
        "/v1/completions": endpoints.completions,
        "/v1/responses": endpoints.responses,
        "/v1/audio/transcriptions": endpoints.transcriptions,
        "/v1/audio/translations": endpoints.translations,
    }
    gets: dict[str, Endpoint] = {
        "/v1/models": endpoints.list_models,
        "/v1/models/{id:path}": endpoints.one_model,
        "/health": endpoints.health,
        "/metrics": endpoints.metrics_text,
    }
    return [
        *(Route(path, _answered(endpoint), methods=["POST"]) for path, endpoint in posts.items()),
        *(Route(path, _answered(endpoint), methods=["GET"]) for path, endpoint in gets.items()),
        openapi_route(),
        *page_routes(),
    ]


def _answered(endpoint: Endpoint) -> Endpoint:
    """The endpoint, whose every error becomes a response."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response | EventStream:
        try:
            return await endpoint(request)
        except ClientGone:
            return Response(status_code=GONE)
        # One request must not take others with it.
        except Exception as error:  # noqa: BLE001
            return problem_of(error).response()

    return answer


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405 in OpenAI's shape."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    shown = ascii(request.url.path)[:200]
    found = "does not exist" if status == 404 else f"does not take {request.method}"
    return Problem(status, f"{shown} {found} on this server", "unknown_url").response()


class Observed:
    """Gives every request an id, and tells the log and the metrics how it ended; never what it said."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, request_id = time.perf_counter(), GONE, new_id("req_")

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.requested(self._route(scope["path"]), status, seconds)
            path = ascii(scope["path"])[:200]
            LOG.info("%s %s %s %d %.3fs", request_id, scope["method"], path, status, seconds)

    def _route(self, path: str) -> str:
        """One of our own routes: labels must not grow with what clients send."""
        if path in self._routes:
            return path
        return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"
