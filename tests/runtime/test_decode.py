"""The decode loop: what is reused, what an end in the middle leaves behind, and that failures lose nothing."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgephi import BundleError, ContextOverflow, NonFiniteLogits, RequestError
from edgephi.runtime.cache import Regime
from edgephi.runtime.decode import Decoder
from edgephi.runtime.generation import generate
from edgephi.runtime.graphs import Graph, Interrupt, Interrupted
from edgephi.runtime.inputs import TokenInputs
from edgephi.runtime.manifest import Manifest, read_manifest
from edgephi.runtime.providers import find
from edgephi.runtime.rotary import RotaryTables
from edgephi.runtime.sampling import Choice, Sampler, Sampling

IDS = [int(token) for token in np.random.default_rng(5).integers(0, 384, 700)]
CHUNK = 64


@pytest.fixture(scope="module")
def folder(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini")


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


@pytest.fixture(scope="module")
def graph(folder: Path, manifest: Manifest) -> Iterator[Graph]:
    loaded = Graph(folder / manifest.graphs["text"].file, find("cpu"), 2)
    yield loaded
    loaded.close()


@pytest.fixture
def make(graph: Graph, folder: Path, manifest: Manifest) -> Callable[..., Decoder]:
    def decoder(tables: RotaryTables | None = None, context: int | None = None) -> Decoder:
        chosen = tables or RotaryTables.open(folder, manifest.text, context)
        return Decoder(graph, manifest.text, chosen, TokenInputs(graph), CHUNK)

    return decoder


def test_only_what_is_new_is_computed(make: Callable[..., Decoder]) -> None:
    decoder, go = make(), Interrupt()
    _, work = decoder.advance(IDS[:100], go)
    assert (work.reused, work.computed) == (0, 100) and work.seconds > 0
    again, work = decoder.advance(IDS[:100], go)
    assert (work.reused, work.computed) == (99, 1)  # the last one, for its logits
    first = again.copy()
    _, work = decoder.advance([*IDS[:50], 1, 2, 3], go)
    assert (work.reused, work.computed) == (50, 3)
    logits, work = decoder.advance(IDS[:100], go)
    assert (work.reused, work.computed) == (50, 50)
    # another way of cutting the same sums: float32 rounding apart
    assert np.abs(logits - first).max() < 1e-5 * np.ptp(first)


def test_progress_counts_what_is_computed(make: Callable[..., Decoder]) -> None:
    decoder, seen = make(), list[tuple[str, int, int]]()
    decoder.advance(IDS[:10], Interrupt())
    decoder.advance(IDS[:200], Interrupt(), lambda *report: seen.append(report))
    assert seen == [("prefill", 64, 190), ("prefill", 128, 190), ("prefill", 190, 190)]


def test_an_interrupt_in_the_middle_of_a_prefill_keeps_the_finished_chunks(make: Callable[..., Decoder]) -> None:
    decoder, interrupt = make(), Interrupt()

    def after_two_chunks(stage: str, done: int, total: int) -> None:
        if done == 2 * CHUNK:
            interrupt.request()

    with pytest.raises(Interrupted):
        decoder.advance(IDS, interrupt, after_two_chunks)
    assert list(decoder.cache.positions) == IDS[: 2 * CHUNK]
    logits, work = decoder.advance(IDS, Interrupt())
    assert work.reused == 2 * CHUNK
    clean, _ = make().advance(IDS, Interrupt())
    assert np.abs(logits - clean).max() < 1e-5 * np.ptp(clean)


def test_an_interrupt_from_another_thread_ends_decoding_and_keeps_the_sequence(make: Callable[..., Decoder]) -> None:
    decoder, interrupt, out = make(), Interrupt(), list[int]()
    under_way = threading.Event()

    def answer() -> None:
        with pytest.raises(Interrupted):
            for step in generate(decoder, IDS[:20], Sampler(Sampling()), 10_000, frozenset(), interrupt):
                out.append(step.token_id)
                under_way.set()

    worker = threading.Thread(target=answer)
    worker.start()
    assert under_way.wait(60)
    interrupt.request()
    worker.join(60)
    assert not worker.is_alive() and len(out) < 10_000
    # the last token given out may or may not have gone through the model
    cached = list(decoder.cache.positions)
    assert cached in ([*IDS[:20], *out], [*IDS[:20], *out[:-1]])
    # going on gives what an answer without the break gives
    more = generate(decoder, [*IDS[:20], *out], Sampler(Sampling()), 3, frozenset(), Interrupt())
    rest = [step.token_id for step in more]
    steps = generate(make(), IDS[:20], Sampler(Sampling()), len(out) + 3, frozenset(), Interrupt())
    assert [step.token_id for step in steps] == [*out, *rest]


def test_a_sequence_beyond_the_context_is_refused_before_any_work(make: Callable[..., Decoder]) -> None:
    decoder, go = make(context=150), Interrupt()
    decoder.advance(IDS[:149], go)
    with pytest.raises(ContextOverflow, match="151 tokens do not fit into the context of 150"):
        decoder.advance(IDS[:151], go)
    assert list(decoder.cache.positions) == IDS[:149]
    decoder.append(IDS[149], go)
    with pytest.raises(ContextOverflow):
        decoder.append(IDS[150], go)
    assert list(decoder.cache.positions) == IDS[:150]
    with pytest.raises(ContextOverflow):
        decoder.logits(IDS[:151], go)
    with pytest.raises(RequestError, match="the prompt is empty"):
        decoder.advance([], go)


def test_which_table_serves_which_length(folder: Path, manifest: Manifest) -> None:
    text = manifest.text
    both = RotaryTables.open(folder, text, None)
    assert [both.limit_for(length) for length in (1, 4096, 4097, 16384)] == [4096, 4096, 16384, 16384]
    assert [len(both.arrays(limit)[0]) for limit in (4096, 16384)] == [4096, 16384]
    assert RotaryTables.open(folder, text, 4096).limit_for(1) == 4096
    long = RotaryTables.open(folder, text, 4097)
    assert long.limit_for(1) == 16384 and long.context == 4097
    with pytest.raises(ContextOverflow):
        long.limit_for(4098)
    for context in (0, -1, 16385, True, 100.0, "big"):
        with pytest.raises(RequestError, match="this model takes 1 to 16384 tokens"):
            RotaryTables.open(folder, text, context)  # type: ignore[arg-type]  # what a caller may pass by mistake
    assert not both.arrays(4096)[0].flags.writeable


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_quantized_bundles_compute_alike_however_a_sequence_is_cut(
    tiny_bundle: Callable[..., Path], precision: str
) -> None:
    folder, go = tiny_bundle("mini", precision=precision), Interrupt()
    manifest = read_manifest(folder)
    graph = Graph(folder / manifest.graphs["text"].file, find("cpu"), 2)
    tables = RotaryTables.open(folder, manifest.text, None)
    decoder = Decoder(graph, manifest.text, tables, TokenInputs(graph), CHUNK)
    wanted = decoder.logits(IDS[:210], go)
    found = [decoder.advance(IDS[:200], go)[0].copy(), *(decoder.append(token, go)[0].copy() for token in IDS[200:210])]
    # Activations are rounded to int8 block by block: a rounding of float32 may move one of them by a whole step of it.
    assert np.abs(wanted[199:] - np.stack(found)).max() < 1e-2 * np.ptp(wanted)
    graph.close()


class Poisoned(RotaryTables):
    """Tables that are NaN at one position: stands for a model that breaks down there."""

    position = 90

    def arrays(self, limit: int) -> tuple[np.ndarray, np.ndarray]:
        cos, sin = (table.copy() for table in super().arrays(limit))
        cos[self.position] = np.nan
        return cos, sin


def test_logits_that_are_not_finite_lose_nothing(
    make: Callable[..., Decoder], folder: Path, manifest: Manifest
) -> None:
    tables = Poisoned(folder, manifest.text.rotary, manifest.text.context_length)
    decoder, go = make(tables), Interrupt()
    decoder.advance(IDS[:30], go)
    with pytest.raises(NonFiniteLogits, match="from position 30 on"):
        decoder.advance(IDS[:200], go)  # breaks in the second of three chunks
    assert list(decoder.cache.positions) == IDS[:30]
    clean, _ = make().advance(IDS[:90], go)
    logits, work = decoder.advance(IDS[:90], go)
    assert work.reused == 30 and np.abs(logits - clean).max() < 1e-5 * np.ptp(clean)
    for _ in range(2):
        with pytest.raises(NonFiniteLogits, match="from position 90 on"):
            decoder.append(IDS[90], go)
        assert list(decoder.cache.positions) == IDS[:90]
    with pytest.raises(NonFiniteLogits):
        decoder.logits(IDS[:200], go)
    assert list(decoder.cache.positions) == IDS[:90]


def test_asking_for_all_logits_leaves_the_conversation_as_it_was(make: Callable[..., Decoder]) -> None:
    decoder, other, go = make(), make(), Interrupt()
    decoder.advance(IDS[:100], go)
    all_logits = decoder.logits(IDS[300:500], go)
    assert all_logits.shape == (200, 448) and all_logits.dtype == np.float32
    assert list(decoder.cache.positions) == IDS[:100] and decoder.cache.regime == Regime(4096)
    logits, _ = decoder.append(7, go)
    wanted, _ = other.advance([*IDS[:100], 7], go)
    assert np.abs(logits - wanted).max() < 1e-5 * np.ptp(wanted)
    interrupt = Interrupt()
    interrupt.request()
    with pytest.raises(Interrupted):
        decoder.logits(IDS, interrupt)
    assert list(decoder.cache.positions) == [*IDS[:100], 7]


def test_a_snapshot_moves_a_conversation_to_another_decoder(make: Callable[..., Decoder]) -> None:
    decoder, other, go = make(), make(), Interrupt()
    decoder.advance(IDS[:300], go)
    kept = decoder.snapshot()
    decoder.clear()
    assert len(decoder.cache) == 0
    other.restore(kept)
    logits, work = other.advance(IDS[:301], go)
    assert (work.reused, work.computed) == (300, 1)
    wanted, _ = decoder.advance(IDS[:301], go)
    assert np.abs(logits - wanted).max() < 1e-5 * np.ptp(wanted)
    # where another rotary table is in use, nothing of it counts
    long = make(context=5000)
    long.restore(kept)
    logits, work = long.advance(IDS[:301], go)
    assert work.reused == 0
    wanted, _ = make(context=5000).advance(IDS[:301], go)
    assert np.abs(logits - wanted).max() < 1e-5 * np.ptp(wanted)


def test_generation_ends_at_an_end_token_or_at_the_limit(make: Callable[..., Decoder]) -> None:
    decoder, go = make(), Interrupt()

    def answer(limit: int, ends: frozenset[int]) -> list[tuple[int, str | None]]:
        steps = generate(decoder, IDS[:9], Sampler(Sampling()), limit, ends, go)
        return [(step.token_id, step.finish) for step in steps]

    plain = answer(12, frozenset())
    assert [finish for _, finish in plain] == [None] * 11 + ["length"]
    end = plain[5][0]
    first = next(index for index, (token, _) in enumerate(plain) if token == end)
    assert answer(12, frozenset([end])) == [*plain[:first], (end, "stop")]
    assert answer(1, frozenset()) == [(plain[0][0], "length")]


class Repeating(Sampler):
    """Follows a script, as a model would that says the same again and again."""

    def __init__(self, script: list[int]) -> None:
        super().__init__(Sampling())
        self.script = iter(script)
        self.rows: list[np.ndarray] = []

    def choose(self, logits: np.ndarray) -> Choice:
        self.rows.append(logits.copy())
        return Choice(next(self.script), None)


@pytest.mark.parametrize("limit", [1, 2, 30, 59])
def test_drafting_chooses_from_the_same_logits(make: Callable[..., Decoder], limit: int) -> None:
    """Rows of a step over several positions are those of steps over one, up to rounding, right guess or wrong."""
    phrase = [17, 99, 3, 250]
    script = [*phrase * 8, 17, 5, *phrase * 3, 9, *phrase * 4]
    plain, drafted, go = Repeating(script), Repeating(script), Interrupt()
    one, other = make(), make()
    for _ in generate(one, IDS[:40], plain, limit, frozenset(), go):
        pass
    steps = list(generate(other, IDS[:40], drafted, limit, frozenset(), go, draft=True))
    assert [step.token_id for step in steps] == script[:limit]
    assert [step.finish for step in steps] == [*[None] * (limit - 1), "length"]
    assert len(plain.rows) == len(drafted.rows) == limit
    for wanted, found in zip(plain.rows, drafted.rows, strict=True):
        assert np.abs(wanted - found).max() < 1e-5 * np.ptp(wanted)
    assert list(one.cache.positions) == list(other.cache.positions) == [*IDS[:40], *script[: limit - 1]]
    if limit == 59:
        assert sum(step.drafted for step in steps) > 25
        assert sum(step.work.computed for step in steps) > limit + 39  # wrong guesses were computed as well


def test_drafting_across_the_original_length(make: Callable[..., Decoder]) -> None:
    """No guess reaches over the border: the step that crosses it computes everything again with the other table."""
    prompt, script, go = [IDS[index % 700] for index in range(4080)], [17, 99, 3, 250] * 10, Interrupt()
    plain, drafted = Repeating(script), Repeating(script)
    list(generate(make(), prompt, plain, 40, frozenset(), go))
    steps = list(generate(make(), prompt, drafted, 40, frozenset(), go, draft=True))
    for wanted, found in zip(plain.rows, drafted.rows, strict=True):
        assert np.abs(wanted - found).max() < 1e-5 * np.ptp(wanted)
    assert [step.work.recomputed for step in steps if step.work.recomputed] == [4096]
    assert sum(step.drafted for step in steps) > 10


def test_drafting_stops_at_an_end_token_and_before_the_context_ends(make: Callable[..., Decoder]) -> None:
    phrase = [17, 99, 3, 250]
    ended = list(generate(
        make(), IDS[:4], Repeating([*phrase * 4, 8, *phrase]), 100, frozenset([8]), Interrupt(), draft=True
    ))
    assert [step.token_id for step in ended] == [*phrase * 4, 8] and ended[-1].finish == "stop"
    decoder = make(context=50)
    full = list(generate(decoder, IDS[:10], Repeating(phrase * 10), 40, frozenset(), Interrupt(), draft=True))
    assert len(full) == 40 and len(decoder.cache) == 49 and decoder.room == 1


def test_a_graph_that_is_not_the_one_of_the_manifest_is_refused(
    graph: Graph, manifest: Manifest, folder: Path
) -> None:
    text = manifest.text
    tables = RotaryTables.open(folder, text, None)
    for other, complaint in (
        (dataclasses.replace(text, kv_heads=2), "the manifest says 2 heads of 64"),
        (dataclasses.replace(text, vocab_size=500), "a vocabulary of 500"),
        (dataclasses.replace(text, layers=3), r"past_key_values\.2\.key"),
    ):
        with pytest.raises(BundleError, match=complaint):
            Decoder(graph, other, tables, TokenInputs(graph))
