"""Pictures and recordings → rows that stand in the prompt: encoder graphs opened at first use, results kept by content.

Boundary: decoding and preprocessing are those of image.py, image_naflex.py and audio.py; what the rows mean to the text
graph is inputs.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .audio import CHUNK_FRAMES, FRAMES_PER_TOKEN, AudioInputs, count_tokens
from .graphs import Graph, Interrupt
from .image import ImageInputs
from .image_naflex import NaflexInputs
from .prefix_cache import Prefixes
from .providers.provider import Provider

# Values of the speech graph's audio_projection_mode: what the whole prompt holds.
MODE_SPEECH, MODE_VISION_SPEECH = 2, 3
GROUP_FRAMES = 4 * CHUNK_FRAMES  # encoded at once: long recordings cost no more memory than 160 s of speech

Picture: TypeAlias = ImageInputs | NaflexInputs


class LazyGraph:
    """A graph that takes memory from its first use until it is released."""

    def __init__(self, path: Path, provider: Provider, threads: int) -> None:
        self._path, self._provider, self._threads = path, provider, threads
        self._graph: Graph | None = None

    @property
    def loaded(self) -> bool:
        """Whether the graph is in memory."""
        return self._graph is not None

    def run(self, feeds: Mapping[str, np.ndarray], output: str, interrupt: Interrupt) -> np.ndarray:
        """One run for one output; loads the graph if need be. Raises BundleError, Interrupted."""
        if self._graph is None:
            self._graph = Graph(self._path, self._provider, self._threads)
        return self._graph.run(feeds, [output], interrupt)[output]

    def release(self) -> None:
        """Give the memory back; the next run loads the graph again."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None


class ImageEncoder:
    """The vision graph: rows float32 (tokens, hidden) of one picture at a time."""

    def __init__(self, graph: LazyGraph, prefixes: Prefixes | None = None) -> None:
        self.graph = graph
        self._prefixes = prefixes

    def encode(self, image: Picture, interrupt: Interrupt) -> np.ndarray:
        """The rows of `image`; computed once for as long as they are kept. Raises BundleError, Interrupted."""
        rows = None if self._prefixes is None else self._prefixes.rows(image.sha256)
        if rows is None:
            rows = self.graph.run(_feeds(image), "image_features", interrupt)
            if self._prefixes is not None:
                self._prefixes.keep_rows(image.sha256, rows)
        return rows


def _feeds(image: Picture) -> dict[str, np.ndarray]:
    """One picture as the vision graph takes it."""
    if isinstance(image, NaflexInputs):
        return {"pixel_values": image.patches[None], "spatial_shapes": np.array([image.spatial_shape], np.int64)}
    return {
        "pixel_values": image.pixel_values[None],
        "image_attention_mask": image.attention_mask[None],
        "image_sizes": np.array([image.image_size], np.int64),
    }


class SpeechEncoder:
    """The speech graph: rows float32 (tokens, hidden) of one recording at a time, long ones in groups of pieces."""

    def __init__(self, graph: LazyGraph, prefixes: Prefixes | None = None) -> None:
        self.graph = graph
        self._prefixes = prefixes

    def encode(self, recording: AudioInputs, mode: int, interrupt: Interrupt) -> np.ndarray:
        """The rows of `recording` under `mode`, MODE_SPEECH or MODE_VISION_SPEECH. Raises BundleError, Interrupted."""
        key = f"{recording.sha256}:{mode}"
        rows = None if self._prefixes is None else self._prefixes.rows(key)
        if rows is None:
            starts = range(0, recording.frames, GROUP_FRAMES)
            rows = np.concatenate([self._group(recording.features, start, mode, interrupt) for start in starts])
            if self._prefixes is not None:
                self._prefixes.keep_rows(key, rows)
        return rows

    def _group(self, features: np.ndarray, start: int, mode: int, interrupt: Interrupt) -> np.ndarray:
        """Rows of the frames from `start` on; the convolutions see what came before, as in one run over everything."""
        interrupt.check()
        context = FRAMES_PER_TOKEN if start else 0
        frames = features[start - context : start + GROUP_FRAMES]
        feeds: dict[str, np.ndarray] = {
            "audio_embeds": np.ascontiguousarray(frames[None]),
            "audio_attention_mask": np.ones((1, len(frames)), np.bool_),
            "audio_sizes": np.array([count_tokens(len(frames) - context)], np.int64),
            "audio_projection_mode": np.array([mode], np.int64),
            "audio_context": np.array([context], np.int64),
        }
        return self.graph.run(feeds, "audio_features", interrupt)
