"""Segments of a transcript → the answers of OpenAI's audio API.

Boundary: shapes alone; files of subtitles are subtitles.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..subtitles import to_srt, to_vtt
from ..transcribe import Transcript, TranscriptSegment, join_segments
from .event_stream import event
from .problems import Problem

if TYPE_CHECKING:
    from .speech_request import SpeechRequest


def _plain(transcript: Transcript) -> str:
    return f"{transcript.text}\n"


_TEXTS: dict[str, Callable[[Transcript], str]] = {"text": _plain, "srt": to_srt, "vtt": to_vtt}


class SpeechWriter:
    """One transcript or translation."""

    def __init__(self, request: SpeechRequest) -> None:
        self._request = request
        self._segments: list[TranscriptSegment] = []
        self._length = 0

    def begin(self) -> list[bytes]:
        """Nothing: the first event is text."""
        return []

    def push(self, number: int, made: TranscriptSegment) -> list[bytes]:
        """Text as soon as a segment is there."""
        self._segments.append(made)
        text = self._transcript.text
        delta, self._length = text[self._length :], len(text)
        return [event({"type": "transcript.text.delta", "delta": delta})] if delta else []

    def end(self) -> list[bytes]:
        """The whole text."""
        done = {"type": "transcript.text.done", "text": self._transcript.text, "usage": self._usage()}
        return [event(done)]

    def failed(self, problem: Problem) -> list[bytes]:
        """The error, which OpenAI's clients raise."""
        return [event(problem.payload)]

    def response(self, headers: Mapping[str, str]) -> Response:
        """The transcript in the form that was asked for."""
        transcript, form = self._transcript, self._request.form
        if form in _TEXTS:
            return PlainTextResponse(_TEXTS[form](transcript), headers=headers)
        if form == "json":
            return JSONResponse({"text": transcript.text, "usage": self._usage()}, headers=headers)
        segments = [
            {"id": number, "seek": 0, "start": each.start, "end": each.end, "text": each.text, "temperature": 0.0}
            for number, each in enumerate(transcript.segments)
        ]
        told = {
            "task": "transcribe" if self._request.translate is None else "translate",
            "language": transcript.translated_to or transcript.language,
            "duration": transcript.duration,
            "text": transcript.text,
            "segments": segments,
            "usage": {"type": "duration", "seconds": transcript.duration},
        }
        return JSONResponse(told, headers=headers)

    @property
    def _transcript(self) -> Transcript:
        return join_segments(self._segments, self._request.language, self._request.translate)

    def _usage(self) -> dict[str, object]:
        usages = [segment.usage for segment in self._segments if segment.usage is not None]
        read, written = (sum(getattr(each, name) for each in usages) for name in ("prompt_tokens", "completion_tokens"))
        return {"type": "tokens", "input_tokens": read, "output_tokens": written, "total_tokens": read + written}
