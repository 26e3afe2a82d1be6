"""Media by address: from listed hosts, over connections to checked numbers, within limits, and nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from PIL import Image

import edgephi
from edgephi.runtime.errors import MediaError, RequestError
from edgephi.runtime.server.models import load_engine
from edgephi.runtime.server.origins import Address, Origin, read_listed
from edgephi.runtime.server.remote import MAXIMUM_ADDRESSES, Remote, is_public
from edgephi.runtime.server.settings import Loading, Settings

from .conftest import QUICK, Live, serving

CHAT = "/v1/chat/completions"
NAME = "pictures.example"
SECONDS = 1.0  # the longest fetch, so that one that never ends is seen to be given up
MOST = 200_000


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 40)).save(file, "PNG")
    return file.getvalue()


PNG = _png()


@dataclass
class Site:
    """A web server on this machine, and what it was asked for."""

    port: int
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """What a host can do: send a picture, too much, too slowly, compressed, an error, or to somewhere else."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        site.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        name = self.path.partition("?")[0].strip("/")
        if name.startswith("to="):
            self._send(302, b"", {"location": name.removeprefix("to=").replace("@", str(site.port))})
        elif name == "slow":
            self._send(200, PNG[:10], {"content-length": "100"})
            time.sleep(3 * SECONDS)
        elif name == "endless":
            self._send(200, b"", {"transfer-encoding": "chunked"})
            for _ in range(MOST // 10_000 + 2):
                self.wfile.write(b"2710\r\n" + bytes(10_000) + b"\r\n")
        else:
            answers: dict[str, tuple[int, bytes, dict[str, str]]] = {
                "a.png": (200, PNG, {}), "text": (200, b"no picture", {}), "empty": (200, b"", {}),
                "packed": (200, PNG, {"content-encoding": "gzip"}), "error": (503, b"", {}),
                "large": (200, b"", {"content-length": str(MOST + 1)}),
            }
            self._send(*answers.get(name, (404, b"", {})))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"content-length": str(len(body))} | headers).items():
            if not (key == "content-length" and "transfer-encoding" in headers):
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def _serve(context: ssl.SSLContext | None = None) -> Iterator[Site]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *args: None  # type: ignore[method-assign]  # clients leave: that is the test
        server.daemon_threads = True
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        site = Site(server.server_address[1])
        server.site = site  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    yield from _serve()


@pytest.fixture
def site(server: Site) -> Site:
    server.seen.clear()
    return server


@pytest.fixture(scope="module")
def multimodal(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle()


@pytest.fixture(scope="module")
def seeing(multimodal: Path, server: Site) -> Iterator[Live]:
    """Fetches from the site's address, and from its name, which is one of this machine."""
    listed = (
        Origin("http", "127.0.0.1", server.port), Origin("http", "localhost", server.port),
        Origin("https", "127.0.0.1", server.port),
    )
    limits = dataclasses.replace(QUICK, fetch_seconds=SECONDS, body_bytes=MOST)
    settings = Settings({"eyes": multimodal}, limits=limits, loading=Loading(threads=1), media_from=listed)
    with serving(settings, load_engine) as live:
        yield live


def _asked(*urls: str, **options: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": "What is it?"}, *parts]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0, **options}


def test_a_picture_of_a_listed_host_is_that_picture(seeing: Live, site: Site, multimodal: Path) -> None:
    url = f"http://127.0.0.1:{site.port}/a.png?size=1"
    reply = seeing.post(CHAT, _asked(url, url)).json()
    with edgephi.load(multimodal, threads=1) as session:
        picture = {"type": "image", "image": PNG}
        content = [{"type": "text", "text": "What is it?"}, picture, picture]
        expected = session.chat([{"role": "user", "content": content}], temperature=0, max_tokens=4)
    assert reply["choices"][0]["message"]["content"] == expected.text
    assert reply["usage"]["prompt_tokens"] == expected.usage.prompt_tokens
    ((path, headers),) = site.seen  # once, although it is named twice
    assert path == "/a.png?size=1" and headers["host"] == f"127.0.0.1:{site.port}"
    assert not {"cookie", "authorization", "referer"} & set(headers) and headers["accept-encoding"] == "identity"


def test_responses_take_addresses_too(seeing: Live, site: Site) -> None:
    part = {"type": "input_image", "image_url": f"http://127.0.0.1:{site.port}/a.png"}
    text = {"type": "input_text", "text": "What is it?"}
    asked = {"input": [{"role": "user", "content": [text, part]}], "max_output_tokens": 2}
    assert seeing.post("/v1/responses", asked).status_code == 200
    part["image_url"] += "x"
    error = seeing.post("/v1/responses", asked).json()["error"]
    assert error["param"] == "input[0].content[1]" and "answers with the status 404" in error["message"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("none", "answers with the status 404"), ("error", "answers with the status 503"),
        ("large", f"sends more than the {MOST} bytes"), ("endless", f"sends more than the {MOST} bytes"),
        ("slow", "did not send it within 1 s"), ("packed", "compressed"),
        ("text", "of an unknown format"), ("empty", "is empty"),
        ("to=http://localhost:1/a.png", "redirects to an address that is not one of those"),
        ("to=http://10.0.0.1/a.png", "redirects to an address that is not one of those"),
        ("to=file:///etc/passwd", "redirects to an address that is not one of those"),
        ("to=/to=/to=/to=/a.png", "redirects more than 3 times"),
        ("to=http://localhost:@/a.png", "has to be listed as an address"),
    ],
)
def test_what_a_host_does_wrong_is_an_error_that_names_the_part(
    seeing: Live, site: Site, path: str, found: str
) -> None:
    response = seeing.post(CHAT, _asked(f"http://127.0.0.1:{site.port}/{path}"))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "messages[0].content[1]" and found in error["message"], error["message"]


def test_redirects_within_the_list_are_followed(seeing: Live, site: Site) -> None:
    for path in ("to=/a.png", "to=http://127.0.0.1:@/a.png"):
        assert seeing.post(CHAT, _asked(f"http://127.0.0.1:{site.port}/{path}")).status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png", "http://127.0.0.1/a.png", "http://127.1:{}/a.png", "http://2130706433:{}/a.png",
        "http://127.0.0.1.:{}/a.png", "http://[::ffff:127.0.0.1]:{}/a.png", "http://user@127.0.0.1:{}/a.png",
        "http://127.0.0.1:{}\\@example.com/a.png", "http://127.0.0.1:{} /a.png", "http:127.0.0.1:{}/a.png",
        "http://169.254.169.254/latest/meta-data", "HTTP://LOCALHOST.:{}/a.png", "http://127.0.0.1:{}/a\u00e9.png",
    ],
)
def test_an_address_that_is_not_listed_is_not_asked(seeing: Live, site: Site, url: str) -> None:
    response = seeing.post(CHAT, _asked(url.format(site.port)))
    assert response.status_code == 400 and not site.seen
    error = response.json()["error"]
    assert error["param"] == "messages[0].content[1]"
    assert f"fetched from http://127.0.0.1:{site.port}, http://localhost:{site.port}" in error["message"]


def test_a_name_of_this_machine_is_refused_though_it_is_listed(seeing: Live, site: Site) -> None:
    response = seeing.post(CHAT, _asked(f"http://localhost:{site.port}/a.png"))
    assert response.status_code == 400 and not site.seen
    assert "has to be listed as an address" in response.json()["error"]["message"]


def test_plain_http_is_not_https(seeing: Live, site: Site) -> None:
    response = seeing.post(CHAT, _asked(f"https://127.0.0.1:{site.port}/a.png"))
    assert response.status_code == 400 and not site.seen
    assert "cannot be read (ConnectError)" in response.json()["error"]["message"]


def test_an_invalid_request_fetches_nothing(seeing: Live, site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}/a.png"
    assert seeing.post(CHAT, _asked(url, temperature=-1)).status_code == 400
    many = seeing.post(CHAT, _asked(*(f"{url}?{number}" for number in range(MAXIMUM_ADDRESSES + 1))))
    assert many.status_code == 400 and not site.seen
    assert many.json()["error"]["param"] == f"messages[0].content[{MAXIMUM_ADDRESSES + 1}]"


def test_nothing_is_fetched_where_no_host_is_listed(start: Callable[..., Live], multimodal: Path, site: Site) -> None:
    live = start(bundles={"eyes": multimodal})
    response = live.post(CHAT, _asked(f"http://127.0.0.1:{site.port}/a.png"))
    assert response.status_code == 400 and not site.seen
    assert "--allow-media-from" in response.json()["error"]["message"]


# ---- names, numbers and certificates


@dataclass
class Backend(httpcore2.AsyncNetworkBackend):
    """Connects to the site whatever number is asked for, and tells which."""

    port: int
    asked: list[str] = field(default_factory=list)

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.asked.append(host)
        if host == "8.8.4.4":
            raise httpcore2.ConnectError("refused")
        return await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", self.port, timeout)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Name → what each look-up of it gives, one after the other."""
    known: dict[str, list[list[str]]] = {}

    def look_up(host: str, port: int, *more: Any, **options: Any) -> list[tuple[Any, ...]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port)) for number in known[host].pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def _fetch(remote: Remote, origin: Origin, target: str = "/a.png") -> bytes:
    message = {"role": "user", "content": [{"type": "image", "image": Address(origin, target, "here")}]}
    (filled,) = asyncio.run(remote.fill([message]))
    content: Any = filled["content"]
    data: bytes = content[0]["image"]
    return data


def test_the_number_that_was_checked_is_the_one_that_is_connected_to(
    site: Site, names: dict[str, list[list[str]]]
) -> None:
    """A second look-up, which would give an address of this machine, does not take place."""
    origin, backend = Origin("http", NAME, 80), Backend(site.port)
    names[NAME] = [["8.8.4.4", "8.8.8.8"], ["127.0.0.1"]]
    assert _fetch(Remote([origin], MOST, 5, backend), origin) == PNG
    assert backend.asked == ["8.8.4.4", "8.8.8.8"] and names[NAME] == [["127.0.0.1"]]
    assert site.seen[0][1]["host"] == NAME
    with pytest.raises(MediaError, match=r"here: http://pictures.example is a name of this machine or of a private"):
        _fetch(Remote([origin], MOST, 5, backend), origin)
    names[NAME] = [["8.8.8.8", "10.0.0.1"]]
    with pytest.raises(MediaError, match="listed as an address"):
        _fetch(Remote([origin], MOST, 5, backend), origin)
    assert len(backend.asked) == 2
    del names[NAME]
    with pytest.raises(MediaError, match="a name that nobody knows"):
        _fetch(Remote([origin], MOST, 5, backend), origin)


def test_all_media_of_a_request_share_one_bound(site: Site) -> None:
    origin = Origin("http", "127.0.0.1", site.port)
    content = [{"type": "image", "image": Address(origin, f"/a.png?{number}", f"part {number}")} for number in range(3)]
    remote = Remote([origin], 2 * len(PNG) + 5, 5)
    with pytest.raises(MediaError, match=r"part 2: .* sends more than the 5 bytes that are left"):
        asyncio.run(remote.fill([{"role": "user", "content": content}]))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key for NAME, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", "-", "-out", "-"],
        capture_output=True, check=True,
    )
    path.write_bytes(made.stdout)
    return path


def test_a_certificate_must_be_trusted_and_be_for_the_name(
    certificate: Path, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    right, wrong = Origin("https", NAME, 443), Origin("https", "other.example", 443)
    names |= {NAME: [["8.8.8.8"]] * 2, "other.example": [["8.8.8.8"]]}
    for site in _serve(context):
        remote = Remote([right, wrong], MOST, 5, Backend(site.port))
        with pytest.raises(MediaError, match=r"cannot be read \(ConnectError\)"):
            _fetch(remote, right)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert _fetch(remote, right) == PNG
        with pytest.raises(MediaError, match=r"other.example cannot be read \(ConnectError\)"):
            _fetch(remote, wrong)
        assert [path for path, _ in site.seen] == ["/a.png"]


@pytest.mark.parametrize(
    ("number", "public"),
    [
        ("8.8.8.8", True), ("2606:4700:4700::1111", True), ("64:ff9b::808:808", True), ("2002:808:808::1", True),
        ("127.0.0.1", False), ("0.0.0.0", False), ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::", False), ("::1", False), ("::127.0.0.1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False), ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False),
        ("2001:db8::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_of_the_whole_internet(number: str, public: bool) -> None:
    assert is_public(number) is public


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("example.com", Origin("https", "example.com", 443)),
        ("Example.com:8443", Origin("https", "example.com", 8443)),
        ("http://10.0.0.5:9000/", Origin("http", "10.0.0.5", 9000)),
        ("[::1]:80", Origin("https", "::1", 80)),
    ],
)
def test_entries_of_the_list(text: str, origin: Origin) -> None:
    assert read_listed(text) == origin and read_listed(str(origin)) == origin


@pytest.mark.parametrize(
    "text", ["", "*.example.com", "example.com/pictures", "ftp://example.com", "a b", "user@host", "host:0", "::1", "é"]
)
def test_entries_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="names no host to fetch media from"):
        read_listed(text)
