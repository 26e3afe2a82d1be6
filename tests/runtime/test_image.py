"""The crop grid, its masks and its token count, apart from any reference implementation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.runtime.errors import MediaError
from edgephi.runtime.image import (
    MAXIMUM_CROPS,
    PUBLISHED,
    Crop,
    CropGrid,
    batch_images,
    plan_crops,
    prepare_image,
)
from edgephi.runtime.image_resampling import bicubic

SIDES = st.integers(1, 20_000)


def test_published_token_counts() -> None:
    """Sizes of public test pictures with the token counts that two other implementations publish for them."""
    published = {(1344, 1344): 2625, (1300, 876): 1841, (487, 206): 735, (960, 686): 1745, (600, 805): 1073}
    assert {size: plan_crops(*size).tokens for size in published} == published


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES, st.integers(1, MAXIMUM_CROPS))
def test_every_picture_fits_its_grid_or_is_refused(width: int, height: int, max_crops: int) -> None:
    try:
        grid = plan_crops(width, height, max_crops=max_crops)
    except MediaError as error:
        assert "narrow" in str(error)
        assert max(width, height) > 10 * min(width, height)
        return
    assert 1 <= grid.columns * grid.rows <= max_crops
    assert 10 <= grid.width <= grid.columns * PUBLISHED.side and 10 <= grid.height <= grid.rows * PUBLISHED.side
    # One side fills the grid up to truncation, and the aspect ratio is kept to a pixel.
    gaps = grid.columns * PUBLISHED.side - grid.width, grid.rows * PUBLISHED.side - grid.height
    assert min(gaps) <= 1
    scale = max(Fraction(grid.width, width), Fraction(grid.height, height))
    assert abs(width * scale - grid.width) <= 1 + scale and abs(height * scale - grid.height) <= 1 + scale
    assert _counted(grid) == grid.tokens


def _counted(grid: CropGrid) -> int:
    """Tokens by counting a mask, every second patch a direction and one more for each row."""
    rows, columns = grid.rows * PUBLISHED.patches, grid.columns * PUBLISHED.patches
    mask = np.ones((rows, columns), np.int64)
    padded_rows, padded_columns = ((grid.rows * 448 - grid.height) // 14, (grid.columns * 448 - grid.width) // 14)
    mask[rows - padded_rows :] = 0
    mask[:, columns - padded_columns :] = 0
    pooled = mask[::2, ::2]
    return 16 * 16 + 16 + 1 + int(pooled.sum()) + int(pooled[:, 0].sum())


def test_equally_close_grids_of_one_size_are_never_the_closest() -> None:
    """The order among grids of the same number of crops cannot matter: another grid lies between any two of them."""
    grids = [(i, j) for i in range(1, 37) for j in range(1, 36 // i + 1)]
    ratios = {Fraction(i, j) for i, j in grids}
    for first in grids:
        for second in grids:
            if first < second and first[0] * first[1] == second[0] * second[1]:
                middle = (Fraction(*first) + Fraction(*second)) / 2
                closest = min(abs(middle - ratio) for ratio in ratios)
                assert closest < abs(middle - Fraction(*first))


def test_a_picture_is_padded_with_white_at_the_right_and_below() -> None:
    wide = prepare_image(np.zeros((100, 400, 3), np.uint8))
    assert wide.pixel_values.shape == (2, 3, 448, 448) and wide.pixel_values.dtype == np.float32
    assert (wide.pixel_values[1, :, :112] == -1).all() and (wide.pixel_values[1, :, 112:] == 1).all()
    assert wide.attention_mask[0].all() and wide.attention_mask[1, :8].all() and not wide.attention_mask[1, 8:].any()
    assert wide.image_size == (448, 448)
    tall = prepare_image(np.zeros((400, 100, 3), np.uint8))
    assert np.array_equal(tall.pixel_values, wide.pixel_values.transpose(0, 1, 3, 2))
    assert np.array_equal(tall.attention_mask, wide.attention_mask.transpose(0, 2, 1))


def test_crops_come_row_by_row() -> None:
    picture = np.zeros((896, 1344, 3), np.uint8)
    for row in range(2):
        for column in range(3):
            picture[row * 448 : (row + 1) * 448, column * 448 : (column + 1) * 448] = 40 * (3 * row + column)
    values = prepare_image(picture).pixel_values
    assert [round(float((crop.mean() + 1) * 127.5)) for crop in values[1:]] == [0, 40, 80, 120, 160, 200]


def test_fewer_crops_are_fewer_tokens_and_another_hash() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    full, small = prepare_image(picture), prepare_image(picture, max_crops=1)
    assert (len(full.pixel_values), len(small.pixel_values)) == (10, 2)
    assert small.tokens == 545 < full.tokens
    assert full.sha256 == prepare_image(picture.copy()).sha256 != small.sha256
    for wrong in (0, -1, 37):
        with pytest.raises(MediaError, match="1 to 36"):
            prepare_image(picture, max_crops=wrong)


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (20_000, 1), (400, 8), (8, 400), (20_000, 10)])
def test_extreme_shapes_are_refused_with_the_limit(width: int, height: int) -> None:
    with pytest.raises(MediaError, match=r"each side needs 10"):
        prepare_image(np.zeros((height, width), np.uint8))


def test_a_batch_pads_with_zero_crops_and_masks_of_ones() -> None:
    small, large = prepare_image(np.zeros((50, 400, 3), np.uint8)), prepare_image(np.zeros((500, 900, 3), np.uint8))
    batch = batch_images([small, large])
    assert batch.pixel_values.shape == (2, 7, 3, 448, 448) and batch.attention_mask.shape == (2, 7, 32, 32)
    assert np.array_equal(batch.pixel_values[0, :2], small.pixel_values) and not batch.pixel_values[0, 2:].any()
    assert np.array_equal(batch.attention_mask[0, :2], small.attention_mask) and batch.attention_mask[0, 2:].all()
    assert np.array_equal(batch.pixel_values[1], large.pixel_values)
    assert batch.image_sizes.dtype == np.int64 and batch.image_sizes.tolist() == [[448, 448], [896, 1344]]
    assert batch.tokens == (small.tokens, large.tokens)
    with pytest.raises(ValueError, match="at least one"):
        batch_images([])


def test_bicubic_keeps_what_it_must() -> None:
    values = np.random.default_rng(0).normal(size=(2, 9, 7)).astype(np.float32)
    assert np.array_equal(bicubic(values, 7, 9), values)
    assert np.allclose(bicubic(np.full((1, 5, 6), 3, np.float32), 13, 4), 3, atol=1e-6)
    assert np.array_equal(bicubic(values, 20, 3), bicubic(values.transpose(0, 2, 1), 3, 20).transpose(0, 2, 1))


def test_crops_have_the_size_that_the_model_was_trained_with() -> None:
    crop = Crop(side=112, patch=14)
    picture = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    small = prepare_image(picture, crop=crop)
    assert small.pixel_values.shape == (3, 3, 112, 112) and small.attention_mask.shape == (3, 8, 8)
    assert small.image_size == (112, 224)
    # the view of the whole with its row ends, the separator, and four rows of 2 × 4 cells with their ends
    assert small.tokens == 4 * 5 + 1 + 4 * 9
    batch = batch_images([small, prepare_image(picture, max_crops=1, crop=crop)])
    assert batch.pixel_values.shape == (2, 3, 3, 112, 112)
