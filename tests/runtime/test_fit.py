"""What fits and what does not: the largest context is exact, a refusal says what is needed, free, and to be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import edgephi
from edgephi import NotEnoughMemory, RequestError
from edgephi.runtime import fit, int8_cache, loading, prepacked
from edgephi.runtime.footprint import footprint
from edgephi.runtime.manifest import Manifest, read_manifest


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Callable[..., Path]) -> Manifest:
    return read_manifest(tiny_bundle("mini"))


@pytest.fixture(scope="module")
def large(manifest: Manifest) -> Manifest:
    """The same with weights that outweigh the program around them."""
    return replace(
        manifest, report=tuple(replace(record, bytes_after=record.bytes_after * 1000) for record in manifest.report)
    )


@pytest.fixture(scope="module")
def deep(manifest: Manifest) -> Manifest:
    """The same with as many layers as real models have, so that keys and values outweigh a step of the prompt."""
    return replace(manifest, text=replace(manifest.text, layers=32))


def test_the_largest_context_fits_and_one_token_more_does_not(manifest: Manifest) -> None:
    available = footprint(manifest, 3000).total + 7
    largest = fit.largest_context(manifest, available)
    assert 3000 <= largest < manifest.text.context_length
    assert footprint(manifest, largest).total <= available < footprint(manifest, largest + 1).total
    assert fit.largest_context(manifest, 1 << 40) == manifest.text.context_length
    assert fit.largest_context(manifest, 1000) == 0


def test_a_shorter_conversation_is_proposed_where_it_helps(manifest: Manifest) -> None:
    answer = fit.judge(manifest, 16000, footprint(manifest, 3000).total)
    assert answer.fits is False
    assert answer.changes[0] == "choose a context of at most 3000 tokens (--context 3000)"
    assert fit.judge(manifest, 16000, footprint(manifest, 16000).total).changes == ()


def test_int4_is_proposed_where_it_is_smaller(large: Manifest) -> None:
    change = fit.judge(large, 100, 1000).changes[0]
    assert change.startswith("export the checkpoint with --precision int4, which takes 0.")
    assert change.endswith(" GB, still too much")
    assert fit.judge(large, 100, 1_000_000_000).changes[0].endswith(" GB")


def test_int4_is_not_proposed_to_an_int4_bundle(tiny_bundle: Callable[..., Path]) -> None:
    small = read_manifest(tiny_bundle("mini", precision="int4"))
    assert fit.judge(small, 100, 1000).changes == ("close other programs", "use a smaller model")


def test_a_system_that_does_not_tell_refuses_nothing(manifest: Manifest) -> None:
    answer = fit.judge(manifest, 16000, None)
    assert answer.fits is None and answer.largest_context is None
    fit.require_memory(manifest, 16000, None)


def test_mapped_weights_need_no_memory_of_their_own(large: Manifest) -> None:
    needed = footprint(large, 100)
    fit.require_memory(large, 100, needed.total - needed.weights, mapped=True)
    with pytest.raises(NotEnoughMemory):
        fit.require_memory(large, 100, needed.total - 1)
    fit.require_memory(large, 100, needed.total)


def test_loading_is_refused_unless_told_otherwise(
    tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bundle("mini")
    free = footprint(read_manifest(folder), 5000).total
    monkeypatch.setattr(loading, "available_memory", lambda: free)
    edgephi.load(folder).close()  # begins small: 512 tokens are there
    edgephi.load(folder, context=5000).close()
    with pytest.raises(NotEnoughMemory, match=(
        r"^mini needs 0\.\d+ GB of memory for a context of 16384 tokens, 0\.\d+ GB are free: choose a context of at"
        r" most 5000 tokens .*close other programs.*--allow-oversized\)$"
    )):
        edgephi.load(folder, context=16384)
    edgephi.load(folder, context=16384, allow_oversized=True).close()
    assert issubclass(NotEnoughMemory, RequestError)


def test_mapped_weights_are_asked_for_once_they_are_prepared(
    tiny_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bundle("mini", precision="int4")
    monkeypatch.setattr(prepacked, "default_folder", lambda: tmp_path)
    asked: list[tuple[object, bool]] = []
    monkeypatch.setattr(
        loading, "require_memory", lambda *given, mapped=False: asked.append((given[3], mapped))
    )
    for mapped in (False, True, True):
        edgephi.load(folder, mapped=mapped).close()
    assert asked == [("float", False), ("float", False), ("float", True)]


@pytest.mark.parametrize("mapped", [False, True])
def test_loading_asks_for_the_memory_of_its_cache(
    tiny_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    folder = tiny_bundle("mini", precision="int4")
    monkeypatch.setattr(prepacked, "default_folder", lambda: tmp_path / "weights")
    monkeypatch.setattr(int8_cache, "cached", lambda name: tmp_path / name)
    asked: list[object] = []
    monkeypatch.setattr(loading, "require_memory", lambda *given, mapped=False: asked.append(given[3]))
    edgephi.load(folder, mapped=mapped, kv="int8").close()
    assert asked == ["int8"]


def test_an_int8_cache_is_proposed_where_it_makes_the_whole_fit(deep: Manifest) -> None:
    small, large = (footprint(deep, 16000, kv).total for kv in ("int8", "float"))
    answer = fit.judge(deep, 16000, small)
    size = fit.gigabytes(small)
    assert answer.changes[0] == f"keep keys and values as INT8 (--kv int8), which takes {size}"
    assert fit.judge(deep, 16000, small, "int8").fits is True
    assert fit.judge(deep, 16000, large).changes == ()
    with pytest.raises(NotEnoughMemory, match=r"--kv int8"):
        fit.require_memory(deep, 16000, small)
    fit.require_memory(deep, 16000, small, "int8")


def test_an_int8_cache_is_proposed_with_the_longer_context_that_fits(deep: Manifest) -> None:
    available = footprint(deep, 3000).total
    longest = fit.largest_context(deep, available, "int8")
    assert footprint(deep, longest, "int8").total <= available < footprint(deep, longest + 1, "int8").total
    changes = fit.judge(deep, 16000, available).changes
    assert 3000 < longest < 16000 and changes[1] == (
        f"keep keys and values as INT8, with a context of at most {longest} tokens (--kv int8 --context {longest})"
    )
    answer = fit.judge(deep, 16000, available, "int8")  # which has one already
    assert answer.largest_context == longest and "INT8" not in "".join(answer.changes)
    assert answer.changes[0] == f"choose a context of at most {longest} tokens (--context {longest})"


def test_an_int8_cache_is_not_proposed_where_there_is_none_or_where_it_takes_more(
    deep: Manifest, manifest: Manifest
) -> None:
    without = replace(deep, graphs={name: graph for name, graph in deep.graphs.items() if "int8" not in name})
    available = footprint(deep, 3000).total
    assert "INT8" not in "".join(fit.judge(without, 16000, available).changes)
    with pytest.raises(RequestError, match="this one was exported without it"):
        fit.judge(without, 100, available, "int8")
    with pytest.raises(RequestError, match="this one was exported without it"):
        fit.require_memory(without, 100, None, "int8")
    # what a step of the prompt turns into float32 outweighs what two layers save
    assert manifest.text.layers == 2
    assert "INT8" not in "".join(fit.judge(manifest, 16000, footprint(manifest, 3000).total).changes)
