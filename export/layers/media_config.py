"""The image encoder, the speech encoder and the adapters of Phi-4-multimodal as its two published layouts state them.

Boundary: settings only; names of tensors are the family's. The layout of Microsoft's own code leaves the image encoder
to its code, where it is always SigLIP so400m; transformers' layout states everything, its adapters in folders of their
own.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.errors import ConfigMismatch
from ..config import CONFIG_NAME, ConfigReader, read_config
from .conformer import ConformerShape
from .lora import Adapter
from .siglip import POOL, SiglipShape

VISION, SPEECH = "vision", "speech"
ADAPTER_CONFIG_NAME = "adapter_config.json"
IMAGE_TOKEN, AUDIO_TOKEN = 200010, 200011  # <|endoftext10|> and <|endoftext11|>: fixed in the published code
SO400M_BLOCKS = 27
SO400M = SiglipShape(  # the features are what goes into the last of its blocks
    hidden=1152, intermediate=4304, layers=SO400M_BLOCKS - 1, heads=16, side=448, patch=14, norm_epsilon=1e-6,
)
_TRAINING_ONLY = ("dropout_rate", "left_chunk", "activation_checkpointing", "initializer_range", "model_type")


@dataclass(frozen=True)
class Lora:
    """An adapter and the factor alpha / rank of its side path."""

    adapter: Adapter
    scale: float


@dataclass(frozen=True)
class MediaConfig:
    """`vision_blocks` counts those of the checkpoint; `vision` has those that are computed."""

    vision: SiglipShape
    vision_blocks: int
    speech: ConformerShape
    loras: tuple[Lora, ...]
    image_token: int
    audio_token: int


def read_remote(raw: ConfigReader, hidden: int) -> MediaConfig:
    """The layout of Phi4MMForCausalLM, for a decoder of width `hidden`. Raises ConfigMismatch."""
    embedding = _section(raw, "embd_layer")
    embedding.expect("embedding_cls", "image_audio")
    image, audio = _section(embedding, "image_embd_layer"), _section(embedding, "audio_embd_layer")
    for part, name in ((image, "tune_image"), (audio, "audio")):
        part.expect("embedding_cls", name)
        part.expect("projection_cls", "mlp")
        part.ignore("enable_gradient_checkpointing")
    for key, value in (
        ("crop_size", 448), ("hd_transform_order", "sub_glb"), ("image_token_compression_cls", "avg_pool_2d"),
        ("use_hd_transform", True), ("with_learnable_separator", True),
    ):
        image.expect(key, value)
    for key, number in (("downsample_rate", 1), ("use_conv_downsample", False), ("use_qformer", False)):
        audio.expect(key, number, default=number)
    processor = _section(raw, "audio_processor")
    processor.expect("name", "cascades")
    speech = _remote_speech(_section(processor, "config"), hidden)
    audio.expect("compression_rate", speech.subsampling)
    loras = tuple(_remote_lora(_section(raw, f"{name}_lora"), name) for name in (VISION, SPEECH))
    return MediaConfig(SO400M, SO400M_BLOCKS, speech, loras, IMAGE_TOKEN, AUDIO_TOKEN)


def read_native(raw: ConfigReader, hidden: int) -> MediaConfig:
    """The layout of Phi4MultimodalForCausalLM with its defaults, and its adapters' settings. Raises ConfigMismatch."""
    vision = raw.section("vision_config") or ConfigReader(raw.path, {})
    audio = raw.section("audio_config") or ConfigReader(raw.path, {})
    shape, blocks = _native_vision(vision)
    loras = tuple(_peft_lora(raw, name) for name in (VISION, SPEECH))
    return MediaConfig(
        shape, blocks, _native_speech(audio, hidden), loras, vision.optional("image_token_id", int, IMAGE_TOKEN),
        audio.optional("audio_token_id", int, AUDIO_TOKEN),
    )


def adapter_folder(name: str) -> str:
    """Folder beside config.json that holds an adapter in PEFT's format."""
    return f"{name}-lora"


def _remote_speech(raw: ConfigReader, hidden: int) -> ConformerShape:
    width, bins = raw.require("attention_dim", int), raw.require("input_size", int)
    for key, value in (
        ("activation", "swish"), ("conv_activation", "swish"), ("conv_glu_type", "swish"), ("input_layer", "nemo_conv"),
        ("batch_norm", False), ("bias_in_glu", True), ("causal", True), ("cnn_layer_norm", True), ("chunk_size", -1),
        ("depthwise_multiplier", 1), ("depthwise_seperable_out_channel", width), ("ext_pw_out_channel", width),
        ("ext_pw_kernel_size", 1),
    ):
        raw.expect(key, value)
    raw.ignore(*_TRAINING_ONLY)
    bias = _section(raw, "relative_attention_bias_args")
    bias.expect("type", "t5")
    bias.expect("t5_bias_symmetric", False, default=False)
    normalized = raw.section("encoder_embedding_config")
    if normalized is not None:
        normalized.expect("input_size", bins)
    return ConformerShape(
        mel_bins=bins, subsampling=_power_of_two(raw, "time_reduction", 8),
        channels=_section(raw, "nemo_conv_settings").require("conv_channels", int), hidden=width,
        heads=raw.require("attention_heads", int), intermediate=raw.require("linear_units", int),
        layers=raw.require("num_blocks", int), kernel=raw.require("kernel_size", int),
        bias_distance=bias.require("t5_bias_max_distance", int), output=hidden,
    )


def _native_speech(raw: ConfigReader, hidden: int) -> ConformerShape:
    width, bins = raw.optional("hidden_size", int, 1024), raw.optional("input_size", int, 80)
    for key, value in (
        ("activation", "swish"), ("conv_activation", "swish"), ("conv_glu_type", "swish"), ("nemo_activation", "relu"),
        ("chunk_size", -1), ("depthwise_multiplier", 1), ("bias_symmetric", False), ("downsample_rate", 1),
    ):
        raw.expect(key, value, default=value)
    for key in ("depthwise_separable_out_channel", "ext_pw_out_channel"):
        raw.expect(key, width, default=1024)
    raw.ignore(*_TRAINING_ONLY, "feature_layer", "nemo_final_size")
    return ConformerShape(
        mel_bins=bins, subsampling=_power_of_two(raw, "time_reduction", 8),
        channels=raw.optional("nemo_conv_channels", int, 1024), hidden=width,
        heads=raw.optional("num_attention_heads", int, 16), intermediate=raw.optional("intermediate_size", int, 1536),
        layers=raw.optional("num_blocks", int, 24), kernel=raw.optional("kernel_size", int, 3),
        bias_distance=raw.optional("bias_max_distance", int, 1000), output=hidden,
    )


def _native_vision(raw: ConfigReader) -> tuple[SiglipShape, int]:
    """The shape and the number of blocks in the checkpoint."""
    raw.expect("hidden_act", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    raw.expect("num_channels", 3, default=3)
    raw.ignore("model_type", "attention_dropout", "initializer_range")
    side, patch = raw.optional("image_size", int, 448), raw.optional("patch_size", int, 14)
    raw.expect("crop_size", side, default=448)
    if not 0 < patch <= side or side % patch or side // patch % POOL:
        raise ConfigMismatch(
            f"{raw.path}: crops of {side} pixels in patches of {patch} are not implemented; a crop must be an even "
            "number of patches wide: use a checkpoint of that kind"
        )
    blocks, layer = raw.optional("num_hidden_layers", int, SO400M_BLOCKS), raw.optional("feature_layer", int, -2)
    computed = layer if layer >= 0 else blocks + 1 + layer
    if not 0 <= computed <= blocks:
        raise ConfigMismatch(
            f"{raw.path}: vision_config.feature_layer is {layer}, from {-blocks - 1} to {blocks} is possible with "
            f"{blocks} layers: check the checkpoint"
        )
    shape = SiglipShape(
        hidden=raw.optional("hidden_size", int, 1152), intermediate=raw.optional("intermediate_size", int, 4304),
        layers=computed, heads=raw.optional("num_attention_heads", int, 16), side=side, patch=patch,
        norm_epsilon=raw.optional("layer_norm_eps", float, 1e-6),
    )
    return shape, blocks


def _remote_lora(raw: ConfigReader, name: str) -> Lora:
    rank = _positive(raw, "r")
    raw.ignore("dp", "layer")  # dropout of training; which linears have it is seen in the tensors
    return Lora(Adapter(name, rank), raw.require("lora_alpha", float) / rank)


def _peft_lora(raw: ConfigReader, name: str) -> Lora:
    """Settings of an adapter in its folder beside config.json, as PEFT writes them."""
    path = raw.path.parent / adapter_folder(name) / ADAPTER_CONFIG_NAME
    if not path.is_file():
        raise ConfigMismatch(
            f"{path} is missing: without it {'images' if name == VISION else 'recordings'} would be read without the "
            f"adapter that they need: put the published folder {adapter_folder(name)} beside {CONFIG_NAME}"
        )
    settings = read_config(path)
    settings.expect("peft_type", "LORA", default="LORA")
    settings.expect("bias", "none", default="none")
    for key in ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias"):
        settings.expect(key, False, default=False)
    for key in ("rank_pattern", "alpha_pattern"):
        settings.expect(key, {}, default={})
    for key in ("modules_to_save", "layers_to_transform"):
        settings.expect(key, [], default=[])
    rank = _positive(settings, "r")
    return Lora(Adapter(name, rank), settings.require("lora_alpha", float) / rank)


def _section(raw: ConfigReader, key: str) -> ConfigReader:
    section = raw.section(key)
    if section is None:
        raw.require(key, dict)  # raises: it is absent
        raise AssertionError(key)
    return section


def _positive(raw: ConfigReader, key: str) -> int:
    value = raw.require(key, int)
    if value < 1:
        raise ConfigMismatch(f"{raw.path}: {key} is {value}, a number from 1 is needed: check the checkpoint")
    return value


def _power_of_two(raw: ConfigReader, key: str, default: int) -> int:
    value = raw.optional(key, int, default)
    if value < 1 or value & (value - 1):
        raise ConfigMismatch(f"{raw.path}: {key} is {value}, a power of two is needed: check the checkpoint")
    return value
