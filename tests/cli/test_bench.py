"""`edgephi bench`: samples of every run, none of which is the one that warms up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Program = Callable[..., Any]
QUICK = ("-p", "20", "-n", "6", "-r", "3")


def test_json_holds_every_sample(bundle: Path, program: Program) -> None:
    done = program("bench", bundle, *QUICK, "--threads", "1", "--json")
    measured = json.loads(done.out)
    assert done.code == 0 and measured["prompt_tokens"] == 20 and measured["threads"] == 1
    assert len(measured["prefill_rates"]) == len(measured["first_token_seconds"]) == len(measured["answer_tokens"]) == 3
    assert all(1 <= tokens <= 6 for tokens in measured["answer_tokens"])
    assert all(rate > 0 for rate in measured["prefill_rates"] + measured["decode_rates"])
    assert measured["load_seconds"] > 0 and measured["peak_memory"] > 0


def test_the_summary_uses_the_usual_names(bundle: Path, program: Program) -> None:
    done = program("bench", bundle, *QUICK, "--compare")
    shown = done.out
    assert "edgephi.benchmarks peers" in done.err and "edgephi.benchmarks peers" not in shown
    assert re.search(r"^pp20 +[\d.]+ ± [\d.]+ tokens/s$", shown, re.MULTILINE)
    assert re.search(r"^tg6 +([\d.]+ ± [\d.]+|-) tokens/s$", shown, re.MULTILINE)
    assert re.search(r"^first token +[\d.]+ ± [\d.]+ s$", shown, re.MULTILINE)


def test_a_prompt_beyond_the_context_is_refused(bundle: Path, program: Program) -> None:
    done = program("bench", bundle, "-p", "20000")
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1
