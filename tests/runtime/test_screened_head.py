"""A session over a head that is screened at 4 bits: exact where a token could be said, usable everywhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi.export.pipeline import export
from edgephi.quantize import plan

VOCABULARY, WIDTH = 2048, 192
CANDIDATES = VOCABULARY // 32
IDS = [(7919 * index) % 380 for index in range(24)]


@pytest.fixture(scope="module")
def screened(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini", precision="int4", preset="fast", vocab_size=VOCABULARY)


def logits(bundle: Path, adapter: str | None = None) -> np.ndarray:
    with edgephi.load(bundle, threads=1) as session:
        found: np.ndarray = session.logits(IDS) if adapter is None else session.logits(IDS, adapter=adapter)
    return found


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_the_best_logits_are_those_of_an_int8_head(
    screened: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same body under both heads, so only rounding of the head tells them apart."""
    monkeypatch.setattr(plan, "SCREENING", ())
    export(tiny_checkpoint("mini", vocab_size=VOCABULARY), tmp_path / "int8", preset="fast", threads=1)
    found, expected = logits(screened), logits(tmp_path / "int8")
    assert np.isfinite(found).all()
    best = np.argsort(-expected, axis=-1)[:, :8]
    ours, theirs = (np.take_along_axis(each, best, axis=-1) for each in (found, expected))
    # the INT8 product rounds its activations to int8, 0.6 % a product; the candidates' product does not
    assert relative(ours, theirs) < 0.02
    assert (found.argmax(-1) == expected.argmax(-1)).all()
    # INT4 in blocks of 64 loses about a tenth of such weights; a logit that was left out would lose all of it
    assert 0.02 < relative(found, expected) < 0.2
    worst = np.argsort(expected, axis=-1)[:, :CANDIDATES]
    assert relative(*(np.take_along_axis(each, worst, axis=-1) for each in (found, expected))) < 0.2


def test_a_forced_token_that_is_no_candidate_is_said(screened: Path) -> None:
    pytest.importorskip("llguidance", reason="needs the extra 'schema'")
    with edgephi.load(screened, threads=1) as session:
        ranks = np.argsort(np.argsort(-session.logits(IDS)[-1]))
        text = "zq"
        assert all(ranks[token] > CANDIDATES for token in session.encode(text)[-1:])
        reply = session.generate(IDS, choice=[text], temperature=0, max_tokens=8)
        assert reply.text == text
        pieces = list(session.stream(IDS, choice=[text], temperature=0, max_tokens=8, logprobs=True))
        said = [piece.logprob for piece in pieces if piece.token_id is not None]
        assert said and all(logprob is not None and np.isfinite(logprob) for logprob in said)


def test_an_adapter_of_the_head_is_added_to_every_logit(screened: Path, tmp_path: Path) -> None:
    """What it adds lies in the span of its B, candidates or not."""
    import torch
    from safetensors.torch import save_file

    from edgephi.export.adapters import add_adapter

    bundle, folder = Path(shutil.copytree(screened, tmp_path / "bundle")), tmp_path / "adapter"
    folder.mkdir()
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(shape, generator=generator) for shape in ((4, WIDTH), (VOCABULARY, 4)))
    prefix = "base_model.model.lm_head.lora_"
    save_file({f"{prefix}A.weight": a, f"{prefix}B.weight": b}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": 4, "lora_alpha": 4, "bias": "none", "base_model_name_or_path": "org/mini",
    }))
    before = logits(bundle)
    add_adapter(bundle, folder, "head")
    assert np.array_equal(logits(bundle), before)
    added = logits(bundle, adapter="head") - before
    found, _, _, _ = np.linalg.lstsq(b.numpy(), added.T, rcond=None)
    assert np.linalg.norm(added) > np.linalg.norm(before)
    assert relative(b.numpy() @ found, added.T) < 1e-5
