"""What each route does: read the request, ask the worker, write the answer in the API's shape.

Requests are read in a thread: large ones would hold up the streams of others.
Boundary: joins the other files of this folder; reading, waiting and writing are theirs.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..errors import RequestError
from ..tokens import Segment
from . import metrics
from .answering import Answers, until_gone
from .body import read_form, read_json
from .chat_answer import ChatWriter
from .chat_request import ChatRequest, read_chat
from .completion_answer import CompletionWriter
from .completion_request import RawPrompt, read_completion
from .event_stream import EventStream
from .fields import Fields
from .guard import client_of, holds_key
from .jobs import M, Task, ask, transcribe
from .models import Model, Models
from .problems import problem_of
from .remote import Remote
from .responses_answer import ResponsesWriter
from .responses_request import ResponsesRequest, read_responses
from .settings import Settings
from .speech_answer import SpeechWriter
from .speech_request import read_speech, require_audio
from .writing import Head, Logprobs, Writer

if TYPE_CHECKING:
    from ..session import Piece

IGNORED_HEADER = "x-edgephi-ignored"


@dataclass(frozen=True)
class Endpoints:
    """The routes of one server."""

    settings: Settings
    models: Models
    metrics: metrics.Metrics
    remote: Remote

    async def chat(self, request: Request) -> Response | EventStream:
        """POST /v1/chat/completions."""
        fields, model, client = await self._asked(request)
        asked = await asyncio.to_thread(read_chat, fields, model.bundle, self.settings.media_from)
        logprobs = await _logprobs(model) if asked.logprobs else None
        writer = ChatWriter(Head.new("chatcmpl-", model.bundle), logprobs, include_usage=asked.include_usage)
        return await self._talk(request, model, client, asked, writer)

    async def completions(self, request: Request) -> Response | EventStream:
        """POST /v1/completions."""
        fields, model, client = await self._asked(request)
        asked = read_completion(fields, model.bundle)
        prompts = await asyncio.to_thread(_raw_ids, model, asked.prompts)
        tasks = [Task(client, ask(ids, asked.options, model.bundle.adapter)) for ids in prompts]
        echoes = [""] * len(tasks)
        if asked.echo:
            echoes = await asyncio.to_thread(_texts, model, asked.prompts)
        logprobs = [await _logprobs(model) for _ in tasks] if asked.logprobs else None
        head = Head.new("cmpl-", model.bundle)
        writer = CompletionWriter(head, echoes, logprobs, include_usage=asked.include_usage)
        answers = Answers(model.worker, tasks)
        return await self._reply(request, answers, answers.parts(), writer, asked.ignored, asked.stream)

    async def responses(self, request: Request) -> Response | EventStream:
        """POST /v1/responses."""
        fields, model, client = await self._asked(request)
        asked = await asyncio.to_thread(read_responses, fields, model.bundle, self.settings.media_from)
        logprobs = await _logprobs(model) if asked.logprobs else None
        writer = ResponsesWriter(Head.new("resp_", model.bundle), asked, logprobs)
        return await self._talk(request, model, client, asked, writer)

    async def transcriptions(self, request: Request) -> Response | EventStream:
        """POST /v1/audio/transcriptions."""
        return await self._speech(request, translate=False)

    async def translations(self, request: Request) -> Response | EventStream:
        """POST /v1/audio/translations."""
        return await self._speech(request, translate=True)

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        entries = [model.bundle.entry(model.worker.state) for model in self.models.models]
        return JSONResponse({"object": "list", "data": entries})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{id}."""
        model = self.models.find(request.path_params["id"])
        return JSONResponse(model.bundle.entry(model.worker.state))

    async def health(self, request: Request) -> Response:
        """GET /health: that the server lives, for everybody; of its models to those who hold a key."""
        told: dict[str, object] = {"status": "ok"}
        if holds_key(request.scope, [key.encode() for key in self.settings.access.keys]):
            told["models"] = {
                model.bundle.name: {
                    "state": model.worker.state, "busy": model.worker.busy, "waiting": model.worker.waiting,
                    "device": model.bundle.loading.device,
                }
                for model in self.models.bundles
            }
        return JSONResponse(told)

    async def metrics_text(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), headers={"content-type": metrics.CONTENT_TYPE})

    async def _asked(self, request: Request) -> tuple[Fields, Model, str]:
        """The members of a request, who is to answer it, and who asks."""
        fields = await read_json(request, self.settings.limits)
        model = self.models.choose(fields.text("model"), fields.text("adapter"))
        return fields, model, _client(request, fields)

    async def _talk(
        self, request: Request, model: Model, client: str, asked: ChatRequest | ResponsesRequest, writer: Writer[Piece]
    ) -> Response | EventStream:
        """The answer to a conversation, whose media may have to be fetched first."""
        messages = await until_gone(request.receive, self.remote.fill(asked.messages))
        answers = Answers(model.worker, [Task(client, ask(messages, asked.options, model.bundle.adapter))])
        parts = _with_one_call(answers) if asked.tools.one_call else answers.parts()
        return await self._reply(request, answers, parts, writer, asked.ignored, asked.stream)

    async def _speech(self, request: Request, *, translate: bool) -> Response | EventStream:
        form = await read_form(request, self.settings.limits)
        model = self.models.choose(form.texts.get("model"), form.texts.get("adapter"))
        require_audio(model.bundle)
        asked = read_speech(form.texts, form.file, translate=translate)
        start = transcribe(asked.recording, asked.language, asked.translate, model.bundle.adapter)
        answers = Answers(model.worker, [Task(client_of(request.scope, ""), start)])
        return await self._reply(request, answers, answers.parts(), SpeechWriter(asked), asked.ignored, asked.stream)

    async def _reply(
        self,
        request: Request,
        answers: Answers[M],
        parts: AsyncIterator[tuple[int, M]],
        writer: Writer[M],
        ignored: Sequence[str],
        stream: bool,
    ) -> Response | EventStream:
        """The answer, whole or as a stream that begins when the session took the prompt or a ping is due."""
        limits, headers = self.settings.limits, _headers(ignored)
        try:
            if not stream:
                await until_gone(request.receive, _collect(parts, writer))
                return writer.response(headers)
            await until_gone(request.receive, answers.begun(limits.ping_seconds))
        except BaseException:
            answers.end()
            raise
        events = _events(parts, writer)
        return EventStream(events, headers, answers.end, ping=limits.ping_seconds, stall=limits.stall_seconds)


async def _collect(parts: AsyncIterator[tuple[int, M]], writer: Writer[M]) -> None:
    async for number, made in parts:
        writer.push(number, made)


async def _events(parts: AsyncIterator[tuple[int, M]], writer: Writer[M]) -> AsyncGenerator[bytes, None]:
    try:
        for event in writer.begin():
            yield event
        async for number, made in parts:
            for event in writer.push(number, made):
                yield event
        for event in writer.end():
            yield event
    # The status is sent already: whatever went wrong, an event is the only way left to say it.
    except Exception as error:  # noqa: BLE001
        for event in writer.failed(problem_of(error)):
            yield event


async def _with_one_call(answers: Answers[Piece]) -> AsyncIterator[tuple[int, Piece]]:
    """An answer up to its first tool call, and its end."""
    called = False
    async for number, piece in answers.parts():
        if not called:
            yield number, piece
        elif piece.finish_reason is not None:
            yield number, dataclasses.replace(piece, text="", kind="answer", call=None, finish_reason="stop")
        if piece.call is not None:
            called = True
            answers.enough()


async def _logprobs(model: Model) -> Logprobs:
    return Logprobs(await asyncio.to_thread(model.tokenizer))


def _raw_ids(model: Model, prompts: Sequence[RawPrompt]) -> list[Sequence[int]]:
    """Token ids; control tokens that a raw prompt spells out are meant as such."""
    found: list[Sequence[int]] = []
    for index, prompt in enumerate(prompts):
        ids = model.tokenizer().encode_segments([Segment(prompt, trusted=True)]) if isinstance(prompt, str) else prompt
        if not ids:
            raise RequestError(f"prompt[{index}] is empty; give some text")
        found.append(ids)
    return found


def _texts(model: Model, prompts: Sequence[RawPrompt]) -> list[str]:
    decode = model.tokenizer().decode
    return [prompt if isinstance(prompt, str) else decode(prompt, skip_special=False) for prompt in prompts]


def _client(request: Request, fields: Fields) -> str:
    user = fields.raw("safety_identifier") or fields.raw("user") or ""
    return client_of(request.scope, str(user)[:256])


def _headers(ignored: Sequence[str]) -> Mapping[str, str]:
    """Members of the request that changed nothing are named, so that nothing is ignored in silence."""
    names = ", ".join(name for name in ignored if name.isascii() and name.isprintable())
    told = names[:1000].strip()  # a header's value neither begins nor ends with white space
    return {IGNORED_HEADER: told} if told else {}
