"""Fetches the media that requests name by address, from listed hosts.

Boundary: messages in, messages with bytes out; which hosts are listed says origins.py, what bytes mean the decoders.
A server that fetches for its clients reaches what they cannot. So a name is looked up here, once, and the connection
goes to the very number that was checked: one of this machine or of its networks is refused, and a second look-up
(DNS rebinding) does not take place. A redirect is a new address, under the same rules. Bytes and seconds are bounded
for all media of a request together; no proxy, cookie, password or compression is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urljoin

import httpcore2

from ..errors import MediaError
from ..messages import Message
from .origins import Address, Origin, split_url

LOG = logging.getLogger("edgephi.server")
MAXIMUM_ADDRESSES = 16
REDIRECTS = 3

_MOVED = (301, 302, 303, 307, 308)
_HEADERS = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "edgephi"))
_WRAPPED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address


class Remote:
    """Fetches from `listed` hosts, at most `most` bytes and for `seconds` for one request."""

    def __init__(
        self, listed: Sequence[Origin], most: int, seconds: float,
        backend: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        """`backend`: what opens connections to numbers."""
        self._listed = frozenset(listed)
        self._most = most
        self._seconds = seconds
        self._backend = _CheckedBackend(backend or httpcore2.AnyIOBackend())

    async def fill(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with bytes in place of addresses. Raises MediaError naming the part."""
        wanted = _addresses(messages)
        if not wanted:
            return tuple(messages)
        if len(wanted) > MAXIMUM_ADDRESSES:
            raise MediaError(
                f"{wanted[MAXIMUM_ADDRESSES].where} is beyond the {MAXIMUM_ADDRESSES} media that are fetched for one"
                " request: send some of them inside it"
            )
        found: dict[Address, bytes] = {}
        last = wanted[0]
        try:
            async with asyncio.timeout(self._seconds), httpcore2.AsyncConnectionPool(
                network_backend=self._backend, http2=False, retries=0
            ) as pool:
                for last in wanted:
                    left = self._most - sum(map(len, found.values()))
                    found[last] = await self._fetch(pool, last, left)
        except TimeoutError as error:
            text = f"{last.where}: {last.origin} did not send it within {self._seconds:g} s, the longest allowed"
            raise MediaError(f"{text}: send it inside the request") from error
        return _filled(messages, found)

    async def _fetch(self, pool: httpcore2.AsyncConnectionPool, address: Address, most: int) -> bytes:
        origin, target = address.origin, address.target
        try:
            for _ in range(REDIRECTS + 1):
                url = httpcore2.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=target)
                async with pool.stream("GET", url, headers=[("host", origin.authority), *_HEADERS]) as response:
                    if response.status not in _MOVED:
                        data = await _body(response, most)
                        LOG.info("%d bytes from %s", len(data), origin)
                        return data
                    origin, target = self._moved(origin, target, response)
        except MediaError as error:
            raise MediaError(f"{address.where}: {address.origin} {error}: send it inside the request") from error
        # What a network and TLS can do wrong has no end; the client is told what kind of thing it was.
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
            raise MediaError(
                f"{address.where}: {address.origin} cannot be read ({type(error).__name__}): send it inside the request"
            ) from error
        raise MediaError(f"{address.where}: {address.origin} redirects more than {REDIRECTS} times: send it inside")

    def _moved(self, origin: Origin, target: str, response: httpcore2.Response) -> tuple[Origin, str]:
        location = _header(response, b"location")
        split = split_url(urljoin(f"{origin.scheme}://{origin.authority}{target}", location))
        if split is None or split[0] not in self._listed:
            raise MediaError("redirects to an address that is not one of those that media are fetched from")
        return split


def _addresses(messages: Iterable[Message]) -> list[Address]:
    """Every medium of `messages` that is still to be fetched, once."""
    values = [value for message in messages for part in _parts(message) for value in part.values()]
    return list(dict.fromkeys(value for value in values if isinstance(value, Address)))


def _filled(messages: Sequence[Message], found: Mapping[Address, bytes]) -> tuple[Message, ...]:
    """The messages with what was fetched in place of the addresses."""

    def fill(part: object) -> object:
        if not isinstance(part, Mapping):
            return part
        return {key: found[value] if isinstance(value, Address) else value for key, value in part.items()}

    return tuple(
        {**message, "content": [fill(part) for part in content]}
        if isinstance(content := message.get("content"), list) else message
        for message in messages
    )


def _parts(message: Message) -> list[Mapping[str, object]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


async def _body(response: httpcore2.Response, most: int) -> bytes:
    """Raises MediaError for what is no whole, plain file of at most `most` bytes."""
    if response.status != 200:
        raise MediaError(f"answers with the status {response.status}")
    if _header(response, b"content-encoding") not in ("", "identity"):
        raise MediaError("sends it compressed, although that was not asked for")
    length, data = _header(response, b"content-length"), bytearray()
    too_large = MediaError(f"sends more than the {most} bytes that are left of what one request may bring")
    if length.isdecimal() and int(length) > most:
        raise too_large
    async for chunk in response.aiter_stream():
        data += chunk
        if len(data) > most:
            raise too_large
    return bytes(data)


def _header(response: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


class _CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections to public addresses, and to numbers that were asked for as such."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """To the first address of `host` that answers. Raises MediaError for one that is not public."""
        failed: Exception = httpcore2.ConnectError("no address")
        for number in await _numbers(host, port):
            try:
                return await self._inner.connect_tcp(number, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed

    async def sleep(self, seconds: float) -> None:
        """As the other one does."""
        await self._inner.sleep(seconds)


async def _numbers(host: str, port: int) -> list[str]:
    """The addresses to connect to. Raises MediaError where a name leads to one that is not public."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise MediaError("is a name that nobody knows") from error
    numbers = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not all(map(is_public, numbers)):
        raise MediaError("is a name of this machine or of a private network, which has to be listed as an address")
    return numbers


def is_public(number: str) -> bool:
    """Whether an address is one of the whole internet, also where IPv6 carries one of IPv4."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        carried = [address.ipv4_mapped, address.sixtofour]
        if address in _WRAPPED or int(address) < 1 << 32:
            carried.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if not all(is_public(str(each)) for each in carried if each is not None):
            return False
    return address.is_global and not address.is_multicast
