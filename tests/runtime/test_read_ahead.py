"""While one device encodes a medium another reads the text before it; what is said and counted is the same."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgephi
from edgephi import ProviderUnavailable, Session
from edgephi.runtime import encoders, providers
from edgephi.runtime.decode import FEWEST, Decoder, Work
from edgephi.runtime.graphs import Graph, Interrupt

CPU = providers.find("cpu")
FAST = dataclasses.replace(CPU, name="fast", kind="gpu")  # the CPU in truth
SYSTEM = {"role": "system", "content": "Answer in one short sentence, and name every colour that you see. " * 4}
TIMEOUT = 60  # seconds until a test that hangs fails


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {record.name: record for record in (CPU, FAST)}
    monkeypatch.setattr(providers, "names", lambda: tuple(records))
    monkeypatch.setattr(providers, "find", records.__getitem__)


@pytest.fixture(scope="module")
def bundle(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle("fp32")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions were read ahead, each time."""
    found: list[int] = []
    read_ahead = Decoder.read_ahead

    def counted(self: Decoder, sequence: Sequence[Any], count: int, interrupt: Interrupt) -> Work:
        work = read_ahead(self, sequence, count, interrupt)
        found.append(count)
        return work

    monkeypatch.setattr(Decoder, "read_ahead", counted)
    return found


def _encoding(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    """Let encoders run `run(graph, …)`."""

    class Watched(Graph):
        def run(self, *arguments: Any) -> Any:  # type: ignore[override]  # whatever it is called with
            return run(super().run, *arguments)

    monkeypatch.setattr(encoders, "Graph", Watched)


def _turn(seed: int) -> dict[str, Any]:
    colour = tuple(int(part) for part in np.random.default_rng(seed).integers(0, 256, 3))
    picture = {"type": "image", "image": Image.new("RGB", (60, 40), colour)}
    return {"role": "user", "content": [picture, {"type": "text", "text": f"What is number {seed}?"}]}


def _asked(session: Session, turns: int) -> list[dict[str, Any]]:
    """Everything of a conversation that must not depend on what was done at once."""
    messages, said = [SYSTEM], []
    for number in range(turns):
        messages.append(_turn(number))
        reply = session.chat(messages, max_tokens=6, temperature=0)
        messages.append(dict(reply.message))
        usage = reply.usage
        said.append({
            "ids": reply.token_ids, "prompt": usage.prompt_tokens, "cached": usage.cached_tokens,
            "recomputed": usage.recomputed_tokens,
        })
    return said


def test_answers_and_counts_are_those_of_one_device(bundle: Path, counts: list[int]) -> None:
    with edgephi.load(bundle, prefix_cache=False) as session:
        in_turn = _asked(session, 3)
    assert counts == []
    with edgephi.load(bundle, vision_device="fast", prefix_cache=False) as session:
        assert _asked(session, 3) == in_turn
    assert len(counts) == 3 and min(counts) >= FEWEST
    assert in_turn[0]["cached"] == 0 and in_turn[1]["cached"] > counts[0]


def test_the_text_is_read_before_the_encoder_is_done(
    bundle: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = threading.Event()
    read_ahead = Decoder.read_ahead

    def told(self: Decoder, *arguments: Any) -> Work:
        work = read_ahead(self, *arguments)
        read.set()
        return work

    monkeypatch.setattr(Decoder, "read_ahead", told)

    def wait(run: Callable[..., Any], *arguments: Any) -> Any:
        assert read.wait(TIMEOUT), "the encoder was waited for"
        return run(*arguments)

    _encoding(monkeypatch, wait)
    with edgephi.load(bundle, vision_device="fast", prefix_cache=False) as session:
        assert session.chat([SYSTEM, _turn(0)], max_tokens=2, temperature=0).usage.completion_tokens
    assert len(counts) == 1


def test_a_failing_encoder_is_an_error_and_what_was_read_is_kept(
    bundle: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Callable[..., Any], *arguments: Any) -> Any:
        raise ProviderUnavailable("the device went away")

    _encoding(monkeypatch, fail)
    with edgephi.load(bundle, vision_device="fast", prefix_cache=False) as session:
        with pytest.raises(ProviderUnavailable, match="went away"):
            session.chat([SYSTEM, _turn(0)])
        monkeypatch.undo()
        kept = session.snapshot().tokens
        assert kept == counts[0]


def test_a_call_that_is_cancelled_while_both_work_ends(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with edgephi.load(bundle, vision_device="fast", prefix_cache=False) as session:
        def cancel(run: Callable[..., Any], *arguments: Any) -> Any:
            session.cancel()
            return run(*arguments)

        _encoding(monkeypatch, cancel)
        assert session.chat([SYSTEM, _turn(0)], max_tokens=4).finish_reason == "cancelled"
        monkeypatch.setattr(encoders, "Graph", Graph)
        session.release_encoders()
        assert session.chat([SYSTEM, _turn(0)], max_tokens=4, temperature=0).finish_reason != "cancelled"


def test_a_short_beginning_waits_for_the_medium(bundle: Path, counts: list[int]) -> None:
    with edgephi.load(bundle, vision_device="fast", prefix_cache=False) as session:
        session.chat([_turn(0)], max_tokens=2)
    assert counts == []


def test_what_two_parts_of_a_prompt_took_is_one_work() -> None:
    first, later = Work(reused=10, computed=20, recomputed=3, seconds=1.0), Work(30, 5, 0, 0.5)
    assert first.then(later) == Work(10, 25, 3, 1.5)


def test_a_device_is_compared_by_name(bundle: Path, counts: list[int]) -> None:
    with edgephi.load(bundle, device="fast", prefix_cache=False) as session:
        session.chat([SYSTEM, _turn(0)], max_tokens=2)
        assert session.encoder_devices["vision"][0] == "fast"
    assert counts == []
