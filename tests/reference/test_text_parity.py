"""Logits of fp32 bundles against transformers' own model of the same checkpoint, however a sequence was computed.

The oracle is a straight run: one forward pass of Phi3ForCausalLM over the whole sequence in float32, no cache. Two
float32 implementations that add up in other orders differ by about 1e-6 of the range of the logits in two layers; the
limit is 1e-4, as one wrong position, table or mask moves a logit by whole units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgephi
from edgephi.runtime.decode import Decoder
from edgephi.runtime.graphs import Graph, Interrupt
from edgephi.runtime.inputs import TokenInputs
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.providers import find
from edgephi.runtime.rotary import RotaryTables

VARIANTS = ("mini", "mini-untied", "phi4", "phi35", "window")
TWO_TABLES = ("mini", "mini-untied", "phi35")
ORIGINAL = 4096
LENGTHS = (1, 16, 1000, 4096, 4097, 4500)
LIMIT = 1e-4
CHUNKS = (7, 512, LENGTHS[-1])

Model = Any


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return [int(token) for token in np.random.default_rng(11).integers(0, 384, LENGTHS[-1])]


@pytest.fixture(scope="module")
def straight(tiny_reference: Callable[[str], Model], variant: str) -> Callable[[list[int]], np.ndarray]:
    """Logits behind every position of a sequence, as one run of transformers over it gives them."""
    model = tiny_reference(variant)

    def run(sequence: list[int]) -> np.ndarray:
        import torch

        with torch.no_grad():
            logits: np.ndarray = model(torch.tensor([sequence])).logits[0].numpy()
        return logits

    return run


@pytest.fixture(scope="module")
def growing(straight: Callable[[list[int]], np.ndarray]) -> Callable[[list[int]], np.ndarray]:
    """Row i: the logits behind position i in a straight run over the first i + 1 positions alone.

    Attention is causal, so two runs hold all rows: up to the original length, and beyond it, where LongRoPE models use
    their other table for the whole sequence.
    """

    def run(sequence: list[int]) -> np.ndarray:
        rows = straight(sequence[:ORIGINAL])
        return np.concatenate([rows, straight(sequence)[ORIGINAL:]]) if len(sequence) > ORIGINAL else rows

    return run


@pytest.fixture(scope="module")
def expected(growing: Callable[[list[int]], np.ndarray], ids: list[int]) -> np.ndarray:
    return growing(ids)


@pytest.fixture(scope="module")
def decoder(tiny_bundle: Callable[[str], Path], variant: str) -> Iterator[Callable[[int], Decoder]]:
    folder = tiny_bundle(variant)
    manifest = read_manifest(folder)
    graph = Graph(folder / manifest.graphs["text"].file, find("cpu"), 2)
    tables = RotaryTables.open(folder, manifest.text, None)
    yield lambda chunk: Decoder(graph, manifest.text, tables, TokenInputs(graph), chunk)
    graph.close()


def assert_close(ours: np.ndarray, reference: np.ndarray) -> None:
    assert ours.shape == reference.shape and ours.dtype == np.float32
    assert np.abs(ours - reference).max() <= LIMIT * np.ptp(reference)


@pytest.mark.parametrize("length", LENGTHS)
def test_logits_of_every_position(
    tiny_bundle: Callable[[str], Path], straight: Callable[[list[int]], np.ndarray], variant: str, ids: list[int],
    length: int,
) -> None:
    with edgephi.load(tiny_bundle(variant), threads=2) as phi:
        assert_close(phi.logits(ids[:length]), straight(ids[:length]))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_prefill_in_chunks(
    decoder: Callable[[int], Decoder], ids: list[int], expected: np.ndarray, chunk: int
) -> None:
    for length in LENGTHS:
        logits, work = decoder(chunk).advance(ids[:length], Interrupt())
        assert_close(logits, expected[length - 1])
        assert (work.reused, work.computed, work.recomputed) == (0, length, 0)


def test_token_by_token_across_the_original_length(
    decoder: Callable[[int], Decoder], variant: str, ids: list[int], expected: np.ndarray
) -> None:
    one = decoder(512)
    logits, _ = one.advance(ids[:4000], Interrupt())
    recomputed = {}
    for length in range(4001, 4201):
        logits, work = one.append(ids[length - 1], Interrupt())
        assert_close(logits, expected[length - 1])
        if work.recomputed:
            recomputed[length] = work.recomputed
    assert recomputed == ({ORIGINAL + 1: ORIGINAL} if variant in TWO_TABLES else {})


def test_rewinding_within_and_across_the_original_length(
    decoder: Callable[[int], Decoder], growing: Callable[[list[int]], np.ndarray], variant: str, ids: list[int],
    expected: np.ndarray,
) -> None:
    one = decoder(512)
    other = [*ids[:3000], *reversed(ids[:1200])]
    theirs = growing(other)
    one.advance(ids, Interrupt())
    # another ending, below the original length, then beyond it, then the first sequence again
    for sequence, rows, shared in (
        (other[:3100], theirs, 3000), (other[:3050], theirs, 3049), (other, theirs, 3050), (ids[:4150], expected, 3000),
        (ids[:4100], expected, 4099), (ids[:20], expected, 19), (ids, expected, 20),
    ):
        crossing = variant in TWO_TABLES and (len(one.cache) > ORIGINAL) != (len(sequence) > ORIGINAL)
        logits, work = one.advance(sequence, Interrupt())
        assert_close(logits, rows[len(sequence) - 1])
        assert work.reused == (0 if crossing else shared)
        assert work.reused + work.computed == len(sequence)
        logits, _ = one.append(ids[7], Interrupt())
        assert_close(logits, growing([*sequence, ids[7]])[-1])


def test_three_chat_turns_across_the_original_length(
    tiny_bundle: Callable[[str], Path], growing: Callable[[list[int]], np.ndarray], variant: str
) -> None:
    """Greedy answers of a conversation that outgrows the original length while the last answer is being written."""
    messages: list[dict[str, object]] = []
    prompts, cached, recomputed = [], [], []
    with edgephi.load(tiny_bundle(variant), threads=2) as phi:
        for words in (5, 3000, None):
            if words is None:  # so many that the answer crosses the original length
                empty: dict[str, object] = {"role": "user", "content": ""}
                words = ORIGINAL - 30 - len(phi.encode([*messages, empty]))
            messages.append({"role": "user", "content": " shells" * words})
            prompt = phi.encode(messages)
            reply = phi.chat(messages, max_tokens=60, temperature=0)
            whole = [*prompt, *reply.token_ids]
            rows = growing(whole)[len(prompt) - 1 : -1]
            chosen = np.take_along_axis(rows, np.array(reply.token_ids)[:, None], 1)[:, 0]
            assert (chosen >= rows.max(1) - LIMIT * np.ptp(rows)).all()
            prompts.append(prompt)
            cached.append(reply.usage.cached_tokens)
            recomputed.append(reply.usage.recomputed_tokens)
            messages.append({"role": "assistant", "content": reply.text})
    assert len(prompts[-1]) < ORIGINAL < len(whole)
    assert cached[0] == 0 and cached[1] >= len(prompts[0]) and cached[2] >= len(prompts[1])
    assert recomputed == [0, 0, ORIGINAL if variant in TWO_TABLES else 0]


def test_the_long_table_from_the_first_token(
    tiny_bundle: Callable[[str], Path], tiny_reference: Callable[[str], Model], ids: list[int]
) -> None:
    """A context beyond the original length never recomputes: short sequences use the long table too, as documented."""
    import torch

    model = tiny_reference("mini")
    sequence = ids[:300]
    with edgephi.load(tiny_bundle("mini"), threads=2, context=6000) as phi:
        ours = phi.logits(sequence)
    # positions stay as they are when 4,097 more follow that attention does not look at
    with torch.no_grad():
        whole = model(torch.tensor([[*sequence, *ids[: ORIGINAL + 1]]])).logits[0, : len(sequence)].numpy()
        short = model(torch.tensor([sequence])).logits[0].numpy()
    assert_close(ours, whole)
    assert np.abs(ours - short).max() > 100 * LIMIT * np.ptp(short)
