"""WAV files → blocks of samples: a reader that trusts no number of the file.

Boundary: RIFF and RF64 containers with PCM, float and G.711 samples, as the files that people record have them. Every
other codec that can hide in a WAV file is refused by name instead of being handed to a decoder. The format is described
by Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991), and EBU Tech 3306 (RF64).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import MediaError

_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_CODECS = {2: "Microsoft ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x50: "MPEG", 0x55: "MP3", 0xFF: "AAC"}
# The last 14 bytes of the sub-format of WAVE_FORMAT_EXTENSIBLE; the first two are the codec.
_SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")
# Programs that write into a pipe cannot know the length and leave one of these.
_UNKNOWN_LENGTH = 0x7FFF_0000
_MAXIMUM_CHUNKS = 1024
_RF64 = (b"RF64", b"BW64")


@dataclass(frozen=True)
class WavFormat:
    """What the `fmt ` chunk says: codec (PCM, float, A-law or µ-law), channels, Hz, and bytes of one sample."""

    codec: int
    channels: int
    rate: int
    sample_bytes: int


@dataclass(frozen=True)
class WavData:
    """The samples of a file: their format, where they start, and their bytes (None if the header does not say)."""

    format: WavFormat
    start: int
    size: int | None

    @property
    def frames(self) -> int | None:
        """Samples a channel, None if the header does not say."""
        return None if self.size is None else self.size // (self.format.sample_bytes * self.format.channels)


def is_wav(head: bytes) -> bool:
    """Whether a file with these first 12 bytes is a WAV file."""
    return head[:4] in (b"RIFF", *_RF64) and head[8:12] == b"WAVE"


def read_header(file: BinaryIO, what: str) -> WavData:
    """Walk the chunks up to the samples. `what` names the file in errors.

    Raises MediaError for a damaged header, another codec, and a file that is shorter than its header says.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    riff_size = int.from_bytes(head[4:8], "little")
    found, long_size = None, None
    for _ in range(_MAXIMUM_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            break
        name, size = header[:4], int.from_bytes(header[4:], "little")
        if name == b"data":
            if found is None:
                raise MediaError(f"{what} has samples before their format; save it again as a plain WAV file")
            return WavData(found, file.tell(), _data_size(size, long_size, riff_size, end - file.tell(), what))
        if name == b"ds64":
            long_size = int.from_bytes(file.read(24)[8:16], "little")
            file.seek(size - 24 + size % 2, io.SEEK_CUR)
        elif name == b"fmt ":
            found = _format(file.read(min(size, 40)), what)
            file.seek(max(0, size - 40) + size % 2, io.SEEK_CUR)
        else:
            file.seek(size + size % 2, io.SEEK_CUR)
    raise MediaError(f"{what} is a WAV file without samples: no data chunk is found; record or save it again")


def read_blocks(file: BinaryIO, data: WavData, frames: int) -> Iterator[NDArray[np.float32]]:
    """Yield float32 (at most `frames`, channels) within about -1…1 until the samples end."""
    form = data.format
    frame_bytes = form.sample_bytes * form.channels
    file.seek(data.start)
    left = data.size
    while True:
        wanted = frames * frame_bytes if left is None else min(left, frames * frame_bytes)
        raw = file.read(wanted)
        if left is not None:
            left -= len(raw)
        whole = len(raw) // frame_bytes * frame_bytes  # less than one frame can be left over at the end of a file
        if not whole:
            return
        yield _samples(raw[:whole], form).reshape(-1, form.channels)


def _data_size(size: int, long_size: int | None, riff_size: int, available: int, what: str) -> int | None:
    if size == 0xFFFF_FFFF and long_size is not None:
        size = long_size
    elif size >= _UNKNOWN_LENGTH or (size == 0 and riff_size in (0, 0xFFFF_FFFF)):
        return None
    if size > available:
        raise MediaError(
            f"{what} is cut: its header promises {size} bytes of samples, {available} are there; copy it again")
    return size


def _format(chunk: bytes, what: str) -> WavFormat:
    if len(chunk) < 16:
        raise MediaError(f"{what} has a damaged format chunk of {len(chunk)} bytes; save it again as a plain WAV file")
    codec, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", chunk)
    if codec == _EXTENSIBLE and chunk[26:40] == _SUBFORMAT:
        codec = int.from_bytes(chunk[24:26], "little")
    if codec not in (_PCM, _FLOAT, _A_LAW, _MU_LAW):
        name = _CODECS.get(codec, f"codec {codec:#06x}")
        raise MediaError(f"{what} is encoded as {name}; PCM, float and G.711 WAV are read: convert it")
    sample_bytes, rest = divmod(align, channels) if channels else (0, 0)
    possible = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}.get(codec, (1,))
    if rest or sample_bytes not in possible or not 0 < bits <= 8 * sample_bytes:
        raise MediaError(
            f"{what} has {channels} channels of {bits} bits in blocks of {align} bytes, which cannot be; save it again")
    return WavFormat(codec, channels, rate, sample_bytes)


def _samples(raw: bytes, form: WavFormat) -> NDArray[np.float32]:
    """Interleaved samples as float32; integers are divided by 2^(bits - 1)."""
    if form.codec == _FLOAT:
        with np.errstate(over="ignore"):  # becomes infinity, which is refused with a text of its own
            return np.frombuffer(raw, f"<f{form.sample_bytes}").astype(np.float32)
    if form.codec in (_MU_LAW, _A_LAW):
        table = _MU_LAW_LEVELS if form.codec == _MU_LAW else _A_LAW_LEVELS
        levels: NDArray[np.float32] = table[np.frombuffer(raw, np.uint8)]
        return levels
    if form.sample_bytes == 1:  # the only unsigned one
        return (np.frombuffer(raw, np.uint8).astype(np.int16) - 128).astype(np.float32) / np.float32(128)
    if form.sample_bytes == 2:
        return np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(2**15)
    padded = np.zeros((len(raw) // form.sample_bytes, 4), np.uint8)
    padded[:, 4 - form.sample_bytes :] = np.frombuffer(raw, np.uint8).reshape(-1, form.sample_bytes)
    return (padded.view("<i4")[:, 0].astype(np.float64) / 2**31).astype(np.float32)


def _g711_levels(a_law: bool) -> NDArray[np.float32]:
    """Level of each byte: ITU-T G.711, a sign bit, three bits of exponent and four of mantissa."""
    code = np.arange(256) ^ (0x55 if a_law else 0xFF)
    exponent, mantissa = (code >> 4) & 7, code & 15
    if a_law:
        magnitude = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 264) << np.maximum(exponent - 1, 0))
        sign = np.where(code & 0x80, 1, -1)
    else:
        magnitude = (((mantissa << 3) + 132) << exponent) - 132
        sign = np.where(code & 0x80, -1, 1)
    levels: NDArray[np.float32] = (sign * magnitude / 2**15).astype(np.float32)
    return levels


_A_LAW_LEVELS = _g711_levels(a_law=True)
_MU_LAW_LEVELS = _g711_levels(a_law=False)
