"""The seven published checkpoints of the family, by their headers: every tensor is used once, none is left over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest

from edgephi import WeightMismatch
from edgephi.export.checkpoint import Checkpoint, open_checkpoint
from edgephi.export.pipeline import Blueprint, Options, design
from edgephi.runtime.providers import find

NAMES = (
    "Phi-4-mini-instruct", "Phi-4-mini-reasoning", "phi-4", "Phi-4-reasoning", "Phi-4-reasoning-plus",
    "Phi-3.5-mini-instruct", "Phi-3-mini-4k-instruct",
)
# Sums of the published shapes; Phi-4-mini's is the figure of its model card.
PARAMETERS = {
    "Phi-4-mini-instruct": 3_836_021_760, "Phi-4-mini-reasoning": 3_836_021_760, "phi-4": 14_659_507_200,
    "Phi-4-reasoning": 14_659_507_200, "Phi-4-reasoning-plus": 14_659_507_200, "Phi-3.5-mini-instruct": 3_821_079_552,
    "Phi-3-mini-4k-instruct": 3_821_079_552,
}


@pytest.fixture
def opened(
    published: Mapping[str, Mapping[str, Any]], inventory: Callable[..., dict[str, list[int]]],
    raw_file: Callable[..., Path], tmp_path: Path,
) -> Callable[..., Checkpoint]:
    """(name, changed tensors) → the checkpoint with its real header and a hole for its data."""

    def make(name: str, changes: Mapping[str, list[int] | None] | None = None) -> Checkpoint:
        shapes = {k: v for k, v in (inventory(published[name]) | dict(changes or {})).items() if v is not None}
        header, end = {}, 0
        for tensor, shape in shapes.items():
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
            end += 2 * prod(shape)
        path = raw_file(tmp_path / "model.safetensors", header)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + end)
        eos = published[name]["eos_token_id"]
        (tmp_path / "config.json").write_text(json.dumps(published[name]))
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": [
            {"id": eos, "content": "<|end|>"},
        ]}))
        (tmp_path / "tokenizer_config.json").write_text("{}")
        return open_checkpoint(tmp_path)

    return make


def blueprint_of(checkpoint: Checkpoint, precision: str = "int4") -> Blueprint:
    with checkpoint:
        return design(checkpoint, Options(precision), find("cpu"))


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_used_once(opened: Callable[..., Checkpoint], name: str) -> None:
    checkpoint = opened(name)
    blueprint = blueprint_of(checkpoint)
    assert sum(prod(info.shape) for info in checkpoint.tensors.values()) == PARAMETERS[name]
    used = Counter(piece.tensor for pieces in blueprint.binding.weights.values() for piece in pieces)
    assert used == Counter(checkpoint.tensors.keys())
    for weight, pieces in blueprint.binding.weights.items():
        (piece,) = pieces
        assert checkpoint.tensors[piece.tensor].shape == blueprint.shapes[weight]
        assert (piece.first, piece.rows * piece.columns) == (0, prod(blueprint.shapes[weight]))
    assert blueprint.unread == ()


@pytest.mark.parametrize("name", ["Phi-4-mini-instruct", "phi-4"])
def test_formats_follow_the_role(opened: Callable[..., Checkpoint], name: str) -> None:
    formats = {weight: str(fmt) for weight, fmt in blueprint_of(opened(name)).formats.items()}
    assert formats["model.embed_tokens.weight"] == "int8-block128"
    assert formats.get("lm_head.weight", "int8-block128") == "int8-block128"
    assert {formats[f"model.layers.3.{part}.weight"] for part in (
        "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj",
    )} == {"uint4-block64"}
    assert formats["model.layers.3.input_layernorm.weight"] == formats["rotary_cos"] == "float32"


def test_a_tied_weight_is_stored_once(opened: Callable[..., Checkpoint]) -> None:
    blueprint = blueprint_of(opened("Phi-4-mini-instruct"))
    shown = [name for name, part in blueprint.parts["text"].items() if part.weight == "model.embed_tokens.weight"]
    assert sorted(shown) == [f"model.embed_tokens.weight.{part}" for part in ("codes", "scales", "table")]
    assert [kind for weight, kind in blueprint.layout.slots if weight == "model.embed_tokens.weight"] == [
        "codes", "scales",
    ] or [kind for weight, kind in blueprint.layout.slots if weight == "model.embed_tokens.weight"] == [
        "scales", "codes",
    ]
    # 3.84 billion parameters: 4.5 bits each in the body, 8.125 in the head, and the rotary tables of both lengths
    assert 2.4e9 < sum(blueprint.layout.sizes.values()) < 2.6e9


@pytest.mark.parametrize(("changes", "found"), [
    ({"model.norm.weight": None}, "1 missing from the checkpoint: model.norm.weight"),
    ({"model.extra.weight": [4]}, "1 left over in the checkpoint: model.extra.weight"),
    ({"model.norm.weight": [3071]}, r"model.norm.weight is \[3071\], config.json asks for \[3072\]"),
    (
        {f"model.layers.{layer}.mlp.down_proj.weight": None for layer in range(9)},
        "9 missing from the checkpoint: .* and 3 more",
    ),
    ({"model.layers.32.mlp.down_proj.weight": [3072, 8192]}, "1 left over"),
    ({"model.layers.0.self_attn.qkv_proj.weight": [3072, 5120]}, r"is \[3072, 5120\], config.json asks"),
])
def test_a_disagreement_is_named(
    opened: Callable[..., Checkpoint], changes: Mapping[str, list[int] | None], found: str
) -> None:
    with pytest.raises(WeightMismatch, match=found):
        blueprint_of(opened("Phi-4-mini-instruct", changes))


def test_a_tied_head_may_be_stored_too(opened: Callable[..., Checkpoint]) -> None:
    blueprint = blueprint_of(opened("Phi-4-mini-instruct", {"lm_head.weight": [200064, 3072]}))
    assert blueprint.binding.copies == (("lm_head.weight", "model.embed_tokens.weight"),)
