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

Everything is made once a run and read-only; the weights depend on the name alone. Names: see `SHAPES` in tiny_text.py.
"""

from __future__ import annotations

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

from .tiny_multimodal import AUDIO_TOKEN, IMAGE_TOKEN, write_multimodal_checkpoint
from .tiny_text import SHAPES, phi3_config, write_checkpoint
from .tiny_tokenizer import ROWS, write_json

# Before anything can import ONNX Runtime, whose wheels send telemetry unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# A shell ignores Ctrl-C in what it starts in the background, and children inherit that: tests that send it would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(name, **overrides of config.json) → folder with weights in bfloat16 and the files of a published checkpoint."""
    made: dict[str, Path] = {}

    def make(name: str = "mini", **overrides: Any) -> Path:
        key = json.dumps([name, overrides], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / name
            folder.mkdir()
            write_checkpoint(folder, phi3_config(**{**SHAPES[name], **overrides}), zlib.crc32(key.encode()))
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
        write_json(folder / "adapter_config.json", {
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
    write_multimodal_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def write_multimodal() -> Callable[..., None]:
    """(folder, vocabulary, (image id, audio id), shape, seed) → `tiny_multimodal` with another tokenizer, name of
    `ENCODERS` or seed.
    """
    return write_multimodal_checkpoint


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
