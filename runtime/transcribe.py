"""Speech → text with times: recordings of any length, chunk by chunk, in their own language or translated, summarized.

Boundary: asks a session in the words that the model family was trained on; cutting is audio_chunks.py's, files of
subtitles are subtitles.py's. The model tells no times: those of a segment are where its chunk was cut.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias
from unicodedata import east_asian_width

from .audio import AudioInputs
from .audio_chunks import LONGEST_SECONDS, SHORTEST_SECONDS, cut_at_pauses, is_silent
from .audio_decode import AudioSource
from .errors import RequestError
from .long_text import condense
from .manifest import Manifest
from .messages import Message
from .usage import Reply, Usage

if TYPE_CHECKING:
    from .session import Session

Chunks: TypeAlias = Generator[AudioInputs, None, None]

# What the model writes, by ISO 639-1 code, and which of it it also hears (its card).
LANGUAGES = {
    "ar": "Arabic", "zh": "Chinese", "cs": "Czech", "da": "Danish", "nl": "Dutch", "en": "English", "fi": "Finnish",
    "fr": "French", "de": "German", "he": "Hebrew", "hu": "Hungarian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "es": "Spanish",
    "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
}  # fmt: skip
SPOKEN = ("en", "zh", "de", "fr", "it", "ja", "es", "pt")

CHUNK_SECONDS = 30.0
# The quickest speakers need about 8 tokens a second: an answer beyond this goes in circles, and is marked as cut.
_TOKENS_PER_SECOND, _FURTHER_TOKENS = 12, 16
_SUMMARY_TOKENS = 1024
_SUMMARIZE = (
    "Summarize the transcript of a recording that follows. Say what it is about, its main points, and what was decided"
    " or left open, if anything was. Write in the language of the transcript and only what it says.\n\nTranscript:\n"
)


@dataclass(frozen=True)
class TranscriptSegment:
    """What was said from `start` to `end` (seconds from the start of the recording).

    `finish_reason`: "stop"; "length" where the model did not come to an end and was cut; "cancelled". `usage` is None
    where there is nothing but silence, which the model is not asked about.
    """

    start: float
    end: float
    text: str
    finish_reason: str
    usage: Usage | None


@dataclass(frozen=True)
class Transcript:
    """A whole recording: `segments` lie end to end; `text` is theirs joined; `duration` in seconds.

    `language` is that of the recording as the caller stated it, `translated_to` that of the text if another one was
    asked for; both are ISO 639-1 codes. `finish_reason` is "cancelled" or "length" if that of any part is.
    """

    text: str
    segments: tuple[TranscriptSegment, ...]
    duration: float
    language: str | None
    translated_to: str | None
    summary: str | None
    finish_reason: str


def make_transcript(
    session: Session,
    source: AudioSource,
    language: str | None = None,
    translate: str | None = None,
    summarize: bool = False,
    chunk_seconds: float = CHUNK_SECONDS,
    adapter: str | None = None,
) -> Transcript:
    """The whole of `stream_segments`, joined. Raises what that and its segments raise."""
    made = stream_segments(session, source, language, translate, chunk_seconds, adapter)
    transcript = join_segments(tuple(made), language, translate)
    if not summarize or transcript.finish_reason == "cancelled":
        return transcript
    return with_summary(session, transcript)


def stream_segments(
    session: Session,
    source: AudioSource,
    language: str | None = None,
    translate: str | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    adapter: str | None = None,
) -> Generator[TranscriptSegment, None, None]:
    """Segments as they are ready; the next chunk is read and prepared while the one before is decoded.

    `adapter`: which of the bundle's adapters writes, beside the one that the model has for speech.

    Raises RequestError for what is asked at once; MediaError, ContextOverflow, SessionBusy and NonFiniteLogits while
    segments are taken.
    """
    require_audio(session.manifest)
    session.require_adapter(adapter)
    instruction = instruct(language, translate)
    asked: object = chunk_seconds
    if not (isinstance(asked, int | float) and SHORTEST_SECONDS <= asked <= LONGEST_SECONDS):
        raise RequestError(
            f"chunk_seconds is {asked!r:.60}; allowed is a number from {SHORTEST_SECONDS:g} to"
            f" {LONGEST_SECONDS:g}, the lengths of speech that the model was trained on"
        )
    return _segments(session, cut_at_pauses(source, chunk_seconds=chunk_seconds), instruction, adapter)


def require_audio(manifest: Manifest) -> None:
    """Raises RequestError for a bundle that takes no recordings."""
    if "audio" not in manifest.capabilities:
        raise RequestError(
            f"this bundle ({manifest.source.name}) takes {', '.join(manifest.capabilities)}, no audio: transcribe with"
            " a bundle of Phi-4-multimodal"
        )


def instruct(language: str | None, translate: str | None) -> str:
    """The family's own words for what is asked. Raises RequestError for a language that it does not know."""
    spoken = None if language is None else language_code(language, "language", SPOKEN)
    written = None if translate is None else language_code(translate, "translate", tuple(LANGUAGES))
    if written is not None and written != spoken:
        return f"Translate the audio to {LANGUAGES[written]}."
    if spoken is not None:
        return f"Transcribe the {LANGUAGES[spoken]} audio clip into text."
    return "Transcribe the audio clip into text."


def language_code(given: object, option: str, allowed: Sequence[str]) -> str:
    """The code of a language given as code, tag or English name: "de", "de-AT", "German". Raises RequestError."""
    wanted = given.strip().lower() if isinstance(given, str) else ""
    names = {LANGUAGES[code].lower(): code for code in allowed}
    code = names.get(wanted, wanted.replace("_", "-").partition("-")[0])
    if code not in allowed:
        listed = ", ".join(f"{code} ({LANGUAGES[code]})" for code in allowed)
        raise RequestError(f"{option} is {given!r:.40}; the model knows {listed}")
    return code


def join_segments(
    segments: Sequence[TranscriptSegment], language: str | None = None, translate: str | None = None
) -> Transcript:
    """The segments of one recording as a whole, without a summary. Raises RequestError for an unknown language."""
    spoken = None if language is None else language_code(language, "language", SPOKEN)
    written = None if translate is None else language_code(translate, "translate", tuple(LANGUAGES))
    return Transcript(
        text=_join([segment.text for segment in segments]),
        segments=tuple(segments),
        duration=segments[-1].end if segments else 0.0,
        language=spoken,
        translated_to=None if written == spoken else written,
        summary=None,
        finish_reason=_worst([segment.finish_reason for segment in segments]),
    )


def with_summary(session: Session, transcript: Transcript) -> Transcript:
    """The same with a summary of its text. Raises ContextOverflow where the session's context is too small for it."""
    if not transcript.text:
        return replace(transcript, summary="")
    reply = _summarize(session, transcript.text)
    finish = _worst([transcript.finish_reason, reply.finish_reason])
    return replace(transcript, summary=reply.text.strip(), finish_reason=finish)


def _segments(
    session: Session, chunks: Chunks, instruction: str, adapter: str | None
) -> Generator[TranscriptSegment, None, None]:
    for chunk in _ahead(chunks):
        start, end = round(chunk.start, 2), round(chunk.start + chunk.seconds, 2)
        if is_silent(chunk):
            yield TranscriptSegment(start, end, "", "stop", None)
            continue
        content = [{"type": "audio", "audio": chunk}, {"type": "text", "text": instruction}]
        limit = _FURTHER_TOKENS + round(chunk.seconds * _TOKENS_PER_SECOND)
        asked = [{"role": "user", "content": content}]
        reply = session.chat(asked, temperature=0.0, max_tokens=limit, adapter=adapter)
        yield TranscriptSegment(start, end, " ".join(reply.text.split()), reply.finish_reason, reply.usage)
        if reply.finish_reason == "cancelled":
            return


def _ahead(chunks: Chunks) -> Chunks:
    """The same chunks, each made in another thread while the one before is worked on: never more than one waits."""
    with closing(chunks), ThreadPoolExecutor(1, thread_name_prefix="edgephi-audio") as thread:
        coming = thread.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = thread.submit(next, chunks, None)
            yield chunk


def _summarize(session: Session, text: str) -> Reply:
    """One summary if all of the text fits the context, else a summary of the summaries of its parts."""

    def answer(messages: Sequence[Message], room: int, last: bool) -> Reply:
        return session.chat(messages, temperature=0.0, max_tokens=room)

    return condense(session, text, _ask_summary, min(_SUMMARY_TOKENS, session.context // 4), answer)


def _ask_summary(text: str) -> list[Message]:
    return [{"role": "user", "content": _SUMMARIZE + text}]


def _worst(reasons: Sequence[str]) -> str:
    return next((reason for reason in ("cancelled", "length") if reason in reasons), "stop")


def _join(texts: Sequence[str]) -> str:
    """Join with spaces, except between two characters of scripts that are written without."""
    joined = ""
    for text in filter(None, texts):
        touching = joined and _unspaced(joined[-1]) and _unspaced(text[0])
        joined += text if touching or not joined else f" {text}"
    return joined


def _unspaced(character: str) -> bool:
    """Chinese and Japanese characters and punctuation; Korean is wide too, but written with spaces."""
    return east_asian_width(character) in "WF" and not "\uac00" <= character <= "\ud7a3"
