"""What can be set about a server, with the values it has by itself.

Boundary: data and its checks; reads no file and no environment.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from .origins import Origin

if TYPE_CHECKING:
    from ..prefix_cache import PrefixCache

PORT = 8484
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Loading:
    """How bundles are loaded: the keyword arguments of `edgephi.load`.

    The devices of encoders are for the bundles that have them.
    """

    device: str = "cpu"
    threads: int | None = None
    context: int | None = None
    mapped: bool = False
    allow_oversized: bool = False
    prefix_cache: PrefixCache | None = field(default=None, repr=False)  # changes no answer
    vision_device: str | None = None
    speech_device: str | None = None
    kv: str = "float"


@dataclass(frozen=True)
class Access:
    """Who may ask. `keys`: any of them opens; none at all needs a loopback address. `names`: host names by which the
    server may be addressed besides its own. `origins`: web pages that may ask, as "https://host:port".
    """

    host: str = "127.0.0.1"
    keys: tuple[str, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises RequestError for an address that others reach while no key is set, and for malformed keys."""
        for key in self.keys:
            if not (8 <= len(key) <= 512 and key.isascii() and key.isprintable() and " " not in key):
                raise RequestError("an API key is not 8 to 512 printable ASCII characters without spaces: make another")
        if not self.is_loopback and not self.keys:
            raise RequestError(
                f"host {self.host!r} can be reached by other machines and no API key is set: set EDGEPHI_API_KEY or"
                " --api-key-file, or serve on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients can make the server hold or wait for; `…_bytes` are bytes, `…_seconds` seconds.

    `places`: requests that may wait for one model. `loaded`: models in memory at once. `idle_seconds`: how long an
    unused model stays there, None for ever. `ping_seconds`: silence after which a stream says that it is alive.
    `stall_seconds`: how long a client may leave its answer untaken. `grace_seconds`: how long answers may go on once
    the server is told to end. `fetch_seconds`: how long all media of a request that are fetched may take.
    """

    body_bytes: int = 64 << 20
    header_seconds: float = 20.0
    body_seconds: float = 60.0
    places: int = 32
    loaded: int = 2
    idle_seconds: float | None = 600.0
    ping_seconds: float = 10.0
    stall_seconds: float = 60.0
    grace_seconds: float = 5.0
    fetch_seconds: float = 20.0


@dataclass(frozen=True)
class Settings:
    """A server: its bundles by name, and everything above. `media_from`: hosts that media are fetched from."""

    bundles: dict[str, Path]
    access: Access = Access()
    limits: Limits = Limits()
    loading: Loading = Loading()
    preload: bool = False
    media_from: tuple[Origin, ...] = ()
