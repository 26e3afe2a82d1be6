"""Keys and values of the positions that a model has seen: grows with the conversation, rewinds exactly.

Boundary: memory and positions; runs no graph. The arrays lie where the graph computes, are bound to it as past and
present at once and written by it in place; what lies beyond `len(positions)` is scrap. Growing replaces arrays, so the
caller gives functions that place and bind the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ContextOverflow, RequestError
from .graphs import Placed

BLOCK = 256
_GROWTH = (
    4  # a quarter more than needed, so that copying costs a constant time per token; untouched pages cost no memory
)

# One place of a sequence: a token id, or what tells a row of a picture or recording from all others. Where two
# sequences agree on it, the same regime gives the same keys and values.
Position = Hashable

Place = Callable[[np.ndarray], Placed]
Bind = Callable[[int, Placed], None]


@dataclass(frozen=True)
class CacheShape:
    """Layers, heads and dtype of the keys and values."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: np.dtype[Any]

    @property
    def bytes_per_position(self) -> int:
        """Memory of one position over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True)
class Regime:
    """Everything besides the positions that keys and values depend on.

    `rotary`: the limit of the rotary table that turned them. `adapter`: the decoder's adapter for media that was on, or
    None. `tuned`: the adapter that was added to the bundle and was on, or None.
    """

    rotary: int
    adapter: str | None = None
    tuned: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A copy of a cache: arrays (1, kv_heads, positions, head_dim), key and value of each layer in turn."""

    shape: CacheShape
    regime: Regime | None
    positions: tuple[Position, ...]
    arrays: tuple[np.ndarray, ...]


class KeyValueCache:
    """The cache of one sequence. `positions` are those whose keys and values are valid under `regime`."""

    def __init__(self, shape: CacheShape, place: Place, bind: Bind, fixed: int | None = None) -> None:
        """`place(array)` puts a new array where the graph computes; `bind(index, placed)` is called with each; index
        2·layer is the key of a layer, 2·layer + 1 its value. `fixed`: the capacity from the first position to the last,
        for graphs whose shapes cannot change.
        """
        self.shape = shape
        self.regime: Regime | None = None
        self.kept = 0  # so many of the first positions are kept elsewhere, too
        self._place = place
        self._bind = bind
        self._positions: list[Position] = []
        self._arrays: list[Placed] = []
        self._capacity = 0
        self._fixed = fixed
        self._resize(fixed or BLOCK)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def positions(self) -> Sequence[Position]:
        """The positions whose keys and values are valid; not to be changed by the caller."""
        return self._positions

    @property
    def capacity(self) -> int:
        """How many positions fit before the next growth."""
        return self._capacity

    def shared_prefix(self, positions: Sequence[Position]) -> int:
        """How many leading positions of `positions` are cached already."""
        mine, length = self._positions, min(len(self._positions), len(positions))
        if list(positions[:length]) == mine[:length]:
            return length
        return next(index for index in range(length) if mine[index] != positions[index])

    def commit(self, positions: Iterable[Position]) -> None:
        """Declare the keys and values behind the valid ones to be those of `positions`."""
        self._positions.extend(positions)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        del self._positions[length:]
        self.kept = min(self.kept, len(self))

    def enter(self, regime: Regime) -> int:
        """Make `regime` the current one; where it was another, everything is forgotten. Returns how many positions
        were.
        """
        lost = len(self) if self.regime not in (None, regime) else 0
        if lost:
            self.rewind(0)
        self.regime = regime
        return lost

    def reserve(self, length: int) -> None:
        """Make room for `length` positions. Raises ContextOverflow where the system has no memory; what was cached
        stays.
        """
        if length <= self._capacity:
            return
        if self._fixed is not None:
            raise ContextOverflow(
                f"{length} tokens do not fit into the {self._fixed} that the graphs were made for: shorten the"
                " conversation or export with a larger --context"
            )
        capacity = grown(self._capacity, length)
        try:
            self._resize(capacity)
        except MemoryError as error:
            needed = capacity * self.shape.bytes_per_position >> 20
            raise ContextOverflow(
                f"{length} tokens need {needed} MiB of keys and values, more than the system gives:"
                " shorten the conversation or free memory"
            ) from error

    def bind(self) -> None:
        """Bind every array again, after another cache was bound."""
        for index, held in enumerate(self._arrays):
            self._bind(index, held)

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self.rewind(0)
        self.regime = None
        self._resize(self._fixed or BLOCK)

    def release(self) -> None:
        """Drop all arrays; the cache is of no use afterwards."""
        self.rewind(0)
        self._arrays.clear()
        self._capacity = 0

    def copy(self, start: int, stop: int) -> np.ndarray:
        """Keys and values of some valid positions, (2·layers, kv_heads, stop - start, head_dim)."""
        return np.concatenate([held.read()[:, :, start:stop] for held in self._arrays])

    def append(self, values: np.ndarray, positions: Sequence[Position]) -> None:
        """Take what `copy` gave as the keys and values of the `positions` behind the valid ones."""
        start, stop = len(self), len(self) + len(positions)
        self.reserve(stop)
        self._fill(start, values)
        self.commit(positions)

    def snapshot(self) -> Snapshot:
        """A copy that later changes do not reach."""
        arrays = tuple(held.read()[:, :, : len(self)].copy() for held in self._arrays)
        return Snapshot(self.shape, self.regime, tuple(self._positions), arrays)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to the state of `snapshot`. Raises RequestError where it is of another shape."""
        if snapshot.shape != self.shape:
            raise RequestError(f"the snapshot is of {snapshot.shape}, the model has {self.shape}: take another")
        self.rewind(0)
        self.reserve(len(snapshot.positions))
        self._fill(0, [kept[0] for kept in snapshot.arrays])
        self.regime = snapshot.regime
        self._positions = list(snapshot.positions)

    def _fill(self, start: int, values: Iterable[np.ndarray]) -> None:
        """Write (kv_heads, positions, head_dim) of each key and value from position `start` on."""
        for held, part in zip(self._arrays, values, strict=True):
            array = held.read()
            array[0, :, start : start + part.shape[1]] = part
            held.write(array)

    def _resize(self, capacity: int) -> None:
        """Replace array by array, so that only one of them is ever held twice; any of them may be larger than said."""
        shape = (1, self.shape.kv_heads, capacity, self.shape.head_dim)
        for index in range(2 * self.shape.layers):
            # an accelerator multiplies what it masks by zero, and chance memory may be NaN
            array = np.zeros(shape, self.shape.dtype)
            if index < len(self._arrays):
                if len(self):
                    array[:, :, : len(self)] = self._arrays[index].read()[:, :, : len(self)]
                self._arrays[index] = self._place(array)
            else:
                self._arrays.append(self._place(array))
            self._bind(index, self._arrays[index])
        self._capacity = capacity


def grown(capacity: int, length: int) -> int:
    """The capacity that follows `capacity` where room for `length` positions is needed."""
    return capacity if length <= capacity else -(-max(length, capacity + capacity // _GROWTH) // BLOCK) * BLOCK
