"""Phi-4-multimodal: images and speech in, text out. Phi4MMForCausalLM and, renamed, Phi4MultimodalForCausalLM.

The decoder of Phi-4-mini; a SigLIP encoder for crops of images; a conformer for recordings; one adapter of the decoder
for prompts with images and one for prompts with speech alone. The graphs `text*` share one set of weights: `text` has
no adapter, `text-media` has both behind gates that are off, `text-vision` and `text-speech` have one of the gates on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ...runtime.manifest import Pictures, RotaryTable, TextModel
from ...runtime.providers.provider import Provider
from ..config import ConfigReader
from ..layers import text_config
from ..layers.conformer import ConformerShape, speech_graph
from ..layers.conformer_fixed import window_graph
from ..layers.decoder import DecoderShape, text_graph
from ..layers.image_tokens import ROW_SEPARATOR, VIEW_SEPARATOR, vision_graph
from ..layers.lora import Adapter
from ..layers.media_config import SPEECH, VISION, Lora, MediaConfig, adapter_folder, read_native, read_remote
from ..layers.prompt_embeddings import EmbeddingShape, embedding_graph
from ..layers.rope import Rope, Table, tables
from ..layers.siglip import SiglipShape
from ..layers.siglip_block import BLOCK_WEIGHTS, POOLING_HEAD
from ..layers.siglip_fixed import crop_graph
from ..layers.text_config import ALONE, EMBEDDING, HEAD, LAYER, LINEARS, NORMS, TextConfig
from ..weights import WEIGHT_AND_BIAS, Drop, Rename, Rule, Strip, Tie, layer_renames
from . import PartPlan

NAME = "phi4_multimodal"
ARCHITECTURES = ("Phi4MMForCausalLM", "Phi4MultimodalForCausalLM")
CAPABILITIES = ("text", "image", "audio")
PARTS = {
    "text": PartPlan("text", "linear"),
    "text-media": PartPlan("lora", "lora"), "text-vision": PartPlan("lora", "lora"),
    "text-speech": PartPlan("lora", "lora"),
    "embedding": PartPlan("embedding", "linear"),
    "vision": PartPlan("vision", "encoder"), "speech": PartPlan("speech", "encoder"),
}

_IMAGE, _AUDIO = "model.embed_tokens_extend.image_embed.", "model.embed_tokens_extend.audio_embed."
_WRAPPER = "._checkpoint_wrapped_module"  # left in names by fine-tuning with activation checkpointing
_PEFT = "base_model.model."

# (name in the graph, name in the remote layout, name in transformers')
_SEPARATORS = (
    (ROW_SEPARATOR, "sub_GN", "sub_img_feature_extensor"), (VIEW_SEPARATOR, "glb_GN", "global_img_feature_extensor"),
)
_FEED_FORWARD = (
    ("norm", "layer_norm", "layer_norm"), ("up_gate_proj", "net.0.linear", "gate_up_proj"),
    ("down_proj", "net.2", "down_proj"),
)
_SPEECH_BLOCK = (
    *(
        (f"{part}.{ours}", f"{part}.{remote}", f"{part}.{native}")
        for part in ("feed_forward_in", "feed_forward_out") for ours, remote, native in _FEED_FORWARD
    ),
    ("attention.norm", "layer_norm_att", "layer_norm_att"),
    *((f"attention.{name}_proj", f"self_attn.linear_{name}", f"self_attn.{name}_proj") for name in ("q", "k", "v")),
    ("attention.o_proj", "self_attn.linear_out", "self_attn.o_proj"),
    ("conv.norm", "conv.layer_norm", "conv.layer_norm"),
    ("conv.glu_proj", "conv.glu.ext_pw_conv_1d", "conv.glu.ext_pw_conv_1d"),
    ("conv.depthwise", "conv.dw_sep_conv_1d.dw_conv", "conv.dw_sep_conv_1d.dw_conv"),
    ("conv.pointwise", "conv.dw_sep_conv_1d.pw_conv", "conv.dw_sep_conv_1d.pw_conv"),
    ("conv.out_proj", "conv.ext_pw_conv_1d", "conv.ext_pw_conv_1d"),
    ("norm", "layer_norm", "layer_norm"),
)
_POINTWISE = ("conv.glu_proj", "conv.pointwise", "conv.out_proj")  # convolutions of width 1 are matrices in the graph
_PROJECTORS = (
    ("speech.up", "audio_projection.speech.0", "up_proj_for_speech"),
    ("speech.down", "audio_projection.speech.2", "down_proj_for_speech"),
    ("vision.up", "audio_projection.vision.0", "up_proj_for_vision_speech"),
    ("vision.down", "audio_projection.vision.2", "down_proj_for_vision_speech"),
)

Layout = Literal["remote", "native"]


@dataclass(frozen=True)
class Config:
    """Settings of the decoder and of everything around it; `layout` says how the checkpoint names its tensors."""

    layout: Layout
    text: TextConfig
    media: MediaConfig

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The first whose gate is on is the one that is used: images decide where both are."""
        return tuple(lora.adapter for lora in self.media.loras)

    def name(self, remote: str, native: str) -> str:
        """Whichever of the two names the checkpoint's layout has."""
        return remote if self.layout == "remote" else native


TINY = Config(
    layout="native",
    text=TextConfig(
        vocabulary=320, hidden=64, intermediate=96, layers=2, heads=4, kv_heads=2, head_dim=16, norm_epsilon=1e-5,
        sliding_window=None, tied=True,
        rope=Rope(10000.0, 16, 256, 64, (1.0,) * 8, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0), 1.1),
    ),
    media=MediaConfig(
        vision=SiglipShape(hidden=32, intermediate=48, layers=2, heads=2, side=56, patch=14, norm_epsilon=1e-6),
        vision_blocks=3,
        speech=ConformerShape(
            mel_bins=80, subsampling=8, channels=8, hidden=32, heads=2, intermediate=48, layers=2, kernel=3,
            bias_distance=500, output=64,
        ),
        loras=(Lora(Adapter(VISION, 8), 2.0), Lora(Adapter(SPEECH, 16), 2.0)), image_token=300, audio_token=301,
    ),
)


def read(raw: ConfigReader) -> Config:
    """Read a published config.json, and the adapters' own where they lie beside it. Raises ConfigMismatch."""
    raw.expect("model_type", "phi4mm", "phi4_multimodal")
    layout: Layout = "remote" if raw.require("model_type", str) == "phi4mm" else "native"
    text = text_config.read_text_config(raw)
    media = read_remote(raw, text.hidden) if layout == "remote" else read_native(raw, text.hidden)
    return Config(layout, text, media)


def adapter_folders(config: Config) -> tuple[str, ...]:
    """Folders with adapters; in the remote layout these only repeat what the shards hold."""
    return () if config.layout == "remote" else tuple(adapter_folder(adapter.name) for adapter in config.adapters)


def rules(config: Config) -> tuple[Rule, ...]:
    """Every tensor of both layouts; what the model never computes is dropped by name."""
    return Strip(_WRAPPER), *_text_rules(config), *_lora_rules(config), *_vision_rules(config), *_speech_rules(config)


def build(config: Config, provider: Provider) -> dict[str, ir.Model]:
    """All graphs; `embedding` reads the decoder's own table.

    In fixed shapes, which other runtimes do not drive, `text-vision` and `text-speech` take the place of `text-media`.
    """
    shape, dtype = config.text.shape(None), text_config.activations(provider)

    def with_adapters(active: str | None) -> ir.Model:
        return text_graph(shape, dtype, config.adapters, active, fixed=provider.fixed_shapes)

    media, text = config.media, config.text
    places = EmbeddingShape(EMBEDDING, text.vocabulary, text.hidden, media.image_token, media.audio_token)
    if provider.fixed_shapes:
        return {
            "text": text_graph(shape, dtype), "text-vision": with_adapters(VISION),
            "text-speech": with_adapters(SPEECH), "embedding": embedding_graph(places),
            "vision": crop_graph(media.vision, text.hidden), "speech": window_graph(media.speech),
        }
    return {
        "text": text_graph(shape, dtype), "text-media": with_adapters(None), "text-vision": with_adapters(VISION),
        "text-speech": with_adapters(SPEECH), "embedding": embedding_graph(places),
        "vision": vision_graph(media.vision, text.hidden), "speech": speech_graph(media.speech),
    }


def decoder(config: Config) -> DecoderShape:
    """Structure of the text decoder without adapters, from ids on."""
    return config.text.shape(EMBEDDING)


def norm_feeding(config: Config) -> dict[str, str]:
    """Inputs of these linears are normed: γ² of the norm is their expected squared size, column by column."""
    return text_config.norm_feeding(config.text)


def rotary(config: Config) -> tuple[Table, ...]:
    """The rotary tables, ordered by the sequence length up to which each holds."""
    return tables(config.text.rope)


def media_tokens(config: Config) -> tuple[int, int]:
    """Ids that stand for rows of images and of recordings."""
    return config.media.image_token, config.media.audio_token


def pictures(config: Config) -> Pictures:
    """A view of the whole picture and up to 36 crops of it."""
    shape = config.media.vision
    return Pictures("crops", 1, 36, side=shape.side, patch=shape.patch)


def thinking(config: Config) -> None:
    """It was not trained to think first."""


def text_model(config: Config, rotary_tables: tuple[RotaryTable, ...]) -> TextModel:
    """The decoder's shape as the manifest states it."""
    return text_config.text_model(config.text, rotary_tables)


def _text_rules(config: Config) -> list[Rule]:
    layers = config.text.layers
    found: list[Rule] = [Rename(name, name) for name in ALONE]
    found += [Rename(f"{LAYER}{name}.weight", f"{LAYER}{name}.weight", layers) for name in NORMS]
    stored = config.name("base_layer.weight", "weight")
    found += [Rename(f"{LAYER}{name}.{stored}", f"{LAYER}{name}.weight", layers) for name in LINEARS]
    return [*found, Tie(HEAD, EMBEDDING) if config.text.tied else Rename(HEAD, HEAD)]


def _lora_rules(config: Config) -> list[Rule]:
    """The factor alpha / rank goes into B."""
    found: list[Rule] = []
    for lora in config.media.loras:
        name, folder = lora.adapter.name, adapter_folder(lora.adapter.name)
        for linear in LINEARS:
            down, up = lora.adapter.factors(f"{LAYER}{linear}.weight")
            for factor, target, scale in (("A", down, 1.0), ("B", up, lora.scale)):
                remote = f"{LAYER}{linear}.lora_{factor}.{name}.weight"
                native = f"{folder}.{_PEFT}{LAYER}{linear}.lora_{factor}.weight"
                found.append(Rename(config.name(remote, native), target, config.text.layers, scale=scale))
    return found


def _vision_rules(config: Config) -> list[Rule]:
    tower, media = f"{_IMAGE}img_processor.", config.media
    found: list[Rule] = [
        *layer_renames(f"{tower}embeddings.patch_embedding", "vision.patch_embedding"),
        Rename(f"{tower}embeddings.position_embedding.weight", "vision.position_embedding.weight"),
    ]
    for name in BLOCK_WEIGHTS:
        source, target = f"{tower}encoder.layers.{{layer}}.{name}", f"vision.layers.{{layer}}.{name}"
        found += layer_renames(source, target, media.vision.layers, pad=name.startswith("mlp."))
    for name, number in (("up", 0), ("down", 2)):
        source = config.name(f"img_projection.{number}", f"img_projection_{name}")
        found += layer_renames(f"{_IMAGE}{source}", f"vision.projector.{name}")
    for target, remote, native in _SEPARATORS:
        found.append(Rename(_IMAGE + config.name(remote, native), target, reshape=True))
    after = "it comes after the block whose output is the image's features"
    found += [
        Drop(f"{tower}encoder.layers.{block}.{name}.{kind}", after)
        for block in range(media.vision.layers, media.vision_blocks)
        for name in BLOCK_WEIGHTS for kind in WEIGHT_AND_BIAS
    ]
    found += [Drop(f"{tower}post_layernorm.{kind}", after) for kind in WEIGHT_AND_BIAS]
    return [*found, *(Drop(f"{tower}head.{name}", after) for name in POOLING_HEAD)]


def _speech_rules(config: Config) -> list[Rule]:
    shape, encoder = config.media.speech, f"{_AUDIO}encoder."
    found: list[Rule] = [
        Rename(f"{encoder}encoder_embedding.global_mean", "speech.input.mean"),
        Rename(f"{encoder}encoder_embedding.global_invstd", "speech.input.inverse_std"),
        *layer_renames(f"{encoder}embed.conv.0", "speech.subsampling.0.conv"),
        *layer_renames(f"{encoder}embed.out", "speech.subsampling.out"),
        Rename(f"{encoder}relative_attention_bias_layer.bias_values.weight", "speech.relative_bias.weight"),
    ]
    for level in range(1, shape.subsampling.bit_length() - 1):
        # a sequence of [depthwise, pointwise, activation] after a first [convolution, activation]
        found += layer_renames(f"{encoder}embed.conv.{3 * level - 1}", f"speech.subsampling.{level}.depthwise")
        found += layer_renames(f"{encoder}embed.conv.{3 * level}", f"speech.subsampling.{level}.pointwise")
    source, target = f"{encoder}encoders.{{layer}}.", "speech.layers.{layer}."
    for ours, remote, native in _SPEECH_BLOCK:
        reshape = ours in _POINTWISE
        found += layer_renames(source + config.name(remote, native), target + ours, shape.layers, reshape=reshape)
    for shift, kind in (("b1", "value"), ("b2", "gate")):
        found.append(Rename(f"{source}conv.glu.{shift}", f"{target}conv.glu_shift.{kind}", shape.layers))
    for ours, remote, native in _PROJECTORS:
        found += layer_renames(_AUDIO + config.name(remote, native), f"speech.projector.{ours}")
    return found
