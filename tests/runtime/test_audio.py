"""Features whole and in chunks, their counts and limits, apart from any reference implementation."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edgephi.runtime.audio import CHUNK_FRAMES, batch_audio, count_tokens, prepare_audio, stream_audio
from edgephi.runtime.audio_decode import open_waveform
from edgephi.runtime.errors import MediaError


def noise(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).normal(0, 0.1, count).astype(np.float32)


@pytest.mark.parametrize(("rate", "window", "hop"), [(16_000, 400, 160), (8_000, 200, 80)])
def test_frames_are_counted_without_padding(rate: int, window: int, hop: int) -> None:
    for frames in (1, 2, 7, 8, 9, 499, 500, 501, 1001):
        for extra in (0, 1, hop - 1):
            inputs = prepare_audio((noise(window + (frames - 1) * hop + extra), rate))
            assert inputs.features.shape == (frames, 80) and inputs.features.dtype == np.float32
            assert inputs.frames == frames and inputs.tokens == count_tokens(frames) == (frames + 7) // 8
            assert inputs.seconds == pytest.approx(frames / 100)


@pytest.mark.parametrize("count", [1, 2, 50, 159, 160, 161, 399])
def test_less_than_one_frame_is_refused(count: int) -> None:
    with pytest.raises(MediaError, match="shorter than one frame of 25 ms"):
        prepare_audio((noise(count), 16_000))


def test_silence_is_the_floor() -> None:
    assert not prepare_audio((np.zeros(16_000, np.float32), 16_000)).features.any()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100])
@pytest.mark.parametrize("chunk_frames", [1, 7, 500, 1_200, CHUNK_FRAMES])
def test_chunks_joined_are_the_whole(rate: int, chunk_frames: int) -> None:
    samples = noise(rate * 13 + 17)
    whole = prepare_audio((samples, rate))
    chunks = list(stream_audio((samples, rate), chunk_frames=chunk_frames))
    assert np.array_equal(np.concatenate([chunk.features for chunk in chunks]), whole.features)
    assert all(chunk.frames == chunk_frames for chunk in chunks[:-1]) and 1 <= chunks[-1].frames <= chunk_frames
    starts = np.cumsum([0, *(chunk.frames for chunk in chunks[:-1])]) / 100
    assert [chunk.start for chunk in chunks] == pytest.approx(starts)


class Watched(io.BytesIO):
    """A file that knows how far it was read."""

    furthest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.furthest = max(self.furthest, self.tell())
        return data


def test_chunks_come_while_the_recording_is_read() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(16_000 * 120), 16_000, format="WAV", subtype="PCM_16")
    file = Watched(buffer.getvalue())
    chunks = stream_audio(file, chunk_frames=1_000)
    next(chunks)
    assert file.furthest < len(buffer.getvalue()) / 5
    assert len(list(chunks)) == 11


def test_nothing_is_cut_silently() -> None:
    recording = noise(16_000 * 3), 16_000
    with pytest.raises(MediaError, match="longer than the 2 s that can be taken"):
        prepare_audio(recording, max_seconds=2)
    with pytest.raises(MediaError, match="longer than the 2 s that can be taken"):
        list(stream_audio(recording, chunk_frames=10, max_seconds=2))
    assert prepare_audio(recording, max_seconds=3).frames == 298
    with pytest.raises(MediaError, match="at least one frame"):
        list(stream_audio(recording, chunk_frames=0))


def _wav(seconds: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(16_000 * seconds), 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def test_what_is_too_long_by_its_header_is_not_decoded() -> None:
    file = Watched(_wav(60))
    with pytest.raises(MediaError, match="longer than the 5 s that can be taken"):
        prepare_audio(file, max_seconds=5)
    assert file.furthest < 100


def test_what_is_longer_than_it_says_is_decoded_up_to_the_limit() -> None:
    data = bytearray(_wav(60))
    data[40:44] = b"\xff\xff\xff\xff"  # as programs write that cannot know the length
    file = Watched(data)
    with pytest.raises(MediaError, match="longer than the 5 s that can be taken"):
        prepare_audio(file, max_seconds=5)
    assert 5 * 32_000 < file.furthest < 20 * 32_000
    assert prepare_audio(Watched(data), max_seconds=60).frames == 5_998


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
def test_headers_of_all_kinds_promise_a_length(container: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(16_000 * 30), 16_000, format=container)
    with open_waveform(buffer.getvalue()) as waveform:
        assert waveform.promised is not None
        assert abs(waveform.promised - 480_000) <= 2 * 1152 + 576  # of MP3: the frames' own silence at both ends


def test_a_damaged_end_is_an_error_even_in_chunks() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(16_000 * 60), 16_000, format="FLAC", subtype="PCM_16")
    chunks = stream_audio(buffer.getvalue()[:-5_000], chunk_frames=500)
    assert next(chunks).frames == 500
    with pytest.raises(MediaError, match="cut"):
        list(chunks)


def test_equal_sounds_have_equal_hashes() -> None:
    samples = (noise(16_000) * 20_000).astype(np.int16)
    hashes = {prepare_audio((samples, 16_000)).sha256}
    for container in ("WAV", "FLAC"):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 16_000, format=container, subtype="PCM_16")
        hashes.add(prepare_audio(buffer.getvalue()).sha256)
    assert len(hashes) == 1
    samples[8_000] ^= 64
    assert prepare_audio((samples, 16_000)).sha256 not in hashes


def test_a_batch_is_padded_and_masked() -> None:
    short, long = prepare_audio((noise(16_000), 16_000)), prepare_audio((noise(40_000), 16_000))
    batch = batch_audio([short, long])
    assert batch.features.shape == (2, 248, 80) and batch.features.dtype == np.float32
    assert np.array_equal(batch.features[0, :98], short.features) and not batch.features[0, 98:].any()
    assert np.array_equal(batch.features[1], long.features)
    assert batch.attention_mask.dtype == np.bool_ and batch.attention_mask.sum(1).tolist() == [98, 248]
    assert batch.sizes.dtype == np.int64 and batch.sizes.tolist() == [13, 31]
    with pytest.raises(ValueError, match="at least one"):
        batch_audio([])


def test_resampled_speech_has_the_features_of_the_original() -> None:
    """A sum of tones at 44.1, 48 and 22.05 kHz against the same tones at 16 kHz: within the filter's -90 dB."""

    def tones(rate: int) -> Any:
        time = np.arange(rate * 2) / rate
        return sum(0.1 * np.sin(2 * np.pi * f * time) for f in (110, 440, 1_000, 2_500, 5_000, 7_000)), rate

    original = prepare_audio(tones(16_000)).features
    loud = original > 8
    assert loud.mean() > 0.3
    for rate in (22_050, 44_100, 48_000):
        features = prepare_audio(tones(rate)).features
        assert features.shape == original.shape
        # The first and last frames see the filter start and end.
        assert np.abs(features - original)[4:-4][loud[4:-4]].max() < 0.01


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Half an hour of nothing in a FLAC file of a few kilobytes, in a process of its own."""
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(30):
            file.write(np.zeros(8_000 * 60, np.int16))
    assert path.stat().st_size < 200_000
    code = (
        "import resource, sys\n"
        "from edgephi.runtime.audio import stream_audio\n"
        "chunks = stream_audio(sys.argv[1])\n"
        "frames = next(chunks).frames\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "frames += sum(chunk.frames for chunk in chunks)\n"
        "print(frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    frames, growth = map(int, done.stdout.split())
    assert frames == (8_000 * 1_800 - 200) // 80 + 1
    assert growth < 20_000  # KiB; the samples alone would be 56,000
