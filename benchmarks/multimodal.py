"""Phi-4-multimodal as numbers: a decoder's shape with image encoder, speech encoder and two adapters around it.

Boundary: facts of the published configuration and index in the layout that names remote code (Phi4MMForCausalLM). Makes
no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .shapes import Shape, Tensors

IMAGE, AUDIO = "model.embed_tokens_extend.image_embed.", "model.embed_tokens_extend.audio_embed."
ADAPTED = "layers.*((self_attn\\.(qkv_proj|o_proj))|(mlp\\.(gate_up|down)_proj))"


@dataclass(frozen=True)
class Encoders:
    """Sizes around the decoder; `inner` is the width of a feed-forward part, ranks are those of the adapters."""

    image_width: int = 1152
    image_inner: int = 4304
    image_layers: int = 27
    speech_width: int = 1024
    speech_inner: int = 1536
    speech_layers: int = 24
    speech_heads: int = 16
    mel_bins: int = 80
    bias_distance: int = 500
    vision_rank: int = 256
    speech_rank: int = 320

    def tensors(self, text: Shape) -> Tensors:
        """Name → shape of every tensor of a checkpoint with this decoder."""
        return {**self._adapted(text), **_image(self, text.hidden), **_audio(self, text.hidden)}

    def config(self, text: Shape) -> dict[str, Any]:
        """config.json."""
        speech = {
            "activation": "swish", "attention_dim": self.speech_width, "attention_heads": self.speech_heads,
            "batch_norm": False, "bias_in_glu": True, "causal": True, "chunk_size": -1, "cnn_layer_norm": True,
            "conv_activation": "swish", "conv_glu_type": "swish", "depthwise_multiplier": 1,
            "depthwise_seperable_out_channel": self.speech_width, "dropout_rate": 0.0,
            "encoder_embedding_config": {"input_size": self.mel_bins}, "ext_pw_kernel_size": 1,
            "ext_pw_out_channel": self.speech_width, "input_layer": "nemo_conv", "input_size": self.mel_bins,
            "kernel_size": 3, "left_chunk": 18, "linear_units": self.speech_inner,
            "nemo_conv_settings": {"conv_channels": self.speech_width}, "num_blocks": self.speech_layers,
            "relative_attention_bias_args": {"t5_bias_max_distance": self.bias_distance, "type": "t5"},
            "time_reduction": 8,
        }
        image_embedding = {
            "crop_size": 448, "embedding_cls": "tune_image", "hd_transform_order": "sub_glb",
            "image_token_compression_cls": "avg_pool_2d", "projection_cls": "mlp", "use_hd_transform": True,
            "with_learnable_separator": True,
        }
        audio_embedding = {
            "compression_rate": 8, "downsample_rate": 1, "embedding_cls": "audio", "projection_cls": "mlp",
            "use_conv_downsample": False, "use_qformer": False,
        }
        return text.config() | {
            "architectures": ["Phi4MMForCausalLM"], "model_type": "phi4mm",
            "audio_processor": {"name": "cascades", "config": speech},
            "embd_layer": {
                "embedding_cls": "image_audio", "audio_embd_layer": audio_embedding,
                "image_embd_layer": image_embedding,
            },
            "speech_lora": {"dp": 0.01, "layer": ADAPTED, "lora_alpha": 2 * self.speech_rank, "r": self.speech_rank},
            "vision_lora": {"dp": 0.0, "layer": ADAPTED, "lora_alpha": 2 * self.vision_rank, "r": self.vision_rank},
        }

    def _adapted(self, text: Shape) -> Tensors:
        """The decoder; its linears are named as adapted ones and have their adapters beside them."""
        found: Tensors = {}
        for name, shape in text.tensors().items():
            stem, adapted = name.removesuffix(".weight"), name.endswith("_proj.weight")
            found[f"{stem}.base_layer.weight" if adapted else name] = shape
            if adapted:
                for adapter, rank in (("vision", self.vision_rank), ("speech", self.speech_rank)):
                    found[f"{stem}.lora_A.{adapter}.weight"] = (rank, shape[1])
                    found[f"{stem}.lora_B.{adapter}.weight"] = (shape[0], rank)
        return found


def layer(name: str, *shape: int) -> Tensors:
    """Weight and bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def siglip(stem: str, width: int, inner: int, layers: int) -> Tensors:
    """Blocks and pooling head of a SigLIP encoder; what lies before the blocks differs between its versions."""
    found: Tensors = {}
    for block in range(layers):
        prefix = f"{stem}encoder.layers.{block}."
        for projection in ("q", "k", "v", "out"):
            found |= layer(f"{prefix}self_attn.{projection}_proj", width, width)
        found |= layer(f"{prefix}layer_norm1", width) | layer(f"{prefix}layer_norm2", width)
        found |= layer(f"{prefix}mlp.fc1", inner, width) | layer(f"{prefix}mlp.fc2", width, inner)
    head = f"{stem}head."
    found |= layer(f"{stem}post_layernorm", width) | {
        f"{head}probe": (1, 1, width), f"{head}attention.in_proj_weight": (3 * width, width),
        f"{head}attention.in_proj_bias": (3 * width,),
    }
    found |= layer(f"{head}attention.out_proj", width, width) | layer(f"{head}layernorm", width)
    return found | layer(f"{head}mlp.fc1", inner, width) | layer(f"{head}mlp.fc2", width, inner)


def _image(sizes: Encoders, hidden: int) -> Tensors:
    tower, width, inner = f"{IMAGE}img_processor.", sizes.image_width, sizes.image_inner
    found = layer(f"{tower}embeddings.patch_embedding", width, 3, 14, 14)
    found[f"{tower}embeddings.position_embedding.weight"] = (1024, width)
    found |= siglip(tower, width, inner, sizes.image_layers)
    found |= layer(f"{IMAGE}img_projection.0", hidden, width) | layer(f"{IMAGE}img_projection.2", hidden, hidden)
    return found | {f"{IMAGE}glb_GN": (1, 1, width), f"{IMAGE}sub_GN": (1, 1, 1, width)}


def _audio(sizes: Encoders, hidden: int) -> Tensors:
    encoder, width, inner = f"{AUDIO}encoder.", sizes.speech_width, sizes.speech_inner
    found: Tensors = {
        f"{encoder}encoder_embedding.{name}": (sizes.mel_bins,) for name in ("global_mean", "global_invstd")
    }
    found[f"{encoder}relative_attention_bias_layer.bias_values.weight"] = (2 * sizes.bias_distance, sizes.speech_heads)
    found |= layer(f"{encoder}embed.out", width, width * sizes.mel_bins // 8)
    for index, inputs, kernel in ((0, 1, 3), (2, 1, 3), (3, width, 1), (5, 1, 3), (6, width, 1)):
        found |= layer(f"{encoder}embed.conv.{index}", width, inputs, kernel, kernel)
    for block in range(sizes.speech_layers):
        found |= _speech_block(f"{encoder}encoders.{block}.", width, inner)
    for mode in ("speech", "vision"):
        found |= layer(f"{AUDIO}audio_projection.{mode}.0", hidden, width)
        found |= layer(f"{AUDIO}audio_projection.{mode}.2", hidden, hidden)
    return found


def _speech_block(stem: str, width: int, inner: int) -> Tensors:
    found: Tensors = {}
    for part in ("feed_forward_in", "feed_forward_out"):
        found |= layer(f"{stem}{part}.layer_norm", width)
        found |= layer(f"{stem}{part}.net.0.linear", 2 * inner, width)
        found |= layer(f"{stem}{part}.net.2", width, inner)
    for projection in ("q", "k", "v", "out"):
        found |= layer(f"{stem}self_attn.linear_{projection}", width, width)
    for norm in ("layer_norm_att", "layer_norm", "conv.layer_norm"):
        found |= layer(f"{stem}{norm}", width)
    found |= {f"{stem}conv.glu.{shift}": (1, width, 1) for shift in ("b1", "b2")}
    found |= layer(f"{stem}conv.glu.ext_pw_conv_1d", 2 * width, width, 1)
    found |= layer(f"{stem}conv.dw_sep_conv_1d.dw_conv", width, 1, 3)
    for pointwise in ("dw_sep_conv_1d.pw_conv", "ext_pw_conv_1d"):
        found |= layer(f"{stem}conv.{pointwise}", width, width, 1)
    return found
