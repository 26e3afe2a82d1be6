"""Training batches of questions about pictures, of recordings, and of spoken questions about pictures.

Boundary: examples in, tensors out; the model is media_model's. Pictures of a batch have one grid of crops; recordings
are padded at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from ..runtime.audio import count_tokens
from ..runtime.image import Crop, CropGrid, batch_images, plan_crops, prepare_image
from .architecture import AUDIO_ID, IMAGE_ID
from .batches import IGNORED, LEAST
from .corpus import ASKED, Clip, clip_of
from .tasks import images, speech, spoken
from .tasks.example import Example, Mark
from .tasks.images import buttons, page
from .tasks.source import Source
from .tokenizer import ASSISTANT, END

ROWS = 32
POOL = 256  # examples that are sorted together
NO_WORD = -1
CHEAPNESS = {buttons.NAME: 0.5}  # of questions whose tokens are many


@dataclass(frozen=True)
class Asked:
    """An example on its way into a batch: what stands before the answer, and what it is answered with."""

    task: str
    question: str
    answer: str
    picture: Image.Image | None = None
    marks: tuple[Mark, ...] = ()
    clip: Clip | None = None

    def grid(self, crop: Crop) -> CropGrid | None:
        """How the picture is cut."""
        return None if self.picture is None else plan_crops(*self.picture.size, crop=crop)


@dataclass(frozen=True)
class MediaBatch:
    """One batch as tensors.

    `ids`, `labels` int64 (rows, tokens), a label being the token that follows or IGNORED; `pixels` float (rows, crops,
    3, side, side) with `mask` bool (rows, crops, patches, patches), `marks` int64 (rows, crops, patches²) and the
    common grid; `frames` float (rows, frames, 80) with `lengths` and `said` int64 (rows, words), NO_WORD where it ends.
    """

    tasks: tuple[str, ...]
    ids: torch.Tensor
    labels: torch.Tensor
    grid: CropGrid | None
    pixels: torch.Tensor | None
    mask: torch.Tensor | None
    marks: torch.Tensor | None
    frames: torch.Tensor | None
    lengths: torch.Tensor | None
    said: torch.Tensor | None


class MediaBatches:
    """Draws batches of the tasks in `weights`; `focus` says which need more."""

    def __init__(
        self, tokenizer: Tokenizer, crop: Crop, clips: Mapping[str, Sequence[Clip]], tasks: Sequence[str], seed: int
    ) -> None:
        self.source = Source(f"media {seed} {tasks}", held_out=False)
        self.weights = self.focus(dict.fromkeys(tasks, 0.0))
        self._encoder = BatchEncoder(tokenizer, crop)
        self._clips = clips
        self._asked = _by_words(clips.get(ASKED, ()))

    def focus(self, accuracies: Mapping[str, float]) -> dict[str, float]:
        """Draw each task by how far it is from being solved and by what it costs; returns the chances."""
        self.weights = {task: (1 - share + LEAST) * CHEAPNESS.get(task, 1.0) for task, share in accuracies.items()}
        return self.weights

    def add(self, kind: str) -> None:
        """Make one half of all examples of this kind until the next focus."""
        self.weights = {**self.weights, kind: sum(self.weights.values())}

    def pool(self) -> list[MediaBatch]:
        """The next batches, in random order."""
        drawn = [self._draw() for _ in range(POOL)]
        batches = [self._encoder.encode(rows, self.source) for rows in grouped(drawn, self._encoder.crop)]
        return self.source.several(batches, len(batches))

    def _draw(self) -> Asked:
        task = self.source.weighted(tuple(self.weights), tuple(self.weights.values()))
        if task in images.TASKS:
            return asked(images.draw(task, self.source))
        if task == page.NAME:
            return asked(page.make(self.source))
        if task in self._clips:
            clip = self.source.pick(self._clips[task])
            return Asked(task, clip.question or "", clip.answer, clip=clip)
        shown = asked(images.draw(self.source.pick(spoken.PICTURES), self.source))
        clip = self.source.pick(self._asked[spoken.spoken(shown.question)])
        return Asked(task, "", shown.answer, shown.picture, shown.marks, clip)


class BatchEncoder:
    """Turns examples into tensors."""

    def __init__(self, tokenizer: Tokenizer, crop: Crop) -> None:
        self._tokenizer = tokenizer
        self.crop = crop

    def encode(self, rows: Sequence[Asked], disturbed: Source | None = None) -> MediaBatch:
        """One batch of examples that `grouped` has put together; recordings are disturbed where a source is given."""
        grid = rows[0].grid(self.crop)
        encoded = [self._ids(row, grid) for row in rows]
        width = max(len(ids) for ids, _ in encoded)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        for number, (row, answer) in enumerate(encoded):
            ids[number, : len(row)] = torch.tensor(row)
            labels[number, len(row) - answer - 1 : len(row) - 1] = torch.tensor(row[-answer:])
        pixels, mask, marks = self._pictures(rows, grid) if grid is not None else (None, None, None)
        frames, lengths, said = _sounds([row.clip for row in rows if row.clip is not None], disturbed)
        tasks = tuple(row.task for row in rows)
        return MediaBatch(tasks, ids, labels, grid, pixels, mask, marks, frames, lengths, said)

    def _ids(self, row: Asked, grid: CropGrid | None) -> tuple[list[int], int]:
        """Ids of the whole conversation, and how many of them are the answer."""
        ids = self._tokenizer.encode("<|user|>").ids
        if grid is not None:
            ids += [IMAGE_ID] * grid.tokens
        if row.clip is not None:
            ids += [AUDIO_ID] * count_tokens(len(row.clip.levels))
        ids += self._tokenizer.encode(f"{row.question}{END}{ASSISTANT}").ids
        answer = self._tokenizer.encode(f"{row.answer}{END}").ids
        return ids + answer, len(answer)

    def _pictures(self, rows: Sequence[Asked], grid: CropGrid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = batch_images([prepare_image(row.picture, crop=self.crop) for row in rows if row.picture is not None])
        marks = np.stack([_mark_grids(row, grid) for row in rows])
        return torch.from_numpy(batch.pixel_values), torch.from_numpy(batch.attention_mask > 0), torch.from_numpy(marks)


def asked(example: Example) -> Asked:
    """An example of a task of pictures, of recordings or of both."""
    (turn,) = example.turns
    content: Any = turn["content"]
    parts = {part["type"]: part for part in content}
    clip = None
    if "audio" in parts:
        clip = clip_of(example)
    return Asked(
        example.task, parts.get("text", {}).get("text", ""), example.answer,
        parts["image"]["image"] if "image" in parts else None, example.marks, clip,
    )  # fmt: skip


def grouped(rows: Sequence[Asked], crop: Crop) -> list[list[Asked]]:
    """Batches of at most ROWS examples that can be computed together, those of similar length in one."""
    kinds: dict[object, list[Asked]] = {}
    for row in rows:
        kinds.setdefault((row.grid(crop), row.clip is None), []).append(row)
    found = []
    for group in kinds.values():
        group.sort(key=lambda row: (len(row.question) // 40, 0 if row.clip is None else len(row.clip.levels)))
        found += [group[start : start + ROWS] for start in range(0, len(group), ROWS)]
    return found


def _sounds(
    clips: Sequence[Clip], disturbed: Source | None
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    if not clips:
        return None, None, None
    lengths = [len(clip.levels) for clip in clips]
    frames = torch.zeros(len(clips), max(lengths), clips[0].levels.shape[1])
    said = torch.full((len(clips), max(len(clip.said) for clip in clips)), NO_WORD)
    numbers = {word: number for number, word in enumerate(speech.WORDS, start=1)}
    for row, clip in enumerate(clips):
        features = clip.features if disturbed is None else disturb(clip.features, disturbed)
        frames[row, : lengths[row]] = torch.from_numpy(features)
        said[row, : len(clip.said)] = torch.tensor([numbers[word] for word in clip.said])
    return frames, torch.tensor(lengths), said


def disturb(features: NDArray[np.float32], source: Source) -> NDArray[np.float32]:
    """A third of them as they are; the others as another throat would say it (mel bins moved by up to 8 %, Jaitly and
    Hinton 2013), louder or quieter, with more noise, and without a few neighbouring bins.

    More than this keeps an encoder that knows nothing yet from learning anything.
    """
    if source.chance(1 / 3):
        return features
    bins = features.shape[1]
    place = np.clip(np.arange(bins) * (1 + source.between(-8, 8) / 100), 0, bins - 1)
    below, share = place.astype(np.int64), np.float32(place % 1)
    moved = features[:, below] * (1 - share) + features[:, np.minimum(below + 1, bins - 1)] * share
    louder = np.maximum(moved + source.between(-10, 5) / 10, 0)
    noisy: NDArray[np.float32] = np.logaddexp(louder, source.between(0, 70) / 10).astype(np.float32)
    first = source.below(bins)
    noisy[:, first : first + source.between(0, 4)] = 0
    return noisy


def _by_words(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        found.setdefault(" ".join(clip.said), []).append(clip)
    return found


def _mark_grids(row: Asked, grid: CropGrid) -> NDArray[np.int64]:
    """What each patch of the view of the whole and of each crop shows: int64 (1 + crops, patches²) of images.LABELS."""
    assert row.picture is not None
    patches, patch = grid.crop.patches, grid.crop.patch
    height, width = grid.rows * patches, grid.columns * patches
    across, down = grid.width / row.picture.width / patch, grid.height / row.picture.height / patch
    whole = _label(row.marks, across / grid.columns, down / grid.rows, patches, patches)
    crops = _label(row.marks, across, down, height, width)
    tiles = crops.reshape(grid.rows, patches, grid.columns, patches).transpose(0, 2, 1, 3).reshape(-1, patches**2)
    return np.concatenate([whole.reshape(1, -1), tiles])


def _label(marks: Sequence[Mark], across: float, down: float, height: int, width: int) -> NDArray[np.int64]:
    """The mark that covers most of each patch, if it covers a quarter of it or of itself; `across` patches a pixel."""
    labels, covered = np.zeros((height, width), np.int64), np.zeros((height, width))
    for mark in marks:
        left, right, top, bottom = mark.left * across, mark.right * across, mark.top * down, mark.bottom * down
        least = 0.25 * min(1.0, (right - left) * (bottom - top))
        for row in range(max(0, int(top)), min(height, int(bottom) + 1)):
            for column in range(max(0, int(left)), min(width, int(right) + 1)):
                shared = (min(bottom, row + 1) - max(top, row)) * (min(right, column + 1) - max(left, column))
                if shared > max(covered[row, column], least):
                    labels[row, column], covered[row, column] = _NUMBERS[mark.label], shared
    return labels


_NUMBERS = {label: number for number, label in enumerate(images.LABELS)}
