"""Files of subtitles, read back by parsers that are written here after the formats' definitions."""

from __future__ import annotations

import html
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.runtime.subtitles import FORMATS, to_json, to_srt, to_text, to_vtt
from edgephi.runtime.transcribe import Transcript, TranscriptSegment, join_segments

Cue = tuple[int, int, str]
SRT_TIMES = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d),(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d),(\d{3})")
VTT_TIMES = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})")
# Texts as they come from a session: no line breaks, single spaces.
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40).map(
    lambda text: " ".join(text.split())
)
TRICKY = st.sampled_from(["-->", "a --> b", "1", "00:00:01,000 --> 00:00:02,000", "<b>x</b> & y", "&lt;", "WEBVTT", ""])
STEPS = st.lists(st.tuples(st.integers(1, 4000), TEXTS | TRICKY), min_size=1, max_size=12)


def transcript(steps: list[tuple[int, str]], first: int = 0) -> Transcript:
    """Segments of so many hundredths of a second each, from the second `first` on."""
    segments, at = [], first * 100
    for length, text in steps:
        segments.append(TranscriptSegment(at / 100, (at + length) / 100, text, "stop", None))
        at += length
    return join_segments(segments)


def expected(given_transcript: Transcript) -> list[Cue]:
    return [(round(s.start * 1000), round(s.end * 1000), s.text) for s in given_transcript.segments if s.text]


def milliseconds(parts: tuple[str, ...]) -> int:
    hours, minutes, seconds, rest = map(int, parts)
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


def parse_srt(text: str) -> list[Cue]:
    """Blocks of a number, a line of times and lines of text, with an empty line between them."""
    if not text:
        return []
    assert text.endswith("\n")
    cues = []
    for number, block in enumerate(text.removesuffix("\n").split("\n\n"), 1):
        index, times, *lines = block.split("\n")
        match = SRT_TIMES.fullmatch(times)
        assert index == str(number) and match and lines and "-->" not in "".join(lines)
        cues.append((milliseconds(match.groups()[:4]), milliseconds(match.groups()[4:]), "\n".join(lines)))
    return cues


def parse_vtt(text: str) -> list[Cue]:
    """W3C WebVTT: the signature, then blocks; text holds neither "-->" nor markup that is not escaped."""
    signature, _, body = text.partition("\n\n")
    assert signature == "WEBVTT" or text == "WEBVTT\n"
    cues = []
    for block in body.removesuffix("\n").split("\n\n") if body else []:
        times, *lines = block.split("\n")
        match = VTT_TIMES.fullmatch(times)
        written = "\n".join(lines)
        assert match and written and "-->" not in written and "<" not in written
        assert not re.search(r"&(?!(amp|lt|gt);)", written)
        cues.append((milliseconds(match.groups()[:4]), milliseconds(match.groups()[4:]), html.unescape(written)))
    return cues


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, first=st.sampled_from([0, 3_590, 359_990]))
def test_cues_are_read_back(steps: list[tuple[int, str]], first: int) -> None:
    made = transcript(steps, first)
    assert parse_vtt(to_vtt(made)) == expected(made)
    assert parse_srt(to_srt(made)) == [(start, end, text.replace("-->", "->")) for start, end, text in expected(made)]


def test_formats_look_as_players_know_them() -> None:
    made = transcript([(250, "Hello there."), (100, ""), (3_661_07, "Goodbye.")])
    assert to_srt(made) == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n2\n00:00:03,500 --> 01:01:04,570\nGoodbye.\n"
    )
    assert to_vtt(made) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello there.\n\n00:00:03.500 --> 01:01:04.570\nGoodbye.\n"
    )
    assert to_text(made) == "Hello there.\nGoodbye.\n"
    fields = json.loads(to_json(made))
    assert fields["text"] == "Hello there. Goodbye." and fields["duration"] == 3664.57
    assert [segment["text"] for segment in fields["segments"]] == ["Hello there.", "", "Goodbye."]
    assert list(FORMATS) == ["txt", "srt", "vtt", "json"]


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["Guten Tag.", "", "Ja."], "Guten Tag. Ja."),
        (["你好。", "世界", "ok", "。"], "你好。世界 ok 。"),
        (["こんにちは", "世界"], "こんにちは世界"),
        (["안녕", "세계"], "안녕 세계"),
        ([], ""),
    ],
)
def test_texts_are_joined_as_their_script_is_written(texts: list[str], joined: str) -> None:
    assert transcript([(100, text) for text in texts]).text == joined
