"""The public class: a bundle loaded for one conversation at a time.

Boundary: turns prompts into token ids and ids into text; the model is run by decode.py. A session keeps no
conversation of its own: every call states the whole prompt, and what it shares with the one before is not computed
again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypedDict, TypeVar, Unpack

import numpy as np

from . import providers
from .answer import AnswerReader, Part
from .audio_decode import AudioSource
from .cache import Snapshot
from .chat import ChatTemplate
from .decode import Progress, Step, generate
from .errors import ContextOverflow, ProviderUnavailable, RequestError, SessionBusy
from .graphs import Interrupt, Interrupted
from .manifest import Manifest, RecommendedSampling, read_manifest, verify_files
from .messages import Message
from .model import Model
from .prompt import Prompt, PromptReader, ReadPrompt
from .providers.provider import Provider
from .rotary import RotaryTables
from .sampling import Sampler, Sampling, is_whole
from .thinking import inside_thought
from .tokens import Tokenizer
from .tools import ToolCall
from .transcribe import CHUNK_SECONDS, Transcript, TranscriptSegment, make_transcript, stream_segments
from .usage import Meter, Piece, Reply, Usage

__all__ = ["Piece", "Prompt", "Reply", "Session", "ToolCall", "Transcript", "TranscriptSegment", "Usage", "load"]

HASHED_BYTES = 64 << 20  # larger files are weights: loading checks their size, `edgephi verify` their hash
MAXIMUM_THREADS = 1024
DEFAULT_TOKENS = 8192  # an answer that never ends must not eat all memory by itself

T = TypeVar("T")


class Options(TypedDict, total=False):
    """The keyword arguments of `Session.stream`, which states their meaning."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str]
    logprobs: bool
    tools: Sequence[Mapping[str, object]] | None
    variables: Mapping[str, object]
    progress: Progress | None
    draft: bool


def load(bundle: str | Path, *, device: str = "cpu", threads: int | None = None, context: int | None = None) -> Session:
    """Open a bundle folder.

    `device` is a name of `edgephi.runtime.providers`, or "auto" for the one that the bundle was exported for.
    `threads`: None for one on each physical core. `context`: the longest conversation in tokens; None for all that
    the model has, where a LongRoPE model computes a conversation again when it outgrows its original length; a number
    for one rotary table from the first token on. Sizes of all files and hashes of all but the weights are checked.

    Raises BundleError, ProviderUnavailable, RequestError.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    provider = _provider(device, manifest)
    if threads is not None and not (is_whole(threads) and 1 <= threads <= MAXIMUM_THREADS):
        raise RequestError(f"threads is {threads!r}; allowed is a whole number from 1 to {MAXIMUM_THREADS}, or None")
    tables = RotaryTables.open(folder, manifest.text, context)
    verify_files(folder, manifest, below=HASHED_BYTES)
    tokenizer = Tokenizer.open(folder)
    template = ChatTemplate.open(folder, tokenizer.controls)
    reader = PromptReader(tokenizer, template, manifest.text.vocab_size, manifest.tokens, manifest.pictures)
    chosen = threads or provider.default_threads()
    model = Model(folder, manifest, provider, chosen, tables)
    return Session(manifest, provider, chosen, tokenizer, reader, model)


@dataclass(frozen=True)
class Kept:
    """What `Session.snapshot` gives: a cached conversation, and the hashes of the text graph that computed it."""

    bundle: tuple[str, ...]
    snapshot: Snapshot

    @property
    def tokens(self) -> int:
        """Length of the conversation."""
        return len(self.snapshot.positions)


class Session:
    """One loaded bundle, made by `load`. One call at a time; `cancel` and `close` from any thread."""

    def __init__(
        self,
        manifest: Manifest,
        provider: Provider,
        threads: int,
        tokenizer: Tokenizer,
        prompts: PromptReader,
        model: Model,
    ) -> None:
        self.manifest = manifest
        self.device = provider.name
        self.threads = threads
        self.context = model.decoder.context
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._model = model
        text = manifest.graphs["text"]
        self._bundle = tuple(manifest.files[name].sha256 for name in (text.file, *text.data))
        self._busy = threading.Lock()
        self._interrupt: Interrupt | None = None
        self._closed = False

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: bool = False,
        tools: Sequence[Mapping[str, object]] | None = None,
        variables: Mapping[str, object] = {},
        progress: Progress | None = None,
        draft: bool = True,
    ) -> Generator[Piece, None, None]:
        """Answer `prompt` piece by piece; the work happens while the pieces are taken.

        `prompt`: text as one user turn, messages of the whole conversation, or token ids. Messages may hold pictures
        and recordings where the bundle takes them. `max_tokens`: None for what the context leaves, at most
        DEFAULT_TOKENS. Sampling: None for what the publisher recommends, else greedy; temperature 0 is greedy. `stop`:
        texts that end the answer and are not part of it. `tools`: function descriptions for templates that take them.
        `variables`: further names that the template reads. `progress(stage, done, total)` is called while the prompt
        is computed, or computed again because it outgrew its rotary table or got its first medium. `draft`: verify
        guesses at repetitions several at a time, which changes the speed and not what is said.

        Raises RequestError and ContextOverflow at once; SessionBusy and NonFiniteLogits while the pieces are taken.
        """
        started = time.perf_counter()
        sampling = _sampling(self.manifest.sampling, temperature, top_k, top_p, min_p, repetition_penalty, seed)
        asked = self._read(prompt, tools, variables)
        ids = asked.ids
        limit = self._limit(len(ids), max_tokens)
        reader = AnswerReader(
            self._tokenizer,
            (stop,) if isinstance(stop, str) else stop,
            thinking=inside_thought(self._tokenizer, ids),
            tools=bool(tools),
        )
        sampler = Sampler(sampling, ids, logprobs=logprobs, never=self._prompts.placeholders)
        meter = Meter(len(ids), time.perf_counter() - started)

        def steps(interrupt: Interrupt) -> Iterator[Step]:
            positions = self._model.positions(asked, interrupt)
            ends = frozenset(self.manifest.tokens.eos)
            yield from generate(self._model.decoder, positions, sampler, limit, ends, interrupt, progress, draft=draft)

        return self._answer(steps, reader, meter)

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Reply:
        """The whole answer at once; arguments and errors are those of `stream`."""
        pieces = list(self.stream(prompt, **options))
        last, made = pieces[-1], [piece for piece in pieces if piece.token_id is not None]
        assert last.finish_reason is not None and last.usage is not None
        logprobs = tuple(piece.logprob for piece in made if piece.logprob is not None)
        return Reply(
            text="".join(piece.text for piece in pieces if piece.kind == "answer"),
            token_ids=tuple(piece.token_id for piece in made if piece.token_id is not None),
            finish_reason=last.finish_reason,
            usage=last.usage,
            thinking="".join(piece.text for piece in pieces if piece.kind == "thinking"),
            tool_calls=tuple(piece.call for piece in pieces if piece.call is not None),
            logprobs=logprobs if options.get("logprobs") else None,
        )

    def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> Reply:
        """The answer to a conversation; arguments and errors are those of `stream`."""
        return self.generate(messages, **options)

    def transcribe(
        self, source: AudioSource, *, language: str | None = None, translate: str | None = None,
        summarize: bool = False, chunk_seconds: float = CHUNK_SECONDS,
    ) -> Transcript:  # fmt: skip
        """What is said in a recording of any length: a path, bytes, file, data: URL, or samples and their rate.

        `language`: what is spoken, None to leave that to the model. `translate`: the language to write it in. Both are
        codes or English names. `summarize` adds a summary. `chunk_seconds`: the longest segment, 5 to 40 s; segments
        end in pauses. Raises what `stream` raises, and MediaError.
        """
        return make_transcript(self, source, language, translate, summarize, chunk_seconds)

    def stream_transcript(
        self, source: AudioSource, *, language: str | None = None, translate: str | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> Generator[TranscriptSegment, None, None]:  # fmt: skip
        """The segments of `transcribe`, each as soon as it is ready."""
        return stream_segments(self, source, language, translate, chunk_seconds)

    def encode(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        variables: Mapping[str, object] = {},
    ) -> list[int]:
        """The token ids that the model sees for `prompt`, one for each row of a medium. Raises RequestError."""
        return self._read(prompt, tools, variables).ids

    def logits(self, prompt: Prompt, *, progress: Progress | None = None) -> np.ndarray:
        """Logits behind every token of `prompt`, float32 (tokens, vocabulary); the cached conversation stays.

        Raises RequestError (also when cancelled), ContextOverflow, SessionBusy, NonFiniteLogits.
        """
        asked = self._read(prompt, None, {})
        with self._work() as interrupt:
            try:
                positions = self._model.positions(asked, interrupt)
                return self._model.decoder.logits(positions, interrupt, progress)
            except Interrupted as interrupted:
                raise RequestError(
                    "the call was cancelled before all logits were computed: call again"
                ) from interrupted

    def cancel(self) -> None:
        """End the call in progress, if any, within one step; its stream ends with finish_reason "cancelled"."""
        interrupt = self._interrupt
        if interrupt is not None:
            interrupt.request()

    def clear(self) -> None:
        """Forget what is cached of the conversation and give its memory back. Raises SessionBusy."""
        with self._work():
            self._model.decoder.clear()

    def snapshot(self) -> Kept:
        """A copy of what is cached of the conversation, for `restore`. Raises SessionBusy."""
        with self._work():
            return Kept(self._bundle, self._model.decoder.snapshot())

    def restore(self, kept: Kept) -> None:
        """Return to a snapshot that a session of the same bundle took. Raises RequestError, SessionBusy."""
        if kept.bundle != self._bundle:
            raise RequestError("the snapshot was taken from another bundle: its keys and values mean nothing here")
        with self._work():
            self._model.decoder.restore(kept.snapshot)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the graphs that are in memory now."""
        return self._model.loaded

    def release_encoders(self) -> None:
        """Give back the memory that pictures and recordings took; the next one loads its encoder again. SessionBusy."""
        with self._work():
            self._model.release_encoders()

    def close(self) -> None:
        """End the call in progress and free all memory. Closing twice is fine."""
        self._closed = True
        self.cancel()
        self._model.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _work(self) -> Iterator[Interrupt]:
        """Hold the session for one call. Raises SessionBusy, RequestError when closed."""
        if not self._busy.acquire(blocking=False):
            raise SessionBusy(
                "this session is still answering: take all pieces, close the stream or call cancel() first,"
                " or load the bundle once more"
            )
        try:
            if self._closed:
                raise RequestError("this session is closed: load the bundle again")
            self._interrupt = Interrupt()
            yield self._interrupt
        finally:
            self._interrupt = None
            self._busy.release()

    def _answer(
        self, steps: Callable[[Interrupt], Iterator[Step]], reader: AnswerReader, meter: Meter
    ) -> Generator[Piece, None, None]:
        finish = "cancelled"
        with self._work() as interrupt:
            try:
                for step in meter.timed(steps(interrupt)):
                    parts = [] if step.finish == "stop" else reader.push(step.token_id)
                    yield from _pieces(step, parts, reader)
                    if reader.stopped or step.finish is not None:
                        finish = "stop" if reader.stopped else step.finish or "stop"
                        break
            except Interrupted:
                pass
            *further, last = reader.flush() or [Part(reader.kind, "")]
            yield from (Piece(part.text, None, None, part.kind, part.call) for part in further)
            usage = meter.usage(self.device, self.threads)
            yield Piece(last.text, None, None, last.kind, last.call, finish, usage)

    def _read(
        self, prompt: Prompt, tools: Sequence[Mapping[str, object]] | None, variables: Mapping[str, object]
    ) -> ReadPrompt:
        if self._closed:
            raise RequestError("this session is closed: load the bundle again")
        return self._prompts.read(prompt, tools, variables)

    def _limit(self, prompt: int, max_tokens: int | None) -> int:
        if max_tokens is not None and not (is_whole(max_tokens) and max_tokens >= 1):
            raise RequestError(f"max_tokens is {max_tokens!r}; allowed is a whole number from 1, or None")
        if prompt >= self.context:
            raise ContextOverflow(
                f"the prompt has {prompt} tokens, the context of {self.context} must hold it and at least one token of"
                " the answer: shorten the conversation or load the bundle with a larger context"
            )
        return min(self.context - prompt, DEFAULT_TOKENS if max_tokens is None else max_tokens)


def _provider(device: str, manifest: Manifest) -> Provider:
    """The device to use; it must run graphs of the activation dtype that the bundle was exported with."""
    exported = providers.find(manifest.device)
    provider = exported if device == "auto" else providers.find(device)
    if provider.activation_dtype != exported.activation_dtype:
        raise ProviderUnavailable(
            f"device {device!r} computes in {provider.activation_dtype}, the bundle is for {manifest.device!r} and"
            f" {exported.activation_dtype}: choose {manifest.device!r} or export the checkpoint for {device!r}"
        )
    return provider


def _sampling(
    recommended: RecommendedSampling,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
) -> Sampling:
    """Fill what the caller left open: the publisher's recommendation, else off; greedy unless someone asks for
    drawing.
    """
    draws = bool(recommended.do_sample) or any(value is not None for value in (top_k, top_p, min_p))
    chosen = (temperature, recommended.temperature if draws else 0.0, 1.0)
    return Sampling(
        temperature=_first(*chosen),
        top_k=_first(top_k, recommended.top_k, 0),
        top_p=_first(top_p, recommended.top_p, 1.0),
        min_p=_first(min_p, recommended.min_p, 0.0),
        repetition_penalty=_first(repetition_penalty, recommended.repetition_penalty, 1.0),
        seed=seed,
    )


def _first(*values: T | None) -> T:
    return next(value for value in values if value is not None)


def _pieces(step: Step, parts: Sequence[Part], reader: AnswerReader) -> Iterator[Piece]:
    """The pieces of one token: the first names it."""
    first, *further = parts or [Part(reader.kind, "")]
    yield Piece(first.text, step.token_id, step.logprob, first.kind, first.call)
    yield from (Piece(part.text, None, None, part.kind, part.call) for part in further)
