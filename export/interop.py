"""What other programs need in a bundle folder: tokenizer files, genai_config.json, config.json, the licence.

Boundary: files and settings; graphs are made elsewhere. The tokenizer is copied byte for byte. Contracts: for
onnxruntime-genai its model folder (a strict parser: an unknown key is refused), for optimum's ORTModelForCausalLM
config.json and the graph inputs of transformers' own ONNX export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..runtime.errors import CheckpointError
from ..runtime.manifest import Manifest, parse_object
from . import genai_media
from .bundle import Staging
from .config import GENERATION_NAME
from .signatures import INPUT_IDS, INPUTS_EMBEDS, LOGITS

TOKENIZER_NAME = "tokenizer.json"
REFETCH = "fetch the checkpoint again"
REQUIRED = (TOKENIZER_NAME, "tokenizer_config.json")
OPTIONAL = (
    "chat_template.jinja", "special_tokens_map.json", "added_tokens.json", GENERATION_NAME, "LICENSE", "LICENSE.txt",
)
MAXIMUM_FILE = 64 << 20
TURN_ENDS = ("<|end|>", "<|im_end|>")  # of the chat formats of Phi-3 and Phi-4

# genai allocates and touches the whole key/value cache of max_length up front: 1 GiB at 4096 for Phi-4-mini
GENAI_MAX_LENGTH = 4096
# "phi3" makes genai prefill everything again at token 4097, whether or not the model switches its rotary table there
GENAI_TYPE = "llama"

# Decoders in the form of other runtimes: part of a family → name of its file. Where there are several rotary tables
# each exists once more, with the longest one as its default.
MODEL = "model"
_FOREIGN = {"text": MODEL, MODEL: MODEL, "text-vision": "text-vision", "text-speech": "text-speech"}
LONG = "-long"
STEP = "text-step"  # of graphs of fixed shapes

_LICENCE_LINE = re.compile(r"^license:\s*['\"]?([A-Za-z0-9.\-+]{1,64})['\"]?\s*$", re.MULTILINE)


def require_tokenizer(folder: Path, vocabulary: int) -> None:
    """Check that the tokenizer is there and fits a model of `vocabulary` rows. Raises CheckpointError."""
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {' and '.join(missing)} missing, and a bundle without it cannot read text: "
            "fetch the whole checkpoint, or save its fast tokenizer into that folder"
        )
    for name in (*REQUIRED, *OPTIONAL):
        path = folder / name
        if path.is_file() and path.stat().st_size > MAXIMUM_FILE:
            raise CheckpointError(f"{path} has more than the {MAXIMUM_FILE} bytes that are allowed: {REFETCH}")
        if path.is_file() and name.endswith(".json") and name != TOKENIZER_NAME:
            _parse(path)
    path = folder / TOKENIZER_NAME
    parsed = _parse(path)
    vocab = parsed["model"].get("vocab") if isinstance(parsed.get("model"), dict) else None
    ids = [value for value in vocab.values() if isinstance(value, int)] if isinstance(vocab, dict) else []
    ids += [number for number, _ in _added_tokens(parsed)]
    if not ids:
        raise CheckpointError(f"{path} holds no vocabulary: {REFETCH}")
    if max(ids) >= vocabulary:
        raise CheckpointError(
            f"{path} has token ids up to {max(ids)}, config.json has a vocabulary of {vocabulary}: "
            "use the tokenizer that belongs to the checkpoint"
        )


def copy_tokenizer(folder: Path, staging: Staging) -> None:
    """Copy the tokenizer, chat template, generation settings and licence of a checked checkpoint, byte for byte."""
    for name in (*REQUIRED, *OPTIONAL):
        if (folder / name).is_file():
            staging.add_file(name, (folder / name).read_bytes())


def turn_ends(folder: Path) -> tuple[int, ...]:
    """Ids of the tokens that end a turn in the chat formats of this family, for a checkpoint that does not say."""
    return tuple(number for number, content in _added_tokens(_parse(folder / TOKENIZER_NAME)) if content in TURN_ENDS)


def foreign(part: str, parts: Collection[str]) -> str | None:
    """Name of the file of a part in the form of other runtimes, None where they have no use for it.

    A family whose decoder only edgephi can feed has a part `model` for them, which then stands in for its decoder. No
    other runtime drives the two decoders of fixed shapes.
    """
    if STEP in parts:
        return None
    return None if part == "text" and MODEL in parts else _FOREIGN.get(part)


def prune(model: ir.Model) -> None:
    """Say that the logits are those of one position: onnxruntime-genai gives a decoder as many rows as it states."""
    logits = next(value for value in model.graph.outputs if value.name == LOGITS)
    assert logits.shape is not None
    batch, _, vocabulary = logits.shape
    logits.shape = ir.Shape((batch, 1, vocabulary))


def optimum_config(manifest: Manifest) -> bytes:
    """config.json for `ORTModelForCausalLM.from_pretrained(bundle)`, which reads `model.onnx`.

    It describes the graph, whose rotary embedding needs no settings, and says "llama": optimum gives grouped key/value
    heads only to the model types that it lists, and the one of these checkpoints is not among them.
    """
    text, tokens = manifest.text, manifest.tokens
    return _json({
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.eos),
        "head_dim": text.head_dim,
        "hidden_size": text.hidden_size,
        "max_position_embeddings": text.rotary[0].limit,
        "model_type": "llama",
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.layers,
        "num_key_value_heads": text.kv_heads,
        "pad_token_id": tokens.eos[0] if tokens.pad is None else tokens.pad,
        "use_cache": True,
        "vocab_size": text.vocab_size,
    })


def genai_config(manifest: Manifest) -> bytes:
    """genai_config.json for the graph `model`, or for the decoder and the encoders of a bundle that takes media.

    Its context is the limit of that graph's rotary table, so whatever fits is right. A LongRoPE bundle holds
    `model-long.onnx` for conversations beyond it; an application selects it with the overlay of `long_overlay`.
    """
    text, sampling = manifest.text, manifest.sampling
    context = text.rotary[0].limit
    media = genai_media.is_known(manifest)
    tokens_input = INPUTS_EMBEDS if media else INPUT_IDS
    decoder: dict[str, Any] = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": manifest.graphs[_foreign_decoder(manifest)].file,
        "head_size": text.head_dim,
        "hidden_size": text.hidden_size,
        "inputs": {
            tokens_input: tokens_input,
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.layers,
        "num_key_value_heads": text.kv_heads,
    }
    tokens = manifest.tokens
    model: dict[str, Any] = {
        "context_length": context,
        "decoder": decoder,
        "eos_token_id": list(tokens.eos),
        "pad_token_id": tokens.eos[0] if tokens.pad is None else tokens.pad,
        "type": genai_media.TYPE if media else GENAI_TYPE,
        "vocab_size": text.vocab_size,
        **(genai_media.sections(manifest) if media else {}),
    }
    if tokens.bos is not None:
        model["bos_token_id"] = tokens.bos
    search = {
        "do_sample": bool(sampling.do_sample),
        "max_length": min(context, GENAI_MAX_LENGTH),
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0 if sampling.repetition_penalty is None else sampling.repetition_penalty,
        "temperature": 1.0 if sampling.temperature is None else sampling.temperature,
        "top_k": 50 if sampling.top_k is None else sampling.top_k,
        "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
    }
    return _json({"model": model, "search": search})


def long_overlay(manifest: Manifest, max_length: int) -> bytes | None:
    """The genai overlay that reads a LongRoPE bundle with its long table, right for sequences beyond the short one.

    None for a bundle with one table. `max_length` is the tokens to allocate the key/value cache for.
    """
    long = manifest.graphs.get(f"{_foreign_decoder(manifest)}{LONG}")
    if long is None:
        return None
    model = {"context_length": manifest.text.context_length, "decoder": {"filename": long.file}}
    return _json({"model": model, "search": {"max_length": max_length}})


def other_runtimes(manifest: Manifest) -> dict[str, bytes]:
    """File name → contents of what other runtimes read beside the graphs and the tokenizer."""
    if STEP in manifest.graphs:
        return {}
    genai = {"genai_config.json": genai_config(manifest)}
    if genai_media.is_known(manifest):
        return genai | genai_media.processors(manifest)
    return genai | {"config.json": optimum_config(manifest)}


def _foreign_decoder(manifest: Manifest) -> str:
    return genai_media.DECODER if genai_media.is_known(manifest) else MODEL


def licence(folder: Path) -> str:
    """The licence that the checkpoint states (model card or licence file), 'unknown' where it states none."""
    card = folder / "README.md"
    if card.is_file():
        head = card.read_text(encoding="utf-8", errors="replace")[:MAXIMUM_FILE].split("\n---", 2)[0]
        found = _LICENCE_LINE.search(head)
        if found:
            return found.group(1)
    for name in ("LICENSE", "LICENSE.txt"):
        path = folder / name
        if path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            first = next((line for line in lines if line), "")
            return "mit" if first.casefold() == "mit license" else first[:80] or "unknown"
    return "unknown"


def _parse(path: Path) -> dict[str, Any]:
    return parse_object(path.read_bytes(), str(path), CheckpointError, REFETCH)


def _added_tokens(parsed: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Id and text of every added token of a tokenizer.json."""
    tokens = parsed.get("added_tokens")
    return [
        (token["id"], token["content"]) for token in (tokens if isinstance(tokens, list) else ())
        if isinstance(token, dict) and isinstance(token.get("id"), int) and isinstance(token.get("content"), str)
    ]


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
