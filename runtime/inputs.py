"""How positions of a sequence become inputs of the text graph: the one place that knows what a position is made of.

Boundary: the decode loop and the cache see positions only as values that are equal or not. A graph that takes
embeddings instead of ids needs another class beside `TokenInputs`, and nothing else of the loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .cache import Position
from .errors import BundleError
from .graphs import Binding, Graph, Interrupt


class TextInputs(Protocol):
    """Writes a chunk of positions into a binding of the text graph."""

    def adapter(self, positions: Sequence[Position]) -> str | None:
        """The adapter of the decoder that a sequence of these positions needs, None for none."""

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

    def adapter(self, positions: Sequence[Position]) -> None:
        """Text needs no adapter."""

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


@dataclass(frozen=True, slots=True)
class MediaRow:
    """A position of a picture or recording: row `row` of `features`, which `content` tells from all others."""

    placeholder: int
    content: str
    row: int
    features: np.ndarray = field(compare=False, repr=False)


def identity(positions: Sequence[Position]) -> bytes:
    """Bytes that two stretches of positions share exactly where they are equal, in any process."""
    return ",".join(
        f"{position.placeholder}:{position.content}:{position.row}" if isinstance(position, MediaRow) else str(position)
        for position in positions
    ).encode()


class EmbeddingInputs:
    """Positions are token ids and rows of media; the graph reads `inputs_embeds`, float (1, positions, hidden)."""

    NAME = "inputs_embeds"
    # What the rows of a kind of media are called as an input of `embedding`, and the adapter they bring along, if any.
    KINDS = {"image": ("image_features", "vision"), "audio": ("audio_features", "speech")}  # noqa: RUF012

    def __init__(
        self, embedding: Graph, placeholders: Mapping[str, int], hidden: int, *, adapters: bool
    ) -> None:
        """`placeholders`: the id that the graph `embedding` replaces by rows of each kind of media that it takes.

        `adapters`: whether the decoder has one for each kind.
        """
        self._embedding = embedding
        kinds = [(*self.KINDS[kind], number) for kind, number in placeholders.items()]
        self._features = [(feature, number) for feature, _, number in kinds]
        self._adapters = [(adapter, number) for _, adapter, number in kinds] if adapters else []
        self._ids = np.zeros((1, 1), np.int64)
        self._single = np.empty((1, 1, hidden), embedding.outputs[self.NAME].dtype)
        self._none = np.empty((0, hidden), np.float32)
        self._uninterrupted = Interrupt()  # a look-up is over before anyone could end it
        self._step = embedding.bind()
        self._step.bind_input(TokenInputs.NAME, self._ids)
        for name, _ in self._features:
            self._step.bind_input(name, self._none)
        self._step.bind_output(self.NAME, self._single)
        self._bound: np.ndarray | None = None

    def adapter(self, positions: Sequence[Position]) -> str | None:
        """As the model was trained: any picture → vision, recordings alone → speech, for the whole sequence."""
        present = {position.placeholder for position in positions if isinstance(position, MediaRow)}
        return next((adapter for adapter, placeholder in self._adapters if placeholder in present), None)

    def write(self, binding: Binding, positions: Sequence[Position]) -> None:
        """A step of one token reuses its buffers: nothing is bound anew from token to token."""
        vectors = self.vectors(positions)
        if vectors is not self._bound:
            binding.bind_input(self.NAME, vectors)
            self._bound = vectors

    def vectors(self, positions: Sequence[Position]) -> np.ndarray:
        """What the decoder reads for the positions, (1, positions, hidden); valid until the next call."""
        if len(positions) == 1 and isinstance(positions[0], int):
            self._ids[0, 0] = positions[0]
            self._step.run(self._uninterrupted)
            return self._single
        return self._embed(positions)

    def _embed(self, positions: Sequence[Position]) -> np.ndarray:
        media = [position for position in positions if isinstance(position, MediaRow)]
        ids = [position.placeholder if isinstance(position, MediaRow) else position for position in positions]
        feeds: dict[str, np.ndarray] = {TokenInputs.NAME: np.array([ids], np.int64)}
        for name, placeholder in self._features:
            rows = [position.features[position.row] for position in media if position.placeholder == placeholder]
            feeds[name] = np.stack(rows) if rows else self._none
        return self._embedding.run(feeds, [self.NAME])[self.NAME]
