"""Adapters beside a checkpoint on the hub come along where they are part of the model, not where they repeat it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils._paths import filter_repo_objects

from edgephi.export.fetch import resolve

FILES = (
    "config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors", "modeling_phi4mm.py",
    "vision-lora/adapter_config.json", "vision-lora/adapter_model.safetensors",
    "speech-lora/adapter_config.json", "speech-lora/adapter_model.safetensors",
)


@pytest.mark.parametrize(("tensor", "wanted"), [
    ("model.layers.0.mlp.down_proj.weight", True), ("model.layers.0.mlp.down_proj.lora_A.vision.weight", False),
])
def test_adapters_come_with_a_checkpoint_that_does_not_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str, wanted: bool
) -> None:
    hub, cache = tmp_path / "hub", tmp_path / "cache"
    for name in FILES:
        (hub / name).parent.mkdir(parents=True, exist_ok=True)
        (hub / name).write_text("{}")
    (hub / FILES[1]).write_text(json.dumps({"weight_map": {tensor: FILES[2]}}))

    def download(name: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        assert (name, revision) == ("own/model", None)
        for file in filter_repo_objects(FILES, allow_patterns=allow_patterns):
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            (cache / file).write_bytes((hub / file).read_bytes())
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    folder = resolve("own/model")
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    adapters = {name for name in FILES if name.endswith("adapter_model.safetensors")}
    assert fetched == {*FILES} - {"modeling_phi4mm.py"} - (set() if wanted else adapters)
