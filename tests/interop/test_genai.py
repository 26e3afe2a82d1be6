"""The exported folder in onnxruntime-genai: it loads, and its greedy tokens are ours and transformers'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import edgephi
from edgephi.export.interop import genai_config, long_overlay
from edgephi.runtime.manifest import read_manifest

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: pip install 'edgephi[test]'")

SCRIPT = Path(__file__).with_name("greedy_genai.py")
PROMPT = [(7919 * index) % 380 for index in range(20)]
STEPS = 12


def ask(*jobs: dict[str, Any]) -> list[dict[str, Any]]:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT)], input=json.dumps([{"overlay": {}} | job for job in jobs]), capture_output=True,
        text=True, timeout=300, check=False, env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    answers: list[dict[str, Any]] = json.loads(ended.stdout)
    return answers


def ours(bundle: Path, ids: Sequence[int], steps: int, context: int | None = None) -> list[int]:
    with edgephi.load(bundle, threads=1, context=context) as session:
        return list(session.generate(list(ids), max_tokens=steps, temperature=0).token_ids)


def expected(model: Any, ids: Sequence[int], steps: int) -> list[int]:
    """transformers' greedy tokens, every step computed from the whole sequence."""
    import torch

    sequence = list(ids)
    with torch.no_grad():
        for _ in range(steps):
            logits = model(torch.tensor([sequence]), use_cache=False).logits[0, -1]
            sequence.append(int(logits.argmax()))
    return sequence[len(ids):]


def same(found: Sequence[int], wanted: Sequence[int]) -> bool:
    """Equal up to the end of an answer, where the one or the other stops."""
    length = min(len(found), len(wanted))
    return length > 0 and list(found[:length]) == list(wanted[:length])


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_every_shape_of_the_family_gives_our_tokens(tiny_bundle: Callable[..., Path], precision: str) -> None:
    """With int4 both run the same kernels on the same bytes, so that tokens are equal there too."""
    names = ["mini", "mini-untied", "phi4", "phi35", "window"]
    bundles = [tiny_bundle(name, precision=precision) for name in names]
    if precision == "int4":
        names.append("mini with a screened head")
        bundles.append(tiny_bundle("mini", precision="int4", preset="fast", vocab_size=2048))
    answers = ask(*({"bundle": str(bundle), "ids": PROMPT, "steps": STEPS} for bundle in bundles))
    for name, bundle, answer in zip(names, bundles, answers, strict=True):
        wanted = ours(bundle, PROMPT, STEPS)
        assert same(answer["tokens"], wanted) and abs(len(answer["tokens"]) - len(wanted)) <= 1, name
        assert answer["lengths"][0] == len(PROMPT) and set(answer["lengths"][1:]) <= {1}, name


@pytest.mark.parametrize(("name", "length"), [("mini", 4060), ("window", 2600)])
def test_long_prompts_give_the_tokens_of_transformers(
    tiny_bundle: Callable[..., Path], tiny_reference: Callable[..., Any], name: str, length: int
) -> None:
    """Up to the limit of the short table, and through a sliding window that hides the first positions."""
    ids = [(7919 * index) % 380 for index in range(length)]
    (answer,) = ask({"bundle": str(tiny_bundle(name)), "ids": ids, "steps": 6})
    assert same(answer["tokens"], expected(tiny_reference(name), ids, 6))


def test_beyond_the_short_table_the_overlay_gives_the_tokens_of_transformers(
    tiny_bundle: Callable[..., Path], tiny_reference: Callable[..., Any]
) -> None:
    bundle, ids = tiny_bundle("mini"), [(7919 * index) % 380 for index in range(4200)]
    overlay = long_overlay(read_manifest(bundle), 8192)
    assert overlay is not None
    (answer,) = ask({"bundle": str(bundle), "ids": ids, "steps": 6, "overlay": json.loads(overlay)})
    wanted = expected(tiny_reference("mini"), ids, 6)
    assert same(answer["tokens"], wanted) and same(ours(bundle, ids, 6), wanted)


def test_without_the_overlay_a_longer_context_is_refused(tiny_bundle: Callable[..., Path]) -> None:
    ids = [(7919 * index) % 380 for index in range(4095)]
    with pytest.raises(AssertionError, match="cannot be greater than model context_length"):
        ask({"bundle": str(tiny_bundle("mini")), "ids": ids, "steps": 6})


def test_no_prompt_is_computed_twice_at_4097(tiny_bundle: Callable[..., Path]) -> None:
    """A model of type `phi3` is prefilled again there whatever its rotary embedding; ours say they are none."""
    bundle, ids = str(tiny_bundle("phi4")), [(7919 * index) % 380 for index in range(4090)]
    plain, stalling = ask(
        {"bundle": bundle, "ids": ids, "steps": 12},
        {"bundle": bundle, "ids": ids, "steps": 12, "overlay": {"model": {"type": "phi3"}}},
    )
    assert plain["lengths"][0] == 4090 and len(plain["tokens"]) > 8 and set(plain["lengths"][1:]) == {1}
    assert 4097 in stalling["lengths"], "the profile shows the repetition where there is one"
    assert plain["tokens"] == stalling["tokens"]


def test_templates_and_tokenizers_agree(tiny_bundle: Callable[..., Path]) -> None:
    bundle = tiny_bundle("mini")
    (answer,) = ask({"bundle": str(bundle), "ids": PROMPT, "steps": 1})
    with edgephi.load(bundle, threads=1) as session:
        assert answer["ids"] == session.encode([{"role": "user", "content": "Hello 12345"}])


def test_the_configuration_says_what_is_right(tiny_bundle: Callable[..., Path]) -> None:
    long, plain = (read_manifest(tiny_bundle(name)) for name in ("mini", "phi4"))
    settings = json.loads(genai_config(long))
    assert settings["model"]["context_length"] == 4096 == settings["search"]["max_length"]
    assert settings["model"]["eos_token_id"] == list(long.tokens.eos) and settings["model"]["type"] == "llama"
    settings = json.loads(genai_config(plain))
    assert settings["model"]["context_length"] == 16384 and settings["search"]["max_length"] == 4096
    assert long_overlay(plain, 8192) is None
