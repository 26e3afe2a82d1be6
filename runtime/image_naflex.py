"""A picture → the vision inputs of Phi-4-reasoning-vision-15B: SigLIP-2 NaFlex, 256 to 3,600 patches of 16×16 pixels.

Boundary: decoding is image_decode's, scaling image_resampling's. The picture keeps its aspect ratio to a patch and is
never scaled up, except to reach 256 patches. The size search and the patch layout follow the processor that is
published with the model, a Siglip2ImageProcessor of transformers with another budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import MediaError
from .image_decode import ImageSource, content_hash, decode_image
from .image_resampling import bilinear

PATCH_PIXELS = 16
MINIMUM_PATCHES, MAXIMUM_PATCHES = 256, 3_600
PATCH_VALUES = PATCH_PIXELS * PATCH_PIXELS * 3

_LARGEST_SCALE, _SCALE_STEP = 100.0, 1e-5
# 8-bit level → (level/255 - 0.5) / 0.5, rounded to float32 after each step as the reference does.
_NORMALISED = ((np.arange(256) * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)


@dataclass(frozen=True)
class NaflexInputs:
    """One picture, ready for the vision graph.

    Attributes:
        patches: float32 (tokens, 768) within -1…1, row by row; each patch in the order row, column, channel.
        spatial_shape: rows and columns of patches.
        tokens: how many embeddings the graph makes of it, one for each patch.
        sha256: content hash (hex) of the decoded picture and the number of patches that was allowed.
    """

    patches: NDArray[np.float32]
    spatial_shape: tuple[int, int]
    tokens: int
    sha256: str


@dataclass(frozen=True)
class NaflexBatch:
    """Several pictures as the vision graph takes them, padded to one number of patches.

    Attributes:
        pixel_values: float32 (images, patches, 768), zero where padded.
        attention_mask: int32 (images, patches), zero where padded.
        spatial_shapes: int64 (images, 2), rows and columns of patches.
    """

    pixel_values: NDArray[np.float32]
    attention_mask: NDArray[np.int32]
    spatial_shapes: NDArray[np.int64]


def prepare_naflex_image(
    source: ImageSource, *, min_patches: int = MINIMUM_PATCHES, max_patches: int = MAXIMUM_PATCHES
) -> NaflexInputs:
    """Decode a picture and cut it into patches; fewer `max_patches` mean fewer tokens and less detail.

    Raises MediaError for what cannot be decoded and for limits that exclude each other.
    """
    image = decode_image(source)
    rows, columns = plan_patches(image.width, image.height, min_patches=min_patches, max_patches=max_patches)
    pixels = np.asarray(bilinear(image, columns * PATCH_PIXELS, rows * PATCH_PIXELS))
    tiles = pixels.reshape(rows, PATCH_PIXELS, columns, PATCH_PIXELS, 3).transpose(0, 2, 1, 3, 4)
    patches: NDArray[np.float32] = _NORMALISED[tiles.reshape(rows * columns, PATCH_VALUES)]
    return NaflexInputs(patches, (rows, columns), rows * columns, content_hash(image, max_patches))


def plan_patches(
    width: int, height: int, *, min_patches: int = MINIMUM_PATCHES, max_patches: int = MAXIMUM_PATCHES
) -> tuple[int, int]:
    """Rows and columns of patches for a picture: the largest grid of its aspect ratio within its budget.

    The budget is the number of whole patches in the picture within the two limits. The scale is found by bisection to
    1e-5, as in the reference, so that sizes agree to the patch.
    """
    if not 1 <= min_patches <= max_patches:
        raise MediaError(f"{max_patches} patches at most are asked for; {min_patches} and more, from 1, are possible")
    whole = (width // PATCH_PIXELS) * (height // PATCH_PIXELS)
    budget = min(max(whole, min_patches), max_patches)
    low, high = _SCALE_STEP / 10, _LARGEST_SCALE
    while high - low >= _SCALE_STEP:
        middle = (low + high) / 2
        if _patches(height, middle) * _patches(width, middle) <= budget:
            low = middle
        else:
            high = middle
    return _patches(height, low), _patches(width, low)


def batch_naflex_images(images: Sequence[NaflexInputs], *, length: int = MAXIMUM_PATCHES) -> NaflexBatch:
    """Stack at least one picture for the vision graph, padded with zero patches to `length`."""
    if not images or max(image.tokens for image in images) > length:
        raise ValueError(f"{len(images)} images for {length} patches are given; give at least one and room for each")
    pixel_values = np.zeros((len(images), length, PATCH_VALUES), np.float32)
    mask = np.zeros((len(images), length), np.int32)
    for index, image in enumerate(images):
        pixel_values[index, : image.tokens] = image.patches
        mask[index, : image.tokens] = 1
    return NaflexBatch(pixel_values, mask, np.array([image.spatial_shape for image in images], np.int64))


def _patches(side: int, scale: float) -> int:
    """Patches that cover a side of a picture after scaling."""
    return max(1, math.ceil(side * scale / PATCH_PIXELS))
