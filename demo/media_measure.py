"""How many held-out questions about pictures and recordings the model in training answers exactly, by teacher forcing.

Boundary: for training; what the finished checkpoint can do is measured by benchmarks/quality with its real decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from tokenizers import Tokenizer

from ..runtime.image import Crop
from .batches import IGNORED
from .media_batches import BatchEncoder, MediaBatch, asked, grouped
from .media_losses import encode
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
            for task, row in zip(batch.tasks, rows, strict=True):
                right.setdefault(task, []).append(row)
    return {task: sum(rows) / len(rows) for task, rows in sorted(right.items())}
