"""Phi-4-reasoning-vision-15B by its headers: every tensor has one use or a reason for none; settings are read strictly.

config.json is the published one, restated; transformers' own class says what its image encoder holds.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest

from edgephi import ConfigMismatch, WeightMismatch
from edgephi.export.checkpoint import open_checkpoint
from edgephi.export.pipeline import Blueprint, Options, design
from edgephi.runtime.providers import find

TEXT_TENSORS, MEDIA_TENSORS = 243, 452
UNUSED = 16 + 2 + 11  # the last block of the image encoder, the norm and the pooling head behind it
TOWER = "model.vision_tower.vision_tower.vision_model."
VISION: dict[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip2_vision_model", "num_attention_heads": 16,
    "num_hidden_layers": 27,
}
SETTINGS: dict[str, Any] = {
    "architectures": ["Phi4ForCausalLMV"],
    "auto_map": {"AutoModelForCausalLM": "modeling_phi4_visionr.Phi4ForCausalLMV"},
    "dtype": "bfloat16", "freeze_mm_mlp_adapter": False, "image_aspect_ratio": "square", "max_num_patches": 3600,
    "min_num_patches": 256, "mm_hidden_size": 1152, "mm_projector_lr": 2e-05, "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "google/siglip2-so400m-patch16-naflex", "model_type": "phi4-siglip",
    "partial_rotary_factor": 1.0, "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right",
    "transformers_version": "4.56.1", "tune_mm_mlp_adapter": False, "unfreeze_vision_tower": True, "use_cache": False,
    "use_mm_proj": True, "use_s2": False, "vision_config": VISION,
}
Shapes = dict[str, list[int]]


@pytest.fixture(scope="module")
def config(published: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {**published["Phi-4-reasoning"], **SETTINGS}


@pytest.fixture(scope="module")
def shapes(config: Mapping[str, Any], inventory: Callable[[Mapping[str, Any]], Shapes]) -> Shapes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import Siglip2VisionConfig, Siglip2VisionModel

        with torch.device("meta"):
            tower: Any = Siglip2VisionModel(Siglip2VisionConfig(**VISION))
    found = inventory(config)
    found |= {f"{TOWER}{name}": list(tensor.shape) for name, tensor in tower.state_dict().items()}
    for number, inputs in ((0, 1152), (2, 5120)):
        found |= {f"model.mm_projector.{number}.weight": [5120, inputs], f"model.mm_projector.{number}.bias": [5120]}
    return found


@pytest.fixture
def designed(raw_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Blueprint]:
    """(config, tensors) → what an export of such a checkpoint would do; the shard is a header and a hole."""

    def make(config: Mapping[str, Any], tensors: Mapping[str, list[int]]) -> Blueprint:
        header, end = {}, 0
        for tensor, shape in tensors.items():
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
            end += 2 * prod(shape)
        path = raw_file(tmp_path / "model.safetensors", header)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + end)
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": []}))
        (tmp_path / "tokenizer_config.json").write_text("{}")
        with open_checkpoint(tmp_path) as checkpoint:
            return design(checkpoint, Options(), find("cpu"))

    return make


def test_every_tensor_has_its_place(
    designed: Callable[..., Blueprint], config: Mapping[str, Any], shapes: Shapes
) -> None:
    assert len(shapes) == TEXT_TENSORS + MEDIA_TENSORS
    blueprint = designed(config, shapes)
    used = Counter(piece.tensor for pieces in blueprint.binding.weights.values() for piece in pieces)
    assert max(used.values()) == 1
    unused = shapes.keys() - used.keys()
    assert len(unused) == UNUSED
    assert all(name.startswith((f"{TOWER}encoder.layers.26.", f"{TOWER}post_", f"{TOWER}head.")) for name in unused)
    assert blueprint.unread == ()
    assert [(table.limit, table.cos.shape) for table in blueprint.tables] == [(32768, (32768, 64))]
    family = blueprint.family
    assert family.media_tokens(blueprint.config) == (100256, None)
    pictures = family.pictures(blueprint.config)
    assert pictures is not None and (pictures.kind, pictures.minimum, pictures.maximum) == ("patches", 256, 3600)
    assert pictures.after == "\n"


def test_decoders_share_their_weights_and_the_encoder_is_int8(
    designed: Callable[..., Blueprint], config: Mapping[str, Any], shapes: Shapes
) -> None:
    blueprint = designed(config, shapes)
    files = blueprint.layout.sizes
    assert files.keys() == {"text.onnx.data", "embedding.onnx.data", "vision.onnx.data"}
    # 14.1 billion parameters of layers and head in 4 bits and a scale for 64 of them, 0.51 of the table
    assert 7.0e9 < files["text.onnx.data"] < 8.6e9
    # INT8 of 396 million in 26 blocks and 32 in the projector; patches and positions stay as they are
    assert 0.42e9 < files["vision.onnx.data"] < 0.46e9
    assert blueprint.shapes["vision.layers.0.mlp.fc1.weight"] == (4352, 1152)
    formats = {name: getattr(blueprint.formats[f"vision.{name}.weight"], "bits", None) for name in (
        "layers.0.mlp.fc2", "layers.25.self_attn.q_proj", "projector.up", "patch_embedding", "position_embedding",
    )}
    assert list(formats.values()) == [8, 8, 8, None, None]


@pytest.mark.parametrize(("changes", "found"), [
    ({f"{TOWER}embeddings.position_embedding.weight": None}, "1 missing from the checkpoint: .*position_embedding"),
    ({f"{TOWER}embeddings.position_embedding.weight": [1024, 1152]}, r"is \[1024, 1152\], config.json asks"),
    ({f"{TOWER}encoder.layers.27.mlp.fc1.bias": [4304]}, "1 left over in the checkpoint"),
    ({"model.mm_projector.4.bias": [5120]}, "1 left over in the checkpoint"),
])
def test_a_disagreement_is_named(
    designed: Callable[..., Blueprint], config: Mapping[str, Any], shapes: Shapes,
    changes: Mapping[str, list[int] | None], found: str,
) -> None:
    changed = {name: shape for name, shape in {**shapes, **changes}.items() if shape is not None}
    with pytest.raises(WeightMismatch, match=found):
        designed(config, changed)


@pytest.mark.parametrize(("key", "value", "named"), [
    ("mm_projector_type", "linear", "mm_projector_type"), ("use_s2", True, "use_s2"),
    ("mm_hidden_size", 1024, "mm_hidden_size"), ("min_num_patches", 4000, "min_num_patches"),
    ("max_num_patches", 1 << 20, "max_num_patches"), ("model_type", "phi3", "model_type"),
    ("mm_vision_select_layer", -1, "mm_vision_select_layer"), ("image_token_id", 100352, "100352"),
    ("vision_config", VISION | {"patch_size": 14}, "patch_size"),
    ("vision_config", VISION | {"num_patches": 200}, "200 positions|must be a square"),
    ("vision_config", VISION | {"num_attention_heads": 0}, "0 heads"),
    ("vision_config", VISION | {"hidden_act": "gelu"}, "hidden_act"),
])
def test_a_setting_that_is_not_implemented_is_refused(
    designed: Callable[..., Blueprint], config: Mapping[str, Any], shapes: Shapes, key: str, value: object, named: str
) -> None:
    with pytest.raises(ConfigMismatch, match=named):
        designed({**config, key: value}, shapes)


def test_an_encoder_that_config_json_leaves_out_is_so400m(
    designed: Callable[..., Blueprint], config: Mapping[str, Any], shapes: Shapes
) -> None:
    bare = {key: value for key, value in config.items() if key != "vision_config"}
    assert designed(bare, shapes).config == designed(config, shapes).config
