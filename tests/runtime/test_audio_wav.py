"""WAV files byte by byte: every sample format against libsndfile, and every lie a header can tell."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edgephi.runtime.audio_wav import is_wav, read_blocks, read_header
from edgephi.runtime.errors import MediaError

NOISE = np.random.default_rng(0).uniform(-0.9, 0.9, (1000, 2)).astype(np.float32)


def encoded(container: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE, 16_000, format=container, subtype=subtype)
    return buffer.getvalue()


def wav(
    form: bytes, samples: bytes, *, size: int | None = None, riff_size: int | None = None, before: bytes = b"",
) -> bytes:
    """A file of one format chunk, `before`, and one data chunk that claims `size` bytes."""
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + before
    body += b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def form(codec: int = 1, channels: int = 1, rate: int = 16_000, align: int = 2, bits: int = 16) -> bytes:
    return struct.pack("<HHIIHH", codec, channels, rate, rate * align & 0xFFFFFFFF, align, bits)


def decode(data: bytes, frames: int = 300) -> NDArray[np.float32]:
    file = io.BytesIO(data)
    header = read_header(file, "audio")
    return np.concatenate([np.empty((0, header.format.channels), np.float32), *read_blocks(file, header, frames)])


def refused(data: bytes) -> str:
    with pytest.raises(MediaError) as caught:
        decode(data)
    return str(caught.value)


SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_every_sample_format_equals_libsndfile(container: str, subtype: str) -> None:
    data = encoded(container, subtype)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert is_wav(data[:12])
    assert np.array_equal(decode(data), expected)


@pytest.mark.parametrize(("subtype", "name"), [("IMA_ADPCM", "IMA ADPCM"), ("MS_ADPCM", "Microsoft ADPCM")])
def test_other_codecs_are_refused_by_name(subtype: str, name: str) -> None:
    assert name in refused(encoded("WAV", subtype))
    assert "0x4242" in refused(wav(form(codec=0x4242), bytes(8)))
    assert "0xfffe" in refused(wav(form(codec=0xFFFE) + bytes(24), bytes(8)))


def test_fewer_bits_than_a_sample_has_are_its_upper_ones() -> None:
    assert decode(wav(form(align=3), b"\0\0\xc0\0\0\x20")).tolist() == [[-0.5], [0.25]]
    assert decode(wav(form(bits=12), struct.pack("<hh", -0x8000, 0x4000))).tolist() == [[-1.0], [0.5]]


def test_chunks_before_the_samples_are_passed_over_with_their_padding() -> None:
    notes = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0"
    assert decode(wav(form(), struct.pack("<h", 0x4000), before=notes)).tolist() == [[0.5]]


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_FFDB])
def test_an_unknown_length_is_read_to_the_end(size: int) -> None:
    assert decode(wav(form(), bytes(1400), size=size)).shape == (700, 1)


def test_a_length_of_zero_is_unknown_only_if_the_whole_length_is() -> None:
    assert decode(wav(form(), bytes(1400), size=0, riff_size=0)).shape == (700, 1)
    assert decode(wav(form(), bytes(1400), size=0)).shape == (0, 1)


def test_what_follows_the_samples_is_not_sound() -> None:
    assert decode(wav(form(), bytes(20)) + b"LIST\x04\0\0\0INFO").shape == (10, 1)


def test_a_last_incomplete_frame_is_left_out() -> None:
    assert decode(wav(form(channels=2, align=4), bytes(4003))).shape == (1000, 2)


@pytest.mark.parametrize("missing", [1, 2, 100, 3999])
def test_a_cut_file_is_an_error(missing: int) -> None:
    assert "cut" in refused(encoded("WAV", "PCM_16")[:-missing])


@pytest.mark.parametrize("broken", [
    form(channels=0), form(align=0), form(bits=0), form(bits=17), form(channels=3, align=4),
    form(align=5, bits=40), form(codec=3, align=2), form(codec=7, align=2), form(channels=65_535, align=1),
    form()[:10], b"",
], ids=bytes.hex)
def test_impossible_formats_are_errors(broken: bytes) -> None:
    assert "save it again" in refused(wav(broken, bytes(100)))


def test_files_without_samples_or_format() -> None:
    whole = wav(form(), bytes(8))
    assert "no data chunk" in refused(whole[:36])
    assert "no data chunk" in refused(b"RIFF\xff\xff\xff\xffWAVE")
    assert "before their format" in refused(b"RIFF\0\0\0\0WAVEdata\x04\0\0\0abcd")
    # A million empty chunks: the walk gives up long before.
    assert "no data chunk" in refused(b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 1_000_000)
    assert "no data chunk" in refused(b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff")


def test_rf64_needs_its_long_size() -> None:
    data = bytearray(encoded("RF64", "PCM_16"))
    place = data.index(b"ds64") + 16
    data[place : place + 8] = struct.pack("<Q", 1 << 60)
    assert "cut" in refused(bytes(data))
