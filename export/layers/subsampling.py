"""Depthwise-striding subsampling of mel frames: each level halves time and frequency.

Boundary: frames in, vectors out; knows nothing of the blocks that follow. Structure: Rekesh et al. 2023 (Fast
Conformer, arXiv 2305.05084). Frames beyond a clip's own length are zeroed before every convolution, so a clip padded
to the length of a longer one gives the vectors that it gives alone.
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
    def final_bins(self) -> int:
        """Frequency bins that are left: every level keeps the upper half of an odd number."""
        return -(-self.mel_bins // self.factor)


@dataclass(frozen=True)
class Subsampled:
    """`vectors` float (audios, steps, hidden), zero beyond each clip; `valid` float (audios, steps), 1 within it."""

    vectors: ir.Value
    valid: ir.Value


def normalize(graph: GraphBuilder, frames: ir.Value, mel_bins: int) -> ir.Value:
    """(frames - mean) · inverse standard deviation, both over the training data, for each mel bin."""
    mean, inverse = (graph.weight(f"speech.input.{name}", (mel_bins,)) for name in ("mean", "inverse_std"))
    (centred,) = graph.node("Sub", (frames, mean), "speech.input.centred")
    (normalized,) = graph.node("Mul", (centred, inverse), "speech.input.normalized")
    return normalized


def subsample(graph: GraphBuilder, frames: ir.Value, mask: ir.Value, shape: SubsamplingShape) -> Subsampled:
    """frames float (audios, frames, mel_bins) and mask bool (audios, frames) → ⌈frames / factor⌉ steps a clip."""
    channel_axis = graph.constant(f"{PREFIX}.channel_axis", np.array([1], np.int64))
    mask_axes = graph.constant(f"{PREFIX}.mask_axes", np.array([1, 3], np.int64))
    (x,) = graph.node("Unsqueeze", (frames, channel_axis), f"{PREFIX}.image")
    (numeric,) = graph.node("Cast", (mask,), f"{PREFIX}.mask", attributes={"to": int(ir.DataType.FLOAT)})
    (valid,) = graph.node("Unsqueeze", (numeric, mask_axes), f"{PREFIX}.valid")
    for level in range(shape.levels):
        prefix = f"{PREFIX}.{level}"
        (masked,) = graph.node("Mul", (x, valid), f"{prefix}.masked")
        if level == 0:
            convolved = _strided(graph, masked, f"{prefix}.conv", shape.channels, groups=1)
        else:
            strided = _strided(graph, masked, f"{prefix}.depthwise", shape.channels, groups=shape.channels)
            convolved = _pointwise(graph, strided, f"{prefix}.pointwise", shape.channels)
        (x,) = graph.node("Relu", (convolved,), f"{prefix}.relu")
        valid = _every_second(graph, valid, f"{prefix}.valid")
    return _flatten(graph, x, valid, shape)


def _flatten(graph: GraphBuilder, x: ir.Value, valid: ir.Value, shape: SubsamplingShape) -> Subsampled:
    """(audios, channels, steps, bins) → (audios, steps, channels · bins) → (audios, steps, hidden)."""
    width = shape.channels * shape.final_bins
    (by_step,) = graph.node("Transpose", (x,), f"{PREFIX}.by_step", attributes={"perm": [0, 2, 1, 3]})
    joined = graph.constant(f"{PREFIX}.flat_shape", np.array([0, 0, width], np.int64))
    (flat,) = graph.node("Reshape", (by_step, joined), f"{PREFIX}.flat")
    vectors = biased_linear(graph, flat, f"{PREFIX}.out", shape.hidden, width)
    first = graph.constant(f"{PREFIX}.mask_channel", np.array([1], np.int64))
    (steps,) = graph.node("Squeeze", (valid, first), f"{PREFIX}.valid_steps")
    (masked,) = graph.node("Mul", (vectors, steps), f"{PREFIX}.vectors")
    last = graph.constant(f"{PREFIX}.mask_last", np.array([2], np.int64))
    (per_step,) = graph.node("Squeeze", (steps, last), f"{PREFIX}.valid_by_step")
    return Subsampled(masked, per_step)


def _strided(graph: GraphBuilder, x: ir.Value, prefix: str, channels: int, groups: int) -> ir.Value:
    kernel = graph.weight(f"{prefix}.weight", (channels, 1, KERNEL, KERNEL))
    bias = graph.weight(f"{prefix}.bias", (channels,))
    (convolved,) = graph.node(
        "Conv", (x, kernel, bias), f"{prefix}.output",
        attributes={"strides": [STRIDE] * 2, "pads": [KERNEL // 2] * 4, "group": groups},
    )
    return convolved


def _pointwise(graph: GraphBuilder, x: ir.Value, prefix: str, channels: int) -> ir.Value:
    kernel = graph.weight(f"{prefix}.weight", (channels, channels, 1, 1))
    (mixed,) = graph.node("Conv", (x, kernel, graph.weight(f"{prefix}.bias", (channels,))), f"{prefix}.output")
    return mixed


def _every_second(graph: GraphBuilder, valid: ir.Value, name: str) -> ir.Value:
    """Step i is centred on step 2 i of the level before and as valid as that one."""
    bounds = {"start": 0, "end": np.iinfo(np.int64).max, "axis": TIME, "step": STRIDE}
    inputs = [graph.constant(f"{name}.{key}", np.array([value], np.int64)) for key, value in bounds.items()]
    (halved,) = graph.node("Slice", (valid, *inputs), name)
    return halved
