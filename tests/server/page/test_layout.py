"""How the chat page looks and is used: Markdown laid out and never run, keys alone, narrow screens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Live, last, script, spoken
from .conftest import Open, answered, ask, browser_needed

pytestmark = browser_needed


def test_what_a_model_writes_is_laid_out_and_never_run(start: Callable[..., Live], open_page: Open) -> None:
    text = (
        "# Title\n\nSome **bold** and *slanted* `code`, snake_case_name, 2 * 3 * 4.\n\n1. one\n   - deep\n2. two\n\n"
        "```html\n<script>alert(1)</script>\n```\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n> said\n\n---\n"
        "<img src=x onerror=alert(1)> [good](https://example.org/a) [bad](javascript:alert(1))\n"
    )
    page = open_page(start(script(*spoken(*(text[i : i + 3] for i in range(0, len(text), 3))), last())))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    ask(page, "Show me everything.")
    answered(page)
    answer = page.locator(".answer .text")
    found = {name: answer.locator(name).all_inner_texts() for name in (
        "h2", "strong", "em", ":not(pre) > code", "ol > li > ul > li", "td", "blockquote", "pre code", "a",
    )}
    assert found == {
        "h2": ["Title"], "strong": ["bold", "2"], "em": ["slanted"], ":not(pre) > code": ["code"],
        "ol > li > ul > li": ["deep"], "td": ["1", "2"], "blockquote": ["said"],
        "pre code": ["<script>alert(1)</script>"], "a": ["good"],
    }
    assert answer.locator("ol > li").count() == 2 and answer.locator("hr").count() == 1
    assert answer.locator("img, script").count() == 0
    assert "<img src=x onerror=alert(1)>" in answer.inner_text() and "snake_case_name, 2 * 3 * 4" in answer.inner_text()


def test_keys_alone_are_enough(start: Callable[..., Live], open_page: Open) -> None:
    """Every control can be reached by Tab, has a name and shows where the focus is."""
    page = open_page(start(script(*spoken("Here."), last())))
    ask(page, "Hello?")
    answered(page)
    names = []
    for _ in range(16):
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(
            "(() => { const at = document.activeElement; const style = getComputedStyle(at);"
            " return [at.ariaLabel || at.innerText || at.labels?.[0]?.innerText || at.tagName,"
            " style.outlineStyle !== 'none' || at.matches('#prompt, #scroll, body')]; })()"
        )
        assert outlined, name
        names.append(name.strip())
    for wanted in ("New chat", "Settings", "Copy", "Try again", "Message", "Add a picture or a recording", "Send"):
        assert wanted in names, names


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_in_both_schemes(
    start: Callable[..., Live], bundle: Path, open_page: Open, scheme: Any
) -> None:
    text = "word " * 60 + "averyverylongword" * 20 + "\n\n```\n" + "code " * 80 + "\n```\n"
    live = start(script(*spoken(text), last()), bundles={"a-model-with-a-name-that-is-long": bundle})
    page = open_page(live, color_scheme=scheme, viewport={"width": 320, "height": 560})
    ask(page, "unbroken" * 40)
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for place in (".bar", "#scroll", ".composer", "#open-settings"):
        assert page.evaluate(f"document.querySelector('{place}').getBoundingClientRect().right") <= 320, place
        assert page.evaluate(f"document.querySelector('{place}').scrollWidth") <= 320, place
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper.removeprefix("rgb(").rstrip(")").split(",")))
    assert light > 600 if scheme == "light" else light < 150
