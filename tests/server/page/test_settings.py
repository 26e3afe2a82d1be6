"""What a user of the chat page sets, and a key that the server wants: kept, and sent with every request."""

from __future__ import annotations

from collections.abc import Callable

from edgephi.runtime.server.settings import Access

from ..conftest import Live, last, script, spoken
from .conftest import Open, answered, ask, browser_needed

pytestmark = browser_needed
KEY = "a-secret-key"


def test_a_key_is_asked_for_and_a_wrong_one_told(start: Callable[..., Live], open_page: Open) -> None:
    page = open_page(start(script(*spoken("Open."), last()), access=Access(keys=(KEY,))))
    page.fill("#key", "not-the-key")
    page.keyboard.press("Enter")
    page.get_by_text("does not take this key").wait_for()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#model option[value=tiny]", state="attached")
    ask(page, "Are you there?")
    assert answered(page) == "Open."
    page.reload()
    page.wait_for_selector("#ideas li")
    assert not page.is_visible("dialog")


def test_settings_last_and_go_into_requests(start: Callable[..., Live], open_page: Open) -> None:
    engine = script(*spoken("Fine."), last())
    page = open_page(start(engine))
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.fill("#temperature", "0.5")
    page.fill("#max-tokens", "7")
    page.select_option("#thinking", "256")
    page.check("text=Dark")
    page.click("text=Done")
    page.reload()
    page.wait_for_selector("#ideas li")
    ask(page, "How are you?")
    answered(page)
    messages, options = engine.asked[0]
    assert [message["content"] for message in messages] == ["Be brief.", "How are you?"]
    assert options["temperature"] == 0.5 and options["max_tokens"] == 7 and options["think_budget"] == 256
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
