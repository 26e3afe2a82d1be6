"""Thoughts on demand: what opens or skips the thought of an answer, what ends it at a budget, what is left of old ones.

Boundary: token ids and messages in and out; text is split by reasoning.py, tokens are chosen by sampling.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from .errors import RequestError
from .manifest import Thinking
from .reasoning import CLOSE, OPEN, Kind, ThoughtSplitter, ThoughtTags, without_thought
from .sampling import TokenConstraint, is_whole
from .tokens import REPLACEMENT, Tokenizer

TAG_TOKENS = 12  # a tag has 8 characters, behind it may stand white space


def wanted(think: bool | None, budget: int | None) -> bool | None:
    """What the two options ask for together: True for a thought, False for none, None for what the model likes.

    Raises RequestError for values that are none and for two that contradict each other.
    """
    if think is not None and not isinstance(think, bool):
        raise RequestError(f"think is {think!r:.60}; allowed is True, False, or None to leave it to the model")
    if budget is not None and not (is_whole(budget) and budget >= 0):
        raise RequestError(f"think_budget is {budget!r:.60}; allowed is a whole number from 0 (no thought), or None")
    if think and budget == 0:
        raise RequestError("think is True and think_budget 0, which is no thought: leave out one of them")
    return False if budget == 0 else think


def opening(
    tokenizer: Tokenizer, prompt: Sequence[int], think: bool | None, trained: Thinking | None
) -> list[int]:
    """What to put behind a prompt so that its answer thinks (True), does not (False), or does as it likes (None).

    `trained`: what the manifest says of thoughts. A model with a token to begin an answer without a thought gets that;
    another one that thinks cannot be asked not to but by a thought that is over already. Raises RequestError where a
    thought is asked of a model that was not trained to think.
    """
    opened = inside_thought(tokenizer, prompt)
    if think is None or (think and opened):
        return []
    if opened:
        return _tag(tokenizer, CLOSE)
    if trained is None:
        if not think:
            return []
        raise RequestError(
            "think is True, but the model of this bundle was not trained to think: leave it out, or use a model that"
            " was, as Phi-4-mini-reasoning or Phi-4-reasoning"
        )
    if think:
        return _tag(tokenizer, OPEN)
    return _tag(tokenizer, OPEN) + _tag(tokenizer, CLOSE) if trained.skip is None else _tag(tokenizer, trained.skip)


def thinks_always(trained: Thinking | None) -> bool | None:
    """What to ask of a model whose answer must have a form: one that always thinks must begin before the form does."""
    return True if trained is not None and trained.skip is None else None


def inside_thought(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends with the opening tag of a thought, as some templates write it."""
    return _end(tokenizer, prompt).endswith(OPEN)


def answers_alone(messages: Sequence[Any]) -> list[Any]:
    """Messages without the thoughts of earlier answers, which a model does not get to see again; what is no message
    stays.
    """
    return [{**item, "content": _answer(item["content"])} if _answered(item) else item for item in messages]


class ThoughtReader:
    """Labels the text of an answer token by token."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        """`prompt`: what the answer follows, which may have begun a thought or ended one."""
        end = _end(tokenizer, prompt)
        self._detokenizer = tokenizer.detokenizer()
        tags = ThoughtTags(tokenizer.control_id(OPEN), tokenizer.control_id(CLOSE))
        self._tags = {tags.open_id, tags.close_id}
        self.splitter = ThoughtSplitter(tags, thinking=end.endswith(OPEN), over=end.endswith(CLOSE))

    def push(self, token_id: int) -> list[tuple[Kind, str]]:
        """The labelled pieces that are certain after this token."""
        half = self._detokenizer.incomplete
        before = self._detokenizer.flush() if token_id in self._tags else ""
        text = self._detokenizer.push(token_id)
        if half and text.startswith(REPLACEMENT):  # half a character is text of the tokens before
            before, text = REPLACEMENT, text.removeprefix(REPLACEMENT)
        return _joined([*self.splitter.push(None, before), *self.splitter.push(token_id, text)])

    def flush(self) -> list[tuple[Kind, str]]:
        """What was held back, at the end of the answer."""
        return [*self.splitter.push(None, self._detokenizer.flush()), *self.splitter.flush()]


def _joined(pieces: Sequence[tuple[Kind, str]]) -> list[tuple[Kind, str]]:
    """Neighbours with the same label as one."""
    return [(kind, "".join(text for _, text in group)) for kind, group in groupby(pieces, key=itemgetter(0))]


def budgeted(
    tokenizer: Tokenizer, budget: int | None, prompt: Sequence[int], inner: TokenConstraint | None = None
) -> TokenConstraint | None:
    """`inner` within a budget of thought, if there is one."""
    return inner if budget is None else ThoughtBudget(tokenizer, budget, prompt, inner)


class ThoughtBudget:
    """A TokenConstraint that leaves a thought `budget` tokens, then has its closing tag come next, and forbids nothing.

    It lies around another constraint, if there is one, which sees and decides all else.
    """

    def __init__(
        self, tokenizer: Tokenizer, budget: int, prompt: Sequence[int], inner: TokenConstraint | None = None
    ) -> None:
        """`prompt`: what the answer follows."""
        self._tokenizer = tokenizer
        self._budget = budget
        self._reader = ThoughtReader(tokenizer, prompt)
        self._inner = inner

    @property
    def forced(self) -> Sequence[int]:
        """What is left to say of the closing tag, once the budget is spent."""
        splitter = self._reader.splitter
        if splitter.thinking and splitter.tokens >= self._budget:
            return _tag(self._tokenizer, CLOSE, splitter.held)
        return () if self._inner is None else self._inner.forced

    def allowed(self) -> np.ndarray | None:
        """What the inner constraint allows."""
        return None if self._inner is None else self._inner.allowed()

    def accept(self, token_id: int) -> None:
        """Take the next token."""
        self._reader.push(token_id)
        if self._inner is not None:
            self._inner.accept(token_id)

    def possible(self, guess: Sequence[int]) -> int:
        """How much of `guess` the inner constraint allows and the budget of an open thought pays for."""
        able = len(guess) if self._inner is None else self._inner.possible(guess)
        splitter = self._reader.splitter
        return max(0, min(able, self._budget - splitter.tokens)) if splitter.thinking else able


def _end(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The last words of a prompt, a tag of any spelling among them."""
    return tokenizer.decode(prompt[-TAG_TOKENS:], skip_special=False).rstrip()


def _tag(tokenizer: Tokenizer, text: str, said: str = "") -> list[int]:
    """The token that is the tag, or those that spell what is left of it when `said` was said."""
    number = tokenizer.control_id(text)
    return tokenizer.encode_text(text.removeprefix(said)) if number is None else [number]


def _answered(item: object) -> bool:
    return isinstance(item, Mapping) and item.get("role") == "assistant" and item.get("content") is not None


def _answer(content: Any) -> Any:
    """Content without the thought that it begins with; what is no text stays."""
    if isinstance(content, str):
        return without_thought(content)
    if not isinstance(content, Sequence) or not content:
        return content
    first, *others = content
    if isinstance(first, Mapping) and isinstance(first.get("text"), str):
        first = {**first, "text": without_thought(first["text"])}
    return [first, *others]
