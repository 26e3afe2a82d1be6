"""Thoughts on demand and within limits: opens or skips the thought of an answer, and ends one that has used its budget.

Boundary: token ids and steps; what counts as thought is told by the reader of the answer. The decode loop knows nothing
of this: a thought that is ended is a sequence that goes on with other tokens than the model chose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .answer import AnswerReader
from .cache import Position
from .decode import Step, Work
from .errors import RequestError
from .reasoning import CLOSE, OPEN
from .sampling import is_whole
from .tokens import Tokenizer

# (sequence, tokens that may follow) → the steps that continue it
Continue = Callable[[Sequence[Position], int], Iterator[Step]]


def opening(
    tokenizer: Tokenizer, prompt: Sequence[int], think: bool | None, skip: str | None = None
) -> list[int]:
    """What to put behind a prompt so that its answer thinks (True), does not (False), or does as it likes (None).

    `skip` is the control token with which a model was trained to begin an answer without a thought (the manifest's
    `thinking.skip`). Another model cannot be asked not to think but by a thought that is over already.
    """
    opened = inside_thought(tokenizer, prompt)
    if think is None or (think and opened):
        return []
    if not think and not opened and skip is not None:
        return _tag(tokenizer, skip)
    return [*([] if opened else _tag(tokenizer, OPEN)), *([] if think else _tag(tokenizer, CLOSE))]


def inside_thought(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends with the opening tag of a thought, as some templates write it."""
    return tokenizer.decode(prompt[-8:], skip_special=False).rstrip().endswith(OPEN)


def check_budget(budget: int | None) -> None:
    """Raises RequestError for a budget that is not a number of tokens."""
    if budget is not None and not (is_whole(budget) and budget >= 0):
        raise RequestError(
            f"think_budget is {budget!r}; allowed is a whole number of tokens from 0, or None for no limit"
        )


def within_budget(
    tokenizer: Tokenizer, reader: AnswerReader, prompt: Sequence[Position], limit: int, budget: int, go_on: Continue,
) -> Iterator[Step]:
    """The steps of `go_on(prompt, limit)`; a thought of `budget` tokens is closed and the answer begins.

    The closing tag counts as tokens of the answer. `reader` has read every step before the next one is asked for.
    """
    made: list[int] = []
    thought = 0
    closing = _tag(tokenizer, CLOSE)
    for step in go_on(prompt, limit):
        made.append(step.token_id)
        yield step
        thought += reader.kind == "thinking"
        if step.finish is not None:
            return
        if reader.kind == "thinking" and thought >= budget and len(made) + len(closing) < limit:
            break
    yield from (Step(token_id, None, Work(0, 0, 0, 0.0), None) for token_id in closing)
    made += closing
    yield from go_on([*prompt, *made], limit - len(made))


def _tag(tokenizer: Tokenizer, text: str) -> list[int]:
    """The token that is the tag, or the tokens that spell it."""
    number = tokenizer.control_id(text)
    return tokenizer.encode_text(text) if number is None else [number]
