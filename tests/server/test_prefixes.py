"""Which conversations are kept, and which one is brought back, with a session that only writes down what is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from edgephi.runtime.server.prefixes import WORTH, Conversation, Shelf

TOKEN_BYTES = 10


class Recorder:
    """Stands for a session; a copy is known by its number."""

    def __init__(self) -> None:
        self.copies = 0
        self.restored: list[int] = []
        self.fails = False

    def snapshot(self) -> Any:
        if self.fails:
            raise MemoryError
        self.copies += 1
        arrays = (np.zeros(1000, np.uint8),)
        return SimpleNamespace(number=self.copies, snapshot=SimpleNamespace(arrays=arrays))

    def restore(self, kept: Any) -> None:
        self.restored.append(kept.number)


def _talk(*texts: str, tools: str = "") -> Conversation:
    messages = [{"role": "user" if number % 2 == 0 else "assistant", "content": text} for number, text in
                enumerate(texts)]
    return Conversation.of_messages(messages, [{"name": tools}] if tools else [], {})


def _long(word: str) -> str:
    return f"{word} " * WORTH


def _take_turns(shelf: Shelf, session: Recorder, *talks: Conversation) -> None:
    for talk in talks:
        shelf.prepare(session, talk)
        shelf.computed(100)


def test_a_conversation_alone_is_never_copied() -> None:
    shelf, session = Shelf(10**6, TOKEN_BYTES), Recorder()
    first = _long("first")
    _take_turns(shelf, session, _talk(first), _talk(first, "yes", "go on"), _talk(first, "yes", "go on", "so", "more"))
    assert (session.copies, session.restored, shelf.size) == (0, [], 0)


def test_two_conversations_in_turn_are_brought_back() -> None:
    shelf, session = Shelf(10**6, TOKEN_BYTES), Recorder()
    one, two = _long("one"), _long("two")
    _take_turns(shelf, session, _talk(one), _talk(two), _talk(one, "yes", "go on"), _talk(two, "yes", "go on"))
    assert session.restored == [1, 2]


def test_short_conversations_are_not_worth_a_copy() -> None:
    shelf, session = Shelf(10**6, TOKEN_BYTES), Recorder()
    _take_turns(shelf, session, _talk("hello"), _talk("good morning"), _talk("hello", "hi", "and?"))
    assert (session.copies, session.restored) == (0, [])


def test_the_budget_holds_and_the_oldest_goes() -> None:
    shelf, session = Shelf(2000, TOKEN_BYTES), Recorder()
    names = [_long(word) for word in ("one", "two", "three", "four")]
    _take_turns(shelf, session, *(_talk(name) for name in names))
    assert session.copies == 3
    assert shelf.size == 2000
    _take_turns(shelf, session, _talk(names[0], "yes", "go on"))
    assert session.restored == [], "the first one had to go"


def test_what_is_larger_than_the_budget_is_not_copied() -> None:
    for budget in (0, 900):
        shelf, session = Shelf(budget, TOKEN_BYTES), Recorder()
        _take_turns(shelf, session, _talk(_long("one")), _talk(_long("two")))
        assert session.copies == 0


def test_what_failed_before_it_was_computed_is_not_copied() -> None:
    shelf, session = Shelf(10**6, TOKEN_BYTES), Recorder()
    shelf.prepare(session, _talk(_long("one")))
    shelf.prepare(session, _talk(_long("two")))
    assert session.copies == 0


def test_a_copy_that_finds_no_memory_is_left() -> None:
    shelf, session = Shelf(10**6, TOKEN_BYTES), Recorder()
    _take_turns(shelf, session, _talk(_long("one")), _talk(_long("two")))
    session.fails = True
    _take_turns(shelf, session, _talk(_long("three")))
    assert shelf.size == 0


def test_conversations_are_the_same_up_to_where_they_differ() -> None:
    one, two = _long("one"), _long("two")
    whole = _talk(one, "yes", two)
    assert whole.shared(whole) == whole.size
    assert 0 < _talk(one, "yes", one).shared(whole) < whole.size
    assert _talk(two, "yes", two).shared(whole) < WORTH
    assert _talk(one, "yes", two, tools="weather").shared(whole) == 0


def test_media_and_raw_prompts_count_by_their_content() -> None:
    def shown(data: bytes) -> Conversation:
        return Conversation.of_messages([{"role": "user", "content": [{"type": "image", "image": data}]}], [], {})

    assert shown(b"a").shared(shown(b"a")) == shown(b"a").size
    assert shown(b"a").shared(shown(b"b")) < shown(b"a").size
    ids = list(range(1000))
    longer = Conversation.of_prompt([*ids, 5])
    assert 0 < Conversation.of_prompt(ids).shared(longer) < longer.size
