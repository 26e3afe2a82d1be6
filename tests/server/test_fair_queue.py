"""Whose turn it is: against a model of the queue that keeps everything in one list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.server.fair_queue import FairQueue


def test_clients_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(20)
    for client, count in (("a", 4), ("b", 2), ("c", 1)):
        for number in range(count):
            assert queue.put(client, f"{client}{number}")
    order = [queue.take() for _ in range(7)]
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert queue.take() is None


def test_one_client_cannot_take_all_places() -> None:
    queue: FairQueue[int] = FairQueue(4)
    assert [queue.put("greedy", number) for number in range(4)] == [True, True, False, False]
    assert [queue.put(client, 0) for client in ("b", "c", "d")] == [True, True, False]
    assert len(queue) == 4


def test_one_place_is_for_anybody() -> None:
    queue: FairQueue[int] = FairQueue(1)
    assert queue.put("a", 1) and not queue.put("b", 2)


@given(st.lists(st.tuples(st.sampled_from("put take remove".split()), st.integers(0, 3)), max_size=60))
def test_nothing_is_lost_and_each_client_keeps_its_order(steps: list[tuple[str, int]]) -> None:
    queue: FairQueue[int] = FairQueue(8)
    waiting: list[tuple[str, int]] = []
    for number, (step, client) in enumerate(steps):
        name = f"client {client}"
        if step == "put":
            fits = len(waiting) < 8 and sum(its == name for its, _ in waiting) < 4
            assert queue.put(name, number) == fits
            waiting += [(name, number)] * fits
        elif step == "take":
            taken = queue.take()
            if taken is None:
                assert not waiting
            else:
                owner = next(its for its, item in waiting if item == taken)
                assert taken == next(item for its, item in waiting if its == owner), "its own order"
                waiting.remove((owner, taken))
        else:
            mine = [item for its, item in waiting if its == name]
            assert queue.remove(name, mine[-1] if mine else -1) == bool(mine)
            waiting = [pair for pair in waiting if pair != (name, mine[-1])] if mine else waiting
        assert len(queue) == len(waiting)
    assert sorted(queue.drain()) == sorted(item for _, item in waiting)
    assert len(queue) == 0
