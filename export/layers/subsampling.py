"""Depthwise-striding subsampling of mel frames: each level halves time and frequency.

Boundary: frames in, vectors out; knows nothing of pieces or of the blocks that follow. Structure: Rekesh et al. 2023
(Fast Conformer, arXiv 2305.05084). Frames that are not a clip's own are zeroed before every convolution, which is what
a clip that ends there would meet: padding never changes a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from .linear import biased_linear

KERNEL = 3
STRIDE = 2
PREFIX = "speech.subsampling"
TIME = 2  # axis of (audios, channels, frames, mel bins)


@dataclass(frozen=True)
class SubsamplingShape:
    """`factor` (a power of two) frames of `mel_bins` features become one vector of `hidden` values."""

    mel_bins: int
    channels: int
    factor: int
    hidden: int

    @property
    def levels(self) -> int:
        """Number of halvings."""
        return self.factor.bit_length() - 1

    @property
    def width(self) -> int:
        """Values of one step before the projection: every level keeps the larger half of an odd number of bins."""
        return self.channels * -(-self.mel_bins // self.factor)


def normalize(graph: GraphBuilder, frames: ir.Value, mel_bins: int) -> ir.Value:
    """(frames - mean) · inverse standard deviation, both over the training data, for each mel bin."""
    mean, inverse = (graph.weight(f"speech.input.{name}", (mel_bins,)) for name in ("mean", "inverse_std"))
    centred = graph.apply("Sub", (frames, mean), "speech.input.centred")
    return graph.apply("Mul", (centred, inverse), "speech.input.normalized")


def subsample(graph: GraphBuilder, frames: ir.Value, valid: ir.Value, shape: SubsamplingShape) -> ir.Value:
    """frames float (audios, frames, mel_bins) → (audios, ⌈frames / factor⌉, hidden), zero where no frame is valid.

    `valid` float (audios, frames) is 1 for a clip's own frames and 0 elsewhere.
    """
    x = graph.apply("Unsqueeze", (frames, [1]), f"{PREFIX}.image")
    valid = graph.apply("Unsqueeze", (valid, [1, 3]), f"{PREFIX}.valid")
    for level in range(shape.levels):
        prefix = f"{PREFIX}.{level}"
        masked = graph.apply("Mul", (x, valid), f"{prefix}.masked")
        if level == 0:
            convolved = _strided(graph, masked, f"{prefix}.conv", shape.channels, groups=1)
        else:
            strided = _strided(graph, masked, f"{prefix}.depthwise", shape.channels, groups=shape.channels)
            convolved = _pointwise(graph, strided, f"{prefix}.pointwise", shape.channels)
        x = graph.apply("Relu", (convolved,), f"{prefix}.relu")
        # step i is centred on step 2 i of the level before, and as valid as that one
        everything = np.iinfo(np.int64).max
        valid = graph.apply("Slice", (valid, [0], [everything], [TIME], [STRIDE]), f"{prefix}.valid")
    by_step = graph.apply("Transpose", (x,), f"{PREFIX}.by_step", perm=[0, TIME, 1, 3])
    flat = graph.apply("Reshape", (by_step, [0, 0, shape.width]), f"{PREFIX}.flat")
    vectors = biased_linear(graph, flat, f"{PREFIX}.out", shape.hidden, shape.width)
    valid = graph.apply("Squeeze", (valid, [1]), f"{PREFIX}.valid_steps")
    return graph.apply("Mul", (vectors, valid), f"{PREFIX}.vectors")


def _strided(graph: GraphBuilder, x: ir.Value, prefix: str, channels: int, groups: int) -> ir.Value:
    kernel = graph.weight(f"{prefix}.weight", (channels, 1, KERNEL, KERNEL))
    bias = graph.weight(f"{prefix}.bias", (channels,))
    return graph.apply(
        "Conv", (x, kernel, bias), f"{prefix}.output", strides=[STRIDE] * 2, pads=[KERNEL // 2] * 4, group=groups
    )


def _pointwise(graph: GraphBuilder, x: ir.Value, prefix: str, channels: int) -> ir.Value:
    kernel = graph.weight(f"{prefix}.weight", (channels, channels, 1, 1))
    return graph.apply("Conv", (x, kernel, graph.weight(f"{prefix}.bias", (channels,))), f"{prefix}.output")
