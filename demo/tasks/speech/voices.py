"""Text → a recording by espeak-ng (Debian's package espeak-ng), with several voices, speeds, pitches and noise.

Some voices are kept for held-out recordings. espeak-ng is a program of its own: nothing of it is part of this package.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..example import Example
from ..source import Source

_ACCENTS = ("en-us", "en-gb")
_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m8", "f1", "f2", "f4", "f5", "Alicia", "Andrea", "Andy", "Annie", "Diogo"),
    *("Gene", "Hugo", "Lee", "Marco", "Michael", "Mike", "belinda", "benjamin", "caleb", "david", "ed", "edward"),
    *("john", "linda", "max", "paul", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor", "zac"),
)
TRAINING_VOICES = tuple(f"{accent}+{variant}" for accent in _ACCENTS for variant in _VARIANTS)
HELD_OUT_VOICES = tuple(f"{accent}+{variant}" for accent in _ACCENTS for variant in ("m7", "f3"))


class SpeakerMissing(OSError):
    """espeak-ng is not installed or does not work."""


@dataclass(frozen=True)
class Manner:
    """How something is said: words a minute, pitch from 0 to 99; noise below the voice, in decibels, and its seed."""

    voice: str
    speed: int
    pitch: int
    quieter: float
    seed: int


def manner(source: Source) -> Manner:
    """A way to say something, with a voice of the source's side of the split."""
    voices = HELD_OUT_VOICES if source.held_out else TRAINING_VOICES
    return Manner(
        source.pick(voices),
        source.between(130, 190),
        source.between(30, 70),
        source.between(15, 40),
        source.below(1 << 30),
    )


def say(text: str, how: Manner) -> tuple[NDArray[np.float32], int]:
    """Mono samples within -1…1 and their rate. Equal arguments give equal samples. Raises SpeakerMissing."""
    command = ["espeak-ng", "-v", how.voice, "-s", str(how.speed), "-p", str(how.pitch), "--stdout", text]
    try:
        made = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SpeakerMissing("espeak-ng cannot be run; install Debian's package espeak-ng") from error
    samples, rate = soundfile.read(io.BytesIO(made), dtype="float32")
    random = np.random.default_rng(how.seed)
    before, after = random.integers(0, rate // 4, 2)
    quiet = np.pad(samples, (int(before), int(after)))
    loudness = float(np.sqrt(np.mean(np.square(samples)))) or 1.0
    noise = random.standard_normal(len(quiet)).astype(np.float32) * loudness * 10 ** (-how.quieter / 20)
    gain = random.uniform(0.3, 1.0)
    return np.clip((quiet + noise) * gain, -1, 1).astype(np.float32), int(rate)


def heard(task: str, source: Source, said: Sequence[str], question: str | None, answer: str, content: str) -> Example:
    """An example of one recording, with a written question behind it unless the recording is the request."""
    parts: list[dict[str, object]] = [{"type": "audio", "audio": say(" ".join(said), manner(source))}]
    if question is not None:
        parts.append({"type": "text", "text": question})
    return Example(task, ({"role": "user", "content": parts},), answer, content, said=tuple(said))
