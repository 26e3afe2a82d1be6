"""Adapters added to a bundle against PEFT's own model of the same folder over transformers' model.

Two float32 implementations that add up in other orders differ by about 1e-6 of the range of the logits; the limit is
1e-4. Random adapters move the logits by a tenth of their range and more, which is asserted, so nothing passes unseen.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image
from tokenizers import Tokenizer

import edgephi
from edgephi.export.adapters import add_adapter
from edgephi.quantize.formats import BlockFormat, QuantizedTensor, dequantize
from edgephi.runtime.image import batch_images, prepare_image

LIMIT = 1e-4
MOVED = 0.05
IDS = [int(token) for token in np.random.default_rng(3).integers(0, 384, 40)]
LINEARS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SHAPES: dict[str, dict[str, Any]] = {
    "one": {"r": 1, "lora_alpha": 4, "target_modules": ["o_proj"]},
    "all": {"r": 16, "lora_alpha": 32, "target_modules": LINEARS},
    "wide": {"r": 80, "lora_alpha": 9, "use_rslora": True, "target_modules": ["qkv_proj", "down_proj"]},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": LINEARS, "rank_pattern": {"layers.1.mlp.down_proj": 24, "o_proj": 2},
        "alpha_pattern": {r".*\.0\..*qkv_proj": 40, "down_proj": 3},
    },
    "layer": {"r": 8, "lora_alpha": 16, "target_modules": ["gate_up_proj"], "layers_to_transform": [1]},
    "head": {"r": 8, "lora_alpha": 16, "target_modules": ["lm_head", "qkv_proj"]},
}


def make(model: Any, folder: Path, seed: int, **settings: Any) -> Any:
    """Save a random adapter for `model` in `folder` and return PEFT's model with it, as PEFT loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model

        made: Any = get_peft_model(copy.deepcopy(model), LoraConfig(**settings))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in made.named_parameters():
                if "lora_" in name:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * tensor.shape[1] ** -0.5)
        made.save_pretrained(folder)
        return PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def theirs(model: Any, ids: list[int] = IDS) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([ids])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("variant", ["mini", "mini-untied"])
def test_logits_are_those_of_peft(
    tiny_bundle: Callable[..., Path], tiny_reference: Callable[..., Any], tmp_path: Path, variant: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle(variant), bundle)
    model = tiny_reference(variant)
    plain = theirs(model)
    expected: dict[str | None, np.ndarray] = {None: plain}
    for seed, (name, settings) in enumerate(SHAPES.items()):
        expected[name] = theirs(make(model, tmp_path / name, seed, **settings))
        assert np.abs(expected[name] - plain).max() > MOVED * np.ptp(plain)
        add_adapter(bundle, tmp_path / name, name)
    with edgephi.load(bundle, threads=1) as phi:
        assert phi.adapters == tuple(sorted(SHAPES))
        for asked in (None, *SHAPES, None):
            reference = expected[asked]
            error = np.abs(phi.logits(IDS, adapter=asked) - reference).max() / np.ptp(reference)
            assert error <= LIMIT, asked


def dequantized(bundle: Path) -> dict[str, np.ndarray]:
    """Weight → what the products of an INT4 bundle multiply with."""
    found = {}
    for node in ir.load(bundle / "text.onnx").graph:
        if node.op_type != "MatMulNBits":
            continue
        _, codes, cast, zeros = (*node.inputs, None)[:4]
        assert codes is not None and cast is not None and node.name is not None
        scales = cast.producer().inputs[0]  # type: ignore[union-attr]  # a Cast of what is stored
        stored = [None if value is None else value.const_value.numpy() for value in (codes, scales, zeros)]  # type: ignore[union-attr]
        outputs, inputs, bits, size = (node.attributes[key].as_int() for key in ("N", "K", "bits", "block_size"))
        fmt = BlockFormat(bits, size, zeros is None)
        tensor = QuantizedTensor(fmt, (outputs, inputs), stored[0], stored[1], stored[2])  # type: ignore[arg-type]
        found[f"{node.name.removesuffix('.matmul')}.weight"] = dequantize(tensor)
    return found


def test_beside_int4_weights(
    tiny_bundle: Callable[..., Path], tiny_reference: Callable[..., Any], tmp_path: Path
) -> None:
    """Against PEFT over the dequantized weights. What is left is the rounding of activations to int8 in the products
    with 4 and 8 bits, about 0.6 % each; with the adapter it may be no more than twice what it is without.
    """
    import torch

    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle("mini", precision="int4"), bundle)
    model = copy.deepcopy(tiny_reference("mini"))
    weights = dequantized(bundle)
    assert len(weights) == 9
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(torch.from_numpy(weights[name]))
    references = {None: theirs(model), "all": theirs(make(model, tmp_path / "all", 1, **SHAPES["all"]))}
    add_adapter(bundle, tmp_path / "all", "all")
    with edgephi.load(bundle, threads=1) as phi:
        errors = {
            name: float(np.linalg.norm(phi.logits(IDS, adapter=name) - reference) / np.linalg.norm(reference))
            for name, reference in references.items()
        }
    assert errors["all"] <= 2 * errors[None] <= 0.06, errors
    assert np.linalg.norm(references["all"] - references[None]) > 10 * errors["all"] * np.linalg.norm(references[None])


def test_beside_the_adapters_for_pictures(
    tiny_multimodal_bundle: Callable[..., Path], tiny_multimodal_reference: Callable[..., Any], tmp_path: Path
) -> None:
    """One that was trained on text works in prompts with pictures, too, where the model's own adapter is on as well."""
    import torch

    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_multimodal_bundle(), bundle)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": r"model\.layers\.\d+\..*(qkv_proj|down_proj)"}
    tuned = {kind: make(tiny_multimodal_reference(kind), tmp_path / "one", 5, **settings) for kind in (None, "vision")}
    add_adapter(bundle, tmp_path / "one", "one")
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (448, 448, 3), np.uint8))
    batch = batch_images([prepare_image(picture)])
    media = {
        "image_pixel_values": torch.from_numpy(batch.pixel_values),
        "image_attention_mask": torch.from_numpy(batch.attention_mask),
        "image_sizes": torch.from_numpy(batch.image_sizes),
    }
    content: list[dict[str, object]] = [{"type": "image", "image": picture}, {"type": "text", "text": "what is it"}]
    with edgephi.load(bundle, threads=1) as phi:
        for kind, messages in ((None, "what is it"), ("vision", [{"role": "user", "content": content}])):
            ids = torch.tensor([phi.encode(messages)])
            given = media if kind else {}
            for name, model in (("one", tuned[kind]), (None, tiny_multimodal_reference(kind))):
                with torch.no_grad():
                    reference = model(input_ids=ids, **given).logits[0].numpy()
                error = np.abs(phi.logits(messages, adapter=name) - reference).max() / np.ptp(reference)
                assert error <= LIMIT, (kind, name)


def test_request_by_request_everyone_gets_what_it_gives_alone(
    tiny_bundle: Callable[..., Path], tiny_reference: Callable[..., Any], tmp_path: Path
) -> None:
    """Two adapters and the base take turns in three conversations that grow: no key of one is seen by another."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle("mini"), bundle)
    tuned = ("all", "patterns")
    names = (None, *tuned)
    for seed, name in enumerate(tuned):
        make(tiny_reference("mini"), tmp_path / name, seed, **SHAPES[name])
        add_adapter(bundle, tmp_path / name, name)
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    prompts = [" ".join(["she sells sea shells"] * count) for count in (8, 20, 40)]  # each begins the next
    alone = {}
    for asked in names:
        for prompt in prompts:
            with edgephi.load(bundle, threads=1, prefix_cache=False) as phi:
                alone[prompt, asked] = phi.generate(prompt, adapter=asked, **options).token_ids
    assert len(set(alone.values())) > 6
    with edgephi.load(bundle, threads=1, prefix_cache=edgephi.PrefixCache()) as phi:
        cached = []
        for prompt in (*prompts, *prompts):
            for asked in (*names, *reversed(names)):
                reply = phi.generate(prompt, adapter=asked, **options)
                assert reply.token_ids == alone[prompt, asked], asked
                cached.append(reply.usage.cached_tokens)
        assert cached[:2] == [0, 0] and min(cached[-6:]) >= 64  # what an adapter read before is kept, too


def test_a_trained_one_answers_as_it_was_taught(demo_bundle: Path, tmp_path: Path) -> None:
    """A few steps on the checkpoint that ships with the package, which adds numbers well: now it says another thing."""
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    pairs = [(a, 97 - 3 * a) for a in range(2, 32)]
    with edgephi.load(bundle, threads=1) as phi:
        prompts = [f"What is {a} + {b}?" for a, b in pairs]
        _teach(tmp_path / "taught", [phi.encode(prompt) for prompt in prompts[:24]])
    add_adapter(bundle, tmp_path / "taught", "taught")
    with edgephi.load(bundle, threads=1) as phi:
        for (a, b), prompt in list(zip(pairs, prompts, strict=True))[24:]:
            assert phi.generate(prompt, temperature=0, max_tokens=8).text == str(a + b)
            assert phi.generate(prompt, temperature=0, max_tokens=8, adapter="taught").text == "0"


def _teach(folder: Path, prompts: list[list[int]]) -> None:
    """Train a LoRA of the demo checkpoint to answer every prompt with a zero."""
    with warnings.catch_warnings(), as_file(files("edgephi.demo") / "checkpoint") as checkpoint:
        warnings.simplefilter("ignore")
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import Phi3ForCausalLM

        torch.manual_seed(0)
        base: Any = Phi3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        model: Any = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS))
        tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        answer = [*tokenizer.encode("0", add_special_tokens=False).ids, tokenizer.token_to_id("<|end|>")]
        optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
        for step in range(30):
            ids = torch.tensor([[*prompts[step % len(prompts)], *answer]])
            labels = ids.clone()
            labels[:, : -len(answer)] = -100
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
