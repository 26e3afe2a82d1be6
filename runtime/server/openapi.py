"""The API as a document for programs, at /openapi.json.

Boundary: sends openapi.json, which is kept by hand beside the routes; a test holds it to them. https://spec.openapis.org
"""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PATH = "/openapi.json"


def openapi_route() -> Route:
    """The route of the document, which is read once."""
    content = (files(__package__) / "openapi.json").read_bytes()

    def send(request: Request) -> Response:
        return Response(content, headers={"content-type": "application/json", "cache-control": "no-cache"})

    return Route(PATH, send, methods=["GET"])
