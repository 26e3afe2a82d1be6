"""The analysis of made-up records: parts, bounds and differences that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgephi.benchmarks import analysis
from edgephi.runtime.errors import RequestError

LIMITS = {"read_bytes": 50e9, "int8_operations": 1e12}


def group(name: str, kind: str, seconds: float, streamed: int = 0, operations: int = 0) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "nodes": 1, "seconds": seconds, "streamed": streamed, "operations": operations,
    }


def profile(rows: int, past: int) -> dict[str, Any]:
    """Products at their limit of reading, or with many rows at twice that of the int8 instructions; a slow head."""
    many = rows > 1
    groups = [
        group("model.layers.*.mlp.down_proj.matmul", "MatMulNBits", 0.1, 10**9, 5 * 10**10 if many else 10**9),
        group("model.layers.*.self_attn.qkv_proj.matmul", "MatMulNBits", 0.02, 10**9),
        group("model.embed_tokens.matmul", "MatMulNBits", 0.02, 5 * 10**8),
        group("model.embed_tokens.largest", "TopK", 0.001),
        group("model.layers.*.self_attn.attention", "GroupQueryAttention", 0.01, 10**8, 10**9),
        group("model.embed_tokens.gather", "GatherBlockQuantized", 0.0005),
        group("model.norm", "SkipSimplifiedLayerNormalization", 0.0015),
    ]
    return {
        "case": {"rows": rows, "past": past}, "limits": LIMITS, "seconds": 0.16, "median": 0.17, "groups": groups,
    }


RECORD: dict[str, Any] = {
    "bundle": "made-up", "threads": 2, "date": "2026-01-01", "profiles": [profile(1, 512), profile(512, 0)],
    "overhead": {"prompt": 512, "token": 0.1, "outside": 0.0005},
}


def run(contender: str, prompt: float, *tokens: float) -> dict[str, Any]:
    return {"contender": contender, "answers": [{"length": 512, "first": prompt, "steps": list(tokens)}]}


PEERS: dict[str, Any] = {"date": "2026-01-02", "runs": [
    run("ours:fast", 5.0, 0.06, 0.05, 0.05), run("ours:fast", 5.2, 0.05), run("other:best", 4.0, 0.045),
    run("cut", 9.0),
]}


def test_parts_and_their_bounds() -> None:
    decode, prefill = analysis.steps(RECORD)
    parts = {part.name: part for part in decode.parts}
    assert [*parts] == list(analysis.PARTS)
    assert sum(part.seconds for part in decode.parts) == pytest.approx(decode.seconds)
    assert parts["head"].seconds == pytest.approx(0.021)
    assert parts["head"].bound == pytest.approx(0.01)
    assert parts["layers' products"].bound == pytest.approx(0.04)
    assert parts["attention"].bound == pytest.approx(0.002)
    assert parts["norms and the rest"].seconds == pytest.approx(0.002)
    assert parts["between nodes"].seconds == pytest.approx(0.16 - 0.153)
    # many rows: 5e10 operations at 1e12 a second take longer than 2 GB at 50 GB/s
    assert prefill.parts[0].bound == pytest.approx(0.05)


def test_speeds_are_medians_of_medians() -> None:
    found = analysis.speeds(PEERS)
    assert found["ours:fast"] == {("prefill", "512"): pytest.approx(5.1), ("decode", "512"): pytest.approx(0.05)}
    assert found["cut"] == {("prefill", "512"): 9.0}


def test_the_page_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "fast.json").write_text(json.dumps(RECORD))
    with pytest.raises(RequestError, match="run `profile` and `peers` first"):
        analysis.write(tmp_path, ["fast"], "peers")
    (tmp_path / "peers.json").write_text(json.dumps(PEERS))
    text = analysis.write(tmp_path, ["fast"], "peers")
    assert (tmp_path / "analysis.md").read_text() == text
    assert "| `other:best` | 4000.0 (-1100.0) | 45.0 (-5.0) |" in text
    assert "| `cut` | 9000.0 (+3900.0) | – |" in text
    assert "0.50 ms of 100.0 ms a token (0.5%)" in text
