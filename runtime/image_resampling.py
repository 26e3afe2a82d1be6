"""The two ways in which the models' preprocessing scales a picture, without torch.

Boundary: pixels in, pixels out; sizes are decided elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Keys' cubic with the coefficient that torch.nn.functional.interpolate uses (Keys 1981 recommends -0.5).
CUBIC_A = -0.75


def bilinear(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale 8-bit pixels with a triangle filter that widens when it scales down (antialiased): Pillow's BILINEAR."""
    return image.resize((width, height), Image.Resampling.BILINEAR)


def bicubic(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Scale (channels, h, w) to (channels, height, width) with four taps a direction, never widened (no antialiasing).

    Pixel centres are half-way (align_corners=False) and the border repeats, as in
    torch.nn.functional.interpolate(mode="bicubic").
    """
    return _cubic_rows(_cubic_rows(values, height).transpose(0, 2, 1), width).transpose(0, 2, 1)


def _cubic_rows(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resample the middle axis of (channels, n, columns) to `size`."""
    length = values.shape[1]
    # float32 step, one rounding: a last bit of a position is worth 1e-4 of a pixel in a wide picture.
    centres = ((np.arange(size) + 0.5) * float(np.float32(length / size)) - 0.5).astype(np.float32)
    first = np.floor(centres)
    result = np.zeros((values.shape[0], size, values.shape[2]), np.float32)
    for tap, weight in enumerate(_cubic_weights(centres - first)):
        index = np.clip(first.astype(np.int64) + (tap - 1), 0, length - 1)
        result += values[:, index] * weight[:, np.newaxis]
    return result


def _cubic_weights(t: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Weights of the samples at -1, 0, 1, 2 for a point `t` within [0, 1).

    R. Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981).
    """
    a = np.float32(CUBIC_A)

    def near(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)
