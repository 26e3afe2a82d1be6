"""Summaries: what a session is asked, and what becomes of texts longer than its context."""

from __future__ import annotations

import pytest

from edgephi import ContextOverflow, RequestError
from edgephi.runtime.skills.summarize import FORMS, LENGTHS, summarize

from .conftest import Scripted

STORY = "".join(f"Sentence number {number} says that thing {number} came to pass.\n" for number in range(60))


def test_a_text_that_fits_is_asked_about_once() -> None:
    session, shown = Scripted(" In short: yes. "), list[str]()
    made = summarize(session, "A long story.", show=shown.append)
    assert made.text == "In short: yes." and made.finish_reason == "stop"
    assert session.texts == ["A long story."]
    assert "".join(shown) == " In short: yes. "
    assert session.options[0]["temperature"] == 0 and session.options[0]["think"] is False
    assert (made.cost.answers, made.cost.completion_tokens) == (1, 5)


def test_form_length_and_tone_are_asked_for() -> None:
    prompts = set()
    for form, words in FORMS.items():
        for length, (limit, tokens) in LENGTHS.items():
            session = Scripted("x")
            summarize(session, "text", form=form, length=length, tone="formal")
            assert words in session.prompts[0] and limit in session.prompts[0] and "formal" in session.prompts[0]
            assert session.options[0]["max_tokens"] == tokens
            prompts.add(session.prompts[0])
    assert len(prompts) == len(FORMS) * len(LENGTHS)


def test_a_long_text_is_summarized_part_by_part_and_then_as_a_whole() -> None:
    answers = iter(["first notes", "second notes", "third notes", "fourth notes"])
    session, shown, counts = Scripted(lambda _: next(answers, "the end")), list[str](), list[int]()
    session.context = 300
    made = summarize(session, STORY, show=shown.append, progress=counts.append)
    *parts, last = session.texts
    assert "".join(parts) == STORY
    assert all(part.endswith(".\n") for part in parts), "parts end where lines do"
    assert len(parts) == 4 and last == "first notes\nsecond notes\nthird notes\nfourth notes"
    assert "".join(shown) == made.text == "the end"
    assert counts == [1, 2, 3, 4, 5] and made.cost.answers == 5
    assert "part of a longer text" in session.prompts[0] and "part of a longer text" not in session.prompts[-1]


def test_summaries_of_summaries_until_they_fit() -> None:
    session = Scripted(lambda text: " ".join(text.split()[: max(1, len(text.split()) // 2)]), context=160)
    made = summarize(session, STORY * 4, length="short")
    assert made.finish_reason == "stop"
    assert len(session.prompts) > 12
    assert len(session.texts[-1]) < len(session.texts[0]) * 2


def test_a_model_that_shortens_nothing_does_not_go_on_for_ever() -> None:
    with pytest.raises(ContextOverflow, match="larger context"):
        summarize(Scripted(lambda text: text + " and more", context=200), STORY)


def test_a_context_without_room_is_an_error() -> None:
    with pytest.raises(ContextOverflow, match="no room"):
        summarize(Scripted("x", context=20), STORY)


def test_what_was_cut_or_stopped_says_so() -> None:
    assert summarize(Scripted("cut", finishes=["length"]), "text").finish_reason == "length"
    session = Scripted("part", context=300, finishes=["stop", "cancelled", "stop"])
    assert summarize(session, STORY).finish_reason == "cancelled"
    assert len(session.prompts) == 2


@pytest.mark.parametrize(
    ("options", "named"), [({"form": "poem"}, "form"), ({"length": "endless"}, "length"), ({"tone": "rude"}, "tone")]
)
def test_choices_that_there_are_not(options: dict[str, str], named: str) -> None:
    session = Scripted("x")
    with pytest.raises(RequestError, match=named):
        summarize(session, "text", **options)  # type: ignore[arg-type]
    assert session.prompts == []


def test_an_empty_text_is_an_error() -> None:
    with pytest.raises(RequestError, match="empty"):
        summarize(Scripted("x"), " \n")
