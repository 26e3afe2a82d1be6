"""Recordings → blocks of mono samples, checked and never all in memory.

Boundary: WAV is read by audio_wav, FLAC, Ogg (Vorbis, Opus, FLAC) and MP3 by libsndfile; rates and features are
elsewhere. The content of a file decides what it is, not its name. Every count in a header is only a promise: reading
ends where the samples end, and a file that ends too early is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from .audio_container import Spliced, Stream, flac, is_mpeg, mp3, ogg, skip_tags
from .audio_wav import is_wav, read_blocks, read_header
from .errors import MediaError
from .media import MediaSource, describe, open_source

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
MAXIMUM_CHANNELS = 64
# What is held in memory (bytes, data: URLs, pipes); a file on disk is read block by block.
MAXIMUM_BYTES = 512 << 20
MAXIMUM_FILE_BYTES = 1 << 40
# Frames that are decoded at once; fixed, so that the same samples always pass through the same arithmetic.
BLOCK_FRAMES = 65_536
# Floats may overshoot ±1 a little; integers given as floats exceed it by far.
LARGEST_SAMPLE = 100.0

AudioSource = MediaSource | tuple[NDArray[np.generic], int]

_READ = "WAV, FLAC, Ogg (Vorbis, Opus) and MP3 are read"
_MPEG = ("MPEG", "MP3")
# A decoder leaves out the delay of encoder and decoder, less than two MPEG frames.
_MP3_DELAY = 2 * 1152
_UNKNOWN_FRAMES = 1 << 62
_OTHER_KINDS = (
    (4, b"ftyp", "an MP4/M4A"), (0, b"\x1aE\xdf\xa3", "a WebM/Matroska"), (0, b"FORM", "an AIFF"),
    (0, b"0&\xb2u", "a WMA"), (0, b"#!AMR", "an AMR"), (0, b"caff", "a CAF"), (0, b".snd", "an AU"),
    (0, b"\xff\xf1", "an AAC"), (0, b"\xff\xf9", "an AAC"),
)


@dataclass(frozen=True)
class Waveform:
    """A recording that is being read: mono float32 blocks at `rate` Hz. `what` names it in errors.

    `promised`: how many samples the header says there are, None where it does not say.
    """

    rate: int
    blocks: Iterator[NDArray[np.float32]]
    what: str
    promised: int | None


@contextmanager
def open_waveform(source: AudioSource) -> Iterator[Waveform]:
    """Open a recording; its blocks can be read until the context ends.

    Args:
        source: path, bytes, binary file, base64 `data:` URL, or (samples, rate) with samples (n,) or (n, channels):
            floats within about -1…1, or int16, int32 or uint8 of full range. Channels are averaged.

    Raises:
        MediaError: here or while the blocks are read: unreadable, damaged, cut, of another format, over a limit, or
            with samples that are not finite.
    """
    if isinstance(source, tuple):
        rate, samples = _check_array(source)
        starts = range(0, len(samples), BLOCK_FRAMES)
        parts = (_to_float(samples[start : start + BLOCK_FRAMES]) for start in starts)
        what = "audio given as an array"
        yield Waveform(rate, _mono(parts, what), what, len(samples))
        return
    what = describe(source, "audio")
    with open_source(source, "audio", limit=MAXIMUM_BYTES, file_limit=MAXIMUM_FILE_BYTES) as file:
        head = file.read(16)
        if is_wav(head):
            data = read_header(file, what)
            _check_format(data.format.rate, data.format.channels, what)
            blocks = read_blocks(file, data, BLOCK_FRAMES)
            yield Waveform(data.format.rate, _mono(blocks, what), what, data.frames)
            return
        stream = _stream(file, head, what)
        stream.file.seek(0)
        with _open_soundfile(stream.file, what) as decoder:
            _check_format(decoder.samplerate, decoder.channels, what)
            promised = decoder.frames if stream.samples is None else stream.samples
            blocks = _decoded(decoder, promised, what)
            known = promised if promised < _UNKNOWN_FRAMES else None
            yield Waveform(decoder.samplerate, _mono(blocks, what), what, known)


def _stream(file: BinaryIO, head: bytes, what: str) -> Stream:
    """Let only FLAC, Ogg and MP3 through to libsndfile, which would try two dozen formats."""
    start = skip_tags(file)
    file.seek(start)
    first = file.read(4)
    if first == b"fLaC":
        return flac(file, start, what)
    if first == b"OggS":
        return ogg(file, what)
    if is_mpeg(first):
        return mp3(file, start, what)
    kinds = [name for offset, magic, name in _OTHER_KINDS if head[offset:].startswith(magic)]
    found = f"{kinds[0]} file" if kinds else "damaged or of an unknown format"
    raise MediaError(f"{what} is {found}; {_READ}: convert it to one of them")


def _open_soundfile(file: BinaryIO | Spliced, what: str) -> Any:
    try:
        decoder = soundfile.SoundFile(file)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise MediaError(
            f"{what} is damaged or holds no audio ({type(error).__name__}); give another file") from error
    # Else the library seeks after every block, which fails at the end of a file of unknown length.
    decoder.seekable = lambda: False
    return decoder


def _decoded(decoder: Any, expected: int, what: str) -> Iterator[NDArray[np.float32]]:
    """Blocks (n, channels) up to the end. `expected`: frames that must be there at least, if they are known."""
    rate, count = decoder.samplerate, 0
    while True:
        try:
            block = decoder.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError, ValueError) as error:
            raise MediaError(f"{what} is damaged or cut after {count / rate:.1f} s; copy it again") from error
        if not len(block):
            break
        count += len(block)
        yield block
    if count + (_MP3_DELAY if decoder.format in _MPEG else 0) < expected < _UNKNOWN_FRAMES:
        raise MediaError(
            f"{what} is damaged or cut: {count / rate:.1f} s of {expected / rate:.1f} s can be read; copy it again")


def _mono(blocks: Iterator[NDArray[np.float32]], what: str) -> Iterator[NDArray[np.float32]]:
    """Average the channels of (n, channels) blocks and check every value."""
    empty = True
    for block in blocks:
        mixed = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mixed).all():
            raise MediaError(f"{what} holds samples that are NaN or infinite; record or export it again")
        if len(mixed) and float(np.abs(mixed).max()) > LARGEST_SAMPLE:
            raise MediaError(
                f"{what} holds samples up to {np.abs(mixed).max():.6g}; floats within -1…1 are read: scale it first")
        empty = empty and not len(mixed)
        yield mixed
    if empty:
        raise MediaError(f"{what} holds no samples; record or export it again")


def _check_array(source: tuple[object, ...]) -> tuple[int, NDArray[np.generic]]:
    if len(source) != 2 or not isinstance(source[0], np.ndarray) or not isinstance(source[1], int | np.integer):
        raise MediaError("audio given as a tuple is not (array of samples, whole rate in Hz); give both")
    samples, rate = source[0], int(source[1])
    if samples.ndim == 1:
        samples = samples[:, np.newaxis]
    if samples.ndim != 2 or (samples.shape[1] > MAXIMUM_CHANNELS and samples.shape[0] < samples.shape[1]):
        raise MediaError(f"audio array has shape {samples.shape}; (n,) or (n, channels) is read: transpose it")
    _check_format(rate, samples.shape[1], "audio given as an array")
    return rate, samples


def _to_float(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    if np.issubdtype(samples.dtype, np.floating):
        with np.errstate(over="ignore"):
            return samples.astype(np.float32)
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(2**15)
    if samples.dtype == np.int32:
        return (samples.astype(np.float64) / 2**31).astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.int16) - 128).astype(np.float32) / np.float32(128)
    raise MediaError(f"audio array has dtype {samples.dtype}; floats, int16, int32 or uint8 are read")


def _check_format(rate: int, channels: int, what: str) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise MediaError(f"{what} has {rate} samples a second; {LOWEST_RATE} to {HIGHEST_RATE} are read: resample it")
    if not 1 <= channels <= MAXIMUM_CHANNELS:
        raise MediaError(f"{what} has {channels} channels; 1 to {MAXIMUM_CHANNELS} are read: mix it down")
