"""POST /v1/audio/transcriptions and /translations: a form with a recording → a checked request.

Boundary: names and forms of OpenAI's audio API. A speech model of the Phi-4 family is asked in words, with the prompts
that its publisher gives; it tells no times, so the formats that need them are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..messages import Message
from .bundles import Bundle
from .fields import Fields
from .problems import Problem, Refused

if TYPE_CHECKING:
    from ..session import Options

# The languages whose speech Phi-4-multimodal was trained on.
LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "fr": "French",
    "it": "Italian",
    "ja": "Japanese",
    "es": "Spanish",
    "pt": "Portuguese",
}
FORMATS = ("json", "text")
TRANSCRIBE, TRANSLATE = "Transcribe the audio clip into text.", "Translate the audio to English."


@dataclass(frozen=True)
class SpeechRequest:
    """`form` is "json" or "text"; `ignored` are fields that change nothing."""

    messages: tuple[Message, ...]
    options: Options
    form: str
    stream: bool
    ignored: tuple[str, ...]


def require_audio(bundle: Bundle) -> None:
    """Raises Refused where the bundle takes no recordings."""
    if "audio" not in bundle.takes:
        taken = ", ".join(["text", *sorted(bundle.takes)])
        text = f"model {bundle.name!r} takes {taken}, no audio: use a bundle of Phi-4-multimodal"
        raise Refused(Problem(501, text, "audio_not_supported", "model"))


def read_speech(form: Mapping[str, str], recording: bytes | None, *, translate: bool) -> SpeechRequest:
    """`form` holds the text fields, `recording` the uploaded file. Raises RequestError."""
    fields = Fields(form)
    if not recording:
        raise RequestError("file is missing or empty; upload a WAV, FLAC, Ogg or MP3 file under this name")
    for name in ("prompt", "timestamp_granularities[]", "chunking_strategy", "include[]"):
        if form.get(name, "") not in ("", "auto"):
            raise RequestError(f"{name} is given, which this server does not offer: leave it out")
    wanted = fields.text("response_format") or "json"
    if wanted not in FORMATS:
        raise RequestError(
            f"response_format is {wanted!r:.40}; this model tells no times, so only {' and '.join(FORMATS)} are offered"
        )
    language = fields.text("language") or ""
    if language and language not in LANGUAGES:
        raise RequestError(f"language is {language!r:.40}; the languages of this model are {', '.join(LANGUAGES)}")
    instruction = TRANSLATE if translate else TRANSCRIBE
    if language and not translate:
        instruction = f"Transcribe the {LANGUAGES[language]} audio clip into text."
    content = [{"type": "audio", "audio": recording}, {"type": "text", "text": instruction}]
    options: Options = {"temperature": _temperature(fields.text("temperature"))}
    stream = (fields.text("stream") or "").lower() == "true"
    fields.raw("model")
    read = ("prompt", "timestamp_granularities[]", "chunking_strategy", "include[]")
    ignored = tuple(name for name in fields.unread() if name not in read)
    return SpeechRequest(({"role": "user", "content": content},), options, wanted, stream, ignored)


def _temperature(text: str | None) -> float:
    if not text:
        return 0.0
    try:
        return float(text)
    except ValueError as error:
        raise RequestError(f"temperature is {text!r:.40}; allowed is a number from 0") from error
