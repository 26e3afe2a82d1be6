"""The benchmarks of drafting and of the prefix cache run, count truly, and write what they show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from edgephi.benchmarks import prefixes, speculation


def test_scripts_are_what_they_are_called(tiny_bundle: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bundle("mini") / "tokenizer.json"))
    made = speculation.scripts(tokenizer, 448, 300)
    assert made == speculation.scripts(tokenizer, 448, 300)
    for prompt, script in made.values():
        assert prompt and len(script) == 300 and all(0 <= token < 448 for token in [*prompt, *script])
    prompt, script = made["editing"]
    changed = sum(one != other for one, other in zip(prompt, script, strict=True))
    assert 2 <= changed <= 30
    assert made["prose"][1] != made["editing"][1]


def test_speculation_is_measured_on_scripts(tiny_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle, seen = tiny_bundle("mini"), list[str]()
    measured = speculation.measure_scripted(
        bundle, bundle / "tokenizer.json", 60, 1, 1, processor_time=True, progress=seen.append
    )
    gains = {gain.kind: gain for gain in measured.gains}
    assert seen == list(gains)
    assert gains["code repair"].steps > 1.5 and gains["code repair"].share > 0.5
    assert all(gain.speed > 0 and gain.tokens == 60 for gain in gains.values())
    assert len(measured.rows) == 9 and measured.rows[0] == 1
    speculation.write([measured], tmp_path)
    assert json.loads((tmp_path / "speculation.json").read_text(encoding="utf-8"))[0]["clock"] == "processor time"
    assert "| code repair | 60 |" in (tmp_path / "speculation.md").read_text(encoding="utf-8")


def test_the_prefix_cache_is_measured(tiny_bundle: Callable[..., Path], tmp_path: Path) -> None:
    for bundle in (tiny_bundle("mini"), tiny_bundle("mini", precision="int8")):
        measured = prefixes.measure(bundle, 200, 1, image=False, processor_time=True, idle_seconds=0.1)
        (one,) = measured.repeated
        assert (one.prompt_tokens, one.cached_tokens) == (220, 192)
        assert one.disk_bytes > 3 * 64 * 2 * 2 * 64 * 4 and measured.idle < 1
        prefixes.write(measured, tmp_path)
    table = (tmp_path / "prefix_cache.md").read_text(encoding="utf-8")
    assert "`mini-fp32`" in table and "`mini-int8`" in table and "200 tokens | 220 | 192" in table
