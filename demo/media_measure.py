"""How many held-out questions about pictures and recordings the model in training answers exactly, by teacher forcing;
and, before it can answer anything, what its encoders recognize.

Boundary: for training; what the finished checkpoint can do is measured by benchmarks/quality with its real decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from tokenizers import Tokenizer

from ..runtime.image import Crop
from .batches import IGNORED
from .media_batches import NO_WORD, BatchEncoder, MediaBatch, asked, grouped
from .media_losses import encode, picture_features
from .media_model import MediaModel
from .tasks import media

HeldOut: TypeAlias = Sequence[MediaBatch]
SEED = 0


def held_out_batches(tokenizer: Tokenizer, crop: Crop, tasks: Sequence[str], count: int) -> HeldOut:
    """`count` held-out examples of each task as batches; the same ones every time."""
    encoder = BatchEncoder(tokenizer, crop)
    rows = [asked(example) for task in tasks for example in media.held_out(task, count, SEED)]
    return [encoder.encode(group) for group in grouped(rows, crop)]


def solved(model: MediaModel, batches: HeldOut) -> dict[str, float]:
    """Share of exactly right answers of each task, <|end|> included, with the model's active adapter."""
    right: dict[str, list[bool]] = {}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch in batches:
            mode = "speech" if batch.pixels is None else "vision"
            images, steps, _ = encode(model, batch, mode, hinted=False)
            best = model.model.lm_head(model.hidden(batch, images, steps).to(torch.bfloat16)).argmax(-1)
            rows = ((best == batch.labels) | (batch.labels == IGNORED)).all(1).tolist()
            _count(right, batch, rows)
    return _shares(right)


def recognized(model: MediaModel, batches: HeldOut) -> dict[str, float]:
    """Share of pictures of whose crops every marked patch is told, and of recordings of which all words are."""
    right: dict[str, list[bool]] = {}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch in batches:
            if batch.pixels is not None and batch.mask is not None and batch.marks is not None:
                found = model.told(picture_features(model, batch.pixels, batch.mask)).argmax(-1)
                told = ((found == batch.marks) | (batch.marks == 0))[:, 1:]
                _count(right, batch, told.flatten(1).all(1).tolist())
            elif batch.frames is not None and batch.lengths is not None and batch.said is not None:
                heard, inside = model.speech(batch.frames, batch.lengths)
                best = model.words(heard).argmax(-1)
                spoken = [_collapsed(row[own]) for row, own in zip(best, inside, strict=True)]
                truths = [row[row != NO_WORD].tolist() for row in batch.said]
                _count(right, batch, [one == other for one, other in zip(spoken, truths, strict=True)])
    return _shares(right)


def _collapsed(steps: torch.Tensor) -> list[int]:
    """Labels of the steps with repetitions and blanks left out."""
    return [label for label in torch.unique_consecutive(steps).tolist() if label]


def _count(right: dict[str, list[bool]], batch: MediaBatch, rows: list[bool]) -> None:
    for task, row in zip(batch.tasks, rows, strict=True):
        right.setdefault(task, []).append(row)


def _shares(right: dict[str, list[bool]]) -> dict[str, float]:
    return {task: sum(rows) / len(rows) for task, rows in sorted(right.items())}
