"""How positions of a sequence become inputs of the text graph: the one place that knows what a position is made of.

Boundary: the decode loop and the cache see positions only as values that are equal or not. A graph that takes
embeddings instead of ids needs another class beside `TokenInputs`, and nothing else of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .cache import Position
from .errors import BundleError
from .graphs import Binding, Graph


class TextInputs(Protocol):
    """Writes a chunk of positions into a binding of the text graph."""

    def write(self, binding: Binding, positions: Sequence[Position]) -> None:
        """Bind the inputs that stand for `positions`, all of them new to the sequence."""


class TokenInputs:
    """Positions are token ids, read by the graph itself: `input_ids`, int64 (1, positions)."""

    NAME = "input_ids"

    def __init__(self, graph: Graph) -> None:
        if self.NAME not in graph.inputs:
            raise BundleError(f"{graph.path}: the graph has no input {self.NAME!r}; export the checkpoint again")
        self._single = np.zeros((1, 1), np.int64)
        self._bound: np.ndarray | None = None

    def write(self, binding: Binding, positions: Sequence[Position]) -> None:
        """A step of one position reuses its buffer: nothing is bound anew from token to token."""
        if len(positions) == 1:
            ids = self._single
            ids[0, 0] = positions[0]  # type: ignore[call-overload]  # a token id, in this class
        else:
            ids = np.array([positions], np.int64)
        if ids is not self._bound:
            binding.bind_input(self.NAME, ids)
            self._bound = ids
