"""Rows of a weight from the tensors that it is made of.

Boundary: arrays and pieces; what the pieces of a weight are is decided in weights.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .checkpoint import Checkpoint
from .weights import Piece


def read_weight(
    checkpoint: Checkpoint, pieces: Sequence[Piece], shape: tuple[int, ...], start: int, stop: int
) -> np.ndarray:
    """Rows `start` to `stop` of a weight of `shape`: float32 (stop - start, *shape[1:]).

    Raises WeightMismatch for values that are not finite.
    """
    width = prod(shape[1:])
    if len(pieces) == 1 and pieces[0].columns == width and stop <= pieces[0].rows:
        return _read(checkpoint, pieces[0], start, stop).reshape(stop - start, *shape[1:])
    rows = np.zeros((stop - start, width), np.float32)
    above = 0
    for piece in pieces:
        low, high = max(start, above), min(stop, above + piece.rows)
        if low < high:
            rows[low - start : high - start, : piece.columns] = _read(checkpoint, piece, low - above, high - above)
        above += piece.rows
    return rows.reshape(stop - start, *shape[1:])


def source_bytes(checkpoint: Checkpoint, pieces: Sequence[Piece]) -> int:
    """Bytes that the pieces have in the checkpoint."""
    total = 0
    for piece in pieces:
        info = checkpoint.tensors[piece.tensor]
        total += piece.rows * piece.columns * info.nbytes // max(1, prod(info.shape))
    return total


def _read(checkpoint: Checkpoint, piece: Piece, start: int, stop: int) -> np.ndarray:
    """float32 (stop - start, columns)."""
    first = piece.first + start * piece.columns
    values = checkpoint.read(piece.tensor, first, piece.first + stop * piece.columns)
    if piece.scale != 1.0:
        values *= np.float32(piece.scale)
    return values.reshape(stop - start, piece.columns)
