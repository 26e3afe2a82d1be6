"""The exported folder in optimum's ORTModelForCausalLM, which is installed beside: it asks for transformers 4."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi import load

SCRIPT = Path(__file__).with_name("greedy_optimum.py")
# optimum-onnx and those of its requirements that differ from this environment's; torch and the rest are shared
PACKAGES = (
    "optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "huggingface_hub==0.36.2", "tokenizers==0.22.2",
    "requests", "urllib3", "charset-normalizer", "certifi", "idna",
)
PROMPT = [(7919 * index) % 380 for index in range(20)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("optimum")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *PACKAGES]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode:
        pytest.skip(f"optimum could not be installed: {ended.stderr.strip().splitlines()[-1][:200]}")
    return target


def ask(packages: Path, *jobs: dict[str, Any]) -> list[list[int]]:
    environment = os.environ | {
        "PYTHONPATH": str(packages), "ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore",
    }
    ended = subprocess.run(
        [sys.executable, str(SCRIPT)], input=json.dumps([{"file": None} | job for job in jobs]), capture_output=True,
        text=True, timeout=300, check=False, env=environment,
    )
    assert ended.returncode == 0, ended.stderr
    answers: list[list[int]] = json.loads(ended.stdout)
    return answers


def test_greedy_tokens_are_ours(packages: Path, tiny_bundle: Callable[..., Path]) -> None:
    """`model.onnx` is what optimum reads by itself; the graph with the long table is named."""
    names = ("mini", "mini-untied", "phi4", "phi35", "window")
    long = [(7919 * index) % 380 for index in range(4200)]
    answers = ask(
        packages, *({"bundle": str(tiny_bundle(name)), "ids": PROMPT, "steps": 10} for name in names),
        {"bundle": str(tiny_bundle("mini", precision="int4")), "ids": PROMPT, "steps": 10},
        {"bundle": str(tiny_bundle("mini")), "file": "model-long.onnx", "ids": long, "steps": 6},
    )
    cases = [(tiny_bundle(name), PROMPT, 10) for name in names]
    cases += [(tiny_bundle("mini", precision="int4"), PROMPT, 10), (tiny_bundle("mini"), long, 6)]
    for (bundle, ids, steps), answer in zip(cases, answers, strict=True):
        with load(bundle, threads=1) as session:
            wanted = list(session.generate(ids, max_tokens=steps, temperature=0).token_ids)
        length = min(len(answer), len(wanted))
        assert answer[:length] == wanted[:length] and abs(len(answer) - len(wanted)) <= 1 and length > 0, bundle


def test_the_graph_with_the_short_table_refuses_what_it_cannot_hold(
    packages: Path, tiny_bundle: Callable[..., Path]
) -> None:
    long = [(7919 * index) % 380 for index in range(4200)]
    with pytest.raises(AssertionError, match="cos_cache dimension 0"):
        ask(packages, {"bundle": str(tiny_bundle("mini")), "ids": long, "steps": 2})
