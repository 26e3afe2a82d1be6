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
_FOLDER = files(__package__) / "static"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FILES = {INDEX if file.name == "index.html" else f"/page/{file.name}": file for file in _FOLDER.iterdir()}
PATHS = tuple(_FILES)
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
    return [
        Route(path, _sender(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]), methods=["GET"])
        for path, file in _FILES.items()
    ]


def _sender(content: bytes, kind: str) -> Callable[[Request], Response]:
    def send(request: Request) -> Response:
        return Response(content, headers={**_HEADERS, "content-type": kind})

    return send
