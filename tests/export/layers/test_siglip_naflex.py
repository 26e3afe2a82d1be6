"""Learned positions on the grid of a picture, against torch's own resizing; patches as rows of a linear layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgephi.export.families import weight_shapes
from edgephi.export.graph import GraphBuilder
from edgephi.export.layers.siglip_block import BlockShape
from edgephi.export.layers.siglip_naflex import NaflexShape, encode
from edgephi.export.signatures import naflex_inputs, vision_output

WIDTH, GRID = 12, 16
SHAPE = NaflexShape(BlockShape(WIDTH, 16, 2, 1e-6), layers=0, patch=4, grid=GRID)
# Of values of unit size, both sides float32; what is seen is up to 8e-6, torch's own distance from float64 on 60 × 60.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = weight_shapes({"vision": graph()})
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def session(weights: dict[str, np.ndarray]) -> ort.InferenceSession:
    """An encoder without a block: patch embeddings and positions."""
    model = graph()
    for name, value in weights.items():
        model.graph.initializers[name].const_value = ir.tensor(value, name=name)
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def graph() -> ir.Model:
    builder = GraphBuilder("vision")
    vision_output(builder, encode(builder, naflex_inputs(builder, SHAPE.patch_values), SHAPE), WIDTH)
    return builder.model()


def run(session: ort.InferenceSession, pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    (features,) = session.run(None, {"pixel_values": pixels, "spatial_shapes": np.array([[rows, columns]])})
    result: np.ndarray = features
    return result


# One direction grows and the other shrinks in most: there ONNX Runtime's own Resize is wrong by more than 0.1.
@pytest.mark.parametrize("size", [
    (16, 16), (60, 60), (33, 59), (15, 17), (7, 9), (2, 128), (128, 2), (5, 300), (12, 29), (1, 256), (1, 3600),
    (3, 1200),
], ids=str)
def test_positions_are_resized_as_torch_does(
    session: ort.InferenceSession, weights: dict[str, np.ndarray], size: tuple[int, int]
) -> None:
    rows, columns = size
    bias = weights["vision.patch_embedding.bias"]
    found = run(session, np.zeros((1, rows * columns, SHAPE.patch_values), np.float32), rows, columns) - bias
    table = torch.from_numpy(weights["vision.position_embedding.weight"].reshape(GRID, GRID, WIDTH))
    resized = torch.nn.functional.interpolate(
        table.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )
    wanted = resized[0].permute(1, 2, 0).reshape(-1, WIDTH).numpy()
    assert np.abs(found - wanted).max() <= TOLERANCE


def test_every_patch_goes_through_the_same_linear_layer(
    session: ort.InferenceSession, weights: dict[str, np.ndarray]
) -> None:
    pixels = np.random.default_rng(1).uniform(-1, 1, (1, 6, SHAPE.patch_values)).astype(np.float32)
    found = run(session, pixels, 2, 3) - run(session, np.zeros_like(pixels), 2, 3)
    wanted = pixels[0].astype(np.float64) @ weights["vision.patch_embedding.weight"].T.astype(np.float64)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()  # rounding of 48 float32 products


def test_a_grid_that_is_not_that_of_the_patches_is_refused(session: ort.InferenceSession) -> None:
    with pytest.raises(Exception, match=r"(?i)broadcast|incompatible dimensions"):
        run(session, np.zeros((1, 6, SHAPE.patch_values), np.float32), 2, 4)
