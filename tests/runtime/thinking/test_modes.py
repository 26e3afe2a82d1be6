"""Whether to think: what each mode puts behind a prompt, and that old thoughts leave the conversation."""

from __future__ import annotations

from typing import Any

import pytest

from edgephi import RequestError
from edgephi.runtime.thinking import answers_alone, opening, wanted

from .conftest import CLOSE, OPEN, Published, one_of


def test_the_modes_of_each_family(published: Published) -> None:
    tokenizer, trained = published.tokenizer, published.thinking
    prompt = published.ids([{"role": "user", "content": f"2 + 2? {OPEN}"}])
    assert published.text(prompt).endswith(("<|assistant|>", "<|im_start|>assistant<|im_sep|>"))
    thought, tags = one_of(tokenizer, OPEN), [*one_of(tokenizer, OPEN), *one_of(tokenizer, CLOSE)]
    assert opening(tokenizer, prompt, None, trained) == []
    assert opening(tokenizer, prompt, True, trained) == thought
    skipped = tags if trained.skip is None else one_of(tokenizer, trained.skip)
    assert opening(tokenizer, prompt, False, trained) == skipped
    if trained.skip is not None:
        assert len(skipped) == 1
    # where the prompt itself opened one
    for space in ("", "\n"):
        opened = [*prompt, *thought, *tokenizer.encode_text(space)]
        assert opening(tokenizer, opened, True, trained) == opening(tokenizer, opened, None, None) == []
        assert opening(tokenizer, opened, False, trained) == opening(tokenizer, opened, False, None) == (
            one_of(tokenizer, CLOSE)
        )


def test_old_thoughts_leave_the_conversation(published: Published) -> None:
    thought = f"{OPEN}\nTwo and two …\n{CLOSE}\n\n"
    question, again = {"role": "user", "content": "2 + 2?"}, {"role": "user", "content": f"Why {OPEN}a{CLOSE}b?"}
    expected = published.ids([question, {"role": "assistant", "content": "4"}, again])
    parts = [{"type": "text", "text": f"{thought}4"}]
    for content in ("4", f"{thought}4", parts):
        assert published.ids(answers_alone([question, {"role": "assistant", "content": content}, again])) == expected
    assert "Two and two" not in published.text(expected) and f"Why {OPEN}a{CLOSE}b?" in published.text(expected)


def test_only_a_thought_at_the_beginning_of_an_answer_is_old() -> None:
    kept: list[Any] = [
        1, "text", {"role": "user", "content": f"{OPEN}a{CLOSE}b"}, {"role": "assistant", "content": None},
        {"role": "assistant", "content": f"A tag: {OPEN}a{CLOSE}"}, {"role": "assistant", "content": []}, {},
        {"role": "assistant", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": OPEN}]},
    ]
    assert answers_alone(kept) == kept
    assert answers_alone([{"role": "assistant", "content": f"{OPEN}cut in the middle"}])[0]["content"] == ""


@pytest.mark.parametrize(("think", "budget", "expected"), [
    (None, None, None), (True, None, True), (False, None, False), (None, 5, None), (None, 0, False),
    (False, 0, False), (False, 5, False), (True, 5, True),
])
def test_the_two_options_together(think: bool | None, budget: int | None, expected: bool | None) -> None:
    assert wanted(think, budget) is expected


@pytest.mark.parametrize(("think", "budget", "message"), [
    (True, 0, "think is True and think_budget 0"),
    ("yes", None, "think is 'yes'; allowed is True, False, or None"),
    (1, None, "think is 1"),
    (None, -1, "think_budget is -1; allowed is a whole number from 0"),
    (None, True, "think_budget is True"),
    (None, 2.5, r"think_budget is 2\.5"),
])
def test_what_is_no_wish_is_refused(think: Any, budget: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        wanted(think, budget)
