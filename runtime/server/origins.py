"""Hosts that the server may fetch media from, and addresses of media as clients write them.

Boundary: text in, checked parts out; remote.py fetches.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from ..errors import RequestError

PORTS = {"https": 443, "http": 80}
LONGEST = 4096

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.\-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Origin:
    """Where something is fetched: `scheme` is "https" or "http", `host` a name or an address without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as an URL and the header Host have them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.authority if self.scheme == "https" else f"{self.scheme}://{self.authority}"


@dataclass(frozen=True)
class Address:
    """A medium that is still to be fetched: where it is, and `where` in the request it stands first."""

    origin: Origin
    target: str
    where: str = field(compare=False)


def read_listed(text: str) -> Origin:
    """An entry of the list: HOST, HOST:PORT or ADDRESS, for https; http has to be written out. Raises RequestError."""
    split = split_url(text if "://" in text else f"https://{text}")
    if split is None or split[1] != "/":
        raise RequestError(
            f"{ascii(text)[:80]} names no host to fetch media from: give HOST, HOST:PORT, an address, or http://HOST"
        )
    return split[0]


def split_url(url: str) -> tuple[Origin, str] | None:
    """Origin and target of an http or https URL; None for what is none, or is written so that readers may differ."""
    if len(url) > LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in PORTS or not host or "@" in parts.netloc or port == 0:
        return None
    if not (_is_address(host) if ":" in host or "[" in parts.netloc else _NAME.fullmatch(host)):
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(parts.scheme, host, port or PORTS[parts.scheme]), target


def read_address(url: str, kind: Literal["image", "audio"], where: str, listed: Sequence[Origin]) -> Address:
    """A medium that a client names by its address. Raises RequestError for an address that is not fetched."""
    split = split_url(url)
    if split is not None and split[0] in listed:
        return Address(*split, where)
    shown = f"{where} gives the address {url[:60]!a}"
    if not listed:
        raise RequestError(
            f"{shown}; nothing is fetched for a client: send the {kind} itself, or start the server with"
            " --allow-media-from HOST"
        )
    raise RequestError(
        f"{shown}; media are fetched from {', '.join(map(str, listed))} alone: send the {kind} itself"
    )


def _is_address(host: str) -> bool:
    try:
        return "%" not in host and bool(ipaddress.ip_address(host))
    except ValueError:
        return False
