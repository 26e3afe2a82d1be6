"""Conversations as users of the chat page have them: asked, read, stopped, tried again and waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgephi
from edgephi import NonFiniteLogits
from edgephi.demo import showcase

from ..conftest import Live, last, script, spoken, wait_until
from .conftest import PROBLEM, Open, answered, ask, browser_needed, greedy

pytestmark = browser_needed
FIGURES = ".figures div"


def test_a_conversation_is_typed_and_its_streamed_answers_read(both: Live, demo_bundle: Path, open_page: Open) -> None:
    first, second = (str(each.turns[-1]["content"]) for each in showcase.examples(5)[:2])
    page = open_page(both)
    assert page.locator("#model").input_value() == "demo"
    greedy(page)
    with edgephi.load(demo_bundle, threads=1, context=4096) as session:
        turns: list[Any] = []
        for number, question in enumerate((first, second), 1):
            ask(page, question)
            turns.append({"role": "user", "content": question})
            expected = session.chat(turns, temperature=0).text
            assert answered(page, number).split() == expected.split()
            turns.append({"role": "assistant", "content": expected})
    figures = [figure.split() for figure in page.locator(".turn.answer").last.locator(FIGURES).all_inner_texts()]
    (tokens, count), (speed, rate), (*first, seconds, _), device = figures
    assert (tokens, speed, first, device) == ("tokens", "tokens/s", ["to", "first", "token"], ["cpu"])
    assert int(count) > 1 and float(rate) > 0 and float(seconds) > 0
    assert page.inner_text("#device") == "cpu" and page.inner_text("#state") == "ready"
    assert page.get_attribute("#log", "aria-busy") == "false"


@pytest.mark.parametrize("way", ["click", "Escape", "new chat"])
def test_an_answer_is_stopped(start: Callable[..., Live], open_page: Open, way: str) -> None:
    engine = script(*spoken("Once ", "upon ", "a ", "time"), last(), gate=threading.Event())
    page = open_page(start(engine))
    ask(page, "Tell me a story.")
    page.wait_for_selector("#stop")
    page.get_by_text("Once").wait_for()
    if way == "new chat":
        page.click("#new-chat")
        page.wait_for_selector("#welcome")
        assert page.locator(".turn").count() == 0
    else:
        page.click("#stop") if way == "click" else page.keyboard.press("Escape")
        assert answered(page) == "Once"
        assert page.inner_text(".note") == "Stopped."
        assert page.locator(FIGURES).first.inner_text().split() == ["token", "≈", "1"]
    wait_until(engine.cancelled.is_set)
    page.wait_for_selector("#send")
    assert engine.gate is not None
    engine.gate.set()
    ask(page, "Go on.")
    assert answered(page, 1 if way == "new chat" else 2) == "Once upon a time"
    roles = [message["role"] for message in engine.asked[-1][0]]
    assert roles == (["user"] if way == "new chat" else ["user", "assistant", "user"])


def test_thoughts_are_folded_away_until_they_are_opened(start: Callable[..., Live], open_page: Open) -> None:
    engine = script(*spoken("Hm, ", "hm.", kind="thinking"), *spoken("Yes."), last())
    page = open_page(start(engine))
    ask(page, "Is it so?")
    assert answered(page) == "Yes."
    assert not page.is_visible(".thought-text")
    page.focus(".thought summary")
    assert "Thought for" in page.inner_text(".thought summary")
    page.keyboard.press("Enter")
    assert page.inner_text(".thought-text") == "Hm, hm."
    ask(page, "And now?")
    answered(page, 2)
    assert engine.asked[1][0][1]["content"] == "Yes."


def test_an_answer_that_broke_off_is_tried_again(start: Callable[..., Live], open_page: Open) -> None:
    engine = script(*spoken("Once ", "upon"), error=NonFiniteLogits("the model gave NaN"))
    page = open_page(start(engine))
    ask(page, "Tell me a story.")
    page.wait_for_selector(PROBLEM)
    assert "broke off" in page.inner_text(PROBLEM) and "NaN" in page.inner_text(PROBLEM)
    assert answered(page) == "Once upon" and page.input_value("#prompt") == ""
    engine.pieces, engine.error = [*spoken("Once ", "upon ", "a ", "time."), last()], None
    page.click(".again")
    page.get_by_text("Once upon a time.").wait_for()
    assert page.locator(".turn.answer").count() == 1 and page.locator(PROBLEM).count() == 0
    assert [message["role"] for message in engine.asked[-1][0]] == ["user"]
    ask(page, "Go on.")
    answered(page, 2)
    assert [again.is_visible() for again in page.locator(".again").all()] == [False, True]


def test_a_full_queue_is_waited_for(start: Callable[..., Live], open_page: Open) -> None:
    engine = script(*spoken("a", "b"), last(), gate=threading.Event())
    live = start(engine, places=1)
    worker = live.models.find("tiny").worker
    body = {"messages": [{"role": "user", "content": "x"}]}
    threads = [threading.Thread(target=live.post, args=("/v1/chat/completions", body)) for _ in range(2)]
    for thread in threads:
        thread.start()
        wait_until(lambda: worker.busy)
    wait_until(lambda: worker.waiting == 1)
    page = open_page(live)
    ask(page, "Is it my turn?")
    page.get_by_text("The server is busy").wait_for()
    assert engine.gate is not None
    engine.gate.set()
    assert answered(page) == "ab"
    for thread in threads:
        thread.join()
