"""Rewriting: tones, long texts in parts that keep what is between them, ends."""

from __future__ import annotations

import pytest

from edgephi import RequestError
from edgephi.runtime.skills.asking import TONES
from edgephi.runtime.skills.rewrite import rewrite

from .conftest import Scripted

LETTER = "\n" + "".join(f"Paragraph {number} asks for thing {number}.\n\n" for number in range(40)) + "  Yours\n"


@pytest.mark.parametrize("tone", [None, *TONES])
def test_every_tone_is_asked_for_in_words_of_its_own(tone: str | None) -> None:
    session = Scripted("better")
    assert rewrite(session, "text", tone=tone).text == "better"
    wished = [words for words in TONES.values() if words in session.prompts[0]]
    assert wished == ([] if tone is None else [TONES[tone]])
    assert session.texts == ["text"]


def test_a_long_text_is_rewritten_in_parts_between_which_nothing_changes() -> None:
    session, shown = Scripted(str.upper, context=140), list[str]()
    made = rewrite(session, LETTER, show=shown.append)
    assert made.text == LETTER.upper() == "".join(shown)
    assert len(session.texts) > 3
    assert all(text == text.strip() and text.endswith((".", "Yours")) for text in session.texts)
    for prompt, options in zip(session.prompts, session.options, strict=True):
        assert len(prompt.split()) + options["max_tokens"] <= session.context


def test_parts_stay_short_enough_for_small_models_in_a_large_context() -> None:
    session = Scripted(str.upper, context=1 << 20)
    long = LETTER * 20
    assert rewrite(session, long).text == long.upper()
    assert len(session.texts) >= 4
    assert max(len(text.split()) for text in session.texts) <= 1024


def test_a_stop_keeps_what_was_made() -> None:
    session = Scripted(str.upper, context=140, finishes=["stop", "cancelled"])
    made = rewrite(session, LETTER)
    assert made.finish_reason == "cancelled" and len(session.prompts) == 2
    assert LETTER.upper().startswith(made.text) and made.text


def test_what_is_no_text_or_no_tone() -> None:
    with pytest.raises(RequestError, match="empty"):
        rewrite(Scripted("x"), "")
    with pytest.raises(RequestError, match="tone"):
        rewrite(Scripted("x"), "text", tone="rude")
