"""A decoder of the Phi family as numbers: config.json, tensors and chat format, without any weights.

Boundary: knows the published layout of Phi3ForCausalLM; which sizes a model has is said in published.py. LongRoPE
factors are a geometric series of the published length and range. Makes no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

Tensors = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Chat:
    """Control tokens by text, the ids that end an answer (the last one also ends a text), and the template."""

    controls: tuple[tuple[str, int], ...]
    ends: tuple[int, ...]
    padding: int
    template: str


@dataclass(frozen=True)
class Shape:
    """A Phi3ForCausalLM: sizes as config.json names them; `original_context` differs from `context` under LongRoPE."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    original_context: int
    theta: float
    chat: Chat
    rotary_fraction: float = 1.0
    sliding_window: int | None = None
    tied: bool = False

    def tensors(self) -> Tensors:
        """Name → shape of every tensor of the checkpoint, in the published order."""
        head_dim = self.hidden // self.heads
        fused = (self.heads + 2 * self.kv_heads) * head_dim
        tensors: Tensors = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            tensors |= {
                f"{prefix}.input_layernorm.weight": (self.hidden,),
                f"{prefix}.mlp.down_proj.weight": (self.hidden, self.intermediate),
                f"{prefix}.mlp.gate_up_proj.weight": (2 * self.intermediate, self.hidden),
                f"{prefix}.post_attention_layernorm.weight": (self.hidden,),
                f"{prefix}.self_attn.o_proj.weight": (self.hidden, self.hidden),
                f"{prefix}.self_attn.qkv_proj.weight": (fused, self.hidden),
            }
        tensors["model.norm.weight"] = (self.hidden,)
        return tensors if self.tied else tensors | {"lm_head.weight": (self.vocabulary, self.hidden)}

    def with_layers(self, layers: int) -> Shape:
        """The same with so many layers."""
        return replace(self, layers=layers)

    def config(self) -> dict[str, Any]:
        """config.json."""
        return {
            "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "bos_token_id": self.chat.ends[-1], "embd_pdrop": 0.0, "eos_token_id": self.chat.ends[-1],
            "hidden_act": "silu", "hidden_size": self.hidden, "initializer_range": 0.02,
            "intermediate_size": self.intermediate, "max_position_embeddings": self.context,
            "model_type": "phi3", "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers, "num_key_value_heads": self.kv_heads,
            "original_max_position_embeddings": self.original_context, "pad_token_id": self.chat.padding,
            "partial_rotary_factor": self.rotary_fraction, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
            "rope_scaling": self._longrope(), "rope_theta": self.theta, "sliding_window": self.sliding_window,
            "tie_word_embeddings": self.tied, "torch_dtype": "bfloat16", "use_cache": True,
            "vocab_size": self.vocabulary,
        }

    def generation_config(self) -> dict[str, Any]:
        """generation_config.json."""
        return {
            "bos_token_id": self.chat.ends[-1], "eos_token_id": list(self.chat.ends),
            "pad_token_id": self.chat.padding,
        }

    def _longrope(self) -> dict[str, Any] | None:
        if self.context == self.original_context:
            return None
        frequencies = int(self.hidden // self.heads * self.rotary_fraction) // 2
        largest = self.context / self.original_context
        steps = max(1, round(0.65 * frequencies))
        long = [round(largest ** min(1.0, step / steps), 6) for step in range(frequencies)]
        return {"type": "longrope", "short_factor": [1.0] * frequencies, "long_factor": long}


class Surroundings(Protocol):
    """What a model has besides its decoder."""

    def tensors(self, text: Shape) -> Tensors:
        """Name → shape of every tensor of a checkpoint with this decoder."""

    def config(self, text: Shape) -> dict[str, Any]:
        """config.json of a checkpoint with this decoder."""


@dataclass(frozen=True)
class MediaShape:
    """A decoder with encoders around it."""

    text: Shape
    around: Surroundings

    @property
    def name(self) -> str:
        """Of the published model."""
        return self.text.name

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.text.vocabulary

    @property
    def context(self) -> int:
        """Largest number of tokens."""
        return self.text.context

    @property
    def chat(self) -> Chat:
        """Control tokens and template."""
        return self.text.chat

    def with_layers(self, layers: int) -> MediaShape:
        """The same with so many layers of the decoder; what is around it stays whole."""
        return replace(self, text=self.text.with_layers(layers))

    def tensors(self) -> Tensors:
        """Name → shape of every tensor of the checkpoint."""
        return self.around.tensors(self.text)

    def config(self) -> dict[str, Any]:
        """config.json."""
        return self.around.config(self.text)

    def generation_config(self) -> dict[str, Any]:
        """generation_config.json."""
        return self.text.generation_config()


# Messages of every format here are a control token for the role, the text and a control token for the end.
O200K = Chat(
    controls=(
        ("<|endoftext|>", 199999), ("<|endofprompt|>", 200018), ("<|assistant|>", 200019), ("<|end|>", 200020),
        ("<|user|>", 200021), ("<|system|>", 200022), ("<|tool|>", 200023), ("<|/tool|>", 200024),
        ("<|tool_call|>", 200025), ("<|/tool_call|>", 200026), ("<|tool_response|>", 200027), ("<|tag|>", 200028),
    ),
    ends=(200020, 199999), padding=199999,
    template="{% for message in messages %}"
             "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
)
O200K_MEDIA = replace(O200K, controls=(*O200K.controls, ("<|endoftext10|>", 200010), ("<|endoftext11|>", 200011)))
CL100K = Chat(
    controls=(
        ("<|endoftext|>", 100257), ("<|im_start|>", 100264), ("<|im_end|>", 100265), ("<|im_sep|>", 100266),
        ("<|dummy_85|>", 100349), ("<think>", 100350), ("</think>", 100351),
    ),
    ends=(100265, 100257), padding=100349,
    template="{% for message in messages %}"
             "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
)
CL100K_IMAGE = replace(CL100K, controls=(*CL100K.controls, ("<|dummy_0|>", 100256), ("<|dummy_84|>", 100348)))
SENTENCEPIECE_32K = Chat(
    controls=(
        ("<|endoftext|>", 32000), ("<|assistant|>", 32001), ("<|system|>", 32006), ("<|end|>", 32007),
        ("<|user|>", 32010),
    ),
    ends=(32007, 32000), padding=32000,
    template="{% for message in messages %}"
             "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
)
