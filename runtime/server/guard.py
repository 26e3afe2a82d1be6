"""Who may ask: the checks that come before any route.

Boundary: looks at headers alone. Three dangers of a server on a user's machine: a web page whose host name was rebound
to 127.0.0.1 (so host names are a list), a web page that posts blindly (so other origins are refused), and other
machines (so off loopback a key is needed, which settings.py sees to).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .problems import Problem
from .settings import LOOPBACK_NAMES, Access

_SAFE_SITES = ("same-origin", "none")


class AddressGuard:
    """Refuses requests for other hosts and from pages of other origins."""

    def __init__(self, app: ASGIApp, access: Access, page: str) -> None:
        """`page`: the path to which links on other sites may lead."""
        self._app = app
        self._page = page
        names = (*LOOPBACK_NAMES, access.host, *access.names)
        self._names = frozenset(name.lower().strip("[]") for name in names)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in access.origins)
        # A numeric address cannot have been rebound; with every address listened on, any of them is ours.
        self._any_number = access.host in ("0.0.0.0", "::")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        if scope["type"] == "http":
            problem = self._problem(Headers(scope=scope), scope)
            if problem is not None:
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, headers: Headers, scope: Scope) -> Problem | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            shown = ascii(hosts[0])[:80] if hosts else "missing"
            text = f"the host {shown} is not one of this server's names: add it with --allow-host, or use the address"
            return Problem(403, text, "host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._origins | {f"{scope['scheme']}://{hosts[0].lower()}"}:
            text = f"pages of {ascii(origin)[:80]} may not ask this server: add the origin with --allow-origin"
            return Problem(403, text, "origin_not_allowed")
        follows_link = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == self._page
        if origin is None and headers.get("sec-fetch-site", "none") not in _SAFE_SITES and not follows_link:
            return Problem(403, "pages of other sites may not ask this server", "origin_not_allowed")
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname, parts.port
        except ValueError:
            return False
        if not name or parts.path or parts.query or parts.fragment or "@" in host:
            return False
        return name in self._names or (self._any_number and _is_number(name))


class KeyGuard:
    """Refuses requests without one of the keys; `open_paths` are for everybody."""

    def __init__(self, app: ASGIApp, keys: Collection[str], open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        if scope["type"] == "http" and scope["path"] not in self._open and not holds_key(scope, self._keys):
            text = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
            await Problem(401, text, "invalid_api_key").response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def holds_key(scope: Scope, keys: Collection[bytes]) -> bool:
    """Whether a request brings one of `keys`, or none is needed. Takes the same time for every wrong key."""
    if not keys:
        return True
    given = _key(Headers(scope=scope)).encode()
    return any([hmac.compare_digest(given, key) for key in keys])


def client_of(scope: Scope, user: str) -> str:
    """Who asks, as far as can be told: key, address, and the user that the request names."""
    address = scope.get("client") or ("", 0)
    told = "\0".join((_key(Headers(scope=scope)), str(address[0]), user))
    return hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()


def _key(headers: Headers) -> str:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
