"""Graphs of fixed shapes: a context processor and a token iterator over one cache say what the CPU's one graph says.

They run on the CPU here, in float32, so nothing but the order of additions differs from the bundle for the CPU; on the
NPU's simulator where onnxruntime-qnn is installed, whose arithmetic is float16.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import ContextOverflow, ExportError
from edgephi.export.pipeline import export
from edgephi.runtime.graphs import Graph
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.providers import find

CONTEXT = 512
PROMPTS = (1, 63, 64, 65, 200)
# float32 with products in blocks of int8: another order of additions, and rounding of activations that follows it
LOGITS_APART = 2e-3
# float16 arithmetic of the simulated NPU
SIMULATED_APART = 5e-2


@pytest.fixture(scope="module", params=["mini", "phi4"])
def bundles(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A bundle for the CPU and one for an NPU: partial rotary and tied weights, or neither."""
    target = tmp_path_factory.mktemp("npu") / "bundle"
    export(tiny_checkpoint(request.param), target, precision="int8", device="npu", context=CONTEXT, threads=1)
    return tiny_bundle(request.param, precision="int8"), target


def _prompt(length: int) -> list[int]:
    return np.random.default_rng(length).integers(5, 380, length).tolist()


def _logits(session: edgephi.Session, ids: list[int]) -> np.ndarray:
    """Behind the last position, by way of the prefill."""
    return session._model.decoder.advance(ids, edgephi.runtime.graphs.Interrupt())[0].astype(np.float32)


def test_prompts_of_any_length_give_the_same_tokens(bundles: tuple[Path, Path]) -> None:
    with edgephi.load(bundles[0], prefix_cache=False) as plain, edgephi.load(bundles[1], prefix_cache=False) as fixed:
        assert fixed.context == CONTEXT
        for length in PROMPTS:
            prompt = _prompt(length)
            wanted = plain.generate(prompt, max_tokens=8, temperature=0, draft=False)
            given = fixed.generate(prompt, max_tokens=8, temperature=0)
            assert given.token_ids == wanted.token_ids
