"""The key/value cache alone: what is valid stays valid, whatever it grows, rewinds, forgets or returns to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi import ContextOverflow, RequestError
from edgephi.runtime.cache import BLOCK, CacheShape, KeyValueCache, Regime
from edgephi.runtime.graphs import Placed

SHAPE = CacheShape(layers=2, kv_heads=3, head_dim=4, dtype=np.dtype(np.float32))
SHORT, LONG = Regime(4096), Regime(16384)


def on_host(array: np.ndarray) -> Placed:
    return Placed(array, None)


class Distant:
    """Stands for memory of a device: what is read is a copy, what is changed must be written back."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array.copy()

    def read(self) -> np.ndarray:
        return self._array.copy()

    def write(self, array: np.ndarray) -> None:
        self._array[...] = array


PLACES = pytest.mark.parametrize("place", [on_host, Distant], ids=["host", "device"])


class Graph:
    """Stands for a graph that writes keys and values behind the valid ones; a position's values are its hash."""

    def __init__(self, place: Callable[[np.ndarray], Any] = on_host) -> None:
        self.held: dict[int, Any] = {}
        self.cache = KeyValueCache(SHAPE, place, self.held.__setitem__)

    def feed(self, positions: Sequence[Hashable]) -> None:
        start = len(self.cache)
        self.cache.reserve(start + len(positions))
        for index, held in self.held.items():
            array = held.read()
            for offset, position in enumerate(positions):
                array[:, :, start + offset] = hash(position) + 1000 * index
            held.write(array)
        self.cache.commit(positions)

    def assert_holds(self, positions: Sequence[Hashable]) -> None:
        assert list(self.cache.positions) == list(positions)
        assert len(self.held) == 2 * SHAPE.layers
        for index, held in self.held.items():
            array = held.read()
            assert array.shape == (1, SHAPE.kv_heads, self.cache.capacity, SHAPE.head_dim) and array.flags.c_contiguous
            wanted = np.array([hash(position) + 1000 * index for position in positions], np.float32)
            assert (array[0, :, : len(positions)] == wanted[:, None]).all()


@PLACES
def test_it_starts_with_one_block_and_grows_with_the_sequence(place: Callable[[np.ndarray], Any]) -> None:
    graph = Graph(place)
    assert graph.cache.capacity == BLOCK
    graph.feed(range(BLOCK))
    assert graph.cache.capacity == BLOCK
    graph.feed([7])
    assert graph.cache.capacity == 2 * BLOCK
    graph.assert_holds([*range(BLOCK), 7])
    assert SHAPE.bytes_per_position == 2 * 2 * 3 * 4 * 4


def test_growth_is_bounded_and_copies_seldom() -> None:
    graph = Graph()
    capacities = set()
    for position in range(20 * BLOCK):
        graph.feed([position])
        capacities.add(graph.cache.capacity)
        # never more than a quarter and a block above what is used
        assert graph.cache.capacity <= len(graph.cache) * 5 / 4 + BLOCK
    assert len(capacities) < 14
    graph.assert_holds(range(20 * BLOCK))


def test_shared_prefix() -> None:
    graph = Graph()
    graph.feed([1, 2, 3, ("picture", 0), ("picture", 1)])
    shared = graph.cache.shared_prefix
    assert shared([]) == 0 and shared([9]) == 0 and shared([1, 2]) == 2
    assert shared([1, 2, 3, ("picture", 0), ("picture", 1), 4]) == 5
    assert shared([1, 2, 3, ("other", 0), ("picture", 1)]) == 3


def test_another_regime_forgets_and_the_same_does_not() -> None:
    graph = Graph()
    assert graph.cache.enter(SHORT) == 0
    graph.feed(range(5))
    assert graph.cache.enter(SHORT) == 0
    graph.assert_holds(range(5))
    assert graph.cache.enter(LONG) == 5
    assert len(graph.cache) == 0 and graph.cache.regime == LONG


@PLACES
def test_a_snapshot_is_not_reached_by_what_follows(place: Callable[[np.ndarray], Any]) -> None:
    graph, other = Graph(place), Graph(place)
    graph.cache.enter(LONG)
    graph.feed(range(300))
    kept = graph.cache.snapshot()
    graph.cache.rewind(10)
    graph.feed([77] * 500)
    graph.cache.enter(SHORT)
    for target in (graph, other):
        target.cache.restore(kept)
        target.assert_holds(range(300))
        assert target.cache.regime == LONG
        target.feed([5])
        target.assert_holds([*range(300), 5])
    assert len(kept.positions) == 300
    strange = KeyValueCache(dataclasses.replace(SHAPE, head_dim=8), on_host, lambda index, held: None)
    with pytest.raises(RequestError, match="the snapshot is of CacheShape"):
        strange.restore(kept)


def test_clearing_gives_the_memory_back() -> None:
    graph = Graph()
    graph.feed(range(3000))
    graph.cache.clear()
    assert graph.cache.capacity == BLOCK and graph.cache.regime is None
    graph.assert_holds([])


def test_no_memory_is_an_error_that_keeps_what_is_there() -> None:
    graph = Graph()
    graph.feed(range(20))
    with pytest.raises(ContextOverflow, match=r"tokens need \d+ MiB of keys and values, more than the system gives"):
        graph.cache.reserve(1 << 52)
    graph.assert_holds(range(20))
    graph.feed(range(20, 2000))
    graph.assert_holds(range(2000))


STEPS = st.one_of(
    st.tuples(st.just("feed"), st.integers(1, 400)), st.tuples(st.just("rewind"), st.integers(0, 1200)),
    st.tuples(st.just("enter"), st.sampled_from([4096, 16384])), st.tuples(st.just("keep"), st.just(0)),
    st.tuples(st.just("return"), st.just(0)), st.tuples(st.just("clear"), st.just(0)),
)


@PLACES
@settings(max_examples=40, deadline=None, derandomize=True)
@given(steps=st.lists(STEPS, max_size=25))
def test_any_sequence_of_operations_keeps_what_is_valid(
    place: Callable[[np.ndarray], Any], steps: list[tuple[str, int]]
) -> None:
    graph, held = Graph(place), list[int]()
    graph.cache.enter(SHORT)
    kept, kept_held = graph.cache.snapshot(), list[int]()
    for number, (step, amount) in enumerate(steps):
        if step == "feed":
            graph.feed(range(number, number + amount))
            held += range(number, number + amount)
        elif step == "rewind":
            graph.cache.rewind(amount)
            held = held[:amount]
        elif step == "enter":
            held = held if graph.cache.regime in (None, Regime(amount)) else []
            graph.cache.enter(Regime(amount))
        elif step == "keep":
            kept, kept_held = graph.cache.snapshot(), list(held)
        elif step == "return":
            graph.cache.restore(kept)
            held = list(kept_held)
        else:
            graph.cache.clear()
            held = []
        graph.assert_holds(held)


@PLACES
def test_what_was_copied_out_is_taken_in_again(place: Callable[[np.ndarray], Any]) -> None:
    graph, other = Graph(place), Graph(place)
    graph.feed(range(300))
    kept = graph.cache.copy(0, 300)
    other.cache.append(kept[:, :, :280], range(280))
    other.cache.append(kept[:, :, 280:], range(280, 300))
    other.assert_holds(range(300))
