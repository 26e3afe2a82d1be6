"""Recordings for training, made once and kept in a file: their features, what is said, and what is to be answered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.audio import prepare_audio
from .tasks import speech, spoken
from .tasks.example import Example
from .tasks.source import Source

ASKED = "question"  # recordings of questions about pictures
WORD = "word"  # recordings of single words, from which an encoder learns most easily where a word is
_STEP = 0.125  # of a stored feature: log-mel values lie between 0 and 27


@dataclass(frozen=True)
class Clip:
    """A recording: the written question behind it, answer and words; `levels` uint8 (frames, 80) in steps of _STEP."""

    task: str
    question: str | None
    answer: str
    said: tuple[str, ...]
    levels: NDArray[np.uint8]

    @property
    def features(self) -> NDArray[np.float32]:
        """Log-mel features float32 (frames, 80)."""
        return self.levels * np.float32(_STEP)


def load(path: Path, count: int, note: Callable[[str], None]) -> dict[str, list[Clip]]:
    """`count` training clips of each task, of ASKED (at least one of each) and of WORD: from the file, or made now."""
    if not path.exists():
        note(f"making {count} recordings for each of {len(speech.TASKS) + 2} kinds; they are kept in {path}")
        _write(path, list(_make(count)))
    return _read(path)


def clip_of(example: Example) -> Clip:
    """The recording of an example with its features."""
    (turn,) = example.turns
    content: Any = turn["content"]
    (audio,) = (part["audio"] for part in content if part["type"] == "audio")
    question = next((part["text"] for part in content if part["type"] == "text"), None)
    return Clip(example.task, question, example.answer, example.said, _levels(audio))


def _levels(audio: tuple[NDArray[np.float32], int]) -> NDArray[np.uint8]:
    return np.round(prepare_audio(audio).features / _STEP).clip(0, 255).astype(np.uint8)


def _make(count: int) -> Iterator[Clip]:
    for task, make in speech.TASKS.items():
        source = Source(f"corpus {task}", held_out=False)
        for _ in range(count):
            yield clip_of(make(source))
    least = max(count, len(spoken.QUESTIONS))  # any question may be asked
    for kind, texts, clips in ((ASKED, spoken.QUESTIONS, least), (WORD, speech.WORDS, count)):
        source = Source(f"corpus {kind}", held_out=False)
        for number in range(clips):
            said = texts[number % len(texts)]
            audio = speech.voices.say(said, speech.voices.manner(source))
            yield Clip(kind, None, "", tuple(said.split()), _levels(audio))


def _write(path: Path, clips: list[Clip]) -> None:
    texts = [[clip.task, clip.question or "", clip.answer, " ".join(clip.said)] for clip in clips]
    levels, lengths = np.concatenate([clip.levels for clip in clips]), [len(clip.levels) for clip in clips]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, texts=np.array(texts), levels=levels, lengths=lengths)
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, list[Clip]]:
    with np.load(path) as stored:
        texts, levels, ends = stored["texts"], stored["levels"], np.cumsum(stored["lengths"])
    found: dict[str, list[Clip]] = {}
    for (task, question, answer, said), last, first in zip(texts, ends, [0, *ends[:-1]], strict=True):
        clip = Clip(str(task), str(question) or None, str(answer), tuple(str(said).split()), levels[first:last])
        found.setdefault(clip.task, []).append(clip)
    return found
