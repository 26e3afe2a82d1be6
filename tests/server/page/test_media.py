"""Pictures and recordings on the chat page: dropped or spoken, they reach a model that takes them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile
from PIL import Image, ImageDraw

import edgephi

from ..conftest import Live, last, script, spoken
from .conftest import PROBLEM, Open, answered, ask, browser_needed, greedy

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = browser_needed


def _sign() -> bytes:
    picture = Image.new("RGB", (160, 96), "#2f6f4e")
    ImageDraw.Draw(picture).rectangle((12, 12, 147, 83), outline="white", width=5)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _drop(page: Page, name: str, kind: str, content: bytes) -> None:
    """Drag a file over the page and let go, as a browser would report it."""
    transfer = page.evaluate_handle(
        """([name, kind, text]) => {
            const given = new DataTransfer();
            given.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, {type: kind}));
            return given;
        }""",
        [name, kind, base64.b64encode(content).decode()],
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("body", event, {"dataTransfer": transfer})
        assert page.is_visible("#drop") == (event == "dragover")
    page.wait_for_selector(".attachment")


def test_a_dropped_picture_reaches_the_model(
    both: Live, tiny_multimodal_bundle: Callable[..., Path], open_page: Open
) -> None:
    page = open_page(both)
    page.select_option("#model", "media")
    greedy(page, 12)
    _drop(page, "sign.png", "image/png", _sign())
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "What does the sign say?")
    answer = answered(page)
    content = json.loads(sent.value.post_data or "")["messages"][0]["content"]
    assert base64.b64decode(content[0]["image_url"]["url"].partition(",")[2]) == _sign()
    with edgephi.load(tiny_multimodal_bundle(), threads=1, context=4096) as session:
        parts = [{"type": "image", "image": _sign()}, {"type": "text", "text": "What does the sign say?"}]
        expected = session.chat([{"role": "user", "content": parts}], temperature=0, max_tokens=12)
    # The page lays out what random weights say as Markdown; letters and digits come through any layout.
    assert [c for c in answer if c.isalnum()] == [c for c in expected.text if c.isalnum()]
    assert page.locator(".user img").get_attribute("alt") == "sign.png"
    assert "Cut" in page.inner_text(".answer .note")


def test_a_model_without_eyes_says_so_and_gives_the_question_back(both: Live, open_page: Open) -> None:
    page = open_page(both)
    page.select_option("#model", "text")
    assert page.is_disabled("#microphone")
    _drop(page, "sign.png", "image/png", _sign())
    ask(page, "What does the sign say?")
    page.wait_for_selector(PROBLEM)
    assert "image_url" in page.inner_text(PROBLEM) and "text only" in page.inner_text(PROBLEM)
    assert page.input_value("#prompt") == "What does the sign say?"
    page.click("button[aria-label='Remove sign.png']")
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator(PROBLEM).count() == 0 and page.locator(".turn.user").count() == 1


def test_the_microphone_is_heard_as_the_model_wants_it(
    start: Callable[..., Live], tiny_multimodal_bundle: Callable[..., Path], open_page: Open
) -> None:
    engine = script(*spoken("A tone."), last())
    page = open_page(start(engine, bundles={"tiny": tiny_multimodal_bundle()}))
    page.click("#microphone")
    page.wait_for_selector("#microphone[aria-pressed=true]")
    page.locator("#recording", has_text="1 s").wait_for()
    page.click("#microphone")
    page.wait_for_selector(".attachment")
    page.click("#send")
    assert answered(page) == "A tone."
    (message,) = engine.asked[0][0]
    (part,) = message["content"]
    samples, rate = soundfile.read(io.BytesIO(part["audio"]))
    assert rate == 16000 and samples.ndim == 1
    assert len(samples) > rate / 2 and abs(samples).max() > 0.01
