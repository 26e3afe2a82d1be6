"""The resampler against the tones it is given: what must pass is unchanged, what must not is gone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edgephi.runtime.audio_resampling import resample
from edgephi.runtime.errors import MediaError

TARGET = 16_000
RATES = (4_000, 7_999, 11_025, 12_000, 22_050, 24_000, 32_000, 44_056, 44_100, 48_000, 96_000, 192_000, 384_000)


def blocks(samples: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


def run(samples: NDArray[np.float32], rate: int, size: int = 1 << 16) -> NDArray[np.float32]:
    return np.concatenate([np.empty(0, np.float32), *resample(blocks(samples, size), rate, TARGET)])


def tone(frequency: float, rate: int, seconds: float = 1) -> NDArray[np.float32]:
    return np.cos(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_tones_pass_unchanged_and_in_time(rate: int) -> None:
    """Down to -90 dB, the attenuation the filter is designed for (-89: float32 adds a little)."""
    nyquist = min(rate, TARGET) / 2
    for frequency in (0, 200, 0.5 * nyquist, 0.95 * nyquist):
        out = run(tone(frequency, rate), rate)
        assert len(out) == TARGET
        error = out - tone(frequency, TARGET)
        assert np.abs(error[1000:-1000]).max() < 10 ** (-89 / 20)


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate > TARGET])
def test_what_lies_above_is_removed(rate: int) -> None:
    for frequency in (1.05 * TARGET / 2, 0.6 * TARGET, 0.49 * rate):
        if frequency > 1.04 * TARGET / 2:
            assert np.abs(run(tone(frequency, rate), rate)[1000:-1000]).max() < 10 ** (-89 / 20)


@pytest.mark.parametrize("rate", [11_025, 44_100, 48_000])
@pytest.mark.parametrize("count", [0, 1, 2, 440, 441, 442, 10_000])
def test_every_length_is_rounded_up(rate: int, count: int) -> None:
    assert len(run(np.ones(count, np.float32), rate)) == -(-count * TARGET // rate)


@pytest.mark.parametrize("rate", [11_025, 44_100, 48_000])
def test_blocks_of_any_size_give_the_same(rate: int) -> None:
    """To the last bits of float32: matrix products of other shapes add in another order."""
    samples = np.random.default_rng(0).normal(0, 0.1, rate // 2).astype(np.float32)
    whole = run(samples, rate)
    for size in (1, 1_000, 4_096):
        if size > 1 or rate == 48_000:
            assert np.abs(run(samples, rate, size) - whole).max() < 1e-6


def test_the_same_rate_passes_through() -> None:
    samples = tone(440, TARGET)
    assert np.array_equal(run(samples, TARGET), samples)


def test_a_table_that_would_be_huge_is_refused() -> None:
    with pytest.raises(MediaError, match="383999"):
        run(np.zeros(1000, np.float32), 383_999)
