"""The demo checkpoint's config.json and generation_config.json: Phi-4-mini's architecture, and Phi-4-multimodal's
around it, small, in the published spelling.

Everything that makes Phi-4-mini special to an exporter is here: tied embedding, grouped-query attention, fused
projections, rotary embedding of three quarters of a head, LongRoPE with two factor sets, embedding rows that no token
uses, two stop ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from .tokenizer import AUDIO, END, END_OF_TEXT, IMAGE, VOCABULARY_ROWS, token_id

PARTIAL_ROTARY = 0.75
ORIGINAL_LENGTH = 1024  # up to here the short factors hold
CONTEXT_LENGTH = 4096


@dataclass(frozen=True)
class Shape:
    """Widths and counts of the decoder."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def frequencies(self) -> int:
        """Rotary frequencies of a head."""
        return int(self.hidden // self.heads * PARTIAL_ROTARY) // 2


# heads of 64, because ONNX Runtime's attention takes 8, 16, 24, ... rotary frequencies
DEMO = Shape(hidden=256, intermediate=512, layers=5, heads=4, kv_heads=2)


def long_factors(count: int) -> list[float]:
    """Factors of the extended context: 1 for the fastest rotation, the ratio of the two lengths for the slowest."""
    return [round((CONTEXT_LENGTH / ORIGINAL_LENGTH) ** (index / (count - 1)), 6) for index in range(count)]


def config(shape: Shape) -> dict[str, object]:
    """The content of config.json."""
    end_of_text = token_id(END_OF_TEXT)
    return {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "embd_pdrop": 0.0,
        "eos_token_id": end_of_text,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": CONTEXT_LENGTH,
        "model_type": "phi3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "original_max_position_embeddings": ORIGINAL_LENGTH,
        "pad_token_id": end_of_text,
        "partial_rotary_factor": PARTIAL_ROTARY,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * shape.frequencies,
            "long_factor": long_factors(shape.frequencies),
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY_ROWS,
    }


def generation_config() -> dict[str, object]:
    """The content of generation_config.json: an answer ends at <|end|>."""
    end_of_text = token_id(END_OF_TEXT)
    return {"bos_token_id": end_of_text, "eos_token_id": [token_id(END), end_of_text], "pad_token_id": end_of_text}


@dataclass(frozen=True)
class MediaShape:
    """Sizes of the encoders and of the two adapters around a decoder; `side` and `patch` of pictures in pixels."""

    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_heads: int
    speech_hidden: int
    speech_intermediate: int
    speech_blocks: int
    speech_heads: int
    channels: int
    rank: int
    side: int = 112
    patch: int = 14


MEDIA = MediaShape(
    vision_hidden=128, vision_intermediate=256, vision_layers=4, vision_heads=4,
    speech_hidden=128, speech_intermediate=128, speech_blocks=3, speech_heads=4, channels=32, rank=16,
)  # fmt: skip
IMAGE_ID, AUDIO_ID = token_id(IMAGE), token_id(AUDIO)
ADAPTERS = ("vision", "speech")
TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
SCALE = 2.0  # alpha / rank of both adapters, as published


def media_config(shape: Shape, media: MediaShape) -> dict[str, object]:
    """The content of config.json of the decoder with its encoders: Phi-4-multimodal's architecture."""
    return config(shape) | {
        "architectures": ["Phi4MultimodalForCausalLM"],
        "model_type": "phi4_multimodal",
        "vision_config": {
            "crop_size": media.side,
            "feature_layer": -2,
            "hidden_size": media.vision_hidden,
            "image_size": media.side,
            "image_token_id": IMAGE_ID,
            "intermediate_size": media.vision_intermediate,
            "model_type": "phi4_multimodal_vision",
            "num_attention_heads": media.vision_heads,
            "num_hidden_layers": media.vision_layers,
            "patch_size": media.patch,
        },
        "audio_config": {
            "audio_token_id": AUDIO_ID,
            "bias_max_distance": 500,
            "depthwise_separable_out_channel": media.speech_hidden,
            "ext_pw_out_channel": media.speech_hidden,
            "hidden_size": media.speech_hidden,
            "intermediate_size": media.speech_intermediate,
            "model_type": "phi4_multimodal_audio",
            "nemo_conv_channels": media.channels,
            "num_attention_heads": media.speech_heads,
            "num_blocks": media.speech_blocks,
        },
    }


def adapter_config(media: MediaShape) -> dict[str, object]:
    """The content of adapter_config.json of either adapter, as PEFT writes it."""
    return {
        "bias": "none", "lora_alpha": int(SCALE * media.rank), "lora_dropout": 0.0, "peft_type": "LORA",
        "r": media.rank, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM", "use_rslora": False,
    }  # fmt: skip
