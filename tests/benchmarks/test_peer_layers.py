"""Checkpoints of some layers, and graphs of slices put together: held to the whole ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from safetensors import safe_open
from transformers import Phi3Config, Phi3ForCausalLM

from edgephi.benchmarks.peers import genai_layers, layers

BUILD = """
import json, runpy, sys, warnings
warnings.simplefilter("ignore")
for source, target, options in json.loads(sys.argv[1]):
    sys.argv = [
        "builder", "-m", "tiny", "-i", source, "-o", target, "-p", "int4", "-e", "cpu", "-c", target + ".cache",
        "--extra_options", "hf_token=false", *options,
    ]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
"""


def _tensors(folder: Path) -> dict[str, bytes]:
    """Name → bytes, read by the library of the format."""
    found = {}
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():
                found[name] = file.get_tensor(name).view(torch.uint16).numpy().tobytes()
    return found


def test_some_layers_of_a_checkpoint(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    whole, part = tiny_checkpoint("mini"), tmp_path / "part"
    total = layers.count(whole)
    layers.take(whole, part, 1, total - 1)
    expected = {}
    for name, data in _tensors(whole).items():
        number = re.fullmatch(r"(model\.layers\.)(\d+)(\..+)", name)
        if number is None:
            expected[name] = data
        elif number[2] != "0":
            expected[f"{number[1]}{int(number[2]) - 1}{number[3]}"] = data
    assert _tensors(part) == expected
    assert {name: bits.tobytes() for name, bits in layers.bits(part)} == expected
    assert layers.count(part) == total - 1
    assert (part / "tokenizer.json").read_bytes() == (whole / "tokenizer.json").read_bytes()


def _deepened(source: Path, target: Path, count: int) -> None:
    """A random checkpoint of the same shape with so many layers."""
    config = Phi3Config.from_pretrained(source, num_hidden_layers=count)
    torch.manual_seed(0)
    Phi3ForCausalLM(config).to(torch.bfloat16).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, target / name)


def _logits(folder: Path, ids: list[int]) -> np.ndarray:
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    head_size = config["model"]["decoder"]["head_size"]
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {
        "input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
    }
    inputs = session.get_inputs()
    feeds = {value.name: feeds[value.name] for value in inputs if value.name in feeds}
    for value in inputs:
        if value.name not in feeds:
            feeds[value.name] = np.zeros((1, value.shape[1], 0, head_size), np.float32)
    logits: np.ndarray = session.run(["logits"], feeds)[0]
    return logits


def test_slices_put_together_are_the_whole(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The builder's graph of a whole checkpoint is the oracle: the same logits to the last bit, for all else is equal.

    Three slices, so that one of them is neither first nor last; two layers in the first, which is the pattern.
    """
    whole, built = tmp_path / "checkpoint", tmp_path / "whole"
    _deepened(tiny_checkpoint("mini"), whole, 4)
    without = ["exclude_embeds=true", "exclude_lm_head=true"]
    jobs, parts, start = [(str(whole), str(built), [])], [], 0
    for size in (2, 1, 1):
        piece, part = tmp_path / f"layers-{start}", tmp_path / f"graph-{start}"
        layers.take(whole, piece, start, size)
        jobs.append((str(piece), str(part), without if start else []))
        parts.append(str(part))
        start += size
    subprocess.run([sys.executable, "-c", BUILD, json.dumps(jobs)], check=True, capture_output=True)
    genai_layers.join(parts, str(tmp_path / "joined"))
    ids = [5, 17, 200, 3, 3, 90]
    assert np.array_equal(_logits(tmp_path / "joined", ids), _logits(built, ids))
    settings = [json.loads((folder / "genai_config.json").read_text()) for folder in (tmp_path / "joined", built)]
    assert settings[0] == settings[1]
