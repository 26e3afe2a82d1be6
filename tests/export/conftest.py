"""Raw safetensors files and the settings of the published checkpoints, restated: numbers are facts."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

LONG_FACTOR_MINI = [
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
    2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424,
    6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252, 16.37415215,
    18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64,
    32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
]
# The last three are not known from a public source; here they go on as the others end.
LONG_FACTOR_PHI35 = [
    1.08, 1.11, 1.14, 1.34, 1.59, 1.60, 1.62, 2.62, 3.23, 3.23, 4.79, 7.40, 7.70, 9.09, 12.20, 17.67, 24.46, 28.57,
    30.42, 30.84, 32.59, 32.93, 42.32, 44.96, 50.34, 50.45, 57.55, 57.93, 58.21, 60.14, 62.61, 62.62, 62.71, 63.14,
    63.14, 63.77, 63.93, 63.96, 63.97, 64.03, 64.07, 64.08, 64.12, 64.41, 64.48, 64.5, 64.5, 64.6,
]
_SHARED: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0,
    "hidden_act": "silu", "initializer_range": 0.02, "model_type": "phi3", "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
    "torch_dtype": "bfloat16", "use_cache": True,
}
_MINI = _SHARED | {
    "_name_or_path": "Phi-4-mini-instruct",
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        "AutoTokenizer": "Xenova/gpt-4o",
    },
    "bos_token_id": 199999, "eos_token_id": 199999, "pad_token_id": 199999, "full_attn_mod": 1, "hidden_size": 3072,
    "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": False, "max_position_embeddings": 131072,
    "mlp_bias": False, "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
    "rope_scaling": {"long_factor": LONG_FACTOR_MINI, "short_factor": [1.0] * 48, "type": "longrope"},
    "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True, "transformers_version": "4.45.0",
    "vocab_size": 200064,
}
_PHI4 = _SHARED | {
    "_name_or_path": "microsoft/phi-4", "bos_token_id": 100257, "eos_token_id": 100265, "pad_token_id": 100349,
    "hidden_size": 5120, "intermediate_size": 17920, "max_position_embeddings": 16384, "num_attention_heads": 40,
    "num_hidden_layers": 40, "num_key_value_heads": 10, "original_max_position_embeddings": 16384,
    "rope_scaling": None, "rope_theta": 250000, "sliding_window": None, "tie_word_embeddings": False,
    "transformers_version": "4.47.0", "vocab_size": 100352,
}
_REASONING = _PHI4 | {
    "max_position_embeddings": 32768, "original_max_position_embeddings": 32768, "rope_theta": 500000,
}
_PHI35 = _SHARED | {
    "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000, "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {"long_factor": LONG_FACTOR_PHI35, "short_factor": [1.0] * 48, "type": "longrope"},
    "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False, "vocab_size": 32064,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Phi-4-mini-instruct": _MINI,
    "Phi-4-mini-reasoning": _MINI | {"_name_or_path": "Phi-4-mini-reasoning"},
    "phi-4": _PHI4,
    "Phi-4-reasoning": _REASONING,
    "Phi-4-reasoning-plus": _REASONING,
    "Phi-3.5-mini-instruct": _PHI35,
    "Phi-3-mini-4k-instruct": _PHI35 | {
        "max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047,
    },
}


@pytest.fixture(scope="session")
def published() -> Mapping[str, Mapping[str, Any]]:
    """Name → config.json of the seven checkpoints of the family `phi3`."""
    return PUBLISHED


@pytest.fixture(scope="session")
def inventory() -> Callable[[Mapping[str, Any]], dict[str, list[int]]]:
    """config.json → name and shape of every tensor of its checkpoint."""

    def shapes(config: Mapping[str, Any]) -> dict[str, list[int]]:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        inner, rows = config["intermediate_size"], config["vocab_size"]
        qkv = (heads + 2 * config["num_key_value_heads"]) * (hidden // heads)
        tensors = {"model.embed_tokens.weight": [rows, hidden], "model.norm.weight": [hidden]}
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            tensors |= {
                f"{prefix}.input_layernorm.weight": [hidden],
                f"{prefix}.self_attn.qkv_proj.weight": [qkv, hidden],
                f"{prefix}.self_attn.o_proj.weight": [hidden, hidden],
                f"{prefix}.post_attention_layernorm.weight": [hidden],
                f"{prefix}.mlp.gate_up_proj.weight": [2 * inner, hidden],
                f"{prefix}.mlp.down_proj.weight": [hidden, inner],
            }
        return tensors if config["tie_word_embeddings"] else tensors | {"lm_head.weight": [rows, hidden]}

    return shapes


@pytest.fixture(scope="session")
def raw_file() -> Callable[..., Path]:
    """(path, header object or bytes, data) → a safetensors file of exactly that, however wrong."""

    def write(path: Path, header: Mapping[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return path

    return write
