"""A live server on 127.0.0.1 in a thread, over real tiny bundles or over an engine that plays a script."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from edgephi.runtime.server.app import build
from edgephi.runtime.server.bundles import Bundle
from edgephi.runtime.server.jobs import Engine
from edgephi.runtime.server.models import Models, load_engine
from edgephi.runtime.server.serving import Server, listen, make_server
from edgephi.runtime.server.settings import Access, Limits, Loading, Settings
from edgephi.runtime.session import Piece, ToolCall, TranscriptSegment, Usage

PATIENCE = 30.0  # seconds; a limit for a server that hangs, not a measurement
LOCAL = Access()
QUICK = Limits(
    places=4, ping_seconds=0.2, grace_seconds=1.0, body_bytes=1 << 20, header_seconds=1.0, body_seconds=2.0
)


@dataclass(frozen=True)
class Live:
    """A running server: where it is and what it holds."""

    url: str
    models: Models
    server: Server
    clients: ExitStack

    def client(self, **options: Any) -> openai.OpenAI:
        given: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE}
        return self.clients.enter_context(openai.OpenAI(base_url=f"{self.url}/v1", **given | options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE, **options)

    def post(self, path: str, body: object = None, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=PATIENCE, **options)


@contextmanager
def serving(settings: Settings, open_engine: Callable[[Bundle], Engine]) -> Iterator[Live]:
    """Serve until the block is left; the server must end by itself then."""
    app = build(settings, open_engine)
    server, sock = make_server(app, settings.limits), listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), name="test-server")
    thread.start()
    clients = ExitStack()
    try:
        with clients:
            yield Live(f"http://127.0.0.1:{port}", app.state.models, server, clients)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not end"


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini")


@pytest.fixture(scope="module")
def both(bundle: Path, demo_bundle: Path, tiny_multimodal_bundle: Callable[..., Path]) -> Iterator[Live]:
    """A live server with the demo's bundle, and tiny ones of random weights, one for all media and one for text."""
    bundles = {"demo": demo_bundle, "media": tiny_multimodal_bundle(), "text": bundle}
    limits = dataclasses.replace(QUICK, places=32, body_bytes=16 << 20)
    with serving(Settings(bundles, limits=limits, loading=Loading(threads=1, context=4096)), load_engine) as made:
        yield made


@pytest.fixture(scope="module")
def live(bundle: Path) -> Iterator[Live]:
    """The real thing: a tiny bundle with random weights, loaded by a real session on one thread."""
    settings = Settings({"tiny": bundle}, limits=QUICK, loading=Loading(threads=1, context=4096))
    with serving(settings, load_engine) as made:
        yield made


@pytest.fixture(scope="module")
def client(live: Live) -> openai.OpenAI:
    return live.client()


@pytest.fixture
def start(bundle: Path) -> Iterator[Callable[..., Live]]:
    """(engine=None, **changes of Limits, access=…, bundles=…, context=…) → a server of its own, with a real engine or
    the one that is given.
    """
    with ExitStack() as stack:

        def make(
            engine: Engine | None = None,
            *,
            access: Access = LOCAL,
            bundles: dict[str, Path] | None = None,
            context: int = 4096,
            **limits: Any,
        ) -> Live:
            settings = Settings(
                bundles or {"tiny": bundle}, access, dataclasses.replace(QUICK, **limits), Loading("cpu", 1, context)
            )
            opener = load_engine if engine is None else lambda _: engine
            return stack.enter_context(serving(settings, opener))

        yield make


USAGE = Usage(
    prompt_tokens=7, cached_tokens=3, completion_tokens=5, time_to_first_token=0.1, prefill_rate=70.0, decode_rate=9.0,
    recomputed_tokens=0, recompute_seconds=0.0, peak_memory=1, device="cpu", threads=1,
)


def spoken(*texts: str, kind: Any = "answer") -> list[Piece]:
    """Pieces of an answer, one token each."""
    return [Piece(text, 65 + number, -0.5, kind) for number, text in enumerate(texts)]


def called(index: int, name: str, **arguments: object) -> Piece:
    return Piece("{}", 90 + index, -0.5, "tool_call", ToolCall(index, name, arguments))


def last(finish: str = "stop", *, thought: int = 0) -> Piece:
    """The last piece of an answer with a thought of so many tokens."""
    return Piece("", None, None, "answer", None, finish, dataclasses.replace(USAGE, thinking_tokens=thought))


@dataclass
class Script:
    """An engine that gives the pieces it was told, however it is asked; `gate` holds it back before its second one."""

    pieces: Sequence[Piece]
    error: Exception | None = None
    gate: threading.Event | None = None
    asked: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def stream(self, prompt: Any, **options: Any) -> Generator[Piece, None, None]:
        self.asked.append((prompt, options))
        self.cancelled.clear()
        return self._stream()

    def _stream(self) -> Generator[Piece, None, None]:
        for number, piece in enumerate(self.pieces):
            if number == 1 and self.gate is not None:
                while not self.gate.wait(0.01) and not self.cancelled.is_set():
                    pass
            if self.cancelled.is_set():
                yield dataclasses.replace(last("cancelled"))
                return
            yield piece
        if self.error is not None:
            raise self.error

    def stream_transcript(self, source: Any, **options: Any) -> Generator[TranscriptSegment, None, None]:
        raise AssertionError("a script hears nothing")

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed.set()


def script(*pieces: Piece, **options: Any) -> Script:
    return Script(pieces, **options)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does. Fails after PATIENCE."""
    done = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not come about")
