"""Recordings of every kind that is read, and damaged or hostile ones: all of the samples, or one clear MediaError."""

from __future__ import annotations

import base64
import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edgephi.runtime.audio_decode import BLOCK_FRAMES, open_waveform
from edgephi.runtime.errors import MediaError

RATE = 16_000
KINDS = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"))


def speechlike(seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    """A tone that swells and fades, and noise: what lossy coders keep well."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.01, len(time))
    return (0.4 * np.sin(2 * np.pi * 300 * time) * np.sin(2 * np.pi * 1.5 * time) + noise).astype(np.float32)


def encoded(samples: NDArray[Any], container: str, subtype: str, rate: int = RATE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate, 1 if samples.ndim == 1 else samples.shape[1], format=container, subtype=subtype, **options,
    ) as file:
        for start in range(0, len(samples), 1 << 16):
            file.write(samples[start : start + (1 << 16)])
    return buffer.getvalue()


def decode(source: Any) -> NDArray[np.float32]:
    with open_waveform(source) as waveform:
        blocks = list(waveform.blocks)
    assert all(block.dtype == np.float32 and block.ndim == 1 and len(block) <= BLOCK_FRAMES for block in blocks)
    return np.concatenate(blocks)


def refused(source: Any) -> str:
    with pytest.raises(MediaError) as caught:
        decode(source)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    assert not re.search(r"0x[0-9a-f]{6,}", text)
    return text


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_every_kind_is_read_whole(container: str, subtype: str) -> None:
    samples = speechlike(10)
    decoded = decode(encoded(samples, container, subtype))
    assert decoded.shape == samples.shape
    error = np.sqrt(np.mean((decoded - samples) ** 2) / np.mean(samples**2))
    assert error < (1e-3 if subtype == "PCM_16" else 0.2)


def test_every_way_of_giving_a_recording_gives_the_same(tmp_path: Path) -> None:
    samples = (speechlike(0.5) * 30_000).astype(np.int16)
    data = encoded(samples, "FLAC", "PCM_16")
    path = tmp_path / "named.txt"
    path.write_bytes(data)
    expected = samples.astype(np.float32) / 32768
    url = "data:audio/wav;base64," + base64.b64encode(data).decode()
    arrays = [(samples, RATE), (samples[:, np.newaxis], RATE), (samples.astype(np.int32) << 16, RATE), (expected, RATE),
              (expected.astype(np.float64), np.int64(RATE))]
    with path.open("rb") as file:
        for source in [str(path), path, data, io.BytesIO(data), file, url, encoded(samples, "WAV", "PCM_16"), *arrays]:
            assert np.array_equal(decode(source), expected)
        assert not file.closed
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize(("container", "subtype"), KINDS[:2])
def test_channels_are_averaged_and_time_is_kept(channels: int, container: str, subtype: str) -> None:
    gains = np.linspace(0.1, 1, channels, dtype=np.float32)
    samples = speechlike(0.5)
    decoded = decode(encoded(samples[:, np.newaxis] * gains, container, subtype))
    assert decoded.shape == samples.shape
    assert np.abs(decoded - samples * gains.mean()).max() < 1e-4


@pytest.mark.parametrize(("container", "subtype"), KINDS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99, 0.9995])
def test_a_cut_recording_is_an_error(container: str, subtype: str, share: float) -> None:
    data = encoded(speechlike(6), container, subtype)
    text = refused(data[: int(len(data) * share)])
    assert "cut" in text or "damaged" in text


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_mutants_are_decoded_or_refused(
    container: str, subtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:
    """`capfd`: the MP3 decoder writes about damage to the terminal by itself."""
    monkeypatch.chdir(tmp_path)
    data = np.frombuffer(encoded(speechlike(0.5), container, subtype), np.uint8)
    random = np.random.default_rng(len(data))
    refusals = 0
    for index in range(200):
        mutant = data.copy()
        places = random.integers(0, len(data) if index % 2 else 200, random.integers(1, 6))
        mutant[places] = random.integers(0, 256, len(places))
        try:
            assert np.isfinite(decode(mutant.tobytes())).all()
        except MediaError:
            refusals += 1
    assert refusals
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [0, 1, 1000, 2**36 - 1])
def test_a_flac_header_is_not_trusted(length: int) -> None:
    samples = speechlike(1)
    data = bytearray(encoded(samples, "FLAC", "PCM_16"))
    data[21] = data[21] & 0xF0 | length >> 32
    data[22:26] = struct.pack(">I", length & 0xFFFFFFFF)
    if length > len(samples):
        assert "can be read" in refused(bytes(data))
    else:
        assert decode(bytes(data)).shape == samples.shape


def test_mp3_without_a_length_header_is_read_whole() -> None:
    """Quiet first: the length that a decoder guesses from the first bitrate would be a third of the true one."""
    samples = np.concatenate([speechlike(10, 44_100) * 1e-4, np.random.default_rng(1).normal(0, 0.3, 441_000)])
    data = encoded(samples, "MP3", "MPEG_LAYER_III", 44_100, bitrate_mode="VARIABLE", compression_level=0.5)
    tag = data.index(b"Xing")
    bare = data[data.index(data[:2], tag) :]
    delay = 1152 + 529  # of encoder and decoder, left out only where a header gives it
    assert len(samples) <= len(decode(bare)) <= len(samples) + 2 * 1152
    whole = decode(data)
    assert len(whole) == len(samples)
    joined = decode(b"ID3\x03\0\0\0\0\0\x05title" + data + b"ID3\x03\0\0\0\0\0\x05title" + data + b"TAG" + bytes(125))
    assert 2 * len(samples) <= len(joined) <= 2 * (len(samples) + delay + 1152)


def test_ogg_with_two_streams_is_refused_rather_than_halved() -> None:
    one = encoded(speechlike(1), "OGG", "VORBIS")
    assert "2 streams" in refused(one + one)


def test_tags_before_the_sound_are_passed_over() -> None:
    samples = speechlike(1)
    for container, subtype in (KINDS[1], KINDS[4]):
        data = encoded(samples, container, subtype)
        tagged = b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000) + data
        assert np.array_equal(decode(tagged), decode(data))
    assert "unknown format" in refused(b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100))
    assert "unknown format" in refused((b"ID3\x04\0\0\0\0\0\0") * 10_000)


@pytest.mark.parametrize(("data", "name"), [
    (b"\0\0\0\x20ftypM4A " + bytes(64), "MP4"), (b"\x1aE\xdf\xa3" + bytes(64), "WebM"), (b"FORM\0\0\0\0AIFF", "AIFF"),
    (b"0&\xb2u" + bytes(64), "WMA"), (b"\xff\xf1" + bytes(64), "AAC"), (b"hello", "unknown"), (bytes(4000), "unknown"),
    (b"caff\0\1" + bytes(64), "CAF"), (b"RIFF\0\0\0\0AVI ", "unknown"), (b"\xff\xfb\x90", "unknown"), (b"fLaC", "FLAC"),
    (b"OggS", "Ogg"), (b"OggS" + bytes(23), "Ogg"), (b"", "empty"),
])
def test_other_kinds_are_named_and_never_tried(data: bytes, name: str) -> None:
    assert name in refused(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_values_that_are_not_finite_are_refused(value: float, subtype: str) -> None:
    samples = speechlike(1)
    samples[7_000] = value
    assert "NaN or infinite" in refused(encoded(samples, "WAV", subtype))
    assert "NaN or infinite" in refused((samples, RATE))


def test_values_too_large_for_float_are_refused() -> None:
    assert "NaN or infinite" in refused((np.full(1000, 1e300), RATE))
    assert "scale it" in refused(((speechlike(0.1) * 30_000).astype(np.float32), RATE))


@pytest.mark.parametrize("rate", [0, 1, 3_999, 384_001, 2**32 - 1])
def test_absurd_rates_are_refused(rate: int) -> None:
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 0, 2, 16)
    data = b"RIFF" + struct.pack("<I", 1040) + b"WAVE" + header + b"data\xe8\x03\0\0" + bytes(1000)
    assert str(rate) in refused(data)
    assert str(rate) in refused((np.zeros(1000, np.float32), rate))


def test_sixty_five_channels_are_refused() -> None:
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 65, RATE, 0, 130, 16)
    data = b"RIFF" + struct.pack("<I", 1336) + b"WAVE" + header + b"data" + struct.pack("<I", 1300) + bytes(1300)
    assert "65 channels" in refused(data)


@pytest.mark.parametrize("source", [
    (np.zeros(0, np.float32), RATE), (np.zeros((0, 2), np.float32), RATE),
], ids=["mono", "stereo"])
def test_no_samples(source: Any) -> None:
    assert "no samples" in refused(source)


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_a_header_without_samples_is_refused(container: str, subtype: str) -> None:
    refused(encoded(np.zeros(0, np.float32), container, subtype))


@pytest.mark.parametrize("source", [
    (np.zeros((2, 16_000), np.float32), RATE), (np.zeros((4, 4, 4)), RATE), (np.zeros(10, complex), RATE),
    (np.zeros(10, np.int64), RATE), (np.zeros(10, bool), RATE), (np.zeros(10), 16_000.0), (np.zeros(10), None),
    ([0.0] * 10, RATE), (RATE, np.zeros(10)), (np.zeros(10),), None, 5, np.zeros(10),
], ids=lambda source: re.sub(r"\s+", " ", str(source))[:30])
def test_other_objects_are_refused(source: Any) -> None:
    assert "audio" in refused(source)
