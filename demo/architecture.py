"""The demo checkpoint's config.json and generation_config.json: Phi-4-mini's architecture, small, in the published
spelling.

Everything that makes Phi-4-mini special to an exporter is here: tied embedding, grouped-query attention, fused
projections, rotary embedding of three quarters of a head, LongRoPE with two factor sets, embedding rows that no token
uses, two stop ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from .tokenizer import END, END_OF_TEXT, VOCABULARY_ROWS, token_id

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
