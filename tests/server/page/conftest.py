"""The chat page in headless Chromium, every key and click a real one: opened, asked, and read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ..conftest import PATIENCE, Live

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Root's Chromium runs without its sandbox; the others keep it from talking to its maker. The microphone is a test tone.
FLAGS = (
    *(("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()),
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
PROBLEM = ".problem"
browser_needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install Debian's chromium")

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """(live, **options of a browser context) → its page. At the end: no error of a script, no request elsewhere."""
    contexts, wrong = [], []

    def open_one(live: Live, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Policy" in message.text else None)
        page.on("request", lambda request: None if request.url.startswith((live.url, "data:", "blob:"))
                else wrong.append(request.url))  # fmt: skip
        page.goto(live.url)
        page.wait_for_selector("#state:not([hidden]), dialog[open]")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not wrong


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def answered(page: Page, number: int = 1) -> str:
    """The text of an answer that has ended."""
    shown = page.locator(".turn.answer").nth(number - 1)
    shown.locator(".under").wait_for()
    return shown.locator(".text").inner_text()


def greedy(page: Page, tokens: int | None = None) -> None:
    page.click("#open-settings")
    page.fill("#temperature", "0")
    if tokens is not None:
        page.fill("#max-tokens", str(tokens))
    page.keyboard.press("Escape")
