"""NaFlex grids, patches and batches, apart from any reference implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.runtime.errors import MediaError
from edgephi.runtime.image_naflex import batch_naflex_images, plan_patches, prepare_naflex_image


def test_published_grids() -> None:
    grids = {
        (960, 540): (33, 59), (1024, 680): (42, 64), (1300, 876): (49, 73), (487, 206): (12, 29),
        (1344, 1344): (60, 60),
    }
    assert {size: plan_patches(*size) for size in grids} == grids


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(256, 3_600))
def test_grids_keep_within_the_budget(width: int, height: int, limit: int) -> None:
    rows, columns = plan_patches(width, height, max_patches=limit)
    assert 1 <= rows * columns <= limit
    if max(width, height) < 20 * min(width, height):
        # A side is rounded up to a patch, so that the ratio is off by less than one patch a side.
        assert (columns - 1) / rows < width / height < columns / (rows - 1)
        if min(width, height) >= 3:  # the scale ends at 100
            assert rows * columns > 128


def test_patches_are_rows_of_pixels_in_the_order_row_column_channel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    inputs = prepare_naflex_image(picture)
    assert inputs.spatial_shape == (16, 20) and inputs.patches.shape == (320, 768) and inputs.tokens == 320
    levels = np.rint((inputs.patches + 1) * 127.5).astype(np.uint8).reshape(16, 20, 16, 16, 3)
    assert np.array_equal(levels.transpose(0, 2, 1, 3, 4).reshape(256, 320, 3), picture)


def test_a_batch_is_padded_and_masked() -> None:
    small = prepare_naflex_image(np.zeros((20, 20), np.uint8))
    large = prepare_naflex_image(np.zeros((300, 700), np.uint8))
    batch = batch_naflex_images([small, large], length=1_000)
    assert batch.pixel_values.shape == (2, 1_000, 768)
    assert batch.attention_mask.sum(1).tolist() == [small.tokens, large.tokens]
    assert not batch.pixel_values[0, small.tokens :].any() and (batch.pixel_values[0, : small.tokens] == -1).all()
    assert batch.spatial_shapes.tolist() == [list(small.spatial_shape), list(large.spatial_shape)]
    for images, length in (([], 10), ([small], small.tokens - 1)):
        with pytest.raises(ValueError, match="at least one"):
            batch_naflex_images(images, length=length)


def test_fewer_patches_and_their_limits() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    full, small = prepare_naflex_image(picture), prepare_naflex_image(picture, max_patches=256)
    assert small.tokens <= 256 < full.tokens and small.sha256 != full.sha256
    for wrong in (0, 255):
        with pytest.raises(MediaError, match="256 and more"):
            prepare_naflex_image(picture, max_patches=wrong)
    with pytest.raises(MediaError, match="from 1"):
        prepare_naflex_image(picture, min_patches=0)
    assert plan_patches(8, 8, min_patches=16, max_patches=20) == (4, 4)
    assert plan_patches(2_000, 2_000, max_patches=4_096) == (64, 64)
