"""Where recordings are cut: between words, nothing lost or doubled, in memory that does not grow with them."""

from __future__ import annotations

import io
import tracemalloc
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi import MediaError
from edgephi.runtime.audio import prepare_audio
from edgephi.runtime.audio_chunks import cut_at_pauses, is_silent, measure

RATE = 16_000


def spoken(seed: int, seconds: float, gap: tuple[float, float], rate: int = RATE) -> tuple[np.ndarray, list[float]]:
    """Bursts of noise of 0.15 to 0.7 s ("words") over faint noise, and the times at which words begin and end."""
    draw = np.random.default_rng(seed)
    samples = draw.normal(0, 1e-3, round(seconds * rate)).astype(np.float32)
    edges, at = [], 0.2
    while at < seconds:
        length = draw.uniform(0.15, 0.7)
        word = slice(round(at * rate), min(round((at + length) * rate), len(samples)))
        samples[word] += draw.normal(0, draw.uniform(0.03, 0.3), word.stop - word.start)
        edges += [word.start / rate, word.stop / rate]
        at += length + draw.uniform(*gap)
    return samples, edges


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate, 0, "NONE", ""))
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


# 90 ms: as short as gaps between words that a frame of 25 ms, taken every 10 ms, can show.
@pytest.mark.parametrize("gap", [(0.09, 0.12), (0.1, 0.6)], ids=["hurried", "with pauses"])
@pytest.mark.parametrize(("rate", "seeds"), [(8_000, 4), (16_000, 4), (44_100, 1)])
def test_no_word_is_cut(gap: tuple[float, float], rate: int, seeds: int) -> None:
    for seed in range(seeds):
        samples, edges = spoken(seed, 70, gap, rate)
        chunks = list(cut_at_pauses((samples, rate), chunk_seconds=10))
        assert len(chunks) >= 7
        for chunk in chunks[1:]:
            # Frame i covers the 25 ms from i · 10 ms on: the end of a word may reach into the first frames.
            words = [(start + 0.01, end - 0.025) for start, end in zip(edges[::2], edges[1::2], strict=True)]
            assert not any(start < chunk.start < end for start, end in words), (seed, chunk.start)


def test_a_long_pause_is_preferred_to_a_later_short_one() -> None:
    samples, _ = spoken(3, 20, (0.09, 0.1))
    pause = slice(round(7.4 * RATE), round(8.0 * RATE))
    samples[pause] = np.random.default_rng(1).normal(0, 1e-3, pause.stop - pause.start)
    first, *_ = cut_at_pauses((samples, RATE), chunk_seconds=10)
    assert 7.4 < first.seconds < 8.0


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 2600), longest=st.sampled_from([5.0, 7.5, 10.0]), seed=st.integers(0, 100))
def test_chunks_joined_are_the_recording(frames: int, longest: float, seed: int) -> None:
    samples, _ = spoken(seed, frames / 100 + 0.015, (0.1, 0.6))
    whole = prepare_audio((samples, RATE))
    chunks = list(cut_at_pauses((samples, RATE), chunk_seconds=longest))
    assert np.array_equal(np.concatenate([chunk.features for chunk in chunks]), whole.features)
    place = 0
    for chunk in chunks:
        assert chunk.start == pytest.approx(place / 100, abs=1e-9)
        place += chunk.frames
        assert chunk.seconds <= longest and chunk.tokens == -(-chunk.frames // 8)
    assert all(chunk.seconds >= longest / 2 - 1 for chunk in chunks[:-1])
    assert len(chunks) == 1 or chunks[-1].seconds >= 1


@pytest.mark.parametrize("seconds", [29.99, 30.0, 30.01, 30.5, 30.99, 31.0, 31.01, 60.99])
def test_no_scrap_is_left_over(seconds: float) -> None:
    samples, _ = spoken(7, seconds + 0.015, (0.1, 0.6))
    chunks = list(cut_at_pauses((samples, RATE), chunk_seconds=30))
    assert sum(chunk.frames for chunk in chunks) == round(seconds * 100)
    assert all(1 <= chunk.seconds <= 30 for chunk in chunks) and (len(chunks) == 1) == (seconds <= 30)


def test_even_noise_is_cut_somewhere_and_kept_whole() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 45 * RATE).astype(np.float32)
    chunks = list(cut_at_pauses((samples, RATE), chunk_seconds=30))
    assert len(chunks) == 2 and 20 <= chunks[0].seconds <= 30
    assert sum(chunk.frames for chunk in chunks) == prepare_audio((samples, RATE)).frames


def test_silence_is_what_holds_no_voice() -> None:
    draw = np.random.default_rng(0)
    samples, _ = spoken(1, 6, (0.1, 0.6))
    for quiet in (np.zeros(6 * RATE), draw.integers(-1, 2, 6 * RATE) / 32768):
        (chunk,) = cut_at_pauses((quiet.astype(np.float32), RATE), chunk_seconds=30)
        assert is_silent(chunk)
    (chunk,) = cut_at_pauses((samples / 1000, RATE), chunk_seconds=30)  # 60 dB quieter than a good recording
    assert not is_silent(chunk)


def test_memory_does_not_grow_with_the_recording() -> None:
    peaks = []
    for minutes in (1, 6):
        source = io.BytesIO(wav(spoken(2, 60 * minutes, (0.1, 0.6), 8_000)[0], 8_000))
        tracemalloc.start()
        for _ in cut_at_pauses(source, chunk_seconds=30):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2  # six times as long; what differs is where the last blocks end


def test_measuring_reads_to_the_end() -> None:
    samples, _ = spoken(5, 12.5, (0.1, 0.6))
    assert measure(wav(samples)) == measure((samples, RATE)) == 12.5
    with pytest.raises(MediaError, match="cut"):
        measure(wav(samples)[:-1000])


def test_errors_come_where_they_are_reached() -> None:
    with pytest.raises(MediaError, match="shorter than one frame"):
        list(cut_at_pauses((np.zeros(300, np.float32), RATE), chunk_seconds=30))
    samples = spoken(5, 50, (0.1, 0.6))[0]
    samples[-1] = np.nan
    chunks = cut_at_pauses((samples, RATE), chunk_seconds=30)
    assert next(chunks).start == 0
    with pytest.raises(MediaError, match="NaN"):
        list(chunks)
