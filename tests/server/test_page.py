"""The chat page as its users meet it: headless Chromium over live servers, every key and click a real one."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import soundfile
from PIL import Image, ImageDraw

import edgephi
from edgephi import NonFiniteLogits
from edgephi.demo import showcase
from edgephi.runtime.server.page import PATHS
from edgephi.runtime.server.settings import Access

from .conftest import PATIENCE, Live, last, script, spoken, wait_until

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
KEY = "a-secret-key"
ANSWER, FIGURES, PROBLEM = ".answer .text", ".figures div", ".problem"
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


def _ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def _answered(page: Page, number: int = 1) -> str:
    """The text of an answer that has ended."""
    shown = page.locator(".turn.answer").nth(number - 1)
    shown.locator(".under").wait_for()
    return shown.locator(".text").inner_text()


def _greedy(page: Page, tokens: int | None = None) -> None:
    page.click("#open-settings")
    page.fill("#temperature", "0")
    if tokens is not None:
        page.fill("#max-tokens", str(tokens))
    page.keyboard.press("Escape")


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


@browser_needed
def test_a_conversation_is_typed_and_its_streamed_answers_read(both: Live, demo_bundle: Path, open_page: Open) -> None:
    first, second = (str(each.turns[-1]["content"]) for each in showcase.examples(5)[:2])
    page = open_page(both)
    assert page.locator("#model").input_value() == "demo"
    _greedy(page)
    with edgephi.load(demo_bundle, threads=1, context=4096) as session:
        turns: list[Any] = []
        for number, question in enumerate((first, second), 1):
            _ask(page, question)
            turns.append({"role": "user", "content": question})
            expected = session.chat(turns, temperature=0).text
            assert _answered(page, number).split() == expected.split()
            turns.append({"role": "assistant", "content": expected})
    figures = [figure.split() for figure in page.locator(".turn.answer").last.locator(FIGURES).all_inner_texts()]
    (tokens, count), (speed, rate), (*first, seconds, _), device = figures
    assert (tokens, speed, first, device) == ("tokens", "tokens/s", ["to", "first", "token"], ["cpu"])
    assert int(count) > 1 and float(rate) > 0 and float(seconds) > 0
    assert page.inner_text("#device") == "cpu" and page.inner_text("#state") == "ready"
    assert page.get_attribute("#log", "aria-busy") == "false"


@browser_needed
def test_a_dropped_picture_reaches_the_model(
    both: Live, tiny_multimodal_bundle: Callable[..., Path], open_page: Open
) -> None:
    page = open_page(both)
    page.select_option("#model", "media")
    _greedy(page, 12)
    _drop(page, "sign.png", "image/png", _sign())
    with page.expect_request("**/v1/chat/completions") as sent:
        _ask(page, "What does the sign say?")
    answer = _answered(page)
    content = json.loads(sent.value.post_data or "")["messages"][0]["content"]
    assert base64.b64decode(content[0]["image_url"]["url"].partition(",")[2]) == _sign()
    with edgephi.load(tiny_multimodal_bundle(), threads=1, context=4096) as session:
        parts = [{"type": "image", "image": _sign()}, {"type": "text", "text": "What does the sign say?"}]
        expected = session.chat([{"role": "user", "content": parts}], temperature=0, max_tokens=12)
    # The page lays out what random weights say as Markdown; letters and digits come through any layout.
    assert [c for c in answer if c.isalnum()] == [c for c in expected.text if c.isalnum()]
    assert page.locator(".user img").get_attribute("alt") == "sign.png"
    assert "Cut" in page.inner_text(".answer .note")


@browser_needed
def test_a_model_without_eyes_says_so_and_gives_the_question_back(both: Live, open_page: Open) -> None:
    page = open_page(both)
    page.select_option("#model", "text")
    assert page.is_disabled("#microphone")
    _drop(page, "sign.png", "image/png", _sign())
    _ask(page, "What does the sign say?")
    page.wait_for_selector(PROBLEM)
    assert "image_url" in page.inner_text(PROBLEM) and "text only" in page.inner_text(PROBLEM)
    assert page.input_value("#prompt") == "What does the sign say?"
    page.click("button[aria-label='Remove sign.png']")
    page.keyboard.press("Enter")
    _answered(page)
    assert page.locator(PROBLEM).count() == 0 and page.locator(".turn.user").count() == 1


@browser_needed
@pytest.mark.parametrize("way", ["click", "Escape", "new chat"])
def test_an_answer_is_stopped(start: Callable[..., Live], open_page: Open, way: str) -> None:
    engine = script(*spoken("Once ", "upon ", "a ", "time"), last(), gate=threading.Event())
    page = open_page(start(engine))
    _ask(page, "Tell me a story.")
    page.wait_for_selector("#stop")
    page.get_by_text("Once").wait_for()
    if way == "new chat":
        page.click("#new-chat")
        page.wait_for_selector("#welcome")
        assert page.locator(".turn").count() == 0
    else:
        page.click("#stop") if way == "click" else page.keyboard.press("Escape")
        assert _answered(page) == "Once"
        assert page.inner_text(".note") == "Stopped."
        assert page.locator(FIGURES).first.inner_text().split() == ["token", "≈", "1"]
    wait_until(engine.cancelled.is_set)
    page.wait_for_selector("#send")
    assert engine.gate is not None
    engine.gate.set()
    _ask(page, "Go on.")
    assert _answered(page, 1 if way == "new chat" else 2) == "Once upon a time"
    roles = [message["role"] for message in engine.asked[-1][0]]
    assert roles == (["user"] if way == "new chat" else ["user", "assistant", "user"])


@browser_needed
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
    assert _answered(page) == "A tone."
    (message,) = engine.asked[0][0]
    (part,) = message["content"]
    samples, rate = soundfile.read(io.BytesIO(part["audio"]))
    assert rate == 16000 and samples.ndim == 1
    assert len(samples) > rate / 2 and abs(samples).max() > 0.01


@browser_needed
def test_thoughts_are_folded_away_until_they_are_opened(start: Callable[..., Live], open_page: Open) -> None:
    engine = script(*spoken("Hm, ", "hm.", kind="thinking"), *spoken("Yes."), last())
    page = open_page(start(engine))
    _ask(page, "Is it so?")
    assert _answered(page) == "Yes."
    assert not page.is_visible(".thought-text")
    page.focus(".thought summary")
    assert "Thought for" in page.inner_text(".thought summary")
    page.keyboard.press("Enter")
    assert page.inner_text(".thought-text") == "Hm, hm."
    _ask(page, "And now?")
    _answered(page, 2)
    assert engine.asked[1][0][1]["content"] == "Yes."


@browser_needed
def test_what_a_model_writes_is_laid_out_and_never_run(start: Callable[..., Live], open_page: Open) -> None:
    text = (
        "# Title\n\nSome **bold** and *slanted* `code`, snake_case_name, 2 * 3 * 4.\n\n1. one\n   - deep\n2. two\n\n"
        "```html\n<script>alert(1)</script>\n```\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n> said\n\n---\n"
        "<img src=x onerror=alert(1)> [good](https://example.org/a) [bad](javascript:alert(1))\n"
    )
    page = open_page(start(script(*spoken(*(text[i : i + 3] for i in range(0, len(text), 3))), last())))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    _ask(page, "Show me everything.")
    _answered(page)
    answer = page.locator(ANSWER)
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


@browser_needed
def test_a_key_is_asked_for_and_a_wrong_one_told(start: Callable[..., Live], open_page: Open) -> None:
    page = open_page(start(script(*spoken("Open."), last()), access=Access(keys=(KEY,))))
    page.fill("#key", "not-the-key")
    page.keyboard.press("Enter")
    page.get_by_text("does not take this key").wait_for()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#model option[value=tiny]", state="attached")
    _ask(page, "Are you there?")
    assert _answered(page) == "Open."
    page.reload()
    page.wait_for_selector("#ideas li")
    assert not page.is_visible("dialog")


@browser_needed
def test_an_answer_that_broke_off_is_tried_again(start: Callable[..., Live], open_page: Open) -> None:
    engine = script(*spoken("Once ", "upon"), error=NonFiniteLogits("the model gave NaN"))
    page = open_page(start(engine))
    _ask(page, "Tell me a story.")
    page.wait_for_selector(PROBLEM)
    assert "broke off" in page.inner_text(PROBLEM) and "NaN" in page.inner_text(PROBLEM)
    assert _answered(page) == "Once upon" and page.input_value("#prompt") == ""
    engine.pieces, engine.error = [*spoken("Once ", "upon ", "a ", "time."), last()], None
    page.click(".again")
    page.get_by_text("Once upon a time.").wait_for()
    assert page.locator(".turn.answer").count() == 1 and page.locator(PROBLEM).count() == 0
    assert [message["role"] for message in engine.asked[-1][0]] == ["user"]
    _ask(page, "Go on.")
    _answered(page, 2)
    assert [again.is_visible() for again in page.locator(".again").all()] == [False, True]


@browser_needed
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
    _ask(page, "Is it my turn?")
    page.get_by_text("The server is busy").wait_for()
    assert engine.gate is not None
    engine.gate.set()
    assert _answered(page) == "ab"
    for thread in threads:
        thread.join()


@browser_needed
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
    _ask(page, "How are you?")
    _answered(page)
    messages, options = engine.asked[0]
    assert [message["content"] for message in messages] == ["Be brief.", "How are you?"]
    assert options["temperature"] == 0.5 and options["max_tokens"] == 7 and options["think_budget"] == 256
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


@browser_needed
def test_keys_alone_are_enough(start: Callable[..., Live], open_page: Open) -> None:
    """Every control can be reached by Tab, has a name and shows where the focus is."""
    page = open_page(start(script(*spoken("Here."), last())))
    _ask(page, "Hello?")
    _answered(page)
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


@browser_needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_in_both_schemes(
    start: Callable[..., Live], bundle: Path, open_page: Open, scheme: Any
) -> None:
    text = "word " * 60 + "averyverylongword" * 20 + "\n\n```\n" + "code " * 80 + "\n```\n"
    live = start(script(*spoken(text), last()), bundles={"a-model-with-a-name-that-is-long": bundle})
    page = open_page(live, color_scheme=scheme, viewport={"width": 320, "height": 560})
    _ask(page, "unbroken" * 40)
    _answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for place in (".bar", "#scroll", ".composer", "#open-settings"):
        assert page.evaluate(f"document.querySelector('{place}').getBoundingClientRect().right") <= 320, place
        assert page.evaluate(f"document.querySelector('{place}').scrollWidth") <= 320, place
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper.removeprefix("rgb(").rstrip(")").split(",")))
    assert light > 600 if scheme == "light" else light < 150


def test_every_file_is_sent_with_a_policy_and_without_a_key(start: Callable[..., Live]) -> None:
    live = start(script(), access=Access(keys=(KEY,)))
    used = {"/"}
    for path in PATHS:
        response = live.get(path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        # The name of SVG's language is the only address.
        assert "://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in response.text and "eval(" not in response.text
        used |= set(re.findall(r"/page/[\w.]+", response.text))
    assert used == set(PATHS), "every file is used, and everything that is used is there"


def test_a_link_on_another_site_may_lead_to_the_page_alone(start: Callable[..., Live]) -> None:
    live = start(script())
    follows = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert live.get("/", headers=follows).status_code == 200
    assert live.get("/v1/models", headers=follows).status_code == 403
    assert live.get("/", headers=follows | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert httpx.post(f"{live.url}/", headers=follows).status_code in (403, 405)
