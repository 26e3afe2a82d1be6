"""Weights mapped from a prepared file: the same numbers, made once, never half, and only for what they were made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import RequestError
from edgephi.runtime import int8_cache, prepacked
from edgephi.runtime.manifest import FileRecord, read_manifest
from edgephi.runtime.model import TEXT
from edgephi.runtime.providers import find

CPU = find("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prepacked, "default_folder", lambda: tmp_path / "prepared")
    monkeypatch.setattr(int8_cache, "cached", lambda name: tmp_path / "user" / name)
    return tmp_path / "prepared"


@pytest.mark.parametrize("precision", ["int4", "fp32"])
def test_answers_are_the_same(tiny_bundle: Callable[..., Path], precision: str, cache: Path) -> None:
    folder = tiny_bundle("mini", precision=precision)
    ids = [(7919 * index) % 380 for index in range(40)]
    found = []
    for mapped in (False, True, True):
        with edgephi.load(folder, threads=1, mapped=mapped) as session:
            found.append((session.logits(ids), session.generate(ids, max_tokens=6, temperature=0).token_ids))
    for logits, tokens in found[1:]:
        assert np.array_equal(logits, found[0][0]) and tokens == found[0][1]
    assert [path.name for path in sorted(next(cache.iterdir()).iterdir())] == [prepacked.GRAPH, prepacked.DATA]


def test_media_and_their_adapters_are_the_same(tiny_multimodal_bundle: Callable[..., Path], cache: Path) -> None:
    from PIL import Image

    messages = [{"role": "user", "content": [
        {"type": "image", "image": Image.new("RGB", (60, 40), (200, 30, 90))}, {"type": "text", "text": "What?"},
    ]}]
    answers = []
    for mapped in (False, True):
        with edgephi.load(tiny_multimodal_bundle(), threads=1, mapped=mapped, prefix_cache=False) as session:
            answers.append(session.generate(messages, max_tokens=4, temperature=0).token_ids)
    assert answers[0] == answers[1]
    assert len(list(cache.iterdir())) == 2  # the decoder, and the one with adapters


def test_it_is_made_once(tiny_bundle: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_bundle("mini", precision="int4")
    manifest = read_manifest(folder)
    assert prepacked.find(manifest, TEXT, CPU, cache) is None
    made = prepacked.prepare(folder, manifest, TEXT, CPU, cache)
    monkeypatch.setattr(prepacked, "write_prepacked", lambda *_: pytest.fail("made again"))
    assert prepacked.find(manifest, TEXT, CPU, cache) == prepacked.prepare(folder, manifest, TEXT, CPU, cache) == made


@pytest.mark.parametrize("change", ["weights", "processor", "runtime", "device"])
def test_other_weights_and_machines_have_files_of_their_own(
    tiny_bundle: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = tiny_bundle("mini", precision="int4")
    manifest, provider = read_manifest(folder), CPU
    prepacked.prepare(folder, manifest, TEXT, provider, cache)
    if change == "weights":
        manifest = replace(manifest, files=manifest.files | {"text.onnx.data": FileRecord(1, "0" * 64)})
    elif change == "processor":
        monkeypatch.setattr(prepacked, "_processor", lambda: ("another",))
    elif change == "runtime":
        monkeypatch.setattr(prepacked, "RUNTIME", "onnxruntime 9")
    else:
        provider = replace(CPU, name="another")
    assert prepacked.find(manifest, TEXT, provider, cache) is None


def test_an_interruption_leaves_nothing(
    tiny_bundle: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bundle("mini", precision="int4")

    def interrupted(path: Path, provider: object, target: Path, data: str) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(prepacked, "write_prepacked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepacked.prepare(folder, read_manifest(folder), TEXT, CPU, cache)
    assert list(cache.iterdir()) == []


def test_a_full_disk_shows_before_the_first_byte(
    tiny_bundle: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bundle("mini", precision="int4")
    full = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(RequestError, match=r"need \d\.\d GB in .*, 0\.0 GB are free there: free some space"):
        edgephi.load(folder, mapped=True)
    assert list(cache.iterdir()) == []


def test_the_decoder_over_an_int8_cache_has_a_file_of_its_own(tiny_bundle: Callable[..., Path], cache: Path) -> None:
    folder, ids = tiny_bundle("mini", precision="int4"), [(7919 * index) % 380 for index in range(40)]
    answers = []
    for mapped in (False, True):
        with edgephi.load(folder, threads=1, mapped=mapped, kv="int8", prefix_cache=False) as session:
            answers.append(session.generate(ids, max_tokens=6, temperature=0).token_ids)
    assert answers[0] == answers[1] and len(list(cache.iterdir())) == 1
