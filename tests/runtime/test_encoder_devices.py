"""Encoders have devices of their own: a named one serves or is refused, the decoder's gives way to the CPU openly."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgephi
from edgephi import ProviderUnavailable, RequestError
from edgephi.runtime import encoders, providers, selection
from edgephi.runtime.graphs import Graph
from edgephi.runtime.providers.provider import Plugin, Provider

CPU = providers.find("cpu")
FAST = dataclasses.replace(CPU, name="fast", kind="gpu")
QUICK = dataclasses.replace(CPU, name="quick", kind="gpu")
FUSSY = dataclasses.replace(CPU, name="fussy", kind="gpu", lowerings=("static_shapes",), window=64)
ABSENT = dataclasses.replace(
    CPU, name="absent", kind="npu", ort_name="NoSuchProvider", plugin=Plugin("no_such_package_of_any_kind", "no-such"),
    install="pip install no-such, on a machine that has one",
)
WHAT = {"type": "text", "text": "what"}
PICTURE = {"type": "image", "image": Image.new("RGB", (60, 40), (200, 30, 90))}
RECORDING = {"type": "audio", "audio": (np.sin(np.arange(16000) / 9).astype(np.float32), 16000)}


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The CPU, two devices that are the CPU in truth, one that needs other graphs, and one that is not there."""
    records = {record.name: record for record in (CPU, FAST, QUICK, FUSSY, ABSENT)}
    monkeypatch.setattr(providers, "names", lambda: tuple(records))
    monkeypatch.setattr(providers, "find", records.__getitem__)
    monkeypatch.setattr(selection, "cached", lambda name: tmp_path / name)


@pytest.fixture(scope="module")
def bundle(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle("fp32")


@pytest.fixture
def takes_no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fast` opens the decoder and refuses encoders, as a provider does that has no kernel for one of their nodes."""

    def open_graph(path: Path, provider: Provider, threads: int) -> Graph:
        if provider is FAST:
            raise ProviderUnavailable(f"{path}: device 'fast' does not take Scan on CPUExecutionProvider")
        return Graph(path, provider, threads)

    monkeypatch.setattr(encoders, "Graph", open_graph)


def _ask(session: edgephi.Session, *parts: Any) -> edgephi.Usage:
    return session.chat([{"role": "user", "content": [*parts, WHAT]}], max_tokens=2, temperature=0).usage


def test_encoders_follow_the_decoder(bundle: Path) -> None:
    with edgephi.load(bundle, device="fast", prefix_cache=False) as session:
        assert session.encoder_devices == dict.fromkeys(("vision", "speech"), ("fast", "the decoder's device"))
        usage = _ask(session, PICTURE)
        assert usage.device == "fast" and usage.encoder_devices == {"vision": "fast"}
        assert _ask(session).encoder_devices == {}  # nothing but text was read


def test_a_part_can_have_another_device(bundle: Path) -> None:
    with edgephi.load(bundle, vision_device="fast", speech_device="quick", prefix_cache=False) as session:
        assert session.device == "cpu"
        assert session.encoder_devices == {"vision": ("fast", "asked for"), "speech": ("quick", "asked for")}
        assert _ask(session, PICTURE, RECORDING).encoder_devices == {"vision": "fast", "speech": "quick"}
    with edgephi.load(bundle, device="fast", vision_device="cpu", prefix_cache=False) as session:
        assert session.device == "fast" and session.encoder_devices["vision"][0] == "cpu"


def test_of_several_of_a_kind_the_fastest_is_measured_for_each_part(bundle: Path) -> None:
    for how in ("measured", "remembered"):
        with edgephi.load(bundle, vision_device="gpu", speech_device="gpu", prefix_cache=False) as session:
            for device, reason in session.encoder_devices.values():
                assert device in ("fast", "quick") and reason.startswith(f"the fastest here ({how}: ")
            assert session.loaded == ("text", "embedding")  # trials leave nothing behind


@pytest.mark.parametrize(("options", "reason"), [
    ({"vision_device": "absent"}, "pictures: device 'absent' needs the package no-such, .* pip install no-such"),
    ({"speech_device": "absent"}, "recordings: device 'absent' needs the package no-such"),
    ({"vision_device": "fussy"}, "pictures: device 'fussy' .* needs graphs with static_shapes.*export the checkpoint"),
])
def test_a_named_device_that_cannot_serve_is_refused(options: dict[str, str], reason: str, bundle: Path) -> None:
    with pytest.raises(ProviderUnavailable, match=reason):
        edgephi.load(bundle, **options)  # type: ignore[arg-type]  # each is a device


def test_a_part_that_is_not_there_is_refused(tiny_bundle: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match=r"the bundle takes no recordings: leave out --speech-device"):
        edgephi.load(tiny_bundle("mini"), speech_device="cpu")


def test_the_cpu_takes_over_what_the_decoders_device_does_not_take_and_says_so(
    bundle: Path, takes_no_encoder: None, caplog: pytest.LogCaptureFixture
) -> None:
    with edgephi.load(bundle, device="fast", prefix_cache=False) as session, caplog.at_level(logging.WARNING):
        usage = _ask(session, PICTURE)
        assert usage.device == "fast" and usage.encoder_devices == {"vision": "cpu"}
        (message,) = caplog.messages
        assert message.startswith("vision.onnx is computed by cpu: fast does not take it: ") and "Scan" in message
        device, reason = session.encoder_devices["vision"]
        assert device == "cpu" and "fast does not take it" in reason


def test_nobody_takes_over_for_a_device_that_was_named(bundle: Path, takes_no_encoder: None) -> None:
    with edgephi.load(bundle, vision_device="fast", prefix_cache=False) as session:
        with pytest.raises(ProviderUnavailable, match="does not take Scan"):
            _ask(session, PICTURE)
        assert _ask(session, RECORDING).encoder_devices == {"speech": "cpu"}  # the session goes on


def test_what_a_device_leaves_of_an_encoder_to_the_cpu_is_said(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def open_graph(path: Path, provider: Provider, threads: int) -> Graph:
        graph = Graph(path, provider, threads)
        graph.left_to_cpu = {"Shape": 2}
        return graph

    monkeypatch.setattr(encoders, "Graph", open_graph)
    with edgephi.load(bundle, device="fast", prefix_cache=False) as session, caplog.at_level(logging.WARNING):
        _ask(session, PICTURE)
        assert caplog.messages == ["vision.onnx: fast leaves to the CPU: 2 Shape"]
        assert session.left_to_cpu == {"Shape": 2}


def test_what_one_device_encoded_another_does_not_take_for_its_own(bundle: Path) -> None:
    cache = edgephi.PrefixCache()
    with (
        edgephi.load(bundle, prefix_cache=cache) as first,
        edgephi.load(bundle, vision_device="fast", prefix_cache=cache) as second,
    ):
        _ask(first, PICTURE)
        _ask(second, PICTURE)
        assert "vision" in second.loaded
