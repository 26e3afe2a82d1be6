"""Both published layouts of Phi-4-multimodal-instruct, by their headers: every tensor has one use or a reason for none.

The remote layout is written down here from its published index; transformers' own class says what the native one holds.
"""

from __future__ import annotations

import copy
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
from edgephi.export.families import find as find_family
from edgephi.export.pipeline import Blueprint, Options, design
from edgephi.export.weights import Drop
from edgephi.runtime.providers import find

TENSORS, PARAMETERS = 2047, 5_574_460_224  # as other loaders report them
BUFFERS = 160  # mean and deviation of the mel bins, which are among the tensors but are no parameters
ADAPTERS, ADAPTER_PARAMETERS = 512, 830_472_192
UNUSED = 16 + 2 + 11  # the last block of the image encoder, the norm and the pooling head behind it
TEXT = "model.layers.{}."
IMAGE, AUDIO = "model.embed_tokens_extend.image_embed.", "model.embed_tokens_extend.audio_embed."
HIDDEN, LAYERS = 3072, 32
LINEARS = {
    "self_attn.qkv_proj": (5120, 3072), "self_attn.o_proj": (3072, 3072), "mlp.gate_up_proj": (16384, 3072),
    "mlp.down_proj": (3072, 8192),
}
RANKS = {"vision": 256, "speech": 320}

Shapes = dict[str, list[int]]


def layer_of(name: str, outputs: int, *inputs: int) -> Shapes:
    return {f"{name}.weight": [outputs, *inputs], f"{name}.bias": [outputs]}


def remote_text() -> Shapes:
    found: Shapes = {"model.embed_tokens.weight": [200064, HIDDEN], "model.norm.weight": [HIDDEN]}
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{TEXT.format(layer)}{norm}.weight"] = [HIDDEN]
        for name, (outputs, inputs) in LINEARS.items():
            stem = TEXT.format(layer) + name
            found[f"{stem}.base_layer.weight"] = [outputs, inputs]
            for adapter, rank in RANKS.items():
                found[f"{stem}.lora_A.{adapter}.weight"] = [rank, inputs]
                found[f"{stem}.lora_B.{adapter}.weight"] = [outputs, rank]
    return found


def remote_image() -> Shapes:
    tower, width, inner = f"{IMAGE}img_processor.", 1152, 4304
    found = layer_of(f"{tower}embeddings.patch_embedding", width, 3, 14, 14)
    found[f"{tower}embeddings.position_embedding.weight"] = [1024, width]
    for block in range(27):
        stem = f"{tower}encoder.layers.{block}."
        for name in ("q", "k", "v", "out"):
            found |= layer_of(f"{stem}self_attn.{name}_proj", width, width)
        found |= layer_of(f"{stem}layer_norm1", width) | layer_of(f"{stem}layer_norm2", width)
        found |= layer_of(f"{stem}mlp.fc1", inner, width) | layer_of(f"{stem}mlp.fc2", width, inner)
    head = f"{tower}head."
    found |= layer_of(f"{tower}post_layernorm", width) | {f"{head}probe": [1, 1, width]}
    found |= {f"{head}attention.in_proj_weight": [3 * width, width], f"{head}attention.in_proj_bias": [3 * width]}
    found |= layer_of(f"{head}attention.out_proj", width, width) | layer_of(f"{head}layernorm", width)
    found |= layer_of(f"{head}mlp.fc1", inner, width) | layer_of(f"{head}mlp.fc2", width, inner)
    found |= layer_of(f"{IMAGE}img_projection.0", HIDDEN, width) | layer_of(f"{IMAGE}img_projection.2", HIDDEN, HIDDEN)
    return found | {f"{IMAGE}glb_GN": [1, 1, width], f"{IMAGE}sub_GN": [1, 1, 1, width]}


def remote_audio() -> Shapes:
    width, inner, encoder = 1024, 1536, f"{AUDIO}encoder."
    found: Shapes = {f"{encoder}encoder_embedding.{name}": [80] for name in ("global_mean", "global_invstd")}
    found |= {f"{encoder}relative_attention_bias_layer.bias_values.weight": [1000, 16]}
    found |= layer_of(f"{encoder}embed.out", width, 10 * width)
    for index, kernel in ((0, 3), (2, 3), (3, 1), (5, 3), (6, 1)):
        found |= layer_of(f"{encoder}embed.conv.{index}", width, 1 if kernel == 3 else width, kernel, kernel)
    for block in range(24):
        stem = f"{encoder}encoders.{block}."
        for part in ("feed_forward_in", "feed_forward_out"):
            found |= layer_of(f"{stem}{part}.layer_norm", width)
            found |= layer_of(f"{stem}{part}.net.0.linear", 2 * inner, width)
            found |= layer_of(f"{stem}{part}.net.2", width, inner)
        for name in ("q", "k", "v", "out"):
            found |= layer_of(f"{stem}self_attn.linear_{name}", width, width)
        found |= layer_of(f"{stem}layer_norm_att", width) | layer_of(f"{stem}layer_norm", width)
        found |= layer_of(f"{stem}conv.layer_norm", width)
        found |= layer_of(f"{stem}conv.glu.ext_pw_conv_1d", 2 * width, width, 1)
        found |= {f"{stem}conv.glu.{shift}": [1, width, 1] for shift in ("b1", "b2")}
        found |= layer_of(f"{stem}conv.dw_sep_conv_1d.dw_conv", width, 1, 3)
        found |= layer_of(f"{stem}conv.dw_sep_conv_1d.pw_conv", width, width, 1)
        found |= layer_of(f"{stem}conv.ext_pw_conv_1d", width, width, 1)
    for mode in ("speech", "vision"):
        found |= layer_of(f"{AUDIO}audio_projection.{mode}.0", HIDDEN, width)
        found |= layer_of(f"{AUDIO}audio_projection.{mode}.2", HIDDEN, HIDDEN)
    return found


@pytest.fixture(scope="module")
def remote_config(published: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """config.json of the remote layout: that of Phi-4-mini and what stands beside it."""
    speech = {
        "activation": "swish", "activation_checkpointing": "", "attention_dim": 1024, "attention_heads": 16,
        "batch_norm": False, "bias_in_glu": True, "causal": True, "chunk_size": -1, "cnn_layer_norm": True,
        "conv_activation": "swish", "conv_glu_type": "swish", "depthwise_multiplier": 1,
        "depthwise_seperable_out_channel": 1024, "dropout_rate": 0.0, "encoder_embedding_config": {"input_size": 80},
        "ext_pw_kernel_size": 1, "ext_pw_out_channel": 1024, "input_layer": "nemo_conv", "input_size": 80,
        "kernel_size": 3, "left_chunk": 18, "linear_units": 1536, "nemo_conv_settings": {"conv_channels": 1024},
        "num_blocks": 24, "relative_attention_bias_args": {"t5_bias_max_distance": 500, "type": "t5"},
        "time_reduction": 8,
    }
    image = {
        "crop_size": 448, "embedding_cls": "tune_image", "enable_gradient_checkpointing": True,
        "hd_transform_order": "sub_glb", "image_token_compression_cls": "avg_pool_2d", "projection_cls": "mlp",
        "use_hd_transform": True, "with_learnable_separator": True,
    }
    audio = {
        "compression_rate": 8, "downsample_rate": 1, "embedding_cls": "audio", "enable_gradient_checkpointing": True,
        "projection_cls": "mlp", "use_conv_downsample": False, "use_qformer": False,
    }
    return {**published["Phi-4-mini-instruct"]} | {
        "architectures": ["Phi4MMForCausalLM"], "model_type": "phi4mm", "transformers_version": "4.46.1",
        "audio_processor": {"name": "cascades", "config": speech},
        "embd_layer": {"embedding_cls": "image_audio", "image_embd_layer": image, "audio_embd_layer": audio},
        "speech_lora": {"r": 320, "lora_alpha": 640, "dp": 0.01, "layer": "layers.*self_attn"},
        "vision_lora": {"r": 256, "lora_alpha": 512, "dp": 0.0, "layer": "layers.*self_attn"},
    }


@pytest.fixture(scope="module")
def native_config(published: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """config.json as transformers writes it."""
    from transformers import Phi4MultimodalConfig

    mini = published["Phi-4-mini-instruct"]
    rope = {**mini["rope_scaling"], "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    config = Phi4MultimodalConfig(
        num_attention_heads=24, tie_word_embeddings=True, rope_parameters=rope, sliding_window=262144,
        audio_config={"bias_max_distance": 500},
    )
    config.architectures = ["Phi4MultimodalForCausalLM"]
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return values


@pytest.fixture(scope="module")
def native_shapes(native_config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of what transformers saves, made without memory for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

        with torch.device("meta"):
            model: Any = Phi4MultimodalForCausalLM(Phi4MultimodalConfig.from_dict(copy.deepcopy(dict(native_config))))
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


@pytest.fixture
def designed(raw_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Blueprint]:
    """(config, tensors, adapters=…, renamed=…) → what an export of such a checkpoint would do."""

    def shard(path: Path, shapes: Mapping[str, list[int]]) -> None:
        header, end = {}, 0
        for tensor, shape in shapes.items():
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
            end += 2 * prod(shape)
        path.parent.mkdir(exist_ok=True)
        raw_file(path, header)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + end)

    def make(
        config: Mapping[str, Any], tensors: Mapping[str, list[int]], adapters: tuple[str, ...] = ()
    ) -> Blueprint:
        shard(tmp_path / "model.safetensors", tensors)
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": []}))
        (tmp_path / "tokenizer_config.json").write_text("{}")
        for name in adapters:
            shard(tmp_path / f"{name}-lora" / "adapter_model.safetensors", peft_shapes(name))
            settings = {"peft_type": "LORA", "r": RANKS[name], "lora_alpha": 2 * RANKS[name], "bias": "none"}
            (tmp_path / f"{name}-lora" / "adapter_config.json").write_text(json.dumps(settings))
        with open_checkpoint(tmp_path) as checkpoint:
            blueprint = design(checkpoint, Options(), find("cpu"))
            used = Counter(piece.tensor for pieces in blueprint.binding.weights.values() for piece in pieces)
            assert max(used.values()) == 1
            for weight, pieces in blueprint.binding.weights.items():
                assert {piece.scale for piece in pieces} == {2.0 if ".lora_B." in weight else 1.0}
            unused = set(checkpoint.tensors) - set(used)
            assert len(unused) == UNUSED
            assert all("img_processor." in name for name in unused)
        assert blueprint.unread == ()
        return blueprint

    return make


def peft_shapes(adapter: str) -> Shapes:
    found: Shapes = {}
    for layer in range(LAYERS):
        for name, (outputs, inputs) in LINEARS.items():
            stem = f"base_model.model.{TEXT.format(layer)}{name}.lora_"
            found |= {f"{stem}A.weight": [RANKS[adapter], inputs], f"{stem}B.weight": [outputs, RANKS[adapter]]}
    return found


def remote_shapes() -> Shapes:
    return remote_text() | remote_image() | remote_audio()


def test_the_inventory_is_the_published_one() -> None:
    shapes = remote_shapes()
    assert len(shapes) == TENSORS
    assert sum(map(prod, shapes.values())) - BUFFERS == PARAMETERS


def test_every_tensor_of_the_remote_layout_has_its_place(
    designed: Callable[..., Blueprint], remote_config: Mapping[str, Any]
) -> None:
    blueprint = designed(remote_config, remote_shapes())
    assert {name: shape[0] for name, shape in blueprint.shapes.items() if name.endswith("mlp.fc1.weight")} == {
        f"vision.layers.{block}.mlp.fc1.weight": 4352 for block in range(26)
    }
    files = blueprint.layout.sizes
    assert files.keys() == {"text.onnx.data", "lora.onnx.data", "vision.onnx.data", "speech.onnx.data"}
    # INT8: 830 million parameters of adapters, 398 of the image encoder, 466 of the speech encoder, some in float32
    assert 0.83e9 < files["lora.onnx.data"] < 0.87e9
    assert 0.40e9 < files["vision.onnx.data"] < 0.44e9
    assert 0.46e9 < files["speech.onnx.data"] < 0.54e9


def test_every_tensor_of_the_native_layout_has_its_place(
    designed: Callable[..., Blueprint], native_config: Mapping[str, Any], native_shapes: Shapes,
    remote_config: Mapping[str, Any],
) -> None:
    assert len(native_shapes) == TENSORS - ADAPTERS
    assert sum(map(prod, native_shapes.values())) - BUFFERS == PARAMETERS - ADAPTER_PARAMETERS
    native = designed(native_config, native_shapes, adapters=("vision", "speech"))
    remote = designed(remote_config, remote_shapes())
    assert native.shapes == remote.shapes
    assert native.formats == remote.formats
    assert native.layout == remote.layout
    assert native.config.media == remote.config.media
    assert native.config.text == remote.config.text


def test_what_is_not_used_is_dropped_by_name_and_reason(remote_config: Mapping[str, Any]) -> None:
    family = find_family("phi4_multimodal")
    drops = [rule for rule in family.rules(family.TINY) if isinstance(rule, Drop)]
    assert len(drops) == UNUSED
    assert all(rule.reason and not rule.layers for rule in drops)


def test_names_that_activation_checkpointing_left_behind_are_read(
    designed: Callable[..., Blueprint], remote_config: Mapping[str, Any]
) -> None:
    wrapped = {
        name.replace(".layers.", ".layers._checkpoint_wrapped_module.").replace(
            "encoders.3.", "encoders.3._checkpoint_wrapped_module."
        ): shape
        for name, shape in remote_shapes().items()
    }
    blueprint = designed(remote_config, wrapped)
    pieces = blueprint.binding.weights["speech.layers.3.norm.weight"]
    assert pieces[0].tensor == f"{AUDIO}encoder.encoders.3._checkpoint_wrapped_module.layer_norm.weight"


@pytest.mark.parametrize(("changes", "found"), [
    ({f"{IMAGE}glb_GN": None}, "1 missing from the checkpoint: .*glb_GN"),
    ({f"{AUDIO}encoder.encoders.24.layer_norm.weight": [1024]}, "1 left over in the checkpoint"),
    ({"model.layers.0.mlp.down_proj.lora_A.vision.weight": [320, 8192]}, r"is \[320, 8192\], config.json asks"),
    ({"model._checkpoint_wrapped_module.norm.weight": [3072]}, "twice, once under a wrapped name"),
    ({"model.layers.0.mlp.down_proj.lora_A.other.weight": [8, 8192]}, "1 left over"),
])
def test_a_disagreement_is_named(
    designed: Callable[..., Blueprint], remote_config: Mapping[str, Any], changes: Mapping[str, list[int] | None],
    found: str,
) -> None:
    shapes = {name: shape for name, shape in (remote_shapes() | dict(changes)).items() if shape is not None}
    with pytest.raises(WeightMismatch, match=found):
        designed(remote_config, shapes)


def test_a_native_checkpoint_without_an_adapter_is_refused(
    designed: Callable[..., Blueprint], native_config: Mapping[str, Any], native_shapes: Shapes
) -> None:
    with pytest.raises(ConfigMismatch, match=r"speech-lora/adapter_config.json is missing: .* put the published"):
        designed(native_config, native_shapes, adapters=("vision",))


def changed(config: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(dict(config))
    *sections, key = path.split(".")
    inner = result
    for section in sections:
        inner = inner[section]
    inner[key] = value
    return result


@pytest.mark.parametrize(("path", "value"), [
    ("embd_layer.image_embd_layer.hd_transform_order", "glb_sub"),
    ("embd_layer.image_embd_layer.crop_size", 336),
    ("embd_layer.audio_embd_layer.use_qformer", True),
    ("embd_layer.audio_embd_layer.compression_rate", 4),
    ("audio_processor.config.activation", "relu"),
    ("audio_processor.config.chunk_size", 18),
    ("audio_processor.config.time_reduction", 6),
    ("audio_processor.config.relative_attention_bias_args.type", "alibi"),
    ("audio_processor.name", "whisper"),
    ("vision_lora.r", 0),
    ("speech_lora", None),
    ("model_type", "phi3"),
])
def test_a_setting_that_is_not_implemented_is_refused(
    designed: Callable[..., Blueprint], remote_config: Mapping[str, Any], path: str, value: object
) -> None:
    with pytest.raises(ConfigMismatch, match=path.split(".")[-1]):
        designed(changed(remote_config, path, value), remote_shapes())


@pytest.mark.parametrize(("path", "value"), [
    ("vision_config.hidden_act", "relu"), ("vision_config.crop_size", 336), ("vision_config.patch_size", 64),
    ("vision_config.feature_layer", -40), ("audio_config.bias_symmetric", True), ("audio_config.chunk_size", 8),
    ("audio_config.ext_pw_out_channel", 512),
])
def test_a_native_setting_that_is_not_implemented_is_refused(
    designed: Callable[..., Blueprint], native_config: Mapping[str, Any], native_shapes: Shapes, path: str,
    value: object,
) -> None:
    with pytest.raises(ConfigMismatch, match=r"vision_config|crops|audio_config"):
        designed(changed(native_config, path, value), native_shapes, adapters=("vision", "speech"))


@pytest.mark.parametrize(("key", "value"), [
    ("use_dora", True), ("use_rslora", True), ("rank_pattern", {"qkv_proj": 8}), ("bias", "all"), ("peft_type", "IA3"),
])
def test_an_adapter_of_another_kind_is_refused(
    tiny_multimodal: Path, tmp_path: Path, key: str, value: object
) -> None:
    for name in ("config.json", "vision-lora/adapter_config.json", "speech-lora/adapter_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((tiny_multimodal / name).read_bytes())
    path = tmp_path / "speech-lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    from edgephi.export.config import read_config

    with pytest.raises(ConfigMismatch, match=key):
        find_family("phi4_multimodal").read(read_config(tmp_path / "config.json"))
