"""Arrays in memory: the bound holds, the order of use decides, and threads get whole arrays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.array_files import ArrayFiles
from edgephi.runtime.array_store import ArrayStore


def _key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@given(st.lists(st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 6)), max_size=60), st.integers(0, 500))
def test_it_holds_what_was_used_last(calls: list[tuple[str, int]], limit: int) -> None:
    store, model = ArrayStore(limit), OrderedDict[int, int]()
    for call, number in calls:
        size = 40 * (number + 1)
        if call == "put":
            store.put(_key(number), lambda size=size: np.zeros(size, np.uint8))  # type: ignore[misc]
            if number in model or size <= limit:
                model[number] = size
                model.move_to_end(number)
            while sum(model.values()) > limit:
                model.popitem(last=False)
        else:
            assert (store.get(_key(number)) is not None) == (number in model)
            if number in model:
                model.move_to_end(number)
        assert store.size == sum(model.values()) <= limit


def test_what_is_given_out_is_never_written() -> None:
    store = ArrayStore(1000)
    store.put(_key(1), lambda: np.zeros(10, np.uint8))
    found = store.get(_key(1))
    assert found is not None and not found.flags.writeable


def test_nothing_is_made_twice_and_what_finds_no_memory_is_left() -> None:
    store, made = ArrayStore(1000), list[int]()

    def make() -> np.ndarray:
        made.append(1)
        return np.zeros(10, np.uint8)

    def fail() -> np.ndarray:
        raise MemoryError

    store.put(_key(1), make)
    store.put(_key(1), make)
    assert made == [1]
    store.put(_key(2), fail)
    assert store.size == 0


def test_what_was_evicted_comes_from_disk(tmp_path: Path) -> None:
    store = ArrayStore(100, ArrayFiles(tmp_path, 1 << 20))
    for number in range(5):
        store.put(_key(number), lambda number=number: np.full(60, number, np.uint8))  # type: ignore[misc]
    store.flush()
    store.clear()
    for number in range(5):
        found = store.get(_key(number))
        assert found is not None and (found == number).all()
    assert store.size <= 100
    store.put(_key(9), lambda: np.zeros(10, np.uint8))  # the writer begins again after a flush
    store.flush()
    assert ArrayFiles(tmp_path, 1 << 20).read(_key(9)) is not None


def test_threads_share_it(tmp_path: Path) -> None:
    store, wrong = ArrayStore(20_000, ArrayFiles(tmp_path, 1 << 20)), list[int]()

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 40, 300).tolist():
            store.put(_key(number), lambda number=number: np.full(1000, number, np.uint8))  # type: ignore[misc]
            found = store.get(_key(number))
            if found is not None and not (found == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    assert not wrong and store.size <= 20_000
    assert not [thread for thread in threading.enumerate() if thread.name == "edgephi-prefix-cache"]
