"""A picture → the vision inputs of Phi-4-multimodal: a global view and up to 36 square crops, published as 448×448.

Boundary: decoding is image_decode's, scaling image_resampling's; the vision graph and its session are elsewhere. The
crop layout, the masks and the token count follow the processor that is published with the model, which transformers
carries as Phi4MultimodalImageProcessor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .errors import MediaError
from .image_decode import ImageSource, content_hash, decode_image
from .image_resampling import bicubic, bilinear

MAXIMUM_CROPS = 36
SHORTEST_SIDE = 10
_POOL = 2  # patches a side of what becomes one token

# 8-bit level → (level/255 - 0.5) / 0.5, rounded once.
_NORMALISED = ((np.arange(256, dtype=np.float64) - 127.5) / 127.5).astype(np.float32)


@dataclass(frozen=True)
class Crop:
    """One square crop: `side` pixels in patches of `patch` pixels, an even number of them. The default is published."""

    side: int = 448
    patch: int = 14

    @property
    def patches(self) -> int:
        """Patches along one side."""
        return self.side // self.patch


PUBLISHED = Crop()


@dataclass(frozen=True)
class CropGrid:
    """How a picture is laid on `columns` × `rows` crops: scaled to width × height at the top left, white elsewhere."""

    columns: int
    rows: int
    width: int
    height: int
    crop: Crop = PUBLISHED

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of all crops together."""
        return self.rows * self.crop.side, self.columns * self.crop.side

    @property
    def valid_patches(self) -> tuple[int, int]:
        """Rows and columns of patches that are not wholly padding."""
        height, width = self.image_size
        rows = self.rows * self.crop.patches - (height - self.height) // self.crop.patch
        return rows, self.columns * self.crop.patches - (width - self.width) // self.crop.patch

    @property
    def tokens(self) -> int:
        """Of the global view with its row ends, one separator, and the crops' useful part with its row ends."""
        rows, columns = (math.ceil(patches / _POOL) for patches in self.valid_patches)
        pooled = self.crop.patches // _POOL
        return pooled * pooled + pooled + 1 + rows * columns + rows


@dataclass(frozen=True)
class ImageInputs:
    """One picture, ready for the vision graph.

    Attributes:
        pixel_values: float32 (1 + crops, 3, side, side) within -1…1; the global view, then the crops row by row.
        attention_mask: float32 (1 + crops, patches, patches), 1 where a patch holds something of the picture.
        image_size: height and width in pixels of all crops together.
        tokens: how many embeddings the graph makes of it.
        sha256: content hash (hex) of the decoded picture and the number of crops that was allowed.
    """

    pixel_values: NDArray[np.float32]
    attention_mask: NDArray[np.float32]
    image_size: tuple[int, int]
    tokens: int
    sha256: str


@dataclass(frozen=True)
class ImageBatch:
    """Several pictures as the vision graph takes them, padded to the one with the most crops.

    Attributes:
        pixel_values: float32 (images, crops, 3, side, side), zero where padded.
        attention_mask: float32 (images, crops, patches, patches), one where padded.
        image_sizes: int64 (images, 2), height and width.
        tokens: of each picture.
    """

    pixel_values: NDArray[np.float32]
    attention_mask: NDArray[np.float32]
    image_sizes: NDArray[np.int64]
    tokens: tuple[int, ...]


def prepare_image(
    source: ImageSource, *, max_crops: int = MAXIMUM_CROPS, crop: Crop = PUBLISHED
) -> ImageInputs:
    """Decode a picture and cut it into crops; fewer `max_crops` mean fewer tokens and less detail.

    Raises MediaError for what cannot be decoded and for pictures so narrow that a side would shrink below 10 pixels.
    """
    image = decode_image(source)
    grid = plan_crops(image.width, image.height, max_crops=max_crops, crop=crop)
    side = crop.side
    canvas = np.full((*grid.image_size, 3), 255, np.uint8)
    canvas[: grid.height, : grid.width] = np.asarray(bilinear(image, grid.width, grid.height))
    pixel_values = np.empty((1 + grid.rows * grid.columns, 3, side, side), np.float32)
    pixel_values[0] = _global_view(canvas, side)
    tiles = canvas.reshape(grid.rows, side, grid.columns, side, 3).transpose(0, 2, 4, 1, 3)
    pixel_values[1:] = _NORMALISED[tiles.reshape(-1, 3, side, side)]
    digest = content_hash(image, max_crops)
    return ImageInputs(pixel_values, _attention_mask(grid), grid.image_size, grid.tokens, digest)


def plan_crops(
    width: int, height: int, *, max_crops: int = MAXIMUM_CROPS, crop: Crop = PUBLISHED
) -> CropGrid:
    """Choose the grid for a picture of `width` × `height` pixels.

    Raises MediaError if a scaled side would be shorter than 10 pixels.
    """
    if not 1 <= max_crops <= MAXIMUM_CROPS:
        raise MediaError(f"{max_crops} crops are asked for; 1 to {MAXIMUM_CROPS} are possible")
    columns, rows = math.ceil(width / crop.side), math.ceil(height / crop.side)
    if columns * rows > max_crops:
        columns, rows = _closest_grid(width, height, max_crops, crop.side**2)
    horizontal, vertical = columns * crop.side / width, rows * crop.side / height
    # int() as the reference truncates, so that sizes agree to the pixel.
    if horizontal < vertical:
        scaled = columns * crop.side, int(height * horizontal)
    else:
        scaled = int(width * vertical), rows * crop.side
    if min(scaled) < SHORTEST_SIDE:
        raise MediaError(
            f"image of {width}×{height} pixels is too narrow: it would be scaled to {scaled[0]}×{scaled[1]}, "
            f"each side needs {SHORTEST_SIDE}; cut it into pieces"
        )
    return CropGrid(columns, rows, *scaled, crop)


def batch_images(images: Sequence[ImageInputs]) -> ImageBatch:
    """Stack at least one picture for the vision graph, padding with zero crops and masks of ones."""
    if not images:
        raise ValueError("no image is given; give at least one")
    crops, first = max(len(image.pixel_values) for image in images), images[0]
    pixel_values = np.zeros((len(images), crops, *first.pixel_values.shape[1:]), np.float32)
    attention_mask = np.ones((len(images), crops, *first.attention_mask.shape[1:]), np.float32)
    for index, image in enumerate(images):
        pixel_values[index, : len(image.pixel_values)] = image.pixel_values
        attention_mask[index, : len(image.attention_mask)] = image.attention_mask
    sizes = np.array([image.image_size for image in images], np.int64)
    return ImageBatch(pixel_values, attention_mask, sizes, tuple(image.tokens for image in images))


def _closest_grid(width: int, height: int, max_crops: int, area: int) -> tuple[int, int]:
    """Columns and rows of the closest aspect ratio; of equally close ones the largest that the picture half fills."""
    best, smallest = (1, 1), math.inf
    for columns, rows in _grids(max_crops):
        difference = abs(width / height - columns / rows)
        filled = width * height > 0.5 * area * columns * rows
        if difference < smallest or (difference == smallest and filled):
            best, smallest = (columns, rows), difference
    return best


@lru_cache
def _grids(max_crops: int) -> tuple[tuple[int, int], ...]:
    """Every grid of at most `max_crops` crops, small ones first."""
    grids = [(i, j) for i in range(1, max_crops + 1) for j in range(1, max_crops // i + 1)]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def _global_view(canvas: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """The whole canvas (h, w, 3) at side×side: bicubic on normalised pixels without antialiasing, as trained."""
    view: NDArray[np.float32] = bicubic(_NORMALISED[canvas.transpose(2, 0, 1)], side, side)
    return view


def _attention_mask(grid: CropGrid) -> NDArray[np.float32]:
    """Ones for the global view; for the crops zeros on rows and columns of patches that are wholly padding."""
    (rows, columns), patches = grid.valid_patches, grid.crop.patches
    mask = np.zeros((grid.rows * patches, grid.columns * patches), np.float32)
    mask[:rows, :columns] = 1
    tiles = mask.reshape(grid.rows, patches, grid.columns, patches).transpose(0, 2, 1, 3)
    whole = np.ones((1, patches, patches), np.float32)
    return np.concatenate([whole, tiles.reshape(-1, patches, patches)])
