"""Pictures and recordings → rows that stand in the prompt: encoder graphs opened at first use, results kept by content.

Boundary: decoding and preprocessing are those of image.py, image_naflex.py and audio.py; how graphs of fixed shapes are
run is fixed_encoders.py's, what the rows mean to the text graph inputs.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .audio import CHUNK_FRAMES, FRAMES_PER_TOKEN, AudioInputs, count_tokens
from .errors import ProviderUnavailable
from .fixed_encoders import Run, crop_rows, patch_rows, window_rows
from .graphs import Graph, Interrupt
from .image import ImageInputs
from .image_naflex import NaflexInputs
from .manifest import MODE_VISION_SPEECH
from .prefix_cache import Prefixes
from .providers.provider import Provider

GROUP_FRAMES = 4 * CHUNK_FRAMES  # encoded at once: long recordings cost no more memory than 160 s of speech

Picture: TypeAlias = ImageInputs | NaflexInputs
_LOG = logging.getLogger("edgephi")


class LazyGraph:
    """A graph that takes memory from its first use until it is released.

    `provider` is the device that it is for. Where that one turns out not to take it, another one `instead` does, with a
    file of its own, and a warning is logged; `reason` says why the graph is where it is.
    """

    def __init__(
        self, path: Path, provider: Provider, threads: int, reason: str = "asked for",
        instead: tuple[Path, Provider] | None = None,
    ) -> None:
        self.provider, self.reason = provider, reason
        self._path, self._threads, self._instead = path, threads, instead
        self._graph: Graph | None = None

    @property
    def loaded(self) -> bool:
        """Whether the graph is in memory."""
        return self._graph is not None

    @property
    def left_to_cpu(self) -> dict[str, int]:
        """Operators that its device leaves to the CPU, with how many of each; empty while it is not in memory."""
        return {} if self._graph is None else self._graph.left_to_cpu

    def opened(self) -> Graph:
        """The graph, loaded if need be; what does not run where it is wanted is logged.

        Raises BundleError, ProviderUnavailable.
        """
        if self._graph is None:
            self._graph = self._open()
            if self._graph.left_to_cpu:
                left = ", ".join(f"{count} {kind}" for kind, count in self._graph.left_to_cpu.items())
                _LOG.warning("%s: %s leaves to the CPU: %s", self._path.name, self.provider.name, left)
        return self._graph

    def run(self, feeds: Mapping[str, np.ndarray], output: str, interrupt: Interrupt) -> np.ndarray:
        """One run for one output; loads the graph if need be. Raises BundleError, ProviderUnavailable, Interrupted."""
        return self.opened().run(feeds, [output], interrupt)[output]

    def interruptible(self, interrupt: Interrupt) -> Run:
        """`run` for a medium that takes several, which can be interrupted between them."""
        def run(feeds: Mapping[str, np.ndarray], output: str) -> np.ndarray:
            interrupt.check()
            return self.run(feeds, output, interrupt)

        return run

    def release(self) -> None:
        """Give the memory back; the next run loads the graph again."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _open(self) -> Graph:
        try:
            return Graph(self._path, self.provider, self._threads)
        except ProviderUnavailable as error:
            if self._instead is None:
                raise
            self.reason = f"{self.provider.name} does not take it: {error}"
            (self._path, self.provider), self._instead = self._instead, None
            _LOG.warning("%s is computed by %s: %s", self._path.name, self.provider.name, self.reason)
            return Graph(self._path, self.provider, self._threads)


class _KeptRows:
    """Rows that are computed once for as long as they are kept, by content and the device that made them."""

    def __init__(self, graph: LazyGraph, prefixes: Prefixes | None) -> None:
        self._graph, self._prefixes = graph, prefixes

    def get(self, content: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """What is kept of `content`, else what `compute` gives."""
        rows = None if self._prefixes is None else self._prefixes.rows(self._key(content))
        if rows is None:
            rows = compute()
            if self._prefixes is not None:
                self._prefixes.keep_rows(self._key(content), rows)  # the device may have become another one
        return rows

    def _key(self, content: str) -> str:
        return f"{content}:{self._graph.provider.name}"


class ImageEncoder:
    """The vision graph, of `fixed` shapes or not: rows float32 (tokens, hidden) of one picture at a time."""

    def __init__(self, graph: LazyGraph, prefixes: Prefixes | None = None, *, fixed: bool = False) -> None:
        self.graph = graph
        self._kept = _KeptRows(graph, prefixes)
        self._fixed = fixed

    def encode(self, image: Picture, interrupt: Interrupt) -> np.ndarray:
        """The rows of `image`; computed once for as long as they are kept.

        Raises BundleError, ProviderUnavailable, Interrupted.
        """
        return self._kept.get(image.sha256, lambda: self._rows(image, interrupt))

    def _rows(self, image: Picture, interrupt: Interrupt) -> np.ndarray:
        if not self._fixed:
            return self.graph.run(_feeds(image), "image_features", interrupt)
        if isinstance(image, NaflexInputs):
            capacity, places = map(int, self.graph.opened().inputs["position_weights"].shape)
            return patch_rows(image, capacity, places, self.graph.interruptible(interrupt))
        return crop_rows(image, self.graph.interruptible(interrupt))


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
    """The speech graph: rows float32 (tokens, hidden) of one recording at a time, long ones in groups of pieces or, in
    `fixed` shapes, piece by piece.
    """

    def __init__(self, graph: LazyGraph, prefixes: Prefixes | None = None, *, fixed: bool = False) -> None:
        self.graph = graph
        self._kept = _KeptRows(graph, prefixes)
        self._fixed = fixed

    def encode(self, recording: AudioInputs, mode: int, interrupt: Interrupt) -> np.ndarray:
        """The rows of `recording` under `mode`, MODE_SPEECH or MODE_VISION_SPEECH.

        Raises BundleError, ProviderUnavailable, Interrupted.
        """
        return self._kept.get(f"{recording.sha256}:{mode}", lambda: self._rows(recording, mode, interrupt))

    def _rows(self, recording: AudioInputs, mode: int, interrupt: Interrupt) -> np.ndarray:
        if self._fixed:
            output = "audio_features_with_images" if mode == MODE_VISION_SPEECH else "audio_features"
            return window_rows(recording.features, output, self.graph.interruptible(interrupt))
        starts = range(0, recording.frames, GROUP_FRAMES)
        return np.concatenate([self._group(recording.features, start, mode, interrupt) for start in starts])

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
