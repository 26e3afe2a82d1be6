"""Pictures and recordings through encoder graphs of fixed shapes: one crop, one padded picture or one window a run.

Boundary: what such a graph cannot do because it differs from one medium to the next: which position a patch has, what
is padding, and how the rows of the runs join to those of the medium. The rows are those that a graph of free shapes
gives; its formulas stand in export/layers/, which says where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from .audio import CHUNK_FRAMES, FRAMES_PER_TOKEN
from .image import ImageInputs
from .image_naflex import NaflexInputs

Run = Callable[[Mapping[str, np.ndarray], str], np.ndarray]
"""Inputs and the name of an output → that output, float32 (rows, hidden)."""

WINDOW_STEPS = CHUNK_FRAMES // FRAMES_PER_TOKEN
_POOL = 2  # patches a side of a pooled cell
_LAST_COORDINATE = np.float32(1 - 1e-6)


def crop_rows(image: ImageInputs, run: Run) -> np.ndarray:
    """The rows of a picture that comes as a view of the whole and crops: float32 (tokens, hidden).

    A run gives the cells of one crop, row by row, and the two separators. Crops that are padding alone are not run.
    """
    cells = image.attention_mask.shape[-1] // _POOL
    encoded = [
        run({"pixel_values": pixels[None], **_places(mask != 0)}, "image_features") if mask.any() else None
        for pixels, mask in zip(image.pixel_values, image.attention_mask, strict=True)
    ]
    first = encoded[0]
    assert first is not None  # the view of the whole has no padding
    width, (row_end, between) = first.shape[1], first[-2:]
    down, across = (length // image.pixel_values.shape[-1] for length in image.image_size)
    crops = np.zeros((down, across, cells, cells, width), np.float32)
    for index, rows in enumerate(encoded[1:]):
        if rows is not None:
            crops[divmod(index, across)] = rows[:-2].reshape(cells, cells, width)
    height, length = _useful(image.attention_mask[1:].reshape(down, across, *image.attention_mask.shape[1:]))
    grid = crops.transpose(0, 2, 1, 3, 4).reshape(down * cells, across * cells, width)[:height, :length]
    whole = first[:-2].reshape(cells, cells, width)
    return np.concatenate([_with_ends(grid, row_end), between[None], _with_ends(whole, row_end)])


def patch_rows(image: NaflexInputs, capacity: int, places: int, run: Run) -> np.ndarray:
    """The rows of a picture that comes as at most `capacity` patches, one each: float32 (tokens, hidden).

    `places`: how many positions the encoder has learned, a square.
    """
    pixels = np.zeros((1, capacity, image.patches.shape[1]), np.float32)
    pixels[0, : image.tokens] = image.patches
    positions = np.zeros((capacity, places), np.float32)
    positions[: image.tokens] = _position_weights(*image.spatial_shape, math.isqrt(places))
    mask = (np.arange(capacity) < image.tokens).astype(np.float32)[None]
    feeds = {"pixel_values": pixels, "position_weights": positions, "patch_mask": mask}
    return run(feeds, "image_features")[: image.tokens]


def window_rows(features: np.ndarray, output: str, run: Run) -> np.ndarray:
    """The rows of a recording, features float32 (frames, bins): float32 (tokens, hidden) of the graph's `output`.

    Each window comes with the frames of the step before it, as convolutions reach back. In a recording of one window
    attention sees the recording alone; the last window of a longer one is filled up, and attention sees that too.
    """
    tokens = math.ceil(len(features) / FRAMES_PER_TOKEN)
    seen = np.ones((1, WINDOW_STEPS), np.float32)
    if tokens <= WINDOW_STEPS:
        seen[:, tokens:] = 0
    rows = [run({**window, "step_mask": seen}, output) for window in _windows(features)]
    return np.concatenate(rows)[:tokens]


def _position_weights(rows: int, columns: int, side: int) -> np.ndarray:
    """How much each patch of a grid takes of each place of the learned square: float32 (rows · columns, side²).

    Bilinear with antialiasing and half-pixel centres, in either direction by itself.
    """
    return np.kron(_resampling(rows, side), _resampling(columns, side))


def _windows(features: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(features), CHUNK_FRAMES):
        before = FRAMES_PER_TOKEN if start else 0
        part = features[start - before : start + CHUNK_FRAMES]
        frames = np.zeros((1, FRAMES_PER_TOKEN + CHUNK_FRAMES, features.shape[1]), np.float32)
        own = np.zeros(frames.shape[:2], np.float32)
        place = slice(FRAMES_PER_TOKEN - before, FRAMES_PER_TOKEN - before + len(part))
        frames[0, place], own[0, place] = part, 1
        yield {"audio_embeds": frames, "frame_mask": own}


def _places(valid: np.ndarray) -> dict[str, np.ndarray]:
    """Of a crop whose patches are `valid`, bool (patches, patches): the valid part spans the table of positions."""
    row, column = _buckets(valid[:, 0]), _buckets(valid[0])
    ids = np.where(valid, row[:, None] * len(valid) + column, 0)
    return {
        "position_ids": ids.reshape(-1).astype(np.int32), "patch_mask": valid.reshape(1, -1).astype(np.float32)
    }


def _buckets(line: np.ndarray) -> np.ndarray:
    """Of each patch of a line, n of which are valid, the bucket of i / n: in float32, by 1 / n, as it was trained."""
    count = len(line)
    fractions = np.arange(count, dtype=np.float32) * (np.float32(1) / np.float32(line.sum()))
    edges = (np.arange(1, count) / count).astype(np.float32)
    buckets: np.ndarray = (np.minimum(fractions, _LAST_COORDINATE)[:, None] >= edges).sum(axis=1)
    return buckets


def _useful(masks: np.ndarray) -> tuple[int, int]:
    """Rows and columns of cells that are no padding: masks (rows, columns, patches, patches) of the crops."""
    rows, columns, patches = masks.shape[:3]
    whole = masks.transpose(0, 2, 1, 3).reshape(rows * patches, columns * patches)[::_POOL, ::_POOL]
    return int(whole[:, 0].sum()), int(whole[0].sum())


def _with_ends(grid: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(rows, columns, width) → (rows · (columns + 1), width): each row with `end` behind it."""
    ends = np.broadcast_to(end, (len(grid), 1, len(end)))
    return np.concatenate([grid, ends], axis=1).reshape(-1, len(end))


def _resampling(count: int, side: int) -> np.ndarray:
    """float32 (count, side): a triangle around each place, of sum 1."""
    scale = np.float32(side) / np.float32(count)
    centres = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    away = np.abs(np.arange(side, dtype=np.float32) - centres[:, None]) / max(scale, np.float32(1))
    triangles = np.maximum(np.float32(1) - away, np.float32(0))
    weights: np.ndarray = triangles / triangles.sum(axis=1, keepdims=True)
    return weights
