"""How fast this machine would run a bundle: a few seconds with its kernels, without loading it.

Boundary: shapes in, seconds out. Two decoders of the bundle's shape with few layers are timed through the real decode
loop; what the second takes more than the first is the cost of its further layers. Both stream more weights than caches
hold, as the whole model does. An INT8 cache is for tokens: prompts are timed over float32, which they go through; that
their old positions are dequantized, once a layer and step, is not. Pictures and recordings are not timed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .cache import Regime
from .decode import CHUNK, Decoder, positions_at_once
from .errors import BundleError
from .footprint import EMBEDDING, HEAD, LINEAR, blocks, intermediate, resident
from .generation import generate
from .graphs import Graph, Interrupt
from .inputs import TokenInputs
from .manifest import Manifest, Region, RotaryTable, TextModel
from .probe_graph import ProbeShape, Stored, build
from .providers.provider import Provider
from .rotary import RotaryTables
from .sampling import Sampler, Sampling

STREAMED = 192 << 20  # bytes of layers in the larger decoder: more than the last cache of most processors
FAR = 1024  # positions already seen in the second of two measurements
ROWS = 128  # positions of a timed step of prefill; one more costs the same from 64 on
SECONDS, FEWEST_RUNS = 0.4, 3
STEPS = 4  # tokens of a timed answer

Clock = Callable[[], float]
Timed = Callable[[Decoder, int, Clock], float]  # seconds behind so many positions


@dataclass(frozen=True)
class Speed:
    """Seconds: of a token behind `n` positions, step + n · step_per_position; of one of `m` rows of prefill behind n,
    row + (n + m) · row_per_position.
    """

    step: float
    step_per_position: float
    row: float
    row_per_position: float
    heads: int
    threads: int

    def decode_rate(self, position: int) -> float:
        """Tokens per second where `position` tokens came before."""
        return 1 / (self.step + position * self.step_per_position)

    def first_token(self, prompt: int) -> float:
        """Seconds from a prompt of so many tokens to the first token of the answer."""
        seconds, done = self.step, 0
        while done < prompt:
            rows = min(CHUNK, prompt - done, positions_at_once(self.heads, done + CHUNK))
            done += rows
            seconds += rows * (self.row + done * self.row_per_position)
        return seconds


@dataclass(frozen=True)
class _Times:
    """Seconds of a decoder with few layers."""

    step: float
    far_step: float
    chunk: float
    far_chunk: float

    def extended(self, longer: _Times, layers: int, further: int) -> _Times:
        """These, with `further` layers at the price of the `layers` that `longer` has more."""
        share = further / layers
        return _Times(*(
            first + max(0.0, second - first) * share
            for first, second in zip(vars(self).values(), vars(longer).values(), strict=True)
        ))


def measure(
    manifest: Manifest, provider: Provider, threads: int, clock: Clock = time.perf_counter, *, kv: str = "float"
) -> Speed:
    """Time the kernels that a session over this bundle would use.

    `kv`: how keys and values are kept; over "int8" prompts go through the kernels of float32 all the same.
    `clock` is what counts: with one thread, time.process_time leaves out what other programs do meanwhile. Raises
    BundleError where the manifest does not tell the shape of the decoder.
    """
    text = manifest.text
    far = max(1, min(FAR, text.context_length - ROWS - STEPS - 1))
    layer = sum(resident(record) for record in manifest.report if record.name.startswith("model.layers.0."))
    if not layer or not intermediate(manifest):
        raise BundleError(
            "the manifest has no report of the decoder's weights, so nothing is known of its speed: export the "
            "checkpoint again"
        )
    more = min(text.layers - 1, max(1, -(-STREAMED // layer)))
    shape = ProbeShape(
        text, intermediate(manifest), _stored(manifest, LINEAR), _stored(manifest, HEAD), provider.accuracy_level
    )
    times = _time(replace(shape, text=replace(text, layers=1)), provider, threads, far, clock, kv)
    if more:
        longer = _time(replace(shape, text=replace(text, layers=1 + more)), provider, threads, far, clock, kv)
        times = times.extended(longer, more, text.layers - 1)
    per_position = max(0.0, times.far_step - times.step) / far
    row_per_position = max(0.0, times.far_chunk - times.chunk) / (far * ROWS)
    row = max(0.0, (times.chunk - times.step) / ROWS - row_per_position * ROWS)
    return Speed(times.step, per_position, row, row_per_position, text.heads, threads)


def _time(shape: ProbeShape, provider: Provider, threads: int, far: int, clock: Clock, kv: str) -> _Times:
    """Of decoders of this shape: one, or one over an INT8 cache for tokens and one over float32 for prompts."""
    work = {"float": (_step, _chunk)} if kv == "float" else {"float": (_chunk,), kv: (_step,)}
    times: dict[Timed, list[float]] = {}
    for kind, each in work.items():
        with _opened(replace(shape, kv=kind), provider, threads) as decoder:
            times |= {timed: [timed(decoder, seen, clock) for seen in (1, far)] for timed in each}
    return _Times(*times[_step], *times[_chunk])


@contextmanager
def _opened(shape: ProbeShape, provider: Provider, threads: int) -> Iterator[Decoder]:
    """A decoder over zero weights; its data file is a hole and takes no room on disk."""
    text, data = shape.text, "zeros.data"
    with tempfile.TemporaryDirectory(prefix="edgephi-probe-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        model, largest = build(shape, data)
        (folder / "text.onnx").write_bytes(model)
        region = Region(data, 0, (text.context_length, _frequencies(text)))
        with (folder / data).open("wb") as file:
            file.truncate(max(largest, 4 * text.context_length * _frequencies(text)))
        graph = Graph(folder / "text.onnx", provider, threads)
        tables = RotaryTables(folder, (RotaryTable(text.context_length, region, region),), text.context_length)
        decoder = Decoder(graph, text, tables, TokenInputs(graph))
        try:
            yield decoder
        finally:
            decoder.close()
            graph.close()


def _step(decoder: Decoder, seen: int, clock: Clock) -> float:
    """Seconds of a token, chosen greedily, behind `seen` others."""
    def run() -> float:
        _see(decoder, seen)
        steps = generate(
            decoder, [0] * (seen + 1), Sampler(Sampling(), ()), STEPS + 1, frozenset(), Interrupt(), draft=False
        )
        next(steps)
        started = clock()
        for _ in steps:
            pass
        return (clock() - started) / STEPS

    return _median(run)


def _chunk(decoder: Decoder, seen: int, clock: Clock) -> float:
    """Seconds of a step of ROWS positions behind `seen` others."""
    def run() -> float:
        _see(decoder, seen)
        started = clock()
        decoder.advance([0] * (seen + ROWS), Interrupt())
        return clock() - started

    return _median(run)


def _see(decoder: Decoder, count: int) -> None:
    """Make the decoder hold `count` positions, all zero."""
    decoder.cache.enter(Regime(decoder.context))
    decoder.rewind(0)
    shape = decoder.cache.shape
    zeros = np.zeros((2 * shape.layers, shape.kv_heads, count, shape.head_dim), shape.dtype)
    decoder.cache.append(zeros, [0] * count)


def _median(run: Callable[[], float]) -> float:
    """The median of runs for about SECONDS, the first of which only warms up."""
    run()
    started, samples = time.perf_counter(), list[float]()
    while len(samples) < FEWEST_RUNS or time.perf_counter() - started < SECONDS:
        samples.append(run())
    return statistics.median(samples)


def _frequencies(text: TextModel) -> int:
    return text.rotary[0].cos.shape[-1] if text.rotary else text.head_dim // 2


def _stored(manifest: Manifest, name: str) -> Stored:
    """How the weight of this name is multiplied; a tied head is the embedding."""
    formats = {record.name: record.format for record in manifest.report}
    written = formats.get(name) or formats[EMBEDDING]
    forms = blocks(written)
    return Stored(forms[-1].bits, forms[-1].size, forms[-1].zero_points) if forms else Stored(32)
