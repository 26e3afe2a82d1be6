"""How many vectors an image becomes, and which: the counts that the published processor gives for real images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgephi.export.families import weight_shapes
from edgephi.export.layers.image_tokens import ROW_SEPARATOR, VIEW_SEPARATOR, vision_graph
from edgephi.export.layers.siglip import SiglipShape

# The published crops and patches, an encoder without a block: every vector is a mean of patch embeddings.
SHAPE = SiglipShape(hidden=2, intermediate=4, layers=0, heads=1, side=448, patch=14, norm_epsilon=1e-6)


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    """Patches become their mean red, their mean green; the separators are (7, 0) and (8, 0); nothing is projected."""
    model = vision_graph(SHAPE, 2)
    shapes = weight_shapes({"vision": model})
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for channel in range(2):
        weights["vision.patch_embedding.weight"][channel, channel] = 1 / 14**2
    weights[ROW_SEPARATOR][0, 0], weights[VIEW_SEPARATOR][0, 0] = 7, 8
    # gelu(x + 50) - 50 = x
    for layer, shift in (("up", 50), ("down", -50)):
        weights[f"vision.projector.{layer}.weight"] = np.eye(2, dtype=np.float32)
        weights[f"vision.projector.{layer}.bias"][:] = shift
    for name, value in weights.items():
        model.graph.initializers[name].const_value = ir.tensor(value, name=name)
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("height", "width", "pad_height", "pad_width", "tokens"), [
    (1344, 1344, 0, 0, 2625),
    (896, 1344, 0, 15, 1841),  # 1300 × 876, scaled to 1329 × 896
    (448, 896, 69, 0, 735),  # 487 × 206, scaled to 896 × 379
    (896, 1344, 0, 91, 1745),  # 960 × 686, scaled to 1253 × 896
    (896, 896, 0, 229, 1073),  # 600 × 805, scaled to 667 × 896
])
def test_the_number_of_vectors_is_the_published_one(
    session: ort.InferenceSession, height: int, width: int, pad_height: int, pad_width: int, tokens: int
) -> None:
    rows, columns = height // 448, width // 448
    mask = np.ones((rows * 32, columns * 32), np.float32)
    mask[len(mask) - pad_height // 14 :] = 0
    mask[:, mask.shape[1] - pad_width // 14 :] = 0
    by_crop = mask.reshape(rows, 32, columns, 32).transpose(0, 2, 1, 3).reshape(-1, 32, 32)
    masks = np.concatenate([np.ones((1, 32, 32), np.float32), by_crop])
    feeds = {
        "pixel_values": np.zeros((1, len(masks), 3, 448, 448), np.float32), "image_attention_mask": masks[None],
        "image_sizes": np.array([[height, width]]),
    }
    assert session.run(None, feeds)[0].shape == (tokens, 2)


def test_vectors_follow_the_picture_row_by_row(session: ort.InferenceSession) -> None:
    """Red counts rows and green counts columns of a picture of 2 × 3 crops, with one row and two columns of padding."""
    rows, columns, high, wide = 2, 3, 31, 46
    down, across = np.mgrid[0 : rows * 16, 0 : columns * 16].astype(np.float32)
    cells = np.stack([down, across, np.zeros_like(down)])
    picture = cells.repeat(28, 1).repeat(28, 2) / 10
    crops = picture.reshape(3, rows, 448, columns, 448).transpose(1, 3, 0, 2, 4).reshape(-1, 3, 448, 448)
    mask = np.zeros((rows * 32, columns * 32), np.float32)
    mask[: 2 * high, : 2 * wide] = 1
    masks = mask.reshape(rows, 32, columns, 32).transpose(0, 2, 1, 3).reshape(-1, 32, 32)
    feeds = {
        "pixel_values": np.concatenate([np.full((1, 3, 448, 448), 5, np.float32), crops])[None],
        "image_attention_mask": np.concatenate([np.ones((1, 32, 32), np.float32), masks])[None],
        "image_sizes": np.array([[rows * 448, columns * 448]]),
    }
    (features,) = session.run(None, feeds)
    expected: list[tuple[float, float]] = []
    for row in range(high):
        expected += [(row / 10, column / 10) for column in range(wide)] + [(7, 0)]
    expected += [(8, 0)] + ([(5, 5)] * 16 + [(7, 0)]) * 16
    assert np.allclose(features, np.array(expected), atol=1e-4)
