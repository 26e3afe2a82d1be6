"""One sequence on one graph: positions in, logits out.

Boundary: never sees text. A sequence is a list of positions (see cache.py); how they become inputs of the graph is the
business of inputs.py, what is chosen from the logits that of generation.py. Every function leaves the cache consistent,
also when it is interrupted or fails: then it holds the part of the sequence that was computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .cache import KeyValueCache, Position, Regime, Snapshot
from .errors import NonFiniteLogits, RequestError
from .graphs import Graph, Interrupt
from .inputs import TextInputs
from .manifest import TextModel
from .prefix_cache import Prefixes
from .rotary import RotaryTables
from .stepping import FreeSteps, Steps

CHUNK = 512  # positions a step of prefill: full speed, and a cancelled prefill ends soon
FEWEST = 32  # positions a step: fewer waste the matrix kernels
SCORE_BYTES = 256 << 20  # attention scores of one step: a long conversation takes smaller steps, not more memory
LOGIT_BYTES = 64 << 20  # logits of one step, where all of them are asked for
LAST_ROW, NO_ROWS = np.array([-1], np.int64), np.array([], np.int64)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Work:
    """What one advance of a sequence did. Counts are positions, `seconds` is wall time.

    `reused` came from the cache, `computed` went through the model; `recomputed` of these had been cached already,
    under another regime: a sequence that crosses the original length of a LongRoPE model is turned with another
    table.
    """

    reused: int
    computed: int
    recomputed: int
    seconds: float

    def then(self, later: Work) -> Work:
        """Both as one, where `later` found in the cache what this one did."""
        computed = later.reused - self.reused + later.computed
        return Work(self.reused, computed, self.recomputed + later.recomputed, self.seconds + later.seconds)


class Decoder:
    """One sequence on one text graph. Not for two threads at once; an `Interrupt` may come from any thread."""

    def __init__(
        self, graph: Graph, text: TextModel, tables: RotaryTables, inputs: TextInputs,
        chunk: int = CHUNK, prefixes: Prefixes | None = None, steps: Steps | None = None,
    ) -> None:
        """`steps`: how positions go through graphs, by default through `graph` as it is.

        Raises BundleError where the graph is not the one that the manifest describes.
        """
        self._text = text
        self._tables = tables
        self._inputs = inputs
        self._prefixes = prefixes
        self._steps = steps or FreeSteps(graph, text, tables, inputs, chunk)
        self._chunk = min(chunk, self._steps.widest)
        self._stepping = threading.Lock()
        self._tuned: str | None = None
        self._logits_dtype = graph.outputs["logits"].dtype
        self._last = np.empty((1, 1, text.vocab_size), self._logits_dtype)
        self._none = np.empty((1, 0, text.vocab_size), self._logits_dtype)
        self._cache = self._new_cache()

    @property
    def context(self) -> int:
        """The longest sequence in positions."""
        return self._tables.context

    @property
    def cache(self) -> KeyValueCache:
        """Keys and values of the sequence so far."""
        return self._cache

    def select_adapter(self, name: str | None) -> None:
        """The adapter of the bundle that the next sequences are computed with, None for none."""
        self._tuned = name

    def advance(
        self, sequence: Sequence[Position], interrupt: Interrupt, progress: Progress | None = None
    ) -> tuple[np.ndarray, Work]:
        """Make `sequence` the current one and return the logits (vocab,) behind its last position.

        What the cache or an earlier sequence shares with it is not computed again, unless the length asks for another
        rotary table. The array is valid until the next call. Raises ContextOverflow before any work, NonFiniteLogits,
        Interrupted.
        """
        if not sequence:
            raise RequestError("the prompt is empty; a model continues at least one token: give some text")
        work = self._read(sequence, len(sequence), interrupt, progress)
        if self._prefixes is not None:
            with self._stepping:
                self._prefixes.share(self._cache)
        return self._last[0, 0], work

    def read_ahead(self, sequence: Sequence[Position], count: int, interrupt: Interrupt) -> Work:
        """Compute the first `count` positions of a sequence whose rest may still be on its way: an `advance` follows.

        Raises what `advance` raises.
        """
        return self._read(sequence, count, interrupt, None)

    def append(
        self, position: Position, interrupt: Interrupt, progress: Progress | None = None
    ) -> tuple[np.ndarray, Work]:
        """`advance` by one position, without a look at those before it."""
        started = time.perf_counter()
        interrupt.check()
        if self._cache.regime is None or self._tables.limit_for(len(self._cache) + 1) != self._cache.regime.rotary:
            return self.advance([*self._cache.positions, position], interrupt, progress)
        self._step((position,), LAST_ROW, self._last, interrupt)
        self._require_finite(self._last, len(self._cache))
        self._cache.commit((position,))
        return self._last[0, 0], Work(len(self._cache) - 1, 1, 0, time.perf_counter() - started)

    @property
    def room(self) -> int:
        """How many positions a step may try, at most `chunk`: until the context ends or another rotary table is needed.

        0 where a step over several positions costs as much as a step for each.
        """
        regime = self._cache.regime
        if regime is None or not self._steps.guesses:
            return 0
        return min(self._chunk, min(regime.rotary, self.context) - len(self._cache))

    def extend(self, positions: Sequence[Position], interrupt: Interrupt) -> tuple[np.ndarray, Work]:
        """`append` of several positions, at most `room` of them; logits (positions, vocab) behind each."""
        started = time.perf_counter()
        before = len(self._cache)
        logits = np.empty((1, len(positions), self._text.vocab_size), self._logits_dtype)
        self._step(positions, np.arange(len(positions)), logits, interrupt)
        self._require_finite(logits, before)
        self._cache.commit(positions)
        return logits[0], Work(before, len(positions), 0, time.perf_counter() - started)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions of the current sequence."""
        self._cache.rewind(length)

    def logits(
        self, sequence: Sequence[Position], interrupt: Interrupt, progress: Progress | None = None
    ) -> np.ndarray:
        """Logits behind every position, float32 (positions, vocab); the current sequence stays as it is."""
        kept, self._cache = self._cache, self._new_cache()
        try:
            return self._all_logits(sequence, interrupt, progress)
        finally:
            self._cache = kept
            self._cache.bind()

    def snapshot(self) -> Snapshot:
        """The state of the current sequence."""
        return self._cache.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state of a decoder over the same graph. Raises RequestError for one of another shape."""
        self._cache.restore(snapshot)

    def clear(self) -> None:
        """Forget the sequence, and what the prefix cache keeps of it and of those before; gives memory back."""
        if self._prefixes is not None:
            self._prefixes.forget(self._cache)
        self._cache.clear()

    def close(self) -> None:
        """Give all memory back, after the step in progress; callers request the end of it first."""
        with self._stepping:
            if self._prefixes is not None:
                self._prefixes.share(self._cache)
            self._steps.release()
            self._cache.release()

    def _all_logits(self, sequence: Sequence[Position], interrupt: Interrupt, progress: Progress | None) -> np.ndarray:
        interrupt.check()
        self._cache.enter(self._regime(sequence))
        try:
            logits = np.empty((len(sequence), self._text.vocab_size), self._logits_dtype)
        except MemoryError as error:
            raise RequestError(
                f"logits of {len(sequence)} positions over {self._text.vocab_size} tokens need more memory than"
                " the system gives: ask for fewer positions"
            ) from error
        size = max(1, min(self._chunk, LOGIT_BYTES // logits[:1].nbytes)) if len(sequence) else 1
        for start in range(0, len(sequence), size):
            part = sequence[start : start + size]
            self._step(part, np.arange(len(part)), logits[None, start : start + len(part)], interrupt)
            self._cache.commit(part)
            if progress is not None:
                progress("logits", start + len(part), len(sequence))
        self._require_finite(logits, 0)
        return logits.astype(np.float32, copy=False)

    def _read(
        self, sequence: Sequence[Position], count: int, interrupt: Interrupt, progress: Progress | None
    ) -> Work:
        """Make the cache hold at least the first `count` positions of `sequence`, the last of all computed anew."""
        started = time.perf_counter()
        interrupt.check()
        regime = self._regime(sequence)
        shared = self._cache.shared_prefix(sequence)
        with self._stepping:
            interrupt.check()
            if self._prefixes is not None:
                self._prefixes.save(self._cache, shared if self._cache.regime == regime else 0)
            lost = self._cache.enter(regime)
            self._cache.rewind(0 if lost else min(shared, len(sequence) - 1))
            if self._prefixes is not None:
                self._prefixes.fetch(self._cache, sequence[:-1], interrupt)
        reused = len(self._cache)
        stage = "prefill again" if lost else "prefill"
        if reused < count:
            self._feed(
                sequence[reused:count], interrupt,
                None if progress is None else _from(progress, stage, reused, len(sequence)),
            )
        recomputed = max(0, shared - reused) if lost else 0
        return Work(reused, max(0, count - reused), recomputed, time.perf_counter() - started)

    def _feed(
        self, positions: Sequence[Position], interrupt: Interrupt, progress: Callable[[int], None] | None
    ) -> None:
        """Run new positions through the model in chunks; leaves the logits of the last one in `_last`."""
        before, start = len(self._cache), 0
        while start < len(positions):
            fitting = positions_at_once(self._text.heads, before + start + self._chunk)
            part = positions[start : start + min(self._chunk, fitting)]
            is_last = start + len(part) == len(positions)
            self._step(part, *((LAST_ROW, self._last) if is_last else (NO_ROWS, self._none)), interrupt)
            self._cache.commit(part)
            start += len(part)
            if progress is not None:
                progress(len(self._cache))
        try:
            self._require_finite(self._last, before)
        except NonFiniteLogits:
            self._cache.rewind(before)  # whichever of the new positions it was, none of them is kept
            raise

    def _step(self, part: Sequence[Position], rows: np.ndarray, logits: np.ndarray, interrupt: Interrupt) -> None:
        """Compute the positions behind the cached ones."""
        with self._stepping:
            interrupt.check()
            self._cache.reserve(len(self._cache) + len(part))
            self._steps.run(self._cache, tuple(part), rows, logits, interrupt)

    def _regime(self, sequence: Sequence[Position]) -> Regime:
        return Regime(self._tables.limit_for(len(sequence)), self._inputs.adapter(sequence), self._tuned)

    def _new_cache(self) -> KeyValueCache:
        return KeyValueCache(self._steps.shape, self._steps.place, self._steps.bind_cache, self._steps.capacity)

    def _require_finite(self, logits: np.ndarray, position: int) -> None:
        with np.errstate(all="ignore"):
            # one pass: NaN and infinity survive a sum
            finite = bool(np.isfinite(logits.sum(dtype=np.float32)))
        if not finite:
            raise NonFiniteLogits(
                f"the model gave NaN or infinity from position {position} on; the conversation up to there is kept:"
                " ask again, and run `edgephi verify` if it comes back"
            )


def positions_at_once(heads: int, total: int) -> int:
    """The most positions of one step where scores are float32 (heads, positions, total): FEWEST to CHUNK."""
    return max(FEWEST, min(CHUNK, SCORE_BYTES // (4 * heads * total)))


def _from(progress: Progress, stage: str, start: int, total: int) -> Callable[[int], None]:
    """Count from the first position that is computed."""
    return lambda done: progress(stage, done - start, total - start)
