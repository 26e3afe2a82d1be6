"""`verify`: what agrees, and which stage is named when one does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgephi import BundleError, CheckpointError, HashMismatch, NonFiniteLogits
from edgephi.export.verify import verify
from edgephi.runtime.manifest import FileRecord, read_manifest, write_manifest


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("name", ["mini", "phi35", "window"])
def test_every_stage_agrees_with_the_checkpoint(
    tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path], name: str, precision: str
) -> None:
    result = verify(tiny_bundle(name, precision=precision), checkpoint=str(tiny_checkpoint(name)))
    assert [stage.name for stage in result.layers] == [
        "embedding", "layer 0 attention", "layer 0 feed-forward", "layer 1 attention", "layer 1 feed-forward", "head",
    ]
    print([(s.name, s.error, s.allowed) for s in result.layers])
    assert all(stage.error <= stage.allowed for stage in result.layers)
