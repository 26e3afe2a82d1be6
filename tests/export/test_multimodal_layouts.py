"""The same tiny model in both published layouts gives the same bundle, byte for byte."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.export.layers import media_config
from edgephi.export.layers.siglip import SiglipShape
from edgephi.export.pipeline import export
from edgephi.runtime.manifest import read_manifest

# Name in transformers' layout → name in Microsoft's, in the order in which they are applied.
RENAMED = (
    (r"(self_attn\.(?:qkv|o)_proj|mlp\.(?:gate_up|down)_proj)\.weight$", r"\1.base_layer.weight", "model.layers."),
    (r"img_projection_up", "img_projection.0", ""), (r"img_projection_down", "img_projection.2", ""),
    (r"global_img_feature_extensor", "glb_GN", ""), (r"sub_img_feature_extensor", "sub_GN", ""),
    (r"up_proj_for_vision_speech", "audio_projection.vision.0", ""),
    (r"down_proj_for_vision_speech", "audio_projection.vision.2", ""),
    (r"up_proj_for_speech", "audio_projection.speech.0", ""),
    (r"down_proj_for_speech", "audio_projection.speech.2", ""),
    (r"(feed_forward_\w+)\.gate_up_proj", r"\1.net.0.linear", ""), (r"(feed_forward_\w+)\.down_proj", r"\1.net.2", ""),
    (r"(encoders\.\d+\.self_attn)\.([qkv])_proj", r"\1.linear_\2", ""),
    (r"(encoders\.\d+\.self_attn)\.o_proj", r"\1.linear_out", ""),
)


def renamed(name: str) -> str:
    for pattern, replacement, start in RENAMED:
        if name.startswith(start):
            name = re.sub(pattern, replacement, name)
    return name


def remote_config(native: dict[str, Any]) -> dict[str, Any]:
    audio = native["audio_config"]
    width = audio["hidden_size"]
    speech = {
        "activation": "swish", "attention_dim": width, "attention_heads": audio["num_attention_heads"],
        "batch_norm": False, "bias_in_glu": True, "causal": True, "chunk_size": -1, "cnn_layer_norm": True,
        "conv_activation": "swish", "conv_glu_type": "swish", "depthwise_multiplier": 1,
        "depthwise_seperable_out_channel": width, "ext_pw_kernel_size": 1, "ext_pw_out_channel": width,
        "input_layer": "nemo_conv", "input_size": 80, "kernel_size": 3, "linear_units": audio["intermediate_size"],
        "nemo_conv_settings": {"conv_channels": audio["nemo_conv_channels"]}, "num_blocks": audio["num_blocks"],
        "relative_attention_bias_args": {"t5_bias_max_distance": audio["bias_max_distance"], "type": "t5"},
        "time_reduction": 8,
    }
    image = {
        "crop_size": 448, "embedding_cls": "tune_image", "hd_transform_order": "sub_glb", "projection_cls": "mlp",
        "image_token_compression_cls": "avg_pool_2d", "use_hd_transform": True, "with_learnable_separator": True,
    }
    sounds = {"compression_rate": 8, "embedding_cls": "audio", "projection_cls": "mlp"}
    rope = native["rope_parameters"]
    moved = ("audio_config", "vision_config", "rope_parameters")
    return {key: value for key, value in native.items() if key not in moved} | {
        "architectures": ["Phi4MMForCausalLM"], "model_type": "phi4mm",
        "audio_processor": {"name": "cascades", "config": speech},
        "embd_layer": {"embedding_cls": "image_audio", "image_embd_layer": image, "audio_embd_layer": sounds},
        "rope_theta": rope["rope_theta"], "partial_rotary_factor": rope["partial_rotary_factor"],
        "rope_scaling": {key: rope[key] for key in ("short_factor", "long_factor")} | {"type": "longrope"},
        "vision_lora": {"r": 64, "lora_alpha": 128}, "speech_lora": {"r": 96, "lora_alpha": 192},
    }


@pytest.fixture
def remote_checkpoint(
    tiny_multimodal: Path, media_tokens: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """`tiny_multimodal` under the names of the other layout, whose code fixes the image encoder and the ids."""
    from safetensors.torch import load_file, save_file

    vision = SiglipShape(hidden=32, intermediate=72, layers=2, heads=2, side=448, patch=14, norm_epsilon=1e-6)
    monkeypatch.setattr(media_config, "SO400M", vision)
    monkeypatch.setattr(media_config, "SO400M_BLOCKS", 3)
    monkeypatch.setattr(media_config, "IMAGE_TOKEN", media_tokens[0])
    monkeypatch.setattr(media_config, "AUDIO_TOKEN", media_tokens[1])
    folder = tmp_path / "remote"
    folder.mkdir()
    for path in tiny_multimodal.glob("*.json"):
        if "index" not in path.name:
            shutil.copy(path, folder)
    tensors = {
        renamed(name): tensor for path in tiny_multimodal.glob("model-*.safetensors")
        for name, tensor in load_file(path).items()
    }
    for adapter in ("vision", "speech"):
        for name, tensor in load_file(tiny_multimodal / f"{adapter}-lora" / "adapter_model.safetensors").items():
            plain = name.removeprefix("base_model.model.")
            tensors[re.sub(r"lora_([AB])", rf"lora_\1.{adapter}", plain)] = tensor
    save_file(tensors, folder / "model.safetensors")
    native = json.loads((tiny_multimodal / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(remote_config(native)))
    return folder


def test_both_layouts_give_the_same_bundle(
    remote_checkpoint: Path, tiny_multimodal_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    native = tiny_multimodal_bundle(precision="fp32")
    report = export(remote_checkpoint, tmp_path / "bundle", precision="fp32", threads=2)
    assert report.unread_config_keys == ()
    ours, theirs = read_manifest(tmp_path / "bundle"), read_manifest(native)
    assert ours.source.architecture == "Phi4MMForCausalLM"
    assert ours.files == theirs.files
    assert ours.tokens == theirs.tokens


def test_encoders_and_adapters_may_have_their_own_precision(tiny_multimodal: Path, tmp_path: Path) -> None:
    report = export(
        tiny_multimodal, tmp_path / "bundle", precision="int4", encoder_precision="fp16", adapter_precision="fp32",
        method="round_to_nearest", threads=2,
    )
    formats = {tensor.name: tensor.format for tensor in report.tensors}
    assert formats["model.layers.0.mlp.down_proj.weight"].startswith("uint4")
    assert formats["vision.layers.0.mlp.fc1.weight"] == formats["speech.projector.vision.up.weight"] == "float16"
    assert formats["model.layers.0.mlp.down_proj.lora_A.vision.weight"] == "float32"
    assert formats["vision.patch_embedding.weight"] == formats["speech.relative_bias.weight"] == "float32"
    precision = read_manifest(tmp_path / "bundle").precision
    assert precision["vision"] == precision["speech"] == "fp16"
    assert precision["text"] == precision["text-media"] == "int4"


def test_encoders_and_adapters_beside_int4_are_int8(tiny_multimodal_bundle: Callable[..., Path]) -> None:
    manifest = read_manifest(tiny_multimodal_bundle(precision="int4"))
    formats = {record.name: record.format for record in manifest.report}
    assert formats["model.embed_tokens.weight"].startswith("int8")
    assert formats["vision.layers.0.mlp.fc1.weight"].startswith("int8")
    assert formats["speech.layers.0.conv.glu_proj.weight"].startswith("int8")
    assert formats["model.layers.1.self_attn.qkv_proj.lora_B.speech.weight"].startswith("int8")
    assert manifest.precision["vision"] == "int8"
