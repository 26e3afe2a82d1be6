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
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Unpack

import numpy as np

from .answer import AnswerReader, Part
from .audio_decode import AudioSource
from .cache import Snapshot
from .constraint import Constraints
from .decode import Progress
from .errors import RequestError, SessionBusy
from .generation import Step, generate
from .grammar import Schema, Tools, answer_form, build_grammar
from .graphs import Interrupt, Interrupted
from .manifest import Manifest
from .messages import Message
from .model import Model
from .options import Options, choose_limit, choose_sampling
from .prompt import Prompt, PromptReader, ReadPrompt
from .sampling import Sampler
from .selection import Choice
from .thinking import answers_alone, budgeted, opening, thinks_always, wanted
from .tokens import Tokenizer
from .tools import MalformedCall, ToolCall
from .transcribe import CHUNK_SECONDS, Transcript, TranscriptSegment, make_transcript, stream_segments
from .usage import Meter, Piece, Reply, Usage, joined

__all__ = [
    "MalformedCall", "Piece", "Prompt", "Reply", "Session", "ToolCall", "Transcript", "TranscriptSegment", "Usage",
]


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
    """One loaded bundle, made by `edgephi.load`. One call at a time; `cancel` and `close` from any thread."""

    def __init__(
        self,
        manifest: Manifest,
        choice: Choice,
        threads: int,
        tokenizer: Tokenizer,
        prompts: PromptReader,
        model: Model,
    ) -> None:
        self.manifest = manifest
        self.device = choice.provider.name
        self.device_reason = choice.reason
        self.threads = threads
        self.context = model.decoder.context
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._model = model
        text = manifest.graphs["text"]
        self._bundle = tuple(manifest.files[name].sha256 for name in (text.file, *text.data))
        self._constraints = Constraints(tokenizer, manifest.text.vocab_size, manifest.tokens.eos)
        self._busy = threading.Lock()
        self._interrupt: Interrupt | None = None
        self._closed = False

    def stream(
        self, prompt: Prompt, *,
        max_tokens: int | None = None, temperature: float | None = None, top_p: float | None = None,
        top_k: int | None = None, min_p: float | None = None, repetition_penalty: float | None = None,
        presence_penalty: float | None = None, frequency_penalty: float | None = None,
        seed: int | None = None, stop: str | Sequence[str] = (), logprobs: bool = False, top_logprobs: int = 0,
        tools: Tools | None = None, tool_choice: str = "auto", parallel_tool_calls: bool = True,
        schema: Schema | None = None, regex: str | None = None, choice: Sequence[str] | None = None,
        grammar: str | None = None, variables: Mapping[str, object] = {}, progress: Progress | None = None,
        draft: bool = True, think: bool | None = None, think_budget: int | None = None, adapter: str | None = None,
    ) -> Generator[Piece, None, None]:  # fmt: skip
        """Answer `prompt` piece by piece; the work happens while the pieces are taken.

        `prompt`: text as one user turn, messages of the whole conversation, or token ids. Messages may hold pictures
        and recordings where the bundle takes them. `max_tokens`: None for what the context leaves, at most
        `options.DEFAULT_TOKENS`. Sampling: None for what the publisher recommends, else greedy; temperature 0 is
        greedy. `stop`: texts that end the answer and are not part of it. `tools`: function descriptions for templates
        that take them; `tool_choice`, `parallel_tool_calls`: see `grammar.build_grammar`. `schema`, `regex`, `choice`,
        `grammar`: the form of the answer, see `grammar.answer_form`; what was cut by a limit or a stop has it not.
        `variables`: further names that the template reads. `progress(stage, done, total)` is called while the prompt
        is computed, or computed again because it outgrew its rotary table or got its first medium. `draft`: run
        several tokens at a time where they are guessed or forced, which changes the speed and not what is said.
        `think`: whether a thought comes before the answer, None to leave that to the model. `think_budget`: the most
        tokens of it, then it is closed and the answer follows; 0 is no thought. `adapter`: which of `adapters` answers.

        Raises RequestError and ContextOverflow at once; SessionBusy and NonFiniteLogits while the pieces are taken.
        """
        started = time.perf_counter()
        sampling = choose_sampling(
            self.manifest.sampling, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
            frequency_penalty, seed,
        )  # fmt: skip
        form = answer_form(schema, regex, choice, grammar)
        built = build_grammar(form, tools, tool_choice, self._constraints.marks, several=parallel_tool_calls)
        tools = tools if tool_choice != "none" else None
        asked = self._read(prompt, tools, variables)
        think = wanted(think, think_budget)
        if think is None and built is not None and not _is_ids(prompt):
            think = thinks_always(self.manifest.thinking)
        ids = asked.ids + opening(self._tokenizer, asked.ids, think, self.manifest.thinking)
        asked = replace(asked, ids=ids)
        self.require_adapter(adapter)
        limit = choose_limit(max_tokens, len(ids), self.context)
        reader = AnswerReader(self._tokenizer, (stop,) if isinstance(stop, str) else stop, ids, tools=bool(tools))
        inner = None if built is None else self._constraints.begin(built, ids)
        constraint = budgeted(self._tokenizer, 0 if think is False else think_budget, ids, inner)
        never = self._prompts.placeholders
        sampler = Sampler(
            sampling, ids, logprobs=logprobs, alternatives=top_logprobs, never=never, constraint=constraint
        )
        meter = Meter(len(ids), time.perf_counter() - started)

        def steps(interrupt: Interrupt) -> Iterator[Step]:
            positions, ahead = self._model.begin(asked, interrupt, adapter)
            ends = frozenset(self.manifest.tokens.eos)
            yield from generate(
                self._model.decoder, positions, sampler, limit, ends, interrupt, progress, draft=draft, ahead=ahead
            )

        return self._answer(steps, reader, meter, asked)

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Reply:
        """The whole answer at once; arguments and errors are those of `stream`."""
        asked = options.get("top_logprobs", 0) > 0
        pieces = list(self.stream(prompt, **options))
        return joined(pieces, logprobs=asked or options.get("logprobs", False), top_logprobs=asked)

    def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> Reply:
        """The answer to a conversation; arguments and errors are those of `stream`."""
        return self.generate(messages, **options)

    def transcribe(
        self, source: AudioSource, *, language: str | None = None, translate: str | None = None,
        summarize: bool = False, chunk_seconds: float = CHUNK_SECONDS, adapter: str | None = None,
    ) -> Transcript:  # fmt: skip
        """What is said in a recording of any length: a path, bytes, file, data: URL, or samples and their rate.

        `language`: what is spoken, None to leave that to the model. `translate`: the language to write it in. Both are
        codes or English names. `summarize` adds a summary. `chunk_seconds`: the longest segment, 5 to 40 s; segments
        end in pauses. `adapter`: which of `adapters` writes; a summary is made without. Raises what `stream` raises,
        and MediaError.
        """
        return make_transcript(self, source, language, translate, summarize, chunk_seconds, adapter)

    def stream_transcript(
        self, source: AudioSource, *, language: str | None = None, translate: str | None = None,
        chunk_seconds: float = CHUNK_SECONDS, adapter: str | None = None,
    ) -> Generator[TranscriptSegment, None, None]:  # fmt: skip
        """The segments of `transcribe`, each as soon as it is ready."""
        return stream_segments(self, source, language, translate, chunk_seconds, adapter)

    def encode(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        variables: Mapping[str, object] = {},
    ) -> list[int]:
        """The token ids that the model sees for `prompt`, one for each row of a medium. Raises RequestError."""
        return self._read(prompt, tools, variables).ids

    def logits(
        self, prompt: Prompt, *, progress: Progress | None = None, adapter: str | None = None
    ) -> np.ndarray:
        """Logits behind every token of `prompt`, float32 (tokens, vocabulary); the cached conversation stays.

        Raises RequestError (also when cancelled), ContextOverflow, SessionBusy, NonFiniteLogits.
        """
        asked = self._read(prompt, None, {})
        self.require_adapter(adapter)
        with self._work() as interrupt:
            try:
                positions = self._model.positions(asked, interrupt, adapter)
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
        """Forget what was read: what is cached of this conversation and of those before it, what the prefix cache
        keeps of them in memory and on disk, and encoded media. `PrefixCache.clear` forgets that of all sessions.

        Gives memory back. Raises SessionBusy.
        """
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
    def adapters(self) -> tuple[str, ...]:
        """Names of the fine-tuned adapters that `edgephi adapter add` put into the bundle."""
        return tuple(self.manifest.adapters)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the graphs that are in memory now."""
        return self._model.loaded

    @property
    def left_to_cpu(self) -> dict[str, int]:
        """Operators of these graphs that their devices leave to the CPU, with how many of each; empty where none."""
        return self._model.left_to_cpu

    @property
    def encoder_devices(self) -> dict[str, tuple[str, str]]:
        """For "vision" and "speech", as far as the bundle has them: the device, and why it is this one.

        A device that was not named is the decoder's until the first medium shows that it does not take the encoder.
        """
        return {name: (graph.provider.name, graph.reason) for name, graph in self._model.encoders.items()}

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
        self, steps: Callable[[Interrupt], Iterator[Step]], reader: AnswerReader, meter: Meter, asked: ReadPrompt
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
            yield from map(_piece, further)
            encoders = self._model.encoder_devices(asked)
            usage = meter.usage(self.device, self.threads, reader.thinking_tokens, encoders)
            yield replace(_piece(last), finish_reason=finish, usage=usage)

    def require_adapter(self, name: str | None) -> None:
        """Raises RequestError where `name` is none of `adapters`; None is always there."""
        if name is not None and name not in self.manifest.adapters:
            known = ", ".join(self.manifest.adapters) or "none; `edgephi adapter add` adds one"
            raise RequestError(f"the bundle has no adapter {name!r:.80}; its adapters: {known}")

    def _read(
        self, prompt: Prompt, tools: Sequence[Mapping[str, object]] | None, variables: Mapping[str, object]
    ) -> ReadPrompt:
        if self._closed:
            raise RequestError("this session is closed: load the bundle again")
        if self.manifest.thinking is not None and not isinstance(prompt, str):
            prompt = answers_alone(prompt)
        return self._prompts.read(prompt, tools, variables)


def _is_ids(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and not any(isinstance(item, Mapping) for item in prompt)


def _pieces(step: Step, parts: Sequence[Part], reader: AnswerReader) -> Iterator[Piece]:
    """The pieces of one token: the first names it."""
    first, *further = parts or [Part(reader.kind, "")]
    alternatives = step.alternatives or None
    yield replace(_piece(first), token_id=step.token_id, logprob=step.logprob, top_logprobs=alternatives)
    yield from map(_piece, further)


def _piece(part: Part) -> Piece:
    return Piece(part.text, None, None, part.kind, part.call, malformed=part.malformed)
