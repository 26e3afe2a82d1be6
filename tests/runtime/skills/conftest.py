"""A session that plays a script: what it is asked is kept, a token is a word, and the last answer goes on for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgephi.runtime.usage import Piece, Usage


def usage(prompt: int, made: int) -> Usage:
    """The cost of an answer."""
    return Usage(
        prompt_tokens=prompt, cached_tokens=0, completion_tokens=made, time_to_first_token=0.1, prefill_rate=1.0,
        decode_rate=1.0, recomputed_tokens=0, recompute_seconds=0.0, peak_memory=1, device="cpu", threads=1,
    )  # fmt: skip


class Scripted:
    """`answers` are texts, or make one of the text that is asked about; `finishes` say how each of them ends."""

    def __init__(
        self, *answers: str | Callable[[str], str], context: int = 4096, finishes: Sequence[str] = ("stop",)
    ) -> None:
        self.context = context
        self.prompts: list[str] = []
        self.options: list[dict[str, Any]] = []
        self._answers, self._finishes = answers, finishes

    def encode(self, prompt: Sequence[Any], /) -> list[int]:
        return [0] * len(prompt[0]["content"].split())

    def stream(self, prompt: Sequence[Any], /, **options: Any) -> Iterator[Piece]:
        number = len(self.prompts)
        content = prompt[0]["content"]
        self.prompts.append(content)
        self.options.append(options)
        asked = len(self.encode(prompt))
        assert asked < self.context, "a session would refuse this prompt"
        answer = self._answers[min(number, len(self._answers) - 1)]
        text = answer if isinstance(answer, str) else answer(self.texts[-1])
        words = text.split(" ")
        for index, word in enumerate(words):
            yield Piece(word if index == 0 else f" {word}", index, None, "answer")
        finish = self._finishes[min(number, len(self._finishes) - 1)]
        yield Piece("", None, None, "answer", None, finish, usage(asked, len(words)))

    @property
    def texts(self) -> list[str]:
        """The texts that were asked about."""
        return [prompt.partition("\n\nText:\n")[2] for prompt in self.prompts]
