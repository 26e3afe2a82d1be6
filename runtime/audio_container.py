"""FLAC, Ogg and MP3 files as libsndfile must see them to decode every sample, and the checks that nothing is missing.

Boundary: walks the containers, decodes nothing. libsndfile stops at the length that a header gives: a FLAC header that
says too little, an MP3 file with variable bitrate and no header, or two MP3 files in one would be cut without a word.
So the length is taken from the frames themselves and the header is replaced where it is wrong. Formats: RFC 9639
(FLAC), RFC 3533 (Ogg), ISO/IEC 11172-3 and 13818-3 (MPEG Layer III).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from .errors import MediaError

_FLAC_HEADER = 42
_END_OF_STREAM, _FIRST_PAGE = 4, 2
_BITRATES = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
# Rubbish between frames, and tags of other kinds after them, are passed over up to this many bytes.
_RESYNC = 1 << 16


class Spliced:
    """The three methods of a file that libsndfile needs, over `prefix` and then the bytes of `file` from `start` on."""

    def __init__(self, prefix: bytes, file: BinaryIO, start: int) -> None:
        self._prefix, self._file, self._start, self._position = prefix, file, start, 0
        self._size = len(prefix) + file.seek(0, io.SEEK_END) - start

    def tell(self) -> int:
        """Offset from the start of the prefix."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as in any file."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        data = self._prefix[self._position : self._position + size]
        if len(data) < size:
            self._file.seek(self._start + self._position + len(data) - len(self._prefix))
            data += self._file.read(size - len(data))
        self._position += len(data)
        return data


@dataclass(frozen=True)
class Stream:
    """What libsndfile is given, and how many samples a channel must come out of it (None: as the decoder says)."""

    file: BinaryIO | Spliced
    samples: int | None


def skip_tags(file: BinaryIO) -> int:
    """Offset of the first byte after the ID3v2 tags at the start of a file."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return start
        # Four times seven bits, and a footer of ten bytes if its flag is set.
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        start += 10 + size + (10 if head[5] & 0x10 else 0)


def flac(file: BinaryIO, start: int, what: str) -> Stream:
    """A FLAC file whose header says that its length is unknown, so that all of it is decoded."""
    file.seek(start)
    head = bytearray(file.read(_FLAC_HEADER))
    if len(head) < _FLAC_HEADER or head[4] & 0x7F != 0:
        raise MediaError(f"{what} is a FLAC file without its first block of metadata; copy it again")
    # 36 bits: the low half of byte 21 and the four bytes after it.
    samples = int.from_bytes(head[21:26], "big") & (1 << 36) - 1
    head[21] &= 0xF0
    head[22:26] = bytes(4)
    return Stream(Spliced(bytes(head), file, start + _FLAC_HEADER), samples or None)


def ogg(file: BinaryIO, what: str) -> Stream:
    """An Ogg file that holds one stream up to its mark of the end. Raises MediaError for others."""
    size = file.seek(0, io.SEEK_END)
    position, flags, streams = 0, 0, 0
    while position < size:
        file.seek(position)
        header = file.read(27)
        if len(header) < 27 or header[:4] != b"OggS":
            break
        flags = header[5]
        streams += bool(flags & _FIRST_PAGE)
        table = file.read(header[26])
        position += 27 + header[26] + sum(table)
        if len(table) < header[26] or position > size:
            flags = 0
            break
    if streams != 1:
        raise MediaError(f"{what} is an Ogg file with {streams} streams; one recording a file is read: split it")
    if not flags & _END_OF_STREAM:
        raise MediaError(f"{what} is cut: it ends without the mark that ends an Ogg stream; copy or convert it again")
    return Stream(file, None)


@dataclass(frozen=True)
class _Frame:
    """One MPEG Layer III frame: its version (1, or 2 for 2 and 2.5), Hz, whether it has one channel, bytes, samples."""

    version: int
    rate: int
    mono: bool
    size: int

    @property
    def samples(self) -> int:
        """A channel."""
        return 1152 if self.version == 1 else 576

    @property
    def tag_offset(self) -> int:
        """Where a length header stands in a frame: after the frame's own header and its side information."""
        return 4 + ((17 if self.mono else 32) if self.version == 1 else (9 if self.mono else 17))


def is_mpeg(head: bytes) -> bool:
    """Whether an MPEG Layer III frame starts here."""
    return _frame(head) is not None


def mp3(file: BinaryIO, start: int, what: str) -> Stream:
    """An MP3 file with a length header that counts all of its frames. Raises MediaError if the end is missing."""
    file.seek(start)
    first_bytes = file.read(4096)
    first = _frame(first_bytes)
    if first is None:
        raise MediaError(f"{what} is damaged: it does not start with an MPEG Layer III frame; copy it again")
    promised = _promised_frames(first_bytes[: first.size], first)
    audio = start if promised is None else start + first.size
    frames = _count_frames(file, audio, first, what)
    if promised is not None and promised > frames + 1:
        raise MediaError(f"{what} is cut: its header promises {promised} frames, {frames} are there; copy it again")
    if promised in (frames, frames + 1):  # some encoders count the header's own frame
        return Stream(Spliced(b"", file, start), None)
    return Stream(Spliced(_length_header(first_bytes, first, frames), file, audio), frames * first.samples)


def _frame(head: bytes) -> _Frame | None:
    """Read the header of a Layer III frame; None if there is none or if its length is not stated (free format)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version_bits, layer, bitrate, rate = (head[1] >> 3) & 3, (head[1] >> 1) & 3, head[2] >> 4, (head[2] >> 2) & 3
    if version_bits == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return None
    version = 1 if version_bits == 3 else 2
    hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version_bits]
    size = (144_000 if version == 1 else 72_000) * _BITRATES[version][bitrate - 1] // hertz + ((head[2] >> 1) & 1)
    return _Frame(version, hertz, head[3] >> 6 == 3, size)


def _promised_frames(data: bytes, frame: _Frame) -> int | None:
    """The number in a Xing, Info or VBRI header; None if this is a frame of sound or the header gives no number."""
    tag = data[frame.tag_offset : frame.tag_offset + 12]
    if tag[:4] in (b"Xing", b"Info"):
        return int.from_bytes(tag[8:12], "big") if tag[7] & 1 else 0
    return int.from_bytes(data[50:54], "big") if data[36:40] == b"VBRI" else None


def _count_frames(file: BinaryIO, position: int, first: _Frame, what: str) -> int:
    """Walk from header to header, over tags and a little rubbish."""
    size, frames = file.seek(0, io.SEEK_END), 0
    while position < size:
        file.seek(position)
        frame = _frame(file.read(4))
        if frame is None or (frame.version, frame.rate) != (first.version, first.rate):
            step = _next_frame(file, position, first)
            if step is None:
                if size - position > _RESYNC:
                    seconds = frames * first.samples / first.rate
                    raise MediaError(f"{what} is damaged after {seconds:.1f} s; give an undamaged file")
                return frames
            position += step
            continue
        if position + frame.size > size:
            seconds = frames * first.samples / first.rate
            raise MediaError(f"{what} is cut: its last frame, after {seconds:.1f} s, is not complete; copy it again")
        position += frame.size
        frames += 1
    return frames


def _next_frame(file: BinaryIO, position: int, first: _Frame) -> int | None:
    """Bytes from `position` to the next two frames in a row, searched over a tag and 64 KiB."""
    file.seek(position)
    data = file.read(_RESYNC)
    skipped = 0
    if data[:3] == b"ID3":  # another file was appended with its tag
        skipped = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
        file.seek(position + skipped)
        data = file.read(_RESYNC)
    offset = data.find(b"\xff", 0 if skipped else 1)
    while offset >= 0:
        frame = _frame(data[offset : offset + 4])
        if frame is not None and (frame.version, frame.rate) == (first.version, first.rate):
            following = _frame(data[offset + frame.size : offset + frame.size + 4])
            if following is not None and following.rate == first.rate:
                return skipped + offset
        offset = data.find(b"\xff", offset + 1)
    return None


def _length_header(head: bytes, first: _Frame, frames: int) -> bytes:
    """A silent frame like the first one that carries a Xing header with the true number of frames."""
    # No checksum, and the ninth bitrate of the table so that the header fits into the frame at every rate.
    start = bytes([0xFF, head[1] | 1, head[2] & 0x0F | 0x90, head[3]])
    frame = _frame(start)
    assert frame is not None
    tag = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return (start + bytes(first.tag_offset - 4) + tag).ljust(frame.size, b"\0")
