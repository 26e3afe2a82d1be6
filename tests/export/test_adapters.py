"""Adapters come into bundles and leave them: what is refused, and what is on the disk at every moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgephi
from edgephi.export import adapters, verify
from edgephi.export.adapters import add_adapter, remove_adapter
from edgephi.export.bundle import WriteLock
from edgephi.export.durable import DataFile, write_file
from edgephi.runtime.errors import (
    BundleError,
    ConfigMismatch,
    EdgePhiError,
    ExportError,
    HashMismatch,
    RequestError,
    WeightMismatch,
)
from edgephi.runtime.footprint import footprint
from edgephi.runtime.manifest import read_manifest, verify_files

IDS = list(range(20, 40))
QKV, DOWN = "model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.down_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False, "modules_to_save": None,
    "target_modules": ["qkv_proj", "down_proj"], "base_model_name_or_path": "org/base", "loftq_config": {},
}
SIZES = {QKV: (192, 320), DOWN: (128, 192)}  # inputs and outputs in "mini"


def write(folder: Path, seed: int = 0, tensors: dict[str, tuple[int, ...]] | None = None, **changes: Any) -> Path:
    """A random adapter in `folder`; `tensors` are more of them, or others, by name."""
    import torch
    from safetensors.torch import save_file

    shapes: dict[str, tuple[int, ...]] = {}
    for module, (inputs, outputs) in SIZES.items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = (4, inputs)
        shapes[f"base_model.model.{module}.lora_B.weight"] = (outputs, 4)
    shapes |= tensors or {}
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    save_file(
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items() if shape},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    return folder


@pytest.fixture
def bundle(tiny_bundle: Callable[..., Path], tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    shutil.copytree(tiny_bundle("mini"), target)
    return target


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


def test_what_was_added_can_be_removed_without_a_trace(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    add_adapter(bundle, write(tmp_path / "a"), "a")
    with_one = contents(bundle)
    added = add_adapter(bundle, write(tmp_path / "b", seed=1), "b")
    assert added == read_manifest(bundle) and list(added.adapters) == ["a", "b"]
    assert added.adapters["a"].ranks == {f"{QKV}.weight": 4, f"{DOWN}.weight": 4}
    assert (added.adapters["a"].source, added.adapters["a"].base) == ("a", "org/base")
    verify_files(bundle, added)
    after = contents(bundle)
    assert all(after[name] == data for name, data in before.items() if name != "edgephi.json")
    assert len(after) == len(before) + 3  # a graph, and the data of each
    remove_adapter(bundle, "b")
    assert contents(bundle) == with_one
    remove_adapter(bundle, "a")
    assert contents(bundle) == before


def test_an_adapter_under_two_names_is_stored_once(bundle: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    add_adapter(bundle, folder, "a")
    added = add_adapter(bundle, folder, "same")
    assert added.adapters["a"].file == added.adapters["same"].file
    with edgephi.load(bundle, threads=1) as phi:
        assert np.array_equal(phi.logits(IDS, adapter="a"), phi.logits(IDS, adapter="same"))
    remove_adapter(bundle, "a")
    with edgephi.load(bundle, threads=1) as phi:
        phi.logits(IDS, adapter="same")


def test_verify_runs_every_adapter(bundle: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    add_adapter(bundle, write(tmp_path / "a"), "a")
    found = verify.verify(bundle, checkpoint=str(tiny_checkpoint("mini")))
    assert found.unlisted == () and found.layers
    data = bundle / read_manifest(bundle).adapters["a"].file
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(HashMismatch, match="adapter-"):
        verify.verify(bundle)


def test_memory_counts_adapters(bundle: Path, tmp_path: Path) -> None:
    before = footprint(read_manifest(bundle), 100).weights
    added = add_adapter(bundle, write(tmp_path / "a"), "a")
    factors = sum(4 * 4 * sum(sizes) for sizes in SIZES.values())
    assert factors <= footprint(added, 100).weights - before <= factors + 4 * 64


@pytest.mark.parametrize("changes, error", [
    ({"peft_type": "LOHA"}, ConfigMismatch), ({"bias": "lora_only"}, ConfigMismatch),
    ({"use_dora": True}, ConfigMismatch), ({"modules_to_save": ["lm_head"]}, ConfigMismatch),
    ({"init_lora_weights": "pissa"}, ConfigMismatch), ({"lora_bias": True}, ConfigMismatch),
    ({"something_new": {"x": 1}}, ConfigMismatch), ({"rank_pattern": {"(": 4}}, ConfigMismatch),
    ({"alpha_pattern": {"qkv_proj": "x"}}, ConfigMismatch), ({"r": 8}, WeightMismatch), ({"r": None}, ConfigMismatch),
    ({"fan_in_fan_out": True}, ConfigMismatch), ({"target_parameters": ["w"]}, ConfigMismatch),
], ids=str)
def test_settings_beyond_a_plain_lora_are_refused(
    bundle: Path, tmp_path: Path, changes: dict[str, Any], error: type[EdgePhiError]
) -> None:
    before = contents(bundle)
    with pytest.raises(error, match=next(iter(changes)) if error is ConfigMismatch else "rank 8"):
        add_adapter(bundle, write(tmp_path / "a", **changes), "a")
    assert contents(bundle) == before


@pytest.mark.parametrize("tensors, found", [
    ({f"base_model.model.{QKV}.lora_B.weight": ()}, "has lora_A alone"),
    ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 448)}, "no factor A or B"),
    ({f"base_model.model.{QKV}.lora_magnitude_vector": (320,)}, "no factor A or B"),
    ({f"base_model.model.model.vision.fc1.lora_{f}.weight": (9, 4)[:: 1 if f == "B" else -1] for f in "AB"},
     "no such linear"),
    ({f"base_model.model.{QKV}.lora_A.weight": (4, 64)}, "64 → 320.* has 192 → 320"),
], ids=lambda value: value if isinstance(value, str) else "tensors")
def test_tensors_that_do_not_fit_are_refused(
    bundle: Path, tmp_path: Path, tensors: dict[str, tuple[int, ...]], found: str
) -> None:
    before = contents(bundle)
    with pytest.raises(WeightMismatch, match=found):
        add_adapter(bundle, write(tmp_path / "a", tensors=tensors), "a")
    assert contents(bundle) == before


def test_names_and_folders_are_checked(bundle: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    for name in ("", "../x", "a b", "x" * 65, ".x"):
        with pytest.raises(RequestError, match="cannot be called"):
            add_adapter(bundle, folder, name)
    add_adapter(bundle, folder, "a")
    with pytest.raises(RequestError, match="'a' already"):
        add_adapter(bundle, folder, "a")
    with pytest.raises(RequestError, match="no adapter 'b'; its adapters: a"):
        remove_adapter(bundle, "b")
    with pytest.raises(BundleError, match="is no bundle"):
        add_adapter(tmp_path / "a", folder, "b")
    with pytest.raises(ConfigMismatch, match=r"adapter_config\.json cannot be read"):
        add_adapter(bundle, bundle, "b")
    with edgephi.load(bundle, threads=1) as phi, pytest.raises(RequestError, match="its adapters: a"):
        phi.stream("x", adapter="b")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(WeightMismatch, match="never opened"):
        add_adapter(bundle, folder, "b")


def test_a_damaged_graph_is_not_given_a_new_hash(bundle: Path, tmp_path: Path) -> None:
    with (bundle / "text.onnx").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(HashMismatch, match=r"text\.onnx"):
        add_adapter(bundle, write(tmp_path / "a"), "a")


@pytest.mark.parametrize("step", range(3))
def test_whatever_the_disk_refuses_the_bundle_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A disk that is full at the data, at the graph or at the manifest; what was written goes at the next change."""
    add_adapter(bundle, write(tmp_path / "a"), "a")
    manifest = read_manifest(bundle)
    folder = write(tmp_path / "b", seed=1)
    calls = 0

    def refuse(path: Path, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > step:
            raise OSError(28, os.strerror(28), str(path))
        return (write_file if arguments and isinstance(arguments[0], bytes) else DataFile)(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(adapters, "DataFile", refuse)
        patched.setattr(adapters, "write_file", refuse)
        with pytest.raises(ExportError, match=r"No space left.*free some space"):
            add_adapter(bundle, folder, "b")
    assert calls == step + 1 and read_manifest(bundle) == manifest
    verify_files(bundle, manifest)
    with edgephi.load(bundle, threads=1) as phi:
        phi.logits(IDS, adapter="a")
    add_adapter(bundle, folder, "b")
    assert {path.name for path in bundle.iterdir()} == {*read_manifest(bundle).files, "edgephi.json"}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_precision_takes_adapters(tiny_bundle: Callable[..., Path], tmp_path: Path, precision: str) -> None:
    """The same adapter moves the logits as it does beside float32 weights, but for what the precision loses."""
    moved = []
    for name in ("fp32", precision):
        shutil.copytree(tiny_bundle("mini", precision=name), tmp_path / name)
        add_adapter(tmp_path / name, write(tmp_path / f"{name}-adapter"), "a")
        with edgephi.load(tmp_path / name, threads=1) as phi:
            moved.append(phi.logits(IDS, adapter="a") - phi.logits(IDS))
    norm = float(np.linalg.norm(moved[0]))
    assert norm > 1 and np.linalg.norm(moved[1] - moved[0]) < {"fp16": 0.01, "int8": 0.1}[precision] * norm


def test_mapped_weights_and_adapters_give_the_same(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgephi.runtime.prepacked.default_folder", lambda: tmp_path / "prepared")
    add_adapter(bundle, write(tmp_path / "a"), "a")
    with edgephi.load(bundle, threads=1) as plain, edgephi.load(bundle, threads=1, mapped=True) as mapped:
        for name in (None, "a"):
            assert np.allclose(plain.logits(IDS, adapter=name), mapped.logits(IDS, adapter=name), rtol=0, atol=1e-4)


def test_one_writer_at_a_time(bundle: Path, tmp_path: Path) -> None:
    lock = WriteLock(bundle)
    lock.acquire()
    try:
        with pytest.raises(ExportError, match="is writing to it"):
            add_adapter(bundle, write(tmp_path / "a"), "a")
    finally:
        lock.release()
    add_adapter(bundle, tmp_path / "a", "a")


@pytest.mark.parametrize("device", ["qnn", "cuda"])
def test_graphs_of_other_devices_take_none(bundle: Path, tmp_path: Path, device: str) -> None:
    manifest = json.loads((bundle / "edgephi.json").read_bytes())
    (bundle / "edgephi.json").write_text(json.dumps(manifest | {"device": device}))
    with pytest.raises(BundleError, match=f"for device '{device}'; adapters need one"):
        add_adapter(bundle, write(tmp_path / "a"), "a")
