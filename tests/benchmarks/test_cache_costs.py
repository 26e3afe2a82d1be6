"""The measurements around the cache: what an INT8 cache changes, and the token at which a rotary table changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.benchmarks import cache_error, deepened, switch_cost
from edgephi.benchmarks.cache_error import CacheError
from edgephi.benchmarks.switch_cost import Switch
from edgephi.demo import architecture
from edgephi.export.pipeline import export
from edgephi.runtime import int8_cache
from edgephi.runtime.errors import RequestError

ERROR = CacheError("token by token", 100, 0.0001, 0.00001, 0.02, 0.995, 4096, 1024)
SWITCH = Switch(None, 4090, 40.0, 0.08, 41.0, 0.09, 4096)


def test_the_error_of_a_real_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_cache, "cached", lambda name: tmp_path / name)
    deepened.write(tmp_path / "text", architecture.DEMO.layers)
    export(tmp_path / "text", tmp_path / "bundle", threads=1)
    in_use, worst = cache_error.measure(tmp_path / "bundle", 1, 1)
    assert in_use.positions > 12 and worst.positions > in_use.positions
    for error in (in_use, worst):
        assert 0 < error.mean < error.maximum and 0.9 < error.agreement <= 1
        assert error.int8_bytes * 4 == error.float_bytes


def test_their_files(tmp_path: Path) -> None:
    cache_error.write([ERROR], tmp_path)
    text = (tmp_path / "cache_error.md").read_text()
    assert "| token by token | 100 | 0.0001 ± 1e-05 | 0.02 | 99.50% |" in text and "1024 bytes instead of 4096" in text
    switch_cost.write("made-up", 2, [SWITCH], tmp_path)
    text = (tmp_path / "switch_cost.md").read_text()
    assert "| all lengths | 4090 | 40.0 s | 80 ms | 41000 ms (1.02 of reading the prompt) | 90 ms | 4096 |" in text
    assert json.loads((tmp_path / "switch_cost.json").read_text())["switches"][0]["recomputed"] == 4096


def test_a_model_with_one_table_has_nothing_to_change(tiny_bundle: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match="one rotary table for all lengths"):
        switch_cost.measure(tiny_bundle("phi4"), 1)
