"""A recording of any length → chunks that the speech model reads in one go, cut where it is quietest.

Boundary: features in and out; what is said in a chunk is transcribe.py's. The chunks joined are exactly the features of
the whole recording: nothing is lost or doubled where it is cut.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from .audio import CHUNK_FRAMES, FRAME_SECONDS, AudioInputs, audio_inputs, stream_audio
from .audio_decode import AudioSource, open_waveform

# The model was trained on speech of up to 40 s, which its encoder reads as one piece.
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, CHUNK_FRAMES * FRAME_SECONDS

# Log-mel of white noise whose samples are one step of 16 bits: below it no band of any frame holds a voice.
_SILENCE = 10.0
_READ_FRAMES = 500
# People seldom speak for 5 s without a pause.
_SEARCHED_FRAMES = 500
# A recording that is a little longer than a chunk is not cut into a chunk and a scrap of a word.
_LAST_FRAMES = 100
# A pause is judged by its middle most: triangular weights over 0.25 s.
_HALF = 12
_WEIGHTS = 1 - np.abs(np.arange(-_HALF, _HALF + 1)) / (_HALF + 1)


def cut_at_pauses(source: AudioSource, *, chunk_seconds: float) -> Generator[AudioInputs, None, None]:
    """Yield the recording in chunks of at most `chunk_seconds` (5 to 40 s) while it is still being read.

    Each is cut at the quietest place where it may end, so that words stay whole wherever there is a pause: in the last
    third of its length, for short ones in the last half. Memory does not grow with the recording. Raises MediaError
    where it is reached in the recording.
    """
    longest = round(chunk_seconds / FRAME_SECONDS)
    first, waiting = 0, np.empty((0, 0), np.float32)
    for block in stream_audio(source, chunk_frames=_READ_FRAMES):
        waiting = np.concatenate([waiting, block.features]) if len(waiting) else block.features
        while len(waiting) >= longest + _LAST_FRAMES:
            cut = _quietest(waiting, longest, longest)
            yield audio_inputs(waiting[:cut], first)
            first, waiting = first + cut, waiting[cut:]
    if len(waiting) > longest:
        cut = _quietest(waiting, len(waiting) - _LAST_FRAMES, longest)
        yield audio_inputs(waiting[:cut], first)
        first, waiting = first + cut, waiting[cut:]
    yield audio_inputs(waiting, first)


def is_silent(chunk: AudioInputs) -> bool:
    """Whether nothing in the chunk is louder than the rounding to 16 bits: there is no voice to be heard."""
    return float(chunk.features.max()) < _SILENCE


def measure(source: AudioSource) -> float:
    """Read the whole recording and return its length in seconds. Raises MediaError wherever it is damaged."""
    with open_waveform(source) as waveform:
        return sum(map(len, waveform.blocks)) / waveform.rate


def _quietest(features: NDArray[np.float32], latest: int, longest: int) -> int:
    """The quietest frame between where a chunk of `longest` frames may end and `latest`; the last of several.

    Loudness is the logarithm of the power in all mel bands: a short gap counts as much among loud words as among
    quiet ones.
    """
    earliest = longest - max(longest // 3, min(longest // 2, _SEARCHED_FRAMES))
    heard = features[earliest - _HALF : latest + _HALF + 1].astype(np.float64)
    loudness = np.convolve(np.log(np.exp(heard).sum(axis=1)), _WEIGHTS, "valid")
    return earliest + len(loudness) - 1 - int(loudness[::-1].argmin())
