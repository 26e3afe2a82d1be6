"""The profile of a step: all nodes are found, and what they stream and compute follows from formats and shapes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.benchmarks import loop_overhead
from edgephi.benchmarks.node_profile import Case, measure, table
from edgephi.runtime.errors import RequestError
from edgephi.runtime.manifest import read_manifest


@pytest.mark.parametrize("text", ["512", "0@1", "1@", "@1", "1@x"])
def test_cases_that_mean_nothing(text: str) -> None:
    with pytest.raises(RequestError, match="ROWS@PAST"):
        Case.parse(text)


@pytest.mark.skipif(shutil.which("cc") is None, reason="limits are measured by a C program, and there is no compiler")
def test_every_node_of_a_step(tiny_bundle: Callable[..., Path]) -> None:
    bundle = tiny_bundle("mini", precision="int4")
    text = read_manifest(bundle).text
    decode, prefill = measure(bundle, [Case.parse("1@8"), Case.parse("16@0")], 1)
    for profile in (decode, prefill):
        assert 0 < sum(group.seconds for group in profile.groups) < profile.seconds <= profile.median
        groups = {group.name: group for group in profile.groups}
        rows, total = profile.case.rows, profile.case.rows + profile.case.past
        attention = groups["model.layers.*.self_attn.attention"]
        assert attention.nodes == text.layers
        assert attention.streamed == text.layers * 2 * text.kv_heads * text.head_dim * 4 * total
        # 192 → 192 in blocks of 64: 4 bits, and 64 / 64 for a scale and a sum of each block
        projection = groups["model.layers.*.self_attn.o_proj.matmul"]
        assert projection.streamed == text.layers * 192 * 192 * 5 // 8
        assert projection.operations == text.layers * 2 * 192 * 192 * rows
        # the head computes one row only, whatever the step
        head = groups["model.embed_tokens.matmul"]
        assert (head.nodes, head.operations) == (1, 2 * 192 * text.vocab_size)
    overhead = loop_overhead.measure(bundle, 1, 20, tokens=12)
    assert 0 < overhead.outside < overhead.token
    shown = table("tiny", 1, [decode, prefill], overhead)
    assert "## decode at 8" in shown and "## prefill of 16 at 0" in shown
