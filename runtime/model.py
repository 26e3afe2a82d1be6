"""The graphs of a loaded bundle: the decoder, and what a prompt with media needs on top, opened when one comes.

Boundary: decides which graph is in memory; runs none by itself but the encoders, and knows neither text nor sampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np

from . import compiled, int8_cache, prepacked
from .audio import AudioInputs
from .cache import Position
from .decode import CHUNK, FEWEST, Decoder, Work
from .encoders import ImageEncoder, LazyGraph, SpeechEncoder
from .errors import BundleError, RequestError
from .graphs import Graph, Interrupt
from .inputs import EmbeddingInputs, TextInputs, TokenInputs
from .manifest import INT8_CACHE, Manifest
from .prefix_cache import PrefixCache, Prefixes
from .prompt import Encoders, ReadPrompt
from .providers import find as find_provider
from .providers.provider import Provider
from .rotary import RotaryTables
from .selection import Choice
from .stepping import FixedSteps, FreeSteps, Steps

TEXT, TEXT_MEDIA, EMBEDDING, VISION, SPEECH = "text", "text-media", "embedding", "vision", "speech"
TEXT_VISION, TEXT_SPEECH, STEP = "text-vision", "text-speech", "-step"
TEXT_STEP, TEXT_INT8_CACHE = f"{TEXT}{STEP}", f"{TEXT}{INT8_CACHE}"


class Model:
    """One bundle in memory. A bundle that takes media starts with the decoder alone.

    Where media need adapters, the first picture or recording replaces it by the decoder with them, over the same
    weights: both at once would double the memory. With its adapters off that one computes the same as the plain one,
    so it stays. In fixed shapes there is a decoder for each adapter, which cannot be off: every prompt gets its own.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, provider: Provider, threads: int, tables: RotaryTables,
        prefix_cache: PrefixCache, prepared: Path | None = None, parts: Mapping[str, Choice] = MappingProxyType({}),
        calibration: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        """Open the decoder, its weights mapped from a file in the folder `prepared` where one is given.

        `parts`: the devices of the encoders, by default that of the decoder. `calibration`: keep keys and values as
        INT8, with scales measured on these ids. Raises BundleError, ProviderUnavailable, and RequestError without room
        in that folder or where the bundle takes no INT8 cache.
        """
        self._manifest = manifest
        self._device = provider.name
        self._chunk = CHUNK if provider.widest is None else provider.widest
        self._tables = tables
        self._calibration = calibration
        if calibration is not None:
            int8_cache.require(manifest, TEXT)

        form = compiled.choose(manifest, provider)
        self.form_note = form.note

        def open_graph(name: str) -> Graph:
            path = folder / form.graphs.get(name, manifest.graphs[name]).file
            if prepared is not None and name in (TEXT, TEXT_INT8_CACHE, TEXT_MEDIA):
                path = prepacked.prepare(folder, manifest, name, provider, prepared)
            device = form.provider if name in form.graphs else provider
            # the look-up stays where its table is mapped: the decoder takes its vectors from the host
            return Graph(path, find_provider("cpu") if name == EMBEDDING else device, threads)

        self._open: Callable[[str], Graph] = open_graph
        self._embedding = self._open(EMBEDDING) if EMBEDDING in manifest.graphs else None
        kept_for = provider.name if calibration is None else f"{provider.name} {int8_cache.key(manifest, TEXT)}"
        self._prefixes = Prefixes(prefix_cache, manifest, kept_for)

        def encoder(name: str) -> LazyGraph | None:
            if name not in manifest.graphs:
                return None
            choice, stored = parts.get(name) or Choice(provider, "asked for"), manifest.graphs[name]
            own = compiled.choose(manifest, choice.provider, name)
            return LazyGraph(
                folder / own.graphs.get(name, stored).file, own.provider, threads,
                "; ".join(filter(None, (choice.reason, own.note))),
                None if choice.instead is None else (folder / stored.file, choice.instead),
            )

        vision, speech, fixed = encoder(VISION), encoder(SPEECH), TEXT_STEP in manifest.graphs
        self._encoders = Encoders(
            None if vision is None else ImageEncoder(vision, self._prefixes, fixed=fixed),
            None if speech is None else SpeechEncoder(speech, self._prefixes, fixed=fixed),
        )
        self._use(TEXT if calibration is None else TEXT_INT8_CACHE)

    @property
    def decoder(self) -> Decoder:
        """The decoder in use; a prompt may replace it by one with other adapters."""
        return self._decoder

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the graphs that are in memory now."""
        names = [self._name, *([EMBEDDING] if self._embedding is not None else [])]
        return (*names, *(name for name, graph in self.encoders.items() if graph.loaded))

    @property
    def encoders(self) -> dict[str, LazyGraph]:
        """The encoders of the bundle by name, loaded or not."""
        parts = ((VISION, self._encoders.image), (SPEECH, self._encoders.speech))
        return {name: encoder.graph for name, encoder in parts if encoder is not None}

    @property
    def left_to_cpu(self) -> dict[str, int]:
        """Operators of the graphs in memory that their devices leave to the CPU, with how many of each."""
        left = Counter(self._graph.left_to_cpu)
        for graph in self.encoders.values():
            left.update(graph.left_to_cpu)
        return dict(left)

    def positions(
        self, prompt: ReadPrompt, interrupt: Interrupt, adapter: str | None = None
    ) -> Sequence[Position]:
        """What the decoder reads for `prompt`, with `adapter` from now on; encodes media not seen lately.

        Raises BundleError, ProviderUnavailable, Interrupted, and RequestError for an adapter over an INT8 cache.
        """
        self._prepare(prompt, adapter)
        return prompt.positions(self._encoders, interrupt)

    def begin(
        self, prompt: ReadPrompt, interrupt: Interrupt, adapter: str | None = None
    ) -> tuple[Sequence[Position], Work | None]:
        """`positions`, and the decoder's work where it read the text before the first medium meanwhile.

        It does where another device encodes: on one device the two take as long at once as in turn. Raises what
        `positions` and `Decoder.advance` raise.
        """
        self._prepare(prompt, adapter)
        start = prompt.slots[0].start if prompt.slots else 0
        if start < FEWEST or set(self.encoder_devices(prompt).values()) <= {self._device}:
            return prompt.positions(self._encoders, interrupt), None
        with ThreadPoolExecutor(max_workers=1) as pool:
            encoding = pool.submit(prompt.positions, self._encoders, interrupt)
            ahead = self._decoder.read_ahead(prompt.outline(), start, interrupt)
            return encoding.result(), ahead

    def _prepare(self, prompt: ReadPrompt, adapter: str | None) -> None:
        """The decoder and the adapter that a prompt needs."""
        if adapter is not None and self._name == TEXT_INT8_CACHE:
            raise RequestError(f"adapter {adapter!r} does not go with an INT8 cache: load the bundle without it (kv)")
        wanted = self._decoder_for(prompt)
        if wanted != self._name:
            self._switch(wanted)
        self._decoder.select_adapter(adapter)

    def encoder_devices(self, prompt: ReadPrompt) -> dict[str, str]:
        """The devices of the encoders that the media of `prompt` need, by name of the encoder."""
        needed = {SPEECH if isinstance(slot.inputs, AudioInputs) else VISION for slot in prompt.slots}
        return {name: graph.provider.name for name, graph in self.encoders.items() if name in needed}

    def release_encoders(self) -> None:
        """Give the memory of the encoders and of what they made back; the next medium loads them again."""
        self._unload_encoders()
        self._prefixes.forget_rows()

    def close(self) -> None:
        """Free everything, after the step in progress."""
        self._close_decoder()
        self._unload_encoders()
        if self._embedding is not None:
            self._embedding.close()
        self._prefixes.close()

    def _unload_encoders(self) -> None:
        for graph in self.encoders.values():
            graph.release()

    def _decoder_for(self, prompt: ReadPrompt) -> str:
        """The decoder whose adapter a prompt needs: any picture → vision, recordings alone → speech."""
        if self._name in (TEXT_MEDIA, TEXT_INT8_CACHE):
            return self._name
        pictured = any(not isinstance(slot.inputs, AudioInputs) for slot in prompt.slots)
        wanted = (TEXT_MEDIA, TEXT_VISION if pictured else TEXT_SPEECH) if prompt.slots else ()
        return next((name for name in wanted if name in self._manifest.graphs), TEXT)

    def _switch(self, name: str) -> None:
        """Another decoder over other keys and values; a later prompt may go on with those of this one."""
        before = self._name
        self._prefixes.save(self._decoder.cache, 0)
        self._close_decoder()
        try:
            self._use(name)
        except BaseException:
            self._use(before)
            raise

    def _close_decoder(self) -> None:
        self._decoder.close()
        self._graph.close()
        if self._iterator is not None:
            self._iterator.close()

    def _use(self, name: str) -> None:
        graph = self._open(name)
        text, inputs = self._manifest.text, self._inputs(graph)
        steps: Steps | None = None
        self._iterator = self._open(f"{name}{STEP}") if f"{name}{STEP}" in self._manifest.graphs else None
        if self._iterator is not None:
            if not isinstance(inputs, EmbeddingInputs):
                raise BundleError(f"{graph.path}: no graph {EMBEDDING!r} goes with it; export the checkpoint again")
            steps = FixedSteps(graph, self._iterator, text, inputs)
        elif self._calibration is not None:
            steps = self._int8_steps(graph, inputs, self._calibration)
        self._decoder = Decoder(
            graph, text, self._tables, inputs, chunk=self._chunk, prefixes=self._prefixes, steps=steps
        )
        self._graph, self._name = graph, name

    def _int8_steps(self, graph: Graph, inputs: TextInputs, calibration: Callable[[], Sequence[int]]) -> Steps:
        """Steps over an INT8 cache, whose scales are measured where they are not known."""
        text = self._manifest.text
        scales = np.empty(int8_cache.scales_shape(text), np.float32)

        def over_scales() -> Steps:
            return FreeSteps(graph, text, self._tables, inputs, self._chunk, scales)

        def fill() -> None:
            decoder = Decoder(graph, text, self._tables, inputs, chunk=self._chunk, steps=over_scales())
            int8_cache.measure(decoder, text, calibration(), scales)
            decoder.close()

        int8_cache.find(self._manifest, TEXT, scales, fill)
        return over_scales()

    def _inputs(self, graph: Graph) -> TextInputs:
        if self._embedding is None:
            return TokenInputs(graph)
        return EmbeddingInputs(
            self._embedding, self._manifest.tokens.placeholders, self._manifest.text.hidden_size,
            adapters=not {TEXT_MEDIA, TEXT_VISION}.isdisjoint(self._manifest.graphs),
        )
