"""The graphs of a loaded bundle: the decoder, and what a prompt with media needs on top, opened when one comes.

Boundary: decides which graph is in memory; runs none by itself but the encoders, and knows neither text nor sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from . import prepacked
from .cache import Position
from .decode import Decoder
from .encoders import ImageEncoder, LazyGraph, SpeechEncoder
from .errors import BundleError
from .graphs import Graph, Interrupt
from .inputs import EmbeddingInputs, TextInputs, TokenInputs
from .manifest import Manifest
from .prefix_cache import PrefixCache, Prefixes
from .prompt import Encoders, ReadPrompt
from .providers import find as find_provider
from .providers.provider import Provider
from .rotary import RotaryTables
from .stepping import FixedSteps

TEXT, TEXT_MEDIA, EMBEDDING, VISION, SPEECH = "text", "text-media", "embedding", "vision", "speech"
TEXT_STEP = "text-step"


class Model:
    """One bundle in memory. A bundle that takes media starts with the decoder alone.

    Where media need adapters, the first picture or recording replaces it by the decoder with them, over the same
    weights: both at once would double the memory. With its adapters off that one computes the same as the plain one,
    so it stays.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, provider: Provider, threads: int, tables: RotaryTables,
        prefix_cache: PrefixCache, prepared: Path | None = None,
    ) -> None:
        """Open the decoder, its weights mapped from a file in the folder `prepared` where one is given.

        Raises BundleError, ProviderUnavailable, and RequestError without room in that folder.
        """
        self._manifest = manifest
        self._tables = tables

        def open_graph(name: str) -> Graph:
            path = folder / manifest.graphs[name].file
            if prepared is not None and name in (TEXT, TEXT_MEDIA):
                path = prepacked.prepare(folder, manifest, name, provider, prepared)
            # graphs of fixed shapes come with a look-up that stays on the CPU, where its table is mapped
            looked_up = name == EMBEDDING and TEXT_STEP in manifest.graphs
            return Graph(path, find_provider("cpu") if looked_up else provider, threads)

        self._open: Callable[[str], Graph] = open_graph
        self._embedding = self._open(EMBEDDING) if EMBEDDING in manifest.graphs else None
        self._prefixes = Prefixes(prefix_cache, manifest, provider.name)
        vision, speech = (
            LazyGraph(folder / manifest.graphs[name].file, provider, threads) if name in manifest.graphs else None
            for name in (VISION, SPEECH)
        )
        self._encoders = Encoders(
            None if vision is None else ImageEncoder(vision, self._prefixes),
            None if speech is None else SpeechEncoder(speech, self._prefixes),
        )
        self._use(TEXT)

    @property
    def decoder(self) -> Decoder:
        """The decoder in use; another one after the first prompt with media."""
        return self._decoder

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the graphs that are in memory now."""
        names = [self._name, *([EMBEDDING] if self._embedding is not None else [])]
        parts = ((VISION, self._encoders.image), (SPEECH, self._encoders.speech))
        names += [name for name, encoder in parts if encoder is not None and encoder.graph.loaded]
        return tuple(names)

    @property
    def left_to_cpu(self) -> dict[str, int]:
        """Operators of the decoder that its device leaves to the CPU, with how many of each."""
        return self._graph.left_to_cpu

    def positions(
        self, prompt: ReadPrompt, interrupt: Interrupt, adapter: str | None = None
    ) -> Sequence[Position]:
        """What the decoder reads for `prompt`, with `adapter` from now on; encodes media not seen lately.

        Raises BundleError, Interrupted.
        """
        if prompt.slots and self._name == TEXT and TEXT_MEDIA in self._manifest.graphs:
            self._switch_to_adapters()
        self._decoder.select_adapter(adapter)
        return prompt.positions(self._encoders, interrupt)

    def release_encoders(self) -> None:
        """Give the memory of the encoders and of what they made back; the next medium loads them again."""
        self._unload_encoders()
        self._prefixes.forget_rows()

    def close(self) -> None:
        """Free everything, after the step in progress."""
        self._decoder.close()
        self._graph.close()
        if self._iterator is not None:
            self._iterator.close()
        self._unload_encoders()
        if self._embedding is not None:
            self._embedding.close()
        self._prefixes.close()

    def _unload_encoders(self) -> None:
        for encoder in (self._encoders.image, self._encoders.speech):
            if encoder is not None:
                encoder.graph.release()

    def _switch_to_adapters(self) -> None:
        self._decoder.close()
        self._graph.close()
        try:
            self._use(TEXT_MEDIA)
        except BaseException:
            self._use(TEXT)
            raise

    def _use(self, name: str) -> None:
        graph = self._open(name)
        text, inputs, steps = self._manifest.text, self._inputs(graph), None
        self._iterator = self._open(TEXT_STEP) if TEXT_STEP in self._manifest.graphs else None
        if self._iterator is not None:
            if not isinstance(inputs, EmbeddingInputs):
                raise BundleError(f"{graph.path}: no graph {EMBEDDING!r} goes with it; export the checkpoint again")
            steps = FixedSteps(graph, self._iterator, text, inputs)
        self._decoder = Decoder(graph, text, self._tables, inputs, prefixes=self._prefixes, steps=steps)
        self._graph, self._name = graph, name

    def _inputs(self, graph: Graph) -> TextInputs:
        if self._embedding is None:
            return TokenInputs(graph)
        return EmbeddingInputs(
            self._embedding, self._manifest.tokens.placeholders, self._manifest.text.hidden_size,
            adapters=TEXT_MEDIA in self._manifest.graphs,
        )
