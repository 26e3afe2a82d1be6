"""The chat page at `/`: a few files of this package, sent as they are.

Boundary: knows files and headers; what the page does is in static/, and it asks the same API as every other client. The
policy lets nothing in that is not ours and nothing out but to this server.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

INDEX = "/"
_FOLDER = "static"
_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "chat.js": "text/javascript; charset=utf-8",
    "markdown.js": "text/javascript; charset=utf-8",
    "media.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
    "settings.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
}
PATHS = tuple(INDEX if name == "index.html" else f"/page/{name}" for name in _TYPES)
# Answers of a model are shown: were one ever taken for markup, it could still load nothing and run nothing.
POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "media-src data:",
    "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    "require-trusted-types-for 'script'", "trusted-types 'none'",
))
_HEADERS = {
    "content-security-policy": POLICY,
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """A route for every file, read once."""
    folder = files(__package__) / _FOLDER
    return [
        Route(path, _sender((folder / name).read_bytes(), kind), methods=["GET"])
        for path, (name, kind) in zip(PATHS, _TYPES.items(), strict=True)
    ]


def _sender(content: bytes, kind: str) -> Callable[[Request], Response]:
    def send(request: Request) -> Response:
        return Response(content, headers={**_HEADERS, "content-type": kind})

    return send
