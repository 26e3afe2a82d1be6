"""Endless training batches of conversations of similar length.

Three kinds, because LongRoPE has two factor sets and the reference model chooses by the highest position of a batch:
ordinary batches; the same moved behind the original context, so that short conversations also train the long factors;
and, rarely, really long conversations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from .architecture import CONTEXT_LENGTH, ORIGINAL_LENGTH
from .conversations import Encoded, conversation, encode
from .tasks import TASKS, draw
from .tasks.source import Source

BATCH_TOKENS = 1536
POOL = 1024  # conversations that are sorted by length together
MOVED_SHARE = 0.12
LONG_SHARE = 0.02
LONG_TOKENS = (ORIGINAL_LENGTH + 64, 1600)
IGNORED = -100
LEAST = 0.1  # how much a task that is always solved is trained, beside 1 + LEAST for one that never is
MEASURED = 100  # examples that tell how long a task's conversations are


@dataclass(frozen=True)
class Batch:
    """int64 tensors (rows, tokens); `labels` holds the next token where it is a target, IGNORED elsewhere."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


class Batches:
    """Draws batches; `focus` says which tasks need more of them."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.source = Source(f"train {seed}", held_out=False)
        self._tokenizer = tokenizer
        self._lengths = {task: self._length(task, seed) for task in TASKS}
        self.weights = self.focus(dict.fromkeys(TASKS, 0.0))

    def focus(self, accuracies: Mapping[str, float]) -> dict[str, float]:
        """Spend tokens on each task by how far it is from being solved; returns the chances of an example of each."""
        self.weights = {task: (1 - accuracies[task] + LEAST) / self._lengths[task] for task in TASKS}
        return self.weights

    def pool(self) -> list[Batch]:
        """The batches of the next pool of conversations, in random order."""
        drawn = [self._encode(self.source.weighted((1, 2, 3, 4), (12, 4, 2, 1))) for _ in range(POOL)]
        drawn.sort(key=lambda encoded: len(encoded.ids))
        batches = [self._batch(rows) for rows in _grouped(drawn)]
        long = sum(self.source.chance(LONG_SHARE) for _ in batches)
        batches += [self._batch([self._long()]) for _ in range(long)]
        return self.source.several(batches, len(batches))

    def _length(self, task: str, seed: int) -> float:
        """Mean tokens of a conversation of this task."""
        source = Source(f"lengths {seed}", held_out=False)
        return (
            sum(len(encode(self._tokenizer, draw(task, source).finished, source).ids) for _ in range(MEASURED))
            / MEASURED
        )

    def _encode(self, examples: int) -> Encoded:
        return encode(self._tokenizer, conversation(self.source, self.weights, examples=examples), self.source)

    def _long(self) -> Encoded:
        """A conversation beyond the original context."""
        length = self.source.between(*LONG_TOKENS)
        parts = [self._encode(1)]
        while sum(len(part.ids) for part in parts) < length:
            parts.append(self._encode(self.source.between(1, 4)))
        ids: list[int] = []
        targets: list[int] = []
        for part in parts:
            targets += [len(ids) + position for position in part.targets]
            ids += part.ids[:-1]  # without <|endoftext|>: the conversation goes on
        return Encoded(
            tuple(ids[: LONG_TOKENS[1]]),
            tuple(position for position in targets if position + 1 < min(len(ids), LONG_TOKENS[1])),
        )

    def _batch(self, rows: list[Encoded]) -> Batch:
        width = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids)
            at = torch.tensor(row.targets)
            labels[number, at] = ids[number, at + 1]
        first = 0
        if width <= ORIGINAL_LENGTH and self.source.chance(MOVED_SHARE):
            first = self.source.between(ORIGINAL_LENGTH, CONTEXT_LENGTH - width)
        return Batch(ids, torch.arange(first, first + width).expand(len(rows), width), labels)


def _grouped(ordered: list[Encoded]) -> Iterator[list[Encoded]]:
    """Consecutive conversations whose padded size is about BATCH_TOKENS."""
    rows: list[Encoded] = []
    for encoded in ordered:
        if rows and len(encoded.ids) * (len(rows) + 1) > BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(encoded)
    if rows:
        yield rows
