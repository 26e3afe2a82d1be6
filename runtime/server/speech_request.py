"""POST /v1/audio/transcriptions and /translations: a form with a recording → a checked request.

Boundary: names and forms of OpenAI's audio API; what languages there are and how they are asked for is transcribe.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import RequestError
from ..transcribe import instruct
from .bundles import Bundle
from .fields import Fields
from .problems import Problem, Refused

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
# Parameters that would change the transcript and are not offered → values that mean what happens anyway.
_REFUSED: dict[str, tuple[object, ...]] = {
    "prompt": ("",),
    "temperature": ("", "0", "0.0"),
    "timestamp_granularities[]": ("segment", ""),
    "chunking_strategy": ("auto", ""),
    "include[]": ("",),
    "known_speaker_names[]": ("",),
}


@dataclass(frozen=True)
class SpeechRequest:
    """`language` is what is spoken, `translate` what to write, None for the same; `form` is one of FORMATS."""

    recording: bytes
    language: str | None
    translate: str | None
    form: str
    stream: bool
    ignored: tuple[str, ...]


def require_audio(bundle: Bundle) -> None:
    """Raises Refused where the bundle takes no recordings."""
    if "audio" not in bundle.takes:
        taken = ", ".join(["text", *sorted(bundle.takes)])
        text = f"model {bundle.name!r} takes {taken}, no audio: use a bundle of Phi-4-multimodal"
        raise Refused(Problem(400, text, "audio_not_supported", "model"))


def read_speech(form: Mapping[str, str], recording: bytes | None, *, translate: bool) -> SpeechRequest:
    """`form` holds the text fields, `recording` the uploaded file. Raises RequestError."""
    fields = Fields(form)
    if not recording:
        raise RequestError("file is missing or empty; upload a WAV, FLAC, Ogg or MP3 file under this name")
    for name, accepted in _REFUSED.items():
        fields.refuse(name, accepted)
    for name in ("model", "adapter"):  # the endpoint has read them
        fields.raw(name)
    wanted = fields.choice("response_format", FORMATS, "json")
    stream = fields.choice("stream", ("true", "false", "True", "False", ""), "false").lower() == "true"
    if stream and wanted not in ("json", "text"):
        raise RequestError(f"response_format is {wanted!r}, which cannot be streamed: use 'json'")
    language, into = fields.text("language") or None, "en" if translate else None
    instruct(language, into)  # raises for a language that the model does not know
    return SpeechRequest(recording, language, into, wanted, stream, fields.unread())
