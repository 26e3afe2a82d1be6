"""Inputs and outputs of each kind of graph, so that other runtimes can load what this one writes.

Boundary: names, dtypes and shapes only. They are onnxruntime-genai's for its model type `phi4mm`, and transformers' for
pictures that come as patches; what edgephi needs beyond them is an input with a default, which other runtimes leave
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .graph import GraphBuilder

INPUT_IDS = "input_ids"
INPUTS_EMBEDS = "inputs_embeds"
ATTENTION_MASK = "attention_mask"
LOGITS = "logits"
IMAGE_FEATURES = "image_features"
AUDIO_FEATURES = "audio_features"
PIXEL_VALUES = "pixel_values"
IMAGE_ATTENTION_MASK = "image_attention_mask"
IMAGE_SIZES = "image_sizes"
SPATIAL_SHAPES = "spatial_shapes"
AUDIO_EMBEDS = "audio_embeds"
AUDIO_ATTENTION_MASK = "audio_attention_mask"
AUDIO_SIZES = "audio_sizes"
AUDIO_PROJECTION_MODE = "audio_projection_mode"
# Of graphs of fixed shapes, which edgephi alone runs.
POSITION_IDS = "position_ids"
POSITION_WEIGHTS = "position_weights"
PATCH_MASK = "patch_mask"
FRAME_MASK = "frame_mask"
STEP_MASK = "step_mask"
AUDIO_FEATURES_WITH_IMAGES = "audio_features_with_images"


@dataclass(frozen=True)
class VisionInputs:
    """`pixels` float (images, crops, 3, side, side): the whole image first, then its crops row by row, then padding.

    `mask` float (images, crops, patches, patches) is 1 where a patch lies inside the image; `sizes` int64 (images, 2)
    is height and width in pixels of the image that the crops tile.
    """

    pixels: ir.Value
    mask: ir.Value
    sizes: ir.Value


@dataclass(frozen=True)
class NaflexInputs:
    """`pixels` float (1, patches, values of a patch): one picture, row by row; `grid` int64 (1, 2): rows, columns."""

    pixels: ir.Value
    grid: ir.Value


@dataclass(frozen=True)
class CropInputs:
    """`pixels` float (1, 3, side, side): one crop. `positions` int32 (patches,): the row of the table for each patch.

    `mask` float (1, patches) is 1 where a patch lies inside the image.
    """

    pixels: ir.Value
    positions: ir.Value
    mask: ir.Value


@dataclass(frozen=True)
class PatchInputs:
    """`pixels` float (1, patches, values of a patch): one picture, then padding, which `mask` float (1, patches) tells.

    `positions` float (patches, places): how much of each place of the learned square of positions a patch takes.
    """

    pixels: ir.Value
    positions: ir.Value
    mask: ir.Value


@dataclass(frozen=True)
class WindowInputs:
    """`frames` float (1, frames, mel bins): those before a window, the window, padding; `own` float (1, frames) is 1
    for frames of the recording. `seen` float (1, steps) is 1 for the steps of the window that attention may look at.
    """

    frames: ir.Value
    own: ir.Value
    seen: ir.Value


@dataclass(frozen=True)
class SpeechInputs:
    """`frames` float (audios, frames, mel bins), `mask` bool (audios, frames), `sizes` int64 (audios,) in tokens.

    `mode` int64 (1,) is one of the MODE values.
    """

    frames: ir.Value
    mask: ir.Value
    sizes: ir.Value
    mode: ir.Value


@dataclass(frozen=True)
class EmbeddingInputs:
    """`ids` int64 (batch, seq); features float (tokens, hidden), one row for each placeholder among the ids.

    `audio_features` is None for a model that takes no recordings.
    """

    ids: ir.Value
    image_features: ir.Value
    audio_features: ir.Value | None


def vision_inputs(graph: GraphBuilder, side: int, patches: int) -> VisionInputs:
    """Declare the inputs of the graph `vision`: square crops of `side` pixels, `patches` patches a side."""
    return VisionInputs(
        graph.input(PIXEL_VALUES, ir.DataType.FLOAT, ("num_images", "num_crops", 3, side, side)),
        graph.input(IMAGE_ATTENTION_MASK, ir.DataType.FLOAT, ("num_images", "num_crops", patches, patches)),
        graph.input(IMAGE_SIZES, ir.DataType.INT64, ("num_images", 2)),
    )


def naflex_inputs(graph: GraphBuilder, patch_values: int) -> NaflexInputs:
    """Declare the inputs of the graph `vision` for one picture of any number of patches of `patch_values` numbers."""
    return NaflexInputs(
        graph.input(PIXEL_VALUES, ir.DataType.FLOAT, (1, "num_patches", patch_values)),
        graph.input(SPATIAL_SHAPES, ir.DataType.INT64, (1, 2)),
    )


def vision_output(graph: GraphBuilder, features: ir.Value, hidden: int) -> None:
    """`features` float (tokens of all images, hidden) is the output of the graph `vision`."""
    graph.output(features, IMAGE_FEATURES, ir.DataType.FLOAT, ("num_image_tokens", hidden))


def crop_inputs(graph: GraphBuilder, side: int, patches: int) -> CropInputs:
    """Declare the inputs of the graph `vision` for one crop of `side` pixels and `patches` patches."""
    return CropInputs(
        graph.input(PIXEL_VALUES, ir.DataType.FLOAT, (1, 3, side, side)),
        graph.input(POSITION_IDS, ir.DataType.INT32, (patches,)),
        graph.input(PATCH_MASK, ir.DataType.FLOAT, (1, patches)),
    )


def patch_inputs(graph: GraphBuilder, patches: int, patch_values: int, places: int) -> PatchInputs:
    """Declare the inputs of the graph `vision` for one picture of at most `patches` patches."""
    return PatchInputs(
        graph.input(PIXEL_VALUES, ir.DataType.FLOAT, (1, patches, patch_values)),
        graph.input(POSITION_WEIGHTS, ir.DataType.FLOAT, (patches, places)),
        graph.input(PATCH_MASK, ir.DataType.FLOAT, (1, patches)),
    )


def window_inputs(graph: GraphBuilder, frames: int, steps: int, mel_bins: int) -> WindowInputs:
    """Declare the inputs of the graph `speech` for a window of `frames` frames that become `steps` steps."""
    return WindowInputs(
        graph.input(AUDIO_EMBEDS, ir.DataType.FLOAT, (1, frames, mel_bins)),
        graph.input(FRAME_MASK, ir.DataType.FLOAT, (1, frames)),
        graph.input(STEP_MASK, ir.DataType.FLOAT, (1, steps)),
    )


def rows_output(graph: GraphBuilder, rows: ir.Value, name: str, count: int, hidden: int) -> None:
    """`rows` float (1, count, hidden) become the output `name` (count, hidden) of a graph of fixed shapes.

    Until then they are a batch: compilers for NPUs take block-quantized products of three dimensions alone.
    """
    graph.output(graph.apply("Squeeze", (rows, [0]), f"{name}.rows"), name, ir.DataType.FLOAT, (count, hidden))


def speech_inputs(graph: GraphBuilder, mel_bins: int) -> SpeechInputs:
    """Declare the inputs of the graph `speech`."""
    return SpeechInputs(
        graph.input(AUDIO_EMBEDS, ir.DataType.FLOAT, ("num_audios", "num_frames", mel_bins)),
        graph.input(AUDIO_ATTENTION_MASK, ir.DataType.BOOL, ("num_audios", "num_frames")),
        graph.input(AUDIO_SIZES, ir.DataType.INT64, ("num_audios",)),
        graph.input(AUDIO_PROJECTION_MODE, ir.DataType.INT64, (1,)),
    )


def speech_output(graph: GraphBuilder, features: ir.Value, hidden: int) -> None:
    """`features` float (tokens of all recordings, hidden) is the output of the graph `speech`."""
    graph.output(features, AUDIO_FEATURES, ir.DataType.FLOAT, ("num_audio_tokens", hidden))


def embedding_inputs(graph: GraphBuilder, hidden: int, *, audio: bool) -> EmbeddingInputs:
    """Declare the inputs of the graph `embedding`; with `audio`, those of recordings too."""
    return EmbeddingInputs(
        graph.input(INPUT_IDS, ir.DataType.INT64, ("batch", "seq")),
        graph.input(IMAGE_FEATURES, ir.DataType.FLOAT, ("num_image_tokens", hidden)),
        graph.input(AUDIO_FEATURES, ir.DataType.FLOAT, ("num_audio_tokens", hidden)) if audio else None,
    )
