"""Keys and values kept as INT8: what the cache holds against the float32 cache, what it costs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import RequestError
from edgephi.runtime import int8_cache
from edgephi.runtime.graphs import Interrupt

IDS = [(7919 * index) % 380 for index in range(60)]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(int8_cache, "cached", lambda name: tmp_path / "user" / name)
    return tmp_path / "user" / "int8-cache"


def arrays(bundle: Path, kv: str, steps: list[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Keys and values of IDS, and logits behind every position of its steps but the first."""
    with edgephi.load(bundle, threads=1, kv=kv, prefix_cache=False) as session:
        decoder, interrupt, done, logits = session._model.decoder, Interrupt(), steps[0], []
        decoder.advance(IDS[:done], interrupt)
        for count in steps[1:]:
            logits.append(decoder.extend(IDS[done : done + count], interrupt)[0].copy())
            done += count
        return [array.copy() for array in decoder.snapshot().arrays], logits


@pytest.mark.parametrize("name", ["mini", "window", "phi35"])
def test_the_cache_holds_rounded_keys_and_values(tiny_bundle: Callable[..., Path], kept: Path, name: str) -> None:
    """One step of a prompt computes in float32, so its codes differ by rounding alone: half a step."""
    bundle = tiny_bundle(name)
    floats, _ = arrays(bundle, "float", [len(IDS)])
    codes, _ = arrays(bundle, "int8", [len(IDS)])
    scales = np.load(next(kept.iterdir()))
    beyond = []
    for index, (expected, found) in enumerate(zip(floats, codes, strict=True)):
        assert found.dtype == np.int8
        largest = 127 * scales[index]
        beyond.append(np.abs(expected) > largest)
        off = np.abs(np.clip(expected, -largest, largest) - found * scales[index])
        assert (off <= 0.5001 * scales[index] + 1e-6).all()
    # measured on another text: what lies beyond is cut off, and is rare
    assert np.mean(np.concatenate([each.ravel() for each in beyond])) < 0.03


@pytest.mark.parametrize("name", ["mini", "window"])
def test_answers_are_near_those_of_the_float_cache(
    tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Both branches behind each other: many rows, one, some, and many rows over a cache that is there.

    Scales of the very tokens, so that nothing is cut off and only rounding is left.
    """
    measure = int8_cache.measure
    monkeypatch.setattr(int8_cache, "measure", lambda decoder, text, _, scales: measure(decoder, text, IDS, scales))
    steps = [20, 1, 4, 8, 1, 20, 1, 5]
    (_, expected), (_, found) = (arrays(tiny_bundle(name), kv, steps) for kv in ("float", "int8"))
    for ours, theirs in zip(found, expected, strict=True):
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert 1e-6 < error < 0.05  # keys and values lose up to 0.4 % of the largest of their channel


def test_a_long_answer_grows_the_cache(tiny_bundle: Callable[..., Path]) -> None:
    """Beyond the first 256 positions buffers are replaced; what was written must come along."""
    ids = [(7919 * index) % 380 for index in range(300)]
    bundle = tiny_bundle("mini")
    with edgephi.load(bundle, threads=1, kv="int8", prefix_cache=False) as session:
        decoder, interrupt = session._model.decoder, Interrupt()
        decoder.advance(ids[:250], interrupt)
        for token in ids[250:]:
            logits, _ = decoder.append(token, interrupt)
        grown = logits.copy()
        decoder.rewind(250)
        before = decoder.extend(ids[250:258], interrupt)[0][-1].copy()
    with edgephi.load(bundle, threads=1, prefix_cache=False) as session:
        expected = session.logits(ids)
    for ours, theirs in ((grown, expected[299]), (before, expected[257])):
        assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def test_scales_are_measured_once(
    tiny_bundle: Callable[..., Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle("mini")
    with edgephi.load(bundle, threads=1, kv="int8") as session:
        assert session.loaded == ("text-int8-cache",)
        answer = session.generate(IDS, max_tokens=6, temperature=0).token_ids
    (path,) = kept.iterdir()
    good = path.read_bytes()
    for damaged in (b"", good[:-4], good[:-4] + b"\x00\x00\xc0\x7f"):  # empty, cut, NaN at its end
        path.write_bytes(damaged)
        with (
            pytest.warns(UserWarning, match="is damaged or cannot be read .*: scales are measured again"),
            edgephi.load(bundle, threads=1, kv="int8"),
        ):
            assert path.read_bytes() == good
    monkeypatch.setattr(int8_cache, "measure", lambda *_: pytest.fail("measured again"))
    with edgephi.load(bundle, threads=1, kv="int8") as session:
        assert session.generate(IDS, max_tokens=6, temperature=0).token_ids == answer


def test_what_takes_no_int8_cache_says_why(
    tiny_bundle: Callable[..., Path], tiny_multimodal_bundle: Callable[..., Path]
) -> None:
    with pytest.raises(RequestError, match="kv is 'int4'; allowed are float, int8"):
        edgephi.load(tiny_bundle("mini"), kv="int4")
    with pytest.raises(RequestError, match=r"takes more than text .*: leave out kv, or export"):
        edgephi.load(tiny_multimodal_bundle(), threads=1, kv="int8")


def test_a_kept_prefix_of_one_cache_is_none_of_the_other(tiny_bundle: Callable[..., Path]) -> None:
    bundle, prompt = tiny_bundle("mini"), [*IDS, *IDS, *IDS]
    cached = []
    with edgephi.load(bundle, threads=1, kv="int8") as first, edgephi.load(bundle, threads=1) as second:
        for session in (first, second, first, second):
            session.generate([1, 2, 3], max_tokens=1)
            cached.append(session.generate(prompt, max_tokens=1, temperature=0).usage.cached_tokens)
    assert cached[0] == cached[1] == 0 and cached[2] == cached[3] > 100
