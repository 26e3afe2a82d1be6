"""Transcribing: what a session is asked chunk by chunk, what comes of the answers, and the same through a real session.

The weights of the tiny bundle are random, so words mean nothing: what is held is which prompts and media reach the
session, how segments lie in time, ends and errors. Where the content of answers matters a scripted session gives them.
"""

from __future__ import annotations

import io
import shutil
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import edgephi
from edgephi import ContextOverflow, MediaError, RequestError, Session, Transcript
from edgephi.runtime.audio import AudioInputs
from edgephi.runtime.transcribe import LANGUAGES, SPOKEN, instruct, make_transcript, stream_segments

RATE = 16_000
Reply = SimpleNamespace


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    samples: np.ndarray = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    return samples


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


class Scripted:
    """Stands in for a session: remembers what it is asked and gives the answers of a script, the last one for ever."""

    def __init__(self, *answers: str, finish: Sequence[str] = ("stop",), context: int = 4096) -> None:
        self.manifest = SimpleNamespace(capabilities=("text", "audio"), source=SimpleNamespace(name="scripted"))
        self.context = context
        self.asked: list[tuple[Any, dict[str, object]]] = []
        self._answers, self._finish = answers or ("words",), finish

    def chat(self, messages: Sequence[dict[str, Any]], **options: object) -> Reply:
        number = len(self.asked)
        self.asked.append((messages[0]["content"], options))
        text, finish = (script[min(number, len(script) - 1)] for script in (self._answers, self._finish))
        return Reply(text=text, finish_reason=finish, usage=None)

    def require_adapter(self, name: str | None) -> None:
        assert name is None

    def encode(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """A token for every word."""
        return [0] * len(messages[0]["content"].split())


def script(scripted: Scripted) -> Session:
    return cast("Session", scripted)


@pytest.mark.parametrize(
    ("language", "translate", "words"),
    [
        (None, None, "Transcribe the audio clip into text."),
        ("en", None, "Transcribe the English audio clip into text."),
        ("de-AT", None, "Transcribe the German audio clip into text."),
        ("PT_br", None, "Transcribe the Portuguese audio clip into text."),
        (" japanese ", None, "Transcribe the Japanese audio clip into text."),
        (None, "en", "Translate the audio to English."),
        ("de", "French", "Translate the audio to French."),
        ("fr", "uk", "Translate the audio to Ukrainian."),
        ("fr", "fr-CA", "Transcribe the French audio clip into text."),
    ],
)
def test_the_session_is_asked_in_the_familys_words(language: str | None, translate: str | None, words: str) -> None:
    scripted = Scripted()
    made = make_transcript(script(scripted), (sound(2), RATE), language, translate)
    ((content, options),) = scripted.asked
    audio, text = content
    assert text == {"type": "text", "text": words} and words == instruct(language, translate)
    assert audio["type"] == "audio" and isinstance(audio["audio"], AudioInputs) and audio["audio"].frames == 198
    assert options == {"temperature": 0.0, "max_tokens": 16 + 24, "adapter": None}
    assert made.text == "words" and made.summary is None


def test_languages_are_recorded_by_their_codes() -> None:
    source = (sound(1), RATE)
    made = make_transcript(script(Scripted()), source, "German", "English")
    assert (made.language, made.translated_to) == ("de", "en")
    assert make_transcript(script(Scripted()), source, "de", "de").translated_to is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"language": "klingon"}, r"language is 'klingon'; the model knows en \(English\)"),
        ({"language": "sv"}, "language is 'sv'"),  # which it writes and does not hear
        ({"language": ""}, "language is ''"),
        ({"language": 7}, "language is 7"),
        ({"translate": "latin"}, r"translate is 'latin'; the model knows ar \(Arabic\)"),
        ({"chunk_seconds": 41}, "chunk_seconds is 41; allowed is a number from 5 to 40"),
        ({"chunk_seconds": float("nan")}, "chunk_seconds is nan"),
        ({"chunk_seconds": "30"}, "chunk_seconds is '30'"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(arguments: dict[str, Any], complaint: str) -> None:
    scripted = Scripted()
    with pytest.raises(RequestError, match=complaint):
        stream_segments(script(scripted), "nowhere.wav", **arguments)
    assert not scripted.asked and set(SPOKEN) <= LANGUAGES.keys()


def test_long_recordings_are_asked_chunk_by_chunk() -> None:
    scripted = Scripted("one\n two ", "", "three", finish=("stop", "stop", "length"))
    samples = sound(70)
    made = make_transcript(script(scripted), (samples, RATE))
    frames = [content[0]["audio"].frames for content, _ in scripted.asked]
    assert len(frames) == 3 and max(frames) <= 3000 and sum(frames) == 6998
    assert [segment.text for segment in made.segments] == ["one two", "", "three"] and made.text == "one two three"
    edges = [(segment.start, segment.end) for segment in made.segments]
    assert edges[0][0] == 0 and made.duration == edges[-1][1] == 69.98
    assert [end for _, end in edges[:-1]] == [start for start, _ in edges[1:]]
    assert [segment.finish_reason for segment in made.segments] == ["stop", "stop", "length"]
    assert made.finish_reason == "length"
    limits = [options["max_tokens"] for _, options in scripted.asked]
    assert limits == [16 + round(count * 0.12) for count in frames]


def test_silence_is_no_question() -> None:
    scripted = Scripted()
    made = make_transcript(script(scripted), (np.zeros(65 * RATE, np.float32), RATE), summarize=True)
    assert not scripted.asked and made.text == made.summary == "" and made.duration == 64.98
    assert [segment.usage for segment in made.segments] == [None] * len(made.segments)


class Watched(io.BytesIO):
    """A file that tells how far it was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reached = 0
        self.moved = threading.Condition()

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        with self.moved:
            self.reached = max(self.reached, self.tell())
            self.moved.notify_all()
        return data

    def wait_for(self, seconds: float) -> bool:
        with self.moved:
            return self.moved.wait_for(lambda: self.reached >= seconds * RATE * 2, timeout=30)


def test_the_next_chunk_is_read_while_one_is_decoded_and_no_more() -> None:
    source = Watched(wav(sound(120)))
    waited: list[bool] = []

    class Patient(Scripted):
        def chat(self, messages: Sequence[dict[str, Any]], **options: object) -> Reply:
            waited.append(source.wait_for(min(120, 30 * len(waited) + 50)))
            return super().chat(messages, **options)

    stream = stream_segments(script(Patient()), source, chunk_seconds=30)
    assert source.reached == 0
    next(stream)
    # The first chunk, the one in waiting, and what must be seen beyond it to know where it may end.
    assert source.reached <= (60 + 1 + 5 + 4.2) * RATE * 2
    assert len(list(stream)) >= 3 and all(waited)


def test_closing_a_stream_ends_its_thread_and_its_reading() -> None:
    source = Watched(wav(sound(120)))
    stream = stream_segments(script(Scripted()), source, chunk_seconds=5)
    next(stream)
    stream.close()
    reached = source.reached
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgephi-audio")]
    assert reached == source.reached < 60 * RATE * 2


def test_damage_is_told_when_it_is_reached() -> None:
    samples = sound(50)
    samples[-1] = np.nan
    scripted = Scripted()
    stream = stream_segments(script(scripted), (samples, RATE))
    assert next(stream).text == "words"
    with pytest.raises(MediaError, match="NaN"):
        list(stream)
    assert len(scripted.asked) == 1


def test_a_cancelled_answer_ends_the_transcript() -> None:
    scripted = Scripted("first", "half", finish=("stop", "cancelled"))
    made = make_transcript(script(scripted), (sound(100), RATE), summarize=True)
    assert made.text == "first half" and made.finish_reason == "cancelled" and made.summary is None
    assert len(scripted.asked) == 2


def test_a_summary_is_made_of_the_whole_text_if_that_fits() -> None:
    scripted = Scripted("one", "two", " The point. ")
    made = make_transcript(script(scripted), (sound(40), RATE), summarize=True)
    assert made.summary == "The point." and made.text == "one two"
    content, options = scripted.asked[-1]
    assert content.endswith("Transcript:\none two") and options == {"temperature": 0.0, "max_tokens": 1024}


def _summary_of(words: list[str], answers: Sequence[str], context: int, **script_: Any) -> tuple[Transcript, Scripted]:
    scripted = Scripted(" ".join(words), *answers, context=context, **script_)
    return make_transcript(script(scripted), (sound(2), RATE), summarize=True), scripted


def test_a_summary_of_a_long_text_is_made_of_its_parts() -> None:
    words = [f"w{number}" for number in range(1000)]
    made, scripted = _summary_of(words, ["brief"], 400)
    texts = [content.partition("Transcript:\n")[2] for content, _ in scripted.asked[1:]]
    assert [word for text in texts[:-1] for word in text.split()] == words  # every word once, in order
    assert texts[-1] == "\n".join(["brief"] * (len(texts) - 1)) and made.summary == "brief"
    assert all(len(content.split()) + 100 <= 400 for content, _ in scripted.asked[1:])
    assert {options["max_tokens"] for _, options in scripted.asked[1:]} == {100}


def test_summaries_that_do_not_get_shorter_are_an_error() -> None:
    words = ["word"] * 1000
    with pytest.raises(ContextOverflow, match="larger context"):
        _summary_of(words, [" ".join(words)], 400)
    with pytest.raises(ContextOverflow, match="larger context"):
        _summary_of(["word"], ["brief"], 8)


def test_a_cancelled_summary_is_marked() -> None:
    words = [f"w{number}" for number in range(1000)]
    made, scripted = _summary_of(words, ["half"], 400, finish=("stop", "cancelled"))
    assert made.finish_reason == "cancelled" and made.summary == "half" and len(scripted.asked) == 2


@pytest.fixture(scope="module")
def phi(tiny_multimodal_bundle: Callable[..., Path]) -> Iterator[Session]:
    with edgephi.load(tiny_multimodal_bundle("fp32"), threads=2) as session:
        yield session


def test_a_segment_is_the_answer_about_its_chunk(phi: Session) -> None:
    samples = sound(4, 3)
    made = phi.transcribe((samples, RATE), language="de")
    content = [
        {"type": "audio", "audio": (samples, RATE)},
        {"type": "text", "text": "Transcribe the German audio clip into text."},
    ]
    reply = phi.chat([{"role": "user", "content": content}], temperature=0, max_tokens=64)
    (segment,) = made.segments
    assert segment.text == " ".join(reply.text.split()) and segment.finish_reason == reply.finish_reason
    assert segment.usage is not None and segment.usage.completion_tokens == reply.usage.completion_tokens
    assert made.language == "de" and (segment.start, segment.end) == (0.0, 3.98)


def test_every_form_of_a_recording_is_transcribed_alike(phi: Session, tmp_path: Path) -> None:
    data = wav(sound(13, 4))
    path = tmp_path / "talk.wav"
    path.write_bytes(data)
    texts = [
        [(each.start, each.end, each.text) for each in phi.stream_transcript(source, chunk_seconds=5)]
        for source in (data, path, str(path), io.BytesIO(data))
    ]
    assert len(texts[0]) >= 3 and texts[1:] == texts[:1] * 3
    whole = phi.transcribe(path, chunk_seconds=5)
    assert [(each.start, each.end, each.text) for each in whole.segments] == texts[0]


def test_a_running_transcript_is_cancelled_from_another_thread(phi: Session) -> None:
    reasons: list[str] = []
    first = threading.Event()

    def run() -> None:
        for segment in phi.stream_transcript((sound(600, 5), RATE), chunk_seconds=30):
            reasons.append(segment.finish_reason)
            first.set()

    worker = threading.Thread(target=run)
    worker.start()
    assert first.wait(60)
    while worker.is_alive():
        phi.cancel()
        worker.join(0.05)
    assert reasons[-1] == "cancelled" and len(reasons) < 20


def test_a_bundle_without_ears_says_what_it_takes(tiny_bundle: Callable[..., Path]) -> None:
    with edgephi.load(tiny_bundle("mini")) as session:
        with pytest.raises(RequestError, match="takes text, no audio: transcribe with a bundle of Phi-4-multimodal"):
            session.transcribe("talk.wav")
        with pytest.raises(RequestError, match="no audio"):
            session.stream_transcript("talk.wav")


def test_a_file_that_is_not_there_is_named(phi: Session, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.wav"):
        phi.transcribe(tmp_path / "nowhere.wav")


def test_an_adapter_of_the_bundle_writes_and_an_unknown_one_is_refused_at_once(
    tiny_multimodal_bundle: Callable[..., Path], peft_adapter: Callable[[int], Path], tmp_path: Path
) -> None:
    from edgephi.export.adapters import add_adapter

    folder, samples = tmp_path / "bundle", sound(1.5)
    shutil.copytree(tiny_multimodal_bundle(), folder)
    add_adapter(folder, peft_adapter(0), "mine")
    with edgephi.load(folder, threads=1, context=2048) as session:
        plain = session.transcribe((samples, RATE)).text
        (segment,) = session.transcribe((samples, RATE), adapter="mine").segments
        assert segment.usage is not None and segment.text != plain
        content = [{"type": "audio", "audio": (samples, RATE)}, {"type": "text", "text": instruct(None, None)}]
        asked = [{"role": "user", "content": content}]
        reply = session.chat(asked, temperature=0, max_tokens=segment.usage.completion_tokens, adapter="mine")
        assert segment.text == " ".join(reply.text.split())
        assert session.transcribe((samples, RATE)).text == plain
        with pytest.raises(RequestError, match="has no adapter 'other'; its adapters: mine"):
            session.stream_transcript((samples, RATE), adapter="other")
