"""Transcripts as text: plain, SubRip (.srt), WebVTT (.vtt), JSON.

Boundary: a transcript in, the content of a file out; opens no file. What was said cannot end a cue or begin markup.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable

from .transcribe import Transcript


def to_text(transcript: Transcript) -> str:
    """A line for each segment in which something was said."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments if segment.text)


def to_srt(transcript: Transcript) -> str:
    """SubRip, as players read it: numbered cues, a comma before the milliseconds."""
    cues = [
        f"{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{segment.text.replace('-->', '->')}\n"
        for segment in transcript.segments
        if segment.text
    ]
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def to_vtt(transcript: Transcript) -> str:
    """WebVTT, by W3C's definition."""
    cues = [
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{html.escape(segment.text, quote=False)}\n"
        for segment in transcript.segments
        if segment.text
    ]
    return "\n".join(["WEBVTT\n", *cues])


def to_json(transcript: Transcript) -> str:
    """One object, with the names that Whisper's tools use where they have one; silent segments are kept."""
    return json.dumps(to_fields(transcript), ensure_ascii=False, indent=1) + "\n"


def to_fields(transcript: Transcript) -> dict[str, object]:
    """What `to_json` writes, as plain data."""
    segments = [
        {"id": index, "start": each.start, "end": each.end, "text": each.text, "finish_reason": each.finish_reason}
        for index, each in enumerate(transcript.segments)
    ]
    return {
        "text": transcript.text,
        "segments": segments,
        "duration": transcript.duration,
        "language": transcript.language,
        "translated_to": transcript.translated_to,
        "summary": transcript.summary,
        "finish_reason": transcript.finish_reason,
    }


FORMATS: dict[str, Callable[[Transcript], str]] = {"txt": to_text, "srt": to_srt, "vtt": to_vtt, "json": to_json}


def _clock(seconds: float, point: str) -> str:
    """Hours, which may exceed 99, minutes, seconds and milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
