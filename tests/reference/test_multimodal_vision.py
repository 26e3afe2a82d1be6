"""The vision graph against transformers' Phi4MultimodalImageEmbedding, with random weights, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from transformers import Phi4MultimodalConfig
from transformers.models.phi4_multimodal.configuration_phi4_multimodal import Phi4MultimodalVisionConfig
from transformers.models.phi4_multimodal.modeling_phi4_multimodal import Phi4MultimodalImageEmbedding

from edgephi.export.layers.image_tokens import vision_graph
from edgephi.export.layers.siglip import SiglipShape

HIDDEN = 40
BLOCKS = 3  # of the checkpoint; the features are the output of the last but one
SHAPES = {
    # so400m's 32 patches a side, whose inner width 4304 is no multiple of 128 either
    "so400m": SiglipShape(hidden=32, intermediate=72, layers=2, heads=2, side=448, patch=14, norm_epsilon=1e-6),
    # 6 patches a side: the borders of its position buckets are not exact in binary
    "small": SiglipShape(hidden=24, intermediate=128, layers=2, heads=3, side=36, patch=6, norm_epsilon=1e-5),
}
TOLERANCE = 1e-4  # of the largest feature, both sides float32; what is seen is below 1e-5
IMAGE_TOKEN = 7


@dataclass(frozen=True)
class Image:
    """Crops (1 + rows · columns, 3, side, side) and their masks, of an image that fills `height` × `width` patches."""

    pixels: np.ndarray
    mask: np.ndarray
    size: tuple[int, int]
    tokens: int


@dataclass(frozen=True)
class Pair:
    """The same encoder twice: transformers' and a session over our graph."""

    shape: SiglipShape
    reference: Phi4MultimodalImageEmbedding
    session: ort.InferenceSession

    def expected(self, images: Sequence[Image]) -> np.ndarray:
        """Features (tokens, HIDDEN) as they replace the placeholders of a prompt."""
        pixels, mask, sizes = batch(images)
        tokens = sum(image.tokens for image in images)
        with torch.no_grad():
            merged = self.reference(
                torch.full((1, tokens), IMAGE_TOKEN), torch.zeros(1, tokens, HIDDEN), torch.from_numpy(pixels),
                torch.from_numpy(sizes), torch.from_numpy(mask),
            )
        features: np.ndarray = merged[0].numpy()
        return features

    def features(self, images: Sequence[Image]) -> np.ndarray:
        pixels, mask, sizes = batch(images)
        feed = {"pixel_values": pixels, "image_attention_mask": mask, "image_sizes": sizes}
        (features,) = self.session.run(["image_features"], feed)
        result: np.ndarray = features
        return result


def batch(images: Sequence[Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded to the largest number of crops: zero crops, masks of ones."""
    crops = max(len(image.pixels) for image in images)
    pixels = [np.pad(image.pixels, ((0, crops - len(image.pixels)), *[(0, 0)] * 3)) for image in images]
    masks = [np.pad(image.mask, ((0, crops - len(image.mask)), *[(0, 0)] * 2), constant_values=1) for image in images]
    return np.stack(pixels), np.stack(masks), np.array([image.size for image in images], np.int64)


def image(shape: SiglipShape, height: int, width: int, seed: int) -> Image:
    """An image of `height` × `width` patches on the smallest grid of crops that holds it."""
    side = shape.patches
    rows, columns = -(-height // side), -(-width // side)
    mask = np.zeros((rows * side, columns * side), np.float32)
    mask[:height, :width] = 1
    by_crop = mask.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(-1, side, side)
    crops = 1 + rows * columns
    pixels = np.random.default_rng(seed).standard_normal((crops, 3, shape.side, shape.side)).astype(np.float32)
    high, wide, cells = -(-height // 2), -(-width // 2), shape.cells
    tokens = high * (wide + 1) + 1 + cells * (cells + 1)
    masks = np.concatenate([np.ones((1, side, side), np.float32), by_crop])
    return Image(pixels, masks, (rows * shape.side, columns * shape.side), tokens)


def build(shape: SiglipShape, seed: int) -> Pair:
    torch.manual_seed(seed)
    vision = Phi4MultimodalVisionConfig(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=BLOCKS,
        num_attention_heads=shape.heads, image_size=shape.side, patch_size=shape.patch, crop_size=shape.side,
        layer_norm_eps=shape.norm_epsilon, image_token_id=IMAGE_TOKEN,
    )
    config = Phi4MultimodalConfig(vision_config=vision, hidden_size=HIDDEN, num_hidden_layers=1, embd_pdrop=0.0)
    reference = Phi4MultimodalImageEmbedding(config).eval()
    # With "sdpa" its encoder is causal where no patch is masked, by the default of `is_causal`; SigLIP's never is.
    reference.img_processor.set_attn_implementation("eager")
    with torch.no_grad():
        for name, tensor in reference.named_parameters():
            spread = 0.3 if tensor.ndim == 1 or "position" in name else 1.2 / np.sqrt(tensor[0].numel())
            tensor.copy_(torch.randn_like(tensor) * spread + ("norm" in name and name.endswith("weight")))
    return Pair(shape, reference, session_of(vision_graph(shape, HIDDEN), graph_weights(reference, shape)))


def graph_weights(reference: torch.nn.Module, shape: SiglipShape) -> dict[str, np.ndarray]:
    names = (
        ("img_processor.embeddings.", "vision."), ("img_processor.encoder.", "vision."),
        ("img_projection_", "vision.projector."),
        ("sub_img_feature_extensor", "vision.row_separator"), ("global_img_feature_extensor", "vision.view_separator"),
    )
    unused = ("img_processor.post_layernorm.", "img_processor.head.", f"img_processor.encoder.layers.{BLOCKS - 1}.")
    weights = {}
    for name, tensor in reference.state_dict().items():
        if name.startswith(unused):
            continue
        renamed = name
        for theirs, ours in names:
            renamed = renamed.replace(theirs, ours)
        value = tensor.numpy().astype(np.float32)
        value = value.reshape(1, -1) if "separator" in renamed else value
        more = shape.block.inner_padding
        if ".fc1." in renamed:
            value = np.pad(value, ((0, more), *[(0, 0)] * (value.ndim - 1)))
        elif renamed.endswith(".fc2.weight"):
            value = np.pad(value, ((0, 0), (0, more)))
        weights[renamed] = value
    return weights


def session_of(model: ir.Model, weights: dict[str, np.ndarray]) -> ort.InferenceSession:
    declared = {name: value for name, value in model.graph.initializers.items() if value.const_value is None}
    assert declared.keys() == weights.keys()
    for name, value in declared.items():
        assert weights[name].shape == value.meta["stored_shape"], name
        value.const_value = ir.tensor(weights[name], name=name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module", params=[("so400m", 0), ("small", 0), ("small", 1)], ids=str)
def pair(request: pytest.FixtureRequest) -> Pair:
    name, seed = request.param
    return build(SHAPES[name], seed)


@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (0, 1), (3, 0), (0, 4), (2, 3)], ids=str)
@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (1, 3), (2, 2)], ids=str)
def test_one_image_gives_the_features_of_transformers(
    pair: Pair, grid: tuple[int, int], missing: tuple[int, int]
) -> None:
    """`missing` counts the rows and columns of patches that are padding."""
    height, width = (pair.shape.patches * tiles - less for tiles, less in zip(grid, missing, strict=True))
    one = image(pair.shape, height, width, seed=height * 1000 + width)
    actual = pair.features([one])
    assert actual.shape == (one.tokens, HIDDEN)
    assert relative(actual, pair.expected([one])) <= TOLERANCE


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=str)
def test_three_images_of_different_sizes_give_the_features_of_transformers(
    pair: Pair, order: tuple[int, ...]
) -> None:
    side = pair.shape.patches
    sizes = [(side, side - 1), (2 * side - 3, 2 * side), (side - 2, 3 * side - 1)]
    images = [image(pair.shape, *sizes[index], seed=index) for index in order]
    assert relative(pair.features(images), pair.expected(images)) <= TOLERANCE


def test_padding_changes_nothing(pair: Pair) -> None:
    """Neither the pixels of masked patches nor the crops behind an image's own reach its features."""
    side = pair.shape.patches
    one = image(pair.shape, side - 2, side - 4, seed=5)
    pixels = one.pixels.copy()
    pixels[1, :, (side - 2) * pair.shape.patch :] = 100.0
    noisy = np.concatenate([pixels, np.full_like(pixels[:1], 100.0)])
    mask = np.concatenate([one.mask, np.ones_like(one.mask[:1])])
    changed = Image(noisy, mask, one.size, one.tokens)
    assert relative(pair.features([changed]), pair.features([one])) <= 1e-6


def test_an_image_without_a_valid_patch_is_finite(pair: Pair) -> None:
    one = image(pair.shape, pair.shape.patches, pair.shape.patches, seed=6)
    mask = one.mask.copy()
    mask[1:] = 0
    features = pair.features([Image(one.pixels, mask, one.size, one.tokens)])
    assert len(features) == 1 + pair.shape.cells * (pair.shape.cells + 1) and np.isfinite(features).all()
