"""The split of thought and answer: whatever the cut into tokens, the labelled text is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.reasoning import ThoughtSplitter, ThoughtTags


def _split(pieces: list[str], *, thinking: bool = False) -> dict[str, str]:
    splitter = ThoughtSplitter(ThoughtTags(), thinking=thinking)
    labelled = [item for piece in pieces for item in splitter.push(None, piece)] + splitter.flush()
    return {kind: "".join(text for label, text in labelled if label == kind) for kind in ("thinking", "answer")}


CASES = [
    ("<think>add them</think>\n\n4", False, "add them", "4"),
    ("  \n<think>\nadd </thin them\n</think>4", False, "add </thin them\n", "4"),
    ("no thought, just 1 < 2", False, "", "no thought, just 1 < 2"),
    ("a tag later: <think>is text</think>", False, "", "a tag later: <think>is text</think>"),
    ("the prompt opened it</think> done", True, "the prompt opened it", "done"),
    ("<think>never closed", False, "never closed", ""),
    ("<think></think>straight", False, "", "straight"),
    ("<think>a<think>b</think>c</think>d", False, "a<think>b", "c</think>d"),
    ("<thi", False, "", "<thi"),
    ("", False, "", ""),
]


@pytest.mark.parametrize(("text", "thinking", "thought", "answer"), CASES)
def test_every_cut_gives_the_same_split(text: str, thinking: bool, thought: str, answer: str) -> None:
    for size in range(1, max(2, len(text) + 1)):
        pieces = [text[start:start + size] for start in range(0, len(text), size)]
        assert _split(pieces, thinking=thinking) == {"thinking": thought, "answer": answer}, size


@given(st.text(alphabet="<>/think \nab", max_size=40), st.data())
def test_the_cut_never_matters(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert _split(pieces) == _split([text])


def test_tags_that_are_single_tokens_are_known_by_their_ids() -> None:
    splitter = ThoughtSplitter(ThoughtTags(open_id=7, close_id=8))
    tokens = ((7, ""), (1, "hm"), (8, ""), (2, "\n4"))
    labelled = [item for token, text in tokens for item in splitter.push(token, text)]
    assert labelled == [("thinking", "hm"), ("answer", "4")]
    assert not splitter.thinking


def test_text_is_not_held_longer_than_needed() -> None:
    splitter = ThoughtSplitter(ThoughtTags())
    assert splitter.push(None, "Hello") == [("answer", "Hello")]
    assert splitter.push(None, " <") == [("answer", " <")]
