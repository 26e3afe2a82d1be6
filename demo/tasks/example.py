"""One task as a conversation whose last answer can be checked by comparing strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Message = Mapping[str, object]


@dataclass(frozen=True)
class Mark:
    """What is to be seen in a part of a picture: from left and top to right and bottom, in pixels."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Example:
    """`turns` end with the turn to be answered; `answer` is the right one; `content` decides the side of the split.

    `marks` and `said` are for the training of encoders: what is where in the picture, which words the recording holds.
    """

    task: str
    turns: tuple[Message, ...]
    answer: str
    content: str
    marks: tuple[Mark, ...] = ()
    said: tuple[str, ...] = ()

    @property
    def finished(self) -> tuple[Message, ...]:
        """The conversation with its answer."""
        return (*self.turns, {"role": "assistant", "content": self.answer})


def user(text: str) -> Message:
    """A turn of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """A turn of the model."""
    return {"role": "assistant", "content": text}


def asked(task: str, question: str, answer: str, content: str | None = None) -> Example:
    """An example of a single question; its content is the question's text unless given."""
    return Example(task, (user(question),), answer, question if content is None else content)
