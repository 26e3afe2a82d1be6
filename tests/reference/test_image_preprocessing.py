"""Image preprocessing against transformers' own processors, torch's resamplers and references computed elsewhere.

Tolerances. Bilinear scaling: Pillow and torch round intermediate 8-bit rows differently, which moves single pixels by
one level of 255, so 2/255 after normalisation. Global view: its four cubic weights a direction have absolute sums of up
to 1.375, so that a moved pixel can count 1.375² levels; without a moved pixel only float32 rounding is left: a few
units in the last place of sums of 16 products. Masks, sizes and token counts are exact.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgephi.runtime.image import batch_images, prepare_image
from edgephi.runtime.image_naflex import batch_naflex_images, prepare_naflex_image
from edgephi.runtime.image_resampling import bicubic, bilinear

torch = pytest.importorskip("torch")
SHARED = Path(os.environ.get("EDGEPHI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
LEVEL = 2 / 255
ROUNDING = 2e-6
PICTURES = ("ortx-standard_s.jpg", "ortx-australia.jpg", "ortx-exceltable.png")
# Tiny, square, wide, tall, exact multiples, one pixel more, over the limit of 36 crops with each orientation.
SIZES = (
    (5, 5), (100, 100), (448, 448), (449, 448), (447, 1000), (896, 448), (2689, 2688), (4000, 300), (300, 4000),
    (3000, 2000), (15, 600), (20, 448),
)

Reference = Callable[[list[NDArray[np.uint8]]], dict[str, Any]]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} of the shared data is not here")
    return path


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth noise: detail at every scale that survives scaling down."""
    random = np.random.default_rng(width * 7919 + height)
    small = random.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def reference() -> Reference:
    """transformers' Phi4MultimodalImageProcessor: crops, masks, order and counts are its own code.

    Its module imports torchvision, whose wheels need the CUDA build of torch. Where it is absent, the two functions
    that are used of it are given as the calls to torch.nn.functional that torchvision itself makes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "transformers.models.phi4_multimodal.image_processing_phi4_multimodal"
        importlib.import_module("transformers.image_processing_backends")  # settles what is installed
        added = {} if importlib.util.find_spec("torchvision") else _torchvision_functions()
        sys.modules.update(added)
        try:
            processor: Any = importlib.import_module(name).Phi4MultimodalImageProcessor
        finally:
            for key in added:
                del sys.modules[key]
    steps: Any = types.SimpleNamespace(
        resize=lambda image, size, resample, antialias: torch.nn.functional.interpolate(
            image[None], (size.height, size.width), mode="bicubic", align_corners=False, antialias=antialias)[0],
        rescale_and_normalize=lambda image, *_: (image.to(torch.float32) - 127.5) / 127.5,
        find_closest_aspect_ratio=lambda *values: processor.find_closest_aspect_ratio(None, *values),
        dynamic_preprocess=lambda *values, **named: processor.dynamic_preprocess(steps, *values, **named),
        pad_to_max_num_crops=lambda *values: processor.pad_to_max_num_crops(None, *values),
        pad_mask_to_max_num_crops=lambda *values: processor.pad_mask_to_max_num_crops(None, *values),
    )

    def run(images: list[NDArray[np.uint8]]) -> dict[str, Any]:
        tensors = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images]
        size = types.SimpleNamespace(height=448, width=448)
        return dict(processor._preprocess(
            steps, tensors, True, size, None, True, 1 / 255, True, [0.5] * 3, [0.5] * 3, processor.patch_size,
            processor.dynamic_hd, None,
        ))

    return run


def _torchvision_functions() -> dict[str, types.ModuleType]:
    def resize(image: Any, size: list[int]) -> Any:
        if list(image.shape[-2:]) == size:
            return image
        return torch.nn.functional.interpolate(
            image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]

    def pad(image: Any, padding: list[int], fill: list[int]) -> Any:
        left, top, right, bottom = padding
        assert len(set(fill)) == 1
        return torch.nn.functional.pad(image, [left, right, top, bottom], value=fill[0])

    functional: Any = types.ModuleType("torchvision.transforms.v2.functional")
    functional.resize, functional.pad = resize, pad
    version: Any = types.ModuleType("torchvision.transforms.v2")
    version.functional = functional
    parents = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.transforms")}
    return {**parents, version.__name__: version, functional.__name__: functional}


def compare(image: NDArray[np.uint8], found: dict[str, Any]) -> None:
    ours = prepare_image(image)
    theirs = found["image_pixel_values"][0].numpy()
    assert ours.pixel_values.shape == theirs.shape and ours.pixel_values.dtype == theirs.dtype == np.float32
    difference = np.abs(ours.pixel_values - theirs)
    assert difference[1:].max() <= LEVEL + ROUNDING
    assert difference[0].max() <= 1.375**2 * LEVEL + ROUNDING
    # Rounding moves few pixels: a shift or another filter would move most of them.
    assert (difference > ROUNDING).mean() < 0.01
    assert np.array_equal(ours.attention_mask, found["image_attention_mask"][0].numpy())
    assert list(ours.image_size) == found["image_sizes"][0].tolist()
    assert ours.tokens == found["num_img_tokens"][0]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crops_equal_transformers(size: tuple[int, int], reference: Reference) -> None:
    image = picture(*size)
    compare(image, reference([image]))


@pytest.mark.parametrize("name", PICTURES)
def test_photographs_equal_transformers(name: str, reference: Reference) -> None:
    with Image.open(shared(f"media/{name}")) as image:
        pixels = np.array(image.convert("RGB"))
    compare(pixels, reference([pixels]))


def test_too_narrow_for_transformers_is_too_narrow_for_us(reference: Reference) -> None:
    for size in ((8, 400), (20_000, 10)):
        with pytest.raises(ValueError, match="extreme"):
            reference([picture(*size)])
        with pytest.raises(Exception, match="too narrow"):
            prepare_image(picture(*size))


def test_a_batch_equals_transformers(reference: Reference) -> None:
    images = [picture(100, 80), picture(900, 500)]
    found, ours = reference(images), batch_images([prepare_image(image) for image in images])
    assert np.abs(ours.pixel_values - found["image_pixel_values"].numpy()).max() <= 1.375**2 * LEVEL + ROUNDING
    assert np.array_equal(ours.attention_mask, found["image_attention_mask"].numpy())
    assert np.array_equal(ours.image_sizes, found["image_sizes"].numpy())
    assert list(ours.tokens) == found["num_img_tokens"]


@pytest.mark.parametrize("name", PICTURES)
def test_independent_references(name: str) -> None:
    """Computed with Pillow's bilinear and torch's bicubic, so only float32 rounding is left."""
    stored = np.load(shared(f"phi-4-multimodal/ref-image/{Path(name).stem}.npz"))
    summary = json.loads(shared("phi-4-multimodal/ref-image/summary.json").read_text())[name]
    ours = prepare_image(shared(f"media/{name}"))
    assert ours.tokens == summary["num_img_tokens"] and list(ours.image_size) == summary["image_sizes_hw"]
    assert ours.attention_mask.sum((1, 2)).tolist() == summary["mask_sums"]
    means = ours.pixel_values.astype(np.float64).mean((2, 3))
    assert np.abs(means - summary["crop_channel_mean"]).max() < 2e-6  # rounded to six digits
    # Stored as float16, whose spacing is 2^-10 just above 1, where bicubic overshoots.
    assert np.abs(ours.pixel_values[0] - stored["global_crop"].astype(np.float32)).max() <= 2**-11 + ROUNDING
    assert np.array_equal(ours.attention_mask, stored["mask"])


SHAPES = [((40, 30), (448, 448)), ((900, 1300), (448, 448)), ((896, 16128), (448, 448)), ((7, 5), (3, 20))]


@pytest.mark.parametrize(("source", "target"), SHAPES, ids=str)
def test_bicubic_equals_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    values = np.random.default_rng(3).uniform(-1, 1, (1, *source)).astype(np.float32)
    tensor = torch.from_numpy(values)[None]
    theirs = torch.nn.functional.interpolate(tensor, target, mode="bicubic", align_corners=False)[0].numpy()
    assert np.abs(bicubic(values, target[1], target[0]) - theirs).max() < 2 * ROUNDING


@pytest.mark.parametrize("target", [(448, 300), (1344, 890), (90, 61)], ids=str)
def test_bilinear_equals_torch_to_one_level(target: tuple[int, int]) -> None:
    image = picture(640, 427)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    theirs = torch.nn.functional.interpolate(tensor, target[::-1], mode="bilinear", align_corners=False, antialias=True)
    ours = np.asarray(bilinear(Image.fromarray(image), *target)).astype(int)
    assert np.abs(ours - theirs[0].numpy().transpose(1, 2, 0)).max() <= 1


def naflex_reference(image: NDArray[np.uint8], budget: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

        processor = Siglip2ImageProcessorPil(max_num_patches=budget)
        return dict(processor(images=[Image.fromarray(image)], return_tensors="np"))


NAFLEX_SIZES = [(5, 5), (100, 300), (256, 256), (257, 400), (1024, 680), (4000, 300), (3000, 2000)]


@pytest.mark.parametrize("size", NAFLEX_SIZES, ids=str)
def test_naflex_patches_equal_transformers(size: tuple[int, int]) -> None:
    """Exactly: both scale with Pillow and normalise in float32."""
    image = picture(*size)
    budget = min(max(size[0] // 16 * (size[1] // 16), 256), 3_600)
    found = naflex_reference(image, budget)
    ours = batch_naflex_images([prepare_naflex_image(image)], length=budget)
    assert np.array_equal(ours.pixel_values, found["pixel_values"])
    assert np.array_equal(ours.attention_mask, found["pixel_attention_mask"])
    assert np.array_equal(ours.spatial_shapes, found["spatial_shapes"])


@pytest.mark.parametrize("name", PICTURES)
def test_independent_naflex_references(name: str) -> None:
    summary = json.loads(shared("phi-4-reasoning-vision-15b/ref-image/summary.json").read_text())[Path(name).stem]
    ours = prepare_naflex_image(shared(f"media/{name}"))
    assert list(ours.spatial_shape) == summary["spatial_shape_hw"] and ours.tokens == summary["tokens"]
    assert np.abs(ours.patches[0, :12] - summary["first12"]).max() < 1e-6  # rounded to six digits
    assert np.abs(ours.patches[-1, -6:] - summary["last6"]).max() < 1e-6
    assert abs(float(ours.patches.astype(np.float64).mean()) - summary["mean"]) < 1e-6


def test_every_patch_of_an_independent_reference() -> None:
    stored = np.load(shared("phi-4-reasoning-vision-15b/ref-image/ortx-exceltable.npz"))
    ours = prepare_naflex_image(shared("media/ortx-exceltable.png"))
    assert ours.spatial_shape == tuple(stored["spatial_shape"])
    assert np.array_equal(np.rint((ours.patches + 1) * 127.5).astype(np.uint8), stored["patches_u8"])
