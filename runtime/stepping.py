"""How positions go through the text graph: one graph of free shapes, or two of fixed shapes that share a cache.

Boundary: binds and runs. Which positions are new and what becomes of the logits is decode.py's business.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .cache import CacheShape, KeyValueCache, Position, Regime
from .errors import BundleError
from .graphs import Binding, Graph, Interrupt, Placed
from .inputs import EmbeddingInputs, TextInputs
from .manifest import CACHE_SCALES, TUNED, TextModel
from .rotary import RotaryTables

GATE = "_lora"  # end of the names of the inputs that switch adapters
LENGTHS = "seqlens_k"


class Steps(Protocol):
    """Runs new positions behind cached ones.

    `widest`: the most positions of a run. `capacity`: positions of the cache where that is fixed. `guesses`: whether a
    run over several positions gives the logits behind each at the price of one.
    """

    shape: CacheShape
    widest: int
    capacity: int | None
    guesses: bool

    def place(self, array: np.ndarray) -> Placed:
        """Put a key or value where the graphs compute."""

    def bind_cache(self, index: int, placed: Placed) -> None:
        """Use `placed` for the key (2·layer) or value (2·layer + 1) of a layer from now on."""

    def run(
        self, cache: KeyValueCache, part: tuple[Position, ...], rows: np.ndarray, logits: np.ndarray,
        interrupt: Interrupt,
    ) -> None:
        """Compute `part` behind the cached positions, and the logits (1, rows, vocab) behind its `rows`."""

    def release(self) -> None:
        """Let go of all arrays."""


class FreeSteps:
    """One graph that takes any number of positions. Binds again only what changes its shape."""

    capacity: int | None = None
    guesses = True

    def __init__(
        self, graph: Graph, text: TextModel, tables: RotaryTables, inputs: TextInputs, widest: int,
        scales: np.ndarray | None = None,
    ) -> None:
        """`scales`: of an INT8 cache, read in every run.

        Raises BundleError where the graph is not the one that the manifest describes.
        """
        self.shape = _cache_shape(graph, text, {"attention_mask"}, {"rotary_cos", "rotary_sin", "logits_rows"})
        self.widest = widest
        self._tables = tables
        self._inputs = inputs
        self._graph = graph
        self._binding = graph.bind()
        if scales is not None:
            self._binding.bind_input(CACHE_SCALES, scales)
        self._mask = np.ones((1, 0), np.int64)
        self._gates = [name for name in graph.optional if name.endswith(GATE)]
        self._bound: Regime | None = None
        self._rows: np.ndarray | None = None

    def place(self, array: np.ndarray) -> Placed:
        """Where the graph computes."""
        return self._graph.place(array)

    def bind_cache(self, index: int, placed: Placed) -> None:
        """In place."""
        _bind_cache(self._binding, index, placed)

    def run(
        self, cache: KeyValueCache, part: tuple[Position, ...], rows: np.ndarray, logits: np.ndarray,
        interrupt: Interrupt,
    ) -> None:
        """In one run."""
        total = len(cache) + len(part)
        self._bind_regime(cache.regime)
        if total > self._mask.shape[1]:
            self._mask = np.ones((1, cache.capacity), np.int64)
        self._binding.bind_input("attention_mask", self._mask[:, :total])
        self._inputs.write(self._binding, part)
        if rows is not self._rows:
            self._binding.bind_input("logits_rows", rows)
            self._binding.bind_output("logits", logits)
            self._rows = rows
        self._binding.run(interrupt)

    def release(self) -> None:
        """The graph is of no use afterwards."""
        self._binding.release()

    def _bind_regime(self, regime: Regime | None) -> None:
        if regime is None or regime == self._bound:
            return
        for name, table in zip(("rotary_cos", "rotary_sin"), self._tables.arrays(regime.rotary), strict=True):
            self._binding.bind_input(name, table)
        active = (f"{regime.adapter}{GATE}", f"{TUNED}{regime.tuned}{GATE}")
        for gate in self._gates:
            self._binding.bind_input(gate, np.array(gate in active))
        self._bound = regime


class FixedSteps:
    """Two graphs of fixed shapes: a context processor for windows of positions, a token iterator for single ones.

    Both append to the same cache. A window that is not full is padded: what the padding leaves in the cache lies behind
    the valid positions and is written over by the next ones. Where a whole window no longer fits behind the cached
    positions, they go one by one.
    """

    guesses = False

    def __init__(self, processor: Graph, iterator: Graph, text: TextModel, inputs: EmbeddingInputs) -> None:
        """Raises BundleError where the graphs are not those that the manifest describes."""
        needed = {LENGTHS, "logits_rows", EmbeddingInputs.NAME}
        self.shape = _cache_shape(processor, text, needed, set())
        if _cache_shape(iterator, text, needed, set()) != self.shape:
            raise BundleError(f"{iterator.path}: another cache than that of {processor.path.name}; export again")
        window, capacity = processor.inputs[EmbeddingInputs.NAME].shape[1], _capacity(processor)
        if not isinstance(window, int) or not isinstance(capacity, int) or capacity != _capacity(iterator):
            raise BundleError(f"{processor.path}: a window of {window} and a cache of {capacity}; export again")
        self.widest = window
        self.capacity: int | None = capacity
        self._inputs = inputs
        self._processor = processor
        self._wide = _FixedGraph(processor, window, text)
        self._single = _FixedGraph(iterator, 1, text)

    def place(self, array: np.ndarray) -> Placed:
        """Where the graphs compute: both on one device."""
        return self._processor.place(array)

    def bind_cache(self, index: int, placed: Placed) -> None:
        """In place, for both graphs."""
        for graph in (self._wide, self._single):
            _bind_cache(graph.binding, index, placed)

    def run(
        self, cache: KeyValueCache, part: tuple[Position, ...], rows: np.ndarray, logits: np.ndarray,
        interrupt: Interrupt,
    ) -> None:
        """A window in one run if logits are wanted behind one position at most, else position by position."""
        vectors, start = self._inputs.vectors(part), len(cache)
        wanted = [int(row) % len(part) for row in rows]
        if 1 < len(part) <= self.widest <= cache.capacity - start and len(wanted) <= 1:
            self._wide.run(vectors, start, wanted[0] if wanted else 0, interrupt)
            logits[:, : len(wanted)] = self._wide.logits[:, : len(wanted)]
            return
        for index in range(len(part)):
            self._single.run(vectors[:, index : index + 1], start + index, 0, interrupt)
            if index in wanted:
                logits[:, wanted.index(index)] = self._single.logits[:, 0]

    def release(self) -> None:
        """The graphs are of no use afterwards."""
        self._wide.binding.release()
        self._single.binding.release()


class _FixedGraph:
    """One graph with everything but the cache bound to buffers of its own."""

    def __init__(self, graph: Graph, window: int, text: TextModel) -> None:
        self.binding = graph.bind()
        self.logits = np.empty((1, 1, text.vocab_size), graph.outputs["logits"].dtype)
        self._window = window
        self._vectors = np.zeros((1, window, text.hidden_size), graph.inputs[EmbeddingInputs.NAME].dtype)
        self._lengths = np.zeros(1, np.int32)
        self._row = np.zeros(1, np.int32)
        self.binding.bind_input(EmbeddingInputs.NAME, self._vectors)
        self.binding.bind_input(LENGTHS, self._lengths)
        self.binding.bind_input("logits_rows", self._row)
        self.binding.bind_output("logits", self.logits)

    def run(self, vectors: np.ndarray, start: int, row: int, interrupt: Interrupt) -> None:
        """Vectors (1, n, hidden), n at most the window, behind `start` positions; logits behind `row` of them."""
        count = vectors.shape[1]
        self._vectors[:, :count] = vectors
        self._vectors[:, count:] = 0
        self._lengths[0] = start + self._window - 1  # the operator counts the padding, too, minus one
        self._row[0] = row
        self.binding.run(interrupt)


def _bind_cache(binding: Binding, index: int, placed: Placed) -> None:
    name = f"{index // 2}.{'value' if index % 2 else 'key'}"
    binding.bind_in_place(f"past_key_values.{name}", f"present.{name}", placed)


def _capacity(graph: Graph) -> int | str:
    return graph.inputs["past_key_values.0.key"].shape[2]


def _cache_shape(graph: Graph, text: TextModel, required: set[str], optional: set[str]) -> CacheShape:
    """Check the graph's inputs and outputs against the manifest."""
    names = [f"{layer}.{kind}" for layer in range(text.layers) for kind in ("key", "value")]
    missing = [
        *sorted((required | {f"past_key_values.{name}" for name in names}) - graph.inputs.keys()),
        *sorted(optional - graph.optional.keys()),
        *sorted({"logits", *(f"present.{name}" for name in names)} - graph.outputs.keys()),
    ]
    if missing:
        raise BundleError(
            f"{graph.path}: {', '.join(missing[:6])} missing among the inputs and outputs; export the checkpoint again"
        )
    past = graph.inputs["past_key_values.0.key"]
    wanted = (text.kv_heads, text.head_dim)
    if (past.shape[1], past.shape[3]) != wanted or graph.outputs["logits"].shape[-1] != text.vocab_size:
        raise BundleError(
            f"{graph.path}: keys are {past.shape} and logits {graph.outputs['logits'].shape}, the manifest says"
            f" {wanted[0]} heads of {wanted[1]} and a vocabulary of {text.vocab_size}; export the checkpoint again"
        )
    return CacheShape(text.layers, text.kv_heads, text.head_dim, past.dtype)
