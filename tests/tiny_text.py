"""Tiny checkpoints of text models as Microsoft publishes them: shapes, config.json, and random weights from a seed."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

from .tiny_tokenizer import CONTEXT, END, END_OF_TEXT, ROWS, write_json, write_tokenizer

ORIGINAL = 4096  # positions before LongRoPE extends them to CONTEXT


def _longrope(frequencies: int) -> dict[str, Any]:
    steps = [index / (frequencies - 1) for index in range(frequencies)]
    scaling = {
        "type": "longrope", "short_factor": [1.0 + 0.1 * x for x in steps],
        "long_factor": [1.0 + 24 * x * x for x in steps],
    }
    return {
        "rope_scaling": scaling, "original_max_position_embeddings": ORIGINAL, "max_position_embeddings": CONTEXT,
        "sliding_window": 262144,
    }


# Overrides of `phi3_config` that stand for the published models: their ratios, a few layers. ONNX Runtime's attention
# asks for heads that are a multiple of 16 and for a multiple of 8 rotary frequencies.
SHAPES: dict[str, dict[str, Any]] = {
    "mini": {  # Phi-4-mini: tied, LongRoPE over three quarters of each head, 3 query heads for each key/value head
        **_longrope(24), "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
        "hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 1,
    },
    "mini-untied": {
        **_longrope(8), "partial_rotary_factor": 0.5,
        "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "phi4": {  # Phi-4 14B: plain RoPE over whole heads, 4 query heads for each key/value head, as 40 and 10
        "rope_theta": 250000.0, "max_position_embeddings": CONTEXT, "original_max_position_embeddings": CONTEXT,
        "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 2,
    },
    "phi35": {  # Phi-3.5-mini: LongRoPE over whole heads, as many key/value heads as heads
        **_longrope(24), "hidden_size": 96, "num_attention_heads": 2, "num_key_value_heads": 2,
    },
    "window": {  # Phi-3-mini-4k: a sliding window that is smaller than the context
        "max_position_embeddings": CONTEXT, "original_max_position_embeddings": CONTEXT, "sliding_window": 2047,
        "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
    },
}


def phi3_config(**overrides: Any) -> dict[str, Any]:
    """config.json as Microsoft publishes it, with every key that Phi-4-mini's has."""
    values: dict[str, Any] = {
        "_name_or_path": "tiny", "architectures": ["Phi3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT, "embd_pdrop": 0.0, "eos_token_id": END_OF_TEXT, "full_attn_mod": 1,
        "hidden_act": "silu", "initializer_range": 0.02, "intermediate_size": 128, "interpolate_factor": 1,
        "lm_head_bias": False, "mlp_bias": False, "model_type": "phi3", "num_hidden_layers": 2,
        "pad_token_id": END_OF_TEXT, "partial_rotary_factor": 1.0, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5,
        "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.45.0", "use_cache": True, "vocab_size": ROWS,
    }
    return values | overrides


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import Phi3Config, Phi3ForCausalLM

        model: Any = Phi3ForCausalLM(Phi3Config.from_dict(copy.deepcopy(config)))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                # Activations of about unit size, so that every part of the model shows in the logits.
                parameter.copy_(1 + 0.2 * noise if "norm" in name else noise * parameter.shape[-1] ** -0.5)
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="200KB")
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": END_OF_TEXT, "eos_token_id": [END, END_OF_TEXT],
        "pad_token_id": END_OF_TEXT, "transformers_version": "4.45.0",
    })
    write_tokenizer(folder)
