"""Tiny checkpoints in the published layout, their bundles, and transformers' own model of them: shared by all tests.

    tiny_checkpoint("mini") → folder
    tiny_bundle("mini", precision="fp32") → folder
    peft_adapter(seed) → folder of a random adapter for "mini" as the PEFT library saves it
    adapted_bundle → the fp32 one with the adapters "one" and "two"
    thinking_bundle(tokens=True) → the fp32 one, said to think
    tiny_reference("mini") → Phi3ForCausalLM, float32
    tiny_multimodal() → folder of a Phi4MultimodalForCausalLM with its two adapters
    tiny_multimodal_bundle(precision="fp32") → folder
    demo_bundle → folder of the checkpoint that ships with the package
    tiny_multimodal_reference("vision") → the same model with that adapter merged, float32

Everything is made once a run and read-only; the weights depend on the name alone. Names: see `SHAPES`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import signal
import warnings
import zlib
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

# Before anything can import ONNX Runtime, whose wheels send telemetry unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# A shell ignores Ctrl-C in what it starts in the background, and children inherit that: tests that send it would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)

ORIGINAL, EXTENDED = 4096, 16384
BYTES_AND_MERGES, ROWS = 384, 448
CONTROLS = (
    "<|endoftext|>", "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>", "<|/tool|>",
    "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>", "<|tag|>",
)
# Not special, so shown when decoded.
VISIBLE = ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>")
END_OF_TEXT, END = (BYTES_AND_MERGES + CONTROLS.index(name) for name in ("<|endoftext|>", "<|end|>"))
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Phi-4-mini's template: no white space between the parts, a system message may carry tools.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
# Placeholders of images and recordings, which follow CONTROLS in the tokenizer of the multimodal checkpoint.
MEDIA_CONTROLS = ("<|endoftext10|>", "<|endoftext11|>")
IMAGE_TOKEN, AUDIO_TOKEN = (BYTES_AND_MERGES + len(CONTROLS) + index for index in range(2))
ADAPTER_RANKS = {"vision": 64, "speech": 96}
# Sizes of the encoders around a decoder of `SHAPES`, by its name.
MULTIMODAL: dict[str, dict[str, Any]] = {"mini": {
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
MULTIMODAL_TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "original_max_position_embeddings", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "pad_token_id", "rms_norm_eps", "sliding_window",
)
CORPUS = (
    "The quick brown fox jumps over the lazy dog. What does the sign say? Explain rotary embeddings in one line.\n"
    "She sells sea shells by the sea shore; the shells that she sells are sea shells, I am sure. 1234567890, 3.14159.\n"
    "def function(argument): return argument + 1  # a comment\n" * 4
)


def _longrope(frequencies: int) -> dict[str, Any]:
    steps = [index / (frequencies - 1) for index in range(frequencies)]
    scaling = {
        "type": "longrope", "short_factor": [1.0 + 0.1 * x for x in steps],
        "long_factor": [1.0 + 24 * x * x for x in steps],
    }
    return {
        "rope_scaling": scaling, "original_max_position_embeddings": ORIGINAL, "max_position_embeddings": EXTENDED,
        "sliding_window": 262144,
    }


# Overrides of `_config` that stand for the published models: their ratios, a few layers. ONNX Runtime's attention asks
# for heads that are a multiple of 16 and for a multiple of 8 rotary frequencies.
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
        "rope_theta": 250000.0, "max_position_embeddings": EXTENDED, "original_max_position_embeddings": EXTENDED,
        "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 2,
    },
    "phi35": {  # Phi-3.5-mini: LongRoPE over whole heads, as many key/value heads as heads
        **_longrope(24), "hidden_size": 96, "num_attention_heads": 2, "num_key_value_heads": 2,
    },
    "window": {  # Phi-3-mini-4k: a sliding window that is smaller than the context
        "max_position_embeddings": EXTENDED, "original_max_position_embeddings": EXTENDED, "sliding_window": 2047,
        "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
    },
}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(name, **overrides of config.json) → folder with weights in bfloat16 and the files of a published checkpoint."""
    made: dict[str, Path] = {}

    def make(name: str = "mini", **overrides: Any) -> Path:
        key = json.dumps([name, overrides], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / name
            folder.mkdir()
            _write_checkpoint(folder, _config(**{**SHAPES[name], **overrides}), zlib.crc32(key.encode()))
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(name, precision="fp32", preset, **overrides of config.json) → bundle exported from `tiny_checkpoint`."""
    made: dict[str, Path] = {}

    def make(name: str = "mini", precision: str = "fp32", preset: str = "balanced", **overrides: Any) -> Path:
        from edgephi.export.pipeline import export

        key = json.dumps([name, precision, preset, overrides], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("bundle") / f"{name}-{precision}"
            export(tiny_checkpoint(name, **overrides), folder, precision=precision, preset=preset, threads=2)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def peft_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """(seed) → a random adapter of two linears of "mini", large enough to change every answer."""

    def make(seed: int) -> Path:
        import torch
        from safetensors.torch import save_file

        folder = tmp_path_factory.mktemp("adapter") / f"random-{seed}"
        folder.mkdir()
        generator = torch.Generator().manual_seed(seed)
        factors = {
            f"base_model.model.model.layers.{linear}.lora_{factor}.weight": torch.randn(shape, generator=generator) / 4
            for linear, outputs, inputs in (("0.self_attn.qkv_proj", 320, 192), ("1.mlp.down_proj", 192, 128))
            for factor, shape in (("A", (8, inputs)), ("B", (outputs, 8)))
        }
        save_file(factors, folder / "adapter_model.safetensors")
        _write_json(folder / "adapter_config.json", {
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "base_model_name_or_path": "org/mini",
        })
        return folder

    return make


@pytest.fixture(scope="session")
def adapted_bundle(
    tiny_bundle: Callable[..., Path], peft_adapter: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`tiny_bundle("mini")` with two adapters."""
    from edgephi.export.adapters import add_adapter

    folder = tmp_path_factory.mktemp("adapted") / "bundle"
    shutil.copytree(tiny_bundle("mini"), folder)
    for seed, name in enumerate(("one", "two")):
        add_adapter(folder, peft_adapter(seed), name)
    return folder


@pytest.fixture(scope="session")
def thinking_bundle(
    tiny_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool], Path]:
    """(whether each tag is a token) → `tiny_bundle("mini")` whose manifest says that it thinks."""
    made: dict[bool, Path] = {}

    def make(tokens: bool = True) -> Path:
        if tokens not in made:
            made[tokens] = tmp_path_factory.mktemp("thinking") / "bundle"
            _teach_to_think(tiny_bundle("mini"), made[tokens], tokens)
        return made[tokens]

    return make


def _teach_to_think(bundle: Path, target: Path, tokens: bool) -> None:
    shutil.copytree(bundle, target)
    manifest = json.loads((target / "edgephi.json").read_bytes())
    manifest["thinking"] = {"open": "<think>", "close": "</think>", "skip": None}
    if tokens:
        spec = json.loads((target / "tokenizer.json").read_bytes())
        free = 1 + max(token["id"] for token in spec["added_tokens"])
        assert free + 1 < ROWS
        for number, content in enumerate(("<think>", "</think>"), free):
            spec["added_tokens"].append({**spec["added_tokens"][0], "id": number, "content": content})
        data = json.dumps(spec).encode()
        (target / "tokenizer.json").write_bytes(data)
        manifest["files"]["tokenizer.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (target / "edgephi.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def tiny_multimodal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi4MultimodalForCausalLM in bfloat16 as transformers saves it, with vision-lora/ and speech-lora/ beside it.

    The decoder is "mini" of `SHAPES`. Crops have the published 448 pixels, mel frames the published 80 bins.
    """
    folder = tmp_path_factory.mktemp("checkpoint") / "multimodal"
    folder.mkdir()
    _write_multimodal(folder)
    return folder


@pytest.fixture(scope="session")
def write_multimodal() -> Callable[..., None]:
    """(folder, vocabulary, (image id, audio id), shape, seed) → `tiny_multimodal` with another tokenizer, name of
    `MULTIMODAL` or seed.
    """
    return _write_multimodal


@pytest.fixture(scope="session")
def multimodal_reference() -> Callable[..., Any]:
    """(folder of such a checkpoint, adapter name or None) → what `tiny_multimodal_reference` gives."""
    return _multimodal_reference


@pytest.fixture(scope="session")
def media_tokens() -> tuple[int, int]:
    """Ids of the placeholders for images and for recordings in `tiny_multimodal`."""
    return IMAGE_TOKEN, AUDIO_TOKEN


@pytest.fixture(scope="session")
def tiny_multimodal_bundle(tiny_multimodal: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(precision="fp32") → bundle folder exported from `tiny_multimodal`."""
    made: dict[str, Path] = {}

    def make(precision: str = "fp32") -> Path:
        from edgephi.export.pipeline import export

        if precision not in made:
            made[precision] = tmp_path_factory.mktemp("bundle") / f"multimodal-{precision}"
            export(tiny_multimodal, made[precision], precision=precision, threads=2)
        return made[precision]

    return make


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the shipped checkpoint, which gives real answers to its own kinds of questions."""
    from edgephi.export.pipeline import export

    folder = tmp_path_factory.mktemp("demo") / "demo"
    with as_file(files("edgephi.demo") / "checkpoint") as checkpoint:
        export(checkpoint, folder, threads=1)
    return folder


@pytest.fixture(scope="session")
def tiny_multimodal_reference(tiny_multimodal: Path) -> Callable[..., Any]:
    """(adapter name or None) → transformers' Phi4MultimodalForCausalLM in float32, the adapter merged into it."""
    made: dict[str | None, Any] = {}

    def make(adapter: str | None = None) -> Any:
        if adapter not in made:
            made[adapter] = _multimodal_reference(tiny_multimodal, adapter)
        return made[adapter]

    return make


@pytest.fixture(scope="session")
def tiny_reference(tiny_checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    """(name, **overrides of config.json) → transformers' Phi3ForCausalLM of `tiny_checkpoint` in float32."""
    made: dict[str, Any] = {}

    def make(name: str = "mini", **overrides: Any) -> Any:
        key = json.dumps([name, overrides], sort_keys=True)
        if key not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch and transformers warn about their own insides
                import torch
                from transformers import Phi3ForCausalLM

                model: Any = Phi3ForCausalLM.from_pretrained(tiny_checkpoint(name, **overrides), dtype=torch.float32)
            made[key] = model.eval()
        return made[key]

    return make


def _config(**overrides: Any) -> dict[str, Any]:
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


def _write_checkpoint(folder: Path, config: dict[str, Any], seed: int) -> None:
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
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": END_OF_TEXT, "eos_token_id": [END, END_OF_TEXT],
        "pad_token_id": END_OF_TEXT, "transformers_version": "4.45.0",
    })
    _write_tokenizer(folder)


def _write_multimodal(
    folder: Path, vocabulary: int = ROWS, placeholders: tuple[int, int] = (IMAGE_TOKEN, AUDIO_TOKEN),
    shape: str = "mini", seed: int = 4,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from safetensors.torch import save_file
        from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

        text = _config(**SHAPES[shape], vocab_size=vocabulary)
        known = {key: text[key] for key in MULTIMODAL_TEXT_KEYS}
        parts = {
            key: sizes | {token: number}
            for (key, sizes), token, number in zip(
                MULTIMODAL[shape].items(), ("image_token_id", "audio_token_id"), placeholders, strict=True)
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
            _write_json(path / "adapter_config.json", {
                "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none",
                "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], "use_rslora": False,
            })
    _write_json(folder / "generation_config.json", {
        "bos_token_id": END_OF_TEXT, "eos_token_id": [END, END_OF_TEXT], "pad_token_id": END_OF_TEXT,
    })
    _write_tokenizer(folder, MEDIA_CONTROLS)


def _multimodal_reference(folder: Path, adapter: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from safetensors.torch import load_file
        from transformers import Phi4MultimodalForCausalLM

        model: Any = Phi4MultimodalForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # With "sdpa" its image encoder is causal where no patch is masked, by its `is_causal`; SigLIP's never is.
    model.model.embed_tokens_extend.image_embed.img_processor.set_attn_implementation("eager")
    if adapter is not None:
        factors = load_file(folder / f"{adapter}-lora" / "adapter_model.safetensors")
        with torch.no_grad():
            for name, module in model.model.layers.named_modules():
                if isinstance(module, torch.nn.Linear):
                    stem = f"base_model.model.model.layers.{name}.lora_"
                    down, up = (factors[f"{stem}{factor}.weight"].float() for factor in "AB")
                    module.weight += 2.0 * up @ down  # alpha / rank is 2
    return model.eval()


def _write_tokenizer(folder: Path, more: tuple[str, ...] = ()) -> None:
    """A byte-level BPE of BYTES_AND_MERGES entries with the names, order and flags of Phi-4-mini's control tokens.

    `more` control tokens come behind these.
    """
    controls = (*CONTROLS, *more)
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [CORPUS], trainers.BpeTrainer(vocab_size=BYTES_AND_MERGES, initial_alphabet=alphabet, show_progress=False),
    )
    assert tokenizer.get_vocab_size() == BYTES_AND_MERGES
    for name in controls:
        strips = not name.startswith("<|endof")
        token = AddedToken(name, rstrip=strips, normalized=False, special=name not in VISIBLE)
        (tokenizer.add_tokens if name in VISIBLE else tokenizer.add_special_tokens)([token])
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {
        str(tokenizer.token_to_id(name)): {
            "content": name, "lstrip": False, "normalized": False, "rstrip": not name.startswith("<|endof"),
            "single_word": False, "special": name not in VISIBLE,
        }
        for name in controls
    }
    _write_json(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder,
        "bos_token": "<|endoftext|>", "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>", "model_max_length": EXTENDED, "pad_token": "<|endoftext|>",
        "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>",
    })


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
