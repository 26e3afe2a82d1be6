"""Speech from the microphone, through the optional library sounddevice (PortAudio).

Boundary: samples in, the bytes of a WAV file out; what ends a recording is the caller's.
"""

from __future__ import annotations

import importlib
import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import MissingDependency, RequestError

# Amplitude of 16 bits: a microphone that is on is never as quiet as this.
QUIET = 4


@dataclass(frozen=True)
class Speech:
    """A recording: `wav` is a whole file, mono, 16 bits, at the microphone's own rate.

    `gaps`: the machine was too slow to take all of it. `silent`: nothing was heard, as with a muted microphone.
    """

    wav: bytes
    seconds: float
    gaps: bool
    silent: bool


def record(wait: Callable[[], object]) -> Speech:
    """Record for as long as `wait` takes.

    Raises MissingDependency, and RequestError where there is no microphone or nothing came from it; what `wait` raises
    ends the recording, too.
    """
    library = _library()
    blocks: list[bytes] = []
    gaps: list[bool] = []

    def take(data: Any, frames: int, when: Any, status: Any) -> None:
        blocks.append(bytes(data))
        gaps.append(bool(status))

    try:
        rate = round(library.query_devices(kind="input")["default_samplerate"])
        stream = library.RawInputStream(samplerate=rate, channels=1, dtype="int16", callback=take)
    except (library.PortAudioError, ValueError) as error:
        raise RequestError(
            f"no microphone can be opened ({error}); connect one and let this program use it"
        ) from error
    with stream:
        wait()
    samples = b"".join(blocks)
    if not samples:
        raise RequestError("nothing came from the microphone; record a little longer or choose another input")
    heard = memoryview(samples).cast("h")
    return Speech(_wav(samples, rate), len(heard) / rate, any(gaps), max(heard) < QUIET and min(heard) > -QUIET)


def _wav(samples: bytes, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate, 0, "NONE", ""))
        writer.writeframes(samples)
    return file.getvalue()


def _library() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise MissingDependency(
            'the microphone needs the library sounddevice: install it with pip install "edgephi[microphone]"'
        ) from error
    except OSError as error:  # what sounddevice raises
        raise MissingDependency(
            f"the microphone needs PortAudio ({error}); install it, as with apt install libportaudio2"
        ) from error
