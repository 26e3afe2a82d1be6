"""A recording → the log-mel features of Phi-4-multimodal's speech encoder, whole or chunk by chunk.

Boundary: decoding is audio_decode's, rates are audio_resampling's; the speech graph and its session are elsewhere. The
features follow the extractor that is published with the model, which transformers carries as
Phi4MultimodalFeatureExtractor; unlike it, recordings of any rate are resampled properly. 8 kHz recordings keep their
rate: the model was trained with their upper half of the spectrum empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .audio_decode import AudioSource, open_waveform
from .audio_resampling import resample
from .errors import MediaError

RATE, NARROW_RATE = 16_000, 8_000
MEL_BINS = 80
FRAME_SECONDS = 0.01
FRAMES_PER_TOKEN = 8
# 40 s: the encoder's own piece of 500 subsampled frames.
CHUNK_FRAMES = 4_000
# Three hours are 135,000 tokens, more than any context holds.
MAXIMUM_SECONDS = 10_800.0

_FFT = 512
_PREEMPHASIS = 0.97
_MEL_HIGHEST = 7_690.0
_BLOCK_FRAMES = 500
# A header may count what a decoder leaves out at both ends; what is decoded is counted exactly.
_HEADER_SLACK = 1.0


@dataclass(frozen=True)
class AudioInputs:
    """One recording or one chunk of it, ready for the speech graph.

    Attributes:
        features: float32 (frames, 80), natural logarithm of the mel spectrum.
        tokens: how many embeddings the graph makes of it.
        start: seconds from the start of the recording to the first frame.
        sha256: content hash (hex) of the features.
    """

    features: NDArray[np.float32]
    tokens: int
    start: float
    sha256: str

    @property
    def frames(self) -> int:
        """Number of feature vectors, one every 10 ms."""
        return len(self.features)

    @property
    def seconds(self) -> float:
        """Time that the frames stand for."""
        return self.frames * FRAME_SECONDS


@dataclass(frozen=True)
class AudioBatch:
    """Several recordings as the speech graph takes them, padded to the longest.

    Attributes:
        features: float32 (recordings, frames, 80), zero where padded.
        attention_mask: bool (recordings, frames), false where padded.
        sizes: int64 (recordings,), tokens of each.
    """

    features: NDArray[np.float32]
    attention_mask: NDArray[np.bool_]
    sizes: NDArray[np.int64]


def prepare_audio(source: AudioSource, *, max_seconds: float = MAXIMUM_SECONDS) -> AudioInputs:
    """Features of a whole recording.

    Raises MediaError for what cannot be decoded, for less than one frame (25 ms) and for more than `max_seconds`:
    nothing is ever cut off, and what is too long by its header or once it is reached is not decoded further.
    """
    features = bytearray()  # grows in place: a long recording is never in memory twice
    for chunk in stream_audio(source, max_seconds=max_seconds):
        features += np.ascontiguousarray(chunk.features).data.cast("B")
    return audio_inputs(np.frombuffer(features, np.float32).reshape(-1, MEL_BINS), 0)


def stream_audio(
    source: AudioSource, *, chunk_frames: int = CHUNK_FRAMES, max_seconds: float | None = None,
) -> Iterator[AudioInputs]:
    """Yield chunks of `chunk_frames` frames (the last one shorter) while the recording is still being read.

    Their features joined are exactly those of `prepare_audio`. Memory does not grow with the recording. Errors as
    there, raised when they are reached; without `max_seconds` a recording may be of any length.
    """
    if chunk_frames < 1:
        raise MediaError(f"chunks of {chunk_frames} frames are asked for; at least one frame is needed")
    with open_waveform(source) as waveform:
        if waveform.promised is not None:
            _check_length(waveform.what, waveform.promised / waveform.rate - _HEADER_SLACK, max_seconds)
        rate = NARROW_RATE if waveform.rate == NARROW_RATE else RATE
        samples = resample(waveform.blocks, waveform.rate, rate)
        first, waiting = 0, np.empty((0, MEL_BINS), np.float32)
        for block in _log_mel_blocks(samples, rate):
            waiting = np.concatenate([waiting, block])
            _check_length(waveform.what, (first + len(waiting)) * FRAME_SECONDS, max_seconds)
            while len(waiting) >= chunk_frames:
                yield audio_inputs(waiting[:chunk_frames], first)
                first, waiting = first + chunk_frames, waiting[chunk_frames:]
        if not first and not len(waiting):
            raise MediaError(f"{waveform.what} is shorter than one frame of 25 ms; record at least that")
        if len(waiting):
            yield audio_inputs(waiting, first)


def batch_audio(recordings: Sequence[AudioInputs]) -> AudioBatch:
    """Stack at least one recording for the speech graph."""
    if not recordings:
        raise ValueError("no recording is given; give at least one")
    frames = max(recording.frames for recording in recordings)
    features = np.zeros((len(recordings), frames, MEL_BINS), np.float32)
    mask = np.zeros((len(recordings), frames), np.bool_)
    for index, recording in enumerate(recordings):
        features[index, : recording.frames] = recording.features
        mask[index, : recording.frames] = True
    return AudioBatch(features, mask, np.array([recording.tokens for recording in recordings], np.int64))


def count_tokens(frames: int) -> int:
    """Embeddings that `frames` feature vectors become: the encoder halves time three times, rounding up."""
    return -(-frames // FRAMES_PER_TOKEN)


def audio_inputs(features: NDArray[np.float32], first: int) -> AudioInputs:
    """Features (frames, 80) as what is ready for the speech graph; `first` is their first frame's place."""
    digest = hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
    return AudioInputs(features, count_tokens(len(features)), first * FRAME_SECONDS, digest)


def _check_length(what: str, seconds: float, limit: float | None) -> None:
    if limit is not None and round(seconds / FRAME_SECONDS) > round(limit / FRAME_SECONDS):
        raise MediaError(
            f"{what} is longer than the {limit:g} s that can be taken; cut it, or transcribe it, which takes any length"
        )


def _log_mel_blocks(samples: Iterator[NDArray[np.float32]], rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield the features of samples at 16 or 8 kHz, 500 frames at a time: 25 ms every 10 ms, without padding."""
    window, hop = rate // 40, rate // 100
    buffer = np.empty(0, np.float32)
    for block in samples:
        buffer = np.concatenate([buffer, block])
        # Always the same cuts, so that the arithmetic does not depend on how the samples arrived.
        while len(buffer) >= (_BLOCK_FRAMES - 1) * hop + window:
            yield _log_mel(buffer[: (_BLOCK_FRAMES - 1) * hop + window], window, hop)
            buffer = buffer[_BLOCK_FRAMES * hop :]
    if len(buffer) >= window:
        yield _log_mel(buffer, window, hop)


def _log_mel(samples: NDArray[np.float32], window: int, hop: int) -> NDArray[np.float32]:
    """Features (frames, 80) of one stretch of samples within -1…1.

    Per frame: pre-emphasis that starts with the frame's own first sample (in float32, as the reference rounds), scale
    of 16-bit integers, symmetric Hamming window, power spectrum, mel filters, floor of 1, natural logarithm. At 8 kHz
    the transform is half as long, so that its bins have the same width; the Nyquist bin and all above count as empty.
    """
    frames = sliding_window_view(samples, window)[::hop]
    emphasised = frames.copy()
    emphasised[:, 1:] -= np.float32(_PREEMPHASIS) * frames[:, :-1]
    emphasised[:, 0] -= np.float32(_PREEMPHASIS) * frames[:, 0]
    length = _FFT * window // (RATE // 40)
    spectrum = np.fft.rfft(emphasised * (32768 * np.hamming(window)), n=length)
    bins = _FFT // 2 + 1 if length == _FFT else length // 2
    power = np.square(np.abs(spectrum[:, :bins])).astype(np.float32)
    features: NDArray[np.float32] = np.log(np.maximum(power @ _mel_filters()[:bins], np.float32(1)))
    return features


@lru_cache
def _mel_filters() -> NDArray[np.float32]:
    """Triangles (257 bins, 80) that are symmetric on the mel scale 1127·ln(1 + f/700) between 0 and 7,690 Hz."""
    centres = np.linspace(0, 1127 * np.log1p(_MEL_HIGHEST / 700), MEL_BINS + 2)
    bins = 1127 * np.log1p(np.arange(_FFT // 2 + 1) * (RATE / _FFT) / 700)
    distance = np.abs(bins[:, np.newaxis] - centres[1:-1]) / (centres[1] - centres[0])
    filters: NDArray[np.float32] = np.clip(1 - distance, 0, None).astype(np.float32)
    return filters
