"""A tiny Phi4MultimodalForCausalLM as transformers saves it, with its two adapters; random weights from a seed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from .tiny_text import SHAPES, phi3_config
from .tiny_tokenizer import BYTES_AND_MERGES, CONTROLS, END, END_OF_TEXT, ROWS, write_json, write_tokenizer

# Placeholders of images and recordings, which follow CONTROLS in the tokenizer of the multimodal checkpoint.
MEDIA_CONTROLS = ("<|endoftext10|>", "<|endoftext11|>")
IMAGE_TOKEN, AUDIO_TOKEN = (BYTES_AND_MERGES + len(CONTROLS) + index for index in range(2))
ADAPTER_RANKS = {"vision": 64, "speech": 96}
# Sizes of the encoders around a decoder of `SHAPES`, by its name.
ENCODERS: dict[str, dict[str, Any]] = {"mini": {
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 2,
    },
    "audio_config": {
        "hidden_size": 32, "intermediate_size": 48, "num_blocks": 2, "num_attention_heads": 2, "nemo_conv_channels": 8,
        "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "bias_max_distance": 500,
    },
}, "mini-untied": {
    "vision_config": {
        "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 3,
    },
    "audio_config": {
        "hidden_size": 24, "intermediate_size": 20, "num_blocks": 3, "num_attention_heads": 3, "nemo_conv_channels": 6,
        "ext_pw_out_channel": 24, "depthwise_separable_out_channel": 24, "bias_max_distance": 60, "kernel_size": 5,
    },
}}
TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "original_max_position_embeddings", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "pad_token_id", "rms_norm_eps", "sliding_window",
)


def write_multimodal_checkpoint(
    folder: Path, vocabulary: int = ROWS, placeholders: tuple[int, int] = (IMAGE_TOKEN, AUDIO_TOKEN),
    shape: str = "mini", seed: int = 4,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from safetensors.torch import save_file
        from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

        text = phi3_config(**SHAPES[shape], vocab_size=vocabulary)
        known = {key: text[key] for key in TEXT_KEYS}
        parts = {
            key: sizes | {token: number}
            for (key, sizes), token, number in zip(
                ENCODERS[shape].items(), ("image_token_id", "audio_token_id"), placeholders, strict=True)
        }
        rotary = text["partial_rotary_factor"]
        rope = text["rope_scaling"] | {"rope_theta": 10000.0, "partial_rotary_factor": rotary}
        model: Any = Phi4MultimodalForCausalLM(Phi4MultimodalConfig(**known, **parts, rope_parameters=rope))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                noise = torch.randn(tensor.shape, generator=generator)
                gain = ("norm" in name and name.endswith("weight")) or name.endswith("global_invstd")
                spread = 0.2 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
                tensor.copy_(gain + spread * noise)
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="400KB")
        for adapter, rank in ADAPTER_RANKS.items():
            path = folder / f"{adapter}-lora"
            path.mkdir()
            factors: dict[str, Any] = {}
            for name, module in model.model.layers.named_modules():
                if isinstance(module, torch.nn.Linear):
                    stem = f"base_model.model.model.layers.{name}.lora_"
                    down = torch.randn((rank, module.in_features), generator=generator) * module.in_features**-0.5
                    up = torch.randn((module.out_features, rank), generator=generator) * 0.5 * rank**-0.5
                    factors |= {f"{stem}A.weight": down.bfloat16(), f"{stem}B.weight": up.bfloat16()}
            save_file(factors, path / "adapter_model.safetensors")
            write_json(path / "adapter_config.json", {
                "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none",
                "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], "use_rslora": False,
            })
    write_json(folder / "generation_config.json", {
        "bos_token_id": END_OF_TEXT, "eos_token_id": [END, END_OF_TEXT], "pad_token_id": END_OF_TEXT,
    })
    write_tokenizer(folder, MEDIA_CONTROLS)
