"""Changes the sampling rate of a stream of blocks: a polyphase windowed-sinc filter in numpy.

Boundary: mono float32 in and out, any integer rates. Own code because the usual libraries ship no wheel for Windows on
Arm, and because the stream must give bit for bit what the whole recording gives.

Method: J. O. Smith, "Digital Audio Resampling Home Page", with J. F. Kaiser's window and his formulas for its length
and shape (1974). In lowest terms the rates are L : M, so the filter has L phases and the pattern of outputs repeats
every L outputs and M inputs. A period is cut into groups of neighbouring outputs that read almost the same inputs; each
group is one matrix product over all periods of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .errors import MediaError

# Images and aliases are this far below the signal, in dB.
ATTENUATION = 90.0
# The transition lies around the lower Nyquist frequency and is this fraction of it wide: at 16 kHz everything below
# 7.7 kHz, which is all that the mel filters see, passes unchanged.
TRANSITION = 0.0775
# Taps of all phases: 64 MiB. Every rate up to 80 kHz fits, and above it every rate that devices use.
LARGEST_TABLE = 1 << 24
_GROUP = 32


@dataclass(frozen=True)
class _Group:
    """Neighbouring outputs of a period: inputs `start` to `start + len(taps)` of it, times taps (inputs, outputs)."""

    start: int
    taps: NDArray[np.float32]


@dataclass(frozen=True)
class _Filter:
    """Inputs and outputs of a period, and the inputs that are needed before and after it."""

    inputs: int
    outputs: int
    margin: int
    groups: tuple[_Group, ...]


def resample(blocks: Iterator[NDArray[np.float32]], rate: int, target: int) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of `blocks` (each (n,), at `rate` Hz) at `target` Hz: ⌈n · target / rate⌉ in all, no delay."""
    if rate == target:
        yield from blocks
        return
    design = _design(rate, target)
    # The recording is taken as silent before its start and after its end.
    buffer = np.zeros(design.margin, np.float32)
    taken = given = 0
    for block in blocks:
        taken += len(block)
        buffer = np.concatenate([buffer, block])
        periods = (len(buffer) - 2 * design.margin) // design.inputs
        if periods > 0:
            yield _apply(design, buffer, periods)
            given += periods * design.outputs
            buffer = buffer[periods * design.inputs :]
    missing = -(-taken * target // rate) - given
    periods = -(-missing // design.outputs)
    if periods > 0:
        silence = np.zeros(periods * design.inputs + 2 * design.margin, np.float32)
        silence[: len(buffer)] = buffer[: len(silence)]
        yield _apply(design, silence, periods)[:missing]


def _apply(design: _Filter, buffer: NDArray[np.float32], periods: int) -> NDArray[np.float32]:
    """Filter `periods` periods of a buffer that starts `margin` inputs before the first."""
    result = np.empty((periods, design.outputs), np.float32)
    done = 0
    for group in design.groups:
        length, width = group.taps.shape
        windows = sliding_window_view(buffer, length)[group.start :: design.inputs][:periods]
        result[:, done : done + width] = windows @ group.taps
        done += width
    return result.reshape(-1)


@lru_cache(maxsize=4)
def _design(rate: int, target: int) -> _Filter:
    """The filter from `rate` to `target`; offsets are counted from `margin` inputs before a period.

    Raises MediaError for a high rate that has so few divisors in common with `target` that its table would be huge.
    """
    divisor = math.gcd(rate, target)
    repeat = -(-_GROUP * divisor // target)
    inputs, outputs = rate // divisor * repeat, target // divisor * repeat
    cutoff = min(rate, target) / 2
    # Kaiser: length = (attenuation - 8) / (2.285 · transition in radians a sample)
    length = (ATTENUATION - 8) / (2.285 * 2 * math.pi * TRANSITION * cutoff / rate)
    half = math.ceil(length / 2)
    if outputs * (2 * half + _GROUP * inputs // outputs) > LARGEST_TABLE:
        raise MediaError(f"audio has {rate} samples a second, too odd a number for a filter; resample it")
    groups = []
    for first in range(0, outputs, _GROUP):
        positions = np.arange(first, min(first + _GROUP, outputs)) * (rate / target)
        start = int(positions[0]) - half + 1
        index = np.arange(start, int(positions[-1]) + half + 1)
        taps = _kernel(index[:, np.newaxis] - positions, 2 * cutoff / rate, length / 2)
        groups.append(_Group(start + half, (taps / taps.sum(axis=0)).astype(np.float32)))
    return _Filter(inputs, outputs, half, tuple(groups))


def _kernel(distance: NDArray[np.float64], cutoff: float, half: float) -> NDArray[np.float64]:
    """Windowed sinc at `distance` (in inputs) from its centre; `cutoff` is a share of the inputs' Nyquist frequency."""
    beta = 0.1102 * (ATTENUATION - 8.7)
    window = np.i0(beta * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, None))) / np.i0(beta)
    return np.where(np.abs(distance) < half, cutoff * np.sinc(cutoff * distance) * window, 0.0)
